"""The weights that scores read."""

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.lens import lens


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


def ov_eigenvalues(model: Model) -> Complex[Tensor, "layer head d_head"]:
    """Eigenvalues of each head's OV circuit W_E W_V W_O W_U, in float64 on the CPU.

    The circuit is vocabulary by vocabulary, but its non-zero eigenvalues are those of the d_head by d_head matrix
    W_O (W_U W_E) W_V, which is what TransformerLens's FactoredMatrix takes them from.

    A model with as many inputs as outputs is needed; NaN otherwise.

    Raises:
        InputError: weights so large that their products overflow.
    """
    w_e, w_u = model.W_E.detach(), model.W_U.detach()
    cfg = model.cfg
    if w_e.shape[0] != w_u.shape[1]:
        return torch.full((cfg.n_layers, cfg.n_heads, cfg.d_head), torch.nan, dtype=torch.complex128)
    through = (w_u.float() @ w_e.float()).double().cpu()
    if not torch.isfinite(through).all():
        raise InputError("The weights of this model are so large that W_U W_E overflows; no score can be read off.")
    rows = []
    for block in model.blocks:
        w_v, w_o = (weight.detach().double().cpu() for weight in (block.attn.W_V, block.attn.W_O))
        # Grouped-query attention: HookedTransformer has W_V for every query head, a TransformerBridge for every group.
        w_v = w_v.repeat_interleave(cfg.n_heads // len(w_v), dim=0)
        rows.append(lens().FactoredMatrix(w_v, w_o @ through).eigenvalues)
    return torch.stack(rows)
