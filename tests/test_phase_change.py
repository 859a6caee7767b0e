"""Where a curve breaks: known changes found, none said for none, and the twins in plain loops."""

import math

import numpy as np
import pytest

import inductionlens as il
from inductionlens import ramp_nulls, ramps
from inductionlens.phase_change import find_change
from inductionlens.several_changes import change_over_seeds, co_occurrence


def snapshots(n, axis, start=10):
    return np.geomspace(start, 10_000, n) if axis == "log" else np.linspace(50, 10_000, n)


def share_of_run(steps, axis):
    place = np.log(steps) if axis == "log" else steps
    return (place - place[0]) / (place[-1] - place[0])


def ramp(n, first, last):
    """0 up to snapshot ``first``, 1 from ``last`` on; straight over evenly spaced snapshots."""
    return np.clip((np.arange(n) - first) / (last - first), 0, 1)


def at(found, steps):
    """Snapshots of each change's window, in order of size."""
    steps = list(steps)
    return [(steps.index(change.start), steps.index(change.end)) for change in found.changes]


# Twins.
def twin_error(curve, columns):
    """Squared error that least squares on these columns leaves."""
    design = np.array(columns, float).T
    solution, *_ = np.linalg.lstsq(design, np.array(curve, float), rcond=None)
    return sum((value - row @ solution) ** 2 for value, row in zip(curve, design, strict=True))


def twin_ramp(x, first, last):
    return [0 if p <= x[first] else 1 if p >= x[last] else (p - x[first]) / (x[last] - x[first]) for p in x]


def twin_windows(n):
    return [(first, last) for first in range(1, n) for last in range(first + 1, n - 1)]


def twin_trends(steps, log):
    one, step, ln = [1.0] * len(steps), list(steps), [math.log(s) for s in steps]
    return [[one], [one, ln if log else step], [one, step, ln]]


def twin_window(steps, curve, log):
    """The ramp and trend of lowest criterion, a ramp's two ends and its height counted as parameters."""
    n, x = len(steps), [math.log(s) if log else s for s in steps]
    found = []
    for trend in twin_trends(steps, log):
        errors = {w: twin_error(curve, [*trend, twin_ramp(x, *w)]) for w in twin_windows(n)}
        window = min(errors, key=errors.get)
        found.append((n * math.log(errors[window] / n) + (len(trend) + 3) * math.log(n), window))
    return min(found)[1]


@pytest.mark.parametrize("axis", ["log", "linear"])
@pytest.mark.parametrize("seed", range(4))
def test_the_window_is_the_twins(axis, seed):
    steps = snapshots(14, axis)
    noise = np.random.default_rng(seed).standard_normal(14) * 0.03
    curve = ramp(14, 3 + seed, 6 + 2 * (seed % 2) + seed) * 2 + (seed % 3) * share_of_run(steps, axis) + noise
    found = find_change(steps, curve)
    assert found.axis == axis
    assert at(found, steps) == [twin_window(steps, curve, axis == "log")]


@pytest.mark.parametrize("log", [True, False])
def test_gains_of_ramps_and_jumps_are_the_twins(log):
    steps = tuple(snapshots(9, "log").tolist())
    on = ramps.grid(steps, log)
    curve = np.random.default_rng(1).standard_normal(9)
    x = [math.log(s) if log else s for s in steps]
    trend = twin_trends(steps, log)[-1]
    before = twin_error(curve, trend)
    assert [tuple(window) for window in on.windows] == twin_windows(9)
    expected = [before - twin_error(curve, [*trend, twin_ramp(x, *w)]) for w in twin_windows(9)]
    assert ramps.gains(on, on.trends[-1], curve[:, None])[:, 0] == pytest.approx(expected)
    jumps = [twin_ramp(x, first, first + 1) for first in range(1, 7)]
    pairs = [before - twin_error(curve, [*trend, a, b]) for n, a in enumerate(jumps) for b in jumps[n + 1 :]]
    assert ramp_nulls.jump_gains(on, curve[:, None])[0] == pytest.approx(max(pairs))


@pytest.mark.parametrize("log", [True, False])
def test_p_values_are_the_twins(log, monkeypatch):
    """Shares of noise, counted draw by draw, the larger of two correlations; with a ramp taken, apart from it."""
    monkeypatch.setattr(ramp_nulls, "DRAWS", 60)
    steps = tuple(snapshots(9, "log", 11 if log else 12).tolist())
    on = ramps.grid(steps, log)
    x = [math.log(s) if log else s for s in steps]
    draws = np.random.default_rng(7).standard_normal((9, 60)).T
    nearly = [[row[0]] for row in draws]
    walks = [[row[0]] for row in draws]
    for row, near, walk in zip(draws, nearly, walks, strict=True):
        for step in row[1:]:
            near.append(0.9 * near[-1] + 0.19**0.5 * step)
            walk.append(walk[-1] + step)
    curve = ramp(9, 5, 6) * 1.5 + np.random.default_rng(2).standard_normal(9)
    for taken in [(), ((1, 3),)]:
        basis = [*twin_trends(steps, log)[-1], *(twin_ramp(x, *w) for w in taken)]
        room = [w for w in twin_windows(9) if not taken or w[0] > 3]

        def share(y, basis=basis, room=room):
            return 1 - min(twin_error(y, [*basis, twin_ramp(x, *w)]) for w in room) / twin_error(y, basis)

        reached = [sum(share(np.array(row)) >= share(curve) for row in noise) for noise in (nearly, walks)]
        assert ramp_nulls.p_value(on, curve, taken, 7) == pytest.approx((1 + max(reached)) / 61)
        assert all(0 < count < 60 for count in reached)


def test_the_smooth_curves_hold_a_constant_and_their_scale():
    on = ramps.grid(tuple(snapshots(20, "linear").tolist()), False)
    noise = np.random.default_rng(0).standard_normal(20)
    columns = [([np.ones(20), rival], 3) for rival in on.rivals]
    columns += [(list(trend.T), trend.shape[1]) for trend in on.trends]
    best = set()
    for curve in (noise, noise / 9 + np.array(snapshots(20, "linear") / 2000) ** 2, noise + snapshots(20, "linear")):
        reached = [20 * math.log(twin_error(curve, c) / 20) + k * math.log(20) for c, k in columns]
        assert ramps.smooth(on, curve) == pytest.approx(min(reached))
        best.add(min(len(on.rivals), int(np.argmin(reached))))
    assert len(best) > 1


# Known changes.
SHAPES = {"one interval": (0.5, 1), "two intervals": (0.5, 2), "a third of the run": (1 / 3, None)}


@pytest.mark.parametrize("sign", [1, -1], ids=["rising", "falling"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", ["log", "linear"])
@pytest.mark.parametrize("n", [15, 40, 80])
def test_a_clean_change_is_found_where_it_is(n, axis, shape, sign):
    steps, (begin, width) = snapshots(n, axis), SHAPES[shape]
    first = int(begin * n)
    last = first + (width or n // 3)
    found = find_change(steps, 0.2 + sign * 0.6 * ramp(n, first, last))
    assert found.found
    assert at(found, steps) == [(first, last)]
    assert (found.start, found.end) == (steps[first], steps[last])
    assert found.size == pytest.approx(sign * 0.6)
    assert found.sharpness == pytest.approx((n - 1) / (last - first))
    middle = math.sqrt(steps[first] * steps[last]) if axis == "log" else (steps[first] + steps[last]) / 2
    assert found.middle == pytest.approx(middle)
    assert found.p_value == 0.002
    assert found.changes[0].p_value == 0.001


@pytest.mark.parametrize(("n", "within"), [(15, 3), (40, 3), (80, 4)])
@pytest.mark.parametrize("axis", ["log", "linear"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_noisy_change_is_found_within_the_stated_tolerance(n, within, axis, shape):
    """Noise of a twentieth of the change: a jump exactly, a slow one, if it is found, within 3 snapshots or 5% in 8 of
    10."""
    steps, (begin, width), generator = snapshots(n, axis), SHAPES[shape], np.random.default_rng(n)
    first = int(begin * n)
    last = first + (width or n // 3)
    answers = [find_change(steps, ramp(n, first, last) + generator.standard_normal(n) / 20) for _ in range(10)]
    seen = [max(abs(at(one, steps)[0][0] - first), abs(at(one, steps)[0][1] - last)) for one in answers if one.found]
    assert len(seen) >= (10 if width else 3 if n == 15 else 6)
    assert sorted(seen)[math.ceil(0.8 * len(seen)) - 1] <= (0 if width == 1 else within)


@pytest.mark.parametrize("axis", ["log", "linear"])
def test_a_logistic_change_is_found_from_a_tenth_to_nine_tenths(axis):
    steps = snapshots(40, axis)
    for rate in (20, 30, 60):
        curve = 1 / (1 + np.exp(-rate * (share_of_run(steps, axis) - 0.5)))
        ((first, last),) = at(find_change(steps, curve), steps)
        assert np.interp(0.1, curve, range(40)) == pytest.approx(first, abs=1)
        assert np.interp(0.9, curve, range(40)) == pytest.approx(last, abs=1)


def test_a_change_beside_a_drift_is_told_from_it():
    steps = snapshots(40, "log")
    found = find_change(steps, ramp(40, 20, 21) + 2 * share_of_run(steps, "log"))
    assert at(found, steps) == [(20, 21)]
    assert found.size == pytest.approx(1 + 2 / 39)
    assert found.sharpness == pytest.approx((1 + 2 / 39) / 3 * 39)


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2), (2, -1), (1, -2), (1, 1), (-1, 1)])
@pytest.mark.parametrize("noise", [0, 0.1])
def test_of_two_changes_the_larger_is_named_and_both_are_listed(first, second, noise):
    steps = snapshots(40, "log")
    curve = first * ramp(40, 10, 11) + second * ramp(40, 27, 29)
    found = find_change(steps, curve + noise * np.random.default_rng(0).standard_normal(40))
    assert len(found.changes) == 2
    sizes = [change.size for change in found.changes]
    assert abs(sizes[0]) >= abs(sizes[1])
    assert found.size == sizes[0]
    by_start = dict(zip([window[0] for window in at(found, steps)], sizes, strict=True))
    assert sorted(at(found, steps)) == [(10, 11), (27, 29)]
    assert [by_start[10], by_start[27]] == pytest.approx([first, second], abs=4 * noise + 1e-9)
    if not noise:
        # Each change's share of all ups and downs, by its share of the run.
        widths = [last - start for start, last in at(found, steps)]
        expected = [abs(size) / (abs(first) + abs(second)) / (w / 39) for size, w in zip(sizes, widths, strict=True)]
        assert [change.sharpness for change in found.changes] == pytest.approx(expected)


def test_changes_close_together_are_told_apart():
    """One ramp after another settles between them (first case); levels alone cannot place slow ones (second)."""
    for windows, heights in (
        (((5, 7), (11, 12)), (0.98, 0.65)),
        (((6, 7), (19, 22), (28, 30)), (0.67, -0.76, -0.9)),
        (((3, 5), (21, 24), (26, 29)), (0.64, -0.74, -0.87)),
    ):
        steps = snapshots(40, "linear" if len(windows) == 3 else "log")
        curve = sum(height * ramp(40, *window) for height, window in zip(heights, windows, strict=True))
        if len(windows) == 2:
            assert sorted(at(find_change(steps, curve), steps)) == list(windows)
        else:  # three of them, up and down, are to one ramp what a random walk is: the fit knows them, p does not
            on = ramps.grid(tuple(steps.tolist()), False)
            assert sorted(ramps.fit(on, curve, [ramps.level_starts(curve, 3)]).windows) == list(windows)
            assert not find_change(steps, curve).found
        assert [window[0] for window in ramps.level_starts(ramp(40, 9, 10) - ramp(40, 20, 21), 2)] == [9, 20]


def test_ramps_move_one_at_a_time_until_none_moves():
    on = ramps.grid(tuple(snapshots(40, "log").tolist()), True)
    curve = ramp(40, 10, 16) + ramp(40, 20, 32) - ramp(40, 34, 36)
    found = ramps.fit(on, curve, [[(3, 4), (12, 13), (20, 21)]])
    assert sorted(found.windows) == [(10, 16), (20, 32), (34, 36)]
    assert found.curve == pytest.approx(curve)


def test_a_faint_change_is_found_only_with_a_small_p_value_and_alone():
    steps, generator = snapshots(20, "log"), np.random.default_rng(0)
    answers = [find_change(steps, ramp(20, 9, 10) + generator.standard_normal(20) / 9) for _ in range(100)]
    found = [one for one in answers if one.found]
    assert 20 <= len(found) <= 90
    assert all(one.p_value <= 0.05 for one in found)
    assert all(change.p_value <= 0.05 for one in found for change in one.changes)
    assert sum(len(one.changes) > 1 for one in found) <= 0.1 * len(found)


def test_a_second_change_below_a_fifth_of_the_first_is_not_listed():
    steps = snapshots(40, "linear")
    for small, count in ((0.17, 1), (0.25, 2)):
        assert len(find_change(steps, ramp(40, 10, 11) + small * ramp(40, 27, 28)).changes) == count


# None.
DRIFTS = {"none": (0, 0), "linear": (5, 0), "log": (0, -5), "both, steep": (30, 30)}


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize(("axis", "n"), [("log", 15), ("linear", 40)])
def test_of_200_curves_of_noise_at_most_1_in_20_breaks(drift, axis, n):
    steps, generator = snapshots(n, axis), np.random.default_rng(0)
    linear, log = DRIFTS[drift]
    trend = linear * share_of_run(steps, "linear") + log * share_of_run(steps, "log")
    answers = [find_change(steps, trend + generator.standard_normal(n)) for _ in range(200)]
    assert sum(one.found for one in answers) <= 10
    # A p-value is uniform where nothing happens; counted double, it errs on the safe side.
    assert sum(one.p_value <= 0.2 for one in answers) <= 60


def correlated(n, correlation, draws):
    """Noise of variance 1 whose neighbours correlate, [snapshot, draw]."""
    noise = np.random.default_rng(1).standard_normal((n, draws))
    for snapshot in range(1, n):
        fresh = math.sqrt(1 - correlation**2) if correlation < 1 else 1
        noise[snapshot] = correlation * noise[snapshot - 1] + fresh * noise[snapshot]
    return noise


@pytest.mark.parametrize("correlation", [0.3, 0.6, 0.9, 1])
def test_of_200_curves_of_correlated_noise_at_most_5_in_100_break(correlation):
    steps, noise = snapshots(40, "linear"), correlated(40, correlation, 200)
    assert sum(find_change(steps, curve).found for curve in noise.T) <= 10
    whole = [find_change(steps, ramp(40, 15, 19) + curve / curve.std() / 20) for curve in noise.T[:10]]
    assert all(one.found for one in whole)


def test_noise_of_the_null_has_its_correlation():
    on = ramps.grid(tuple(snapshots(60, "linear").tolist()), False)
    walk = ramp_nulls._noise(on, np.ones((60, 1)), 0, 1.0)
    increments = np.diff(walk, axis=0)
    assert ((increments[1:] * increments[:-1]).sum(0) / (increments**2).sum(0)).mean() == pytest.approx(0, abs=0.02)
    for correlation in (0.0, 0.4, 0.8):
        noise = ramp_nulls._noise(on, np.ones((60, 1)), 0, correlation)
        lag = (noise[1:] * noise[:-1]).sum(0) / (noise**2).sum(0)
        assert lag.mean() == pytest.approx(correlation - (1 + 3 * correlation) / 60, abs=0.02)
        assert (noise**2).sum(0) == pytest.approx(np.ones(noise.shape[1]))


@pytest.mark.parametrize("axis", ["log", "linear"])
@pytest.mark.parametrize("power", [-1, -0.5, -0.3, 0.5, 1, 2])
def test_powers_and_logarithms_break_nowhere(axis, power):
    steps = snapshots(40, axis)
    noise = np.random.default_rng(1).standard_normal(40) * 0.005
    for curve in (steps**power, np.log(steps)):
        scaled = (curve - curve.min()) / np.ptp(curve)
        assert not find_change(steps, scaled + noise).found
        assert not find_change(steps, scaled).found


@pytest.mark.parametrize("axis", ["log", "linear"])
@pytest.mark.parametrize("scale", [3, 10, 20, 50, 200])
def test_logarithms_with_a_scale_of_their_own_break_nowhere(axis, scale):
    curve = np.log1p(snapshots(40, axis) / 10_000 * scale) / math.log1p(scale)
    noise = np.random.default_rng(1).standard_normal(40)
    assert not any(find_change(snapshots(40, axis), curve + size * noise).found for size in (0, 0.003, 0.01))


@pytest.mark.parametrize("power", [-0.3, -0.1, 0.2])
def test_flat_powers_break_nowhere(power):
    for n in (40, 80):
        curve = snapshots(n, "linear") ** power
        curve = (curve - curve.min()) / np.ptp(curve)
        noise = np.random.default_rng(1).standard_normal(n)
        assert not any(find_change(snapshots(n, "linear"), curve + s * noise).found for s in (0, 0.003, 0.02))


@pytest.mark.parametrize("axis", ["log", "linear"])
def test_a_trend_without_noise_has_only_rounding_left_and_p_1(axis):
    for curve in (snapshots(30, axis), -np.log(snapshots(30, axis)), 1e6 + 3 * snapshots(30, axis)):
        found = find_change(snapshots(30, axis), curve)
        assert (found.found, found.p_value) == (False, 1)


def test_a_decay_breaks_nowhere_on_a_linear_axis_and_somewhere_on_a_logarithmic_one():
    steps = snapshots(40, "linear")
    assert not find_change(steps, np.exp(-steps / 2000)).found
    steps = snapshots(40, "log")
    assert find_change(steps, np.exp(-steps / 500)).found


def test_none_has_no_window():
    found = find_change(snapshots(20, "log"), np.random.default_rng(0).standard_normal(20))
    assert (found.found, found.changes) == (False, ())
    assert found.p_value > 0.01
    assert all(math.isnan(getattr(found, name)) for name in ("start", "end", "middle", "size", "sharpness"))


def test_six_snapshots_can_show_a_jump_and_a_change_wider_than_the_run_is_none():
    steps = [1, 2, 4, 8, 16, 32]
    assert at(find_change(steps, [0, 0, 0, 1, 1, 1]), steps) == [(2, 3)]
    assert not find_change(steps, [0, 1, 2, 3, 4, 5]).found
    assert not find_change(range(40), ramp(40, 5, 33)).found


def test_without_a_change_in_few_snapshots_nothing_can_be_told():
    """A jump of 10 standard deviations, missed in 7 snapshots: p is 0.1."""
    steps = [16, 256, 1000, 4000, 16000, 65000, 130000]
    missed = find_change(steps, [0.05, 0.04, 0.75, 0.85, 0.90, 0.91, 0.89])
    assert (missed.found, missed.too_few) == (False, True)
    seen = find_change(steps, [0.05, 0.04, 0.80, 0.80, 0.80, 0.85, 0.80])
    assert (seen.found, seen.too_few) == (True, False)
    for n, few in ((9, True), (10, False)):
        assert find_change(snapshots(n, "log"), np.random.default_rng(1).standard_normal(n)).too_few == few


@pytest.mark.parametrize(("n", "least", "most"), [(6, 0, 0.7), (7, 0.5, 0.9), (10, 0.95, 1)])
@pytest.mark.parametrize("axis", ["log", "linear"])
def test_jumps_are_found_in_as_many_curves_as_stated(n, least, most, axis):
    """Within one interval, 20 times as large as the noise's standard deviation."""
    steps, generator = snapshots(n, axis), np.random.default_rng(n)
    curves = [ramp(n, 1 + draw % (n - 3), 2 + draw % (n - 3)) + generator.standard_normal(n) / 20 for draw in range(60)]
    found = np.mean([find_change(steps, curve).found for curve in curves])
    assert least <= found <= most


# Laws.
def test_shift_scale_sign_and_clock_change_nothing_else():
    steps, generator = snapshots(30, "log"), np.random.default_rng(3)
    curve = ramp(30, 12, 16) - 0.5 * ramp(30, 22, 23) + generator.standard_normal(30) * 0.03
    found = find_change(steps, curve)
    assert len(found.changes) == 2
    for scale, shift in ((-3.0, 0.0), (1e-6, 5.0), (1e6, -5.0)):
        other = find_change(steps, scale * curve + shift)
        assert at(other, steps) == at(found, steps)
        assert [one.size for one in other.changes] == pytest.approx([scale * one.size for one in found.changes])
        assert other.sharpness == pytest.approx(found.sharpness)
    slower = find_change(steps * 2048, curve)
    assert [slower.start, slower.middle] == pytest.approx([found.start * 2048, found.middle * 2048])
    # 17 snapshots late, on an even axis, nothing but the calendar changes.
    early, late = (find_change(np.arange(30) * 50.0 + begin, curve, axis="linear") for begin in (50, 900))
    assert (late.start - early.start, late.end - early.end) == (850, 850)


def test_the_same_seed_gives_equal_bits_and_inputs_and_global_state_are_left_alone():
    steps, curve = snapshots(20, "log"), np.random.default_rng(0).standard_normal(20)
    kept, state = (steps.copy(), curve.copy()), np.random.get_state()[1].copy()  # noqa: NPY002
    one = find_change(steps, curve)
    ramp_nulls._null_alone.cache_clear()
    assert find_change(steps, curve) == one
    assert find_change(list(steps), list(curve)) == one
    broken = ramp(20, 8, 12) + 0.2 * curve
    assert find_change(steps, broken, seed=1).p_value != find_change(steps, broken).p_value
    assert np.array_equal(steps, kept[0])
    assert np.array_equal(curve, kept[1])
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_the_axis_is_the_one_on_which_snapshots_are_even():
    curve = ramp(12, 5, 6)
    assert find_change(2.0 ** np.arange(12), curve).axis == "log"
    assert find_change(np.arange(12) * 50, curve).axis == "linear"
    assert find_change(2.0 ** np.arange(12), curve, axis="linear").axis == "linear"
    assert find_change(np.arange(1, 13), curve, axis="log").middle == pytest.approx(math.sqrt(42))
    assert find_change([0, *2.0 ** np.arange(11)], curve, axis="linear").found


WRONG = [
    ({"values": [0, 1, math.nan, 3, 4, 5]}, "values must be finite; got nan at snapshot 2: leave that one out"),
    ({"values": [0, 1, 2, 3, -math.inf, 5]}, "values must be finite; got -inf at snapshot 4"),
    ({"steps": [1, 2, 3, math.nan, 5, 6]}, "steps must be finite; got nan at snapshot 3"),
    ({"steps": [1, 2, 3, 4, 5], "values": [0, 0, 0, 1, 1]}, "A curve needs at least 6 snapshots .*; got 5"),
    ({"values": [0.25] * 6}, "values must differ for a change to be looked for; all 6 are 0.25"),
    ({"steps": [1, 2, 4, 3, 5, 6]}, "steps must rise from one snapshot to the next; got 3 after 4: sort them"),
    ({"steps": [1, 2, 3, 3, 5, 6]}, "got 3 after 3: sort them, and keep one value per step"),
    ({"steps": [-1, 2, 3, 4, 5, 6]}, "steps must be at least 0; got -1"),
    ({"steps": [0, 1, 2, 4, 8, 16]}, "steps must be above 0 on a logarithmic axis; got 0 .* give axis='linear'"),
    ({"steps": [0, 1, 2, 3, 4, 5], "axis": "log"}, "leave that one out, or give axis='linear'"),
    ({"axis": "cubic"}, "axis must be 'log', 'linear' or None; got 'cubic'"),
    ({"values": [1, 2, 3]}, r"two lists of the same length; got shapes \(6,\) and \(3,\)"),
    ({"steps": [[1, 2]], "values": [[1, 2]]}, r"got shapes \(1, 2\) and \(1, 2\)"),
]


@pytest.mark.parametrize(("given", "sentence"), WRONG)
def test_input_that_cannot_be_used_is_refused_in_one_sentence(given, sentence):
    given = {"steps": [1, 2, 3, 4, 5, 6], "values": [0, 0, 0, 1, 1, 1], **given}
    with pytest.raises(il.InputError, match=sentence):
        find_change(given.pop("steps"), given.pop("values"), **given)


# Seeds.
def curves(*windows, n=20):
    return [(snapshots(n, "log"), ramp(n, *window)) for window in windows]


def test_seeds_give_students_interval_on_the_axis():
    """The 97.5% quantile of Student's t with 2 degrees of freedom is 4.302653."""
    found = change_over_seeds(curves((8, 9), (10, 12), (9, 11)))
    steps = snapshots(20, "log")
    for spread, places in ((found.start, [8, 10, 9]), (found.end, [9, 12, 11]), (found.middle, [8.5, 11, 10])):
        mean, sd = sum(places) / 3, math.sqrt(sum((p - sum(places) / 3) ** 2 for p in places) / 2)
        half = 4.302653 * sd / math.sqrt(3) + 0.5  # half the distance between snapshots
        gap = math.log(1000) / 19
        expected = [10 * math.exp(gap * p) for p in (mean, mean - half, mean + half, min(places), max(places))]
        assert list(spread) == pytest.approx(expected, rel=1e-5)
    assert [one.start for one in found.each] == pytest.approx(steps[[8, 10, 9]])


def test_on_a_linear_axis_the_mean_is_arithmetic():
    steps = np.arange(1, 21) * 100
    found = change_over_seeds([(steps, ramp(20, 8, 9)), (steps, ramp(20, 12, 13))])
    assert found.start.mean == 1100
    assert found.start.high - found.start.mean == pytest.approx(12.70620 * 200 + 50, rel=1e-5)


def test_seeds_without_a_change_are_in_no_interval_and_one_seed_has_none():
    noise = (snapshots(20, "log"), np.random.default_rng(0).standard_normal(20))
    found = change_over_seeds([*curves((8, 9)), noise])
    assert [one.found for one in found.each] == [True, False]
    assert found.start.mean == found.start.earliest == found.start.latest == pytest.approx(snapshots(20, "log")[8])
    assert math.isnan(found.start.low)
    assert math.isnan(found.end.high)
    assert all(map(math.isnan, change_over_seeds([noise]).middle))
    with pytest.raises(il.InputError, match=r"curves must hold at least one \(steps, values\); got none"):
        change_over_seeds([])


def test_seeds_share_the_first_curves_axis_and_each_keeps_its_snapshots():
    even = (np.arange(1, 31) * 300.0, ramp(30, 8, 9))
    assert [one.axis for one in change_over_seeds([*curves((8, 9)), even]).each] == ["log", "log"]
    assert [one.axis for one in change_over_seeds([even, *curves((8, 9))]).each] == ["linear", "linear"]
    found = change_over_seeds([*curves((8, 9)), even], axis="linear", seed=3)
    assert [one.axis for one in found.each] == ["linear", "linear"]
    assert found.each == tuple(find_change(*c, axis="linear", seed=3) for c in [*curves((8, 9)), even])
    noisy = [(even[0], even[1] + np.random.default_rng(0).standard_normal(30) / 3)]
    assert change_over_seeds(noisy, seed=5).each == (find_change(*noisy[0], seed=5),)


# Two curves.
def test_changes_are_so_many_steps_and_snapshots_apart_and_overlap():
    steps = np.arange(1, 41) * 50
    first, second = (find_change(steps, ramp(40, *window)) for window in ((10, 20), (14, 22)))
    assert co_occurrence(first, second) == (150, 3, pytest.approx(6 / 12))
    assert co_occurrence(second, first) == (-150, -3, pytest.approx(6 / 12))
    assert co_occurrence(first, first) == (0, 0, 1)
    inside, far = (find_change(steps, ramp(40, *window)) for window in ((12, 16), (30, 31)))
    assert co_occurrence(first, inside).overlap == pytest.approx(4 / 10)
    assert co_occurrence(first, far) == (775, 15.5, 0)


def test_on_a_logarithmic_axis_overlap_and_snapshots_are_measured_there():
    steps = 2.0 ** np.arange(30)
    first, second = (find_change(steps, ramp(30, *window)) for window in ((10, 14), (13, 17)))
    found = co_occurrence(first, second)
    assert found.steps == 2**15 - 2**12
    assert found.snapshots == pytest.approx(3)
    assert found.overlap == pytest.approx(1 / 7)


def test_co_occurrence_of_nothing_is_nan_and_other_snapshots_are_refused():
    steps = snapshots(20, "log")
    one = find_change(steps, ramp(20, 8, 9))
    none = find_change(steps, np.random.default_rng(0).standard_normal(20))
    assert all(map(math.isnan, co_occurrence(one, none)))
    assert all(map(math.isnan, co_occurrence(none, one)))
    with pytest.raises(il.InputError, match="the same snapshots; got 20 and 15 that differ"):
        co_occurrence(one, find_change(snapshots(15, "log"), ramp(15, 8, 9)))
    with pytest.raises(il.InputError, match="on the same axis; got 'log' and 'linear': give axis"):
        co_occurrence(one, find_change(steps, ramp(20, 8, 9), axis="linear"))
