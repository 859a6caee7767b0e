"""How pairs of heads compose, read off their weights."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inductionlens.heads import Head
from inductionlens.models import Model
from inductionlens.models.circuits import ov_circuit, ov_obstacle, qk_circuit, qk_obstacle
from inductionlens.models.vocabulary import named_ids
from inductionlens.probes import generator_from
from inductionlens.scores import circuits

VIA = ("q", "k", "v")
#: Tokens whose rows of the OV circuit are looked at, where the vocabulary is larger.
ROWS = 512
Pairs = Float[np.ndarray, "layer head layer head"]


class Composition(NamedTuple):
    """Composition of all pairs, writer first; NaN unless the writer's layer is the lower one, or where undefined."""

    raw: dict[str, Pairs]
    """``q``, ``k``, ``v``: the Frobenius ratio, 0..1."""
    baseline: circuits.Baseline
    """What random matrices of the same shapes score; to be subtracted."""


def measure_composition(model: Model, *, distance: int | None = None, seed: int = 0) -> Composition:
    """Q-, K- and V-composition of every writer with every later reader, from the weights alone.

    Kinds that the model has no matrix for (see `qk_obstacle`, `ov_obstacle`) are NaN throughout; rotary models have Q
    and K at a ``distance`` alone. Memory: what all writers write, and one product of two layers.
    """
    cfg = model.cfg
    shape = (cfg.n_layers, cfg.n_heads)
    raw = {via: np.full(shape * 2, np.nan) for via in VIA}
    baseline = circuits.random_composition(cfg.d_model, cfg.d_head, seed=seed)
    if ov_obstacle(model) is not None:
        return Composition(raw, baseline)
    written: list[Float[Tensor, "head d_head d_model"]] = []
    for layer in range(cfg.n_layers):
        for via, right in _read(model, layer, distance) if written else ():
            for earlier, left in enumerate(written):
                raw[via][earlier, :, layer] = circuits.composition(left, right).double().cpu().numpy()
        written.append(circuits.small_left(*ov_circuit(model, layer).pair))
    return Composition(raw, baseline)


def _read(model: Model, layer: int, distance: int | None) -> Iterator[tuple[str, Float[Tensor, "head d_head d_model"]]]:
    """What each head of a layer reads by query, key and value, as `circuits.composition` wants it."""
    w_v, w_o = ov_circuit(model, layer).pair
    yield "v", circuits.small_left(w_o.transpose(-2, -1), w_v.transpose(-2, -1))
    if has_qk(model, distance):
        w_q, w_k = qk_circuit(model, layer, distance).pair
        yield "q", circuits.small_left(w_k.transpose(-2, -1), w_q.transpose(-2, -1))
        yield "k", circuits.small_left(w_q, w_k)


def has_qk(model: Model, distance: int | None) -> bool:
    """Whether queries and keys are compared by one matrix: always, at the distance given, or not at all."""
    return qk_obstacle(model, distance) is None


class KTerm(NamedTuple):
    """The term of the QK circuit that compares a query's token with the token before the key, per head."""

    trace: Float[np.ndarray, "layer head"]
    """Unbounded, positive matches like with like; NaN in layer 0. Olsson et al. 2022."""
    eigen: Float[np.ndarray, "layer head"]
    """The same as `circuits.eigenvalue_score`, -1..1."""


def measure_k_term(model: Model, previous: Float[np.ndarray, "layer head"], *, distance: int | None = None) -> KTerm:
    """``qk_eigen_trace``: the trace of W_E W_Q W_K^T (sum of p_e W_V W_O of all earlier heads e)^T W_E^T.

    ``previous`` holds p_e, each head's attention to the previous token. Through products of d_head by d_head. Compare
    within one model: the scale depends on the weights. NaN where the model has no such circuit.
    """
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    trace, eigen = np.full(shape, np.nan), np.full(shape, np.nan)
    if not has_qk(model, distance) or ov_obstacle(model) is not None:
        return KTerm(trace, eigen)
    w_e = model.W_E.detach().float()
    gram = w_e.T @ w_e
    carried = torch.zeros_like(gram)
    for layer in range(shape[0]):
        if layer:
            w_q, w_k = qk_circuit(model, layer, distance).pair
            small = (w_k @ carried.T).double() @ (gram @ w_q).double()
            values = torch.linalg.eigvals(small).cpu()
            trace[layer] = small.diagonal(dim1=-2, dim2=-1).sum(-1).cpu().numpy()
            eigen[layer] = circuits.eigenvalue_score(values).numpy()
        w_v, w_o = ov_circuit(model, layer).pair
        weights = torch.tensor(previous[layer], dtype=w_v.dtype, device=w_v.device)
        carried = carried + torch.einsum("hde,hem->dm", w_v * weights[:, None, None], w_o)
    return KTerm(trace, eigen)


class Term(NamedTuple):
    """One term of the expansion of a reader's QK circuit, vocabulary by vocabulary."""

    query_writer: Head | None
    """The head through which the query's token is read; None for the embedding itself."""
    key_writer: Head | None
    """The head through which the key's token is read; None for the embedding itself."""
    eigen: float
    """`circuits.eigenvalue_score`, -1..1: whether tokens match themselves."""
    trace: float
    """Sum of eigenvalues, unbounded."""
    size: float
    """Frobenius norm of the d_model by d_model matrix between the two embeddings."""


def qk_terms(model: Model, reader: Head, *, both: bool = True, distance: int | None = None) -> list[Term]:
    """The terms of W_E W_QK W_E^T of ``reader`` when its query and key read each earlier head's output.

    Id x Id, then Q-composition, K-composition, and with ``both`` every pair of one for the query and one for the key.
    Elhage et al. 2021; with a previous-token head at the key and nothing at the query it is an induction circuit. Paths
    through more than one earlier head on a side are left out.

    Raises:
        InputError: the model has no QK circuit of one matrix.
    """
    w_e = model.W_E.detach().float()
    gram = (w_e.T @ w_e).double()
    w_q, w_k = (part[reader.index].double() for part in qk_circuit(model, reader.layer, distance).pair)
    queries: dict[Head | None, Tensor] = {None: w_q}
    keys: dict[Head | None, Tensor] = {None: w_k.T}
    for layer in range(reader.layer):
        w_v, w_o = ov_circuit(model, layer).pair
        for index in range(model.cfg.n_heads):
            v, o = w_v[index].double(), w_o[index].double()
            queries[Head(layer, index)], keys[Head(layer, index)] = v @ (o @ w_q), v @ (o @ w_k.T)
    pairs = [(None, None), *((head, None) for head in queries if head), *((None, head) for head in keys if head)]
    if both:
        pairs += [(query, key) for query in queries for key in keys if query and key]
    found = []
    for query, key in pairs:
        small = keys[key].T @ gram @ queries[query]
        score = circuits.eigenvalue_score(torch.linalg.eigvals(small))
        size = (torch.linalg.qr(queries[query], mode="r").R @ torch.linalg.qr(keys[key], mode="r").R.T).norm()
        found.append(Term(query, key, float(score), float(small.trace()), float(size)))
    return found


def virtual_heads(model: Model, reader: Head) -> dict[Head, float]:
    """`circuits.eigenvalue_score` of W_E OV_writer OV_reader W_U for every earlier writer: does the pair copy as one?

    A virtual head is V-composition: attention of one head moves what the other has moved. Elhage et al. 2021. NaN where
    the model has no OV circuits, or inputs and outputs of other sizes.
    """
    writers = [Head(layer, index) for layer in range(reader.layer) for index in range(model.cfg.n_heads)]
    w_e, w_u = model.W_E.detach(), model.W_U.detach()
    if ov_obstacle(model) is not None or w_e.shape[0] != w_u.shape[1]:
        return dict.fromkeys(writers, float("nan"))
    through = (w_u.float() @ w_e.float()).double()
    v2, o2 = (part[reader.index].double() for part in ov_circuit(model, reader.layer).pair)
    found = {}
    for layer in range(reader.layer):
        w_v, w_o = (part.double() for part in ov_circuit(model, layer).pair)
        small = (o2 @ through @ w_v) @ (w_o @ v2)
        scores = circuits.eigenvalue_score(torch.linalg.eigvals(small)).tolist()
        found |= {Head(layer, index): score for index, score in enumerate(scores)}
    return found


def own_token_shares(
    model: Model, top: Sequence[int] = (1, 5), *, layers: Sequence[int] | None = None, rows: int = ROWS, seed: int = 0
) -> dict[int, Float[np.ndarray, "layer head"]]:
    """In [0, 1]: of how many tokens does the OV circuit W_E W_V W_O W_U raise the token itself among the ``top`` most?

    Over all of the tokenizer's tokens, or over ``rows`` of them drawn by ``seed`` where it has more; each against all,
    some rows at a time; tokens that raise nothing are left out. Elhage et al. 2021 name it as a check on
    positive eigenvalues. NaN where the model has no OV circuits, or inputs and outputs of other sizes, and in layers
    that are not among ``layers``.
    """
    cfg = model.cfg
    found = {count: np.full((cfg.n_layers, cfg.n_heads), np.nan) for count in top}
    w_e, w_u = model.W_E.detach().float(), model.W_U.detach().float()
    if ov_obstacle(model) is not None or w_e.shape[0] != w_u.shape[1]:
        return found
    own_ids = named_ids(model).to(w_e.device)
    w_e, w_u, vocabulary = w_e[own_ids], w_u[:, own_ids], len(own_ids)
    picked = torch.arange(vocabulary)
    if vocabulary > rows:
        picked = torch.randperm(vocabulary, generator=generator_from(seed, "own token"))[:rows].sort().values
    step = max(1, 2**24 // vocabulary)
    for layer in range(cfg.n_layers) if layers is None else layers:
        w_v, w_o = ov_circuit(model, layer).pair
        for index in range(cfg.n_heads):
            right = w_o[index] @ w_u
            above = []
            for part in picked.to(w_e.device).split(step):
                logits = w_e[part] @ w_v[index] @ right
                own = logits.gather(1, part[:, None])
                raised = logits.amax(1) > logits.amin(1)
                above.append((logits > own).sum(1)[raised])
            rank = torch.cat(above)
            for count in top:
                found[count][layer, index] = float((rank < count).double().mean())  # NaN of nothing
    return found
