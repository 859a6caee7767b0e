"""Copies of models that live without their originals."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.folder_checks import first_line
from inductionlens.models.lens import is_bridge, quiet


def copied(model: Model) -> Model:
    """A copy of a model, one that has run before included: what a run left in it with a gradient is not copied.

    Raises:
        InputError: something in it cannot be copied.
    """
    left = [part for module in model.modules() for part in _tensors(vars(module)) if part.grad_fn is not None]
    try:
        with quiet():
            duplicate = copy.deepcopy(model, {id(part): part.detach() for part in left})
    except Exception as error:
        raise InputError(
            f"This model object cannot be copied, and it has to be processed to be scored ({first_line(error)}); save "
            "it to a folder and give the folder, or give it as load_model returned it."
        ) from error
    if is_bridge(duplicate):
        _forget_captures(duplicate)
    return duplicate


def _forget_captures(bridge: Model) -> None:
    """Take off the hooks that a bridge hung on its blocks when it first ran: a copy's still write to the original, and
    fail once that is gone. The next run hangs them there anew."""
    for block in bridge.blocks:
        if not getattr(block, "_capture_hooks_wired", False):
            continue
        for module in block.modules():
            for key, hook in list(module._forward_pre_hooks.items()):
                if "_maybe_wire_capture_hooks" in getattr(hook, "__qualname__", ""):
                    del module._forward_pre_hooks[key]
        block._capture_hook_handles.clear()
        block._capture_hooks_wired = False


def _tensors(parts: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """Tensors that hang on a module, alone or in a list, tuple or dictionary."""
    for part in parts.values():
        several = part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else (part,)
        yield from (value for value in several if issubclass(type(value), torch.Tensor))
