"""One way to process weights on entry."""

from typing import Any

import torch

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.activations import attention_layers, logit_multiplier, run_reduced
from inductionlens.models.copies import copied
from inductionlens.models.folder_checks import first_line
from inductionlens.models.lens import is_bridge, quiet
from inductionlens.models.writing import writing_of


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
            _fold_final_norm(model)  # see `_final_norm_folded`
            _process_bridge(model)
        else:
            state = model.state_dict() if state is None else state
            model.load_and_process_state_dict(_final_norm_folded(state), **_steps(model.cfg))
    centre_unembedding(model).eval().requires_grad_(False)
    left = unprocessed(model)
    if left is not None:
        raise InputError(
            f"TransformerLens does not process this model to the end: {left}, so its logit effects and circuits would "
            "be wrong."
        )
    return model


def _process_bridge(model: Model) -> None:
    try:
        model.enable_compatibility_mode(disable_warnings=True, center_unembed=False)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).strip().split(". ")[0].rstrip(".")
        raise InputError(
            f"The norms of this model cannot be folded, so its logit effects would be wrong: {reason}."
        ) from error


def _final_norm_folded(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A HookedTransformer's weights with the final norm folded into W_U and b_U.

    TransformerLens does so too, but tells W_U from its transpose by shape: with as many tokens as dimensions it folds
    along the wrong one.
    """
    gain = state.get("ln_final.w")
    if gain is None:
        return state
    bias, weights = state.get("ln_final.b"), state["unembed.W_U"]
    folded = {**state, "ln_final.w": torch.ones_like(gain), "unembed.W_U": weights * gain[:, None]}
    if bias is not None:
        own = state.get("unembed.b_U", 0.0)  # a converted state dict may leave it out
        folded |= {"ln_final.b": torch.zeros_like(bias), "unembed.b_U": own + bias @ weights}
    return folded


def _fold_final_norm(model: Model) -> None:
    """Fold the final norm's gain and bias into W_U and b_U, where TransformerLens left that undone (OLMo 2 and 3, whose
    other norms follow attention and MLPs and cannot be folded at all)."""
    norm = getattr(model, "ln_final", None)
    gain = getattr(norm, "w", None)
    weights, identity = model.unembed.W_U, _identity(model, norm) if is_bridge(model) else 1.0
    if gain is None or bool((gain == identity).all()) or weights.data_ptr() == model.W_E.data_ptr():
        return
    bias = getattr(norm, "b", None)
    with torch.no_grad():
        if bias is not None:
            model.unembed.b_U.add_(bias @ weights)
            bias.zero_()
        weights.mul_((gain + 1.0 - identity)[:, None])
        gain.fill_(identity)


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
    writing = writing_of(model)
    told = [norms, unembed, "value biases folded"]
    factors = sorted({layer.multiplier for layer in writing} - {1.0})
    if factors:
        told.append(f"heads' outputs multiplied by {', '.join(f'{factor:g}' for factor in factors)}")
    if any(layer.gain is not None for layer in writing):
        told.append("heads' outputs normed by their layer, that norm's gain in W_O, its scale in the logit effect")
    if logit_multiplier(model) != 1.0:
        told.append(f"logits multiplied by {logit_multiplier(model):g}")
    return ", ".join(told)


def _norm(model: Model) -> str | None:
    """The kind of norm, folded (``LNPre`` on 3.9) or not."""
    kind = model.cfg.normalization_type
    return kind.removesuffix("Pre") if kind else None


def unprocessed(model: Model) -> str | None:
    """What of norms, value biases and W_U is not folded or centred yet, in words; None where all is that can be."""
    weights = model.W_U.detach().float()
    centred = bool(weights.mean(-1).abs().max() <= 1e-3 * weights.abs().max().clamp_min(1e-30))
    value_biases = (_value_bias(model.blocks[layer].attn) for layer in attention_layers(model))
    if is_bridge(model):
        norms = _bridge_unfolded(model)
    else:
        norms = None if model.cfg.normalization_type in (None, "LNPre", "RMSPre") else "norms are not folded"
    if norms is not None:
        return norms
    if any(bias is not None and bool(bias.detach().any()) for bias in value_biases):
        return "value biases are not folded into b_O"
    return None if centred or _capped(model) else "W_U is not centred"


def _value_bias(attention: Any) -> torch.Tensor | None:
    try:
        return attention.b_V
    except (AttributeError, NotImplementedError):
        return None  # latent attention has no values of its own


def _bridge_unfolded(model: Model) -> str | None:
    """Which of a bridge's norms do more than norm: its config does not say, so the weights must."""
    if _norm(model) is None:
        return None
    norms = {"ln_final": getattr(model, "ln_final", None)}
    for layer, block in enumerate(model.blocks):
        norms |= {f"blocks.{layer}.{name}": getattr(block, name, None) for name in ("ln1", "ln2")}
    for name, norm in norms.items():
        gain = getattr(norm, "w", None)
        if gain is not None and not bool((gain.detach() == _identity(model, norm)).all()):
            return f"the gain of its norm {name} is not folded into the weights that read it"
    written = model.W_E.detach().float()
    if _norm(model) != "RMS" and float(written.mean(-1).abs().max()) > 1e-3 * float(written.abs().max()):
        return "the weights that write are not centred"
    return None


def _identity(model: Model, norm: Any) -> float:
    """The weight with which a norm only norms: Gemma's and Nemotron's are stored as what they have beyond 1."""
    offset = getattr(norm, "uses_weight_offset", None)
    return 0.0 if (getattr(model.cfg, "rmsnorm_uses_offset", False) if offset is None else offset) else 1.0


def processed(model: Model) -> Model:
    """The model itself if it is processed, else a processed copy; the caller's model is never changed.

    Raises:
        InputError: norms that cannot be folded.
    """
    _check_foldable(model.cfg)
    if unprocessed(model) is None:
        return model
    duplicate = copied(model)
    try:
        return process(duplicate)
    except InputError as error:
        way_out = "if it was processed in part already, give it as it was loaded"
        raise InputError(f"{str(error).rstrip('.')}; {way_out}.") from error


def cast(model: Model, dtype: str, name: str) -> Model:
    """The model in another precision, processed before it is rounded.

    Raises:
        InputError: some weight is too large for it, or the model's class does not run in it.
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
    try:
        run_reduced(model, torch.arange(min(4, model.cfg.n_ctx, model.cfg.d_vocab))[None], lambda layer: None)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} does not run in {dtype} under TransformerLens ({first_line(error)}); use float32."
        ) from error
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
