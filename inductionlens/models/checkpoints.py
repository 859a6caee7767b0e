"""Training checkpoints, one at a time."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.checkpoint_names import EXAMPLES, MOST_STEPS, by_step
from inductionlens.models.loading import load_model


class Checkpoint(NamedTuple):
    """One moment of a training run; the model is read when it is asked for, so that one is in memory at a time."""

    step: int
    """Optimiser steps taken, over all stages (see `by_step`); in a series that counts tokens instead, those."""
    tokens: int | None
    """Tokens seen; None where the run does not say."""
    name: str
    """Where it lies."""
    load: Callable[[], Model]
    """Read it, ready to be scored."""


def local_checkpoints(folder: str | Path, *, device: str | None = None) -> list[Checkpoint]:
    """The checkpoints in a folder, by step: subfolders named ``step-350``, ``checkpoint-350`` ..., each a toy or a
    ``save_pretrained`` folder; see `by_step` for other names and for stages. Tokens are known for runs of `train_toy`.

    Raises:
        InputError: no such folder, none in it, or trainings that do not follow one another.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} of checkpoints.")
    names = sorted(place.name for place in folder.iterdir() if place.is_dir())
    found = by_step(names, str(folder), "put each into a folder of its own")
    if not found:
        raise InputError(f"{folder} holds no checkpoints: subfolders named {EXAMPLES}.")
    per_step = _tokens_per_step(folder)
    places = {step: folder / name for step, name in found.items()}
    return [
        Checkpoint(step, tokens_at(step, per_step), str(place), _loader(place, device))
        for step, place in places.items()
    ]


def tokens_at(step: int, per_step: int | None) -> int | None:
    """Tokens seen after a step; None where the tokens of a step are not known, or make a number beyond 64 bits."""
    return None if per_step is None or not 0 <= step * per_step <= MOST_STEPS else step * per_step


def _loader(place: Path, device: str | None) -> Callable[[], Model]:
    return lambda: load_model(place, device=device)


def _tokens_per_step(folder: Path) -> int | None:
    try:
        options = json.loads((folder / "run.json").read_text(encoding="utf-8"))["options"]
        return int(options["batch_size"]) * int(options["n_ctx"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def checkpoints(source: str | Path, *, device: str | None = None, keep: bool = False) -> list[Checkpoint]:
    """The checkpoints of a local folder (see `local_checkpoints`) or of a hub series (see `hub_checkpoints`).

    Raises:
        InputError: neither, or no checkpoints in it.
    """
    named = str(source)
    if Path(named).expanduser().is_dir():
        return local_checkpoints(Path(named).expanduser(), device=device)
    if named.startswith((".", "/", "~")) or named.count("/") > 1:
        raise InputError(f"There is no folder {named} of checkpoints.")
    from inductionlens.models.hub_series import hub_checkpoints

    return hub_checkpoints(named, device=device, keep=keep)


def chosen_steps(checkpoints: list[Checkpoint], steps: str = "all") -> list[Checkpoint]:
    """Some of a series: ``all``, ``log`` (the nearest to 0, 1, 2, 4, 8 ..., and the last), ``every:K`` (each K-th, and
    the last), or named steps with commas, such as ``0,512,1000``.

    Raises:
        InputError: a step that is not there, or a word that is none of these.
    """
    if steps == "all":
        return checkpoints
    if steps == "log":
        wanted = [0, *(2**power for power in range(64))]
        last = checkpoints[-1].step
        near = {min(checkpoints, key=lambda one: abs(one.step - step)).step for step in wanted if step <= last}
        return [one for one in checkpoints if one.step in near | {last}]
    match = re.fullmatch(r"every:(\d{1,18})", steps)
    if match and int(match.group(1)) > 0:
        kept = checkpoints[:: int(match.group(1))]
        return kept if kept[-1] is checkpoints[-1] else [*kept, checkpoints[-1]]
    try:
        named = [int(step) for step in steps.split(",")]
    except ValueError:
        raise InputError(f"steps must be all, log, every:K, or numbers with commas; got {steps!r}.") from None
    there = {one.step: one for one in checkpoints}
    absent = [step for step in named if step not in there]
    if absent:
        near = sorted(there, key=lambda step: abs(step - absent[0]))[:2]
        raise InputError(f"There is no checkpoint of step {absent[0]}; the nearest are {', '.join(map(str, near))}.")
    return [there[step] for step in sorted(set(named))]
