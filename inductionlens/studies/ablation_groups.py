"""Groups of heads to remove together, and the random groups beside them."""

from typing import NamedTuple

import numpy as np

from inductionlens.head_scores import HeadScores
from inductionlens.heads import Head
from inductionlens.studies.ablation_options import AblationOptions

#: Largest group: beyond it a curve says little and costs much.
LARGEST = 8


class Group(NamedTuple):
    """Heads removed together."""

    set: str
    """``induction``, ``previous_token`` or ``random``."""
    draw: int
    """Which of the random groups of this size; 0 for the others."""
    heads: tuple[Head, ...]


def make_groups(scores: HeadScores, options: AblationOptions) -> list[Group]:
    """The strongest 1, 2, 3 ... induction heads, as many previous-token heads, and random sets of as many others.

    Previous-token heads are the heads with the highest ``previous_token`` that are not induction heads, whatever they
    are called. Random sets hold no induction head; they come from the same layers as the induction heads, as many from
    each, where those have enough others, and from all other heads where not. No set is drawn twice:
    where there are fewer sets than draws there are fewer groups.
    """
    found = scores.induction_heads()[:LARGEST]
    table = scores.table
    every = [Head(int(row["layer"]), int(row["head"])) for row in table.to_dict("records")]
    induction = set(scores.induction_heads())
    others = [head for head in every if head not in induction]
    previous = table.sort_values("previous_token", ascending=False, kind="stable")
    before = [Head(int(row["layer"]), int(row["head"])) for row in previous.to_dict("records")]
    before = [head for head in before if head not in induction]
    generator = np.random.default_rng(options.seed)
    groups = []
    for k in range(1, min(len(found), len(others)) + 1):
        groups.append(Group("induction", 0, tuple(found[:k])))
        groups.append(Group("previous_token", 0, tuple(before[:k])))
        seen: set[tuple[Head, ...]] = set()
        for draw in range(options.draws):
            picked = _draw(found[:k], others, generator)
            for _ in range(100):
                if picked not in seen:
                    break
                picked = _draw(found[:k], others, generator)
            if picked not in seen:
                seen.add(picked)
                groups.append(Group("random", draw, picked))
    return groups


def _draw(like: list[Head], others: list[Head], generator: np.random.Generator) -> tuple[Head, ...]:
    """As many other heads, from the same layers where there are enough and more than one way to choose."""
    layers = [head.layer for head in like]
    pools = {layer: [head for head in others if head.layer == layer] for layer in set(layers)}
    if any(len(pool) <= layers.count(layer) for layer, pool in pools.items()):
        pools, layers = {-1: others}, [-1] * len(like)
    picked = []
    for layer, pool in sorted(pools.items()):
        chosen = generator.choice(len(pool), size=layers.count(layer), replace=False)
        picked += [pool[index] for index in chosen]
    return tuple(sorted(picked))
