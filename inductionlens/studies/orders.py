"""Through how many heads does a model's knowledge go?"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.checks import check_choices
from inductionlens.errors import InputError
from inductionlens.intervals import mean_interval
from inductionlens.models import Model
from inductionlens.models.loading import load_model
from inductionlens.models.origin import origin_of
from inductionlens.orders import Orders, measure_orders
from inductionlens.studies.ablation_options import AblationOptions
from inductionlens.studies.ablation_stimuli import make_stimuli
from inductionlens.studies.provenance import study_record

if TYPE_CHECKING:
    import pandas

MEASURES = ("copies", "text")
#: The settings of `AblationOptions` that choose stimuli.
SETTINGS = ("text", "n_windows", "length", "sequences", "period", "repeats", "bos", "seed", "batch_size", "pool")


class MeasuredOrders(NamedTuple):
    """What `path_orders` gives, and how it was measured."""

    table: "pandas.DataFrame"
    record: dict[str, Any]


def path_orders(
    model: Model | str | Path,
    windows: Int[Tensor, "batch pos"] | None = None,
    *,
    measures: tuple[str, ...] = MEASURES,
    on_progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> "pandas.DataFrame":
    """Loss with paths through at most 0, 1, 2 ... heads, and what each layer's heads add. Elhage et al. 2021.

    One row per measure (``copies``: later copies of random blocks; ``text``: windows) and ``term``. ``order N``: paths
    through at most N heads one after the other, attention held at the clean run's; ``gain`` is what the N-th order
    takes off the loss, order 0 off a uniform guess. ``layer L alone`` and ``layer L beside the others``: what that
    layer's heads take off at order 1, by themselves, and where the other layers' are there already. Nats, 95% intervals
    over sequences. Attention held, an order counts V-composition only. ``settings`` are those of `AblationOptions` that
    choose stimuli.

    Raises:
        InputError: stimuli that do not fit, or a class that drops edits.
    """
    return measured_orders(model, windows, measures, on_progress, settings).table


def measured_orders(
    model: Model | str | Path,
    windows: Int[Tensor, "batch pos"] | None,
    measures: tuple[str, ...],
    on_progress: Callable[[int, int], None] | None,
    settings: dict[str, Any],
) -> MeasuredOrders:
    """`path_orders`, with the record of how it was measured."""
    options = order_options(measures, settings)
    model = load_model(model)
    stimuli, notes = make_stimuli(model, windows, options, {})
    total, done, rows = sum(len(stimulus.tokens) for stimulus in stimuli), 0, []

    def progress(sequences: int) -> None:
        nonlocal done
        done += sequences
        if on_progress is not None:
            on_progress(done, total)

    for stimulus in stimuli:
        found = measure_orders(model, stimulus, batch_size=options.batch_size, progress=progress)
        for measure in stimulus.values:
            rows += _rows(found, measure, math.log(model.cfg.d_vocab))
    import pandas as pd

    table = pd.DataFrame(rows)
    table.insert(0, "model", origin_of(model).name)
    used = {name: getattr(options, name) for name in ("measures", *SETTINGS)}
    return MeasuredOrders(table, study_record("orders", model, used) | {"stimuli": notes})


def order_options(measures: tuple[str, ...], settings: Mapping[str, Any]) -> AblationOptions:
    """The settings of `path_orders` as one bundle.

    Raises:
        InputError: one that it does not have, or that cannot be used.
    """
    unknown = [name for name in settings if name not in SETTINGS]
    if unknown:
        raise InputError(f"path_orders has no setting {unknown[0]!r}; it has measures, {', '.join(SETTINGS)}.")
    check_choices("measures", measures, MEASURES)
    return AblationOptions(measures=tuple(measures), **settings)


def _rows(found: Orders, measure: str, uniform: float) -> list[dict[str, Any]]:
    orders, alone, without = found.up_to[measure], found.alone[measure], found.without[measure]
    before = np.concatenate([np.full_like(orders[:1], uniform), orders[:-1]])
    terms = [(f"order {order}", losses, before[order] - losses) for order, losses in enumerate(orders)]
    for layer, losses in enumerate(alone):
        terms.append((f"layer {layer} alone", losses, orders[0] - losses))
        terms.append((f"layer {layer} beside the others", orders[1], without[layer] - orders[1]))
    return [
        {"measure": measure, "term": term, **_with_interval("loss", losses), **_with_interval("gain", gain)}
        for term, losses, gain in terms
    ]


def _with_interval(name: str, values: Float[np.ndarray, " sequence"]) -> dict[str, float]:
    low, high = mean_interval(values[None])
    return {name: float(values.mean()), f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}
