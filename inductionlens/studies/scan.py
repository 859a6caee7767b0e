"""Which heads of this model are induction heads?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from inductionlens.controls import measure_fresh, measure_gapped
from inductionlens.detection import copying_case
from inductionlens.head_scores import HeadScores
from inductionlens.intervals import mean_interval
from inductionlens.measure import (
    Samples,
    attention_targets,
    measure_attention,
    measure_copying,
    measure_induction_logit,
    measure_weights,
)
from inductionlens.models import Model
from inductionlens.models.loading import load_model
from inductionlens.models.untrained import untrained_twin
from inductionlens.nulls import false_discovery, p_values
from inductionlens.scores.attention import TARGETS, after_copy
from inductionlens.studies.head_table import head_table, per_sequence
from inductionlens.studies.options import ScanOptions
from inductionlens.studies.provenance import provenance
from inductionlens.studies.settings import settled
from inductionlens.studies.stimuli import ScanProbes, make_probes

#: Column of each copying normalization.
COPYING_COLUMNS = {
    "contrast": "copying",
    "contrast_per_token": "copying_per_token",
    "share": "copying_share",
    "olsson_literal": "copying_olsson_literal",
    "bansal": "copying_bansal",
}


def scan(
    model: Model | str | Path,
    *,
    options: ScanOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> HeadScores:
    """Score every head of a model on repeated random tokens, and say what kind it is.

    ``model`` is what `load_model` takes. Settings are the fields of `ScanOptions`, given by name or as ``options``.
    ``on_progress(done, total)`` is called after every batch, in sequences. One forward pass per batch; the same seed
    gives the same table.

    Raises:
        InputError: a setting or the model cannot be used; nothing has been computed.
    """
    options = settled("scan", ScanOptions, options, settings)
    model = load_model(model)
    probes = make_probes(model, options)
    total, done = probes.sequences(), 0

    def progress(sequences: int) -> None:
        nonlocal done
        done += sequences
        if on_progress is not None:
            on_progress(done, total)

    samples, losses = _measure(model, probes, options, progress)
    behaviour = _behaviour(losses, model.cfg.d_vocab)
    per_head = measure_weights(model)
    if options.controls:
        controls, by_position = _measure_controls(model, probes, options, progress)
        samples |= controls
        per_head |= _significance(samples["prefix_matching_gapped"], by_position)
        per_head["prefix_matching_untrained"] = _untrained(model, probes, options, progress)
    table = head_table(model, probes, options, samples, per_head, behaviour)
    case = copying_case(behaviour, table, options.threshold)
    sequences = {name: part.numerator.shape[-1] for name, part in samples.items() if name in table.columns}
    sequences["offset_peak_value"] = options.sequences
    record = provenance(model, probes, options, {**behaviour, "case": case}, sequences)
    return HeadScores(table, record, per_sequence(samples))


def _measure(
    model: Model, probes: ScanProbes, options: ScanOptions, progress: Callable[[int], None]
) -> tuple[dict[str, Samples], dict[str, np.ndarray]]:
    """Every score per head and sequence, and the model's losses per sequence."""
    common: dict[str, Any] = {"batch_size": options.batch_size, "progress": progress}
    how: dict[str, Any] = {"value_weighted": options.value_weighted, **common}
    targets = attention_targets(probes.repeated, options.reduce)
    samples, losses = measure_attention(model, probes.repeated, targets, reduce=options.reduce, with_losses=True, **how)
    if probes.text is not None:
        only = {"previous_token": targets["previous_token"]}
        samples |= measure_attention(model, probes.text, only, **how)[0]
    copying = measure_copying(model, probes.once, source=options.copying_source, **common)
    samples |= {COPYING_COLUMNS[name]: part for name, part in copying.items()}
    centred = options.logit_recipe == "default"
    samples["induction_logit"] = measure_induction_logit(model, probes.logit, centred=centred, **common)
    return samples, losses


def _measure_controls(
    model: Model, probes: ScanProbes, options: ScanOptions, progress: Callable[[int], None]
) -> tuple[dict[str, Samples], Samples]:
    """Prefix matching on gapped repeats and where nothing repeats, and what position alone gives on gapped repeats."""
    common: dict[str, Any] = {"batch_size": options.batch_size, "progress": progress}
    gapped = measure_gapped(model, probes.gapped, **common)
    repeated = probes.repeated
    target = after_copy(repeated.tokens[:1], repeated.bos)[0]
    fresh, by_position = measure_fresh(model, probes.fresh, probes.gapped, target, **common)
    return {"prefix_matching_gapped": gapped, "prefix_matching_fresh": fresh}, by_position


def _significance(gapped: Samples, by_position: Samples) -> dict[str, np.ndarray]:
    """p and q of every head, layer by head: gapped repeats against as long sequences of tokens that never repeat."""
    shape, sequences = gapped.numerator.shape[:2], gapped.numerator.shape[2]
    p = p_values(gapped.numerator.reshape(-1, sequences), by_position.numerator.reshape(-1, sequences))
    return {"p_value": p.reshape(shape), "q_value": false_discovery(p).reshape(shape)}


def _untrained(model: Model, probes: ScanProbes, options: ScanOptions, progress: Callable[[int], None]) -> np.ndarray:
    """The largest prefix matching of any head of an untrained twin, written beside every head."""
    twin = untrained_twin(model, seed=options.seed)
    only = {"prefix_matching": TARGETS["prefix_matching"]}
    samples, _ = measure_attention(twin, probes.repeated, only, batch_size=options.batch_size, progress=progress)
    found = samples["prefix_matching"].value()
    return np.full(found.shape, np.nanmax(found))  # a hybrid's layers without attention have none


def _behaviour(losses: dict[str, np.ndarray], d_vocab: int) -> dict[str, Any]:
    """How well the model as a whole copies: mean losses in nats, their difference, and intervals over sequences."""
    losses = {**losses, "copying_gain": losses["loss_first_copy"] - losses["loss_later_copies"]}
    behaviour: dict[str, Any] = {"ln_vocabulary": float(np.log(d_vocab))}
    for name, values in losses.items():
        low, high = mean_interval(values[None])
        behaviour |= {name: float(values.mean()), f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}
    return behaviour
