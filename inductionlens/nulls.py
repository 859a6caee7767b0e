"""How often chance does as well."""

import numpy as np
from jaxtyping import Float

#: Differences below this are rounding: attention comes in float32.
ROUNDING = 1e-6


def p_values(
    observed: Float[np.ndarray, "head sequence"], null: Float[np.ndarray, "head other"]
) -> Float[np.ndarray, " head"]:
    """How often a head scores as much higher on ``observed`` sequences than on ``null`` ones by chance; never 0.

    One-sided, per head: the larger of Welch's t test (of the means, variances unequal) and the exact rank-sum test of
    Wilcoxon, Mann and Whitney. Both hold that the head pays no heed to what sets the two kinds of sequence apart. t
    alone says p <= 0.05 too often in heads that heed the key's token alone and sharply (a false discovery in 7% of
    models, where 5% are allowed), ranks alone in random heads; the larger of both in neither (``pytest
    tests/calibration -m slow``). Where nothing varies, as in ideal heads, t has no answer and ranks are exact: of 10
    sequences against 10, all higher, p = 1 / 184,756. So few sequences can say little: of 3 against 3 p is never
    below 0.05. NaN where a score is, and of one sequence.

    >>> import numpy as np
    >>> float(p_values(np.ones((1, 4)), np.zeros((1, 4)))[0]) == 1 / 70
    True
    """
    from scipy import stats

    p = np.full(len(observed), np.nan)
    defined = np.isfinite(observed).all(1) & np.isfinite(null).all(1)
    if not defined.any() or min(observed.shape[1], null.shape[1]) < 2:
        return p
    high, low = observed[defined], null[defined]
    # Rounded, so that two ways to compute the same attention tie.
    high, low = (np.round(part / ROUNDING) * ROUNDING for part in (high, low))
    means, spreads = (high.mean(1), low.mean(1)), (high.std(1, ddof=1), low.std(1, ddof=1))
    by_mean = np.where(means[0] > means[1], 0.0, 1.0)
    varied = np.hypot(*spreads) > ROUNDING * 1e-3
    # From means and spreads: of the sequences themselves scipy warns where one side does not vary.
    by_mean[varied] = stats.ttest_ind_from_stats(
        means[0][varied], spreads[0][varied], high.shape[1], means[1][varied], spreads[1][varied], low.shape[1],
        equal_var=False, alternative="greater",
    ).pvalue  # fmt: skip
    by_rank = stats.mannwhitneyu(high, low, axis=1, alternative="greater", method=_method(high, low)).pvalue
    p[defined] = np.maximum(by_mean, by_rank)
    return p


def _method(high: np.ndarray, low: np.ndarray) -> str:
    # Exact counts grow with the product of both; from 50 on the normal approximation is as good.
    return "exact" if max(high.shape[1], low.shape[1]) <= 50 else "asymptotic"


def false_discovery(p: Float[np.ndarray, " head"]) -> Float[np.ndarray, " head"]:
    """Benjamini and Hochberg's q per head, over all heads of a model; NaN where p is."""
    from scipy import stats

    q = np.full(len(p), np.nan)
    defined = np.isfinite(p)
    if defined.any():
        q[defined] = stats.false_discovery_control(p[defined], method="bh")
    return q
