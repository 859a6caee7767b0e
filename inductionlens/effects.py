"""What removing heads does to a model's losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.heads import Head
from inductionlens.models import Model
from inductionlens.models.ablation import check_edits
from inductionlens.models.activations import Attention, logits_at
from inductionlens.models.batches import for_batches
from inductionlens.models.replay import Recorded, record, resume, run_with_gradient, stacks
from inductionlens.scores import losses as loss_scores

Value = Callable[[Float[Tensor, "batch scored"], Int[Tensor, "batch pos"]], Float[Tensor, " batch"]]
#: Tokens in one pass: heads are stacked along the batch up to this many; on a CPU larger passes are no faster.
STACK_TOKENS = 1024


@dataclass(frozen=True, eq=False)
class Stimulus:
    """Tokens, and what is read off a model's losses on them."""

    name: str
    """What it is called in tables."""
    tokens: Int[Tensor, "batch pos"]
    """What the model runs on."""
    scored: Int[Tensor, " scored"]
    """The positions whose next token's loss is read, 0-based, ascending."""
    values: Mapping[str, Value]
    """Name -> losses [batch, scored] in nats and tokens to one number for each sequence."""
    mean_over: Int[Tensor, "other other_pos"] | None = None
    """Other tokens of the same stimulus, for heads' mean outputs."""
    lengths: Int[Tensor, " batch"] | None = None
    """Tokens of each sequence before its padding; None where there is none."""


class Change(NamedTuple):
    """How removed heads act on a forward pass."""

    output: "str | Sequence[Float[Tensor, 'head d_head']]" = "zero"
    """``zero``, or each layer's mean outputs."""
    hold_patterns: bool = False
    """Whether attention is held at the clean run's in every layer."""


class Effects(NamedTuple):
    """Values with and without the heads, by name."""

    clean: dict[str, Float[np.ndarray, " sequence"]]
    ablated: dict[str, Float[np.ndarray, "group sequence"]]


FULL_ZERO = Change()
#: Where an interrupted sweep goes on: finished parts by key.
Kept = dict[str, Any]


def measure_effects(
    model: Model,
    stimulus: Stimulus,
    groups: Sequence[Sequence[Head]],
    change: Change = FULL_ZERO,
    *,
    batch_size: int | None = None,
    kept: Kept | None = None,
    on_part: Callable[[str, Any], None] = lambda key, part: None,
) -> Effects:
    """Each value of a stimulus, for every sequence, with nothing removed and with each group of heads removed.

    Exact: the clean residual stream is kept, each group starts again at its own first layer, groups that start
    together are stacked along the batch, and the unembedding is paid at the scored positions alone. ``kept`` holds
    finished parts of an earlier, interrupted call; ``on_part(key, part)`` hands out each finished part.

    Raises:
        InputError: a value that is not one finite number for each sequence; edits that the model's class drops.
    """
    check_edits(model, patterns=change.hold_patterns)
    kept = {} if kept is None else kept
    order = sorted(range(len(groups)), key=lambda index: min(head.layer for head in groups[index]))
    starts = [min(head.layer for head in groups[index]) for index in order]
    names = list(stimulus.values)
    clean = {name: np.full(len(stimulus.tokens), np.nan) for name in names}
    ablated = {name: np.full((len(groups), len(stimulus.tokens)), np.nan) for name in names}

    def work(rows: Int[Tensor, "batch pos"], part: slice) -> None:
        cuts = list(stacks(starts, len(rows), max(1, STACK_TOKENS // rows.shape[1])))
        keys = [f"{stimulus.name} {part.start}:{part.stop} {cut.start}:{cut.stop}" for cut in cuts]
        clean_key = f"{stimulus.name} {part.start}:{part.stop} clean"
        run = None if {clean_key, *keys} <= kept.keys() else clean_record(model, rows, change)
        if clean_key not in kept:
            kept[clean_key] = values_of(model, stimulus, rows, run[0].final)
            on_part(clean_key, kept[clean_key])
        for name in names:
            clean[name][part] = kept[clean_key][name][0]
        for cut, key in zip(cuts, keys, strict=True):
            members = [groups[index] for index in order[cut]]
            if key not in kept:
                final = _ablated_final(run, starts[cut.start], members, change)
                kept[key] = values_of(model, stimulus, rows, final)
                on_part(key, kept[key])
            for name in names:
                ablated[name][order[cut], part] = kept[key][name]

    for_batches(stimulus.tokens, work, batch_size)
    return Effects(clean, ablated)


def measure_attribution(
    model: Model, stimulus: Stimulus, change: Change = FULL_ZERO, *, batch_size: int | None = None
) -> dict[str, Float[np.ndarray, "layer head sequence"]]:
    """A first-order estimate of removing each head alone, from one forward and one backward pass over all heads.

    The change of each value, for every sequence: the sum over positions of (replacement - z) times the gradient of
    the value by z. Exact where the model is linear in z; far off where a head's absence changes much. The model's
    parameters keep their ``grad`` and ``requires_grad``, also under ``torch.inference_mode()``.

    Raises:
        InputError: a value that is not one finite number for each sequence or has no gradient; edits that the model's
            class drops.
    """
    check_edits(model, patterns=change.hold_patterns)
    layers = range(model.cfg.n_layers)
    shape = (len(layers), model.cfg.n_heads, len(stimulus.tokens))
    estimates = {name: np.full(shape, np.nan) for name in stimulus.values}

    @torch.inference_mode(False)
    @torch.enable_grad()
    def work(rows: Int[Tensor, "batch pos"], part: slice) -> None:
        rows = rows.clone()  # tokens made in inference mode cannot be kept for a backward pass
        outputs: dict[int, Tensor] = {}
        hooks = [(f"blocks.{layer}.attn.hook_z", _shown(layer, outputs)) for layer in layers]
        if change.hold_patterns:
            hooks += held_patterns(clean_record(model, rows, change)[1], 0, 1)
        final = run_with_gradient(model, rows, hooks)
        for name, value in _read(stimulus, rows, _losses(model, final, rows, stimulus.scored.clone())).items():
            # Unlike backward(), this leaves the ``grad`` of the caller's parameters alone.
            for layer, grad in zip(layers, _gradients(name, value, [outputs[layer] for layer in layers]), strict=True):
                z = outputs[layer].detach()
                new = 0.0 if change.output == "zero" else change.output[layer].to(z)
                estimates[name][layer, :, part] = ((new - z) * grad).sum((1, 3)).double().cpu().T

    for_batches(stimulus.tokens, work, batch_size)
    return estimates


def _gradients(name: str, value: Float[Tensor, " batch"], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    if not value.requires_grad:
        raise InputError(
            f"The measure {name!r} has no gradient by the losses; compute it from them in torch, without detach(), or "
            "use method='exact'."
        )
    return torch.autograd.grad(value.sum(), outputs, retain_graph=True, allow_unused=True, materialize_grads=True)


def _shown(layer: int, outputs: dict[int, Tensor]) -> Callable[..., Tensor]:
    def hook(z: Tensor, hook: object) -> Tensor:
        # Handed back as an edit: a TransformerBridge shows a reshaped copy that is not on the way to the loss itself.
        outputs[layer] = z.clone()
        return outputs[layer]

    return hook


def clean_record(model: Model, rows: Tensor, change: Change) -> tuple[Recorded, tuple[Tensor, ...]]:
    """A clean run that can be taken up again, and its attention, which is kept where ``change`` holds it."""
    patterns: list[Tensor] = []

    def keep(layer: Attention) -> None:
        if change.hold_patterns:
            patterns.append(layer.pattern.clone())

    return record(model, rows, keep), tuple(patterns)


def held_patterns(patterns: Sequence[Tensor], start: int, copies: int) -> list[tuple[str, Callable[..., Tensor]]]:
    """Hooks that hold attention at ``patterns`` from layer ``start`` on, for so many copies of their batch."""

    def hold(pattern: Tensor) -> Callable[..., Tensor]:
        return lambda own, hook: pattern.repeat(copies, 1, 1, 1).to(own)

    return [(f"blocks.{layer}.attn.hook_pattern", hold(patterns[layer])) for layer in range(start, len(patterns))]


def _ablated_final(
    run: tuple[Recorded, tuple[Tensor, ...]], start: int, groups: Sequence[Sequence[Head]], change: Change
) -> Float[Tensor, "rows pos d_model"]:
    """The final residual stream with each group removed in its own copy of the batch."""
    recorded, patterns = run
    rows = len(recorded.residuals[0])

    def remove(layer: int) -> Callable[..., Tensor]:
        def hook(z: Tensor, hook: object) -> Tensor:
            z = z.clone()
            for copy, group in enumerate(groups):
                here = [head.index for head in group if head.layer == layer]
                if here:
                    part = slice(copy * rows, (copy + 1) * rows)
                    z[part, :, here] = 0.0 if change.output == "zero" else change.output[layer][here].to(z)
            return z

        return hook

    layers = {head.layer for group in groups for head in group}
    hooks = [(f"blocks.{layer}.attn.hook_z", remove(layer)) for layer in sorted(layers)]
    hooks += held_patterns(patterns, start, len(groups))
    residual = recorded.residuals[start].repeat(len(groups), 1, 1)
    with torch.no_grad():
        return resume(recorded, start, residual, hooks)


def values_of(
    model: Model, stimulus: Stimulus, rows: Int[Tensor, "batch pos"], final: Float[Tensor, "rows pos d_model"]
) -> dict[str, list[list[float]]]:
    """Each value of each copy of the batch, as plain numbers [copy][sequence]."""
    found: dict[str, list[list[float]]] = {name: [] for name in stimulus.values}
    with torch.no_grad():
        for copy in final.split(len(rows)):
            values = _read(stimulus, rows, _losses(model, copy, rows, stimulus.scored))
            for name, value in values.items():
                found[name].append(value.double().tolist())
    return found


def _losses(model: Model, final: Tensor, rows: Tensor, scored: Tensor) -> Float[Tensor, "batch scored"]:
    logits = logits_at(model, final, scored)
    return loss_scores.token_losses(logits, rows.to(logits.device)[:, scored.to(logits.device) + 1])


def _read(stimulus: Stimulus, rows: Tensor, losses: Tensor) -> dict[str, Tensor]:
    values = {name: value(losses, rows) for name, value in stimulus.values.items()}
    for name, numbers in values.items():
        _check_measure(name, numbers, len(rows))
    return values


def _check_measure(name: str, numbers: object, sequences: int) -> None:
    if not isinstance(numbers, Tensor) or numbers.shape != (sequences,) or numbers.is_complex():
        given = tuple(numbers.shape) if isinstance(numbers, Tensor) else type(numbers).__name__
        raise InputError(
            f"The measure {name!r} must give one number for each of the {sequences} sequences, a tensor of shape "
            f"({sequences},); got {given}."
        )
    if not bool(numbers.isfinite().all()):
        wrong = float(numbers[~numbers.isfinite()][0])
        raise InputError(f"The measure {name!r} must give finite numbers; it gave {wrong} for some sequence.")
