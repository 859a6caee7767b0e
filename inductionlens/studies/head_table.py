"""Samples into the table of one row per head."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from inductionlens.detection import verdicts
from inductionlens.heads import Head
from inductionlens.intervals import mean_interval, ratio_interval
from inductionlens.measure import Samples
from inductionlens.models import Model
from inductionlens.models.activations import attention_layers
from inductionlens.models.origin import origin_of
from inductionlens.scores.attention import OFFSETS
from inductionlens.studies.options import ScanOptions
from inductionlens.studies.stimuli import ScanProbes
from inductionlens.tables import COLUMNS, ordered

if TYPE_CHECKING:
    import pandas


def head_table(
    model: Model,
    probes: ScanProbes,
    options: ScanOptions,
    samples: Mapping[str, Samples],
    per_head: Mapping[str, np.ndarray],
    behaviour: Mapping[str, Any],
) -> "pandas.DataFrame":
    """One row per head, layer by layer, in the columns of `inductionlens.tables.COLUMNS`; a hybrid's layers without
    attention have no rows."""
    import pandas as pd

    origin, n_heads = origin_of(model), model.cfg.n_heads
    group = n_heads // (getattr(model.cfg, "n_key_value_heads", None) or n_heads)
    heads = [Head(layer, index) for layer in range(model.cfg.n_layers) for index in range(n_heads)]
    peak, peak_samples = _offset_peak(samples)
    columns: dict[str, Any] = {
        "model": origin.name,
        "revision": origin.revision or "",
        "step": origin.checkpoint,
        "seed": options.seed,
        "probe": probes.repeated.describe(),
        "name": [head.label for head in heads],
        "layer": [head.layer for head in heads],
        "head": [head.index for head in heads],
        "kv_head": [head.index // group for head in heads],
        "previous_token_source": "random" if probes.text is None else "text",
        "offset_peak": peak.reshape(-1),
        **{score: values.reshape(-1) for score, values in per_head.items()},
        **{name: behaviour[name] for name in ("loss_first_copy", "loss_later_copies", "copying_gain")},
    }
    for score, part in {**samples, "offset_peak_value": peak_samples}.items():
        if score in COLUMNS:
            columns |= _with_interval(score, part)
    table = pd.DataFrame(columns, index=range(len(heads)))
    table = table[table["layer"].isin(attention_layers(model))].reset_index(drop=True)
    for name in table.columns.intersection(list(COLUMNS)):
        if COLUMNS[name].dtype != "str":
            table[name] = table[name].astype({"int": "Int64", "float": "float64"}[COLUMNS[name].dtype])
    table["kind"], table["why"] = verdicts(table, options.threshold, controlled=options.controls)
    return table.reindex(columns=ordered())


def _with_interval(score: str, part: Samples) -> dict[str, np.ndarray]:
    """A score's value per head and the two ends of its interval, each [heads]."""
    above = part.numerator.reshape(-1, part.numerator.shape[-1])
    if part.denominator is None:
        low, high = mean_interval(above)
    else:
        low, high = ratio_interval(above, part.denominator.reshape(above.shape))
    return {score: part.value().reshape(-1), f"{score}_low": low, f"{score}_high": high}


def _offset_peak(samples: Mapping[str, Samples]) -> tuple[np.ndarray, Samples]:
    """The offset with most attention, per head, and the attention it gets per sequence; NaN where none gets any."""
    offsets = [offset for offset in OFFSETS if f"offset {offset:+d}" in samples]
    profile = np.stack([samples[f"offset {offset:+d}"].numerator for offset in offsets])
    means = np.nan_to_num(profile.mean(-1), nan=-1.0)
    best = means.argmax(0)
    peak = np.where(means.max(0) > 0, np.array(offsets, dtype=float)[best], np.nan)
    values = np.take_along_axis(profile, best[None, ..., None], 0)[0]
    return peak, Samples(np.where(np.isfinite(peak)[..., None], values, np.nan))


def per_sequence(samples: Mapping[str, Samples]) -> dict[str, np.ndarray]:
    """Each score per head and sequence, [heads, sequences]; a ratio is NaN where its own sequence leaves it so."""
    kept = {}
    for name, part in samples.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            values = part.numerator if part.denominator is None else part.numerator / part.denominator
        kept[name] = values.reshape(-1, values.shape[-1])
    return kept
