"""One way to process weights on entry."""

import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

from inductionlens.errors import InputError
from inductionlens.models import Model


def lens() -> ModuleType:
    """TransformerLens itself, imported at first need (it takes seconds) and without a word about progress widgets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import transformer_lens

    return transformer_lens


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep TransformerLens and Hugging Face from printing, and pickled weights from running code."""
    lens()
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    forced = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    bars = transformers_logging.is_progress_bar_enabled()
    level, root = transformers_logging.get_verbosity(), logging.getLogger().level
    hub_level = hub_logging.get_verbosity()
    # TransformerLens reads some hub weights with weights_only=False; torch lets the environment overrule it.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", message=".*HookedTransformer.*deprecated", category=DeprecationWarning)
            yield
    finally:
        logging.getLogger().setLevel(root)
        transformers_logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            transformers_logging.enable_progress_bar()
        if forced is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = forced


def build(cfg: Any, state: dict[str, torch.Tensor] | None, tokenizer: Any = None) -> Model:
    """A HookedTransformer of ``cfg`` with the weights ``state`` (or fresh ones), processed, in evaluation mode.

    Norm gains and biases are folded into the next matrix, writing weights and W_U are centred, value biases are folded
    into b_O. None of it changes a pattern or a loss; every weight-space score and logit effect depends on it.

    Raises:
        InputError: norms that cannot be folded.
    """
    _check_foldable(cfg)
    with quiet():
        model = lens().HookedTransformer(cfg, tokenizer=tokenizer)
        state = dict(model.state_dict()) if state is None else state
        model.load_and_process_state_dict(state, **_steps(model.cfg))
    return centre_unembedding(model).eval().requires_grad_(False)


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
        "fold_ln": norm is not None,
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
    known = {None: "no norms", "LNPre": "norms folded, writing weights centred"}
    norms = known.get(model.cfg.normalization_type, "norms folded")
    unembed = "W_U not centred (its logits have a soft cap)" if _capped(model) else "W_U centred"
    return f"{norms}, {unembed}, value biases folded"


def is_processed(model: Model) -> bool:
    """Whether norms and value biases are folded and W_U is centred, as far as they can be."""
    folded = model.cfg.normalization_type in (None, "LNPre", "RMSPre")
    weights = model.W_U.detach().float()
    centred = bool(weights.mean(-1).abs().max() <= 1e-3 * weights.abs().max().clamp_min(1e-30))
    no_value_bias = all(float(block.attn.b_V.detach().abs().max()) == 0 for block in model.blocks)
    return folded and no_value_bias and (centred or _capped(model))


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
        steps = _steps(model.cfg)
        steps["fold_ln"] = model.cfg.normalization_type in ("LN", "RMS")
        model.load_and_process_state_dict(model.state_dict(), **steps)
    return centre_unembedding(model).eval()


def cast(model: Model, dtype: str, name: str) -> Model:
    """The model in another precision, processed before it is rounded.

    Raises:
        InputError: some weight is too large for it.
    """
    if model.cfg.dtype == getattr(torch, dtype):
        return model
    model = model.to(getattr(torch, dtype), print_details=False)
    for key, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise InputError(f"{name} does not fit into {dtype}: {key} overflows; use bfloat16 or float32.")
    return model


def check_finite(model: torch.nn.Module, name: str) -> None:
    """Refuse weights with NaN or infinity: attention over them would come out as zeros without a word.

    Raises:
        InputError: some weight is not finite.
    """
    for key, weight in model.named_parameters():
        # TransformerLens leaves the table of learned positions unset in models that have none.
        unused = key == "pos_embed.W_pos" and model.cfg.positional_embedding_type not in ("standard", "shortformer")
        if not unused and not torch.isfinite(weight).all():
            raise InputError(f"The weights of {name} are not all finite: {key} holds NaN or infinity.")
