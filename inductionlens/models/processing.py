"""One way to process weights on entry."""

import copy
from typing import Any

import torch

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.lens import is_bridge, quiet


def process(model: Model, state: dict[str, torch.Tensor] | None = None) -> Model:
    """Process a model's weights (or ``state``, a HookedTransformer's) in place, and put it in evaluation mode.

    Norm gains and biases are folded into the next matrix, writing weights and W_U are centred, value biases are folded
    into b_O. None of it changes a pattern or a loss; every weight-space score and logit effect depends on it.

    Raises:
        InputError: norms that cannot be folded.
    """
    _check_foldable(model.cfg)
    with quiet():
        if is_bridge(model):
            _process_bridge(model)
        else:
            steps = _steps(model.cfg)
            model.load_and_process_state_dict(model.state_dict() if state is None else state, **steps)
    return centre_unembedding(model).eval().requires_grad_(False)


def _process_bridge(model: Model) -> None:
    try:
        model.enable_compatibility_mode(disable_warnings=True, center_unembed=False)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).strip().split(". ")[0].rstrip(".")
        raise InputError(
            f"The norms of this model cannot be folded, so its logit effects would be wrong: {reason}."
        ) from error


def _check_foldable(cfg: Any) -> None:
    if cfg.positional_embedding_type == "shortformer" and cfg.normalization_type is not None:
        raise InputError(
            "Shortformer positions are added after the norm, whose gain can then not be folded, so that logit effects "
            "and circuits would be wrong; only Shortformer models without norms (normalization_type null) are scored."
        )


def _steps(cfg: Any) -> dict[str, bool]:
    """Which of TransformerLens's steps apply; `centre_unembedding` centres W_U and keeps what it takes away."""
    norm = cfg.normalization_type
    return {
        "fold_ln": norm in ("LN", "RMS"),
        "center_writing_weights": norm in ("LN", "LNPre"),
        "center_unembed": False,
        "fold_value_biases": True,
    }


def centre_unembedding(model: Model) -> Model:
    """Take the mean over the vocabulary from W_U and b_U, in place, and keep W_U's mean column on the model.

    Losses and patterns do not change. A model with a soft cap on its logits is left as it is: there a constant counts.
    """
    with torch.no_grad():
        weights, bias = model.unembed.W_U, model.unembed.b_U
        if weights.data_ptr() == model.W_E.data_ptr():
            raise AssertionError("W_U still shares its storage with W_E, which must not be centred with it.")
        mean = weights.mean(-1, keepdim=True)
        if not _capped(model):
            weights.sub_(mean)
            bias.sub_(bias.mean())
    model.inductionlens_unembed_mean = mean[:, 0].float()
    return model


def _capped(model: Model) -> bool:
    return (getattr(model.cfg, "output_logits_soft_cap", None) or -1.0) > 0


def processing_of(model: Model) -> str:
    """What was done to a model's weights on entry, in words for the record."""
    known = {None: "no norms", "LN": "norms folded, writing weights centred"}
    norms = known.get(_norm(model), "norms folded")
    unembed = "W_U not centred (its logits have a soft cap)" if _capped(model) else "W_U centred"
    return f"{norms}, {unembed}, value biases folded"


def _norm(model: Model) -> str | None:
    """The kind of norm, folded (``LNPre`` on 3.9) or not."""
    kind = model.cfg.normalization_type
    return kind.removesuffix("Pre") if kind else None


def is_processed(model: Model) -> bool:
    """Whether norms and value biases are folded and W_U is centred, as far as they can be."""
    weights = model.W_U.detach().float()
    centred = bool(weights.mean(-1).abs().max() <= 1e-3 * weights.abs().max().clamp_min(1e-30))
    value_biases = (block.attn.b_V for block in model.blocks)
    no_value_bias = not any(bias is not None and bool(bias.detach().any()) for bias in value_biases)
    folded = _bridge_folded(model) if is_bridge(model) else model.cfg.normalization_type in (None, "LNPre", "RMSPre")
    return folded and no_value_bias and (centred or _capped(model))


def _bridge_folded(model: Model) -> bool:
    """Whether a bridge's norms do nothing but norm: its config does not say, so the weights must."""
    if _norm(model) is None:
        return True
    identity = 0.0 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 1.0
    norms = [model.ln_final, *(getattr(block, name, None) for block in model.blocks for name in ("ln1", "ln2"))]
    gains = [norm.w.detach() for norm in norms if getattr(norm, "w", None) is not None]
    written = model.W_E.detach().float()
    centred = _norm(model) == "RMS" or float(written.mean(-1).abs().max()) <= 1e-3 * float(written.abs().max())
    return centred and all(bool((gain == identity).all()) for gain in gains)


def processed(model: Model) -> Model:
    """The model itself if it is processed, else a processed copy; the caller's model is never changed.

    Raises:
        InputError: norms that cannot be folded.
    """
    _check_foldable(model.cfg)
    if is_processed(model):
        return model
    with quiet():
        model = copy.deepcopy(model)
    model = process(model)
    if not is_processed(model):
        raise InputError(
            "This model was processed in part already, and TransformerLens does not do the rest: give it as it was "
            "loaded, or processed with TransformerLens's defaults."
        )
    return model


def cast(model: Model, dtype: str, name: str) -> Model:
    """The model in another precision, processed before it is rounded.

    Raises:
        InputError: some weight is too large for it.
    """
    if model.cfg.dtype == getattr(torch, dtype):
        return model
    # Rotary frequencies are computed in float32 whatever the weights are in: Hugging Face leaves them as they are.
    kept = {key: buffer for key, buffer in model.named_buffers() if is_bridge(model) and "inv_freq" in key}
    model = model.to(getattr(torch, dtype), print_details=False)
    for key, buffer in kept.items():
        owner, _, last = key.rpartition(".")
        model.get_submodule(owner)._buffers[last] = buffer
    for key, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise InputError(f"{name} does not fit into {dtype}: {key} overflows; use bfloat16 or float32.")
    return model


def check_weights(model: torch.nn.Module, name: str) -> None:
    """Refuse weights that cannot be scored: packed, spread over devices, or with NaN or infinity, over which attention
    would come out as zeros without a word.

    Raises:
        InputError: a quantised weight, several devices, or some weight that is not finite.
    """
    weights = dict(model.named_parameters())
    packed = [key for key, weight in weights.items() if not weight.is_floating_point()]
    if packed:
        raise InputError(
            f"{name} is quantised ({packed[0]} is {weights[packed[0]].dtype}), and packed weights cannot be folded or "
            "read; load it dequantised."
        )
    devices = sorted({str(weight.device) for weight in weights.values()})
    if len(devices) > 1:
        raise InputError(f"{name} lies on several devices ({', '.join(devices)}); move it to one to scan it.")
    for key, weight in weights.items():
        # TransformerLens leaves the table of learned positions unset in models that have none.
        unused = key == "pos_embed.W_pos" and model.cfg.positional_embedding_type not in ("standard", "shortformer")
        if not unused and not torch.isfinite(weight).all():
            raise InputError(f"The weights of {name} are not all finite: {key} holds NaN or infinity.")
