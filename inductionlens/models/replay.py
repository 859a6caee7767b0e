"""A clean run that can be taken up again at any layer."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.models import Model
from inductionlens.models.activations import (
    Attention,
    as_for_inference,
    check_all_layers_attend,
    has_final_norm,
    no_unembedding,
    run_reduced,
)


class Recorded(NamedTuple):
    """What it takes to start again in the middle of a model."""

    model: Model
    residuals: tuple[Float[Tensor, "batch pos d_model"], ...]
    """What enters each layer."""
    calls: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]
    """What else each layer was called with: masks, rotary tables."""
    final: Float[Tensor, "batch pos d_model"]
    """What the unembedding would read."""
    scale: Float[Tensor, "batch pos"]
    """The final norm's scale, ones where there is no norm."""


def record(
    model: Model, tokens: Int[Tensor, "batch pos"], keep: Callable[[Attention], None] = lambda layer: None
) -> Recorded:
    """Run the model once, without its unembedding, and keep what enters each layer; ``keep`` sees each layer's
    attention and head outputs, as in `run_reduced`."""
    check_all_layers_attend(model, "this")
    residuals: list[Tensor] = []
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def before(block: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A cache of keys holds this run's own; a run that goes on from here would add to it.
        kwargs = {name: None if "past_key_value" in name else value for name, value in kwargs.items()}
        residual, *rest = args if args else (kwargs.pop("hidden_states"),)
        residuals.append(residual)
        calls.append((tuple(rest), kwargs))

    last: list[Tensor] = []

    def after(block: object, args: object, output: Any) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        for block in model.blocks:
            stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(model.blocks[-1].register_forward_hook(after).remove)
        read = run_reduced(model, tokens, keep, mixed=True)
    with torch.no_grad():
        return Recorded(model, tuple(residuals), tuple(calls), _final(model, last[0]), read.scale)


def _final(model: Model, residual: Tensor) -> Tensor:
    """The final norm with its gain, where there is one, folded or not."""
    return model.ln_final(residual) if has_final_norm(model) else residual


def resume(
    run: Recorded, layer: int, residual: Float[Tensor, "rows pos d_model"], hooks: list[tuple[str, Callable[..., Any]]]
) -> Float[Tensor, "rows pos d_model"]:
    """Run layer ``layer`` and those above it from ``residual``, and give what the unembedding would read.

    ``residual`` may hold the recorded batch several times over, one copy after the other.
    """
    model, copies = run.model, len(residual) // len(run.residuals[0])
    with as_for_inference(model), model.hooks(fwd_hooks=hooks):
        for block, (args, kwargs) in zip(list(model.blocks)[layer:], run.calls[layer:], strict=True):
            batch = len(run.residuals[0])
            again = [_repeated(value, batch, copies) for value in args]
            named = {name: _repeated(value, batch, copies, name) for name, value in kwargs.items()}
            residual = block(residual, *again, **named)
            residual = residual[0] if isinstance(residual, tuple) else residual
        return _final(model, residual)


class _Enough(Exception):
    """Everything that was asked for has been seen; the rest of the run is not needed."""


def run_until(
    run: Recorded,
    layer: int,
    residual: Float[Tensor, "rows pos d_model"],
    wanted: Sequence[str],
    edits: Sequence[tuple[str, Callable[..., Any]]] = (),
) -> dict[str, Tensor]:
    """Run layer ``layer`` and those above it from ``residual`` until each of ``wanted`` has been made, and no further.

    ``wanted`` and ``edits`` go by TransformerLens's hook names. ``residual`` may hold the recorded batch several times
    over, one copy after the other.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: object) -> None:
            found[name] = tensor
            if len(found) == len(wanted):
                raise _Enough

        return hook

    with torch.no_grad(), contextlib.suppress(_Enough):
        resume(run, layer, residual, [*edits, *((name, keep(name)) for name in wanted)])
    return found


def run_with_gradient(
    model: Model, tokens: Int[Tensor, "batch pos"], hooks: list[tuple[str, Callable[..., Any]]]
) -> Float[Tensor, "batch pos d_model"]:
    """Run the model once so that gradients reach every layer, and give what the unembedding would read."""
    last: list[Tensor] = []

    def after(block: object, args: object, output: Any) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    def start(residual: Tensor, hook: object) -> Tensor:
        return residual.detach().requires_grad_(True)

    with ExitStack() as stack:
        stack.callback(model.blocks[-1].register_forward_hook(after).remove)
        every = [("blocks.0.hook_resid_pre", start), *hooks]
        tokens = tokens.to(next(model.parameters()).device)
        with torch.enable_grad(), as_for_inference(model):
            model.run_with_hooks(tokens, return_type=None, fwd_hooks=every, **no_unembedding(model))
            return _final(model, last[0])


def _repeated(value: Any, batch: int, copies: int, name: str = "") -> Any:
    """A layer's argument for several copies of its batch."""
    if name == "position_bias":
        return value  # MPT's: one for each head, the same for all rows
    # BLOOM's alibi is [batch x head, 1, key].
    if isinstance(value, Tensor) and value.ndim > 1 and (len(value) == batch or name == "alibi"):
        return value.repeat(copies, *[1] * (value.ndim - 1)) if copies > 1 else value
    if isinstance(value, tuple):
        return tuple(_repeated(part, batch, copies) for part in value)
    return value


def stacks(sizes: list[int], rows: int, most: int) -> Iterator[slice]:
    """Cut a list of jobs, sorted by layer, into runs of one layer that hold at most ``most`` rows each."""
    start = 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or sizes[stop] != sizes[start] or (stop - start + 1) * rows > most:
            yield slice(start, stop)
            start = stop
