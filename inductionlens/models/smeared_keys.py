"""Keys that mix each position with the one before it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.lens import is_bridge, lens
from inductionlens.models.named_weights import named_weights


def smeared(
    keys: Float[Tensor, "batch pos head d_head"], alpha: Float[Tensor, " head"]
) -> Float[Tensor, "batch pos head d_head"]:
    """k_j <- sigmoid(alpha) k_j + (1 - sigmoid(alpha)) k_{j-1} for each head; k_0 stays as it is.

    alpha = +inf is ordinary attention, 0 the plain average of two keys, -inf the previous key alone. Olsson et al.
    2022, Argument 2, who say neither what k_0 becomes nor how keys with positions of their own are treated.
    """
    own = alpha.sigmoid()[:, None].to(keys.dtype)
    mixed = own * keys[:, 1:] + (1 - own) * keys[:, :-1]
    return torch.cat([keys[:, :1], mixed], dim=1)


def smear_keys(model: Model) -> None:
    """Give every head of a fresh toy smeared keys, in place, with a trainable alpha of 0 each.

    They are smeared as they leave W_K and b_K: before they are turned, where positions are rotary, and before
    ``hook_k``, which shows, and lets one replace, the keys that queries are compared with. One layer with such keys can
    hold an induction head. ``model.parameters()`` and ``model.state_dict()`` hold alpha, under names of the class's
    own; `named_weights` calls it ``blocks.{layer}.attn.alpha``. Alpha belongs to the architecture: norms fold around
    it, and an untrained twin keeps it. Padding on the left is a position like any other.
    """
    # Not TransformerLens's hooks: its reset_hooks may remove them, and what they close over is in no parameters(). Nor
    # torch's: numbered anew in each process, one from a pickled model may be overwritten by the next one hung there.
    for block in model.blocks:
        if is_bridge(model):
            block.attn.k.set_original_component(SmearedLinear(block.attn.k.original_component, model.cfg.n_heads))
        else:
            block.attn.hook_k = SmearedKeys(model.cfg.n_heads, like=block.attn.W_K)
            block.attn.register_forward_pre_hook(_refuse_cache, with_kwargs=True)
    if not is_bridge(model):
        model.setup()  # writes the list of hooks anew


def is_smeared(model: Model) -> bool:
    """Whether a model's keys are smeared over two positions."""
    return any(name.endswith(".smear.weight") for name, _ in model.named_parameters())


def alphas(model: Model) -> Float[Tensor, "layer head"]:
    """A smeared model's alphas as they are now; sigmoid(alpha) is the share of a key that is its own.

    Raises:
        InputError: a model whose keys are not smeared.
    """
    if not is_smeared(model):
        raise InputError("The keys of this model are not smeared; toys with smeared_keys=True have an alpha.")
    own = named_weights(model)
    return torch.stack([own[f"blocks.{layer}.attn.alpha"] for layer in range(model.cfg.n_layers)]).float().cpu()


class Smear(nn.Module):
    """One alpha for each head of a layer."""

    def __init__(self, n_heads: int, like: Tensor) -> None:
        super().__init__()
        # A bridge's state_dict() and load_state_dict() pass over parameters of any other name without a word.
        self.weight = nn.Parameter(torch.zeros(n_heads, dtype=like.dtype, device=like.device))

    def forward(self, keys: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        """Smear one layer's keys."""
        return smeared(keys, self.weight)


class SmearedKeys(lens().hook_points.HookPoint):
    """A HookedTransformer's ``hook_k``, smearing what it is shown before any hook sees it."""

    def __init__(self, n_heads: int, like: Tensor) -> None:
        super().__init__()
        self.smear = Smear(n_heads, like)

    def forward(self, keys: Tensor) -> Tensor:
        """Smear one layer's keys."""
        return super().forward(self.smear(keys))


class SmearedLinear(nn.Linear):
    """A bridge's W_K and b_K, taken over from ``linear``, smearing the keys that they make."""

    def __init__(self, linear: nn.Linear, n_heads: int) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.smear = Smear(n_heads, linear.weight)

    def forward(self, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos both"]:
        """One layer's keys, heads side by side."""
        keys = super().forward(residual).unflatten(-1, (len(self.smear.weight), -1))
        return self.smear(keys).flatten(-2)


def _refuse_cache(attention: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("past_kv_cache_entry") is not None:
        raise InputError(
            "Smeared keys look one position back, where a cache of keys ends; run without one, use_past_kv_cache=False."
        )
