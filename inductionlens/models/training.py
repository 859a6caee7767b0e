"""Train a small model and say how it goes."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def train(
    model: nn.Module,
    loss_of: Callable[[Int[Tensor, "batch pos"]], Float[Tensor, ""]],
    batches: Iterator[Int[Tensor, "batch pos"]],
    *,
    steps: int,
    learning_rate: float = 2e-3,
    warmup: int = 200,
    decay: bool = True,
    weight_decay: float = 0.01,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``model`` in place for ``steps`` batches with AdamW (0.9, 0.98), gradients clipped to norm 1.

    The learning rate rises over ``warmup`` steps and, with ``decay``, falls linearly to zero at the end.
    ``on_step(step, loss)`` is called after every step, counted from 1; loss in nats per token.
    """
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, (0.9, 0.98), weight_decay=weight_decay)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * ((1 - step / steps) if decay else 1.0)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    model.train()
    for step in range(1, steps + 1):
        loss = loss_of(next(batches))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step, loss.item())
    model.eval()
