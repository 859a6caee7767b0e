"""How often noise looks as broken as a curve does."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from inductionlens.ramps import ROUNDING, Grid, Window, allowed, columns, gains, grid

#: Noise curves behind a p-value; the smallest p is 1/1000.
DRAWS = 999
#: Correlations between neighbouring snapshots under which noise is drawn; 1 is a random walk. A ramp explains the more
#: of a noise curve the more its snapshots are alike, so that weaker correlations are covered by these.
CORRELATIONS = (0.9, 1.0)


def p_value(on: Grid, curve: Float[np.ndarray, " snapshot"], taken: Sequence[Window], seed: int) -> float:
    """How often trend, the ramps taken and noise leave as large a share to one more ramp; never 0.

    The share of the remaining squared error that the best further ramp explains depends neither on the trend's size
    nor on the noise's, so that Gaussian draws give its null exactly where no ramp is taken yet. How much neighbouring
    snapshots of a training curve are alike cannot be told from the curve itself (the ramp that fits the noise best
    takes the likeness away with it), so the p-value is the largest over `CORRELATIONS`.
    """
    basis, room = columns(on, on.trends[-1], taken), allowed(on, taken)
    error = _left_over(curve, basis)
    if not error or not room.any():
        return 1.0
    observed = gains(on, basis, curve[:, None])[room].max() / error
    return _largest_p(
        observed,
        (_null(on, basis, room, seed, one) if taken else _null_alone(on.key, seed, one) for one in CORRELATIONS),
    )


def p_value_of_jumps(on: Grid, curve: Float[np.ndarray, " snapshot"], seed: int) -> float:
    """The same of the best two jumps together: a stair looks like a drift to one ramp alone."""
    error = _left_over(curve, on.trends[-1])
    if not error:
        return 1.0
    observed = jump_gains(on, curve[:, None])[0] / error
    return _largest_p(observed, (_null_of_jumps(on.key, seed, one) for one in CORRELATIONS))


def _largest_p(observed: float, nulls: Iterable[Float[np.ndarray, " draw"]]) -> float:
    return max((1 + int((null >= observed).sum())) / (1 + DRAWS) for null in nulls)


def _left_over(curve: Float[np.ndarray, " snapshot"], basis: np.ndarray) -> float:
    """Squared error beside ``basis``; 0 where only rounding is left, or no degree of freedom to see noise by."""
    q = np.linalg.qr(basis).Q
    error = ((curve - q @ (q.T @ curve)) ** 2).sum()
    enough = basis.shape[1] < len(curve) - 1 and error > ROUNDING * ((curve - curve.mean()) ** 2).sum()
    return float(error) if enough else 0.0


def jump_gains(on: Grid, curves: Float[np.ndarray, "snapshot curve"]) -> Float[np.ndarray, " curve"]:
    """By how much the best two jumps, each within one interval, lower each curve's squared error beside the trend."""
    q = np.linalg.qr(on.trends[-1]).Q
    jumps = on.ramps[on.windows[:, 1] - on.windows[:, 0] == 1]
    jumps = jumps - (jumps @ q) @ q.T
    along, gram = jumps @ curves, jumps @ jumps.T
    best = np.zeros(curves.shape[1])
    for place in range(len(jumps) - 1):
        one, two, both = gram[place, place], np.diag(gram)[place + 1 :], gram[place, place + 1 :]
        area = one * two - both**2
        new = (area > 1e-9 * one * two)[:, None]
        gain = along[place + 1 :] ** 2 * one + along[place] ** 2 * two[:, None]
        gain -= 2 * along[place] * along[place + 1 :] * both[:, None]
        np.maximum(best, np.where(new, gain / np.where(new, area[:, None], 1), 0).max(0), out=best)
    return best


def _noise(on: Grid, basis: np.ndarray, seed: int, correlation: float) -> Float[np.ndarray, "snapshot draw"]:
    """Noise beside ``basis``, of unit length: each snapshot has this correlation with the one before, 1 is a walk."""
    q = np.linalg.qr(basis).Q
    noise = np.random.default_rng(seed).standard_normal((len(on.x), DRAWS))
    fresh = (1 - correlation**2) ** 0.5 if correlation < 1 else 1.0
    for snapshot in range(1, len(noise)):
        noise[snapshot] = correlation * noise[snapshot - 1] + fresh * noise[snapshot]
    noise -= q @ (q.T @ noise)
    return noise / np.linalg.norm(noise, axis=0)


def _null(
    on: Grid, basis: np.ndarray, room: Bool[np.ndarray, " window"], seed: int, correlation: float
) -> Float[np.ndarray, " draw"]:
    """The largest share of noise that any window with room explains, draw by draw."""
    noise, share = _noise(on, basis, seed, correlation), np.zeros(DRAWS)
    # In parts, because all windows of 200 snapshots at once would take 160 MB.
    for part in np.array_split(np.flatnonzero(room), 1 + room.sum() // 1000):
        some = replace(on, windows=on.windows[part], ramps=on.ramps[part])
        np.maximum(share, gains(some, basis, noise).max(0), out=share)
    return share


@functools.lru_cache(maxsize=32)
def _null_alone(key: tuple[tuple[float, ...], bool], seed: int, correlation: float) -> Float[np.ndarray, " draw"]:
    on = grid(*key)
    return _null(on, on.trends[-1], allowed(on, []), seed, correlation)


@functools.lru_cache(maxsize=32)
def _null_of_jumps(key: tuple[tuple[float, ...], bool], seed: int, correlation: float) -> Float[np.ndarray, " draw"]:
    on = grid(*key)
    return jump_gains(on, _noise(on, on.trends[-1], seed, correlation))
