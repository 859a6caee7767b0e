"""A head table with what was measured behind it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from inductionlens.detection import KINDS
from inductionlens.errors import InputError
from inductionlens.files import checked_path, write_table
from inductionlens.head_files import read_table
from inductionlens.heads import Head

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class HeadScores:
    """One row per head: what `scan` gives and what its files hold."""

    table: "pandas.DataFrame"
    """One row per head, layer by layer; `inductionlens columns` explains every column."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """How it was measured: model, probes, options, seed, versions. Empty for a table read without its record."""
    samples: dict[str, Float[np.ndarray, "row sequence"]] = field(default_factory=dict, repr=False)
    """Per-sequence values behind each score, in the table's row order; only in memory, see `samples_table`."""

    def heads(self, kind: str) -> list[Head]:
        """The heads of a kind, highest attention first.

        Raises:
            InputError: the table has no column ``kind``, or there is no such kind.
        """
        if kind not in KINDS:
            raise InputError(f"There is no kind {kind!r} of head; the kinds are {', '.join(KINDS)}.")
        if "kind" not in self.table.columns:
            raise InputError("This table has no column kind; tables written by scan have it.")
        found = self.table[self.table["kind"] == kind]
        by = kind if kind in found.columns else "prefix_matching"
        if by in found.columns:
            found = found.sort_values(by, ascending=False, kind="stable")
        return [Head(int(row["layer"]), int(row["head"])) for row in found.to_dict("records")]

    def induction_heads(self) -> list[Head]:
        """The heads called induction heads, strongest prefix matching first."""
        return self.heads("induction")

    def __getitem__(self, head: "Head | str | tuple[int, int]") -> "pandas.Series":
        """The row of one head, named like ``"5.1"``.

        Raises:
            InputError: the table has no such head.
        """
        head = Head.parse(head)
        layers, heads = int(self.table["layer"].max()) + 1, int(self.table["head"].max()) + 1
        head.check(layers, heads)
        rows = self.table[(self.table["layer"] == head.layer) & (self.table["head"] == head.index)]
        if rows.empty:
            raise InputError(f"The table has no row for head {head}.")
        return rows.iloc[0]

    def __len__(self) -> int:
        return len(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

    def samples_table(self) -> "pandas.DataFrame":
        """Per-sequence values in long form: name, layer, head, score, sequence, value."""
        import pandas as pd

        if not self.samples:
            raise InputError("This table was read from a file and keeps no per-sequence values; scan again for them.")
        parts = []
        for score, values in self.samples.items():
            rows, sequences = values.shape
            part = self.table[["name", "layer", "head"]].loc[self.table.index.repeat(sequences)].reset_index(drop=True)
            parts.append(
                part.assign(score=score, sequence=np.tile(np.arange(sequences), rows), value=values.reshape(-1))
            )
        return pd.concat(parts, ignore_index=True)

    def offset_profile(self) -> "pandas.DataFrame":
        """Where each head looks relative to the earlier copy: attention per head (row) and offset (column), 0..1.

        Raises:
            InputError: the table was read from a file, which keeps only the profile's peak.
        """
        import pandas as pd

        offsets = {name: values.mean(1) for name, values in self.samples.items() if name.startswith("offset ")}
        if not offsets:
            raise InputError("This table was read from a file and keeps only offset_peak; scan again for the profile.")
        columns = {int(name.removeprefix("offset ")): values for name, values in offsets.items()}
        return pd.DataFrame(columns, index=pd.Index(self.table["name"], name="name"))

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write the table, whole or not at all, and its provenance beside it; the suffix decides the format.

        Raises:
            InputError: the suffix is unknown or the place cannot be written.
        """
        write_table(checked_path(path), self.table, self.provenance, format)

    def to_csv(self, path: str | Path) -> None:
        """`save` as CSV."""
        self.save(path, "csv")

    def to_parquet(self, path: str | Path) -> None:
        """`save` as Parquet."""
        self.save(path, "parquet")

    def to_json(self, path: str | Path) -> None:
        """`save` as JSON."""
        self.save(path, "json")


def read_scores(path: str | Path, format: str | None = None, *, columns: Mapping[str, str] | None = None) -> HeadScores:
    """Read a table written by `HeadScores.save`, number for number, with its provenance; or a table that others wrote.

    Args:
        path: a .csv (cells separated by commas, semicolons or tabs), .tsv, .parquet or .json file.
        format: csv, parquet or json, whatever the suffix.
        columns: our name of a column -> what the file calls it, such as ``{"head": "head_idx",
            "prefix_matching": "score"}``; columns that have our names need not be given.

    Raises:
        InputError: the file is missing, unreadable, cut off, or not a head table; a column that it has not.
    """
    return HeadScores(*read_table(checked_path(path), format, columns))
