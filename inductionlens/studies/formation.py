"""When do induction heads appear, and what comes with them?"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from inductionlens.errors import InputError
from inductionlens.files import write_table
from inductionlens.heads import Head
from inductionlens.models import Model
from inductionlens.models.checkpoints import Checkpoint, checkpoints, chosen_steps
from inductionlens.partial import Partial
from inductionlens.phase_change import PhaseChange
from inductionlens.scores.trajectories import before_and_after, before_and_after_score
from inductionlens.studies.changes import changes_of, in_words
from inductionlens.studies.formation_options import FormationOptions
from inductionlens.studies.formation_stimuli import Stimuli
from inductionlens.studies.formation_tables import tables_of
from inductionlens.studies.provenance import environment
from inductionlens.studies.settings import settled
from inductionlens.studies.training import run_settings

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Formation:
    """A training run, snapshot by snapshot."""

    steps: "pandas.DataFrame"
    """One row per snapshot: ``step``, ``tokens``, losses, ``icl_score``, and its best head by prefix matching and by
    previous-token attention. ``problem`` says why a snapshot could not be read; its numbers are empty."""
    heads: "pandas.DataFrame"
    """One row per snapshot and head."""
    losses: "pandas.DataFrame"
    """Mean loss by ``step`` and ``index`` (context position)."""
    token_losses: Float[np.ndarray, "snapshot token"] = field(repr=False)
    """The loss of one fixed, randomly chosen token of each window, per snapshot: what per-token-loss PCA reads."""
    ablated_losses: Float[np.ndarray, "snapshot head token"] = field(repr=False)
    """The same tokens' losses with each head zeroed, heads layer by layer; empty without ablation."""
    provenance: dict[str, Any] = field(repr=False)
    """How it was measured."""

    def curve(self, column: str, head: Head | str | tuple[int, int] | None = None) -> "pandas.DataFrame":
        """``step`` and ``value`` of a column over training, of one head or of the model as a whole.

        Raises:
            InputError: no such column or head.
        """
        table = self.steps
        if head is not None:
            table = self.heads[self.heads["name"] == Head.parse(head).label]
        if column not in table.columns or table.empty:
            known = ", ".join(name for name in table.columns if name not in ("step", "tokens", "name"))
            raise InputError(f"There is no curve {column!r}{'' if head is None else f' of {head}'}; there are {known}.")
        return table[["step", column]].rename(columns={column: "value"}).reset_index(drop=True)

    def before_and_after(self, change: Any = None) -> "pandas.DataFrame":
        """What zeroing each head does to the direction in which losses moved during a change, by default that of prefix
        matching: one row per snapshot and head, ``before_and_after`` in nats, *negative where its removal undoes it*.

        Olsson et al. 2022: b, the unit vector of per-token losses at the end of the change minus at its start, times
        ablated minus clean losses. Empty where nothing changes or nothing was ablated.
        """
        import pandas as pd

        change = change or self.changes().get("prefix_matching")
        read = self.steps.loc[self.steps["problem"] == "", "step"].tolist()
        if change is None or not change.found or not self.ablated_losses.size:
            return pd.DataFrame({"step": [], "name": [], "before_and_after": []})
        start, end = (torch.from_numpy(self.token_losses[read.index(int(at))]) for at in (change.start, change.end))
        direction = before_and_after(start, end)
        names = self.heads["name"].drop_duplicates().tolist()
        rows = []
        for place, step in enumerate(read):
            clean, ablated = (torch.from_numpy(losses[place]) for losses in (self.token_losses, self.ablated_losses))
            scores = before_and_after_score(direction, clean, ablated).tolist()
            rows += [
                {"step": step, "name": name, "before_and_after": score}
                for name, score in zip(names, scores, strict=True)
            ]
        return pd.DataFrame(rows)

    def changes(self) -> dict[str, PhaseChange]:
        """Where prefix matching, the in-context-learning score and the gain on copies break; see `find_change`."""
        return changes_of(self.steps)

    def in_words(self) -> list[str]:
        """What happened, in sentences."""
        return in_words(self.steps)

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write ``steps``, whole or not at all, and their record; ``heads`` and ``losses`` go beside them."""
        path = Path(path)
        write_table(path, self.steps, self.provenance, format)
        for name in ("heads", "losses"):
            write_table(path.with_suffix(f".{name}{path.suffix}"), getattr(self, name), self.provenance, format)


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
    tokens. A checkpoint that cannot be read is reported in the table and left out. ``partial`` names a file for
    finished checkpoints: an interrupted call goes on from there and ends the same.

    Raises:
        InputError: nothing to measure, a setting that does not fit, or models that differ in shape.
    """
    options = settled("formation", FormationOptions, options, settings)
    named = isinstance(source, (str, Path))
    series = checkpoints(source, device=device, keep=keep) if named else list(source)
    if not series:
        raise InputError("There is no checkpoint to measure.")
    series = chosen_steps(series, steps)
    work = {"options": asdict(options), "checkpoints": [[one.step, one.name] for one in series]}
    work["run"] = run_settings(Path(source)) if named else None
    parts = Partial(None if partial is None else Path(partial), work)
    stimuli: Stimuli | None = None
    waiting = [one for one in series if str(one.step) not in parts.parts]
    for done, (one, model) in enumerate(_ahead(waiting), start=len(series) - len(waiting) + 1):
        if isinstance(model, InputError):
            parts.parts[str(one.step)] = {"problem": str(model)}  # not written down: another time it may be there
        else:
            stimuli = stimuli or Stimuli(model, options, Path(source) if named else None)
            stimuli.check(model, one)
            parts.add(str(one.step), stimuli.measure(model))
        if on_progress is not None:
            on_progress(done, len(series))
    if all("problem" in part for part in parts.parts.values()):
        first = parts.parts[str(series[0].step)]["problem"]
        raise InputError(f"None of the {len(series)} checkpoints could be read; of the first: {first}")
    found = tables_of(series, parts.parts)
    record = {"source": str(source) if isinstance(source, (str, Path)) else "checkpoints", **work, **environment()}
    record["measured"] = next((part["notes"] for part in parts.parts.values() if "notes" in part), {})
    parts.finish()
    return Formation(*found, record)


def _ahead(series: Sequence[Checkpoint]) -> Iterator[tuple[Checkpoint, Model | InputError]]:
    """Each checkpoint and its model, or why there is none; the next one is read while this one is worked on."""
    ready: queue.Queue[tuple[Checkpoint, Model | InputError | BaseException]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(item: tuple[Checkpoint, Any]) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def read() -> None:
        for one in series:
            if stop.is_set():
                return
            try:
                put((one, one.load()))
            except InputError as error:
                put((one, error))
            except BaseException as error:
                put((one, error))
                return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        for _ in series:
            one, model = ready.get()
            if isinstance(model, BaseException) and not isinstance(model, InputError):
                raise model
            yield one, model
    finally:
        stop.set()
        thread.join()
