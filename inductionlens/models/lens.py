"""TransformerLens itself: imported late, kept quiet, and of which line."""

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

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


class _Stdout:
    """Standard output, from which some threads are kept away: another one may be talking to the user meanwhile."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() in _muted else self.real.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


_lock = threading.Lock()
#: Threads that are kept from printing, how often each has entered `quiet`, and what the first one changed.
_muted: set[int] = set()
_within: Counter[int] = Counter()
_changed = contextlib.ExitStack()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep TransformerLens and Hugging Face from printing in this thread, and pickled weights from running code.

    Threads may be inside at once: the last one to leave puts everything back.
    """
    lens()
    me = threading.get_ident()
    with _lock:
        if not _within:
            _changed.enter_context(_hushed())
        _within[me] += 1
        _muted.add(me)
    try:
        yield
    finally:
        with _lock:
            _within[me] -= 1
            if not _within[me]:
                del _within[me]
                _muted.discard(me)
            if not _within:
                _changed.close()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
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
        with warnings.catch_warnings(), contextlib.redirect_stdout(_Stdout(sys.stdout)):
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
