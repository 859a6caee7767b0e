"""When do induction heads appear, and what comes with them?"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inductionlens.errors import InputError
from inductionlens.intervals import KIND
from inductionlens.models.checkpoints import Checkpoint, checkpoints, chosen_steps
from inductionlens.models.read_ahead import read_ahead
from inductionlens.partial import Partial
from inductionlens.studies.formation_options import FormationOptions
from inductionlens.studies.formation_result import Formation
from inductionlens.studies.formation_stimuli import Stimuli
from inductionlens.studies.formation_tables import tables_of
from inductionlens.studies.provenance import environment
from inductionlens.studies.settings import settled
from inductionlens.studies.training import run_settings, training_losses


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
    finished checkpoints: an interrupted call goes on from there and ends the same.

    Raises:
        InputError: nothing to measure, a setting that does not fit, or models that differ in shape.
    """
    options = settled("formation", FormationOptions, options, settings)
    named = isinstance(source, (str, Path))
    if not named and not (isinstance(source, Sequence) and all(isinstance(one, Checkpoint) for one in source)):
        raise InputError(f"source must be a folder, a hub repository or Checkpoints; got {type(source).__name__}.")
    series = checkpoints(source, device=device, keep=keep) if named else list(source)
    if not series:
        raise InputError("There is no checkpoint to measure.")
    series = chosen_steps(series, steps)
    work = {"options": asdict(options), "checkpoints": [[one.step, one.name] for one in series]}
    work["run"] = run_settings(Path(source)) if named else None
    parts = Partial(None if partial is None else Path(partial), work)
    stimuli: Stimuli | None = None
    waiting = [one for one in series if str(one.step) not in parts.parts]
    for done, (one, model) in enumerate(read_ahead(waiting), start=len(series) - len(waiting) + 1):
        if isinstance(model, InputError):
            parts.parts[str(one.step)] = {"problem": str(model)}  # not written down: another time it may be there
        else:
            stimuli = stimuli or Stimuli(model, options, Path(source) if named else None)
            stimuli.check(model, one)
            measured = stimuli.measure(model)
            if one is series[-1]:
                measured["verdicts"] = stimuli.verdicts(model)
            parts.add(str(one.step), measured)
        if on_progress is not None:
            on_progress(done, len(series))
    if all("problem" in part for part in parts.parts.values()):
        first = parts.parts[str(series[0].step)]["problem"]
        raise InputError(f"None of the {len(series)} checkpoints could be read; of the first: {first}")
    last = [one for one in series if "problem" not in parts.parts[str(one.step)]][-1]
    if "verdicts" not in parts.parts[str(last.step)]:  # the checkpoints after it could not be read
        model = last.load()
        stimuli = stimuli or Stimuli(model, options, Path(source) if named else None)
        parts.add(str(last.step), parts.parts[str(last.step)] | {"verdicts": stimuli.verdicts(model)})
    found = tables_of(series, parts.parts, training_losses(Path(source)) if named else None)
    name = str(source) if isinstance(source, (str, Path)) else "checkpoints"
    record = {"command": "formation", "source": name, **work, **environment()}
    record["verdicts"] = {"step": last.step, "by": "scan"} | (
        {name: text for name, text in parts.parts[str(last.step)]["verdicts"].items() if name == "reason"}
    )
    record["intervals"] = KIND
    record["measured"] = next((part["notes"] for part in parts.parts.values() if "notes" in part), {})
    parts.finish()
    return Formation(**found, provenance=record)
