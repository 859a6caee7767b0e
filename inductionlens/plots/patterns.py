"""Attention patterns over training: side by side, or moving."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inductionlens.errors import InputError
from inductionlens.files import check_writable, write_atomically
from inductionlens.plots import SUFFIXES, write_picture

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARK = "#e66101"
#: Milliseconds that a picture of an animation stays; the last one stays five times as long.
PACE = 350


def draw_pattern(table: "pandas.DataFrame", ax: "Axes") -> "Axes":
    """Draw one snapshot of a table of attention (see `Watched.table`) as a query by key grid, white to blue on 0..1.

    Squares mark where an induction head looks. Letters name tokens; equal letters are equal tokens.
    """
    size = int(table["query"].max()) + 1
    grid = np.full((size, size), np.nan)
    grid[table["query"], table["key"]] = table["attention"]
    ax.imshow(grid, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    marks = table[table["target"].astype(bool)]
    ax.scatter(
        marks["key"], marks["query"], s=(140 / size) ** 2, marker="s", facecolors="none", edgecolors=MARK, lw=0.7
    )
    letters = table.drop_duplicates("query").sort_values("query")["query_token"]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(range(size), letters, fontsize=max(3.5, min(7, 130 / size)))
    ax.tick_params(length=0, pad=1)
    ax.set_title(f"step {table['step'].iloc[0]}: {table['prefix_matching'].iloc[0]:.2f}", fontsize=9)
    return ax


def draw_forming(table: "pandas.DataFrame", name: str) -> "Figure":
    """Draw the attention of a head called ``name`` at every snapshot of a table (see `Watched.table`), four in a row.

    Raises:
        InputError: more than 40 snapshots.
    """
    from matplotlib.figure import Figure

    steps = table["step"].drop_duplicates().tolist()
    if len(steps) > 40:
        raise InputError(f"At most 40 snapshots fit into one picture, got {len(steps)}; choose fewer, or draw a .gif.")
    columns = min(4, len(steps))
    rows = -(-len(steps) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.6 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, step in zip(axes, steps, strict=False):
        draw_pattern(table[table["step"] == step], ax)
    for ax in axes[len(steps) :]:
        ax.set_visible(False)
    axes[0].set_ylabel("query", fontsize=8)
    axes[0].set_xlabel("key", fontsize=8)
    figure.suptitle(f"Head {name}: attention on a repeated block, and how much of it is where squares are", fontsize=10)
    return figure


def plot_forming(table: "pandas.DataFrame", name: str, path: str | Path) -> None:
    """Write `draw_forming` as .png, .svg or .pdf, or one picture per snapshot as a moving .gif; whole or not at all.

    Raises:
        InputError: an unknown suffix, a place that cannot be written, or too many snapshots for one picture.
    """
    path = Path(path)
    check_forming(path)
    if path.suffix.lower() == ".gif":
        write_atomically(path, _moving(table, name))
    else:
        write_picture(draw_forming(table, name), path)


def check_forming(path: Path) -> None:
    """Refuse a path by its suffix or place before anything is drawn.

    Raises:
        InputError: it cannot be used.
    """
    suffixes = (*SUFFIXES, ".gif")
    if path.suffix.lower() not in suffixes:
        raise InputError(f"The suffix of {path} must be one of {', '.join(suffixes)}; got {path.suffix or 'none'!r}.")
    check_writable(path)


def _moving(table: "pandas.DataFrame", name: str) -> bytes:
    """The pictures of all snapshots as an animated GIF, for ever."""
    from io import BytesIO

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    pictures = []
    for _, part in table.groupby("step", sort=True):
        figure = Figure(figsize=(3.6, 4.0), layout="constrained")
        draw_pattern(part, figure.subplots())
        figure.suptitle(f"Head {name}", fontsize=10)
        canvas = FigureCanvasAgg(figure)
        figure.set_dpi(110)
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64))
    times = [PACE] * (len(pictures) - 1) + [5 * PACE]
    buffer = BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return buffer.getvalue()
