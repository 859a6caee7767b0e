"""A probe in batches that fit into memory."""

from collections.abc import Callable, Iterator

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
    for batch in batches(tokens, batch_size):
        with batch:
            work(batch.rows, batch.part)
            if progress is not None:
                progress(len(batch.rows))


class Batch:
    """Some rows of a probe, worked on inside a ``with``: running out of memory there asks for smaller batches."""

    def __init__(self, tokens: Int[Tensor, "probe pos"], part: slice) -> None:
        self.rows: Int[Tensor, "batch pos"] = tokens[part]
        self.part = part
        """Which rows of the probe these are."""
        self.entered = self.fitted = False

    def __enter__(self) -> "Batch":
        self.entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.fitted = error is None
        if error is None or not _out_of_memory(error):
            return False
        if len(self.rows) == 1:
            raise InputError(
                f"One sequence of {self.rows.shape[1]} tokens does not fit into memory; use shorter ones (a smaller "
                "period), half precision (dtype='bfloat16', --dtype bfloat16), or another device."
            ) from error
        return True


def batches(tokens: Int[Tensor, "probe pos"], batch_size: int | None = None) -> Iterator[Batch]:
    """The batches of `for_batches`, each to be worked on inside ``with batch:``; prefer `for_batches`.

    Raises:
        RuntimeError: the next batch was asked for and the one before was never worked on.
    """
    size, start = batch_size or max(1, 2048 // tokens.shape[1]), 0
    while start < len(tokens):
        batch = Batch(tokens, slice(start, min(start + size, len(tokens))))
        yield batch
        if not batch.entered:
            raise RuntimeError("Work on each batch inside `with batch:`, or call for_batches.")
        if batch.fitted:
            start = batch.part.stop
            continue
        size = (len(batch.rows) + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the CPU or on an accelerator."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
