"""Ramps between snapshots, fitted to a curve by least squares."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

#: Snapshots that must lie at or before a ramp's start, and at or after its end: one may be an outlier.
PLATEAU = 2
#: Squared error, relative to the curve's own, below which there is only rounding left.
ROUNDING = 1e-12

Window = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """All ramps and smooth curves on one run's snapshots."""

    key: tuple[tuple[float, ...], bool]
    """The steps, and whether the axis is logarithmic."""
    x: Float[np.ndarray, " snapshot"]
    """Place of each snapshot on its axis: step, or ln(step), as a share of the run, 0 to 1."""
    windows: Int[np.ndarray, "window 2"]
    """First and last snapshot of every ramp."""
    ramps: Float[np.ndarray, "window snapshot"]
    """0 up to the window's first snapshot, 1 from its last, straight on the axis in between."""
    trends: tuple[Float[np.ndarray, "snapshot _"], ...]
    """What a curve may do besides its ramps: stay, drift along the axis, drift with the step and its logarithm."""
    rivals: Float[np.ndarray, "rival snapshot"]
    """Smooth curves with one free scale: powers of the step, logarithms, and on a linear axis exponentials."""


class Fit(NamedTuple):
    """A trend plus ramps."""

    windows: tuple[Window, ...]
    """First and last snapshot of each ramp, in no order."""
    curve: Float[np.ndarray, " snapshot"]
    """The fitted values."""
    bic: float
    """Bayes information criterion, lower is better; a ramp costs three parameters."""


@functools.lru_cache(maxsize=8)
def grid(steps: tuple[float, ...], log: bool) -> Grid:
    """The ramps and smooth curves of these snapshots; ``log`` says which axis."""
    step = np.array(steps)
    place = np.log(step) if log else step
    x = (place - place[0]) / (place[-1] - place[0])
    n = len(x)
    windows = np.stack(np.triu_indices(n, 1), 1)
    windows = windows[(windows[:, 0] >= PLATEAU - 1) & (windows[:, 1] <= n - PLATEAU)]
    start, end = x[windows[:, :1]], x[windows[:, 1:]]
    ramps = np.clip((x - start) / (end - start), 0, 1)

    # A run that starts at step 0 has no logarithm there: its clock starts one snapshot early.
    time = (step if step[0] > 0 else step + step[1]) / step[-1]
    one, ln = np.ones(n), np.log(time)
    trends = tuple(np.stack(columns, 1) for columns in ((one,), (one, x), (one, time, ln / -ln[0])))
    # Each scaled to end near 1, so that a steep power does not drown its own digits.
    powers = [np.exp(p * (ln - (ln[0] if p < 0 else 0))) for p in np.arange(-60, 61) / 20 if p]
    scales = np.geomspace(time[0], 1, 24)
    logs = [np.log1p(time / scale) for scale in scales]
    decays = [] if log else [np.exp(-time / scale) for scale in scales]
    return Grid((steps, log), x, windows, ramps, trends, np.stack(powers + logs + decays))


def gains(
    on: Grid, basis: Float[np.ndarray, "snapshot column"], curves: Float[np.ndarray, "snapshot curve"]
) -> Float[np.ndarray, "window curve"]:
    """By how much each ramp, beside the columns of ``basis``, lowers each curve's squared error."""
    q = np.linalg.qr(basis).Q
    left = curves - q @ (q.T @ curves)
    square = np.einsum("ws,ws->w", on.ramps, on.ramps)
    shared = on.ramps @ q
    beside = square - np.einsum("wc,wc->w", shared, shared)
    new = beside > 1e-9 * square
    return np.where(new[:, None], (on.ramps @ left) ** 2 / np.where(new, beside, 1)[:, None], 0)


def allowed(on: Grid, taken: Sequence[Window]) -> Bool[np.ndarray, " window"]:
    """The windows that lie apart from those taken, with at least one snapshot interval in between."""
    first, last = on.windows.T
    apart = [(last < start) | (first > end) for start, end in taken]
    return np.logical_and.reduce(apart) if apart else np.ones(len(first), bool)


def columns(on: Grid, trend: Float[np.ndarray, "snapshot column"], windows: Sequence[Window]) -> np.ndarray:
    """A trend with one column more for every ramp."""
    x = on.x[:, None]
    parts = [np.clip((x - on.x[start]) / (on.x[end] - on.x[start]), 0, 1) for start, end in windows]
    return np.hstack([trend, *parts])


def criterion(curve: Float[np.ndarray, " snapshot"], basis: np.ndarray, more: int) -> tuple[float, np.ndarray]:
    """Bayes information criterion and fitted values; ``more`` counts parameters that are no column."""
    q = np.linalg.qr(basis).Q
    fitted = q @ (q.T @ curve)
    n, error = len(curve), ((curve - fitted) ** 2).sum()
    floor = ROUNDING * ((curve - curve.mean()) ** 2).sum()
    return n * np.log(max(error, floor) / n) + (basis.shape[1] + more) * np.log(n), fitted


def smooth(on: Grid, curve: Float[np.ndarray, " snapshot"]) -> float:
    """The best criterion that a curve without any ramp reaches."""
    n, centred = len(curve), curve - curve.mean()
    whole = (centred**2).sum()
    rivals = on.rivals - on.rivals.mean(1, keepdims=True)
    explained = (rivals @ centred) ** 2 / (rivals**2).sum(1)
    least = max(whole - explained.max(), ROUNDING * whole)
    # A constant, a height and a scale.
    rival = n * np.log(least / n) + 3 * np.log(n)
    return float(min([rival, *(criterion(curve, trend, 0)[0] for trend in on.trends)]))


def fit(on: Grid, curve: Float[np.ndarray, " snapshot"], starts: Sequence[Sequence[Window]]) -> Fit | None:
    """The trend and ramps of lowest criterion, from each start moving one ramp at a time until none moves."""
    best = None
    for trend in on.trends:
        for windows in map(list, starts):
            # With fewer than two degrees of freedom left, anything fits.
            if trend.shape[1] + 3 * len(windows) > len(curve) - 2:
                continue
            moved, rounds = True, 0
            while moved and rounds < 10:
                moved, rounds = False, rounds + 1
                for place, window in enumerate(windows):
                    others = windows[:place] + windows[place + 1 :]
                    found = best_window(on, columns(on, trend, others), curve, others)
                    if found is not None and found != window:
                        windows[place], moved = found, True
            bic, fitted = criterion(curve, columns(on, trend, windows), 2 * len(windows))
            if best is None or bic < best.bic:
                best = Fit(tuple(windows), fitted, bic)
    return best


def best_window(
    on: Grid, basis: np.ndarray, curve: Float[np.ndarray, " snapshot"], others: Sequence[Window]
) -> Window | None:
    """The ramp apart from the others that lowers the squared error most, or None where there is no room."""
    gain = np.where(allowed(on, others), gains(on, basis, curve[:, None])[:, 0], 0)
    place = int(gain.argmax())
    return (int(on.windows[place, 0]), int(on.windows[place, 1])) if gain[place] > 0 else None


def level_starts(curve: Float[np.ndarray, " snapshot"], count: int) -> list[Window]:
    """One-interval windows where the curve, seen as ``count`` + 1 levels, is best cut.

    ruptures finds the exact optimum over all cuts at once. One ramp after another misses three in ten curves with two
    or three sharp changes, because the first ramp settles between two of them.
    """
    import ruptures

    cuts = ruptures.KernelCPD(kernel="linear", min_size=PLATEAU).fit(curve).predict(n_bkps=count)
    return [(cut - 1, cut) for cut in cuts[:-1]]
