"""Other people's tables, their columns under our names."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from inductionlens.cells import printable
from inductionlens.errors import InputError

if TYPE_CHECKING:
    import pandas

#: A comma between two pairs; their names may hold commas.
_NEXT = re.compile(r",(?=\s*\w+\s*=)")


def parse_columns(words: Iterable[str] | None) -> dict[str, str] | None:
    """``OUR=THEIRS`` pairs, with commas, as a dictionary; None for none.

    Raises:
        InputError: a pair without ``=``, or one of our names twice.
    """
    columns: dict[str, str] = {}
    for pair in (pair for word in words or () for pair in _NEXT.split(word)):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not equals or not ours or not theirs:
            raise InputError(f"--columns takes OUR=THEIRS, such as head=head_idx; got {pair!r}.")
        if ours in columns:
            raise InputError(f"--columns names {ours} twice: {columns[ours]!r} and {theirs!r}.")
        columns[ours] = theirs
    return columns or None


def renamed(
    table: "pandas.DataFrame", columns: Mapping[str, str] | None, known: Iterable[str], name: str
) -> "pandas.DataFrame":
    """A table with columns that others named under our names (ours: theirs); its other columns stay.

    A column of the table that has one of our names without being meant is left out: ``columns`` says what holds it.

    Raises:
        InputError: one of our names that is not among ``known``, or one of theirs that the table has not.
    """
    if columns is None:
        return table
    if not isinstance(columns, Mapping):
        raise InputError(f"columns must be a dictionary of our names to theirs; got {columns!r}.")
    known = list(known)
    for ours, theirs in columns.items():
        if ours not in known:
            raise InputError(f"columns cannot name {ours!r}: of our names these can be given: {', '.join(known)}.")
        if theirs not in table.columns:
            raise InputError(f"{name} has no column {theirs!r} for {ours}; its columns are {listed(table.columns)}.")
    others = table.drop(columns=[column for column in table if column in columns or column in columns.values()])
    return others.assign(**{ours: table[theirs] for ours, theirs in columns.items()})


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names with commas, the first few of many."""
    names = [printable(str(name)) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
