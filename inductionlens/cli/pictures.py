"""plot: pictures of tables."""

from pathlib import Path
from typing import Annotated

import typer

from inductionlens.cli.options import Columns
from inductionlens.cli.speak import app, say


@app.command()
def plot(
    scores: Annotated[Path, typer.Argument(help="A table written by scan, or by others (--columns).")],
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")],
    score: Annotated[list[str] | None, typer.Option(help="Show this score; may be repeated. Six by default.")] = None,
    columns: Columns = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing.")] = False,
) -> None:
    """Draw a table of head scores as a mosaic: layers by heads, one grid per score."""
    from inductionlens.head_scores import read_scores
    from inductionlens.plots import check_picture, plot_mosaic
    from inductionlens.published_columns import parse_columns

    check_picture(out)
    plot_mosaic(read_scores(scores, columns=parse_columns(columns)).table, out, tuple(score) if score else None)
    if not quiet:
        say(f"mosaic written to {out}")
