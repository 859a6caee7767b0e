"""The one door: a probe goes in, numbers per head come out."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inductionlens.models import Model
from inductionlens.models.activations import Attention, batches, logits_at, run_reduced
from inductionlens.models.weights import output_weights, ov_eigenvalues, unembedding_columns
from inductionlens.probes import Probe
from inductionlens.scores import attention, circuits, logits, losses

Progress = Callable[[int], None]
Target = Callable[[Int[Tensor, "batch pos"], int | None], Bool[Tensor, "batch query key"]]


class Samples(NamedTuple):
    """A score per head and sequence: a mean over sequences, or with a denominator a ratio of sums."""

    numerator: Float[np.ndarray, "layer head sequence"]
    denominator: Float[np.ndarray, "layer head sequence"] | None = None

    def value(self) -> Float[np.ndarray, "layer head"]:
        """The score over all sequences; NaN where it is undefined."""
        if self.denominator is None:
            return self.numerator.mean(-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.numerator.sum(-1) / self.denominator.sum(-1)


class _Store:
    """Room for one number per layer, head and sequence and name, filled batch by batch."""

    def __init__(self, model: Model, names: list[str], sequences: int) -> None:
        shape = (model.cfg.n_layers, model.cfg.n_heads, sequences)
        self.kept = {name: np.full(shape, np.nan) for name in names}
        self.start = 0

    def put(self, name: str, layer: int, scores: Float[Tensor, "batch head"]) -> None:
        stop = self.start + len(scores)
        self.kept[name][layer, :, self.start : stop] = scores.double().cpu().numpy().T


def _device(model: Model) -> torch.device:
    return next(model.parameters()).device


def attention_targets(probe: Probe, reduce: str = "sum") -> dict[str, Target]:
    """The targets of the repeated probe by score name, or diagonals instead under ``reduce="diagonal"``."""
    targets = dict(attention.TARGETS)
    for name, (blocks, shift) in attention.DIAGONALS.items() if reduce == "diagonal" else ():
        distance = blocks * probe.period + shift
        targets[name] = lambda tokens, bos, distance=distance: attention.fixed_distance(tokens, distance)
    for offset in attention.OFFSETS:
        if not attention.at_offset(probe.tokens[:1], probe.bos, offset).any():
            continue  # a short block has no key so far from a copy
        targets[f"offset {offset:+d}"] = lambda tokens, bos, offset=offset: attention.at_offset(tokens, bos, offset)
    return targets


def measure_attention(
    model: Model,
    probe: Probe,
    targets: Mapping[str, Target],
    *,
    reduce: str = "sum",
    value_weighted: bool = False,
    with_losses: bool = False,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Samples], dict[str, Float[np.ndarray, " sequence"]]]:
    """Attention on each target, per head and sequence, from one forward pass per batch.

    ``reduce`` goes to the targets made from earlier copies; ``previous_token`` and ``first_token`` have one target a
    query. With ``with_losses`` the unembedding is paid for at the positions of `losses.copy_positions`, and the mean
    loss of first and later copies is given per sequence, in nats.
    """
    store = _Store(model, list(targets), len(probe.tokens))
    first, later = losses.copy_positions(probe.tokens.shape[1], start=probe.start, period=probe.period)
    scored = (first | later).nonzero()[:, 0]
    kept: list[Float[Tensor, "batch scored"]] = []
    for rows in batches(probe.tokens, batch_size):
        rows = rows.to(_device(model))
        entries = {
            name: attention.weigh(target(rows, probe.bos), _reduction(name, reduce)) for name, target in targets.items()
        }

        def reduce_layer(layer: Attention, entries: dict[str, attention.Entries] = entries) -> None:
            pattern = attention.value_weighted(layer.pattern, layer.values) if value_weighted else layer.pattern
            for name, read in entries.items():
                store.put(name, layer.layer, attention.attend(read, pattern))

        final = run_reduced(model, rows, reduce_layer, values=value_weighted)
        if with_losses:
            kept.append(losses.token_losses(logits_at(model, final.residual, scored), rows[:, scored + 1]).cpu())
        store.start += len(rows)
        if progress is not None:
            progress(len(rows))
    samples = {name: Samples(values) for name, values in store.kept.items()}
    if not with_losses:
        return samples, {}
    all_losses = torch.cat(kept).double()
    return samples, {
        "loss_first_copy": all_losses[:, first[scored]].mean(1).numpy(),
        "loss_later_copies": all_losses[:, later[scored]].mean(1).numpy(),
    }


def _reduction(name: str, reduce: str) -> str:
    alone = name in ("previous_token", "first_token") or name.startswith("offset ") or reduce == "diagonal"
    return "sum" if alone else reduce


def measure_copying(
    model: Model,
    probe: Probe,
    *,
    normalizations: tuple[str, ...] = logits.NORMALIZATIONS,
    source: str = "value",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Samples]:
    """Copying of each head under each normalization, per sequence, on unrepeated tokens."""
    kinds = [name for name in normalizations if not (name == "bansal" and source == "head_output")]
    above, below = (_Store(model, kinds, len(probe.tokens)) for _ in range(2))
    for rows in batches(probe.tokens, batch_size):
        columns = unembedding_columns(model, rows)

        def reduce_layer(layer: Attention, columns: Tensor = columns) -> None:
            vectors = layer.values if source == "value" else layer.mixed
            direct = logits.direct_logits(vectors, output_weights(model, layer.layer), columns)
            for name in kinds:
                ratio = logits.copying(layer.pattern, direct, first=probe.start, normalization=name, source=source)
                above.put(name, layer.layer, ratio.numerator)
                below.put(name, layer.layer, ratio.denominator)

        run_reduced(model, rows, reduce_layer, values=source == "value", mixed=source == "head_output")
        for store in (above, below):
            store.start += len(rows)
        if progress is not None:
            progress(len(rows))
    return {name: Samples(above.kept[name], below.kept[name]) for name in kinds}


def measure_induction_logit(
    model: Model, probe: Probe, *, centred: bool = True, batch_size: int | None = None, progress: Progress | None = None
) -> Samples:
    """The direct effect of each head, through the token after the copy, on the right next token's logit.

    On ``[BOS, r, r]``: for destinations in the second repeat that have a next token, attention to the source times the
    source's effect on that token's logit, divided by the final norm's scale in the same run. McDougall et al. 2023.
    """
    store = _Store(model, ["logit"], len(probe.tokens))
    for rows in batches(probe.tokens, batch_size):
        rows = rows.to(_device(model))
        target = attention.after_copy(rows, probe.bos)
        target[:, -1] = False
        batch, query, key = target.nonzero(as_tuple=True)
        shape = (len(rows), -1)
        batch, query, key = batch.view(shape), query.view(shape), key.view(shape)
        columns = unembedding_columns(model, rows.gather(1, key), centred=centred)
        effects: list[Float[Tensor, "batch head query"]] = []

        def reduce_layer(
            layer: Attention, at: tuple[Tensor, ...] = (batch, query, key), columns: Tensor = columns,
            effects: list[Tensor] = effects,
        ) -> None:  # fmt: skip
            batch, query, key = at
            attended = layer.pattern[batch, :, query, key].transpose(1, 2)
            values = layer.values[batch, key]
            effects.append(logits.logit_effect(attended, values, output_weights(model, layer.layer), columns))

        final = run_reduced(model, rows, reduce_layer, values=True)
        scale = final.scale.gather(1, query)[:, None]
        for layer, effect in enumerate(effects):
            store.put("logit", layer, (effect / scale).mean(-1))
        store.start += len(rows)
        if progress is not None:
            progress(len(rows))
    return Samples(store.kept["logit"])


def measure_weights(model: Model) -> dict[str, Float[np.ndarray, "layer head"]]:
    """Scores read off the weights alone, one number per head."""
    eigenvalues = ov_eigenvalues(model)
    return {
        "ov_eigen": circuits.eigenvalue_score(eigenvalues).numpy(),
        "ov_eigen_fraction": circuits.positive_fraction(eigenvalues).numpy(),
    }
