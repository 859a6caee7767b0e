"""Training checkpoints, one at a time."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.folder_checks import first_line
from inductionlens.models.loading import load_model

_STEP = re.compile(r"(?:step|checkpoint|ckpt)[-_]?(\d+)$")


class Checkpoint(NamedTuple):
    """One moment of a training run; the model is read when it is asked for, so that one is in memory at a time."""

    step: int
    """Optimiser steps taken."""
    tokens: int | None
    """Tokens seen; None where the run does not say."""
    name: str
    """Where it lies."""
    load: Callable[[], Model]
    """Read it, ready to be scored."""


def local_checkpoints(folder: str | Path, *, device: str | None = None) -> list[Checkpoint]:
    """The checkpoints in a folder, by step: subfolders named ``step-350``, ``step_350``, ``checkpoint-350`` ..., each a
    toy or a ``save_pretrained`` folder. Tokens are known for runs of `train_toy`.

    Raises:
        InputError: no such folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} of checkpoints.")
    found: dict[int, Path] = {}
    for place in sorted(folder.iterdir()):
        match = _STEP.fullmatch(place.name)
        if match and place.is_dir():
            step = int(match.group(1))
            if step in found:
                raise InputError(f"{folder} holds step {step} twice: {found[step].name} and {place.name}.")
            found[step] = place
    if not found:
        raise InputError(f"{folder} holds no checkpoints: subfolders named step-350, checkpoint-350 or alike.")
    per_step = _tokens_per_step(folder)
    return [
        Checkpoint(step, None if per_step is None else step * per_step, str(place), _loader(place, device))
        for step, place in sorted(found.items())
    ]


def _loader(place: Path, device: str | None) -> Callable[[], Model]:
    return lambda: load_model(place, device=device)


def _tokens_per_step(folder: Path) -> int | None:
    try:
        options = json.loads((folder / "run.json").read_text(encoding="utf-8"))["options"]
        return int(options["batch_size"]) * int(options["n_ctx"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def checkpoints(source: str | Path, *, device: str | None = None, keep: bool = False) -> list[Checkpoint]:
    """The checkpoints of a local folder (see `local_checkpoints`) or of a hub repository (see `hub_checkpoints`).

    Raises:
        InputError: neither, or no checkpoints in it.
    """
    named = str(source)
    if Path(named).expanduser().is_dir():
        return local_checkpoints(Path(named).expanduser(), device=device)
    if named.startswith((".", "/", "~")) or named.count("/") > 1:
        raise InputError(f"There is no folder {named} of checkpoints.")
    return hub_checkpoints(named, device=device, keep=keep)


def hub_checkpoints(
    repository: str,
    *,
    device: str | None = None,
    keep: bool = False,
    branches: Callable[[str], list[str]] | None = None,
    fetch: Callable[[str, str], Path] | None = None,
    discard: Callable[[Path], None] | None = None,
) -> list[Checkpoint]:
    """The checkpoints of a hub repository that keeps them as branches: ``step1000`` (EleutherAI's Pythia),
    ``checkpoint-1000`` (stanford-crfm's GPT-2).

    Each is fetched when it is asked for, and its files are removed as soon as the model is in memory, unless ``keep``:
    disk use stays at one or two checkpoints however long the series. ``branches``, ``fetch`` and ``discard`` stand for
    the hub's own calls.

    Raises:
        InputError: the repository cannot be reached, or has no such branches.
    """
    branches, fetch, discard = branches or _branches, fetch or _fetch, discard or _discard
    found = {}
    for branch in branches(repository):
        match = _STEP.fullmatch(branch)
        if match:
            found[int(match.group(1))] = branch
    if not found:
        raise InputError(f"{repository} has no branches named step1000, checkpoint-1000 or alike.")

    def loader(branch: str) -> Callable[[], Model]:
        def load() -> Model:
            try:
                place = fetch(repository, branch)
            except (OSError, ValueError) as error:
                raise InputError(f"{repository}@{branch} could not be fetched: {first_line(error)}.") from error
            try:
                return load_model(place, device=device)
            finally:
                if not keep:
                    discard(place)

        return load

    return [Checkpoint(step, None, f"{repository}@{name}", loader(name)) for step, name in sorted(found.items())]


def _branches(repository: str) -> list[str]:
    from huggingface_hub import HfApi

    from inductionlens.models.hub import offline_if_unreachable

    try:
        with offline_if_unreachable():
            return [reference.name for reference in HfApi().list_repo_refs(repository).branches]
    except Exception as error:
        raise InputError(
            f"There is no folder {repository}, and on the hub its checkpoints could not be listed "
            f"({first_line(error)}); give a folder of checkpoints, or try again with a network."
        ) from error


def _fetch(repository: str, branch: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model*.bin"]
    return Path(snapshot_download(repository, revision=branch, allow_patterns=wanted))


def _discard(place: Path) -> None:
    """Remove a fetched snapshot, and files that no other snapshot shares, from the hub's cache."""
    from huggingface_hub import scan_cache_dir

    for repository in scan_cache_dir().repos:
        for revision in repository.revisions:
            if revision.snapshot_path == place:
                scan_cache_dir().delete_revisions(revision.commit_hash).execute()
                return


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
    match = re.fullmatch(r"every:(\d+)", steps)
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
