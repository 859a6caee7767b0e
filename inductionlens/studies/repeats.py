"""Do repeats still help when the tokens are of another kind?"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens import corpus
from inductionlens.checks import check_choices, check_settings
from inductionlens.errors import InputError
from inductionlens.heads import Head
from inductionlens.intervals import mean_interval
from inductionlens.measure import losses_by_position, measure_attention
from inductionlens.models import Model
from inductionlens.models.loading import load_model
from inductionlens.models.origin import origin_of
from inductionlens.models.vocabulary import choose_bos, encoder
from inductionlens.probes import Probe, generator_from, way_out
from inductionlens.scores.attention import TARGETS
from inductionlens.scores.losses import copy_positions
from inductionlens.studies.pool import TOKENIZER, check_pool, make_pool

if TYPE_CHECKING:
    import pandas

DISTRIBUTIONS = ("uniform", "zipf", "shuffled", "text")


def repeats(
    models: Model | str | Path | Iterable[Model | str | Path],
    *,
    distributions: Sequence[str] = DISTRIBUTIONS,
    period: int = 25,
    repeats: int = 4,
    sequences: int = 20,
    bos: bool | int = True,
    seed: int = 0,
    batch_size: int | None = None,
    on_model: Callable[[int], None] | None = None,
    pool: str | Path = TOKENIZER,
) -> "pandas.DataFrame":
    """Repeat blocks of tokens of several kinds, and say how well each model copies, and whether its best head follows.

    Blocks of ``period`` tokens, ``repeats`` times: ``uniform`` random ones without replacement, ``zipf`` (probability
    1/rank, the order of ids drawn by ``seed``), ``text`` (source text of the running Python) and the same ``shuffled``;
    models without a tokenizer read its bytes. ``pool`` is that of `ScanOptions`, for uniform and zipf. One row per
    model and kind. ``head`` is the head with the highest prefix matching on uniform tokens, the same in every row;
    ``first_token`` is where it rests when nothing matches.
    ``confidence`` is the mean probability of the right token on later copies, ``advantage`` the loss on first copies
    minus that on later ones, and ``order_advantage`` the loss on later blocks whose order is mixed anew minus that on
    copies: how much depends on the order, beyond which tokens there are (a confident copier is also misled by another
    order, so this can exceed ``advantage``). Nats, 95% intervals over sequences. A head that matches tokens by content
    should do so whatever the tokens are; a one-layer model has little to know an order by. ``on_model`` is called with
    how many models are done. Elhage et al. 2021.

    Raises:
        InputError: an unknown kind, a model that cannot read text or whose context is too short.
    """
    import pandas as pd

    check_repeats(distributions, period=period, repeats=repeats, sequences=sequences, bos=bos, seed=seed,
                  batch_size=batch_size, pool=pool)  # fmt: skip
    pool = check_pool(pool)
    one = isinstance(models, (str, Path)) or hasattr(models, "run_with_hooks")
    if not one and not isinstance(models, Iterable):
        raise InputError(f"models must be one model or several, as load_model takes them; got {models!r}.")
    rows = []
    for done, model in enumerate([models] if one else models, start=1):
        rows += _rows(load_model(model), distributions, (period, repeats, sequences), bos, seed, batch_size, pool)
        if on_model is not None:
            on_model(done)
    if not rows:
        raise InputError("models must name at least one model; got none.")
    return pd.DataFrame(rows)


def check_repeats(distributions: Sequence[str], **settings: Any) -> None:
    """Refuse what no repeats could be made with, before a model is loaded.

    Raises:
        InputError: a setting of `repeats` that cannot be used.
    """
    check_choices("distributions", distributions, DISTRIBUTIONS)
    check_pool(settings.pop("pool", TOKENIZER))
    check_settings(**settings)


def _rows(
    model: Model, distributions: Sequence[str], shape: tuple[int, int, int], bos: bool | int, seed: int,
    batch_size: int | None, pool: str,
) -> list[dict[str, Any]]:  # fmt: skip
    start = choose_bos(model, bos)
    room = model.cfg.n_ctx - int(start is not None)
    if shape[0] * shape[1] > room:
        fewer = f"; so does repeats={room // shape[0]}" if 2 * shape[0] <= room else ""
        raise InputError(
            f"The model's context of {model.cfg.n_ctx} tokens is too short for {shape[1]} blocks of {shape[0]}; "
            f"{way_out('period', room // shape[1])}{fewer}."
        )
    targets = {name: TARGETS[name] for name in ("prefix_matching", "first_token")}
    head, rows = None, []
    for kind in dict.fromkeys(("uniform", *distributions)):
        probe = _probe(model, kind, shape, start, seed, pool)
        attended, _ = measure_attention(model, probe, targets, batch_size=batch_size)
        if head is None:
            best = attended["prefix_matching"].value()
            head = Head(*map(int, np.unravel_index(best.argmax(), best.shape)))
        losses = losses_by_position(model, probe.tokens, batch_size)
        places = copy_positions(probe.tokens.shape[1], start=probe.start, period=shape[0])
        first, later = (place.numpy() for place in places)
        mixed = losses_by_position(model, _mixed(probe, kind), batch_size)[:, later].mean(1)
        values = {
            "prefix_matching": attended["prefix_matching"].numerator[head],
            "first_token": attended["first_token"].numerator[head],
            "confidence": np.exp(-losses[:, later]).mean(1),
            "loss_first_copy": losses[:, first].mean(1),
            "loss_later_copies": losses[:, later].mean(1),
        }
        values["advantage"] = values["loss_first_copy"] - values["loss_later_copies"]
        values["order_advantage"] = mixed - values["loss_later_copies"]
        if kind in distributions:
            row = {"model": origin_of(model).name, "layers": model.cfg.n_layers, "tokens": kind, "head": head.label}
            rows.append(row | _means(values))
    return rows


def _mixed(probe: Probe, kind: str) -> Int[Tensor, "batch pos"]:
    """The same blocks, each later one in an order of its own."""
    generator, tokens = generator_from(probe.seed, f"mixed {kind}"), probe.tokens.clone()
    for row in tokens:
        for start in range(probe.start + probe.period, len(row), probe.period):
            block = row[start : start + probe.period].clone()
            row[start : start + probe.period] = block[torch.randperm(probe.period, generator=generator)]
    return tokens


def _means(values: dict[str, Float[np.ndarray, " sequence"]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, samples in values.items():
        found[name] = float(samples.mean())
        if not name.startswith("loss_"):
            low, high = mean_interval(samples[None])
            found |= {f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}
    return found


def _probe(
    model: Model, kind: str, shape: tuple[int, int, int], start: int | None, seed: int, pool: str = TOKENIZER
) -> Probe:
    period, count, sequences = shape
    generator = generator_from(seed, f"repeats {kind}")
    if kind in ("text", "shuffled"):
        blocks = corpus.text_windows(
            list(corpus.python_stdlib()), _encoder(model), windows=sequences, length=period, bos=None, seed=seed
        )
        if kind == "shuffled":
            blocks = torch.stack([block[torch.randperm(period, generator=generator)] for block in blocks])
    else:
        blocks = _random_blocks(make_pool(model, start, pool).ids, kind, period, sequences, generator)
    tokens = blocks.repeat(1, count)
    if start is not None:
        tokens = torch.cat([torch.full((sequences, 1), start), tokens], dim=1)
    return Probe(tokens, start, period, count, seed)


def _random_blocks(
    pool: Int[Tensor, " pool"], kind: str, period: int, sequences: int, generator: torch.Generator
) -> Int[Tensor, "block pos"]:
    if len(pool) < period:
        raise InputError(
            f"The vocabulary is too small: period is {period}, and {len(pool)} ids may be drawn; "
            f"{way_out('period', len(pool))}."
        )
    if kind == "uniform":
        return torch.stack([pool[torch.randperm(len(pool), generator=generator)[:period]] for _ in range(sequences)])
    order = pool[torch.randperm(len(pool), generator=generator)]
    weights = 1 / torch.arange(1, len(pool) + 1, dtype=torch.float64)
    return order[torch.multinomial(weights.expand(sequences, -1), period, replacement=True, generator=generator)]


def _encoder(model: Model) -> Any:
    encode = encoder(model)
    if encode is None and model.cfg.d_vocab >= 256:
        return lambda text: list(text.encode())
    if encode is None:
        raise InputError(
            f"The model has no tokenizer, and {model.cfg.d_vocab} ids are too few for bytes, which text and shuffled "
            "need; leave them out (distributions=('uniform', 'zipf'), --tokens uniform,zipf)."
        )
    return encode
