"""One forward pass, reduced layer by layer."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.models import Model
from inductionlens.models.lens import is_bridge


class Attention(NamedTuple):
    """What one layer's heads did on one batch. Handed to a reducer and then dropped; read it, never write to it."""

    layer: int
    pattern: Float[Tensor, "batch head query key"]
    """Attention, a fraction of each query's; causal, rows sum to 1."""
    values: Float[Tensor, "batch key head d_head"] | None
    """Value vectors, expanded to query heads; None unless asked for."""
    mixed: Float[Tensor, "batch query head d_head"] | None
    """Head outputs before W_O (``z``); None unless asked for."""


class Final(NamedTuple):
    """What the unembedding would read."""

    residual: Float[Tensor, "batch pos d_model"]
    """The last residual stream after the final norm; the norm's gain is folded into W_U."""
    scale: Float[Tensor, "batch pos"]
    """The final norm's scale at each position, ones where there is no norm."""


def run_reduced(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    reduce: Callable[[Attention], None],
    *,
    values: bool = False,
    mixed: bool = False,
) -> Final:
    """Run the model once without its unembedding, and hand each layer's attention to ``reduce`` as it is made.

    Nothing of a layer is kept after ``reduce`` returns, so memory stays at one layer's pattern however deep the model.
    """
    cfg = model.cfg
    held: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: object) -> None:
            held[name] = tensor

        return hook

    def finish(layer: int) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: object) -> None:
            v = held.pop("v", None)
            if v is not None:
                v = v.repeat_interleave(cfg.n_heads // v.shape[2], dim=2)
            pattern = tensor if not mixed else held.pop("pattern")
            if half:
                pattern = _softmaxed(pattern)
            reduce(Attention(layer, pattern, v, tensor if mixed else None))

        return hook

    def drop_kept_pattern(layer: int) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: object) -> None:
            model.blocks[layer].attn._pattern = None

        return hook

    def only_last_position(tensor: Tensor, hook: object) -> Tensor:
        return tensor[:, -1:]

    # A half-precision model rounds its pattern; its scores are softmaxed here in float32 instead.
    half = cfg.dtype in (torch.float16, torch.bfloat16) and not getattr(cfg, "use_attention_sinks", False)
    attention = "attn_scores" if half else "pattern"
    hooks: list[tuple[str, Callable[..., None]]] = []
    for layer in range(cfg.n_layers):
        block = f"blocks.{layer}.attn.hook_"
        if values:
            hooks.append((block + "v", keep("v")))
        if mixed:
            hooks.append((block + attention, keep("pattern")))
        hooks.append((block + ("z" if mixed else attention), finish(layer)))
    normed = cfg.normalization_type is not None
    hooks.append(("ln_final.hook_normalized" if normed else f"blocks.{cfg.n_layers - 1}.hook_resid_post", keep("last")))
    if normed:
        hooks.append(("ln_final.hook_scale", keep("scale")))
    how: dict[str, Any] = {}
    if is_bridge(model):
        # A bridge keeps every layer's pattern until its next run, and unembeds whatever the caller asks for.
        keeping = [layer for layer in range(cfg.n_layers) if hasattr(model.blocks[layer].attn, "_pattern")]
        hooks += [(f"blocks.{layer}.hook_attn_out", drop_kept_pattern(layer)) for layer in keeping]
        accepted = inspect.signature(model.original_model.forward).parameters
        how = {key: value for key, value in {"logits_to_keep": 1, "use_cache": False}.items() if key in accepted}
        if not hasattr(model.original_model, "config"):
            hooks.append(("ln_final.hook_out", only_last_position))
    device = next(model.parameters()).device
    with torch.no_grad(), _nothing_is_padding(model):
        model.run_with_hooks(tokens.to(device), return_type=None, fwd_hooks=hooks, **how)
    scale = held["scale"][..., 0] if normed else torch.ones(tokens.shape, device=held["last"].device)
    return Final(held["last"], scale.float())


def _softmaxed(scores: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
    """Attention in float32 from scores, masked ones included; some bridges hand on the pattern in their place."""
    given_as_pattern = scores.shape[-1] > 1 and not scores[:, :, 0, 1:].any()
    return scores.float() if given_as_pattern else scores.float().softmax(-1)


@contextlib.contextmanager
def _nothing_is_padding(model: Model) -> Iterator[None]:
    """Keep TransformerLens from masking BOS out as padding, as it does where a tokenizer pads on the left."""
    tokenizer = getattr(model, "tokenizer", None)
    side = getattr(tokenizer, "padding_side", None)
    if side == "left":
        tokenizer.padding_side = "right"
    try:
        yield
    finally:
        if side == "left":
            tokenizer.padding_side = side


def logits_at(
    model: Model, residual: Float[Tensor, "batch pos d_model"], positions: Int[Tensor, " scored"]
) -> Float[Tensor, "batch scored vocabulary"]:
    """Unembed ``residual`` at ``positions`` only: the one place that pays for the vocabulary."""
    with torch.no_grad():
        picked = residual[:, positions.to(residual.device)]
        logits = model.unembed(picked.to(model.unembed.W_U.dtype)).float()
        cap = getattr(model.cfg, "output_logits_soft_cap", -1.0) or -1.0
        return cap * torch.tanh(logits / cap) if cap > 0 else logits


def batches(tokens: Int[Tensor, "batch pos"], batch_size: int | None) -> tuple[Tensor, ...]:
    """Cut a probe into batches [batch, pos], by default of about 2,048 tokens."""
    return tokens.split(batch_size or max(1, 2048 // tokens.shape[1]))
