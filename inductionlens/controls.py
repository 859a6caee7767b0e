"""What heads score where there is nothing to find."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from inductionlens.measure import Samples
from inductionlens.models import Model
from inductionlens.models.activations import Attention, run_reduced
from inductionlens.models.batches import for_batches
from inductionlens.probes import GappedProbe
from inductionlens.scores import attention

Progress = Callable[[int], None]


def measure_gapped(
    model: Model, probe: GappedProbe, *, batch_size: int | None = None, progress: Progress | None = None
) -> Samples:
    """Prefix matching per head and sequence on repeats at uneven distances. An ideal content head scores 1, a head
    that looks a fixed distance back next to nothing."""
    queries, keys, n_queries = attention.layout_entries(probe.starts, probe.period)
    scores = np.full((model.cfg.n_layers, model.cfg.n_heads, len(probe.tokens)), np.nan)

    def work(rows: Int[Tensor, "batch pos"], part: slice) -> None:
        row = torch.arange(len(rows)).repeat_interleave(queries.shape[1])
        weight = torch.full(row.shape, 1 / n_queries, dtype=torch.float64)
        entries = attention.Entries(row, queries[part].flatten(), keys[part].flatten(), weight)

        def reduce(layer: Attention) -> None:
            scores[layer.layer, :, part] = attention.attend(entries, layer.pattern).numpy().T

        run_reduced(model, rows, reduce)

    for_batches(probe.tokens, work, batch_size, progress)
    return Samples(scores)


def measure_fresh(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    probe: GappedProbe,
    target: Bool[Tensor, "query key"],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[Samples, Samples]:
    """Prefix matching read at a probe's positions on tokens that never repeat: (a) at ``target``, where the repeated
    probe has its own; (b) as the gapped ``probe`` would have it, averaged over all its layouts: what its p-values are
    taken against."""
    shape = (model.cfg.n_layers, model.cfg.n_heads, len(tokens))
    at_even, at_layouts = np.full(shape, np.nan), np.full(shape, np.nan)
    query, key = target.nonzero(as_tuple=True)
    even = (query, key, torch.full(query.shape, 1 / int(target.any(-1).sum()), dtype=torch.float64))
    layouts = attention.expected_entries(
        probe.period, probe.starts.shape[1], probe.gap, int(probe.bos is not None)
    )  # fmt: skip

    def work(rows: Int[Tensor, "batch pos"], part: slice) -> None:
        def reduce(layer: Attention) -> None:
            for scores, read in ((at_even, even), (at_layouts, layouts)):
                # One row at a time: the entries of all layouts are many.
                for place, pattern in enumerate(layer.pattern):
                    entries = attention.Entries(torch.zeros_like(read[0]), *read)
                    scores[layer.layer, :, part.start + place] = attention.attend(entries, pattern[None]).numpy()[0]

        run_reduced(model, rows, reduce)

    for_batches(tokens, work, batch_size, progress)
    return Samples(at_even), Samples(at_layouts)
