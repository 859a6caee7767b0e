"""Token sequences whose structure we made."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens.errors import InputError

#: Share of the ordinary ids dropped at each end of the pool, as Bansal et al. 2022 do (Olsson et al. give no cut-off).
TRIM = 0.04


def generator_from(seed: int, purpose: str) -> torch.Generator:
    """A local random generator that depends on ``seed`` and on what it is for, and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Probe:
    """Sequences to run a model on, and how they were made."""

    tokens: Int[Tensor, "batch pos"]
    """Token ids, [batch, pos]."""
    bos: int | None
    """The id that stands at position 0 of every sequence and is neither source nor target; None for none."""
    period: int
    """Length of the block, in tokens, without BOS."""
    repeats: int
    """How often the block stands in a sequence."""
    seed: int
    """The seed that alone decided the ids."""

    @property
    def start(self) -> int:
        """Position of the block's first token: 1 after a BOS, else 0."""
        return int(self.bos is not None)

    def describe(self) -> str:
        """One short phrase for tables: ``BOS + 25 x 4, n=10``."""
        repeats = f" x {self.repeats}" if self.repeats > 1 else ""
        return f"{'BOS + ' if self.bos is not None else ''}{self.period}{repeats}, n={len(self.tokens)}"


def token_pool(ordinary: Int[Tensor, " vocabulary"] | Iterable[int], trim: float = TRIM) -> Int[Tensor, " pool"]:
    """The ids that random sequences are drawn from: ``ordinary`` ids in order, without floor(trim n) at each end.

    ``ordinary`` are the tokenizer's own ids without special tokens, never the padded ``d_vocab``. GPT-2 has 50,256, of
    which 46,236 stay.
    """
    ordinary = torch.as_tensor(ordinary if isinstance(ordinary, Tensor) else list(ordinary), dtype=torch.long)
    drop = int(trim * len(ordinary))
    return ordinary.sort().values[drop : len(ordinary) - drop]


def repeated_tokens(
    pool: Int[Tensor, " pool"],
    *,
    period: int = 25,
    repeats: int = 4,
    sequences: int = 10,
    bos: int | None,
    seed: int = 0,
    purpose: str = "repeated",
) -> Probe:
    """Random blocks of ``period`` different tokens, each repeated ``repeats`` times back to back.

    Tokens have shape [sequences, (BOS) + period * repeats] and are drawn from ``pool`` without replacement inside a
    block. With ``repeats=1`` nothing repeats. The seed and the purpose alone decide the ids. Source of the default:
    Olsson et al. 2022, 25 random tokens repeated 4 times after one start-of-sequence token, 10 examples.

    Raises:
        InputError: a count below 1, a repeated block shorter than 3 tokens (its targets would meet the previous and
            the current token), or a pool with fewer than ``period`` ids.
    """
    for name, value in (("period", period), ("repeats", repeats), ("sequences", sequences)):
        if value < 1:
            raise InputError(f"{name} must be at least 1; got {value}.")
    if repeats > 1 and period < 3:
        raise InputError(
            f"period must be at least 3, or the token after the earlier copy is the previous or the current one; "
            f"got {period}."
        )
    if len(pool) < period:
        raise InputError(
            f"The vocabulary is too small: a block of {period} different tokens needs {period} ids and the pool has "
            f"{len(pool)}; a period of at most {len(pool)} fits."
        )
    generator = generator_from(seed, purpose)
    blocks = torch.stack([pool[torch.randperm(len(pool), generator=generator)[:period]] for _ in range(sequences)])
    tokens = blocks.repeat(1, repeats)
    if bos is not None:
        tokens = torch.cat([torch.full((sequences, 1), bos), tokens], dim=1)
    return Probe(tokens, bos, period, repeats, seed)
