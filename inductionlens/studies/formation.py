"""When do induction heads appear, and what comes with them?"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inductionlens.checks import check_settings
from inductionlens.errors import InputError
from inductionlens.intervals import KIND
from inductionlens.models.checkpoints import Checkpoint, checkpoints, chosen_steps
from inductionlens.models.loading import check_device
from inductionlens.models.named_weights import weights_digest
from inductionlens.models.read_ahead import read_ahead
from inductionlens.partial import Partial
from inductionlens.studies.formation_options import FormationOptions
from inductionlens.studies.formation_result import Formation
from inductionlens.studies.formation_stimuli import Stimuli
from inductionlens.studies.formation_tables import tables_of
from inductionlens.studies.provenance import environment
from inductionlens.studies.run_files import training_losses
from inductionlens.studies.settings import settled
from inductionlens.studies.training import run_settings


def formation(
    source: str | Path | Sequence[Checkpoint],
    *,
    steps: str = "all",
    options: FormationOptions | None = None,
    partial: str | Path | None = None,
    device: str | None = None,
    keep: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Formation:
    """Measure every checkpoint of a run, one in memory at a time, and give how heads and losses develop.

    ``source`` is a folder of checkpoints (see `local_checkpoints`; `train_toy` leaves such folders), a hub repository
    that keeps them as branches (see `hub_checkpoints`; ``keep`` keeps the files), or a list of `Checkpoint`. ``steps``
    picks some of them (see `chosen_steps`). While one is measured the next one is read. Every checkpoint sees the same
    tokens. The last checkpoint is scanned too: only a scan's verdict calls a head an induction head. A checkpoint
    that cannot be read is reported in the table and left out. ``partial`` names a file for
    finished checkpoints: an interrupted call goes on from there and ends the same; `Formation.save` removes it.

    Raises:
        InputError: nothing to measure, a setting that does not fit, models that differ in shape, a spoiled ``run.json``
            or ``training.csv``, or a ``partial`` that holds other work or is in use by another process.
    """
    options = settled("formation", FormationOptions, options, settings)
    check_settings(keep=keep)
    check_device(device)
    named = isinstance(source, (str, Path))
    if not named and not (isinstance(source, Sequence) and all(isinstance(one, Checkpoint) for one in source)):
        raise InputError(f"source must be a folder, a hub repository or Checkpoints; got {type(source).__name__}.")
    series = checkpoints(source, device=device, keep=keep) if named else list(source)
    if not series:
        raise InputError("There is no checkpoint to measure.")
    series = chosen_steps(series, steps)
    folder = Path(source).expanduser() if named else None
    work = {"options": asdict(options), "checkpoints": [[one.step, one.name] for one in series]}
    work["run"] = run_settings(folder) if named else None
    losses = training_losses(folder) if work["run"] is not None else None
    with Partial(None if partial is None else Path(partial), work) as parts:
        last = _measure(series, parts, options, folder, on_progress)
    record = {"command": "formation", "source": str(source) if named else "checkpoints", **work, **environment()}
    verdicts = parts.parts[_verdicts(last)]
    record["verdicts"] = {"step": last.step, "by": "scan"} | (
        {name: text for name, text in verdicts.items() if name == "reason"}
    )
    record["intervals"] = KIND
    measured = {str(one.step): parts.parts[str(one.step)] for one in series}
    record["measured"] = next((part["notes"] for part in measured.values() if "notes" in part), {})
    measured[str(last.step)] = measured[str(last.step)] | {"verdicts": verdicts}
    return Formation(**tables_of(series, measured, losses), provenance=record, parts=parts)


def _measure(
    series: list[Checkpoint],
    parts: Partial,
    options: FormationOptions,
    folder: Path | None,
    on_progress: Callable[[int, int], None] | None,
) -> Checkpoint:
    """Measure the checkpoints that are not among the parts yet, and scan the last that can be read, which is given."""
    stimuli: Stimuli | None = None
    waiting = [one for one in series if str(one.step) not in parts.parts]
    for done, (one, model) in enumerate(read_ahead(waiting), start=len(series) - len(waiting) + 1):
        if isinstance(model, InputError):
            parts.parts[str(one.step)] = {"problem": str(model)}  # not written down: another time it may be there
        else:
            stimuli = stimuli or Stimuli(model, options, folder)
            stimuli.check(model, one)
            measured = stimuli.measure(model) | {"weights": weights_digest(model)}
            if one is series[-1]:
                parts.add(_verdicts(one), stimuli.verdicts(model))
            parts.add(str(one.step), measured)
        if on_progress is not None:
            on_progress(done, len(series))
    read = [one for one in series if "problem" not in parts.parts[str(one.step)]]
    if not read:
        first = parts.parts[str(series[0].step)]["problem"]
        raise InputError(f"None of the {len(series)} checkpoints could be read; of the first: {first}")
    if _verdicts(read[-1]) not in parts.parts:  # the checkpoints after it could not be read
        model = read[-1].load()
        stimuli = stimuli or Stimuli(model, options, folder)
        parts.add(_verdicts(read[-1]), stimuli.verdicts(model))
    return read[-1]


def _verdicts(one: Checkpoint) -> str:
    """Under which key a scan of a checkpoint is kept."""
    return f"verdicts of {one.step}"
