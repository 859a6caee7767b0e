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

    def gather(layer: int, name: str) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: object) -> None:
            held[name] = tensor
            # Which comes last depends on the class: some mix the values before they show the pattern.
            if wanted <= held.keys():
                found = {part: held.pop(part) for part in wanted}
                v = found.get("v")
                if v is not None:
                    v = v.repeat_interleave(cfg.n_heads // v.shape[2], dim=2)
                pattern = _softmaxed(found[attention]) if half else found[attention]
                reduce(Attention(layer, pattern, v, found.get("z")))

        return hook

    def only_last_position(tensor: Tensor, hook: object) -> Tensor:
        return tensor[:, -1:]

    # A half-precision model rounds its pattern; its scores are softmaxed here in float32 instead.
    half = cfg.dtype in (torch.float16, torch.bfloat16) and not getattr(cfg, "use_attention_sinks", False)
    attention = "attn_scores" if half else "pattern"
    wanted = {attention} | ({"v"} if values else set()) | ({"z"} if mixed else set())
    hooks: list[tuple[str, Callable[..., None]]] = []
    for layer in range(cfg.n_layers):
        hooks += [(f"blocks.{layer}.attn.hook_{name}", gather(layer, name)) for name in sorted(wanted)]
    normed = cfg.normalization_type is not None
    hooks.append(("ln_final.hook_normalized" if normed else f"blocks.{cfg.n_layers - 1}.hook_resid_post", keep("last")))
    if normed:
        hooks.append(("ln_final.hook_scale", keep("scale")))
    if is_bridge(model):
        # A bridge keeps every layer's pattern until its next run, and unembeds whatever the caller asks for.
        hooks += [(f"blocks.{layer}.hook_attn_out", _drop_kept_pattern(model, layer)) for layer in range(cfg.n_layers)]
        if not hasattr(model.original_model, "config"):
            hooks.append(("ln_final.hook_out", only_last_position))
    device = next(model.parameters()).device
    with torch.no_grad(), nothing_is_padding(model):
        model.run_with_hooks(tokens.to(device), return_type=None, fwd_hooks=hooks, **no_unembedding(model))
    scale = held["scale"][..., 0] if normed else torch.ones(tokens.shape, device=held["last"].device)
    return Final(held["last"], scale.float())


def no_unembedding(model: Model) -> dict[str, Any]:
    """What a forward pass is told, beside ``return_type=None``, to leave the unembedding out as far as it can."""
    if not is_bridge(model):
        return {}
    accepted = inspect.signature(model.original_model.forward).parameters
    return {key: value for key, value in {"logits_to_keep": 1, "use_cache": False}.items() if key in accepted}


def _drop_kept_pattern(model: Model, layer: int) -> Callable[..., None]:
    """Drop the pattern that an earlier run left behind, and a hook to drop this run's."""
    attn = model.blocks[layer].attn

    def drop(*_: Any, **__: Any) -> None:
        if hasattr(attn, "_pattern"):
            attn._pattern = None

    drop()
    return drop


def _softmaxed(scores: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
    """Attention in float32 from scores, masked ones included; some bridges hand on the pattern in their place."""
    given_as_pattern = scores.shape[-1] > 1 and not scores[:, :, 0, 1:].any()
    return scores.float() if given_as_pattern else scores.float().softmax(-1)


@contextlib.contextmanager
def nothing_is_padding(model: Model) -> Iterator[None]:
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
    with torch.set_grad_enabled(residual.requires_grad):
        picked = residual[:, positions.to(residual.device)]
        # HookedTransformer's own unembedding copies W_U on every call: a third of what the product itself costs.
        weights, bias = model.unembed.W_U, model.unembed.b_U
        logits = torch.nn.functional.linear(picked.to(weights.dtype), weights.T, bias.to(weights.dtype)).float()
        cap = getattr(model.cfg, "output_logits_soft_cap", -1.0) or -1.0
        return cap * torch.tanh(logits / cap) if cap > 0 else logits
