"""A probe in batches that fit into memory."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens.errors import InputError

#: What is done with a batch: its rows, and which rows of the probe they are.
Work = Callable[[Int[Tensor, "batch pos"], slice], None]


def for_batches(
    tokens: Int[Tensor, "probe pos"],
    work: Work,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Call ``work(rows, part)`` for one batch of a probe after the other, by default of about 2,048 tokens.

    A batch that does not fit into memory is halved and done again, so ``work`` writes its results at ``part``.
    ``progress`` is called with the number of rows after each batch that fitted.

    Raises:
        InputError: one row alone does not fit into memory.
    """
    size, start = batch_size or max(1, 2048 // tokens.shape[1]), 0
    while start < len(tokens):
        part = slice(start, min(start + size, len(tokens)))
        rows = tokens[part]
        try:
            work(rows, part)
        except Exception as error:
            if not _out_of_memory(error):
                raise
            if len(rows) == 1:
                raise InputError(
                    f"One sequence of {rows.shape[1]} tokens does not fit into memory; use shorter ones (a smaller "
                    "period), half precision (dtype='bfloat16', --dtype bfloat16), or another device."
                ) from error
            size = (len(rows) + 1) // 2
        else:
            start = part.stop
            if progress is not None:
                progress(len(rows))
            continue
        # Only here, where the error and the tensors that it holds are gone, does the accelerator give memory back.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the CPU or on an accelerator."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
