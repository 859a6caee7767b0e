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

#: Norm gains and biases are folded into the next matrix, writing weights and W_U are centred, value biases are folded
#: into b_O. None of it changes a pattern or a loss; every weight-space score and logit effect depends on it.
PROCESSING = "norms folded, writing weights and W_U centred, value biases folded"


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
    """A HookedTransformer of ``cfg`` with the weights ``state`` (or fresh ones), processed, in evaluation mode."""
    with quiet():
        model = lens().HookedTransformer(cfg, tokenizer=tokenizer)
        state = dict(model.state_dict()) if state is None else state
        model.load_and_process_state_dict(state, **_foldable(model))
    return model.to(model.cfg.dtype, print_details=False).eval().requires_grad_(False)


def _foldable(model: Any) -> dict[str, bool]:
    """Which steps a model allows: Shortformer adds positions after the norm, a logit soft cap is not shift-free."""
    shortformer = model.cfg.positional_embedding_type == "shortformer"
    capped = (getattr(model.cfg, "output_logits_soft_cap", None) or -1.0) > 0
    norm = model.cfg.normalization_type
    return {
        "fold_ln": not shortformer and norm is not None,
        "center_writing_weights": not shortformer and norm in ("LN", "LNPre"),
        "center_unembed": not shortformer and not capped,
        "fold_value_biases": True,
    }


def is_processed(model: Model) -> bool:
    """Whether norms are folded and W_U is centred, as far as they can be."""
    folded = model.cfg.normalization_type in (None, "LNPre", "RMSPre")
    mean = model.W_U.detach().float().mean(-1)
    centred = bool(mean.abs().max() <= 1e-3 * model.W_U.detach().float().abs().max().clamp_min(1e-30))
    allowed = _foldable(model)
    return (folded or not allowed["fold_ln"]) and (centred or not allowed["center_unembed"])


def processed(model: Model) -> Model:
    """The model itself if it is processed, else a processed copy; the caller's model is never changed."""
    if is_processed(model):
        return model
    with quiet():
        model = copy.deepcopy(model)
        model.load_and_process_state_dict(model.state_dict(), **_foldable(model))
    return model.eval()


def check_finite(model: Model, name: str) -> None:
    """Refuse weights with NaN or infinity: attention over them would come out as zeros without a word.

    Raises:
        InputError: some weight is not finite.
    """
    for key, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise InputError(f"The weights of {name} are not all finite: {key} holds NaN or infinity.")
