"""What a head loses without one earlier head in one input."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.heads import Head
from inductionlens.models import Model
from inductionlens.models.activations import Attention
from inductionlens.models.batches import for_batches
from inductionlens.models.circuits import ov_obstacle
from inductionlens.models.replay import Recorded, record, run_until
from inductionlens.models.weights import output_weights, unembedding_columns
from inductionlens.probes import Probe
from inductionlens.scores import attention, logits

VIA, HOW = ("q", "k", "v"), ("total", "direct")
#: Tokens in one pass: writers are stacked along the batch up to this many.
STACK_TOKENS = 2048


class PathEffects(NamedTuple):
    """Readers' attention and logit effects, with everything, and with one writer kept from one of their inputs."""

    prefix_matching: Float[np.ndarray, "reader sequence"]
    """Attention to the token after the copy, 0..1."""
    induction_logit: Float[np.ndarray, "reader sequence"]
    """Direct effect, through that attention, on the right logit."""
    prefix_without: dict[tuple[str, str], Float[np.ndarray, "writer reader sequence"]]
    """By what is kept away (``total``, ``direct``) and from where (``q``, ``k``, ``v``): attention without the writer
    there; NaN unless it stands in an earlier layer."""
    logit_without: dict[tuple[str, str], Float[np.ndarray, "writer reader sequence"]]
    """The same of the logit effect."""
    prefix_ablated: Float[np.ndarray, "writer reader sequence"]
    """Attention with the writer ablated altogether: the reader's queries, keys and values at once."""


class _Where(NamedTuple):
    """The queries of the second block, the keys after their copies, and what the right next token's logit reads."""

    batch: Int[Tensor, "batch query"]
    query: Int[Tensor, "batch query"]
    key: Int[Tensor, "batch query"]
    columns: Float[Tensor, "batch query d_model"]
    scale: Float[Tensor, "batch query"]


def measure_paths(
    model: Model,
    probe: Probe,
    writers: Sequence[Head],
    readers: Sequence[Head],
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> PathEffects:
    """Keep each writer from each reader's query, key or value input alone, and measure the reader again.

    ``total``: that input is read off the residual stream of a run in which the writer is ablated (z zero, b_O stays),
    so that what MLPs and heads in between made of it is gone too. ``direct``: it is read off the clean residual stream
    minus the writer's own output z W_O. Either way the reader's norm is recomputed, and its other two inputs, and all
    other heads, are those of the clean run: with a value taken out attention stays, with a query or key values stay.
    Exact; restarted at the writer's and at the reader's layer. ``probe`` is [BOS, r, r]: prefix matching is read on
    every query of the second block, the logit effect, divided by the clean final norm's scale, where a next token is
    known. ``progress`` is called with the number of sequences after each batch.

    Raises:
        InputError: a probe that does not repeat once, a model in which heads' outputs do not add up, or whose class
            drops edits of queries or keys.
    """
    if probe.repeats != 2:
        raise InputError(f"Paths are measured on blocks repeated once (repeats 2); got {probe.repeats}.")
    if ov_obstacle(model) is not None:
        raise InputError(f"No head's output can be taken out of another's input here: {ov_obstacle(model)}.")
    shape, kinds = (len(writers), len(readers), len(probe.tokens)), [(how, via) for how in HOW for via in VIA]
    prefix, logit = (np.full(shape[1:], np.nan) for _ in range(2))
    prefix_without, logit_without = ({kind: np.full(shape, np.nan) for kind in kinds} for _ in range(2))
    ablated = np.full(shape, np.nan)

    def work(rows: Int[Tensor, "batch pos"], part: slice) -> None:
        outputs, above = _clean(model, probe, rows, readers)
        sequences = range(part.start, part.stop)
        for reader in above:
            place = np.ix_(reader.places, sequences)
            prefix[place] = reader.prefix(reader.pattern)[0]
            logit[place] = reader.logit(reader.pattern, reader.inputs["v"])[0]
        for some in _stacks(writers, rows.numel()):
            layer, copies = writers[some[0]].layer, len(some)
            later = [reader for reader in above if reader.layer > layer]
            residuals, patterns = _without(later, outputs, [writers[index] for index in some])
            for reader in later:
                place = np.ix_(some, reader.places, sequences)
                ablated[place] = reader.prefix(patterns[reader.layer])
                written = [_written(model, outputs, writers[index]) for index in some]
                clean = reader.run.residuals[reader.layer]
                direct = torch.cat([clean - output for output in written])
                for how, residual in (("total", residuals[reader.layer]), ("direct", direct)):
                    less = _inputs(reader.run, reader.layer, residual)
                    for via in VIA:
                        attended, values = reader.with_input(via, less[via], copies)
                        prefix_without[how, via][place] = reader.prefix(attended)
                        logit_without[how, via][place] = reader.logit(attended, values)

    for_batches(probe.tokens, work, batch_size, progress)
    return PathEffects(prefix, logit, prefix_without, logit_without, ablated)


def _clean(
    model: Model, probe: Probe, rows: Tensor, readers: Sequence[Head]
) -> tuple[list[Float[Tensor, "batch pos head d_head"]], list["_Reader"]]:
    """Every layer's head outputs in the clean run, and the readers of each layer."""
    outputs: list[Tensor] = []
    patterns: list[Tensor] = []

    def keep(layer: Attention) -> None:
        outputs.append(layer.mixed.clone())
        patterns.append(layer.pattern.float().clone())

    run = record(model, rows, keep)
    where = _where(model, probe, rows, run)
    found = []
    for layer in sorted({reader.layer for reader in readers}):
        places = [index for index, reader in enumerate(readers) if reader.layer == layer]
        inputs = _inputs(run, layer, run.residuals[layer])
        heads = [readers[index].index for index in places]
        found.append(_Reader(run, where, layer, heads, places, patterns[layer], inputs))
        found[-1].check_edits()
    return outputs, found


def _without(
    readers: Sequence["_Reader"], outputs: Sequence[Tensor], writers: Sequence[Head]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """What enters each reader's layer, and its attention, with each of some writers of one layer ablated in its own
    copy of the batch."""
    if not readers:
        return {}, {}
    layer, run = writers[0].layer, readers[0].run
    z = torch.cat([outputs[layer]] * len(writers)).unflatten(0, (len(writers), -1)).clone()
    for copy, writer in enumerate(writers):
        z[copy, :, :, writer.index] = 0.0
    edit = (f"blocks.{layer}.attn.hook_z", lambda own, hook: z.flatten(0, 1).to(own))
    names = {reader.layer: f"blocks.{reader.layer}." for reader in readers}
    wanted = [name + part for name in names.values() for part in ("hook_resid_pre", "attn.hook_pattern")]
    found = run_until(run, layer, run.residuals[layer].repeat(len(writers), 1, 1), wanted, [edit])
    residuals = {above: found[name + "hook_resid_pre"] for above, name in names.items()}
    return residuals, {above: found[name + "attn.hook_pattern"].float() for above, name in names.items()}


def _where(model: Model, probe: Probe, rows: Tensor, run: Recorded) -> _Where:
    device = run.final.device
    tokens = rows.to(device)
    batch, query, key = attention.after_copy(tokens, probe.bos).nonzero(as_tuple=True)
    batch, query, key = (index.view(len(rows), -1) for index in (batch, query, key))
    columns = unembedding_columns(model, tokens.gather(1, key))
    return _Where(batch, query, key, columns.to(device), run.scale.gather(1, query))


def _inputs(run: Recorded, layer: int, residual: Tensor) -> dict[str, Tensor]:
    """Queries, keys and values of a layer that reads ``residual``."""
    names = {via: f"blocks.{layer}.attn.hook_{via}" for via in VIA}
    found = run_until(run, layer, residual, list(names.values()))
    return {via: found[name] for via, name in names.items()}


def _written(model: Model, outputs: Sequence[Tensor], writer: Head) -> Float[Tensor, "batch pos d_model"]:
    weights = output_weights(model, writer.layer)[writer.index]
    return outputs[writer.layer][:, :, writer.index].to(weights) @ weights


class _Reader(NamedTuple):
    """The readers of one layer, and how they are measured; rows may hold the batch several times over."""

    run: Recorded
    where: _Where
    layer: int
    heads: list[int]
    places: list[int]
    """Where the heads stand among all readers."""
    pattern: Float[Tensor, "batch head query key"]
    """The layer's clean attention."""
    inputs: dict[str, Tensor]
    """The layer's clean queries, keys and values."""

    def with_input(
        self, via: str, value: Tensor, copies: int
    ) -> tuple[Float[Tensor, "rows head query key"], Float[Tensor, "rows pos group d_head"]]:
        """Attention and values on the clean residual stream, with queries, keys or values replaced."""
        if via == "v":
            return self.pattern.repeat(copies, 1, 1, 1), value
        block = f"blocks.{self.layer}.attn.hook_"
        residual = self.run.residuals[self.layer].repeat(copies, 1, 1)
        edit = (block + via, lambda own, hook: value)
        found = run_until(self.run, self.layer, residual, [block + "pattern"], [edit])
        return found[block + "pattern"].float(), self.inputs["v"].repeat(copies, 1, 1, 1)

    def check_edits(self) -> None:
        """Some classes drop edits without a word: emptied queries or keys must change attention that is not uniform."""
        uniform = torch.full_like(self.pattern[:, :, 1, :2], 0.5)
        if torch.allclose(self.pattern[:, :, 1, :2], uniform):
            return
        for via, name in (("q", "queries"), ("k", "keys")):
            own = self.inputs[via]
            emptied, _ = self.with_input(via, torch.zeros_like(own), 1)
            if bool(own.any()) and torch.equal(emptied, self.pattern):
                raise InputError(f"This model's class drops edits of {name}, so no path through them can be measured.")

    def prefix(self, pattern: Float[Tensor, "rows head query key"]) -> Float[np.ndarray, "copy reader batch"]:
        """Attention to the token after the copy."""
        return self._by_copy(self._attended(pattern).double().mean(-1))

    def logit(
        self, pattern: Float[Tensor, "rows head query key"], values: Float[Tensor, "rows pos group d_head"]
    ) -> Float[np.ndarray, "copy reader batch"]:
        """The direct effect, through that attention, on the right logit."""
        copies = len(pattern) // len(self.where.batch)
        batch, key = _tiled(self.where.batch, copies), self.where.key.repeat(copies, 1)
        values = values.repeat_interleave(self.run.model.cfg.n_heads // values.shape[2], dim=2)[batch, key]
        weights = output_weights(self.run.model, self.layer)[self.heads].float()
        columns = self.where.columns.repeat(copies, 1, 1)
        effect = logits.logit_effect(self._attended(pattern), values[:, :, self.heads], weights, columns)
        effect = effect / self.where.scale.repeat(copies, 1)[:, None]
        return self._by_copy(effect[..., :-1].double().mean(-1))  # what follows the last token is not there

    def _attended(self, pattern: Tensor) -> Float[Tensor, "rows reader query"]:
        copies = len(pattern) // len(self.where.batch)
        batch, query, key = (
            _tiled(self.where.batch, copies), self.where.query.repeat(copies, 1), self.where.key.repeat(copies, 1)
        )  # fmt: skip
        return pattern[:, self.heads][batch, :, query, key].transpose(1, 2)

    def _by_copy(self, found: Float[Tensor, "rows reader"]) -> Float[np.ndarray, "copy reader batch"]:
        return found.unflatten(0, (-1, len(self.where.batch))).transpose(1, 2).cpu().numpy()


def _tiled(batch: Int[Tensor, "batch query"], copies: int) -> Int[Tensor, "rows query"]:
    return torch.cat([batch + copy * len(batch) for copy in range(copies)])


def _stacks(writers: Sequence[Head], tokens: int) -> Iterator[list[int]]:
    """Indices of writers of one layer, as many as go into one pass."""
    most = max(1, STACK_TOKENS // tokens)
    for layer in sorted({writer.layer for writer in writers}):
        same = [index for index, writer in enumerate(writers) if writer.layer == layer]
        for start in range(0, len(same), most):
            yield same[start : start + most]
