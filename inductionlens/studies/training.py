"""Train a toy and leave snapshots to watch it by."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.files import checked_path, encode_table, write_atomically
from inductionlens.models.toy import ToyConfig, new_toy, save_toy
from inductionlens.models.training import Trainer
from inductionlens.studies.settings import settled
from inductionlens.studies.windows import Windows
from inductionlens.training_batches import training_batches

if TYPE_CHECKING:
    import pandas

FORMAT = "inductionlens-run"
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
        for name, least in (("steps", 1), ("batch_size", 1), ("warmup", 1), ("snapshots", 2), ("layers", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}; got {value!r}.")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 10:
                raise InputError(f"{name} must lie between 0 and 10; got {value!r}.")
        if self.norm not in NORMS:
            raise InputError(f"norm must be one of {', '.join(NORMS)}; got {self.norm!r}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise InputError(f"seed must lie between 0 and 2^63 - 1; got {self.seed!r}.")
        if self.n_ctx < 16:
            raise InputError(f"n_ctx must be at least 16, or nothing can come again in a row; got {self.n_ctx}.")
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
        InputError: an unusable setting, or a folder that holds another run or other things.
    """
    options = settled("train_toy", TrainOptions, options, settings)
    folder = checked_path(folder)
    batches = training_batches(
        options.data, batch_size=options.batch_size, length=options.n_ctx, d_vocab=options.d_vocab, seed=options.seed
    )
    _claim(folder, options)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = new_toy(options.config(), seed=options.seed)
    if device != "cpu":
        model = model.to(device)
    trainer = Trainer(
        model, lambda rows: model(rows.to(device), return_type="loss"), steps=options.steps,
        learning_rate=options.learning_rate, warmup=options.warmup, decay=options.decay,
        weight_decay=options.weight_decay,
    )  # fmt: skip
    losses = _restore(trainer, folder, device)
    wanted = set(snapshot_steps(options.steps, options.snapshots))
    if not losses:
        _snapshot(model, folder, 0)
    for step in range(trainer.step + 1, options.steps + 1):
        losses.append(trainer.learn(batches(step)))
        if step in wanted:
            _snapshot(model, folder, step)
            _keep(trainer, folder, losses, options)
        if on_progress is not None:
            on_progress(step, options.steps)
    return folder


def run_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; None where there is no run."""
    try:
        return dict(json.loads((folder / "run.json").read_text(encoding="utf-8"))["options"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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


def training_losses(folder: Path) -> np.ndarray | None:
    """The training loss of every step of a run, [step] from the first; None where the folder holds none."""
    import pandas as pd

    try:
        table = pd.read_csv(folder / "training.csv")
        return table.sort_values("step")["loss"].to_numpy(dtype=float)
    except (OSError, ValueError, KeyError):
        return None


def _claim(folder: Path, options: TrainOptions) -> None:
    """Make the folder a run's, or find out that it is this run's already."""
    note = {"format": FORMAT, "version": 1, "options": asdict(options)}
    record = folder / "run.json"
    if record.is_file():
        try:
            there = json.loads(record.read_text(encoding="utf-8"))["options"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{record} is not readable; train into another folder.") from error
        differ = [name for name, value in note["options"].items() if there.get(name) != value]
        if differ:
            raise InputError(
                f"{folder} holds a run of other settings ({differ[0]} is {there.get(differ[0])!r} there and "
                f"{note['options'][differ[0]]!r} here); train into another folder."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty and holds no run; train into another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}.") from error
    write_atomically(record, (json.dumps(note, indent=2) + "\n").encode())


def _restore(trainer: Trainer, folder: Path, device: str) -> list[float]:
    """Take the trainer to where the folder's run stopped, and give the losses so far."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "state.safetensors"
    if not path.is_file():
        return []
    try:
        state = load_file(path, device=device)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or corrupted: {error}; train into another folder.") from error
    losses = state.pop("losses").tolist()
    trainer.restore(state)
    return losses


def _keep(trainer: Trainer, folder: Path, losses: list[float], options: TrainOptions) -> None:
    """Write down the losses, and then what is needed to go on: interrupted in between, the step is done again."""
    from safetensors.torch import save

    write_atomically(folder / "training.csv", encode_table(_loss_table(losses, options), "csv"))
    state: dict[str, Tensor] = {**trainer.state(), "losses": torch.tensor(losses, dtype=torch.float64)}
    write_atomically(folder / "state.safetensors", save({name: value.contiguous() for name, value in state.items()}))


def _loss_table(losses: list[float], options: TrainOptions) -> "pandas.DataFrame":
    import pandas as pd

    steps = range(1, len(losses) + 1)
    tokens = [step * options.batch_size * options.n_ctx for step in steps]
    return pd.DataFrame({"step": steps, "tokens": tokens, "loss": losses})


def _snapshot(model: torch.nn.Module, folder: Path, step: int) -> None:
    """Save the toy as it is, whole or not at all."""
    place, writing = folder / f"step-{step:07d}", folder / ".writing"
    shutil.rmtree(writing, ignore_errors=True)
    save_toy(model, writing)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(writing, place)
