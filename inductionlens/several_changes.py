"""How the changes of several curves lie to each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from inductionlens.errors import InputError
from inductionlens.intervals import student_interval
from inductionlens.phase_change import Axis, PhaseChange, find_change


class Spread(NamedTuple):
    """One step of training as several seeds have it."""

    mean: float
    """Mean over seeds, a step; on a logarithmic axis the geometric one."""
    low: float
    """Lower end of the 95% interval of that mean, Student's t on the axis; NaN with fewer than 2 seeds."""
    high: float
    """Upper end; both may lie outside the run."""
    earliest: float
    """The earliest seed's step."""
    latest: float
    """The latest seed's step."""


def spread(steps: Float[np.ndarray, " seed"], axis: Axis, blur: float = 0.0) -> Spread:
    """Mean, interval and extremes of the same moment in several seeds; all NaN without seeds.

    ``blur`` is how far off every moment may be, on the axis: half the distance between snapshots (see `blur_of`). It is
    added to both ends, because seeds that agree to the snapshot do not agree to the step.
    """
    if not len(steps):
        return Spread(*[math.nan] * 5)
    there, back = (np.log, np.exp) if axis == "log" else (np.asarray, np.asarray)
    place = there(steps)
    mean = back(place.mean()) if len(steps) > 1 else steps[0]
    low, high = student_interval(place)
    low, high = back(low - blur), back(high + blur)
    return Spread(*map(float, (mean, low, high, steps.min(), steps.max())))


def blur_of(change: PhaseChange) -> float:
    """How far off a moment of this curve may be, on its axis: half the median distance between its snapshots."""
    there = np.log if change.axis == "log" else np.asarray
    return float(np.median(np.diff(there(np.array(change.steps))))) / 2


@dataclass(frozen=True)
class SeedChanges:
    """When the largest change comes, over seeds."""

    start: Spread
    """Over the seeds with a change, as all three: the steps where it starts."""
    end: Spread
    """The steps where it ends."""
    middle: Spread
    """The steps half-way."""
    each: tuple[PhaseChange, ...]
    """Every seed's own answer, in the order given; those without a change are in no interval."""


def change_over_seeds(
    curves: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], *, axis: str | None = None, seed: int = 0
) -> SeedChanges:
    """When a change comes, as several training seeds agree on it.

    Each curve is (steps, values) of one seed, and the snapshots may differ. Student's t and not the bootstrap, which is
    far too narrow for the three to five seeds that one trains.

    Args:
        curves: one per seed.
        axis: of all curves; by default that of the first.
        seed: of the noise curves.

    Raises:
        InputError: no curve, or one that cannot be used.
    """
    if not len(curves):
        raise InputError("curves must hold at least one (steps, values); got none.")
    axis = axis if axis is not None else find_change(*curves[0], seed=seed).axis
    each = tuple(find_change(*curve, axis=axis, seed=seed) for curve in curves)
    found = [one for one in each if one.found]
    blur = max(map(blur_of, found), default=0.0)
    spreads = (
        spread(np.array([getattr(one, name) for one in found]), axis, blur) for name in ("start", "end", "middle")
    )
    return SeedChanges(*spreads, each)


class CoOccurrence(NamedTuple):
    """How two curves' largest changes lie to each other; all NaN where one of them has none."""

    steps: float
    """Steps from the first curve's middle to the second's; negative where the second comes earlier."""
    snapshots: float
    """The same in snapshots, fractions included: as far apart as the run was watched."""
    overlap: float
    """0 to 1: length on the axis that both windows share, by the length that either covers (Jaccard)."""


def co_occurrence(first: PhaseChange, second: PhaseChange) -> CoOccurrence:
    """How far apart the largest changes of two curves over the same snapshots are, and how much of them overlaps.

    That two things change together is no proof that one causes the other. One-interval windows overlap wholly or not
    at all: no run says more than its snapshots do.

    Raises:
        InputError: the curves differ in snapshots or axis.
    """
    if first.steps != second.steps:
        raise InputError(
            f"Both curves must have the same snapshots; got {len(first.steps)} and {len(second.steps)} that differ."
        )
    if first.axis != second.axis:
        raise InputError(
            f"Both changes must be found on the same axis; got {first.axis!r} and {second.axis!r}: give axis."
        )
    if not (first.found and second.found):
        return CoOccurrence(math.nan, math.nan, math.nan)
    there = math.log if first.axis == "log" else float
    (a, b), (c, d) = ((there(one.start), there(one.end)) for one in (first, second))
    shared = max(0.0, min(b, d) - max(a, c))
    places = [there(step) for step in first.steps]
    snapshots = np.interp([there(first.middle), there(second.middle)], places, range(len(places)))
    return CoOccurrence(
        second.middle - first.middle, float(snapshots[1] - snapshots[0]), shared / (b - a + d - c - shared)
    )
