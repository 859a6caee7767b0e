"""Changes: at most 5% of curves of noise break, random walks included; real changes are still found, at this power.

Measured, 200 curves of each sort: 0 to 2.5% of curves break. Found at noise of 1/20, 1/10 and 1/5 of the change, 60
snapshots: a jump in 100, 84 and 0% of curves, a change over a tenth of the run in 100, 48 and 0%.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from inductionlens.phase_change import ALPHA, find_change

pytestmark = pytest.mark.slow
CURVES = Path(__file__).parents[2] / "data" / "reproduce" / "curves.csv"


def noise(correlation, snapshots, draws):
    """Gaussian noise whose neighbours correlate, [draw, snapshot]; with 1 a random walk."""
    curves = np.random.default_rng(2).standard_normal((snapshots, draws))
    fresh = (1 - correlation**2) ** 0.5 if correlation < 1 else 1.0
    for snapshot in range(1, snapshots):
        curves[snapshot] = correlation * curves[snapshot - 1] + fresh * curves[snapshot]
    return curves.T


def breaks(curves, axis="linear"):
    steps = np.arange(1, curves.shape[1] + 1) * 20.0 if axis == "linear" else np.geomspace(10, 1e5, curves.shape[1])
    return np.mean([find_change(steps, curve).found for curve in curves])


@pytest.mark.parametrize("axis", ["linear", "log"])
@pytest.mark.parametrize("snapshots", [30, 60])
@pytest.mark.parametrize("correlation", [0, 0.3, 0.6, 0.8, 0.9, 1])
def test_noise_breaks_in_at_most_5_of_100_curves(correlation, snapshots, axis):
    assert ALPHA == 0.05
    assert breaks(noise(correlation, snapshots, 200), axis) <= 0.05


def test_the_check_can_fail():
    """Against white noise alone, as the null once was, a random walk breaks far more often."""
    from inductionlens import ramp_nulls

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ramp_nulls, "CORRELATIONS", (0.0,))
        assert breaks(noise(1, 60, 60)) > 0.2


@pytest.mark.parametrize(
    ("width", "share", "least"), [(1, 20, 0.95), (1, 10, 0.6), (6, 20, 0.95), (6, 10, 0.3), (15, 20, 0.6)]
)
def test_changes_are_found_at_the_stated_power(width, share, least):
    """Of white noise whose standard deviation is 1/share of the change."""
    generator, place = np.random.default_rng(3), np.arange(60)
    curves = [
        np.clip((place - start) / width, 0, 1) + generator.standard_normal(60) / share
        for start in generator.integers(15, 45 - width, 60)
    ]
    assert breaks(np.array(curves)) >= least


@pytest.mark.parametrize(
    ("snapshots", "coarse", "fine"),
    [(6, 0.13, 0.43), (7, 0.2, 0.7), (8, 0.3, 0.88), (9, 0.4, 0.98), (10, 0.45, 0.99), (12, 0.54, 0.99),
     (15, 0.58, 0.99), (30, 0.65, 0.99)],
)  # fmt: skip
@pytest.mark.parametrize("axis", ["linear", "log"])
def test_few_snapshots_show_as_many_jumps_as_stated(snapshots, coarse, fine, axis):
    """Within one interval, at any place; noise of a tenth and of a twentieth of the jump. See `find_change`."""
    for noise, expected in ((0.1, coarse), (0.05, fine)):
        generator = np.random.default_rng(snapshots)
        starts = 2 + np.arange(200) % (snapshots - 3)
        curves = (np.arange(snapshots) >= starts[:, None]) + generator.normal(0, noise, (200, snapshots))
        assert breaks(curves, axis) == pytest.approx(expected, abs=0.15)


@pytest.fixture(scope="module")
def runs():
    """Curves of the quick reproduction's runs, by model."""
    table = pd.read_csv(CURVES)
    return {model: [part for _, part in rows.groupby("seed")] for model, rows in table.groupby("model")}


@pytest.mark.parametrize("model", ["2-layer", "1-layer-smeared", "2-layer-smeared"])
@pytest.mark.parametrize("curve", ["prefix_matching", "icl_score", "copying_gain"])
def test_the_changes_of_real_runs_are_found_in_every_seed(runs, model, curve):
    answers = [find_change(run["step"], run[curve]) for run in runs[model]]
    assert [answer.found for answer in answers] == [True] * 3


def test_one_layer_runs_break_by_little_and_form_no_induction_head(runs):
    """Their prefix matching is S-shaped too, 0.035 to 0.068: no noise, and no induction head."""
    for run in runs["1-layer"]:
        change = find_change(run["step"], run["prefix_matching"])
        assert not change.found or abs(change.size) < 0.05
        assert set(run["induction_heads"].dropna()) == {"none"}
    for run in runs["2-layer"]:
        assert run["induction_heads"].dropna().iloc[-1].startswith("L1H")
