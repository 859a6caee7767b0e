"""What changed between two scans."""

from typing import TYPE_CHECKING

import numpy as np

from inductionlens.errors import InputError
from inductionlens.head_scores import HeadScores
from inductionlens.tables import SCORES

if TYPE_CHECKING:
    import pandas


def compare(first: HeadScores, second: HeadScores) -> "pandas.DataFrame":
    """Compare two scans of models of one shape, head by head: seeds, checkpoints, trainings.

    One row per head and score that both tables have: ``first``, ``second``, their ``difference`` (second minus
    first), the ends ``low`` and ``high`` of its 95% interval, and ``changed``: whether that interval excludes 0. The
    two scans count as independent, so half-widths add in squares; NaN, and never ``changed``, for scores without
    intervals. ``first_kind`` and ``second_kind`` are the verdicts.

    Raises:
        InputError: the tables do not have the same heads, or no score in common.
    """
    import pandas as pd

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
        difference = two[score].astype(float) - one[score].astype(float)
        half = np.hypot(_half_width(one, score), _half_width(two, score))
        low, high = difference - half, difference + half
        parts.append(
            pd.DataFrame(
                {
                    "score": score,
                    "first": one[score].astype(float),
                    "second": two[score].astype(float),
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "changed": (low > 0) | (high < 0),
                    "first_kind": one["kind"] if "kind" in one.columns else "",
                    "second_kind": two["kind"] if "kind" in two.columns else "",
                }
            )
        )
    return pd.concat(parts).reset_index()


def _half_width(table: "pandas.DataFrame", score: str) -> np.ndarray:
    """Half the length of a score's interval; NaN where it has none."""
    if f"{score}_low" not in table.columns or f"{score}_high" not in table.columns:
        return np.full(len(table), np.nan)
    return ((table[f"{score}_high"] - table[f"{score}_low"]) / 2).to_numpy(dtype=float)


def _shape(scores: HeadScores) -> str:
    table = scores.table
    return f"{int(table['layer'].max()) + 1} layers of {int(table['head'].max()) + 1} heads ({len(table)} rows)"
