"""plot: pictures of tables."""

from pathlib import Path
from typing import Annotated

import typer

from inductionlens.cli.speak import app


@app.command()
def plot(
    scores: Annotated[Path, typer.Argument(help="A table written by scan.")],
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")],
    score: Annotated[list[str] | None, typer.Option(help="Show this score; may be repeated. Six by default.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing.")] = False,
) -> None:
    """Draw a table of head scores as a mosaic: layers by heads, one grid per score."""
    from inductionlens.head_scores import read_scores
    from inductionlens.plots import check_picture, plot_mosaic

    check_picture(out)
    plot_mosaic(read_scores(scores).table, out, tuple(score) if score else None)
    if not quiet:
        print(f"mosaic written to {out}")
