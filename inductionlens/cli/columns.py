"""columns: what every column of every table means."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inductionlens.cli.speak import app
from inductionlens.errors import InputError

if TYPE_CHECKING:
    from inductionlens.tables import Column

ENDS = ("_low", "_high")


@app.command()
def columns(
    table: Annotated[str | None, typer.Argument(help="A kind of table (scan, formation.heads), a table's file, or one column; every table by default.")] = None,
) -> None:  # fmt: skip
    """Explain the columns of a table: meaning, range, unit and source."""
    from inductionlens.column_tables import TABLES
    from inductionlens.files import FORMATS

    if table is None:
        for kind in TABLES:
            _print_kind(kind)
    elif table in TABLES:
        _print_kind(table)
    elif Path(table).suffix.lower() in FORMATS:
        _print_file(Path(table))
    else:
        _print_column(table)


def _print_kind(kind: str) -> None:
    """Explain every column that a kind of table can have."""
    from inductionlens.column_tables import TABLES

    ends = {name: [name + end for end in ENDS] if column.interval else [] for name, column in TABLES[kind].items()}
    _print(kind, ["column"], [(["\n".join([name, *ends[name]])], column) for name, column in TABLES[kind].items()])
    _print_ends(kind, any(ends.values()))


def _print_file(path: Path) -> None:
    """Explain the columns that a file has, by the kind of table that its record and its columns say it is."""
    from inductionlens.column_tables import TABLES, explain_in, kind_of
    from inductionlens.files import read_raw

    frame, record = read_raw(path, None)
    names = [str(name) for name in frame.columns]
    kind = kind_of(names, record.get("command"))
    if kind is None:
        raise InputError(f"{path} is no table that inductionlens wrote: its columns are of no kind of table.")
    rows, shown = [], False
    for name in names:
        base = name.rpartition("_")[0]
        if name.endswith(ENDS) and base in names and explain_in(kind, name) is not None and name not in TABLES[kind]:
            continue  # stands beside its column
        ends = [name + end for end in ENDS if name + end in names and explain_in(kind, name + end) is not None]
        shown = shown or bool(ends)
        rows.append((["\n".join([name, *ends])], explain_in(kind, name)))
    _print(f"{path.name}: a table of kind {kind}", ["column"], rows)
    _print_ends(kind, shown)


def _print_column(name: str) -> None:
    """Explain one column: one row for each meaning that it has, with the tables where it means that.

    Raises:
        InputError: no table has it.
    """
    from inductionlens.column_tables import TABLES, columns_of, explain_in

    meanings: dict[tuple[str, ...], tuple[Column, list[str]]] = {}
    for kind in TABLES:
        column = explain_in(kind, name)
        if column is not None:
            said = (column.meaning, column.range, column.unit, column.source)
            meanings.setdefault(said, (column, []))[1].append(kind)
    if not meanings:
        import difflib

        known = dict.fromkeys([*TABLES, *(each for kind in TABLES for each in columns_of(kind))])
        near = difflib.get_close_matches(name, known, n=3)
        way_out = f"the nearest are {', '.join(near)}" if near else "all are listed without a name"
        raise InputError(f"There is no table and no column {name!r}; {way_out}.")
    _print("", ["column", "table"], [([name, "\n".join(kinds)], column) for column, kinds in meanings.values()])


def _print(title: str, heads: list[str], rows: "list[tuple[list[str], Column | None]]") -> None:
    """Print rows of columns: the cells that say which, and what each means."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in (*heads, "meaning", "range", "unit", "source"):
        grid.add_column(head, overflow="fold", no_wrap=head in heads)
    for cells, column in rows:
        said: Any = ("(no column of this package)", "", "", "") if column is None else (
            column.meaning, column.range, column.unit, column.source
        )  # fmt: skip
        grid.add_row(*map(escape, (*cells, *said)))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if title:
        console.print(title, markup=False, soft_wrap=True)
    console.print(grid)


def _print_ends(kind: str, any_ends: bool) -> None:
    from inductionlens.column_tables import INTERVALS

    if any_ends:
        how = f": {INTERVALS[kind]}" if kind in INTERVALS else ""
        print(f"NAME_low and NAME_high are the ends of the 95% interval of NAME{how}.\n")
