"""What an ablation study runs a model on."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens.effects import Stimulus, Value
from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.token_checks import checked_tokens
from inductionlens.models.vocabulary import choose_bos, padding_id
from inductionlens.probes import Probe, repeated_tokens, way_out
from inductionlens.scores.losses import copy_positions
from inductionlens.studies.ablation_options import AblationOptions
from inductionlens.studies.pool import Pool, make_pool
from inductionlens.studies.windows import given_windows, make_windows, pick_pair


def make_stimuli(
    model: Model, windows: Int[Tensor, "batch pos"] | None, options: AblationOptions, extra: Mapping[str, Value]
) -> tuple[list[Stimulus], dict[str, Any]]:
    """The stimuli of a study, and what the record says about them.

    Raises:
        InputError: windows that the model cannot read, or measures that have no name of their own.
    """
    stimuli, notes = [], {}
    if not isinstance(extra, Mapping) or not all(map(callable, extra.values())):
        raise InputError("extra must map names to functions of losses and tokens, such as {'first': f}.")
    taken = {"copies", "icl", "text"} & set(extra)
    if taken:
        raise InputError(f"extra measures need names of their own; {sorted(taken)[0]!r} is taken.")
    if "copies" in options.measures:
        stimuli.append(_copies(model, options))
        notes["copies"] = f"{options.period} x {options.repeats}, n={options.sequences}"
    if {"icl", "text"} & set(options.measures) or extra:
        stimulus, notes["windows"] = _windows(model, windows, options, extra)
        stimuli.append(stimulus)
    if not stimuli:
        raise InputError("measures names nothing to measure; give any of copies, icl, text, or an extra measure.")
    notes["pool"] = make_pool(model, choose_bos(model, options.bos), options.pool, options.text).record()
    return stimuli, notes


def copies_probe(model: Model, options: AblationOptions, purpose: str = "ablation") -> Probe:
    """The repeated blocks that ``copies`` is measured on.

    Raises:
        InputError: they do not fit into the model's context.
    """
    bos = choose_bos(model, options.bos)
    room = model.cfg.n_ctx - int(bos is not None)
    if options.period * options.repeats > room:
        fewer = f"; so does repeats={room // options.period}" if 2 * options.period <= room else ""
        raise InputError(
            f"The model's context of {model.cfg.n_ctx} tokens is too short for {options.repeats} blocks of "
            f"{options.period}; {way_out('period', room // options.repeats)}{fewer}."
        )
    pool = make_pool(model, bos, options.pool, options.text)
    return random_blocks(
        pool, bos, options.period, options.repeats, options.sequences, seed=options.seed, purpose=purpose
    )


def random_blocks(
    pool: Pool, bos: int | None, period: int, repeats: int, sequences: int, *, seed: int, purpose: str
) -> Probe:
    """Repeated blocks of tokens of a pool."""
    shape = {"period": period, "repeats": repeats, "sequences": sequences}
    return repeated_tokens(pool.ids, bos=bos, seed=seed, purpose=purpose, **shape)


def _copies(model: Model, options: AblationOptions) -> Stimulus:
    probe, other = copies_probe(model, options), copies_probe(model, options, "ablation means")
    _, later = copy_positions(probe.tokens.shape[1], start=probe.start, period=options.period)
    scored = later.nonzero()[:, 0]
    return Stimulus("copies", probe.tokens, scored, {"copies": lambda losses, tokens: losses.mean(1)}, other.tokens)


def _windows(
    model: Model, windows: Tensor | None, options: AblationOptions, extra: Mapping[str, Value]
) -> tuple[Stimulus, str]:
    if windows is None:
        n = options.n_windows * (1 if options.output == "zero" else 2)  # means are taken over windows of their own
        made = make_windows(
            model, options.text, windows=n, length=options.length, bos=options.bos, seed=options.seed, pool=options.pool
        )
        tokens, other, name = made.tokens[: options.n_windows], made.tokens[options.n_windows :], made.name
        shortest, lengths = tokens.shape[1], None
    else:
        tokens = checked_tokens(model, windows, "windows", sequences=2, length=3)
        given = given_windows(model, tokens, f"{len(tokens)} windows of yours")
        tokens, name, shortest, lengths = given.tokens, given.name, given.shortest, given.lengths
        other = tokens[:, :shortest]  # means are not over padding
        name += f", {given.padding} positions of padding left out" if given.padding else ""
    late, early = pick_pair(shortest, options.late, options.early)
    everything = "text" in options.measures or extra
    scored = torch.arange(tokens.shape[1] - 1) if everything else torch.tensor([early, late])
    ends = (early, late) if everything else (0, 1)
    values: dict[str, Value] = {}
    if "icl" in options.measures:
        values["icl"] = lambda losses, tokens: losses[:, ends[1]] - losses[:, ends[0]]
    if "text" in options.measures:
        values["text"] = lambda losses, tokens: losses.mean(1) if lengths is None else losses.nanmean(1)
    values |= dict(extra)
    if lengths is not None:
        padding = padding_id(model)
        values = {name: _without_padding(name, value, padding, scored) for name, value in values.items()}
    return Stimulus("windows", tokens, scored, values, other, lengths), f"{name}; icl: token {late} minus {early}"


def _without_padding(name: str, value: Value, padding: int | None, scored: Int[Tensor, " scored"]) -> Value:
    """The same measure of losses that are NaN where the predicted token is padding.

    Raises:
        InputError: when it is called, a measure that NaN makes NaN.
    """

    def measured(losses: Tensor, tokens: Tensor) -> Tensor:
        fill = tokens[:, scored.to(tokens.device) + 1].to(losses.device) == padding
        losses = losses.masked_fill(fill, torch.nan)
        found = value(losses, tokens)
        if isinstance(found, Tensor) and found.isnan().any():
            raise InputError(
                f"The measure {name!r} gives no number where windows are padded: the losses of padding are NaN; leave "
                "them out, as losses.nanmean(1) does."
            )
        return found

    return measured
