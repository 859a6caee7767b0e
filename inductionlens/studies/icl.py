"""Does this model predict later tokens better?"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from inductionlens.checks import check_settings, check_text
from inductionlens.errors import InputError
from inductionlens.files import encode_table, write_table
from inductionlens.measure import losses_by_position
from inductionlens.models import Model
from inductionlens.models.loading import load_model
from inductionlens.models.token_checks import checked_tokens
from inductionlens.studies.icl_tables import by_position_table, derivative_table, pairs_table
from inductionlens.studies.pool import TOKENIZER, check_pool
from inductionlens.studies.provenance import environment, model_record
from inductionlens.studies.windows import LENGTH, Windows, given_windows, make_windows, pick_pair, without_padding

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class InContextLearning:
    """Losses by position and what they say: in nats, indices from 0, intervals of 95% over windows."""

    score: float
    """Mean over windows of loss[late] - loss[early]; negative is more in-context learning."""
    low: float
    """Lower end of its interval; NaN with a single window."""
    high: float
    """Upper end."""
    late: int
    """The later index: the loss of the token that follows positions 0 .. late."""
    early: int
    """The earlier index."""
    by_position: "pandas.DataFrame"
    """One row per index: ``index``, ``loss`` (mean over windows), ``loss_low``, ``loss_high``."""
    pairs: "pandas.DataFrame"
    """The score at other pairs of indices: ``late``, ``early``, ``icl_score``, ``icl_low``, ``icl_high``."""
    derivative: "pandas.DataFrame"
    """Bins of indices: ``first``, ``last``, ``slope`` (nats per e-fold of index), ``slope_low``, ``slope_high``."""
    losses: Float[np.ndarray, "sequence index"] = field(repr=False)
    """Every loss, [sequence, pos - 1], NaN where the predicted token is padding; only in memory."""
    provenance: dict[str, Any] = field(repr=False)
    """How it was measured: model, windows, options, versions."""

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write ``by_position``, whole or not at all, and the rest beside it; the suffix decides the format.

        Raises:
            InputError: the suffix is unknown or the place cannot be written.
        """
        found = {name: _plain(getattr(self, name)) for name in ("score", "low", "high", "late", "early")}
        tables = {name: json.loads(encode_table(getattr(self, name), "json")) for name in ("pairs", "derivative")}
        write_table(Path(path), self.by_position, {**self.provenance, "icl": {**found, **tables}}, format)


def _plain(value: float | int) -> float | int | None:
    return None if value != value else value


def in_context_learning(
    model: Model | str | Path,
    windows: Windows | Tensor | None = None,
    *,
    text: str | Path = "auto",
    n_windows: int = 50,
    length: int | None = None,
    late: int | None = None,
    early: int | None = None,
    bos: bool | int = True,
    seed: int = 0,
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    pool: str | Path = TOKENIZER,
) -> InContextLearning:
    """Loss at every position of windows of text, and the in-context learning score: negative is more of it.

    ``model`` is what `load_model` takes. The windows are token ids of yours, [sequence, pos], taken as they are, or are
    made by `make_windows` from ``text``, ``n_windows``, ``length``, ``bos`` and ``seed``. Padding on the right of
    yours (the tokenizer's padding id, where that is neither EOS nor BOS) is left out; the score is then read where
    every window has text. The score is the loss at index ``late`` minus the loss at ``early``; see `pick_pair` for the
    defaults, 500 and 50 where they fit.
    ``pool`` is that of `ScanOptions`, for random windows. ``on_progress(done, total)`` is called after every batch, in
    windows.

    Raises:
        InputError: an argument cannot be used; nothing has been computed.
    """
    check_icl(text, n_windows=n_windows, length=length, late=late, early=early, bos=bos, seed=seed,
              batch_size=batch_size)  # fmt: skip
    if windows is not None and (text, n_windows, length, bos) != ("auto", 50, None, True):
        raise InputError("Give windows, or text, n_windows, length and bos to make them from, not both.")
    pool = check_pool(pool, text)
    model = load_model(model)
    if windows is None:
        length = min(LENGTH, model.cfg.n_ctx) if length is None else length
        pick_pair(length, late, early)
        windows = make_windows(model, text, windows=n_windows, length=length, bos=bos, seed=seed, pool=pool)
    elif isinstance(windows, Windows):
        checked_tokens(model, windows.tokens, "windows", length=3)
    else:
        windows = given_windows(model, checked_tokens(model, windows, "windows", length=3), "windows of the caller")
    tokens = windows.tokens
    late, early = pick_pair(windows.shortest, late, early)
    done = 0

    def progress(sequences: int) -> None:
        nonlocal done
        done += sequences
        if on_progress is not None:
            on_progress(done, len(tokens))

    losses = without_padding(losses_by_position(model, tokens, batch_size, progress), windows.lengths)
    in_all = losses[:, : windows.shortest - 1]
    pairs = pairs_table(in_all, late, early)
    chosen = pairs[(pairs["late"] == late) & (pairs["early"] == early)].iloc[0]
    return InContextLearning(
        score=float(chosen["icl_score"]), low=float(chosen["icl_low"]), high=float(chosen["icl_high"]),
        late=late, early=early, by_position=by_position_table(losses[:, : windows.longest - 1]), pairs=pairs,
        derivative=derivative_table(in_all), losses=losses,
        provenance=_provenance(model, windows, seed, batch_size),
    )  # fmt: skip


def check_icl(text: str | Path, **settings: Any) -> None:
    """Refuse what no windows could be made with, before a model is loaded.

    Raises:
        InputError: a setting of `in_context_learning` that cannot be used.
    """
    check_text(text)
    check_pool(settings.pop("pool", TOKENIZER), text)
    check_settings(**settings)


def _provenance(model: Model, windows: Windows, seed: int, batch_size: int | None) -> dict[str, Any]:
    tokens = windows.tokens
    return {
        "command": "icl",
        "model": model_record(model),
        "windows": {
            "text": windows.name,
            "text_sha256": windows.digest,
            "tokens_sha256": hashlib.sha256(tokens.cpu().numpy().tobytes()).hexdigest()[:12],
            "sequences": tokens.shape[0],
            "length": tokens.shape[1],
            "padding_left_out": windows.padding,
            "bos": windows.bos,
            "pool": None if windows.pool is None else windows.pool.record(),
        },
        "seed": seed,
        "batch_size": batch_size,
        "icl_index_base": 0,
        "icl_direction": "loss at late minus loss at early; negative is more in-context learning",
        **environment(),
    }
