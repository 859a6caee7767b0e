"""What a model's losses say."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def token_losses(
    logits: Float[Tensor, "batch pos vocabulary"], following: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Cross-entropy in nats of each position's logits against the token that follows it, in float32."""
    return torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), following, reduction="none")


def copy_positions(
    pos: int, *, start: int, period: int
) -> tuple[Bool[Tensor, " following"], Bool[Tensor, " following"]]:
    """Which predicted tokens, positions 1 .. pos-1, count as first copy and as later copies of a repeated block.

    First copy: the tokens of repeat 1. Later copies: the tokens of later repeats except each block's first, which
    follows a block's end and cannot be told from the copy alone. ``start`` is the block's first position.
    """
    place = torch.arange(1, pos) - start
    return (place >= 0) & (place < period), (place > period) & (place % period != 0)
