"""A training run as tables: what formation gives, writes and reads back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inductionlens.errors import InputError
from inductionlens.files import check_writable, format_of, read_plain_table, write_table
from inductionlens.heads import Head
from inductionlens.partial import Partial
from inductionlens.phase_change import PhaseChange
from inductionlens.studies.changes import changes_of, in_words

if TYPE_CHECKING:
    import pandas

#: Tables beside that of steps, each in a file of its own: ``run.heads.csv`` beside ``run.csv``.
BESIDE = ("heads", "losses", "followed", "before")
#: Columns that hold text; all others hold numbers.
TEXT = ("name", "kind", "prefix_matching_head", "previous_token_head", "previous_token_source", "induction_heads",
        "problem")  # fmt: skip
#: What each table must have, to be read as one.
REQUIRED = {
    "steps": ("step", "loss", "prefix_matching", "prefix_matching_head", "icl_score", "copying_gain", "problem"),
    "heads": ("step", "name", "prefix_matching"),
    "losses": ("step", "index", "loss"),
    "followed": ("step", "token", "loss"),
    "before": ("step", "name", "before_and_after"),
}


@dataclass(frozen=True, eq=False)
class Formation:
    """A training run, snapshot by snapshot."""

    steps: "pandas.DataFrame"
    """One row per snapshot: ``step``, ``tokens``, losses, ``icl_score``, and its best head by prefix matching and by
    previous-token attention, each chosen on half of the sequences and measured on the other half; at the last one
    ``induction_heads``, those that a scan calls so (``none``; empty where no scan was made).
    ``problem`` says why a snapshot could not be read (its numbers are then empty), or which others have the same
    weights, bit for bit."""
    heads: "pandas.DataFrame"
    """One row per snapshot and head; ``kind`` is a scan's verdict at the last one, empty before."""
    losses: "pandas.DataFrame"
    """Mean loss by ``step`` and ``index`` (context position)."""
    followed: "pandas.DataFrame"
    """The loss of one fixed, randomly chosen token of each window, by ``step`` and ``token``: what per-token-loss PCA
    reads."""
    before: "pandas.DataFrame"
    """What zeroing each head does to the direction in which the followed losses move while prefix matching changes:
    ``before_and_after`` by ``step`` and ``name``, nats, *negative where it undoes the change*. Empty where nothing
    changes or nothing was ablated. Olsson et al. 2022."""
    provenance: dict[str, Any] = field(repr=False)
    """How it was measured."""
    parts: Partial | None = field(default=None, repr=False)
    """Finished checkpoints on disk, until `save`; None for tables that were read."""

    def curve(self, column: str, head: Head | str | tuple[int, int] | None = None) -> "pandas.DataFrame":
        """``step`` and ``value`` of a column over training, of one head or of the model as a whole.

        Raises:
            InputError: no such column or head.
        """
        table = self.steps
        if head is not None:
            table = self.heads[self.heads["name"] == Head.parse(head).label]
        if column not in table.columns or table.empty:
            known = ", ".join(name for name in table.columns if name not in ("step", "tokens", "name"))
            raise InputError(f"There is no curve {column!r}{'' if head is None else f' of {head}'}; there are {known}.")
        return table[["step", column]].rename(columns={column: "value"}).reset_index(drop=True)

    def changes(self) -> dict[str, PhaseChange]:
        """Where prefix matching, the in-context-learning score and the gain on copies break; see `find_change`."""
        return changes_of(self.steps)

    def in_words(self) -> list[str]:
        """What happened, in sentences."""
        return in_words(self.steps)

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write ``steps``, whole or not at all, and their record; the other tables go beside them (``run.heads.csv``
        beside ``run.csv``, and so on), and remove finished parts. `read_formation` gives them back.

        Raises:
            InputError: an unknown suffix, or a place that cannot be written; nothing has been written.
        """
        path = Path(path)
        format_of(path, format)
        for place in files_of(path):
            check_writable(place)
        for name, place in zip(("steps", *BESIDE), files_of(path), strict=True):
            write_table(place, getattr(self, name), self.provenance, format)
        if self.parts is not None:
            self.parts.finish()


def files_of(path: Path) -> list[Path]:
    """The file of steps and those beside it."""
    return [path, *(path.with_suffix(f".{name}{path.suffix}") for name in BESIDE)]


def read_formation(path: str | Path, format: str | None = None) -> Formation:
    """The tables that `Formation.save` wrote, number for number.

    Raises:
        InputError: a table that is missing, unreadable, or something else.
    """
    tables, record = {}, {}
    for name, place in zip(("steps", *BESIDE), files_of(Path(path)), strict=True):
        tables[name], found = read_plain_table(place, TEXT, REQUIRED[name], f"table of {name} of a run", format)
        record = record or found
    for name in ("run", "measured"):
        if not isinstance(record.get(name) or {}, dict):
            raise InputError(f"The record of {path} has no settings at {name}; delete it to read the tables alone.")
    if not isinstance((record.get("measured") or {}).get("followed", ""), str):
        raise InputError(f"The record of {path} names no tokens at followed; delete it to read the tables alone.")
    if "tokens" in tables["steps"].columns:
        tables["steps"]["tokens"] = tables["steps"]["tokens"].astype("Int64")
    return Formation(**tables, provenance=record)
