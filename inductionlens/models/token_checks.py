"""Token ids that a model can read."""

import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.models import Model

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def checked_tokens(
    model: Model, tokens: object, name: str, *, sequences: int = 1, length: int = 1
) -> Int[Tensor, "batch pos"]:
    """The token ids that a caller gave as the argument ``name``, as int64.

    ``sequences`` and ``length`` are the fewest sequences, and tokens in each, that the caller's purpose needs.

    Raises:
        InputError: they are no tensor of whole numbers [sequence, pos], too few, longer than the model's context, or
            not among the ids of its vocabulary.
    """
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.dtype not in WHOLE:
        given = f"{list(tokens.shape)} of {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise InputError(f"{name} must be a tensor of token ids, [sequence, pos]; got {given}.")
    context, vocabulary = model.cfg.n_ctx, model.cfg.d_vocab
    if len(tokens) < sequences or not length <= tokens.shape[1] <= context:
        raise InputError(
            f"{name} must hold at least {sequences} sequence{'s' * (sequences > 1)} of {length} to {context} tokens, "
            f"the model's context; got {len(tokens)} of {tokens.shape[1]}."
        )
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= vocabulary:
        wrong = least if least < 0 else most
        raise InputError(
            f"{name} must hold ids between 0 and {vocabulary - 1}, those of the model's vocabulary; got {wrong}."
        )
    return tokens.long()
