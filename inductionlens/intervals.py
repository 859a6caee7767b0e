"""Intervals over sequences, and over seeds."""

import math

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
LEVEL = 0.95


def mean_interval(
    values: Float[np.ndarray, "row sequence"], *, seed: int = 0
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """The 95% percentile bootstrap interval of each row's mean over sequences; NaN with fewer than 2 sequences.

    All rows share their resamples. With the default 10 sequences such an interval is a little too narrow.
    """
    return ratio_interval(values, np.ones_like(values), seed=seed)


def ratio_interval(
    numerator: Float[np.ndarray, "row sequence"], denominator: Float[np.ndarray, "row sequence"], *, seed: int = 0
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """The same of each row's sum of numerators over sum of denominators; NaN where that is undefined."""
    from scipy import stats

    low, high = (np.full(len(numerator), np.nan) for _ in range(2))
    defined = np.isfinite(numerator).all(1) & np.isfinite(denominator).all(1) & (denominator.sum(1) != 0)
    if numerator.shape[1] < 2 or not defined.any():
        return low, high

    def statistic(above: np.ndarray, below: np.ndarray, axis: int) -> np.ndarray:
        total = below.sum(axis)
        with np.errstate(invalid="ignore", divide="ignore"):
            return above.sum(axis) / total

    result = stats.bootstrap(
        (numerator[defined].astype(np.float64), denominator[defined].astype(np.float64)),
        statistic,
        paired=True,
        vectorized=True,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=50,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low[defined], high[defined] = result.confidence_interval
    return low, high


def student_interval(values: Float[np.ndarray, " seed"]) -> tuple[float, float]:
    """Student's t interval (95%) of the mean of a few independent values; NaN with fewer than 2.

    For training seeds: of three to five values a bootstrap interval is far too narrow.
    """
    from scipy import stats

    if len(values) < 2:
        return math.nan, math.nan
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
