"""p and q: how often chance does as well."""

import numpy as np
import pytest
from scipy import stats

from inductionlens.nulls import p_values


def test_where_nothing_varies_ranks_are_exact():
    ones, zeros = np.ones((1, 10)), np.zeros((1, 10))
    assert p_values(ones, zeros)[0] == pytest.approx(1 / 184756, rel=1e-9)
    assert p_values(ones, ones)[0] >= 0.5
    assert p_values(zeros, ones)[0] == pytest.approx(1)


def test_p_is_the_larger_of_welch_and_ranks():
    rng = np.random.default_rng(0)
    high, low = rng.normal(0.8, 2, (50, 10)), rng.exponential(size=(50, 10))
    high[0, 0] = 100  # an outlier: t says less than ranks
    found = p_values(high, low)
    by_mean, by_rank = [], []
    for one, other in zip(high, low, strict=True):
        by_mean.append(stats.ttest_ind(one, other, equal_var=False, alternative="greater").pvalue)
        by_rank.append(stats.mannwhitneyu(one, other, alternative="greater", method="exact").pvalue)
    assert found == pytest.approx(np.maximum(by_mean, by_rank), rel=1e-3)
    assert (np.array(by_mean) > by_rank).any()
    assert (np.array(by_rank) > by_mean).any()


def test_p_is_undefined_where_a_score_is_and_for_one_sequence():
    holed = np.ones((2, 5))
    holed[0, 3] = np.nan
    found = p_values(holed, np.zeros((2, 5)))
    assert np.isnan(found[0])
    assert 0 < found[1] == pytest.approx(1 / 252)
    assert np.isnan(p_values(np.ones((1, 1)), np.zeros((1, 1)))).all()


def test_differences_of_rounding_are_ties():
    ones = np.ones((1, 10))
    assert p_values(ones + 1e-8, ones)[0] >= 0.5


def test_three_against_three_is_never_small():
    assert p_values(np.arange(3.0)[None] + 9, np.arange(3.0)[None])[0] == pytest.approx(0.05)
