"""changes: when the curves of several runs break."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inductionlens.cli.options import Columns, Out, Quiet, check_table
from inductionlens.cli.show import show, write, wrote
from inductionlens.cli.speak import app, say
from inductionlens.errors import InputError

if TYPE_CHECKING:
    import pandas

TITLES = {
    "model": "model", "curve": "curve", "runs": "changed", "formed": "formed", "window": "steps", "middle": "middle",
    "size": "size", "sharpness": "sharp", "after": "after prefix",
}  # fmt: skip


@app.command()
def changes(
    tables: Annotated[list[Path], typer.Argument(help="Tables of steps written by formation, or curves of yours (--columns step=...,prefix_matching=...).")],
    out: Out = None,
    columns: Columns = None,
    picture: Annotated[Path | None, typer.Option(help="Draw nine measurements over training here, a column per model: .png, .svg or .pdf.")] = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Say when prefix matching, in-context learning and copying change, over the seeds of each model."""
    from inductionlens.files import sidecar_of
    from inductionlens.plots import check_picture
    from inductionlens.published_columns import parse_columns
    from inductionlens.studies.changes_table import changes_table, read_models

    check_table(out)
    if picture is not None:
        if columns:
            raise InputError("--picture draws what formation has written; leave it out with --columns.")
        check_picture(picture)
    models = read_models(tables, parse_columns(columns))
    table = changes_table(models)
    if picture is not None:
        from inductionlens.plots.formation import plot_analysis
        from inductionlens.studies.analysis import analysis

        plot_analysis(picture, analysis({name: runs[0] for name, runs in models.items()}))
    write(
        table,
        out,
        "changes",
        inputs=[path for steps in tables for path in (steps, sidecar_of(steps)) if path.is_file()],
    )
    if quiet:
        return
    show(_in_brief(table), TITLES)
    say(
        "Formed: seeds whose prefix matching breaks and in which a scan of the last snapshot finds an induction head. Means over the seeds that change, 95% intervals "
        "over seeds, widened by the distance between snapshots. Sharp: times as fast as an even spread over the run. "
        "Too short: fewer than 10 snapshots, too few to tell. After prefix: steps from the middle of prefix matching's change."
    )
    wrote(table, out)
    if picture is not None:
        say(f"picture written to {picture}")


def _in_brief(table: "pandas.DataFrame") -> "pandas.DataFrame":
    rows = table.to_dict("records")
    return table[["model", "curve", "size", "sharpness"]].assign(
        formed=["-" if row["formed"] != row["formed"] else f"{row['formed']:.0f}" for row in rows],
        runs=[_runs(row) for row in rows],
        window=[f"{row['start']:.0f} to {row['end']:.0f}" if row["changed"] else "-" for row in rows],
        middle=[_with_ends(row, "middle") for row in rows],
        after=[_with_ends(row, "after_prefix") for row in rows],
    )


def _runs(row: dict[str, Any]) -> str:
    """How many runs change, of how many, and of how many it cannot be told."""
    return f"{row['changed']} of {row['seeds']}" + (f", {row['too_few']} too short" if row["too_few"] else "")


def _with_ends(row: dict[str, Any], name: str) -> str:
    value, low, high = (row[name + end] for end in ("", "_low", "_high"))
    if value != value:
        return "-"
    return f"{value:.0f}" + ("" if low != low else f" [{low:.0f}, {high:.0f}]")
