"""Batches to train on, each decided by its step alone."""

import keyword
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens import corpus
from inductionlens.errors import InputError
from inductionlens.training_data import paste_segments, random_rows, text_rows

Batches = Callable[[int], Int[Tensor, "batch pos"]]
KINDS = ("repeats", "bigrams", "stdlib", "renamed")
#: Tokens whose successor is drawn anew in every sequence, and kept inside it (Bietti et al. 2023).
TRIGGERS = 5
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def training_batches(
    data: str | Path, *, batch_size: int, length: int, d_vocab: int, bos: int = 0, seed: int = 0
) -> Batches:
    """A function from a step to its batch, [batch, length], BOS first: the same step gives the same batch, whatever
    ran before it, so that training can be taken up anywhere.

    ``repeats``: random tokens, over which one segment of 8-24 tokens is pasted again and again at uneven distances
    (even ones can be learnt from positions alone). ``bigrams``: tokens follow a fixed random bigram table, but what
    follows each of 5 trigger tokens is drawn anew in every sequence (Bietti et al. 2023). ``stdlib``: the bytes of the
    running Python's standard library. ``renamed``: the same with every name replaced, consistently inside a row, so
    that it can only be learnt in context. Anything else is a .txt file or a folder of them, as bytes.

    Raises:
        InputError: a vocabulary too small for the data, or text that is missing or too short.
    """
    if data == "repeats":
        return _repeats(batch_size, length, d_vocab, bos, seed)
    if data == "bigrams":
        return _bigrams(batch_size, length, d_vocab, bos, seed)
    if d_vocab < 256:
        raise InputError(f"Text is trained on as bytes, which need d_vocab=256; got {d_vocab}.")
    named = str(data)
    texts = list(corpus.python_stdlib() if named in ("stdlib", "renamed") else corpus.text_file(data))
    stream = torch.tensor(list(b"\0".join(str(text.text).encode() for text in texts)), dtype=torch.long)
    if len(stream) < 2 * length:
        raise InputError(f"{named} holds {len(stream)} bytes, too few to cut rows of {length} from.")
    return _text(stream, batch_size, length, bos, seed, rename=named == "renamed")


def _generator(seed: int, step: int) -> np.random.Generator:
    return np.random.default_rng((seed, step))


def _repeats(batch_size: int, length: int, d_vocab: int, bos: int, seed: int) -> Batches:
    ids = torch.tensor([index for index in range(d_vocab) if index != bos])
    longest = min(24, (length - 1) // 3)

    def at(step: int) -> Tensor:
        generator = _generator(seed, step)
        rows = random_rows(batch_size, length, ids, bos=bos, generator=generator)
        shape = {"segment": (min(8, longest), longest), "gap": (0, 6), "stretch": min(length, 128)}
        return paste_segments(rows, ids, generator=generator, **shape)

    return at


def _bigrams(batch_size: int, length: int, d_vocab: int, bos: int, seed: int) -> Batches:
    ids = np.array([index for index in range(d_vocab) if index != bos])
    if len(ids) < 2 * TRIGGERS:
        raise InputError(f"bigrams need d_vocab of at least {2 * TRIGGERS + 1}: {TRIGGERS} of its tokens are triggers.")
    table = np.random.default_rng((seed, 2**31)).dirichlet(np.full(len(ids), 0.1), len(ids)).cumsum(1)

    def at(step: int) -> Tensor:
        generator = _generator(seed, step)
        rows = np.empty((batch_size, length), dtype=np.int64)
        follows = generator.integers(0, len(ids), (batch_size, TRIGGERS))
        place = generator.integers(0, len(ids), batch_size)
        draws = generator.random((batch_size, length))
        for position in range(1, length):
            rows[:, position] = ids[place]
            after = np.minimum((table[place] < draws[:, position, None]).sum(1), len(ids) - 1)
            triggered = place < TRIGGERS
            after[triggered] = follows[triggered, place[triggered]]
            place = after
        rows[:, 0] = bos
        return torch.from_numpy(rows)

    return at


def _text(stream: Tensor, batch_size: int, length: int, bos: int, seed: int, *, rename: bool) -> Batches:
    def at(step: int) -> Tensor:
        generator = _generator(seed, step)
        # Names change their length: rows are cut long, renamed, and cut again.
        rows = text_rows(stream, batch_size, 2 * length if rename else length, bos=bos, generator=generator)
        if not rename:
            return rows
        renamed = [_renamed(bytes(row[1:].tolist()), generator)[: length - 1] for row in rows]
        filled = [list(text.ljust(length - 1, b" ")) for text in renamed]
        return torch.tensor([[bos, *text] for text in filled])

    return at


def _renamed(text: bytes, generator: np.random.Generator) -> bytes:
    """Every name but Python's own words replaced by random letters, the same name by the same letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    known: dict[str, str] = {}

    def swap(match: re.Match[str]) -> str:
        name = match.group()
        if keyword.iskeyword(name):
            return name
        if name not in known:
            known[name] = "".join(letters[index] for index in generator.integers(0, 26, generator.integers(3, 8)))
        return known[name]

    return _NAME.sub(swap, text.decode("latin-1")).encode("latin-1")
