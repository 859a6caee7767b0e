"""Heads to remove together, and the heads they are compared with."""

from collections.abc import Sequence
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
    from_layers: str = ""
    """Of a random set: ``same`` where it has as many heads of each layer as the induction set, ``any`` where it was
    drawn from all other heads; empty for the others."""


def controls_beside(scores: HeadScores, chosen: Sequence[Head]) -> dict[Head, list[Head]]:
    """The controls of each head: the other heads of its layer that the scan calls of no kind; often none.

    They depend on the scan alone, not on which heads were asked for.
    """
    no_kind = sorted(scores.heads("none"))
    return {head: [other for other in no_kind if other.layer == head.layer and other != head] for head in chosen}


def make_groups(scores: HeadScores, options: AblationOptions) -> list[Group]:
    """The strongest 1, 2, 3 ... induction heads, as many previous-token heads, and random sets of as many others.

    Previous-token heads are the heads with the highest ``previous_token`` that are not induction heads, whatever they
    are called. Random sets hold no induction head; they come from the same layers as the induction heads, as many from
    each, where those have more than enough others, and from all other heads where not; ``from_layers`` says which. No
    set is drawn twice: where there are fewer sets than draws there are fewer groups.
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
        seen: set[tuple[tuple[Head, ...], str]] = set()
        for draw in range(options.draws):
            picked = _draw(found[:k], others, generator)
            for _ in range(100):
                if picked not in seen:
                    break
                picked = _draw(found[:k], others, generator)
            if picked not in seen:
                seen.add(picked)
                groups.append(Group("random", draw, *picked))
    return groups


def why_fewer(scores: HeadScores, options: AblationOptions) -> str:
    """Why not all induction heads are removed in groups, in words; empty where they are."""
    n_induction = len(scores.induction_heads())
    n_others = len(scores) - n_induction
    if not options.groups:
        return "groups were not asked for"
    if options.method != "exact":
        return "the gradient estimate is of single heads"
    if not n_induction:
        return "the scan found no induction head"
    if not n_others:
        return "all heads are induction heads, so there are no others beside them"
    if n_others < min(n_induction, LARGEST):
        return f"there are {n_induction} induction heads and {n_others} other head{'s' if n_others > 1 else ''}"
    if n_induction > LARGEST:
        return f"groups have at most {LARGEST} of the {n_induction} induction heads"
    return ""


def _draw(like: list[Head], others: list[Head], generator: np.random.Generator) -> tuple[tuple[Head, ...], str]:
    """As many other heads, from the same layers where there are enough and more than one way to choose; and whether
    they are from the ``same`` layers or from ``any``."""
    layers = [head.layer for head in like]
    pools = {layer: [head for head in others if head.layer == layer] for layer in set(layers)}
    from_layers = "same"
    if any(len(pool) <= layers.count(layer) for layer, pool in pools.items()):
        pools, layers, from_layers = {-1: others}, [-1] * len(like), "any"
    picked = []
    for layer, pool in sorted(pools.items()):
        chosen = generator.choice(len(pool), size=layers.count(layer), replace=False)
        picked += [pool[index] for index in chosen]
    return tuple(sorted(picked)), from_layers
