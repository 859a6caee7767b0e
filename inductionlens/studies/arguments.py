"""Claims against runs: predicted, measured, verdict."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inductionlens.intervals import student_interval

if TYPE_CHECKING:
    import pandas

HOLDS, FAILS, OPEN = "as predicted", "not as predicted", "not measured"


def arguments_table(runs: "pandas.DataFrame") -> "pandas.DataFrame":
    """One row per claim of Olsson et al. 2022 about small models, its verdict computed from a table of runs.

    A run *changes* if its prefix matching breaks (`find_change`) and a scan of its last snapshot finds an induction
    head (column ``formed``). What a model is stands in ``layers``, ``mlp`` and ``smeared_keys``. ``low`` and ``high``
    are 95% intervals over seeds (Student's t), where the claim is about a size. ``not measured``: the runs do not bear
    on the claim, say because no model of that kind changed.
    """
    import pandas as pd

    runs = runs.assign(changes=runs["formed"].astype(bool))
    kinds = {name: part.set_index("seed") for name, part in runs.groupby("model", sort=False)}
    shapes = {name: _shape(part.iloc[0]) for name, part in kinds.items()}
    rows: list[dict[str, Any]] = []
    for name, part in kinds.items():
        expected = shapes[name].layers > 1 or shapes[name].smeared_keys
        claim = f"{name} models {'form' if expected else 'do not form'} induction heads in an abrupt change"
        rows.append(_count("2" if shapes[name].smeared_keys else "1", claim, part["changes"], expected))
    for name, part in kinds.items():
        if part["changes"].any():
            rows.append(_together(name, part[part["changes"]]))
    for name, part in kinds.items():
        plain = next((other for other in kinds if shapes[other] == shapes[name]._replace(smeared_keys=False)), None)
        if shapes[name].smeared_keys and shapes[name].layers > 1 and plain is not None:
            rows.append(_earlier(name, part, plain, kinds[plain]))
    for name, part in kinds.items():
        if part["lost"].notna().any():
            rows.append(_undone(name, part[part["lost"].notna()]))
    for name, part in kinds.items():
        if part["qk_eigen"].notna().any() and not shapes[name].smeared_keys:
            rows.append(_matches(name, part["qk_eigen"].dropna()))
    return pd.DataFrame(rows)


class _Shape(NamedTuple):
    """What sets the models apart."""

    layers: int
    mlp: bool
    smeared_keys: bool


def _shape(run: "pandas.Series") -> _Shape:
    return _Shape(int(run["layers"]), bool(run["mlp"]), bool(run["smeared_keys"]))


def _row(argument: str, claim: str, predicted: str, measured: str, ends: tuple[float, float], verdict: str) -> dict:
    return {"argument": argument, "claim": claim, "predicted": predicted, "measured": measured, "low": ends[0],
            "high": ends[1], "verdict": verdict}  # fmt: skip


def _count(argument: str, claim: str, changes: "pandas.Series", expected: bool) -> dict[str, Any]:
    found, seeds = int(changes.sum()), len(changes)
    wanted = seeds if expected else 0
    predicted, measured = f"{wanted} of {seeds} seeds change", f"{found} of {seeds}"
    return _row(argument, claim, predicted, measured, (math.nan, math.nan), HOLDS if found == wanted else FAILS)


def _together(name: str, part: "pandas.DataFrame") -> dict[str, Any]:
    """In-context learning improves in the same window: the score falls, and both windows share steps, in all seeds."""
    claim = f"in-context learning of {name} models improves in the same window"
    falls = part["icl_start"].notna() & (part["icl_size"] < 0)
    first = part[["prefix_start", "icl_start"]].max(axis=1)
    last = part[["prefix_end", "icl_end"]].min(axis=1)
    shared = (last - first).clip(lower=0).where(falls, 0.0)
    count = int((shared > 0).sum())
    verdict = HOLDS if count == len(part) else FAILS
    measured = f"{count} of {len(part)} seeds; {shared.mean():.0f} steps shared on average"
    return _row("1", claim, "windows overlap in every seed", measured, (math.nan, math.nan), verdict)


def _earlier(name: str, smeared: "pandas.DataFrame", plain_name: str, plain: "pandas.DataFrame") -> dict[str, Any]:
    """Over seeds; both middles may be off by half the distance between snapshots, and the interval is wider by it."""
    claim = f"{name} models change earlier than {plain_name} models"
    parts = (part.loc[part["changes"], ["prefix_middle", "spacing"]] for part in (smeared, plain))
    both = next(parts).merge(next(parts), left_index=True, right_index=True, suffixes=("", "_plain"))
    if both.empty:
        return _row("2", claim, "fewer steps", "no pair of runs that change", (math.nan, math.nan), OPEN)
    steps = (both["prefix_middle"] - both["prefix_middle_plain"]).to_numpy(dtype=float)
    off = float((both["spacing"] + both["spacing_plain"]).max() / 2)
    low, high = student_interval(steps)
    ends = (low - off, high + off)
    verdict = HOLDS if ends[1] < 0 else FAILS
    return _row("2", claim, "difference below 0 steps", f"{steps.mean():+.0f} steps", ends, verdict)


def _undone(name: str, part: "pandas.DataFrame") -> dict[str, Any]:
    """More than half of the score is lost without the induction heads; random sets of as many others stand beside."""
    claim = f"removing the induction heads of {name} models undoes in-context learning"
    share, random = ((part[column] / -part["icl_score"]).to_numpy(dtype=float) for column in ("lost", "lost_random"))
    ends = student_interval(share)
    low = ends[0] if ends[0] == ends[0] else share.min()
    beside = f"; {np.nanmean(random):.0%} without as many others" if np.isfinite(random).any() else ""
    measured = f"{share.mean():.0%} of the score lost, attention held{beside}"
    return _row("3", claim, "more than 50% lost", measured, ends, HOLDS if low > 0.5 else FAILS)


def _matches(name: str, values: "pandas.Series") -> dict[str, Any]:
    claim = f"induction heads of {name} models match the token before the key (QK circuit through earlier heads)"
    found = values.to_numpy(dtype=float)
    ends = student_interval(found)
    low = ends[0] if ends[0] == ends[0] else found.min()
    verdict = HOLDS if low > 0 else FAILS
    return _row("5", claim, "eigenvalue score above 0", f"{found.mean():+.2f}", ends, verdict)
