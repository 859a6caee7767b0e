"""How a model's per-token losses move through training."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from inductionlens.errors import InputError

#: Snapshots or tokens up to which every component is computed; beyond, only the two asked for.
FULL = 500


class Trajectories(NamedTuple):
    """Where snapshots lie in the plane in which their losses differ most."""

    scores: Float[Tensor, "snapshot 2"]
    """Place of each snapshot on the two components, in nats over the whole loss vector; columns have mean 0."""
    loadings: Float[Tensor, "2 token"]
    """The components: orthogonal vectors of length 1, whose entry of largest magnitude is positive."""
    explained: Float[Tensor, " 2"]
    """Share of the variance over snapshots that each component holds, 0 to 1, falling."""


def loss_trajectories(losses: Float[Tensor, "snapshot token"]) -> Trajectories:
    """The first two principal components of per-token losses. Olsson et al. 2022, per-token-loss PCA.

    ``losses`` stacks the snapshots of all models of a series, each with the losses (nats) of the same tokens, so that
    their trajectories share one plane: cut ``scores`` at the models' borders to draw one line per model. The mean over
    snapshots is subtracted, which the paper does not state. A component without variance has any direction.

    Raises:
        InputError: fewer than 2 snapshots or tokens, a loss that is not finite, or snapshots that are all equal.
    """
    from sklearn.decomposition import PCA

    if min(losses.shape) < 2:
        raise InputError(f"losses must hold at least 2 snapshots of 2 tokens; got {list(losses.shape)}.")
    _check_finite("losses", losses)
    values = losses.detach().double().cpu().numpy()
    if (values == values[0]).all():
        raise InputError(f"losses must differ between snapshots; all {len(values)} are equal.")
    # Never the randomised solver: it approximates. From a fixed start, Lanczos gives the same bits every time.
    solver = "full" if min(values.shape) <= FULL else "arpack"
    found = PCA(n_components=2, svd_solver=solver, random_state=0).fit(values)
    # Copies, because Lanczos hands back rows in reverse, which torch cannot take.
    arrays = found.transform(values), found.components_, found.explained_variance_ratio_
    scores, loadings, explained = (torch.from_numpy(array.copy()) for array in arrays)
    # Said here and not left to scikit-learn, whose rule is not in its documentation.
    sign = largest_sign(loadings)
    return Trajectories(scores * sign, loadings * sign[:, None], explained)


def largest_sign(loadings: Float[Tensor, "component token"]) -> Float[Tensor, " component"]:
    """Sign of each component's entry of largest magnitude, the first of equals: 1 or -1."""
    return loadings.gather(1, loadings.abs().argmax(1, keepdim=True)).sign()[:, 0]


def before_and_after(start: Float[Tensor, " token"], end: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """The direction in which a phase change moves the losses: end minus start, at length 1. Olsson et al. 2022.

    ``start`` and ``end`` are losses (nats) of the same tokens at the snapshots where the change starts and ends.

    Raises:
        InputError: a loss that is not finite, or no difference.
    """
    _check_finite("start", start)
    _check_finite("end", end)
    change = end.double() - start.double()
    if not change.any():
        raise InputError(f"start and end must differ; all {len(change)} losses are equal.")
    return change / change.norm()


def before_and_after_score(
    direction: Float[Tensor, " token"], clean: Float[Tensor, " token"], ablated: Float[Tensor, "*head token"]
) -> Float[Tensor, "*head"]:
    """Unbounded, nats, *negative for induction heads*: direction . (ablated - clean), which undoes the change.

    ``direction`` is that of `before_and_after`; ``clean`` and ``ablated`` are losses of the same tokens, the latter
    without the head. 0 is a head that has nothing to do with the change. Our direction and ablated - clean are the b
    and c_h of Olsson et al. 2022, of which one figure's caption says "largest positive": their text and this say less.

    Raises:
        InputError: ``direction`` has not length 1, or a loss is not finite.
    """
    if not torch.isclose(norm := direction.double().norm(), torch.ones((), dtype=torch.float64), atol=1e-5):
        raise InputError(f"direction must have length 1, as before_and_after gives it; got {norm:.6g}.")
    _check_finite("clean", clean)
    _check_finite("ablated", ablated)
    return (ablated.double() - clean.double()) @ direction.double()


def _check_finite(name: str, losses: Tensor) -> None:
    if len(bad := (~torch.isfinite(losses)).nonzero()):
        place = bad[0].tolist()
        raise InputError(f"{name} must be finite; got {losses[tuple(place)]} at {place}.")
