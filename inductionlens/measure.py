"""The one door: a probe goes in, numbers per head come out."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inductionlens.models import Model
from inductionlens.models.activations import Attention, Final, logits_at, run_reduced
from inductionlens.models.batches import for_batches
from inductionlens.models.circuits import ov_eigenvalues
from inductionlens.models.weights import output_weights, unembedding_columns
from inductionlens.models.writing import writing_of
from inductionlens.probes import Probe
from inductionlens.scores import attention, circuits, logits, losses

Progress = Callable[[int], None]
EVERY = slice(None)
#: Bytes a score may add to what the model needs.
BLOCK = 2**26
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

    def put(
        self, name: str, layer: int, part: slice, scores: Float[Tensor, "batch head"], heads: slice = EVERY
    ) -> None:
        self.kept[name][layer, heads, part] = scores.double().cpu().numpy().T


def _blocks(layer: Attention) -> Iterator[slice]:
    """Heads, as many at a time as make no copy of a pattern larger than `BLOCK` bytes: long rows come one by one."""
    batch, n_heads, query, key = layer.pattern.shape
    step = max(1, BLOCK // (4 * batch * query * key))
    for start in range(0, n_heads, step):
        yield slice(start, start + step)


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
    kept = torch.empty(len(probe.tokens), len(scored), dtype=torch.float64)

    def work(rows: Int[Tensor, "batch pos"], part: slice) -> None:
        rows = rows.to(_device(model))
        entries = {
            name: attention.weigh(target(rows, probe.bos), _reduction(name, reduce)) for name, target in targets.items()
        }

        def reduce_layer(layer: Attention) -> None:
            for heads in _blocks(layer) if value_weighted else [EVERY]:
                pattern = layer.pattern[:, heads]
                if value_weighted:
                    pattern = attention.value_weighted(pattern, layer.values[:, :, heads])
                for name, read in entries.items():
                    store.put(name, layer.layer, part, attention.attend(read, pattern), heads)

        final = run_reduced(model, rows, reduce_layer, values=value_weighted)
        if with_losses:
            kept[part] = token_losses(model, final, rows, scored)

    for_batches(probe.tokens, work, batch_size, progress)
    samples = {name: Samples(values) for name, values in store.kept.items()}
    if not with_losses:
        return samples, {}
    return samples, {
        "loss_first_copy": kept[:, first[scored]].mean(1).numpy(),
        "loss_later_copies": kept[:, later[scored]].mean(1).numpy(),
    }


def token_losses(
    model: Model, final: Final, rows: Int[Tensor, "batch pos"], scored: Int[Tensor, " scored"]
) -> Float[Tensor, "batch scored"]:
    """The loss in nats of the token after each of the ``scored`` positions, float32 on the CPU.

    The unembedding is paid for there alone, for as many positions at a time as fit into `BLOCK` bytes of logits.
    """
    size = max(1, 2 * BLOCK // (4 * len(rows) * model.cfg.d_vocab))
    parts = [
        losses.token_losses(logits_at(model, final.residual, at), rows[:, at.to(rows.device) + 1]).cpu()
        for at in scored.split(size)
    ]
    return torch.cat(parts, dim=1)


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
    writing_of(model)  # runs the model, if that was not done yet; inside another run it cannot

    def work(rows: Int[Tensor, "batch pos"], part: slice) -> None:
        columns = unembedding_columns(model, rows)

        def reduce_layer(layer: Attention) -> None:
            vectors, w_o = layer.values if source == "value" else layer.mixed, output_weights(model, layer.layer)
            for heads in _blocks(layer):
                direct = logits.direct_logits(vectors[:, :, heads], w_o[heads], columns)
                pattern = layer.pattern[:, heads]
                for name in kinds:
                    ratio = logits.copying(pattern, direct, first=probe.start, normalization=name, source=source)
                    above.put(name, layer.layer, part, ratio.numerator, heads)
                    below.put(name, layer.layer, part, ratio.denominator, heads)

        run_reduced(model, rows, reduce_layer, values=source == "value", mixed=source == "head_output")

    for_batches(probe.tokens, work, batch_size, progress)
    return {name: Samples(above.kept[name], below.kept[name]) for name in kinds}


def measure_induction_logit(
    model: Model, probe: Probe, *, centred: bool = True, batch_size: int | None = None, progress: Progress | None = None
) -> Samples:
    """The direct effect of each head, through the token after the copy, on the right next token's logit.

    On ``[BOS, r, r]``: for destinations in the second repeat that have a next token, attention to the source times the
    source's effect on that token's logit, divided by the final norm's scale in the same run, and by that of the norm
    that follows the heads where one does (Gemma 2 and 3). McDougall et al. 2023.
    """
    store = _Store(model, ["logit"], len(probe.tokens))
    norm_follows = any(layer.gain is not None for layer in writing_of(model))

    def work(rows: Int[Tensor, "batch pos"], part: slice) -> None:
        rows = rows.to(_device(model))
        target = attention.after_copy(rows, probe.bos)
        target[:, -1] = False
        batch, query, key = (index.view(len(rows), -1) for index in target.nonzero(as_tuple=True))
        columns = unembedding_columns(model, rows.gather(1, key), centred=centred)
        effects: dict[int, Float[Tensor, "batch head query"]] = {}

        def reduce_layer(layer: Attention) -> None:
            attended = layer.pattern[batch, :, query, key].transpose(1, 2)
            values = layer.values[batch, key]
            w_o = output_weights(model, layer.layer)
            effects[layer.layer] = logits.logit_effect(attended, values, w_o, columns)

        final = run_reduced(model, rows, reduce_layer, values=True, written_scales=norm_follows)
        scale = final.scale.gather(1, query)[:, None]
        for layer, effect in effects.items():
            if final.written_scale is not None:
                effect = effect / final.written_scale[layer].to(scale.device).gather(1, query)[:, None]
            store.put("logit", layer, part, (effect / scale).mean(-1))

    for_batches(probe.tokens, work, batch_size, progress)
    return Samples(store.kept["logit"])


def measure_weights(model: Model) -> dict[str, Float[np.ndarray, "layer head"]]:
    """Scores read off the weights alone, one number per head."""
    eigenvalues = ov_eigenvalues(model)
    return {
        "ov_eigen": circuits.eigenvalue_score(eigenvalues).numpy(),
        "ov_eigen_fraction": circuits.positive_fraction(eigenvalues).numpy(),
    }


def losses_by_position(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Float[np.ndarray, "batch pos-1"]:
    """The loss in nats of every token but the first: entry i is -log p(t_{i+1} | t_0 .. t_i), as float64.

    One forward pass per batch; the unembedding is paid block by block.
    """
    kept = np.empty((len(tokens), tokens.shape[1] - 1))
    scored = torch.arange(tokens.shape[1] - 1)

    def work(rows: Int[Tensor, "batch pos"], part: slice) -> None:
        rows = rows.to(_device(model))
        final = run_reduced(model, rows, lambda layer: None)
        kept[part] = token_losses(model, final, rows, scored).numpy()

    for_batches(tokens, work, batch_size, progress)
    return kept
