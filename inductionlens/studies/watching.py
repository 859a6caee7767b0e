"""One head's attention on one sequence, over training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float

from inductionlens.checks import check_settings
from inductionlens.errors import InputError
from inductionlens.heads import Head
from inductionlens.measure import measure_attention
from inductionlens.models import Model
from inductionlens.models.activations import run_reduced
from inductionlens.models.checkpoints import Checkpoint, checkpoints, chosen_steps
from inductionlens.models.loading import check_device
from inductionlens.models.read_ahead import read_ahead
from inductionlens.models.vocabulary import choose_bos
from inductionlens.probes import Probe, repeated_tokens
from inductionlens.scores.attention import TARGETS, attention_to
from inductionlens.studies.pool import make_pool

if TYPE_CHECKING:
    import pandas

#: Length of the block and how often it stands there: few enough cells to be seen, two copies to look back to.
PERIOD, REPEATS = 8, 3
#: Other sequences on which the head is chosen.
CHOOSING = 10


@dataclass(frozen=True, eq=False)
class Watched:
    """One head's attention on one sequence of repeated random tokens, at some snapshots of a run."""

    head: Head
    """The head."""
    steps: tuple[int, ...]
    """The snapshots that could be read."""
    patterns: Float[np.ndarray, "snapshot query key"] = field(repr=False)
    """Its attention, 0 to 1; rows are queries."""
    prefix_matching: Float[np.ndarray, " snapshot"] = field(repr=False)
    """How much of it lands where an induction head looks, on this sequence; 0 to 1, higher is more."""
    target: Bool[np.ndarray, "query key"] = field(repr=False)
    """Where an induction head looks: the key after each earlier copy of the query's token."""
    labels: tuple[str, ...] = field(repr=False)
    """A letter (or number, beyond 52) for each token of the block, the same in every copy; a dot for BOS."""
    problems: dict[int, str] = field(repr=False)
    """Snapshots that could not be read, and why."""

    def table(self) -> "pandas.DataFrame":
        """One row per snapshot, query and key up to it: ``attention``, whether an induction head looks there
        (``target``), both tokens' letters, and the snapshot's ``prefix_matching``."""
        import pandas as pd

        query, key = np.tril_indices(len(self.labels))
        return pd.concat([
            pd.DataFrame({
                "step": step, "query": query, "key": key, "query_token": np.array(self.labels)[query],
                "key_token": np.array(self.labels)[key], "attention": pattern[query, key],
                "target": self.target[query, key], "prefix_matching": score,
            })
            for step, pattern, score in zip(self.steps, self.patterns, self.prefix_matching, strict=True)
        ], ignore_index=True)  # fmt: skip


def watch(
    source: str | Path | Sequence[Checkpoint],
    head: Head | str | tuple[int, int] | None = None,
    *,
    steps: str = "all",
    frames: int | None = None,
    period: int = PERIOD,
    bos: bool | int = True,
    seed: int = 0,
    device: str | None = None,
    keep: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Watched:
    """Read one head's attention at the checkpoints of a run, on the same sequence: BOS, and a random block three times.

    ``source``, ``steps`` and ``keep`` are those of `formation`; of more than ``frames`` checkpoints, so many are taken,
    evenly by number and with both ends. Without ``head``, it is the one that matches prefixes best at the last
    checkpoint, on ten sequences of its own: a head that matches prefixes, which only a scan may call an induction head.
    Checkpoints are read from the last to the first, one in memory at a time.

    Raises:
        InputError: nothing to read, no such head, or a block that does not fit.
    """
    check_settings(frames=frames, period=period, bos=bos, seed=seed, keep=keep)
    check_device(device)
    series = checkpoints(source, device=device, keep=keep) if isinstance(source, (str, Path)) else list(source)
    series = _evenly(chosen_steps(series, steps), frames)[::-1]
    chosen = None if head is None else Head.parse(head)
    probe: Probe | None = None
    problems: dict[int, str] = {}
    found: list[tuple[int, Float[np.ndarray, "query key"], float]] = []
    for done, (one, model) in enumerate(read_ahead(series), start=1):
        if isinstance(model, InputError):
            problems[one.step] = str(model)
        else:
            probe = probe or _sequence(model, period, bos, seed)
            patterns = _patterns(model, probe)
            scores = attention_to(TARGETS["prefix_matching"](probe.tokens, probe.bos), patterns)
            scores = scores.view(model.cfg.n_layers, model.cfg.n_heads)
            chosen = chosen or _best(model, probe)
            layer, index = chosen.check(*scores.shape)
            found.append((one.step, patterns.view(*scores.shape, *patterns.shape[2:])[layer, index].numpy(),
                          float(scores[layer, index])))  # fmt: skip
        if on_progress is not None:
            on_progress(done, len(series))
    if not found or chosen is None or probe is None:
        raise InputError(
            f"None of the {len(series)} checkpoints could be read; of the last: {problems[series[0].step]}"
        )
    read, kept, score = zip(*found[::-1], strict=True)
    letters = [*ascii_uppercase, *ascii_lowercase, *map(str, range(52, period))]
    block = letters[:period] * REPEATS
    labels = (["."] if probe.bos is not None else []) + block
    target = TARGETS["prefix_matching"](probe.tokens, probe.bos)[0].numpy()
    return Watched(chosen, read, np.stack(kept), np.array(score), target, tuple(labels), problems)


def _best(model: Model, probe: Probe) -> Head:
    """The head that matches prefixes best on sequences of this one's shape: not on this one, whose score is shown."""
    pool = make_pool(model, probe.bos).ids
    shape = {"period": probe.period, "repeats": REPEATS, "bos": probe.bos, "seed": probe.seed}
    others = repeated_tokens(pool, sequences=CHOOSING, purpose="watch: which head", **shape)
    samples, _ = measure_attention(model, others, {"prefix_matching": TARGETS["prefix_matching"]})
    scores = samples["prefix_matching"].value()
    return Head(*map(int, np.unravel_index(int(scores.argmax()), scores.shape)))


def _evenly(series: list[Checkpoint], frames: int | None) -> list[Checkpoint]:
    if frames is None or len(series) <= frames:
        return series
    if frames == 1:
        return series[-1:]
    return [series[round(place)] for place in np.linspace(0, len(series) - 1, frames)]


def _patterns(model: Model, probe: Probe) -> Float[torch.Tensor, "1 head query key"]:
    """Every head's attention on the sequence, layer by layer."""
    layers: list[torch.Tensor] = []
    run_reduced(model, probe.tokens, lambda layer: layers.append(layer.pattern.float().cpu()))
    return torch.cat(layers, dim=1)


def _sequence(model: Model, period: int, bos: bool | int, seed: int) -> Probe:
    start = choose_bos(model, bos)
    pool = make_pool(model, start).ids
    fits = min((model.cfg.n_ctx - int(start is not None)) // REPEATS, len(pool))
    if not 3 <= period <= fits:
        if fits < 3:
            raise InputError(
                f"No block of 3 tokens or more fits {REPEATS} times into the model's context and vocabulary."
            )
        raise InputError(f"period must lie between 3 and {fits}, which fits {REPEATS} times; got {period}.")
    return repeated_tokens(pool, period=period, repeats=REPEATS, sequences=1, bos=start, seed=seed, purpose="watch")
