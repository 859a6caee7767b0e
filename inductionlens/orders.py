"""Loss with paths through 0, 1, 2 ... heads alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.effects import Change, Stimulus, clean_record, held_patterns, values_of
from inductionlens.models import Model
from inductionlens.models.ablation import check_edits
from inductionlens.models.batches import for_batches
from inductionlens.models.replay import Recorded, resume

_HELD = Change("zero", hold_patterns=True)


class Orders(NamedTuple):
    """Each value of a stimulus, for every sequence, with attention held and only some paths through heads left."""

    up_to: dict[str, Float[np.ndarray, "order sequence"]]
    """Entry n: paths through at most n heads, one after the other. 0 is no head at all; the last is the model."""
    alone: dict[str, Float[np.ndarray, "layer sequence"]]
    """Order 1, one layer's heads alone."""
    without: dict[str, Float[np.ndarray, "layer sequence"]]
    """Order 1, all layers' heads but one's."""


def measure_orders(
    model: Model,
    stimulus: Stimulus,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Orders:
    """The term-importance algorithm of Elhage et al. 2021, acting on head outputs before W_O.

    Attention is held at the clean run's throughout. Run 0 adds no head's output, and keeps what each would have been;
    run n adds what run n - 1 kept: paths through at most n heads. Attention held, only V-composition is taken apart. In
    an attention-only model run n_layers is the model itself; MLPs and norms, where there are any, answer to every run.
    b_O is in all of them.

    Raises:
        InputError: a model whose class drops edits of head outputs or of attention.
    """
    check_edits(model, patterns=True)
    layers, sequences = model.cfg.n_layers, len(stimulus.tokens)
    sizes = {"up_to": layers + 1, "alone": layers, "without": layers}
    found = {
        part: {name: np.full((rows, sequences), np.nan) for name in stimulus.values} for part, rows in sizes.items()
    }

    def work(rows: Int[Tensor, "batch pos"], where: slice) -> None:
        run, patterns = clean_record(model, rows, _HELD)
        hold = held_patterns(patterns, 0, 1)

        def put(part: str, row: int, final: Tensor) -> None:
            for name, values in values_of(model, stimulus, rows, final).items():
                found[part][name][row, where] = values[0]

        outputs: list[Tensor | None] = [None] * layers
        for order in range(layers + 1):
            final, outputs = _run(run, hold, outputs)
            put("up_to", order, final)
            if order == 0:
                first = list(outputs)
        for layer in range(layers):
            alone = [kept if index == layer else None for index, kept in enumerate(first)]
            without = [None if index == layer else kept for index, kept in enumerate(first)]
            put("alone", layer, _run(run, hold, alone)[0])
            put("without", layer, _run(run, hold, without)[0])

    for_batches(stimulus.tokens, work, batch_size, progress)
    return Orders(**found)


def _run(
    run: Recorded, hold: Sequence[tuple[str, Callable[..., Tensor]]], outputs: Sequence[Tensor | None]
) -> tuple[Float[Tensor, "batch pos d_model"], list[Tensor]]:
    """One run that adds ``outputs`` for each layer's heads (None: nothing), and what their outputs would have been."""
    kept: list[Tensor] = []

    def swap(output: Tensor | None) -> Callable[..., Tensor]:
        def hook(z: Tensor, hook: object) -> Tensor:
            kept.append(z.clone())
            return torch.zeros_like(z) if output is None else output

        return hook

    hooks = [(f"blocks.{layer}.attn.hook_z", swap(output)) for layer, output in enumerate(outputs)]
    with torch.no_grad():
        return resume(run, 0, run.residuals[0], [*hold, *hooks]), kept
