"""Circuits into tables: one row per pair, one per head."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from inductionlens.composition import VIA, Composition, KTerm
from inductionlens.head_scores import HeadScores
from inductionlens.heads import Head
from inductionlens.intervals import mean_interval, ratio_interval
from inductionlens.models import Model
from inductionlens.models.origin import origin_of
from inductionlens.paths import PathEffects
from inductionlens.probes import Probe

if TYPE_CHECKING:
    import pandas

#: Logits that a reader must add to or take off the right token for shares of it to be given: 0.01 changes the token's
#: odds by 1%, and shares of less are shares of what nobody would miss.
LEAST_LOGIT = 0.01
_SHARES = ("prefix_lost", "logit_lost")
_MEASURED = (
    *("eigen", "prefix_matching", "induction_logit"),
    *(f"{share}{end}" for share in _SHARES for end in ("", "_low", "_high", "_direct")),
    *("ablated_lost", "causal"),
)


def least_prefix_matching(probe: Probe) -> float:
    """Prefix matching of attention that is spread evenly over all earlier tokens, 0..1: what chance gives.

    A reader with no more has no prefix matching to lose, and shares of it would be shares of chance.
    """
    start = 0 if probe.bos is None else 1
    return float(np.mean([1 / (start + probe.period + place + 1) for place in range(probe.period)]))


def pair_rows(
    model: Model,
    scores: HeadScores,
    composition: Composition,
    writers: Sequence[Head],
    readers: Sequence[Head],
    paths: PathEffects,
    eigen: Mapping[tuple[Head, Head, str], float],
    least_prefix: float,
) -> "pandas.DataFrame":
    """One row per writer, reader of a later layer, and via; reader by reader.

    Shares are empty where there is nothing to lose: prefix matching that is below ``least_prefix`` (see
    `least_prefix_matching`) or not clear of it, an effect on the right logit below `LEAST_LOGIT` or not clear of 0.
    """
    import pandas as pd

    measured = _measured(writers, readers, paths, least_prefix)
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
    writers: Sequence[Head], readers: Sequence[Head], paths: PathEffects, least_prefix: float
) -> dict[tuple[Head, Head, str], dict[str, float]]:
    """What was measured of each path: means over sequences, shares lost, and the shares' intervals."""
    pairs = [
        (column, line) for column, reader in enumerate(readers) for line, writer in enumerate(writers)
        if writer.layer < reader.layer
    ]  # fmt: skip
    columns, lines = (list(part) for part in zip(*pairs, strict=True))
    # Without something to lose a share is noise over noise: its clean value counts as undefined.
    prefix = _where_clear(paths.prefix_matching, least_prefix, least_prefix)
    logit = _where_clear(paths.induction_logit, LEAST_LOGIT, 0.0)
    found: dict[tuple[Head, Head, str], dict[str, float]] = {}
    for via in VIA:
        parts = {
            "prefix_matching": paths.prefix_matching[columns].mean(1),
            "induction_logit": paths.induction_logit[columns].mean(1),
        }
        for share, without, clean in (
            ("prefix_lost", paths.prefix_without, prefix[columns]),
            ("logit_lost", paths.logit_without, logit[columns]),
        ):
            # The share that stays has the interval of a ratio of sums; what is lost is the rest of it.
            stays, direct = (without[how, via][lines, columns] for how in ("total", "direct"))
            low, high = ratio_interval(stays, clean)
            parts |= {share: _lost(stays, clean), f"{share}_direct": _lost(direct, clean)}
            parts |= {f"{share}_low": 1 - high, f"{share}_high": 1 - low}
        parts["ablated_lost"] = _lost(paths.prefix_ablated[lines, columns], prefix[columns])
        parts["causal"] = parts["logit_lost" if via == "v" else "prefix_lost"]
        for place, (column, line) in enumerate(pairs):
            found[writers[line], readers[column], via] = {name: float(part[place]) for name, part in parts.items()}
    return found


def _where_clear(
    clean: Float[np.ndarray, "reader sequence"], least: float, chance: float
) -> Float[np.ndarray, "reader sequence"]:
    """Clean values of the readers that have something to lose, NaN for the others: a mean of ``least`` or more either
    side of 0, and an interval, where there is one, that does not hold ``chance``."""
    low, high = mean_interval(clean)
    kept = (np.abs(clean.mean(1)) >= least) & ~((low <= chance) & (high >= chance))
    return np.where(kept[:, None], clean, np.nan)


def _lost(stays: Float[np.ndarray, "pair sequence"], clean: Float[np.ndarray, "pair sequence"]) -> np.ndarray:
    """Which share of the clean mean is gone; NaN where that is 0 or undefined."""
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
