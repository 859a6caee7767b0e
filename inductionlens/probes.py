"""Token sequences whose structure we made."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens.checks import check_size
from inductionlens.errors import InputError

#: Share of the ordinary ids dropped at each end of the pool, as Bansal et al. 2022 do (Olsson et al. give no cut-off).
TRIM = 0.04
#: Ids from here on are taken for a mistake.
MOST_IDS = 2**31


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


@dataclass(frozen=True)
class GappedProbe:
    """Blocks repeated at uneven distances."""

    tokens: Int[Tensor, "batch pos"]
    """Token ids, [batch, pos]: block, filler, block, filler ...; what follows the last block is filler too."""
    bos: int | None
    """The id at position 0 of every sequence; None for none."""
    period: int
    """Length of the block, in tokens."""
    starts: Int[Tensor, "batch repeat"]
    """Position of the first token of each copy, per sequence."""
    gap: int
    """Most filler tokens between two copies; each gap has 1 to so many, all equally likely."""
    seed: int
    """The seed that alone decided the ids and the gaps."""


def gap_that_fits(context: int, *, start: int, period: int, repeats: int, largest: int = 25) -> int:
    """The largest gap, at most ``largest`` tokens, with which the repeats fit into ``context`` tokens."""
    return min(largest, (context - start - period * repeats) // (repeats - 1))


def gapped_tokens(
    pool: Int[Tensor, " pool"],
    *,
    period: int = 25,
    repeats: int = 4,
    gap: int = 25,
    sequences: int = 10,
    bos: int | None,
    seed: int = 0,
) -> GappedProbe:
    """Repeated blocks with 1 to ``gap`` filler tokens between copies, the number drawn anew for every gap.

    No head can find the earlier copy by distance alone. Filler tokens are drawn from ``pool`` without the block's
    own, each at most once inside a gap. All sequences have the length of the longest layout possible.

    Raises:
        InputError: a gap below 2, which leaves nothing to vary, or a pool with fewer than ``period + gap`` ids.
    """
    if gap < 2:
        raise InputError(f"gap must be at least 2, or copies stand at one distance; got {gap}.")
    if len(pool) < period + gap:
        raise InputError(
            f"The vocabulary is too small for gapped repeats: {period} + {gap} different tokens are needed and the "
            f"pool has {len(pool)}."
        )
    generator = generator_from(seed, "gapped")
    start = int(bos is not None)
    gaps = torch.randint(1, gap + 1, (sequences, repeats - 1), generator=generator)
    starts = torch.cat([torch.full((sequences, 1), start), gaps + period], dim=1).cumsum(1)
    tokens = torch.empty(sequences, start + period * repeats + gap * (repeats - 1), dtype=torch.long)
    if bos is not None:
        tokens[:, 0] = bos
    for row, places in zip(tokens, starts.tolist(), strict=True):
        order = pool[torch.randperm(len(pool), generator=generator)]
        block, others = order[:period], order[period:]
        ends = [*places[1:], len(row)]
        for place, end in zip(places, ends, strict=True):
            row[place : place + period] = block
            hole = end - place - period
            # What follows the last block may be longer than a gap; it is never scored and may repeat itself.
            filler = others[torch.randperm(len(others), generator=generator)]
            row[place + period : end] = filler.repeat(hole // len(filler) + 1)[:hole]
    return GappedProbe(tokens, bos, period, starts, gap, seed)


def fresh_tokens(
    pool: Int[Tensor, " pool"], *, period: int, length: int, sequences: int, bos: int | None, seed: int = 0
) -> Int[Tensor, "batch pos"]:
    """Sequences in which no block returns: every ``period`` tokens are drawn anew, without replacement inside.

    Shape [sequences, length]. A token may come back by chance, as the pool allows, but at no chosen distance.
    """
    generator = generator_from(seed, "fresh")
    blocks = -(-length // period)
    rows = [
        torch.cat([pool[torch.randperm(len(pool), generator=generator)[:period]] for _ in range(blocks)])
        for _ in range(sequences)
    ]
    tokens = torch.stack(rows)[:, : length - int(bos is not None)]
    return tokens if bos is None else torch.cat([torch.full((sequences, 1), bos), tokens], dim=1)


def way_out(name: str, most: int, least: int = 3) -> str:
    """What a refusal of blocks that do not fit ends with: ``period=14 fits``, or that nothing does."""
    return f"{name}={most} fits" if most >= least else "no block is so short"


def token_pool(ordinary: Int[Tensor, " vocabulary"] | Iterable[int], trim: float = TRIM) -> Int[Tensor, " pool"]:
    """The ids that random sequences are drawn from: ``ordinary`` ids in order, without floor(trim n) at each end.

    ``ordinary`` are the tokenizer's own ids without special tokens, never the padded ``d_vocab``. GPT-2 has 50,256, of
    which 46,236 stay.

    Raises:
        InputError: ids that are no whole numbers from 0 on, in one row, each once; or a trim that leaves none.
    """
    ordinary = _checked_ids(ordinary, "ordinary")
    if not _is_number(trim, Real) or not 0 <= trim < 0.5:
        raise InputError(f"trim must be at least 0 and below 0.5, the share of ids left out at each end; got {trim!r}.")
    drop = int(trim * len(ordinary))
    return ordinary.sort().values[drop : len(ordinary) - drop]


def _checked_ids(ids: object, name: str) -> Int[Tensor, " ids"]:
    """Token ids as int64: whole numbers from 0 on, in one row, each once."""
    rule = f"{name} must hold token ids, different whole numbers from 0 on"
    if not isinstance(ids, Tensor):
        listed = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else None
        if listed is None:
            raise InputError(f"{rule}; got {ids!r}.")
        wrong = [index for index in listed if not (_is_number(index, Integral) and 0 <= index < MOST_IDS)]
        if wrong:
            raise InputError(f"{rule}; got {wrong[0]!r}.")
        ids = torch.tensor(listed, dtype=torch.long)
    if ids.ndim != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InputError(f"{rule}, [id]; got {list(ids.shape)} of {str(ids.dtype).removeprefix('torch.')}.")
    ids = ids.long().cpu()
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < MOST_IDS:
        raise InputError(f"{rule}; some are negative or far too large.")
    if len(ids.unique()) < len(ids):
        raise InputError(f"{rule}; some are there more than once.")
    return ids


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


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
        InputError: a count below 1 or far too large, a bos that is no id, a repeated block shorter than 3 tokens (its
            targets would meet the previous and the current token), or a pool with fewer than ``period`` ids.
    """
    for name, value in (("period", period), ("repeats", repeats), ("sequences", sequences)):
        if not _is_number(value, Integral):
            raise InputError(f"{name} must be a whole number; got {value!r}.")
        if value < 1:
            raise InputError(f"{name} must be at least 1; got {value}.")
    check_size(sequences, period * repeats)
    if bos is not None and not (_is_number(bos, Integral) and 0 <= bos < MOST_IDS):
        raise InputError(f"bos must be a token id, a whole number from 0 on, or None; got {bos!r}.")
    if not _is_number(seed, Integral) or not 0 <= seed < 2**63:
        raise InputError(f"seed must be a whole number between 0 and 2^63 - 1; got {seed!r}.")
    pool = _checked_ids(pool, "pool")
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
