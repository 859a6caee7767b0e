"""A model of the same shape that has learnt nothing."""

from collections.abc import Iterator

import torch
from torch import Tensor

from inductionlens.models import Model
from inductionlens.models.copies import copied
from inductionlens.models.named_weights import named_weights, write_weights


def untrained_twin(model: Model, *, seed: int = 0) -> Model:
    """A copy with fresh random weights: matrices normal with deviation 0.8/sqrt(d_model), biases 0.

    That is TransformerLens's own initialisation; the gains of norms are folded on loading and stay as they are, and
    so does the alpha of smeared keys, which belongs to the architecture. The copy needs as much memory as the model;
    ``seed`` alone decides the weights, the same in both of TransformerLens's classes.
    """
    twin = copied(model)
    write_weights(twin, _drawn(named_weights(twin), model.cfg.d_model, seed))
    return twin


def _drawn(weights: dict[str, Tensor], d_model: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in weights.items():
        last = name.split(".")[-1]
        if last.startswith("b_") or last in ("b", "bias"):
            yield name, torch.zeros(weight.shape)
        elif weight.ndim > 1:
            yield name, torch.randn(weight.shape, generator=generator) * 0.8 / d_model**0.5
