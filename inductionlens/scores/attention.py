"""How much attention lands where a kind of head would look."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inductionlens.errors import InputError

REDUCTIONS: tuple[str, ...] = ("sum", "last", "first", "entry_mean", "diagonal")

#: The offsets from the earlier copy that `offset_profile` looks at (metrics: -4 .. +12).
OFFSETS = range(-4, 13)


def earlier_copies(tokens: Int[Tensor, "batch pos"], bos: int | None) -> Bool[Tensor, "batch query key"]:
    """Mark, for every query, the earlier keys that hold the query's own token. BOS is never a copy."""
    same = (tokens[:, :, None] == tokens[:, None, :]).tril(-1)
    return same if bos is None else same & (tokens != bos)[:, None, :]


def shifted(copies: Bool[Tensor, "batch query key"], offset: int) -> Bool[Tensor, "batch query key"]:
    """Mark the key ``offset`` after each copy instead of the copy itself; keys in the future are dropped."""
    if abs(offset) >= copies.shape[-1]:
        return torch.zeros_like(copies)
    return torch.nn.functional.pad(copies, (offset, -offset)).tril()


def after_copy(tokens: Int[Tensor, "batch pos"], bos: int | None) -> Bool[Tensor, "batch query key"]:
    """Where an induction head looks: the key right after each earlier copy of the query's token.

    Olsson et al. 2022. Since their erratum of 2022-09-20 the formal sentences read as the token before the copy; the
    mechanism, the table caption and all public code agree on the token after it.
    """
    return shifted(earlier_copies(tokens, bos), 1)


def at_offset(tokens: Int[Tensor, "batch pos"], bos: int | None, offset: int) -> Bool[Tensor, "batch query key"]:
    """The key ``offset`` after each earlier copy of the query's token, BOS and the future left out.

    On a repeated probe the key may stand in the neighbouring repeat, so that offset +1 is `after_copy`, 0 is
    `on_copy` and -1 is `before_copy`, on the same queries.
    """
    keys = shifted(earlier_copies(tokens, bos), offset)
    return keys if bos is None else keys & (tokens != bos)[:, None, :]


def before_copy(tokens: Int[Tensor, "batch pos"], bos: int | None) -> Bool[Tensor, "batch query key"]:
    """The key right before each earlier copy: the literal reading of Olsson et al.'s corrected sentence."""
    return at_offset(tokens, bos, -1)


def on_copy(tokens: Int[Tensor, "batch pos"], bos: int | None) -> Bool[Tensor, "batch query key"]:
    """Where a duplicate-token head looks: the earlier copies of the query's token, itself left out."""
    return earlier_copies(tokens, bos)


def previous(tokens: Int[Tensor, "batch pos"], bos: int | None) -> Bool[Tensor, "batch query key"]:
    """Where a previous-token head looks: the key before the query, for every query but the first."""
    batch, pos = tokens.shape
    return torch.ones(pos, pos, dtype=torch.bool, device=tokens.device).tril(-1).triu(-1).expand(batch, pos, pos)


def first_when_unmatched(tokens: Int[Tensor, "batch pos"], bos: int | None) -> Bool[Tensor, "batch query key"]:
    """Where a head rests when there is nothing to match: key 0, for later queries whose token is new."""
    target = torch.zeros_like(earlier_copies(tokens, bos))
    target[:, 1:, 0] = ~earlier_copies(tokens, bos).any(-1)[:, 1:]
    return target


def fixed_distance(tokens: Int[Tensor, "batch pos"], distance: int) -> Bool[Tensor, "batch query key"]:
    """The key ``distance`` before every query that has one: a plain diagonal, as public two-repeat recipes use."""
    batch, pos = tokens.shape
    line = torch.ones(pos, pos, dtype=torch.bool, device=tokens.device).tril(-distance).triu(-distance)
    return line.expand(batch, pos, pos)


#: Column name -> target. A score is one line here and inherits the laws of `attention_to`.
TARGETS: dict[str, Callable[[Int[Tensor, "batch pos"], int | None], Bool[Tensor, "batch query key"]]] = {
    "prefix_matching": after_copy,
    "prefix_matching_literal": before_copy,
    "duplicate_token": on_copy,
    "previous_token": previous,
    "first_token": first_when_unmatched,
}
#: The distance back, in block lengths and tokens, that stands for a target under ``reduce="diagonal"``.
DIAGONALS: dict[str, tuple[int, int]] = {
    "prefix_matching": (1, -1),
    "prefix_matching_literal": (1, 1),
    "duplicate_token": (1, 0),
}


class Entries(NamedTuple):
    """The entries of a pattern that a score reads, and what each weighs; the weights of a row sum to 1."""

    batch: Int[Tensor, " entry"]
    query: Int[Tensor, " entry"]
    key: Int[Tensor, " entry"]
    weight: Float[Tensor, " entry"]


def weigh(target: Bool[Tensor, "batch query key"], reduce: str = "sum") -> Entries:
    """Turn a target into weighted entries, once for all layers.

    ``sum`` adds the target keys of a query and averages over the queries that have one (the default: an ideal head
    scores 1 however it splits its attention). ``last`` and ``first`` keep only the latest or earliest target of a
    query. ``entry_mean`` averages matrix entries, so that an ideal head falls below 1 when targets are several.

    Raises:
        InputError: an unknown ``reduce``, or a sequence in which no query has a target.
    """
    if reduce not in ("sum", "last", "first", "entry_mean"):
        raise InputError(
            f"reduce must be one of sum, last, first, entry_mean; got {reduce!r}. (A diagonal is a target of its own: "
            "fixed_distance.)"
        )
    nothing = (~target.flatten(1).any(1)).nonzero()
    if len(nothing):
        raise InputError(
            f"No query in sequence {int(nothing[0])} has a target: where no token repeats there is nothing to average."
        )
    batch, query, key = target.nonzero(as_tuple=True)
    if reduce in ("last", "first"):
        # Entries come sorted by batch, query, key: the first and the last of a query stand at its run's ends.
        row = batch * target.shape[1] + query
        edge = row[1:] != row[:-1]
        end = torch.ones(1, dtype=torch.bool, device=row.device)
        keep = torch.cat([edge, end]) if reduce == "last" else torch.cat([end, edge])
        batch, query, key = batch[keep], query[keep], key[keep]
    per_row = target.flatten(1).sum(1) if reduce == "entry_mean" else target.any(-1).sum(1)
    return Entries(batch, query, key, 1 / per_row[batch].double())


def attend(entries: Entries, pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head"]:
    """The weighted sum of a pattern's entries, per sequence and head. The pattern is only read.

    The entries leave the model as float32 and are summed in float64 on the CPU, where sums of many small weights
    depend on neither the batch nor the device.
    """
    picked = pattern[entries.batch, :, entries.query, entries.key].float().cpu().double()
    weighted = picked * entries.weight.cpu()[:, None]
    scores = torch.zeros(pattern.shape[:2], dtype=torch.float64)
    return scores.index_add_(0, entries.batch.cpu(), weighted)


def attention_to(
    target: Bool[Tensor, "batch query key"],
    pattern: Float[Tensor, "batch head query key"],
    *,
    reduce: str = "sum",
) -> Float[Tensor, "batch head"]:
    """In [0, 1], higher is more: how much attention lands on ``target``. A fraction of a query's attention.

    The one estimator of this package's attention scores: a kind of head is a target. Our pattern[b, h, q, k] is
    Olsson et al.'s A_h[q, k]. The batch axis is kept, for intervals. See `weigh` for ``reduce`` and errors.
    """
    return attend(weigh(target, reduce), pattern)


def layout_entries(
    starts: Int[Tensor, "layout repeat"], period: int
) -> tuple[Int[Tensor, "layout entry"], Int[Tensor, "layout entry"], int]:
    """Queries and keys at which prefix matching reads copies that begin at ``starts``, and how many queries there are.

    The key is the one after each earlier copy of the query's token. The block's last token is left out: what follows
    its copies is filler. Positions alone decide, so the same entries can be read where nothing repeats.
    """
    pairs = [(later, earlier) for later in range(1, starts.shape[1]) for earlier in range(later)]
    inside = torch.arange(period - 1)
    queries = torch.stack([starts[:, later, None] + inside for later, _ in pairs], dim=1)
    keys = torch.stack([starts[:, earlier, None] + inside + 1 for _, earlier in pairs], dim=1)
    return queries.flatten(1), keys.flatten(1), (starts.shape[1] - 1) * (period - 1)


def expected_entries(
    period: int, repeats: int, gap: int, start: int
) -> tuple[Int[Tensor, " entry"], Int[Tensor, " entry"], Float[Tensor, " entry"]]:
    """Queries, keys and weights of the mean of `layout_entries` over all layouts with gaps of 1 to ``gap`` tokens.

    What a head that knows only positions would score on gapped repeats, exactly: each gap is uniform and independent,
    so a key's place and its distance from the query are sums of gaps that do not depend on each other.
    """
    length = start + period * repeats + gap * (repeats - 1)
    weights = np.zeros((length, length))
    one_gap = np.concatenate([[0.0], np.full(gap, 1 / gap)])
    sums = [np.ones(1)]
    for _ in range(repeats - 1):
        sums.append(np.convolve(sums[-1], one_gap))
    n_queries = (repeats - 1) * (period - 1)
    for later in range(1, repeats):
        for earlier in range(later):
            at_key = np.convolve(sums[earlier], np.ones(period - 1)) / n_queries
            keys = start + earlier * period + 1 + np.arange(len(at_key))
            for more, chance in enumerate(sums[later - earlier]):
                weights[keys + (later - earlier) * period + more - 1, keys] += chance * at_key
    query, key = np.nonzero(weights)
    return torch.from_numpy(query), torch.from_numpy(key), torch.from_numpy(weights[query, key])


def value_weighted(
    pattern: Float[Tensor, "batch head query key"], values: Float[Tensor, "batch key head d_head"]
) -> Float[Tensor, "batch head query key"]:
    """Attention weighted by how much there is to read: A |v|, renormalised so that rows sum to 1.

    Elhage et al. 2021 weigh by the norm of the value vector; the renormalisation is Feucht et al.'s (2025). A row that
    attends only to zero values is NaN.
    """
    weighted = pattern.float() * values.float().norm(dim=-1).permute(0, 2, 1)[:, :, None, :]
    return weighted / weighted.sum(-1, keepdim=True)
