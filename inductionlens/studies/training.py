"""Train a toy and leave snapshots to watch it by."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from inductionlens.checks import WHOLE, check_between, check_choice, check_settings, check_whole
from inductionlens.errors import InputError
from inductionlens.files import checked_path, write_atomically
from inductionlens.locks import held
from inductionlens.models.toy import CHOICES, ToyConfig, new_toy
from inductionlens.models.training import Trainer
from inductionlens.studies.run_files import LOCK, is_passing, restore, training_losses, write_losses
from inductionlens.studies.run_files import keep as _keep
from inductionlens.studies.run_files import snapshot as _snapshot
from inductionlens.studies.settings import settled
from inductionlens.studies.training_needs import check_doable
from inductionlens.studies.windows import Windows
from inductionlens.training_batches import training_batches

FORMAT, VERSION = "inductionlens-run", 1
NORMS = {"LN": "LN", "RMS": "RMS", "none": None}


@dataclass(frozen=True)
class TrainOptions:
    """What is trained, on what, and how. The defaults form induction heads within a minute on one core."""

    layers: int = 2
    """Layers of attention."""
    heads: int = 4
    """Heads in a layer."""
    d_model: int = 64
    """Width of the residual stream."""
    d_head: int = 16
    """Width of a head."""
    d_vocab: int = 64
    """Token ids, BOS (0) counted; text is bytes and needs 256."""
    n_ctx: int = 96
    """Tokens in a row, BOS counted."""
    mlp: bool = False
    """Whether each layer has an MLP of four times the width."""
    norm: str = "LN"
    """LN, RMS or none."""
    positions: str = "standard"
    """standard, rotary or shortformer."""
    smeared_keys: bool = False
    """Whether each key is mixed with the one before it (Olsson et al. 2022, Argument 2)."""
    data: str = "repeats"
    """repeats, bigrams, stdlib, renamed, or a .txt file or folder; see `training_batches`."""
    steps: int = 600
    """Optimiser steps."""
    batch_size: int = 32
    """Rows in a step."""
    learning_rate: float = 3e-3
    """AdamW's, after warm-up."""
    warmup: int = 100
    """Steps over which the learning rate rises."""
    decay: bool = False
    """Whether it then falls linearly to zero at the last step."""
    weight_decay: float = 0.01
    """AdamW's."""
    snapshots: int = 40
    """About how many snapshots: evenly spaced, and at steps 1, 2, 4, 8 ... before the first of these."""
    seed: int = 0
    """Decides the initial weights and every batch."""

    def __post_init__(self) -> None:
        names = [name for name in vars(self) if name in WHOLE or name in ("mlp", "smeared_keys", "decay", "seed")]
        check_settings(**{name: getattr(self, name) for name in names})
        check_whole("batch_size", self.batch_size, 1, WHOLE["batch_size"].most)
        for name in ("learning_rate", "weight_decay"):
            check_between(name, getattr(self, name), 0.0, 10.0)
        check_choice("norm", self.norm, NORMS)
        check_choice("positions", self.positions, CHOICES["positional_embedding_type"])
        self.config()

    def config(self) -> ToyConfig:
        """The shape of the toy."""
        extra = {"smeared_keys": True} if self.smeared_keys else {}
        return ToyConfig(
            n_layers=self.layers, n_heads=self.heads, d_model=self.d_model, d_head=self.d_head, d_vocab=self.d_vocab,
            n_ctx=self.n_ctx, d_mlp=4 * self.d_model if self.mlp else None, normalization_type=NORMS[self.norm],
            positional_embedding_type=self.positions, **extra,
        )  # fmt: skip


def snapshot_steps(steps: int, snapshots: int) -> list[int]:
    """At which steps snapshots are taken: 0, evenly to the end, and 1, 2, 4 ... before the first even one."""
    snapshots = min(snapshots, steps + 1)
    even = {round(index * steps / (snapshots - 1)) for index in range(snapshots)}
    first = min((step for step in even if step), default=steps)
    return sorted(even | {2**power for power in range(32) if 2**power < first})


def train_toy(
    folder: str | Path,
    options: TrainOptions | None = None,
    *,
    device: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Path:
    """Train a toy into ``folder``, with a snapshot (a toy folder, ``step-0000350``) at every one of `snapshot_steps`.

    Called again on a folder in which it was interrupted, it goes on from the last snapshot and ends bit for bit where
    it would have ended; called on a finished one, it does nothing. ``training.csv`` holds the loss of every step,
    ``run.json`` the settings, ``state.safetensors`` what is needed to go on. ``settings`` are those of `TrainOptions`.

    Raises:
        InputError: an unusable setting, a folder that holds another run or other things, that another process trains
            into, or that cannot be written to.
    """
    options = settled("train_toy", TrainOptions, options, settings)
    folder, device = checked_path(folder), check_doable(options, device)
    batches = training_batches(
        options.data, batch_size=options.batch_size, length=options.n_ctx, d_vocab=options.d_vocab, seed=options.seed
    )
    with _claimed(folder, options):
        _train(folder, options, batches, device, on_progress)
    return folder


def _train(
    folder: Path,
    options: TrainOptions,
    batches: Callable[[int], Tensor],
    device: str | None,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Train from the last snapshot in the folder to the end."""
    model = new_toy(options.config(), seed=options.seed)
    if device != "cpu":
        model = model.to(device, print_details=False)
    trainer = Trainer(
        model, lambda rows: model(rows.to(device), return_type="loss"), steps=options.steps,
        learning_rate=options.learning_rate, warmup=options.warmup, decay=options.decay,
        weight_decay=options.weight_decay,
    )  # fmt: skip
    losses = restore(trainer, folder, device)
    per_step = options.batch_size * options.n_ctx
    wanted = set(snapshot_steps(options.steps, options.snapshots))
    if losses and training_losses(folder) is None:
        write_losses(folder, losses, per_step)
    if not losses:
        _snapshot(model, folder, 0)
    for step in range(trainer.step + 1, options.steps + 1):
        losses.append(trainer.learn(batches(step)))
        if step in wanted:
            _snapshot(model, folder, step)
            _keep(trainer, folder, losses, per_step)
        if on_progress is not None:
            on_progress(step, options.steps)


def run_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder, all of `TrainOptions`; None where there is no run.

    Raises:
        InputError: its ``run.json`` is spoiled, or of another version.
    """
    record = folder / "run.json"
    if not record.is_file():
        return None
    try:
        return _checked(json.loads(record.read_text(encoding="utf-8")))
    except InputError as error:
        reason = str(error).rstrip(".")
    except (OSError, ValueError, RecursionError):
        reason = "it is not readable JSON"
    raise InputError(f"{record} is no record of a run that this version knows ({reason}); restore it or move it away.")


def _checked(note: Any) -> dict[str, Any]:
    """The options in the record of a run, each of the type that it should have."""
    options = note.get("options") if isinstance(note, dict) else None
    if not isinstance(options, dict) or (note.get("format"), note.get("version")) != (FORMAT, VERSION):
        raise InputError(f"it is not of format {FORMAT}, version {VERSION}")
    known = asdict(TrainOptions())
    for name in sorted(known.keys() ^ options.keys(), key=str):
        raise InputError(f"it has {'no' if name in known else 'an unknown'} option {name}")
    for name, value in options.items():
        if type(value) is not type(known[name]) and (type(value), type(known[name])) != (int, float):
            raise InputError(f"its option {name} is {str(value)[:60]!r}, a {type(value).__name__}")
    return asdict(TrainOptions(**options))


def unseen_rows(folder: Path, count: int, length: int | None = None) -> Windows | None:
    """Rows of the data that a run in ``folder`` is trained on, from the step after its last, BOS first as there; None
    without a run. ``length`` cuts them.

    Raises:
        InputError: a length that the rows do not have.
    """
    settings = run_settings(folder)
    if settings is None:
        return None
    options = TrainOptions(**settings)
    batches = training_batches(
        options.data, batch_size=count, length=options.n_ctx, d_vocab=options.d_vocab, seed=options.seed
    )
    if length is not None and not 3 <= length <= options.n_ctx:
        raise InputError(f"length must lie between 3 and {options.n_ctx}, the tokens of the run's rows; got {length}.")
    return Windows(batches(options.steps + 1)[:, :length], f"rows of {options.data} after the last step", 0)


def _check_place(folder: Path, options: TrainOptions) -> None:
    """Refuse a folder that holds another run, or other things."""
    settings = run_settings(folder)
    if settings is not None:
        differ = [name for name, value in asdict(options).items() if settings[name] != value]
        if differ:
            raise InputError(
                f"{folder} holds a run of other settings ({differ[0]} is {settings[differ[0]]!r} there and "
                f"{getattr(options, differ[0])!r} here); train into another folder."
            )
    elif folder.exists() and (not folder.is_dir() or any(not is_passing(path) for path in folder.iterdir())):
        raise InputError(f"{folder} is not empty and holds no run; train into another folder.")


@contextmanager
def _claimed(folder: Path, options: TrainOptions) -> Iterator[None]:
    """Make the folder this run's, and let no other process train into it meanwhile."""
    _check_place(folder, options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}.") from error
    if not os.access(folder, os.W_OK):  # a finished run may be looked at there
        yield
        return
    taken = f"Another process is training into {folder}; wait for it to end, or train into another folder."
    with held(folder / LOCK, taken):
        _check_place(folder, options)
        if not (folder / "run.json").is_file():
            note = {"format": FORMAT, "version": VERSION, "options": asdict(options)}
            write_atomically(folder / "run.json", (json.dumps(note, indent=2) + "\n").encode())
        yield
