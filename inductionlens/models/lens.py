"""TransformerLens itself: imported late, kept quiet, and of which line."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from types import ModuleType

from inductionlens.models import Model


def lens() -> ModuleType:
    """TransformerLens itself, imported at first need (it takes seconds) and without a word about progress widgets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import transformer_lens

    return transformer_lens


def has_hooked_transformer() -> bool:
    """Whether this TransformerLens is 3.9, where models are HookedTransformers; in 4.x they are TransformerBridges.

    3.9 has a TransformerBridge as well, which is not used: on its own toys it drops edits of attention.
    """
    # 4.x answers with an ImportError that says where the class went, 3.9 names it.
    return "HookedTransformer" in vars(lens())


def model_class() -> type:
    """The class of this TransformerLens's models."""
    return lens().HookedTransformer if has_hooked_transformer() else lens().TransformerBridge


def is_bridge(model: Model) -> bool:
    """Whether a model is of TransformerLens 4's class."""
    return not has_hooked_transformer() and isinstance(model, lens().TransformerBridge)


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
