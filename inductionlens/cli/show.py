"""Plain tables: written, and printed."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inductionlens.cli.speak import console_out, number, say

if TYPE_CHECKING:
    import pandas


def write(
    table: "pandas.DataFrame",
    out: Path | None,
    command: str,
    model: Any = None,
    options: dict[str, Any] | None = None,
    inputs: Iterable[Path] = (),
) -> None:
    """Write a table where one was asked for, and its record (see `study_record`); the suffix decides the format."""
    if out is None:
        return
    from inductionlens.files import write_table
    from inductionlens.studies.provenance import study_record

    write_table(out, table, study_record(command, model, options, inputs=inputs))


def wrote(table: "pandas.DataFrame", out: Path | None) -> None:
    """Say how many rows were written where."""
    if out is not None:
        say(f"{len(table)} rows written to {out}")


def show(table: "pandas.DataFrame", titles: dict[str, str]) -> None:
    """Print some columns of a table, numbers with three decimals."""
    from rich import box
    from rich.markup import escape
    from rich.measure import Measurement
    from rich.table import Table

    from inductionlens.cells import printable

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, title in titles.items():
        text = table[column].dtype.kind not in "fi"
        grid.add_column(title, justify="left" if text else "right", no_wrap=text)
    for row in table.to_dict("records"):
        grid.add_row(
            *(
                number(row[name]) if isinstance(row[name], float) else escape(printable(str(row[name])))
                for name in titles
            )
        )
    console = console_out()
    if not console.is_terminal:  # a file or a pipe has no edge to fit into
        console.width = max(console.width, Measurement.get(console, console.options.update(width=1000), grid).maximum)
    console.print(grid)
