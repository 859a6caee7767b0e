"""What a model's losses say."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inductionlens.errors import InputError

#: Log-spaced edges between index 1 and the last one, so at most 19 bins.
EDGES = 20


def token_losses(
    logits: Float[Tensor, "batch pos vocabulary"], following: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Cross-entropy in nats of each position's logits against the token that follows it, in float32."""
    # Flat, because a vocabulary that is not the last axis costs a copy of the logits.
    flat = logits.float().flatten(0, 1)
    return torch.nn.functional.cross_entropy(flat, following.flatten(), reduction="none").view(following.shape)


def copy_positions(
    pos: int, *, start: int, period: int
) -> tuple[Bool[Tensor, " following"], Bool[Tensor, " following"]]:
    """Which predicted tokens, positions 1 .. pos-1, count as first copy and as later copies of a repeated block.

    First copy: the tokens of repeat 1. Later copies: the tokens of later repeats except each block's first, which
    follows a block's end and cannot be told from the copy alone. ``start`` is the block's first position.
    """
    place = torch.arange(1, pos) - start
    return (place >= 0) & (place < period), (place > period) & (place % period != 0)


def check_pair(late: int, early: int, indices: int) -> None:
    """Refuse a pair of indices that does not fit into a loss array of ``indices`` entries.

    Raises:
        InputError: not 0 <= early < late <= indices - 1.
    """
    if not 0 <= early < late <= indices - 1:
        raise InputError(
            f"late and early must satisfy 0 <= early < late <= {indices - 1}, the last index of {indices} losses; "
            f"got late={late} and early={early}."
        )


def icl_score(losses: Float[Tensor, "batch index"], late: int = 500, early: int = 50) -> Float[Tensor, " batch"]:
    """Unbounded, nats, *negative is more* in-context learning: loss[late] - loss[early], which falls as a model learns.

    ``losses[b, i]`` is -log p(t_{i+1} | t_0 .. t_i), BOS counted, and both indices count from 0. The mean over the
    batch is the score of Olsson et al. 2022, which once prints it the other way round, as 50th minus 500th.

    Raises:
        InputError: the pair does not fit.
    """
    check_pair(late, early, losses.shape[1])
    return losses[:, late] - losses[:, early]


class LossDerivative(NamedTuple):
    """How loss changes with the logarithm of its index, bin by bin."""

    first: Int[Tensor, " bin"]
    """First index of each bin; index 0 is in none."""
    last: Int[Tensor, " bin"]
    """Last index of each bin, itself in the bin."""
    slope: Float[Tensor, "batch bin"]
    """Least-squares slope of loss on ln(index), nats per e-fold of context; NaN where there is one index alone."""


def loss_derivative(losses: Float[Tensor, "batch index"], edges: int = EDGES) -> LossDerivative:
    """Unbounded, nats per e-fold, below 0 where more context still helps: d loss / d ln(index) of Olsson et al. 2022.

    Indices 1 .. n-1 are cut at ``edges`` log-spaced edges, rounded and without repeats. A bin holds its left edge and
    not its right one; the last bin holds both. A bin of one index joins the bin to its right, the last the one to its
    left. A slope is linear in the losses: the mean of the rows' slopes is the slope of the rows' mean.

    Raises:
        InputError: fewer than 2 edges.
    """
    if edges < 2:
        raise InputError(f"edges must be at least 2, the ends of one bin; got {edges}.")
    bins = _log_bins(losses.shape[1] - 1, edges)
    first, last = torch.tensor(bins, dtype=torch.long).view(-1, 2).unbind(1)
    slope = torch.empty(len(losses), len(bins), dtype=torch.float64)
    for column, (start, end) in enumerate(bins):
        x = torch.arange(start, end + 1, dtype=torch.float64, device=losses.device).log()
        x -= x.mean()
        slope[:, column] = (losses[:, start : end + 1].double() @ x) / (x @ x)
    return LossDerivative(first, last, slope)


def _log_bins(last: int, edges: int) -> list[tuple[int, int]]:
    """First and last index of each bin of the indices 1 .. ``last``."""
    if last < 1:
        return []
    ends = sorted({round(last ** (step / (edges - 1))) for step in range(edges)})
    starts = ends[:-1] or [1]  # the last edge closes a bin and opens none
    bins: list[tuple[int, int]] = []
    waiting = None
    for start, end in zip(starts, [*(after - 1 for after in starts[1:]), last], strict=True):
        waiting = start if waiting is None else waiting
        if end > waiting:
            bins.append((waiting, end))
            waiting = None
    if waiting is not None:
        bins = [*bins[:-1], (bins[-1][0] if bins else waiting, last)]
    return bins


def log_slope(tokens: Float[Tensor, " snapshot"], losses: Float[Tensor, " snapshot"]) -> Float[Tensor, " snapshot"]:
    """Unbounded, nats per e-fold, negative while the loss falls: d loss / d ln(tokens) at every snapshot of a run.

    Second-order differences between the neighbours on the logarithmic axis, one-sided at the ends; exact for
    a - b ln(tokens), which gives -b. Olsson et al. 2022 draw it for training loss; their smoothing is not stated, and
    losses of the same windows at every snapshot, as here, need none.

    Raises:
        InputError: fewer than 2 snapshots, or tokens that are not above 0 and rising.
    """
    if len(tokens) < 2 or tokens[0] <= 0 or (tokens.diff() <= 0).any():
        raise InputError(f"tokens must be at least 2 numbers above 0, rising; got {tokens.tolist()}.")
    return torch.gradient(losses.double(), spacing=(tokens.double().log(),))[0]
