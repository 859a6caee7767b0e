"""When the curves of several runs change, and how far apart."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inductionlens.cells import numbers
from inductionlens.errors import InputError
from inductionlens.files import read_raw
from inductionlens.intervals import student_interval
from inductionlens.phase_change import PhaseChange
from inductionlens.published_columns import renamed
from inductionlens.several_changes import blur_of, co_occurrence, spread
from inductionlens.studies.changes import CURVES, changes_of, formed, last_verdict, too_few
from inductionlens.studies.formation_result import Formation, read_formation

if TYPE_CHECKING:
    import pandas

#: Larger numbers are taken for mistakes: their squares overflow.
LARGEST = 1e30
#: Steps of a change that get an interval over seeds.
MOMENTS = ("start", "end", "middle")


def changes_table(models: Mapping[str, Sequence[Formation]]) -> "pandas.DataFrame":
    """One row per model and curve: how many of its runs (seeds) change, when, by how much, how sharply; and how many
    steps after prefix matching. ``formed`` counts the runs in which an induction head formed (see `formed`): prefix
    matching breaks, and a scan of the last snapshot finds an induction head; empty where none was scanned. A curve may
    break and go nowhere. ``too_few`` counts the runs that do not change and have too few snapshots for that to be an
    answer (see `find_change`). ``models`` holds the runs of each model by its name. Curves that no run has are left
    out.

    ``start``, ``end`` and ``middle`` are means over the runs that change, with 95% intervals (Student's t, plus half
    the distance between snapshots at either end: no run says more than that) in ``_low`` and ``_high``; on a
    logarithmic axis means and intervals are those of the logarithm, and go back to steps. ``size`` and ``sharpness``
    are plain means. ``after_prefix`` is the curve's middle minus that of prefix matching, in steps, over the runs in
    which both change, and ``overlap`` the share of either window that both have. Empty where no run changes; intervals
    where fewer than two do.

    Raises:
        InputError: a model without runs.
    """
    import pandas as pd

    rows = []
    for name, runs in models.items():
        if not runs:
            raise InputError(f"{name} has no run.")
        found = [changes_of(run.steps) for run in runs]
        scanned = any(last_verdict(run.steps) for run in runs)
        formed_in = sum(formed(run.steps) is not None for run in runs) if scanned else np.nan
        for curve in CURVES:
            having = [(run.steps, changes) for run, changes in zip(runs, found, strict=True) if curve in run.steps]
            if having:
                few = sum(too_few(steps, curve, changes.get(curve)) for steps, changes in having)
                row = {"model": name, "curve": curve, "seeds": len(having), "formed": formed_in, "too_few": few}
                rows.append(row | _row(found, curve))
    return pd.DataFrame(rows)


def _row(runs: list[dict[str, PhaseChange]], curve: str) -> dict[str, Any]:
    there = [run[curve] for run in runs if curve in run and run[curve].found]
    axes = {one.axis for one in there}
    if len(axes) > 1:
        raise InputError("Runs of one model must be watched at steps of one spacing, even or logarithmic.")
    row: dict[str, Any] = {"changed": len(there)}
    blur = max(map(blur_of, there), default=0.0)
    for moment in MOMENTS:
        values = np.array([getattr(one, moment) for one in there], dtype=float)
        over = spread(values, next(iter(axes), "linear"), blur)
        row |= {moment: over.mean, f"{moment}_low": over.low, f"{moment}_high": over.high}
    for name in ("size", "sharpness"):
        row[name] = float(np.mean([getattr(one, name) for one in there])) if there else np.nan
    pairs = [(run.get("prefix_matching"), run.get(curve)) for run in runs if curve != "prefix_matching"]
    found_in_both = [pair for pair in pairs if all(one is not None and one.found for one in pair)]
    both = [co_occurrence(*pair) for pair in found_in_both]
    steps = np.array([one.steps for one in both], dtype=float)
    low, high = student_interval(steps)
    # Both moments may be off by half the distance between the snapshots around them.
    off = max((spacing_at(pair[0]) / 2 + spacing_at(pair[1]) / 2 for pair in found_in_both), default=0.0)
    row |= {"after_prefix": float(steps.mean()) if both else np.nan}
    row |= {"after_prefix_low": low - off, "after_prefix_high": high + off}
    return row | {"overlap": float(np.mean([one.overlap for one in both])) if both else np.nan}


def spacing_at(change: PhaseChange) -> float:
    """Steps between the snapshots on both sides of a change's middle."""
    steps = np.array(change.steps)
    after = min(int(np.searchsorted(steps, change.middle, side="right")), len(steps) - 1)
    return float(steps[after] - steps[after - 1])


def read_models(tables: Sequence[str | Path], columns: Mapping[str, str] | None = None) -> dict[str, list[Formation]]:
    """Saved formation tables, as the seeds of one model where training differed in nothing but the seed; with
    ``columns``, curves of others (see `read_curves`).

    A model is called by what its files' names have in common, without a final ``seed``; a run whose settings are not
    known (a series from the hub) is a model of its own.

    Raises:
        InputError: a table given twice, one that cannot be read, or two models whose files have one name.
    """
    paths = [Path(table) for table in tables]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise InputError(f"{path} was given twice.")
    groups: dict[str, list[tuple[Path, Formation]]] = {}
    for path in paths:
        run = read_formation(path) if columns is None else read_curves(path, columns)
        settings = dict(run.provenance.get("run") or {"file": str(path)})
        settings.pop("seed", None)
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append((path, run))
    named = {}
    for group in groups.values():
        name = _in_common([path.stem for path, _ in group])
        if name in named:
            raise InputError(f"Two models would be called {name}; rename their tables.")
        named[name] = [run for _, run in group]
    return named


def _in_common(stems: list[str]) -> str:
    if len(stems) == 1:
        return stems[0]
    shared = os.path.commonprefix(stems)  # noqa: RUF071 (of words, not of paths)
    return re.sub(r"[-_. ]*(seed[-_. ]*\d*)?[-_. ]*$", "", shared) or stems[0]


def read_curves(path: str | Path, columns: Mapping[str, str]) -> Formation:
    """One table of curves over training that others wrote, in order of steps; its other tables are empty.

    ``columns`` says what the file calls our ``step`` and at least one of `CURVES` (ours: theirs).

    Raises:
        InputError: a table that cannot be read, without such columns, or with a step that is no number or stands twice.
    """
    import pandas as pd

    if "step" not in columns or not set(columns) & set(CURVES):
        raise InputError(f"columns must name step and at least one of {', '.join(CURVES)}; got {dict(columns)}.")
    table, record = read_raw(Path(path), None)
    named = renamed(table, columns, ("step", *CURVES), str(path))[list(columns)]
    for name in columns:
        try:
            named[name] = numbers(named[name]).astype("float64")
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{path}: column {columns[name]} must hold numbers.") from error
    steps = named["step"]
    if not (np.isfinite(steps) & (steps >= 0)).all():
        raise InputError(f"{path}: column {columns['step']} must hold a number of at least 0 in every row.")
    if steps.duplicated().any():
        raise InputError(f"{path} has step {steps[steps.duplicated()].iloc[0]:g} twice; keep one row for each step.")
    named = named.replace([np.inf, -np.inf], np.nan)
    if (named.abs() > LARGEST).any(axis=None):
        raise InputError(f"{path} holds numbers beyond {LARGEST:g}, with which no curve can be fitted.")
    named = named.sort_values("step", ignore_index=True)
    return Formation(named, *(pd.DataFrame() for _ in range(4)), provenance=record)
