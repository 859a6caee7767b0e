"""What changed between two scans."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from inductionlens.detection import FALSE_DISCOVERIES
from inductionlens.errors import InputError
from inductionlens.head_scores import HeadScores
from inductionlens.intervals import LEVEL, standard_error
from inductionlens.nulls import false_discovery
from inductionlens.tables import SCORES

if TYPE_CHECKING:
    import pandas


def compare(first: HeadScores, second: HeadScores) -> "pandas.DataFrame":
    """Compare two scans of models of one shape, head by head: seeds, checkpoints, trainings.

    One row per head and score that both tables have: ``first``, ``second``, their ``difference`` (second minus first),
    the ends ``low`` and ``high`` of its 95% interval, ``p_value`` of Welch's t test that there is none, ``q_value``,
    the same corrected over all heads for that score (Benjamini and Hochberg 1995), and ``changed``: whether q is at
    most 0.05. Standard errors are those behind the two intervals; the two scans count as independent, which of scans
    with one seed is cautious: they saw the same sequences. A table without its record does not say how many sequences
    it rests on, and its intervals count as those of many. All empty, and never ``changed``, for scores without
    intervals. ``first_kind`` and ``second_kind`` are the verdicts.

    Raises:
        InputError: no tables of scans, or tables that do not have the same heads, or no score in common.
    """
    import pandas as pd

    for scores in (first, second):
        if not isinstance(scores, HeadScores):
            raise InputError(f"compare takes what scan or read_scores gives; got {type(scores).__name__}.")
    one, two = (scores.table.set_index(["layer", "head"]).sort_index() for scores in (first, second))
    if not one.index.equals(two.index):
        raise InputError(
            f"Only scans of models of one shape can be compared; the tables have {_shape(first)} and {_shape(second)}."
        )
    shared = [score for score in SCORES if score in one.columns and score in two.columns]
    if not shared:
        raise InputError("The two tables have no score in common.")
    parts = []
    for score in shared:
        difference = (two[score].astype(float) - one[score].astype(float)).to_numpy()
        errors = [_error(table, score, _sequences(scores, score)) for table, scores in ((one, first), (two, second))]
        half, p = _welch(difference, errors, [_sequences(scores, score) for scores in (first, second)])
        q = false_discovery(p)
        parts.append(
            pd.DataFrame(
                {
                    "score": score,
                    "first": one[score].astype(float),
                    "second": two[score].astype(float),
                    "difference": difference,
                    "low": difference - half,
                    "high": difference + half,
                    "p_value": p,
                    "q_value": q,
                    "changed": q <= FALSE_DISCOVERIES,
                    "first_kind": one["kind"] if "kind" in one.columns else "",
                    "second_kind": two["kind"] if "kind" in two.columns else "",
                }
            )
        )
    return pd.concat(parts).reset_index()


def _welch(
    difference: Float[np.ndarray, " head"], errors: list[Float[np.ndarray, " head"]], sequences: list[int | None]
) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
    """Half the length of each difference's 95% interval, and its two-sided p-value: Welch's t test from two standard
    errors. Where neither score varies every difference is one: p is 0 or 1."""
    from scipy import stats

    squares = [error**2 for error in errors]
    whole = squares[0] + squares[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        spare = sum(
            square**2 / (count - 1) for square, count in zip(squares, sequences, strict=True) if count is not None
        )
        freedom = np.where(spare > 0, whole**2 / np.where(spare > 0, spare, 1), 1e9)
        t = np.where(difference == 0, 0.0, np.abs(difference) / np.sqrt(whole))
    p = 2 * stats.t.sf(t, freedom)
    return stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(whole), np.where(np.isfinite(whole), p, np.nan)


def _error(table: "pandas.DataFrame", score: str, sequences: int | None) -> Float[np.ndarray, " head"]:
    """The standard error behind a score's interval; NaN where it has none."""
    if f"{score}_low" not in table.columns or f"{score}_high" not in table.columns:
        return np.full(len(table), np.nan)
    half = ((table[f"{score}_high"] - table[f"{score}_low"]) / 2).to_numpy(dtype=float)
    return standard_error(half, 10**9 if sequences is None else sequences)


def _sequences(scores: HeadScores, score: str) -> int | None:
    """How many sequences stand behind a score, as the record says; None without one."""
    intervals: Any = scores.provenance.get("intervals")
    count = intervals.get("sequences", {}).get(score) if isinstance(intervals, dict) else None
    return count if isinstance(count, int) and count > 1 else None


def _shape(scores: HeadScores) -> str:
    table = scores.table
    return f"{int(table['layer'].max()) + 1} layers of {int(table['head'].max()) + 1} heads ({len(table)} rows)"
