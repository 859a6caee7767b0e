"""What feeds what: how are these heads built?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inductionlens.checks import check_settings
from inductionlens.composition import (
    Composition,
    has_qk,
    measure_composition,
    measure_k_term,
    own_token_shares,
    qk_terms,
    virtual_heads,
)
from inductionlens.errors import InputError
from inductionlens.files import write_table
from inductionlens.head_scores import HeadScores
from inductionlens.heads import Head, parse_heads
from inductionlens.models import Model
from inductionlens.models.activations import check_all_layers_attend
from inductionlens.models.circuits import ov_eigenvalues, ov_obstacle, qk_obstacle
from inductionlens.models.loading import load_model
from inductionlens.models.origin import origin_of
from inductionlens.models.vocabulary import choose_bos
from inductionlens.paths import measure_paths
from inductionlens.probes import Probe, repeated_tokens, way_out
from inductionlens.studies.chosen_heads import check_heads, check_scores, chosen_heads
from inductionlens.studies.circuit_tables import LEAST_LOGIT, head_rows, least_prefix_matching, pair_rows
from inductionlens.studies.pool import TOKENIZER, check_pool, make_pool
from inductionlens.studies.provenance import environment, model_record
from inductionlens.studies.scan import scan
from inductionlens.studies.stimuli import fitting_logit_period

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Circuit:
    """Which heads read which, through what; from the weights, and by taking paths out."""

    pairs: "pandas.DataFrame"
    """One row per writer, later reader and via (q, k, v); `inductionlens columns` explains every column. What was
    measured by taking paths out is empty but for the readers asked for."""
    heads: "pandas.DataFrame"
    """One row per head: its OV circuit, and its QK circuit through previous-token heads."""
    eigenvalues: dict[Head, np.ndarray] = field(repr=False)
    """Eigenvalues of the readers' OV circuits, vocabulary by vocabulary."""
    readers: tuple[Head, ...]
    """The heads that were taken apart, strongest prefix matching first."""
    provenance: dict[str, Any]
    """How it was measured."""

    def paths(self, reader: Head | str | tuple[int, int]) -> "pandas.DataFrame":
        """The measured paths into a reader, the one that carries most first.

        Raises:
            InputError: no path into that head was measured.
        """
        reader = Head.parse(reader)
        if reader not in self.readers:
            known = ", ".join(str(head) for head in self.readers)
            raise InputError(f"No path into {reader} was measured; the readers are {known}.")
        own = self.pairs[self.pairs["reader"] == reader.label]
        return own.sort_values("causal", ascending=False, kind="stable").reset_index(drop=True)

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write the pairs, whole or not at all, and their record; heads go to ``NAME.heads`` beside them."""
        path = Path(path)
        write_table(path, self.pairs, self.provenance, format)
        write_table(path.with_suffix(f".heads{path.suffix}"), self.heads, self.provenance, format)

    def plot(self, path: str | Path) -> None:
        """Draw the circuit, composition, eigenvalues and positivity as .png, .svg or .pdf."""
        from inductionlens.plots.circuit import plot_circuit

        plot_circuit(path, self.pairs, self.heads, {str(head): found for head, found in self.eigenvalues.items()})


def circuit(
    model: Model | str | Path,
    *,
    readers: Iterable[Head | str | tuple[int, int]] | str = "induction",
    scores: HeadScores | None = None,
    sequences: int = 10,
    period: int = 25,
    bos: bool | int = True,
    seed: int = 0,
    distance: int | None = None,
    controls: bool = True,
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    pool: str | Path = TOKENIZER,
) -> Circuit:
    """Say which earlier heads a head reads, through its queries, keys or values. Elhage et al. 2021.

    Two answers stand side by side. Composition is read off the weights of every pair, above what random matrices of the
    same shapes score. For ``readers`` (a kind such as ``induction``, names, or ``all``) each earlier head is also taken
    out of one input at a time, on ``sequences`` blocks of ``period`` random tokens repeated once: ``prefix_lost`` and
    ``logit_lost`` are the shares of the reader's prefix matching and right-logit effect that are gone, with 95%
    intervals over sequences; `measure_paths` has the details. Shares are empty where there is nothing to lose: prefix
    matching that is not clearly above that of attention spread evenly, a logit effect below 0.01 or not clear of 0.
    ``scores`` is a scan of the same model, made here if not given, without controls where ``controls`` is False;
    ``pool`` is that of `ScanOptions`. Rotary models compare queries and keys in another way at every distance: their Q-
    and K-composition is left empty unless ``distance`` says which is meant (0: as if nothing were turned, a heuristic).
    Where keys are smeared no distance helps, and it is empty.

    Raises:
        InputError: a model of one layer, an unknown head, no reader that reads another head, a probe that does not fit.
    """
    readers = readers if isinstance(readers, str) else parse_heads(readers, "readers")
    check_circuit(readers, sequences=sequences, period=period, bos=bos, seed=seed, distance=distance,
                  controls=controls, batch_size=batch_size, pool=pool)  # fmt: skip
    pool = check_pool(pool)
    model = load_model(model)
    check_all_layers_attend(model, "a circuit")
    if model.cfg.n_layers < 2:
        raise InputError("The model has one layer, in which no head reads another; skip_trigrams shows its circuits.")
    probe = _probe(model, sequences, period, bos, seed, pool)
    if distance is not None and not 0 <= distance <= model.cfg.n_ctx - 2:
        raise InputError(f"distance must lie between 0 and {model.cfg.n_ctx - 2}, inside the context; got {distance}.")
    made: dict[str, Any] | None = None
    if scores is None:
        check_heads(readers, "readers", model)
        repeats = min(4, (model.cfg.n_ctx - probe.start) // period)
        made = {"repeats": repeats, "logit_period": fitting_logit_period(model, probe.bos, pool), "controls": controls}
        scores = scan(model, seed=seed, bos=bos, period=period, batch_size=batch_size, pool=pool, **made)
    check_scores(model, scores)
    chosen = chosen_heads(model, readers, scores, "readers", "take apart")
    apart = [head for head in _strongest_first(chosen, scores) if head.layer]
    if not apart:
        named = ", ".join(str(head) for head in chosen)
        raise InputError(f"Heads of layer 0 read no other head ({named}); name readers of later layers.")
    composition = measure_composition(model, distance=distance, seed=seed)
    writers = [Head(layer, index) for layer in range(model.cfg.n_layers - 1) for index in range(model.cfg.n_heads)]
    writers = [writer for writer in writers if writer.layer < max(reader.layer for reader in apart)]
    done = 0

    def progress(rows: int) -> None:
        nonlocal done
        done += rows
        if on_progress is not None:
            on_progress(done, sequences)

    paths = measure_paths(model, probe, writers, apart, batch_size=batch_size, progress=progress)
    least = least_prefix_matching(probe)
    pairs = pair_rows(model, scores, composition, writers, apart, paths, _eigen(model, apart, distance), least)
    k_term = measure_k_term(model, _column(scores, "previous_token", model), distance=distance)
    heads = head_rows(model, scores, own_token_shares(model, seed=seed), k_term)
    layers = sorted({head.layer for head in apart})
    found = dict(zip(layers, ov_eigenvalues(model, layers).numpy(), strict=True))
    eigenvalues = {head: found[head.layer][head.index] for head in apart}
    record = _record(model, probe, composition, distance, apart) | {"scan": made or "scores of the caller"}
    record |= {"pool": make_pool(model, probe.bos, pool).record()}
    record |= {"shares_from": {"prefix_matching": least, "induction_logit": LEAST_LOGIT}}
    return Circuit(pairs, heads, eigenvalues, tuple(apart), record)


def check_circuit(readers: Any, **settings: Any) -> None:
    """Refuse what no circuit could be made with, before a model is loaded.

    Raises:
        InputError: a setting of `circuit` that cannot be used, or a reader that is no name of a head.
    """
    check_pool(settings.pop("pool", TOKENIZER))
    check_settings(**settings)
    check_heads(readers, "readers")


def qk_expansion(
    model: Model | str | Path, reader: Head | str | tuple[int, int], *, distance: int | None = None
) -> "pandas.DataFrame":
    """The terms of one reader's QK circuit when query and key read the embedding or any earlier head: one row per term.

    ``query_writer`` and ``key_writer`` are empty for the embedding itself; `qk_terms` says what the numbers are. With a
    previous-token head at the key and nothing at the query, a positive ``eigen`` is an induction circuit. Elhage et al.
    2021.

    Raises:
        InputError: an unknown head, or a model without a QK circuit of one matrix.
    """
    import pandas as pd

    model = load_model(model)
    reader = Head.parse(reader).check(model.cfg.n_layers, model.cfg.n_heads)
    terms = qk_terms(model, reader, distance=distance)
    named = [[head.label if head else "" for head in (term.query_writer, term.key_writer)] for term in terms]
    return pd.DataFrame(
        {
            "model": origin_of(model).name, "reader": reader.label,
            "query_writer": [query for query, _ in named], "key_writer": [key for _, key in named],
            "eigen": [term.eigen for term in terms], "trace": [term.trace for term in terms],
            "size": [term.size for term in terms],
        }
    )  # fmt: skip


def _probe(model: Model, sequences: int, period: int, bos: bool | int, seed: int, pool: str = TOKENIZER) -> Probe:
    start = choose_bos(model, bos)
    room = model.cfg.n_ctx - int(start is not None)
    if 2 * period > room:
        raise InputError(
            f"The model's context of {model.cfg.n_ctx} tokens is too short for two blocks of {period}; "
            f"{way_out('period', room // 2)}."
        )
    ids = make_pool(model, start, pool).ids
    return repeated_tokens(ids, period=period, repeats=2, sequences=sequences, bos=start, seed=seed, purpose="circuit")


def _strongest_first(heads: Sequence[Head], scores: HeadScores) -> list[Head]:
    return sorted(heads, key=lambda head: -scores[head]["prefix_matching"])


def _column(scores: HeadScores, name: str, model: Model) -> np.ndarray:
    table = scores.table.sort_values(["layer", "head"])
    return table[name].to_numpy(dtype=np.float64).reshape(model.cfg.n_layers, model.cfg.n_heads)


def _eigen(model: Model, readers: Sequence[Head], distance: int | None) -> dict[tuple[Head, Head, str], float]:
    """The eigenvalue score of each pair's circuit: (writer, reader, via) -> -1..1."""
    found: dict[tuple[Head, Head, str], float] = {}
    for reader in readers:
        for writer, score in virtual_heads(model, reader).items():
            found[writer, reader, "v"] = score
        if has_qk(model, distance) and ov_obstacle(model) is None:
            for term in qk_terms(model, reader, both=False, distance=distance):
                if term.query_writer is not None:
                    found[term.query_writer, reader, "q"] = term.eigen
                if term.key_writer is not None:
                    found[term.key_writer, reader, "k"] = term.eigen
    return found


def _record(
    model: Model, probe: Probe, composition: Composition, distance: int | None, readers: Sequence[Head]
) -> dict[str, Any]:
    reason = qk_obstacle(model)
    return {
        "command": "circuit",
        "model": model_record(model),
        "probe": probe.describe(),
        "seed": probe.seed,
        "readers": [str(reader) for reader in readers],
        "composition": {
            "baseline": composition.baseline.mean,
            "spread": composition.baseline.spread,
            "queries_and_keys": "at every distance alike" if reason is None else
            f"at distance {distance} (rotary)" if has_qk(model, distance) else f"left out: {reason}",
        },
        **environment(),
    }  # fmt: skip
