"""One forward pass, reduced layer by layer."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.errors import InputError
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
    written_scale: dict[int, Float[Tensor, "batch pos"]] | None = None
    """By layer, the scale of the norm that follows its heads, on the CPU; None unless asked for."""


def run_reduced(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    reduce: Callable[[Attention], None],
    *,
    values: bool = False,
    mixed: bool = False,
    written_scales: bool = False,
) -> Final:
    """Run the model once without its unembedding, and hand each layer's attention to ``reduce`` as it is made.

    Nothing of a layer is kept after ``reduce`` returns, so memory stays at one layer's pattern however deep the model.
    The model runs as it would for inference. A row longer than any that was compared with the model as it was given is
    compared first.
    """
    cfg = model.cfg
    check_length(model, tokens.shape[1])
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
    layers = attention_layers(model)
    for layer in layers:
        hooks += [(f"blocks.{layer}.attn.hook_{name}", gather(layer, name)) for name in sorted(wanted)]
    normed = has_final_norm(model)
    hooks.append(("ln_final.hook_normalized" if normed else f"blocks.{cfg.n_layers - 1}.hook_resid_post", keep("last")))
    if normed:
        hooks.append(("ln_final.hook_scale", keep("scale")))
    norms = {layer: f"blocks.{layer}.ln1_post.hook_scale" for layer in layers} if written_scales else {}
    hooks += [(name, keep(name)) for name in norms.values()]
    if is_bridge(model):
        # A bridge keeps every layer's pattern until its next run, and unembeds whatever the caller asks for.
        hooks += [(f"blocks.{layer}.hook_attn_out", _drop_kept_pattern(model, layer)) for layer in layers]
        if not hasattr(model.original_model, "config"):
            hooks.append(("ln_final.hook_out", only_last_position))
    device = next(model.parameters()).device
    with torch.no_grad(), as_for_inference(model):
        model.run_with_hooks(tokens.to(device), return_type=None, fwd_hooks=hooks, **no_unembedding(model))
    scale = held["scale"][..., 0] if normed else torch.ones(tokens.shape, device=held["last"].device)
    written = {layer: held[name][..., 0].float().cpu() for layer, name in norms.items()}
    return Final(held["last"], scale.float(), written or None)


def attention_layers(model: Model) -> list[int]:
    """The layers that have attention heads: all of them, but in hybrids, whose other layers hold convolutions or
    recurrences instead."""
    layers = range(model.cfg.n_layers)
    if not is_bridge(model):
        return list(layers)
    blocks = getattr(model, "blocks", ())
    return [layer for layer, block in enumerate(blocks) if hasattr(getattr(block, "attn", None), "hook_pattern")]


def check_all_layers_attend(model: Model, what: str) -> None:
    """Refuse a hybrid model where layers are counted through.

    Raises:
        InputError: some layer has no attention heads.
    """
    without = sorted(set(range(model.cfg.n_layers)) - set(attention_layers(model)))
    if without:
        raise InputError(
            f"Layers {', '.join(map(str, without))} of this model have no attention heads, and {what} goes through all "
            "layers; a scan, and icl, work for such models."
        )


def has_final_norm(model: Model) -> bool:
    """Whether a norm stands between the last layer and the unembedding. A bridge's config does not say."""
    norm = getattr(model, "ln_final", None)
    return model.cfg.normalization_type is not None and hasattr(norm, "hook_normalized")


def check_length(model: Model, length: int) -> None:
    """Compare the model with the one that was given on rows of ``length`` tokens, unless that was done already.

    Raises:
        InputError: the two differ.
    """
    compared = getattr(model, "inductionlens_compared", None)
    if compared is not None and length > compared.length:
        compared.again(length)
        model.inductionlens_compared = compared._replace(length=length)


class Compared(NamedTuple):
    """On how long a row a model was compared with the one that was given, and how it is done on a longer one."""

    length: int
    again: Callable[[int], None]


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
def as_for_inference(model: Model) -> Iterator[None]:
    """Run a model without dropout, and keep TransformerLens from masking BOS out as padding, as it does where a
    tokenizer pads on the left. Afterwards both are what they were."""
    tokenizer = getattr(model, "tokenizer", None)
    side = getattr(tokenizer, "padding_side", None)
    # A bridge does not own all of the modules that it runs.
    modules = {*model.modules(), *(model.original_model.modules() if is_bridge(model) else ())}
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    if side == "left":
        tokenizer.padding_side = "right"
    try:
        yield
    finally:
        for module in training:
            module.training = True
        if side == "left":
            tokenizer.padding_side = side


def logit_multiplier(model: Model) -> float:
    """What a model multiplies its unembedding's output by (Granite divides by ``logits_scaling``); 1 in most models."""
    return getattr(model, "inductionlens_logit_multiplier", 1.0)


def logits_at(
    model: Model, residual: Float[Tensor, "batch pos d_model"], positions: Int[Tensor, " scored"]
) -> Float[Tensor, "batch scored vocabulary"]:
    """Unembed ``residual`` at ``positions`` only: the one place that pays for the vocabulary."""
    with torch.set_grad_enabled(residual.requires_grad):
        picked = residual[:, positions.to(residual.device)]
        # HookedTransformer's own unembedding copies W_U on every call: a third of what the product itself costs.
        weights, bias = model.unembed.W_U, model.unembed.b_U
        logits = torch.nn.functional.linear(picked.to(weights.dtype), weights.T, bias.to(weights.dtype)).float()
        if logit_multiplier(model) != 1.0:
            logits = logits * logit_multiplier(model)
        cap = getattr(model.cfg, "output_logits_soft_cap", -1.0) or -1.0
        return cap * torch.tanh(logits / cap) if cap > 0 else logits
