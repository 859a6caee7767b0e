"""A model of the same shape that has learnt nothing."""

import copy

import torch

from inductionlens.models import Model
from inductionlens.models.processing import quiet


def untrained_twin(model: Model, *, seed: int = 0) -> Model:
    """A copy with fresh random weights: matrices normal with deviation 0.8/sqrt(d_model), biases 0.

    That is TransformerLens's own initialisation. The copy needs as much memory as the model; ``seed`` alone decides
    the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    with quiet():
        twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if "W_" in name:
                drawn = torch.randn(weight.shape, generator=generator) * 0.8 / model.cfg.d_model**0.5
                weight.copy_(drawn)
            else:
                weight.fill_(1.0 if name.endswith(".w") else 0.0)
    return twin
