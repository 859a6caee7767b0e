"""QK and OV circuits, or the reason there is none."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.activations import as_for_inference, attention_layers
from inductionlens.models.lens import lens
from inductionlens.models.weights import output_weights
from inductionlens.models.writing import writing_of

if TYPE_CHECKING:
    from transformer_lens import FactoredMatrix


class Obstacle(StrEnum):
    """Why a model has no circuit of one matrix: which it is, and the words for it."""

    NORM_AFTER = "a norm follows each attention layer, so what a head writes depends on what the others write"
    UNKNOWN = "what a layer does with its heads' outputs before it adds them is not known for this class"
    SMEARED = "keys are smeared over two positions"
    NORMED = "queries and keys are normed before they are compared"
    ROTARY = "positions are rotary, so that queries and keys are compared in another way at every distance"


def ov_obstacle(model: Model) -> Obstacle | None:
    """Why what a head writes is no fixed linear map of what it reads, or None if it is one."""
    writing = writing_of(model)
    if any(layer.gain is not None for layer in writing):
        return Obstacle.NORM_AFTER
    return None if all(layer.known for layer in writing) else Obstacle.UNKNOWN


def qk_obstacle(model: Model, distance: int | None = None) -> Obstacle | None:
    """Why this model compares queries and keys by no fixed matrix, or None if it has one.

    A rotary model has one at every ``distance``, but none for all of them.
    """
    from inductionlens.models.smeared_keys import is_smeared

    if is_smeared(model):
        return Obstacle.SMEARED
    # The config of a bridge may deny it: its modules are asked too (Qwen 3, OLMo 2, Gemma 3).
    if getattr(model.cfg, "use_qk_norm", False) or any(
        getattr(model.blocks[layer].attn, "q_norm", None) is not None for layer in attention_layers(model)
    ):
        return Obstacle.NORMED
    rotary = model.cfg.positional_embedding_type == "rotary"
    return Obstacle.ROTARY if rotary and distance is None else None


def ov_circuit(model: Model, layer: int) -> "FactoredMatrix":
    """W_V W_O of each head of a layer, [head, d_model, d_model] in factors, float32.

    Row vectors: x @ OV is what attending to x writes. Norms are folded into W_V on entry, value biases into b_O; under
    grouped-query attention each query head has the values of its group. Elhage et al. 2021.

    Raises:
        InputError: the model has no such map; the message says why.
    """
    _refuse(ov_obstacle(model), "OV circuits")
    w_v, w_o = _weights(model, layer, "W_V"), output_weights(model, layer).float()
    return lens().FactoredMatrix(w_v, w_o)


def qk_circuit(model: Model, layer: int, distance: int | None = None) -> "FactoredMatrix":
    """W_Q W_K^T of each head of a layer, [head, d_model, d_model] in factors, float32, without 1/sqrt(d_head).

    Row vectors: x QK y^T is how much a query at x wants a key at y, biases left out. In a rotary model ``distance``,
    how many tokens the key lies back, is part of the question; at 0 nothing is turned. Elhage et al. 2021.

    Raises:
        InputError: the model has no such matrix, or none without a distance; the message says why.
    """
    _refuse(qk_obstacle(model, distance), "QK circuits")
    w_q, w_k = (_weights(model, layer, name) for name in ("W_Q", "W_K"))
    if distance and qk_obstacle(model) is Obstacle.ROTARY:
        w_q = w_q @ _rotation(model, layer, distance)
    return lens().FactoredMatrix(w_q, w_k.transpose(-2, -1))


def ov_eigenvalues(model: Model, layers: Sequence[int] | None = None) -> Complex[Tensor, "layer head d_head"]:
    """Eigenvalues of each head's OV circuit W_E W_V W_O W_U, of some layers or all, in float64 on the CPU.

    The circuit is vocabulary by vocabulary, but its non-zero eigenvalues are those of the d_head by d_head matrix
    W_O (W_U W_E) W_V, which is what TransformerLens's FactoredMatrix takes them from.

    A model with as many inputs as outputs is needed, and an OV circuit that is a fixed map; NaN otherwise.

    Raises:
        InputError: weights so large that their products overflow.
    """
    w_e, w_u = model.W_E.detach(), model.W_U.detach()
    cfg = model.cfg
    layers = range(cfg.n_layers) if layers is None else layers
    if w_e.shape[0] != w_u.shape[1] or ov_obstacle(model) is not None:
        return torch.full((len(layers), cfg.n_heads, cfg.d_head), torch.nan, dtype=torch.complex128)
    through = (w_u.float() @ w_e.float()).double().cpu()
    if not torch.isfinite(through).all():
        raise InputError("The weights of this model are so large that W_U W_E overflows; no score can be read off.")
    rows, attending = [], attention_layers(model)
    for layer in layers:
        if layer not in attending:
            rows.append(torch.full((cfg.n_heads, cfg.d_head), torch.nan, dtype=torch.complex128))
            continue
        w_v, w_o = (weights.double().cpu() for weights in ov_circuit(model, layer).pair)
        rows.append(lens().FactoredMatrix(w_v, w_o @ through).eigenvalues)
    return torch.stack(rows)


def _refuse(reason: Obstacle | None, what: str) -> None:
    if reason is not None:
        way_out = "; give a distance" if reason is Obstacle.ROTARY else ""
        raise InputError(f"This model has no {what} of one matrix: {reason}{way_out}.")


def _weights(model: Model, layer: int, name: str) -> Float[Tensor, "head left right"]:
    weights = getattr(model.blocks[layer].attn, name).detach().float()
    # Grouped-query attention: HookedTransformer has W_K and W_V for every query head, a TransformerBridge per group.
    return weights.repeat_interleave(model.cfg.n_heads // len(weights), dim=0)


def _rotation(model: Model, layer: int, distance: int) -> Float[Tensor, "d_head d_head"]:
    """How a layer turns a query against a key ``distance`` tokens back: row i is what unit vector i is compared by.

    Read off the model itself, whatever its rotary scaling, base or order of dimensions: queries and keys are made unit
    vectors, and attention gives their products: the log of what a key gets over what an empty key gets.
    """
    cfg = model.cfg
    if not 0 <= distance <= cfg.n_ctx - 2:
        raise InputError(f"distance must lie between 0 and {cfg.n_ctx - 2}, inside the context; got {distance}.")
    size, room = cfg.d_head, cfg.n_ctx - 1 - distance
    starts = range(0, size, room)
    found = torch.cat([_products(model, layer, distance, range(at, min(at + room, size))) for at in starts], dim=1)
    alone = torch.cat([_products(model, layer, 0, range(at, min(at + room, size))) for at in starts], dim=1)
    return found / alone.diagonal().mean()  # at distance 0 nothing is turned, and the scale of attention is left


def _products(model: Model, layer: int, distance: int, keys: range) -> Float[Tensor, "d_head key"]:
    """Attention scores of unit queries for the unit keys ``keys`` at a distance. Key j of them stands at position
    j + 1, an empty one at 0; each head of each row asks with a unit vector of its own."""
    cfg, block = model.cfg, f"blocks.{layer}.attn.hook_"
    rows, length = -(-cfg.d_head // cfg.n_heads), len(keys) + 1 + distance
    asked = torch.eye(rows * cfg.n_heads, cfg.d_head).view(rows, 1, cfg.n_heads, cfg.d_head)
    given = torch.zeros(length, cfg.d_head)
    given[1 : len(keys) + 1] = torch.eye(cfg.d_head)[list(keys)]
    kept: list[Tensor] = []
    hooks = [
        (block + "q", lambda query, hook: asked.to(query).expand_as(query)),
        (block + "k", lambda key, hook: given.to(key)[None, :, None].expand_as(key)),
        (block + "pattern", lambda pattern, hook: kept.append(pattern.double())),
    ]
    tokens = torch.zeros(rows, length, dtype=torch.long, device=next(model.parameters()).device)
    with torch.no_grad(), as_for_inference(model):
        model.run_with_hooks(tokens, return_type=None, fwd_hooks=hooks)
    at = torch.arange(len(keys)) + 1
    logs = (kept[0][:, :, at + distance, at] / kept[0][:, :, at + distance, 0]).log()
    return logs.flatten(0, 1)[: cfg.d_head].float()
