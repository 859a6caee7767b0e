"""Train a small model, and take training up where it stopped."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from inductionlens.errors import InputError

#: What AdamW keeps of every weight.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Trainer:
    """AdamW (0.9, 0.98) on one model, gradients clipped to norm 1; its whole state can be kept and given back.

    The learning rate rises over ``warmup`` steps and, with ``decay``, falls linearly to zero at step ``steps``. Steps
    count from 1. What a batch is decided by is the caller's: with batches decided by their step, training that was
    taken up again ends bit for bit where undisturbed training does.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_of: Callable[[Int[Tensor, "batch pos"]], Float[Tensor, ""]],
        *,
        steps: int,
        learning_rate: float = 2e-3,
        warmup: int = 200,
        decay: bool = True,
        weight_decay: float = 0.01,
    ) -> None:
        self.model, self.loss_of, self.steps, self.step = model, loss_of, steps, 0
        self.rate, self.warmup, self.decay = learning_rate, warmup, decay
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, learning_rate, (0.9, 0.98), weight_decay=weight_decay)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def learn(self, batch: Int[Tensor, "batch pos"]) -> float:
        """Take one step on a batch and give its loss, in nats per token, as it was before the step."""
        self.model.train()
        factor = min(1.0, (self.step + 1) / self.warmup) * ((1 - self.step / self.steps) if self.decay else 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * factor
        loss = self.loss_of(batch.clone())  # one made in inference mode has no gradients
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        self.model.eval()
        return loss.item()

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on: weights, moments, and how many steps were taken."""
        found = {"step": torch.tensor(self.step)}
        for index, weight in enumerate(self.parameters):
            found[f"weight.{index}"] = weight.detach().clone()
            for name, value in self.optimiser.state.get(weight, {}).items():
                found[f"{name}.{index}"] = value.detach().clone()
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to a kept `state`.

        Raises:
            InputError: it belongs to a model of another shape, or is not whole.
        """
        self._check(state)
        self.step = int(state["step"])
        for index, weight in enumerate(self.parameters):
            with torch.no_grad():
                weight.copy_(state[f"weight.{index}"])
            kept: dict[str, Any] = {
                name: state[f"{name}.{index}"].clone() for name in MOMENTS if f"{name}.{index}" in state
            }
            if kept:
                self.optimiser.state[weight] = kept

    def _check(self, state: dict[str, Tensor]) -> None:
        weights = {f"weight.{index}": weight for index, weight in enumerate(self.parameters)}
        if any(name in state and state[name].shape != weight.shape for name, weight in weights.items()):
            raise InputError("The kept state belongs to a model of another shape; train into another folder.")
        expected: dict[str, tuple[int, ...]] = {"step": ()} | {
            name: tuple(like.shape) for name, like in weights.items()
        }
        for index, weight in enumerate(self.parameters):
            # Weights that no loss depends on have no moments at all.
            if any(f"{name}.{index}" in state for name in MOMENTS):
                expected |= {f"{name}.{index}": () if name == "step" else tuple(weight.shape) for name in MOMENTS}
        for name in sorted(expected.keys() | state.keys()):
            whole = name in expected and name in state and tuple(state[name].shape) == expected[name]
            if not whole or (expected[name] and state[name].dtype != self.parameters[0].dtype):
                raise InputError(f"The kept state is spoiled at {name}; train into another folder.")
        if state["step"].dtype != torch.long or not 0 <= int(state["step"]) <= self.steps:
            raise InputError(f"The kept state is of step {state['step'].item()}, and there are {self.steps}.")


def train(
    model: nn.Module,
    loss_of: Callable[[Int[Tensor, "batch pos"]], Float[Tensor, ""]],
    batches: Iterator[Int[Tensor, "batch pos"]],
    *,
    steps: int,
    on_step: Callable[[int, float], None] | None = None,
    **settings: Any,
) -> None:
    """Train ``model`` in place for ``steps`` batches; ``settings`` are those of `Trainer`.

    ``on_step(step, loss)`` is called after every step, counted from 1; loss in nats per token.
    """
    trainer = Trainer(model, loss_of, steps=steps, **settings)
    for step in range(1, steps + 1):
        loss = trainer.learn(next(batches))
        if on_step is not None:
            on_step(step, loss)
    model.eval()
