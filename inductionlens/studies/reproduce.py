"""Do Olsson et al.'s arguments hold on toys trained here?"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from inductionlens.checks import check_choice, check_settings
from inductionlens.effects import Change, Stimulus, measure_effects
from inductionlens.errors import InputError
from inductionlens.files import write_atomically, write_table
from inductionlens.heads import Head
from inductionlens.locks import held
from inductionlens.models.checkpoints import local_checkpoints
from inductionlens.plots.formation import plot_analysis
from inductionlens.probes import generator_from
from inductionlens.studies.analysis import analysis
from inductionlens.studies.arguments import arguments_table
from inductionlens.studies.changes import CURVES, formed, induction_heads
from inductionlens.studies.changes_table import changes_table, spacing_at
from inductionlens.studies.formation import formation
from inductionlens.studies.formation_options import FormationOptions
from inductionlens.studies.formation_result import Formation, read_formation
from inductionlens.studies.provenance import study_record
from inductionlens.studies.run_files import LOCK
from inductionlens.studies.summaries import read_summary
from inductionlens.studies.training import TrainOptions, train_toy, unseen_rows
from inductionlens.studies.workers import end_with

if TYPE_CHECKING:
    import pandas

#: Random sets of heads removed beside the induction heads.
DRAWS = 20


class Plan(NamedTuple):
    """One model to train and watch."""

    model: str
    """Its name in tables: layers, and what is special about it."""
    seed: int
    """Its training seed."""
    options: TrainOptions
    """How it is trained."""

    @property
    def name(self) -> str:
        """Its folder and its tables' names."""
        return f"{self.model}-seed{self.seed}"


@dataclass(frozen=True)
class Preset:
    """Which models, and how long."""

    layers: tuple[int, ...]
    """Numbers of layers."""
    mlp: tuple[bool, ...]
    """Without, or without and with, MLPs."""
    training: dict[str, Any]
    """Settings of `TrainOptions` that all of them share."""
    windows: int
    """Rows for losses by position."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""

    def plans(self) -> Iterator[Plan]:
        """Every model of the preset."""
        for layers in self.layers:
            for mlp in self.mlp:
                for smeared in (False, True):
                    kind = f"{layers}-layer{'-mlp' if mlp else ''}{'-smeared' if smeared else ''}"
                    for seed in self.seeds:
                        shape = {"layers": layers, "mlp": mlp, "smeared_keys": smeared, "seed": seed}
                        yield Plan(kind, seed, TrainOptions(**shape, **self.training))


PRESETS = {
    "quick": Preset((1, 2), (False,), {"steps": 600, "snapshots": 31}, 200),
    # Rotary positions: with learned ones, toys of three layers, and wider ones of two, copy by other ways, with no head
    # that looks one past the copy.
    "full": Preset((1, 2, 3), (False, True), {"positions": "rotary", "steps": 1500, "snapshots": 61}, 400),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Reproduction:
    """What was predicted, and what came out."""

    arguments: "pandas.DataFrame"
    """One row per claim: ``argument``, ``claim``, ``predicted``, ``measured``, ``low``, ``high``, ``verdict``."""
    runs: "pandas.DataFrame"
    """One row per model and seed: when prefix matching and in-context learning change, and what they end at."""
    folder: Path
    """Where every table and figure lies."""


def reproduce(
    folder: str | Path,
    preset: str | Preset = "quick",
    *,
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Reproduction:
    """Train the preset's models, watch them, and say which of the paper's claims hold on them.

    ``folder`` gets ``runs/`` (snapshots), ``tables/`` (those of every run, see `Formation.save`), ``arguments.csv``,
    ``runs.csv``, ``changes.csv`` (see `changes_table`), ``curves.csv``, each with its record, and ``figure.png``.
    Verdicts are computed from the tables, never written. Called again after an interruption, it goes on with what is
    missing and ends in the same tables. ``workers`` processes share the work, one thread each. Olsson et al. 2022,
    Arguments 1, 2, 3 and 5.

    Raises:
        InputError: an unknown preset, or a folder that holds other runs, or that another process reproduces into.
    """
    if not isinstance(preset, Preset):
        check_choice("preset", preset, PRESETS)
        preset = PRESETS[preset]
    check_settings(workers=workers)
    folder, plans = Path(folder), list(preset.plans())
    for plan in plans:
        _kept(folder, plan, preset.windows)
    try:
        (folder / "tables").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}.") from error
    taken = f"Another process is reproducing into {folder}; wait for it to end, or reproduce into another folder."
    with held(folder / LOCK, taken):
        for done, _ in enumerate(_work(folder, preset, plans, workers), start=1):
            if on_progress is not None:
                on_progress(done, len(plans))
        return _written(folder, preset, plans)


def _written(folder: Path, preset: Preset, plans: list[Plan]) -> Reproduction:
    """Put all models together, and write it down."""
    import pandas as pd

    runs = pd.DataFrame(
        [
            {
                "model": plan.model,
                "seed": plan.seed,
                "layers": plan.options.layers,
                "mlp": plan.options.mlp,
                "smeared_keys": plan.options.smeared_keys,
                **_summary(folder, plan, preset.windows),
            }
            for plan in plans
        ]
    )
    arguments = arguments_table(runs)
    models: dict[str, list[Formation]] = {}
    for plan in plans:
        models.setdefault(plan.model, []).append(read_formation(folder / "tables" / f"{plan.name}.csv"))
    record = study_record("reproduce", options={"plans": [_described(plan, preset.windows) for plan in plans]})
    tables = {"runs": runs, "arguments": arguments, "changes": changes_table(models), "curves": _curves(plans, models)}
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table, record)
    plot_analysis(folder / "figure.png", analysis({name: found[0] for name, found in models.items()}))
    return Reproduction(arguments, runs, folder)


def _curves(plans: list[Plan], models: dict[str, list[Formation]]) -> "pandas.DataFrame":
    """The curves in which changes are sought, of every run, and the induction heads at its end."""
    import pandas as pd

    every = [run for runs in models.values() for run in runs]
    parts = [
        run.steps[["step", *CURVES, "induction_heads"]].assign(model=plan.model, seed=plan.seed)
        for plan, run in zip(plans, every, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)[["model", "seed", "step", *CURVES, "induction_heads"]]


def _work(folder: Path, preset: Preset, plans: list[Plan], workers: int) -> Iterator[None]:
    if workers == 1:
        yield from (_one(folder, plan, preset.windows) for plan in plans)
        return
    from joblib import Parallel, delayed

    jobs = (delayed(_one_of)(os.getpid(), folder, plan, preset.windows) for plan in plans)
    yield from Parallel(n_jobs=min(workers, len(plans)), return_as="generator_unordered")(jobs)


def _one_of(parent: int, folder: Path, plan: Plan, windows: int) -> None:
    """`_one`, in a process that ends with its parent."""
    end_with(parent)
    _one(folder, plan, windows)


def _one(folder: Path, plan: Plan, windows: int) -> None:
    """Train and watch one model, unless its tables are there."""
    summary = folder / "tables" / f"{plan.name}.json"
    if _kept(folder, plan, windows):
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        place = train_toy(folder / "runs" / plan.name, plan.options)
        table = folder / "tables" / f"{plan.name}.csv"
        options = FormationOptions(n_windows=windows)
        found = formation(place, options=options, partial=table.with_name(table.name + ".partial"))
        text = json.dumps({"plan": _described(plan, windows), **_measured(found, place, windows)}, indent=1) + "\n"
        replace(found, parts=None).save(table)
        write_atomically(summary, text.encode())
        found.parts.finish()  # not before the summary is there: without it the model is measured again
    finally:
        torch.set_num_threads(before)


def _described(plan: Plan, windows: int) -> dict[str, Any]:
    return {**asdict(plan.options), "windows": windows}


def _kept(folder: Path, plan: Plan, windows: int) -> dict[str, Any] | None:
    """What is known of a model that is finished, or None.

    Raises:
        InputError: the folder holds a model of that name that was made otherwise.
    """
    path = folder / "tables" / f"{plan.name}.json"
    if not path.is_file():
        return None
    found = read_summary(path)
    if found.pop("plan") != _described(plan, windows):
        raise InputError(f"{folder} holds {plan.name} of other settings; reproduce into another folder.")
    return found


def _measured(found: Formation, place: Path, windows: int) -> dict[str, Any]:
    """What the arguments need of one run, in plain values."""
    changes = found.changes()
    last = found.steps.iloc[-1]
    result: dict[str, Any] = {
        "prefix_matching": float(last["prefix_matching"]), "icl_score": float(last["icl_score"]),
        "copying_gain": float(last["copying_gain"]),
    }  # fmt: skip
    for curve, name in (("prefix_matching", "prefix"), ("icl_score", "icl")):
        change = changes.get(curve)
        there = change is not None and change.found
        for end in ("start", "end", "middle", "size"):
            result[f"{name}_{end}"] = float(getattr(change, end)) if there else None
    prefix = changes.get("prefix_matching")
    result["spacing"] = spacing_at(prefix) if prefix is not None and prefix.found else None
    result["formed"] = formed(found.steps) is not None
    heads = found.heads[found.heads["step"] == last["step"]]
    named = induction_heads(found.steps)
    strong = heads["name"].isin(named)
    induction = [Head.parse(name) for name in named]
    result["induction_heads"] = [str(head) for head in induction]
    eigen = heads.loc[strong, "qk_eigen"].dropna()  # smeared keys have no QK circuit
    result["qk_eigen"] = float(eigen.mean()) if len(eigen) else None
    result |= _removed(place, induction, windows, found)
    return result


def _removed(place: Path, induction: list[Head], windows: int, found: Formation) -> dict[str, Any]:
    """In-context learning lost at the end without the induction heads, and without as many others, at random: with
    attention held, as Olsson et al. 2022 have it in Argument 3, and (``_free``) with attention free to react."""
    checkpoint = local_checkpoints(place)[-1]
    model, rows = checkpoint.load(), unseen_rows(place, windows)
    every = [Head(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    others = [head for head in every if head not in induction]
    if not induction or len(induction) == len(every):
        return {"lost": None, "lost_random": [], "lost_free": None, "lost_random_free": []}
    late, early = found.provenance["measured"]["icl"]
    icl = {"icl": lambda losses, tokens: losses[:, 1] - losses[:, 0]}
    stimulus = Stimulus("windows", rows.tokens, torch.tensor([early, late]), icl)
    generator = generator_from(0, "random heads")
    size = len(induction)
    tries = DRAWS if len(others) >= size else 0
    draws = {tuple(sorted(torch.randperm(len(others), generator=generator)[:size].tolist())) for _ in range(tries)}
    groups = [induction, *([others[index] for index in draw] for draw in sorted(draws))]
    found = {}
    for hold, end in ((True, ""), (False, "_free")):
        effects = measure_effects(model, stimulus, groups, Change(hold_patterns=hold))
        change = (effects.ablated["icl"] - effects.clean["icl"]).mean(1)
        found |= {f"lost{end}": float(change[0]), f"lost_random{end}": change[1:].tolist()}
    return found


def _summary(folder: Path, plan: Plan, windows: int) -> dict[str, Any]:
    found = _kept(folder, plan, windows) or {}
    random = {name: found.pop(name) for name in ("lost_random", "lost_random_free")}
    found["induction_heads"] = " ".join(found["induction_heads"])
    numbers = {name: np.nan if value is None else value for name, value in found.items()}
    for name, values in random.items():
        numbers |= {name: float(np.mean(values)) if values else np.nan}
        numbers |= {f"{name}_most": max(values) if values else np.nan}
    return numbers
