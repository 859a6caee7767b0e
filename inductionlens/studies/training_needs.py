"""Can this machine train that toy? Asked before a folder is made."""

from typing import TYPE_CHECKING

from inductionlens.models.loading import check_device
from inductionlens.models.memory import check_memory
from inductionlens.models.toy import ToyConfig, new_toy

if TYPE_CHECKING:
    from inductionlens.studies.training import TrainOptions


def check_doable(options: "TrainOptions", device: str | None) -> str:
    """The device to train on, if it can be used and has the memory that a step needs at least.

    Raises:
        InputError: it cannot, it has not, or this TransformerLens does not have such positions.
    """
    device = check_device(device)
    if options.positions == "shortformer":
        new_toy(ToyConfig(1, 1, 4, 4, 4, 16, positional_embedding_type=options.positions))
    if options.data == "bigrams":
        check_memory(8 * options.d_vocab**2, "cpu", "A table of bigrams", "use a smaller d_vocab (--d-vocab)")
    rows = f"A step of {options.batch_size} rows of {options.n_ctx} tokens"
    check_memory(least_memory(options), device, rows, "use a smaller batch_size or n_ctx (--batch-size, --n-ctx)")
    return device


def least_memory(options: "TrainOptions") -> int:
    """Bytes that a step takes at least: weights with their gradients and both of AdamW's moments, what every layer
    keeps for the gradients (its attention scores and pattern, queries, keys, values), logits and their gradients."""
    tokens = options.batch_size * options.n_ctx
    per_token = options.layers * (2 * options.heads * options.n_ctx + 4 * options.heads * options.d_head)
    return 4 * (4 * options.config().weights() + tokens * (per_token + 2 * options.d_vocab))
