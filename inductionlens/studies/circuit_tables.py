"""Circuits into tables: one row per pair, one per head."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from inductionlens.composition import VIA, Composition, KTerm
from inductionlens.head_scores import HeadScores
from inductionlens.heads import Head
from inductionlens.intervals import ratio_interval
from inductionlens.models import Model
from inductionlens.models.origin import origin_of
from inductionlens.paths import PathEffects

if TYPE_CHECKING:
    import pandas

_SHARES = ("prefix_lost", "logit_lost")
_MEASURED = (
    *("eigen", "prefix_matching", "induction_logit"),
    *(f"{share}{end}" for share in _SHARES for end in ("", "_low", "_high", "_direct")),
    *("ablated_lost", "causal"),
)


def pair_rows(
    model: Model,
    scores: HeadScores,
    composition: Composition,
    writers: Sequence[Head],
    readers: Sequence[Head],
    paths: PathEffects,
    eigen: Mapping[tuple[Head, Head, str], float],
) -> "pandas.DataFrame":
    """One row per writer, reader of a later layer, and via; reader by reader."""
    import pandas as pd

    measured = _measured(writers, readers, paths)
    kinds = dict(zip(scores.table["name"], scores.table["kind"], strict=True))
    mean, spread = composition.baseline
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    rows: list[dict[str, Any]] = []
    for reader in (Head(layer, index) for layer in layers for index in heads):
        for via in VIA:
            for writer in (Head(layer, index) for layer in range(reader.layer) for index in heads):
                raw = float(composition.raw[via][(*writer, *reader)])
                rows.append(
                    {
                        "writer": writer.label, "reader": reader.label, "via": via,
                        "writer_kind": kinds[writer.label], "reader_kind": kinds[reader.label],
                        "composition": raw - mean, "composition_raw": raw, "composition_z": (raw - mean) / spread,
                        "eigen": eigen.get((writer, reader, via), np.nan),
                        **measured.get((writer, reader, via), {}),
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows)
    table.insert(0, "model", origin_of(model).name)
    for name in _MEASURED:
        table[name] = table[name].astype("float64") if name in table else np.nan
    groups = table.groupby(["reader", "via"], sort=False)
    for name in ("composition", "causal"):
        table[f"rank_{name}"] = groups[name].rank(ascending=False, method="min").astype("Int64")
    return table


def _measured(
    writers: Sequence[Head], readers: Sequence[Head], paths: PathEffects
) -> dict[tuple[Head, Head, str], dict[str, float]]:
    """What was measured of each path: means over sequences, shares lost, and the shares' intervals."""
    pairs = [
        (column, line) for column, reader in enumerate(readers) for line, writer in enumerate(writers)
        if writer.layer < reader.layer
    ]  # fmt: skip
    columns, lines = (list(part) for part in zip(*pairs, strict=True))
    found: dict[tuple[Head, Head, str], dict[str, float]] = {}
    for via in VIA:
        parts: dict[str, np.ndarray] = {}
        for share, whole, without, clean in (
            ("prefix_lost", "prefix_matching", paths.prefix_without, paths.prefix_matching[columns]),
            ("logit_lost", "induction_logit", paths.logit_without, paths.induction_logit[columns]),
        ):
            # The share that stays has the interval of a ratio of sums; what is lost is the rest of it.
            stays, direct = (without[how, via][lines, columns] for how in ("total", "direct"))
            low, high = ratio_interval(stays, clean)
            parts |= {whole: clean.mean(1), share: _lost(stays, clean), f"{share}_direct": _lost(direct, clean)}
            parts |= {f"{share}_low": 1 - high, f"{share}_high": 1 - low}
        parts["ablated_lost"] = _lost(paths.prefix_ablated[lines, columns], paths.prefix_matching[columns])
        parts["causal"] = parts["logit_lost" if via == "v" else "prefix_lost"]
        for place, (column, line) in enumerate(pairs):
            found[writers[line], readers[column], via] = {name: float(part[place]) for name, part in parts.items()}
    return found


def _lost(stays: Float[np.ndarray, "pair sequence"], clean: Float[np.ndarray, "pair sequence"]) -> np.ndarray:
    """Which share of the clean mean is gone; NaN where that is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(clean.mean(1) != 0, 1 - stays.mean(1) / clean.mean(1), np.nan)


def head_rows(model: Model, scores: HeadScores, shares: Mapping[int, np.ndarray], k_term: KTerm) -> "pandas.DataFrame":
    """One row per head: what it is, its OV circuit, and its QK circuit through previous-token heads."""
    table = scores.table.sort_values(["layer", "head"]).reset_index(drop=True)
    own = ["model", "name", "layer", "head", "kind", "prefix_matching", "previous_token"]
    own += ["previous_token_source", "ov_eigen", "ov_eigen_fraction"]
    return table[own].assign(
        **{f"ov_top{count}": share.reshape(-1) for count, share in shares.items()},
        qk_eigen=k_term.eigen.reshape(-1),
        qk_eigen_trace=k_term.trace.reshape(-1),
    )
