"""A model's weights under the names, shapes and order of HookedTransformer."""

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from inductionlens.models import Model
from inductionlens.models.lens import is_bridge

_FIRST, _LAST = ("embed.W_E", "pos_embed.W_pos"), ("ln_final.w", "ln_final.b", "unembed.W_U", "unembed.b_U")
#: Where the two classes keep ``attn.alpha``, see `smeared_keys`.
_HOOKED_ALPHA, _BRIDGE_ALPHA = "attn.hook_k.smear.weight", "attn.k.smear.weight"
_BLOCK = (
    *("ln1.w", "ln1.b", "ln2.w", "ln2.b"),
    *("attn.W_Q", "attn.W_O", "attn.b_Q", "attn.b_O", "attn.W_K", "attn.W_V", "attn.b_K", "attn.b_V", "attn.alpha"),
    *("mlp.W_in", "mlp.b_in", "mlp.W_out", "mlp.b_out", "mlp.W_gate", "mlp.b_gate"),
)


def named_weights(model: Model) -> dict[str, Tensor]:
    """Name -> weight, the same for both of TransformerLens's classes; writing to one changes the model.

    W_Q ... are [head, d_model, d_head] (W_K and W_V of grouped-query attention: one for each group, not expanded), W_O
    [head, d_head, d_model], alpha of smeared keys [head]. Weights that HookedTransformer has no name for come last,
    under a bridge's own names.
    """
    if not is_bridge(model):
        unused = {"pos_embed.W_pos"} if model.cfg.positional_embedding_type == "rotary" else set()
        return {
            name.replace(_HOOKED_ALPHA, "attn.alpha").replace("attn._", "attn."): weight.detach()
            for name, weight in model.named_parameters()
            if name not in unused
        }
    parameters = dict(model.named_parameters())
    biases = {key: bias for key, bias in model.named_buffers() if key.endswith("bias")}
    owned = {weight.untyped_storage().data_ptr() for weight in (parameters | biases).values()}
    found: dict[str, Tensor] = {}
    for name in _names(model.cfg.n_layers):
        weight = _follow(model, name.replace("attn.alpha", _BRIDGE_ALPHA))
        # Biases that a layer does not have are answered by zeros made on the spot.
        if weight is not None and weight.untyped_storage().data_ptr() in owned:
            found[name] = weight.detach()
    named = {weight.untyped_storage().data_ptr() for weight in found.values()}
    # TransformerLens keeps the joint matrix that it has split into W_Q, W_K and W_V, and reads it no more.
    rest = {key: weight.detach() for key, weight in parameters.items() if ".qkv." not in key}
    return found | {key: weight for key, weight in rest.items() if weight.untyped_storage().data_ptr() not in named}


def weights_digest(model: Model) -> str:
    """A fingerprint of a model's weights: equal where they are equal bit for bit."""
    hashed = hashlib.sha256()
    for name, weight in named_weights(model).items():
        hashed.update(name.encode())
        hashed.update(weight.cpu().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()[:16]


def write_weights(model: Model, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Put weights in HookedTransformer's names and shapes into a model, in place.

    Rotary toys of the two classes pair the dimensions of a query otherwise (i with i + d/2, or with its neighbour):
    the columns of W_Q and W_K are put in the model's own order.
    """
    own = named_weights(model)
    with torch.no_grad():
        for name, weight in weights:
            own[name].copy_(_reordered(model, name, weight, back=False))


def portable_weights(model: Model) -> dict[str, Tensor]:
    """The inverse of `write_weights`: copies on the CPU, the same numbers from either class."""
    return {
        name: _reordered(model, name, weight, back=True).cpu().clone(memory_format=torch.contiguous_format)
        for name, weight in named_weights(model).items()
    }


def _names(n_layers: int) -> Iterator[str]:
    yield from _FIRST
    yield from (f"blocks.{layer}.{name}" for layer in range(n_layers) for name in _BLOCK)
    yield from _LAST


def _follow(model: Model, name: str) -> Tensor | None:
    part = model
    for step in name.split("."):
        try:
            part = part[int(step)] if step.isdigit() else getattr(part, step)
        except AttributeError:
            return None
    return part if isinstance(part, Tensor) else None


def _reordered(model: Model, name: str, weight: Tensor, *, back: bool) -> Tensor:
    turned = name.split(".")[-1] in ("W_Q", "W_K", "b_Q", "b_K")
    if not turned or not is_bridge(model) or getattr(model.original_model, "rotary", None) is None:
        return weight
    # Neighbours 2i and 2i+1 turn together here; in HookedTransformer i and i + d/2 do.
    order = torch.arange(model.cfg.d_head).view(2, -1).T.flatten()
    return weight[..., order.argsort() if back else order]
