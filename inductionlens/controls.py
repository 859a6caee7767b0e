"""What heads score where there is nothing to find."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inductionlens.measure import Samples
from inductionlens.models import Model
from inductionlens.models.activations import Attention, batches, run_reduced
from inductionlens.probes import GappedProbe
from inductionlens.scores import attention

Progress = Callable[[int], None]


def measure_gapped(
    model: Model, probe: GappedProbe, *, batch_size: int | None = None, progress: Progress | None = None
) -> Samples:
    """Prefix matching per head and sequence on repeats at uneven distances. An ideal content head scores 1, a head
    that looks a fixed distance back next to nothing."""
    queries, keys, n_queries = attention.layout_entries(probe.starts, probe.period)
    found = np.full((model.cfg.n_layers, model.cfg.n_heads, len(probe.tokens)), np.nan)
    for batch in batches(probe.tokens, batch_size):
        with batch:
            part = batch.part
            row = torch.arange(len(batch.rows)).repeat_interleave(queries.shape[1])
            weight = torch.full(row.shape, 1 / n_queries, dtype=torch.float64)
            entries = attention.Entries(row, queries[part].flatten(), keys[part].flatten(), weight)

            def reduce(layer: Attention, entries: attention.Entries = entries, part: slice = part) -> None:
                found[layer.layer, :, part] = attention.attend(entries, layer.pattern).numpy().T

            run_reduced(model, batch.rows, reduce)
            if progress is not None:
                progress(len(batch.rows))
    return Samples(found)


def measure_fresh(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    layouts: Int[Tensor, "layout repeat"],
    target: Bool[Tensor, "query key"],
    period: int,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[Samples, Float[np.ndarray, "layer head sequence layout"]]:
    """Prefix matching read at a probe's positions on tokens that never repeat: (a) at ``target``, where the repeated
    probe has its own, per head and sequence; (b) at each of ``layouts``, the null of the gapped probe."""
    shape = (model.cfg.n_layers, model.cfg.n_heads, len(tokens))
    at_even, at_layouts = np.full(shape, np.nan), np.full((*shape, len(layouts)), np.nan)
    query, key = target.nonzero(as_tuple=True)
    reads = [
        (query[None], key[None], int(target.any(-1).sum())),
        attention.layout_entries(layouts, period),
    ]
    for batch in batches(tokens, batch_size):
        with batch:

            def reduce(layer: Attention, part: slice = batch.part) -> None:
                one, many = (attention.attend_layouts(layer.pattern, *read).numpy() for read in reads)
                at_even[layer.layer, :, part] = one[..., 0].T
                at_layouts[layer.layer, :, part] = many.transpose(1, 0, 2)

            run_reduced(model, batch.rows, reduce)
            if progress is not None:
                progress(len(batch.rows))
    return Samples(at_even), at_layouts
