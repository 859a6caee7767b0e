"""What a saved toy must say, kept beside its weights."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.activations import as_for_inference
from inductionlens.models.token_checks import checked_tokens

#: The file in a toy's folder.
EXPECTED = "expected.safetensors"
#: By how much a log-probability may differ, in nats.
TOLERANCE = 1e-3
#: Sequences that the model runs on at a time.
_ROWS = 16


def next_log_probs(model: Model, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n length-1"]:
    """The log-probability, in nats, that a model gives to every token but the first of each sequence."""
    device = next(model.parameters()).device
    parts = []
    with torch.no_grad(), as_for_inference(model):
        for rows in tokens.to(device).split(_ROWS):
            logits = model(rows, return_type="logits")[:, :-1].float()
            parts.append(logits.log_softmax(-1).gather(2, rows[:, 1:, None])[..., 0].cpu())
    return torch.cat(parts)


def check_expected(model: Model, folder: Path) -> None:
    """Hold a toy against ``expected.safetensors`` in its folder, where there is one.

    Raises:
        InputError: the file is broken, or a log-probability differs by more than `TOLERANCE`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / EXPECTED
    if not path.is_file():
        return
    try:
        kept = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or corrupted: {error}.") from error
    if set(kept) != {"tokens", "log_probs"}:
        raise InputError(f"{path} must hold tokens and log_probs; it holds {', '.join(sorted(kept)) or 'nothing'}.")
    tokens = checked_tokens(model, kept["tokens"], f"tokens in {path}", length=2)
    shape = (tokens.shape[0], tokens.shape[1] - 1)
    if kept["log_probs"].shape != shape:
        raise InputError(f"log_probs in {path} must be {list(shape)}; they are {list(kept['log_probs'].shape)}.")
    found, right = next_log_probs(model, tokens), kept["log_probs"].float()
    difference = (found - right).abs().nan_to_num(torch.inf)
    if difference.max() > TOLERANCE:
        row, place = divmod(int(difference.argmax()), shape[1])
        raise InputError(
            f"The model in {folder} is not the one that {EXPECTED} describes: the log-probability of token {place + 1} "
            f"of sequence {row} is {found[row, place]:.4f} and should be {right[row, place]:.4f}, off by "
            f"{difference[row, place]:.4f} (at most {TOLERANCE}); {int((difference > TOLERANCE).sum())} of "
            f"{difference.numel()} are off."
        )
