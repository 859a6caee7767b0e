"""Intervals over sequences, against their formulas in plain Python."""

import math

import numpy as np
import pytest

from inductionlens.intervals import mean_interval, ratio_interval

T_OF_FIVE = 2.7764451051977987


def twin(above, below):
    ratio = sum(above) / sum(below)
    mean = sum(below) / len(below)
    squares = sum(((a - ratio * b) / mean) ** 2 for a, b in zip(above, below, strict=True))
    half = T_OF_FIVE * math.sqrt(squares / (len(above) - 1) / len(above))
    return ratio - half, ratio + half


def test_intervals_equal_their_twin():
    rng = np.random.default_rng(0)
    above, below = rng.normal(2, 1, (3, 5)), rng.uniform(1, 4, (3, 5))
    low, high = ratio_interval(above, below)
    low_mean, high_mean = mean_interval(above)
    for row in range(3):
        assert (low[row], high[row]) == pytest.approx(twin(above[row], below[row]))
        assert (low_mean[row], high_mean[row]) == pytest.approx(twin(above[row], [1] * 5))


def test_fewer_than_five_sequences_and_undefined_scores_have_no_interval():
    values = np.random.default_rng(0).normal(size=(2, 5))
    assert np.isnan(mean_interval(values[:, :4])).all()
    assert np.isfinite(mean_interval(values)).all()
    assert np.isnan(ratio_interval(values, np.zeros((2, 5)))).all()
