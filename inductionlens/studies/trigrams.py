"""What has a one-layer model learnt by heart?"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inductionlens.checks import check_settings
from inductionlens.composition import own_token_shares
from inductionlens.errors import InputError
from inductionlens.heads import Head, parse_heads
from inductionlens.models import Model
from inductionlens.models.circuits import ov_eigenvalues
from inductionlens.models.loading import load_model
from inductionlens.models.origin import origin_of
from inductionlens.models.vocabulary import ordinary_ids, spelling, told_apart
from inductionlens.probes import generator_from
from inductionlens.scores.circuits import eigenvalue_score
from inductionlens.trigrams import skip_trigrams_of

if TYPE_CHECKING:
    import pandas

#: Columns that hold tokens.
WORDS = ("source", "destination", "out")
#: Source tokens looked at, where the vocabulary is larger.
SOURCES = 4096
#: Random heads behind the spread of ov_eigen, and how many deviations above 0 count as copying.
DRAWS, DEVIATIONS = 50, 3.0


def skip_trigrams(
    model: Model | str | Path,
    *,
    heads: Iterable[Head | str | tuple[int, int]] | None = None,
    top: int = 10,
    distance: int | None = None,
    seed: int = 0,
) -> "pandas.DataFrame":
    """The strongest skip trigrams "source ... destination -> out" of first-layer heads, ``top`` a head.

    Strong is attention times logit, both above average. Ids stand beside the words, which tell all tokens of the table
    apart; ``out`` is one of the tokenizer's own. ``copies`` marks out = source. ``copying_head`` says whether
    the head's OV circuit copies as a whole: ``ov_eigen`` more than three standard deviations above what random weights
    of its shape score. ``own_token`` is the share of tokens that it raises most themselves. Elhage et al. 2021, where
    10 of 12 heads of a one-layer model copy. In models of more layers the trigrams are what layer 0 writes directly.

    Raises:
        InputError: a head of a later layer, or a model without circuits of one matrix.
    """
    import pandas as pd

    heads = None if heads is None else parse_heads(heads, "heads")
    check_trigrams(heads, top=top, distance=distance, seed=seed)
    model = load_model(model)
    every = [Head(0, index) for index in range(model.cfg.n_heads)]
    chosen = every if heads is None else parse_heads(heads, "heads")
    for head in chosen:
        head.check(model.cfg.n_layers, model.cfg.n_heads)
    ids = ordinary_ids(model)
    if len(ids) > SOURCES:
        ids = ids[torch.randperm(len(ids), generator=generator_from(seed, "trigrams"))[:SOURCES].sort().values]
    spell = spelling(model)
    eigen = eigenvalue_score(ov_eigenvalues(model, [0])[0])
    own = own_token_shares(model, (1,), layers=[0], seed=seed)[1][0]
    least = DEVIATIONS * _spread(model, seed)
    parts = []
    for head in chosen:
        found = skip_trigrams_of(model, head, ids, distance=distance)
        strength = found.attention.clamp_min(0) * found.logit.clamp_min(0)
        best = strength.argsort(descending=True, stable=True)[:top]
        parts.append(
            pd.DataFrame(
                {
                    "model": origin_of(model).name, "name": head.label, "layer": 0, "head": head.index,
                    **{name: getattr(found, name)[best].numpy() for name in WORDS},
                    "copies": found.copies[best].numpy(),
                    "attention": found.attention[best].double().numpy(), "logit": found.logit[best].double().numpy(),
                    "all_copies": float(found.copies.double().mean()), "own_token": float(own[head.index]),
                    "ov_eigen": float(eigen[head.index]), "copying_head": bool(eigen[head.index] > least),
                }
            )
        )  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    words = told_apart({index: spell(index) for name in WORDS for index in table[name].tolist()})
    place = table.columns.get_loc(WORDS[-1]) + 1
    for name in WORDS[::-1]:
        table.insert(place, f"{name}_id", table[name])
        table[name] = table[name].map(words)
    return table


def check_trigrams(heads: Iterable[Head | str | tuple[int, int]] | None, **settings: Any) -> None:
    """Refuse what no skip trigrams could be read with, before a model is loaded.

    Raises:
        InputError: a setting of `skip_trigrams` that cannot be used, or a head that is none of layer 0.
    """
    check_settings(**settings)
    for head in map(Head.parse, heads or ()):
        if head.layer:
            raise InputError(f"Skip trigrams are read off heads of layer 0; got {head}.")


def _spread(model: Model, seed: int) -> float:
    """The standard deviation of ov_eigen over random weights of a head's shape; their mean is 0."""
    d_model, d_head = model.cfg.d_model, model.cfg.d_head
    generator = generator_from(seed, "eigenvalues")
    small = torch.randn(DRAWS, d_head, d_model, generator=generator) @ torch.randn(
        DRAWS, d_model, d_head, generator=generator
    )
    return float(np.std(eigenvalue_score(torch.linalg.eigvals(small.double())).numpy()))
