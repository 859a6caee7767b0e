"""The weights that scores read."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.activations import logit_multiplier
from inductionlens.models.writing import writing_of


def output_weights(model: Model, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """W_O of one layer as it acts on the residual stream: norms are folded into it on entry, and what the layer
    multiplies its output by is in it.

    Where a norm follows the heads (Gemma 2 and 3) its gain is in it too, and its scale, which depends on what all heads
    of the layer write, is left out: `Final.written_scale` has it. NaN where it is not known what follows the heads.
    """
    weights, writing = model.blocks[layer].attn.W_O.detach(), writing_of(model)[layer]
    if not writing.known:
        return torch.full_like(weights, torch.nan)
    if writing.gain is not None:
        centred = weights - weights.mean(-1, keepdim=True) if writing.centred else weights
        return centred * writing.gain.to(weights)
    return weights if writing.multiplier == 1.0 else weights * writing.multiplier


def unembedding_columns(
    model: Model, tokens: Int[Tensor, "batch pos"], *, centred: bool = True
) -> Float[Tensor, "batch pos d_model"]:
    """The columns of W_U of ``tokens``, minus the vocabulary's mean column if ``centred``; float32. What the model
    multiplies its logits by is in them.

    Models are centred on loading: uncentred columns get back the mean column that was taken away then.

    Raises:
        InputError: uncentred columns of a model that came centred, whose mean column nobody knows.
    """
    weights = model.W_U.detach()
    columns = weights[:, tokens.to(weights.device)].permute(1, 2, 0).float()
    mean = weights.mean(dim=-1, dtype=torch.float32)
    factor = logit_multiplier(model)
    if centred:
        return factor * (columns - mean)
    taken = getattr(model, "inductionlens_unembed_mean", None)
    if taken is None:
        raise InputError(
            "logit_recipe='mcdougall' needs W_U as it was before centring, and this model object came centred; "
            "load it by name or folder."
        )
    return factor * (columns - mean + taken.to(columns.device))
