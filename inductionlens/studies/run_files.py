"""The files of a training run: snapshots, losses, and its state."""

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from inductionlens.errors import InputError
from inductionlens.files import encode_table, write_atomically
from inductionlens.models.toy import save_toy
from inductionlens.models.training import Trainer

#: Held while a process trains into the folder.
LOCK = ".lock"


def is_passing(path: Path) -> bool:
    """Whether a file is one that a training leaves behind only when it is killed."""
    return path.name == LOCK or path.name.startswith(".writing")


def training_losses(folder: Path) -> Float[np.ndarray, " step"] | None:
    """The training loss of every step of a run, [step] from the first; None where the folder holds none.

    Raises:
        InputError: its ``training.csv`` is no table of them.
    """
    import pandas as pd

    path = folder / "training.csv"
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path)[["step", "tokens", "loss"]].astype(float)
        steps = table["step"].to_numpy()
        if len(steps) and np.array_equal(steps, np.arange(1, len(steps) + 1)):
            return table["loss"].to_numpy()
    except (OSError, ValueError, KeyError, OverflowError):
        pass
    raise InputError(
        f"{path} is no table of the losses of a training, step by step from 1; restore it, or remove it and train once "
        "more into that folder, which writes it anew."
    )


def restore(trainer: Trainer, folder: Path, device: str) -> list[float]:
    """Take the trainer to where the folder's run stopped, and give the losses so far.

    Raises:
        InputError: the run's state is broken, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "state.safetensors"
    if not path.is_file():
        return []
    try:
        state = load_file(path, device=device)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or corrupted: {error}; train into another folder.") from error
    losses = state.pop("losses", torch.zeros(0))
    try:
        trainer.restore(state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if losses.shape != (trainer.step,) or losses.dtype != torch.float64:
        raise InputError(f"{path} does not hold the losses of its {trainer.step} steps; train into another folder.")
    return losses.tolist()


def keep(trainer: Trainer, folder: Path, losses: list[float], per_step: int) -> None:
    """Write down the losses, and then what is needed to go on: interrupted in between, the step is done again.

    ``per_step`` is how many tokens a step sees.
    """
    from safetensors.torch import save

    write_losses(folder, losses, per_step)
    state = {**trainer.state(), "losses": torch.tensor(losses, dtype=torch.float64)}
    write_atomically(folder / "state.safetensors", save({name: value.contiguous() for name, value in state.items()}))


def write_losses(folder: Path, losses: list[float], per_step: int) -> None:
    """Write ``training.csv``: ``step``, ``tokens`` seen, and ``loss``, nats per token."""
    import pandas as pd

    steps = range(1, len(losses) + 1)
    table = pd.DataFrame({"step": steps, "tokens": [step * per_step for step in steps], "loss": losses})
    write_atomically(folder / "training.csv", encode_table(table, "csv"))


def snapshot(model: torch.nn.Module, folder: Path, step: int) -> None:
    """Save the toy as it is, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    from safetensors import SafetensorError

    place, writing = folder / f"step-{step:07d}", folder / ".writing"
    try:
        shutil.rmtree(writing, ignore_errors=True)
        save_toy(model, writing)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(writing, place)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(writing, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"The snapshot {place} cannot be written: {reason}.") from error
