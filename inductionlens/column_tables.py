"""Every table that a command writes, and what its columns mean."""

from collections.abc import Iterable, Mapping

from inductionlens.circuit_columns import CIRCUIT_COLUMNS
from inductionlens.effect_columns import EFFECT_COLUMNS
from inductionlens.formation_columns import FORMATION_COLUMNS
from inductionlens.study_columns import (
    COMPARE,
    RANKS,
    RUNS,
    SAMPLES,
    STEP,
    STEPS,
    TOKENS_SEEN,
    VALIDATE,
)
from inductionlens.tables import COLUMNS, Column, explain

Columns = Mapping[str, Column]


def _from(names: str, *sources: Columns, ends: str = "") -> dict[str, Column]:
    """Columns by name, each from the first source that has it; those named in ``ends`` have interval ends too."""
    columns = {
        name: next(source[name] for source in sources if name in source) for name in (names + " " + ends).split()
    }
    return {name: column._replace(interval=name in ends.split()) for name, column in columns.items()}


def _said(column: Column, meaning: str) -> Column:
    """The same column, with another meaning."""
    return column._replace(meaning=meaning)


_HEAD = _from("name layer head", COLUMNS)
_MEASURES = ("copies", "icl", "text")
_EFFECTS = " ".join(f"effect_{name}" for name in _MEASURES)
_P = " ".join(f"p_{name}" for name in _MEASURES)
_INDEX = EFFECT_COLUMNS["index"]
_LOSS = EFFECT_COLUMNS["loss"]._replace(interval=False)

#: Kind of table, by the command that writes it -> its columns; interval ends are NAME_low and NAME_high.
TABLES: dict[str, dict[str, Column]] = {
    "scan": dict(COLUMNS),
    "scan.samples": _HEAD | SAMPLES,
    "compare": _from("layer head", COLUMNS) | COMPARE,
    "ranks": RANKS,
    "validate": _from("layer head", COLUMNS) | VALIDATE,
    "ablate": _from("model name layer head kind prefix_matching", COLUMNS)
    | _from(
        "output patterns method control_copies control_icl control_text", EFFECT_COLUMNS, ends=_EFFECTS
    ),
    "ablate.groups": _from("set k draw heads from_layers holds_writer " + _P, EFFECT_COLUMNS, ends=_EFFECTS),
    "icl": {"index": _INDEX, "loss": EFFECT_COLUMNS["loss"]},
    "circuit": _from("model", COLUMNS)
    | _from("writer reader via writer_kind reader_kind", CIRCUIT_COLUMNS)
    | _from("composition composition_raw composition_z eigen", CIRCUIT_COLUMNS)
    | {
        "prefix_matching": COLUMNS["prefix_matching"]._replace(
            meaning="the reader's prefix matching with nothing taken out", interval=False
        ),
        "induction_logit": COLUMNS["induction_logit"]._replace(
            meaning="the reader's effect on the right logit with nothing taken out", interval=False
        ),
    }
    | _from(
        "prefix_lost_direct logit_lost_direct ablated_lost causal rank_composition rank_causal", CIRCUIT_COLUMNS,
        ends="prefix_lost logit_lost",
    ),
    "circuit.heads": _from(
        "model name layer head kind prefix_matching previous_token previous_token_source ov_eigen ov_eigen_fraction",
        COLUMNS,
    )
    | _from("ov_top1 ov_top5 qk_eigen qk_eigen_trace", CIRCUIT_COLUMNS),
    "circuit.terms": _from("model", COLUMNS)
    | {"reader": _said(CIRCUIT_COLUMNS["reader"], "the head whose QK circuit is taken apart")}
    | {"eigen": _said(CIRCUIT_COLUMNS["eigen"], "Re(sum of eigenvalues) / sum of absolute values of the term")}
    | _from("query_writer key_writer trace size", CIRCUIT_COLUMNS),
    "orders": _from("model", COLUMNS) | _from("measure term", CIRCUIT_COLUMNS, ends="loss gain"),
    "trigrams": _from("model name layer head ov_eigen", COLUMNS)
    | _from("source destination out source_id destination_id out_id copies attention logit", CIRCUIT_COLUMNS)
    | _from("all_copies own_token copying_head", CIRCUIT_COLUMNS),
    "repeats": _from("model loss_first_copy loss_later_copies", COLUMNS, ends="prefix_matching first_token")
    | {"head": Column("the model's head with the highest prefix matching on uniform tokens, such as L1H2", "str")}
    | _from("layers tokens", CIRCUIT_COLUMNS, ends="confidence advantage order_advantage"),
    "train": {
        "step": _said(STEP, "optimiser step, from 1"),
        "tokens": TOKENS_SEEN,
        "loss": Column("loss of the step's batch, before the step", "float", "0 and up, lower is better", "nats"),
    },
    "formation": STEPS
    | _from("training_loss loss_slope prefix_matching_head previous_token_head", FORMATION_COLUMNS)
    | _from("induction_heads problem", FORMATION_COLUMNS)
    | _from("loss_first_copy loss_later_copies copying_gain previous_token_source", COLUMNS)
    | _from("", FORMATION_COLUMNS, ends="icl_score"),
    "formation.heads": {"step": STEP}
    | _HEAD
    | _from("kind previous_token previous_token_source duplicate_token induction_logit ov_eigen", COLUMNS)
    | _from("", COLUMNS, ends="prefix_matching")
    | _from("qk_eigen qk_eigen_trace", CIRCUIT_COLUMNS)
    | _from("effect_icl", EFFECT_COLUMNS),
    "formation.losses": {"step": STEP, "index": _INDEX, "loss": _LOSS},
    "formation.followed": {"step": STEP, "loss": _said(_LOSS, "loss of that token")}
    | _from("token", FORMATION_COLUMNS),
    "formation.before": {"step": STEP} | _from("name", COLUMNS) | _from("before_and_after", FORMATION_COLUMNS),
    "watch": {"step": STEP, "attention": Column("how much of the query's attention the key gets", "float", "0..1",
                                                "fraction of attention")}
    | _from("query key query_token key_token target", FORMATION_COLUMNS)
    | {"prefix_matching": COLUMNS["prefix_matching"]._replace(
        meaning="the head's prefix matching on this one sequence, at this step", interval=False)},
    "changes": {
        "model": Column("what the files of the model's runs have in common in their names", "str"),
        "size": Column("the curve after the change minus before it; mean over the seeds that change", "float"),
    }
    | _from(
        "curve seeds formed too_few changed sharpness overlap", FORMATION_COLUMNS, ends="start end middle after_prefix"
    ),
    "reproduce.arguments": _from("argument claim predicted measured low high verdict", FORMATION_COLUMNS),
    "reproduce.runs": RUNS,
    "reproduce.curves": {"model": RUNS["model"], "seed": RUNS["seed"], "step": STEP}
    | _from("copying_gain", COLUMNS)
    | _from("prefix_matching", STEPS)
    | _from("icl_score induction_heads", FORMATION_COLUMNS),
}  # fmt: skip

#: Kind of table -> how its 95% intervals are made, where that is not as in a scan.
INTERVALS = {
    "icl": "Student's t over windows, empty below 5",
    "orders": "Student's t over sequences, empty below 5",
    "repeats": "Student's t over sequences, empty below 5",
    "changes": "Student's t over seeds",
    "compare": "of the difference of two independent means",
}


def columns_of(kind: str) -> list[str]:
    """Every column that a kind of table can have, interval ends after their column."""
    ends = ("", "_low", "_high")
    return [name + end for name, column in TABLES[kind].items() for end in (ends if column.interval else ends[:1])]


def explain_in(kind: str, name: str) -> Column | None:
    """What a column means in one kind of table, interval ends included; None if that table has no such column."""
    column = explain(name, TABLES[kind])
    if column is None or name in TABLES[kind] or kind not in INTERVALS:
        return column
    base, _, end = name.rpartition("_")
    which = {"low": "lower", "high": "upper"}[end]
    return column._replace(meaning=f"{which} end of the 95% interval of {base}: {INTERVALS[kind]}")


def kind_of(columns: Iterable[str], command: str | None = None) -> str | None:
    """Which kind of table has these columns, of those that ``command`` writes if that is known.

    The kind that explains most of them; of equals, the one with the fewest columns. None if it explains less than half.
    """
    names = set(columns)
    known = {kind: set(columns_of(kind)) for kind in TABLES}
    written = [kind for kind in TABLES if kind.partition(".")[0] == command] or list(TABLES)
    best = max(written, key=lambda kind: (len(names & known[kind]), -len(known[kind])))
    return best if names and 2 * len(names & known[best]) >= len(names) else None
