"""Token rows that give a toy model a reason to look back."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def paste_segments(
    rows: Int[Tensor, "batch pos"],
    ids: Int[Tensor, " pool"],
    *,
    generator: np.random.Generator,
    segment: tuple[int, int] = (4, 23),
    gap: tuple[int, int] = (0, 19),
    stretch: int = 128,
    keep_first: int = 1,
) -> Int[Tensor, "batch pos"]:
    """Paste repeated segments of random tokens over a copy of ``rows``, at uneven distances.

    Shape [batch, pos] in and out. In each stretch of ``stretch`` tokens one segment of ``segment`` random ``ids`` is
    pasted again and again, with ``gap`` tokens of the row left standing between copies. Uneven gaps matter: repeats
    at one fixed distance can be learnt from positions alone, with no induction head. The first ``keep_first`` tokens
    of a row (BOS) are left alone.
    """
    pool = ids.numpy()
    out = rows.numpy().copy()
    for row in out:
        for start in range(keep_first, len(row), stretch):
            end = min(start + stretch, len(row))
            copy = generator.choice(pool, generator.integers(segment[0], segment[1] + 1))
            at = start + generator.integers(gap[0], gap[1] + 1)
            while at < end:
                piece = copy[: end - at]
                row[at : at + len(piece)] = piece
                at += len(piece) + generator.integers(gap[0], gap[1] + 1)
    return torch.from_numpy(out)


def random_rows(
    batch: int, length: int, ids: Int[Tensor, " pool"], *, bos: int, generator: np.random.Generator
) -> Int[Tensor, "batch pos"]:
    """Rows of independent random ``ids`` after one ``bos``. Shape [batch, length]."""
    rows = generator.choice(ids.numpy(), (batch, length))
    rows[:, 0] = bos
    return torch.from_numpy(rows)


def text_rows(
    stream: Int[Tensor, " n_tokens"], batch: int, length: int, *, bos: int, generator: np.random.Generator
) -> Int[Tensor, "batch pos"]:
    """Rows of ``stream`` cut at random places, each after one ``bos``. Shape [batch, length]."""
    starts = generator.integers(0, len(stream) - length + 1, batch)
    rows = torch.stack([stream[start : start + length] for start in starts.tolist()])
    rows[:, 0] = bos
    return rows
