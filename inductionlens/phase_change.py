"""Where a curve over training breaks."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from inductionlens import ramp_nulls, ramps
from inductionlens.errors import InputError

#: Largest p-value of a change. The null is cautious (a random walk), and smooth curves must also fit worse.
ALPHA = 0.05
#: Least sharpness of a change: half as fast again as an even spread over the run.
SHARPNESS = 1.5
#: Least size of a change relative to the curve's largest. A logistic's tails are a tenth of it.
SMALLEST = 0.2
#: Most changes that are looked for.
CHANGES = 3
#: Snapshots from which no change is an answer. Of jumps within one interval that are 20 times as large as the noise's
#: standard deviation 6 snapshots show 4 in 10, 7 show 7, 8 show 9, and 10 or more 97 in 100.
ENOUGH = 10
#: Fewest snapshots: two on either side of the narrowest change, and two to see the noise by.
SNAPSHOTS = 6

Axis = Literal["log", "linear"]


@dataclass(frozen=True)
class Change:
    """One window of training in which a curve changes."""

    start: float
    """Step of the last snapshot before the change."""
    end: float
    """Step of the first snapshot after it."""
    middle: float
    """Step, half-way from start to end on the axis: their geometric mean on a logarithmic one."""
    size: float
    """Fitted value at the end minus at the start, in the curve's own unit; negative where the curve falls."""
    sharpness: float
    """How many times faster than an even spread over the run: the window's share of the whole change (the fitted
    curve's ups and downs added up) by its share of the run (on the axis). No unit; 1.5 up to 1 / the window's share,
    which is 199 for a jump within one of 199 even intervals."""
    p_value: float
    """How often correlated noise does as well beside the trend and the other changes; 0.001 to 0.05."""


@dataclass(frozen=True)
class PhaseChange:
    """A curve's changes, or none. The larger one answers for the curve; NaN where there is none."""

    changes: tuple[Change, ...]
    """All changes, the largest first."""
    p_value: float
    """How often trend and noise alone look as broken as the curve does, 0.002 to 1. A small one alone is no change: a
    smooth curve must also fit worse."""
    axis: Axis
    """Whether windows were sought and shares measured in steps or in their logarithm."""
    steps: tuple[float, ...]
    """The snapshots."""

    @property
    def found(self) -> bool:
        """Whether the curve breaks at all."""
        return bool(self.changes)

    @property
    def too_few(self) -> bool:
        """Whether nothing was found in so few snapshots (below `ENOUGH`) that a jump may well have been missed."""
        return not self.changes and len(self.steps) < ENOUGH

    @property
    def start(self) -> float:
        """Step of the last snapshot before the largest change."""
        return self.changes[0].start if self.changes else math.nan

    @property
    def end(self) -> float:
        """Step of the first snapshot after the largest change."""
        return self.changes[0].end if self.changes else math.nan

    @property
    def middle(self) -> float:
        """Step half-way through the largest change."""
        return self.changes[0].middle if self.changes else math.nan

    @property
    def size(self) -> float:
        """Signed size of the largest change, in the curve's unit."""
        return self.changes[0].size if self.changes else math.nan

    @property
    def sharpness(self) -> float:
        """Sharpness of the largest change, from 1.5; no unit."""
        return self.changes[0].sharpness if self.changes else math.nan


def find_change(steps: npt.ArrayLike, values: npt.ArrayLike, *, axis: str | None = None, seed: int = 0) -> PhaseChange:
    """Where a curve over training changes more abruptly than trend and noise do.

    A change is a ramp between two snapshots: flat, straight on the axis, flat again, beside a trend (none, linear on
    the axis, or linear in the step and its logarithm). Ramps are fitted by least squares over every pair of snapshots.
    A curve breaks where three things hold:

    - p <= 0.05: in 999 draws of noise on the same snapshots, a ramp (or two jumps, p counted double) seldom explains
      as large a share of what the step and its logarithm leave over. The noise is a random walk, and noise with a
      correlation of 0.9 between neighbours, whichever gives the larger p: real training curves leave 0.4 to 0.8, and
      how much cannot be told from a curve that may hold a change;
    - by the Bayes information criterion, trend and ramps beat every smooth curve a + b f(step) with f a power, a
      logarithm or, on a linear axis, an exponential;
    - the window is at least 1.5 times faster than an even spread over the run.

    Further changes lie apart from the first and have at least a fifth of its size.

    How near the windows come, where the noise's standard deviation is a twentieth of the change, from 10 snapshots on:
    a jump within one interval is found exactly, in 97 of 100 curves; a change over a third of the run, where it is
    found, has both ends within 3 snapshots, or 5% of the snapshots where that is more, in 8 of 10 curves. A logistic
    change is given from a tenth to nine tenths of it, to 1 snapshot in 40.

    False alarms: at most 3% of curves, at 30 and at 60 snapshots, of Gaussian noise with a correlation of 0, 0.3, 0.6,
    0.8, 0.9 and of random walks. The price is power: a change of white noise's 20-fold standard deviation is found in 9
    of 10 curves or more (in 6 if it takes a third of the run), 10-fold in 4 to 8 of 10 if it is fast (at most a tenth
    of the run) and seldom if it is slow, 5-fold hardly ever. Three changes that go up and down are to one ramp what a
    random walk is, and are not found. Few snapshots show less. Of jumps within one interval these shares are found, by
    simulation (``pytest tests/calibration -m slow``)::

        snapshots        6    7    8    9   10   12   15   30   60
        20-fold noise  0.4  0.7  0.9   1    1    1    1    1    1
        10-fold noise  0.1  0.2  0.3  0.4  0.5  0.5  0.6  0.7  0.6

    Where nothing is found in fewer than 10 snapshots, the answer is ``too_few``: no evidence that the curve is even.

    What it does not see: a change under way at the first or last two snapshots, and one wider than about 60% of the
    run. On a logarithmic axis the decay exp(-step / scale) has a time of its own and counts as a change.

    ruptures is used where several changes at once are concerned: to propose them. Its costs know levels and
    unconnected lines, so that a slow change becomes a stair; and its number of breaks needs a penalty in place of a
    false-alarm rate. The connected ramps and their null are therefore ours.

    Args:
        steps: optimiser steps (or tokens) of 6 snapshots or more, rising.
        values: the curve there.
        axis: ``log`` or ``linear``; by default the one on which the snapshots are more evenly spaced.
        seed: of the noise curves.

    Raises:
        InputError: steps or values cannot be used.
    """
    step, value = _checked(steps, values)
    chosen = _axis(step, axis)
    on = ramps.grid(tuple(step.tolist()), chosen == "log")
    curve = value - value.mean()
    scale = np.abs(curve).max()
    p, found = _search(on, curve / scale, seed)
    changes = []
    for (start, end), its_p in zip(found.windows, found.p_values, strict=True) if found else ():
        middle = (step[start] * step[end]) ** 0.5 if chosen == "log" else (step[start] + step[end]) / 2
        size = scale * (found.curve[end] - found.curve[start])
        sharpness = _sharpness(on, found.curve, start, end)
        changes.append(Change(*map(float, (step[start], step[end], middle, size, sharpness)), its_p))
    changes.sort(key=lambda change: -abs(change.size))
    return PhaseChange(tuple(changes), p, chosen, tuple(step.tolist()))


class _Found(NamedTuple):
    windows: tuple[ramps.Window, ...]
    p_values: tuple[float, ...]
    curve: Float[np.ndarray, " snapshot"]


def _search(on: ramps.Grid, curve: Float[np.ndarray, " snapshot"], seed: int) -> tuple[float, _Found | None]:
    """The p-value of any change at all, and the best description in ramps if it beats all smooth curves."""
    best, windows = None, ()
    looks = (ramp_nulls.p_value(on, curve, (), seed), ramp_nulls.p_value_of_jumps(on, curve, seed))
    # Two looks at one curve: the smaller p counts double.
    p = min(1.0, 2 * min(looks))
    if p > ALPHA:
        return p, best
    best_bic = ramps.smooth(on, curve)
    for count in range(1, CHANGES + 1):
        following = ramps.best_window(on, ramps.columns(on, on.trends[-1], windows), curve, windows)
        starts = [ramps.level_starts(curve, count), *([[*windows, following]] if following else [])]
        fitted = ramps.fit(on, curve, starts)
        if fitted is None:
            break
        if best and fitted.bic >= best_bic:
            break
        windows = fitted.windows
        sizes = [abs(fitted.curve[end] - fitted.curve[start]) for start, end in windows]
        sharp = all(_sharpness(on, fitted.curve, *window) >= SHARPNESS for window in windows)
        if sharp and min(sizes) >= SMALLEST * max(sizes) and fitted.bic < best_bic:
            p_values = _each_beside_the_others(on, curve, windows, seed)
            if p_values:
                best, best_bic = _Found(windows, p_values, fitted.curve), fitted.bic
    return p, best


def _each_beside_the_others(
    on: ramps.Grid, curve: Float[np.ndarray, " snapshot"], windows: tuple[ramps.Window, ...], seed: int
) -> tuple[float, ...]:
    """The p-value of each ramp given all others, or nothing as soon as one is too large."""
    found: tuple[float, ...] = ()
    for place in range(len(windows)):
        found = (*found, ramp_nulls.p_value(on, curve, windows[:place] + windows[place + 1 :], seed))
        if found[-1] > ALPHA:
            return ()
    return found


def _sharpness(on: ramps.Grid, fitted: Float[np.ndarray, " snapshot"], start: int, end: int) -> float:
    share = abs(fitted[end] - fitted[start]) / np.abs(np.diff(fitted)).sum()
    return float(share / (on.x[end] - on.x[start]))


def _checked(steps: npt.ArrayLike, values: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    step, value = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    if step.ndim != 1 or step.shape != value.shape:
        raise InputError(
            f"steps and values must be two lists of the same length; got shapes {step.shape} and {value.shape}."
        )
    if len(step) < SNAPSHOTS:
        raise InputError(f"A curve needs at least {SNAPSHOTS} snapshots to show a change; got {len(step)}.")
    for name, array in (("steps", step), ("values", value)):
        if len(bad := np.flatnonzero(~np.isfinite(array))):
            raise InputError(f"{name} must be finite; got {array[bad[0]]} at snapshot {bad[0]}: leave that one out.")
    if len(bad := np.flatnonzero(np.diff(step) <= 0)):
        before, after = step[bad[0] : bad[0] + 2]
        raise InputError(f"steps must rise from one snapshot to the next; got {after:g} after {before:g}: sort them, "
                         "and keep one value per step.")  # fmt: skip
    if step[0] < 0:
        raise InputError(f"steps must be at least 0; got {step[0]:g}.")
    if np.ptp(value) <= 1e-12 * np.abs(value).max():
        raise InputError(f"values must differ for a change to be looked for; all {len(value)} are {value[0]:g}.")
    return step, value


def _axis(step: Float[np.ndarray, " snapshot"], axis: str | None) -> Axis:
    if axis not in ("log", "linear", None):
        raise InputError(f"axis must be 'log', 'linear' or None; got {axis!r}.")
    positive = step[step > 0]
    if axis is None:
        gaps = [np.diff(place) for place in (np.log(positive), positive)]
        log, linear = (gap.std() / gap.mean() for gap in gaps)
        axis = "log" if log < linear else "linear"
    if axis == "log" and step[0] <= 0:
        raise InputError(
            "steps must be above 0 on a logarithmic axis; got 0 at snapshot 0: leave that one out, or give "
            "axis='linear'."
        )
    return axis
