"""The weights that scores read."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.models import Model


def output_weights(model: Model, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """W_O of one layer, as the model holds it (norms folded on entry)."""
    return model.blocks[layer].attn.W_O.detach()


def unembedding_columns(
    model: Model, tokens: Int[Tensor, "batch pos"], *, centred: bool = True
) -> Float[Tensor, "batch pos d_model"]:
    """The columns of W_U of ``tokens``, minus the vocabulary's mean column if ``centred``; float32.

    Models are centred on loading: uncentred columns get back the mean column that was taken away then.

    Raises:
        InputError: uncentred columns of a model that came centred, whose mean column nobody knows.
    """
    weights = model.W_U.detach()
    columns = weights[:, tokens.to(weights.device)].permute(1, 2, 0).float()
    mean = weights.mean(dim=-1, dtype=torch.float32)
    if centred:
        return columns - mean
    taken = getattr(model, "inductionlens_unembed_mean", None)
    if taken is None:
        raise InputError(
            "logit_recipe='mcdougall' needs W_U as it was before centring, and this model object came centred; "
            "load it by name or folder."
        )
    return columns - mean + taken.to(columns.device)
