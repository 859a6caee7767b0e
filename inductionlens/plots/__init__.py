"""Tables onto axes."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from inductionlens.cells import printable
from inductionlens.errors import InputError
from inductionlens.files import check_writable, write_atomically
from inductionlens.tables import COLUMNS, SCORES

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Scores without a natural largest value: their colours end at the largest value shown.
UNBOUNDED = frozenset({"induction_logit"})
#: Scores that can be negative; the others run from 0 to 1.
SIGNED = UNBOUNDED | {"copying", "copying_per_token", "copying_share", "copying_olsson_literal", "ov_eigen"}
#: What a mosaic shows unless told otherwise.
DEFAULT_SCORES = ("prefix_matching", "copying", "induction_logit", "previous_token", "duplicate_token", "first_token")
SUFFIXES = (".png", ".svg", ".pdf")
#: Layers or heads that a picture can show.
MOST_CELLS = 512
#: Cells up to which numbers are written into them.
_WRITTEN = 150


def draw_scores(table: "pandas.DataFrame", score: str, ax: "Axes") -> "Axes":
    """Draw one score as a layer by head grid: rows are layers, first on top; NaN is hatched.

    Attention runs from white to dark blue on 0..1; signed scores run from orange (negative) over white to purple,
    evenly about 0: colours that colour-blind readers tell apart.
    """
    import numpy as np

    layers, heads = int(table["layer"].max()) + 1, int(table["head"].max()) + 1
    grid = np.full((layers, heads), np.nan)
    grid[table["layer"].astype(int), table["head"].astype(int)] = table[score].astype(float)
    signed = score in SIGNED
    finite = np.abs(grid[np.isfinite(grid)])
    top = float(finite.max(initial=0.0)) or 1.0 if score in UNBOUNDED else 1.0
    ax.set_facecolor("#e6e6e6")
    ax.patch.set_hatch("////")
    ax.patch.set_edgecolor("#bbbbbb")
    image = ax.imshow(
        grid, cmap="PuOr" if signed else "Blues", vmin=-top if signed else 0.0, vmax=top, aspect="equal",
        interpolation="nearest",
    )  # fmt: skip
    for axis, count in ((ax.xaxis, heads), (ax.yaxis, layers)):
        step = max(1, math.ceil(count / 16))
        axis.set_ticks(range(0, count, step))
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    ax.set_title(score, fontsize=11)
    ax.tick_params(length=0, labelsize=8)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_xticks(np.arange(-0.5, heads), minor=True)
    ax.set_yticks(np.arange(-0.5, layers), minor=True)
    ax.grid(which="minor", color="white", linewidth=1.2 if layers * heads <= _WRITTEN else 0.4)
    ax.tick_params(which="minor", length=0)
    if layers * heads <= _WRITTEN:
        for (layer, head), value in np.ndenumerate(grid):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
                ax.text(
                    head, layer, _short(value), ha="center", va="center", color="white" if dark else "#333333",
                    fontsize=min(7, 16 * cell_size(layers, heads)),
                )  # fmt: skip
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(COLUMNS[score].unit, fontsize=8)
    bar.outline.set_visible(False)
    return ax


def cell_size(layers: int, heads: int) -> float:
    """Side of a cell in inches, so that a grid stays within about 7 inches."""
    return min(0.55, 7.0 / max(layers, heads))


def _short(value: float) -> str:
    """Two decimals without a leading zero, so that it fits a cell."""
    text = f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}"
    return text.replace("-0.00", "0.00").replace("0.", ".") if abs(value) < 0.995 else text


def draw_mosaic(table: "pandas.DataFrame", scores: tuple[str, ...] | None = None) -> "Figure":
    """Draw several scores of one model side by side, one grid each.

    Raises:
        InputError: an unknown score, or one that the table has not.
    """
    from matplotlib.figure import Figure

    if scores is None:
        there = [name for name in SCORES if name in table.columns]
        scores = tuple(name for name in DEFAULT_SCORES if name in there) or tuple(there[:6])
    for name in scores:
        if name not in SCORES or name not in table.columns:
            known = ", ".join(name for name in SCORES if name in table.columns)
            raise InputError(f"There is no score {name!r} in the table; it has {known}.")
    if table.duplicated(["layer", "head"]).any():
        raise InputError("A mosaic shows one model; the table names a head more than once.")
    if (table[list(scores)].astype(float).abs() > 1e30).any(axis=None):
        raise InputError("The table holds numbers beyond 10^30, which no picture can show.")
    layers, heads = int(table["layer"].max()) + 1, int(table["head"].max()) + 1
    if max(layers, heads) > MOST_CELLS:
        raise InputError(f"A mosaic has at most {MOST_CELLS} layers or heads; the table has {layers} and {heads}.")
    cell = cell_size(layers, heads)
    columns = min(3, len(scores))
    rows = math.ceil(len(scores) / columns)
    width, height = max(2.3, heads * cell) + 1.35, max(0.9, layers * cell) + 1.0
    figure = Figure(figsize=(columns * width, rows * height + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, score in zip(axes, scores, strict=False):
        draw_scores(table, score, ax)
    for ax in axes[len(scores) :]:
        ax.set_visible(False)
    if "model" in table.columns:
        name = str(table["model"].iloc[0])
        figure.suptitle(name if len(name) <= 60 else f"...{name[-57:]}", fontsize=12, parse_math=False)
    if table[list(scores)].isna().any(axis=None) or len(table) < layers * heads:
        figure.supxlabel("hatched: undefined or absent", fontsize=8, x=0.99, ha="right")
    return figure


def plot_mosaic(table: "pandas.DataFrame", path: str | Path, scores: tuple[str, ...] | None = None) -> None:
    """Write `draw_mosaic` as .png, .svg or .pdf, whole or not at all; equal tables give equal files.

    Raises:
        InputError: an unknown suffix or score, or a place that cannot be written.
    """
    check_picture(Path(path))
    write_picture(draw_mosaic(table, scores), Path(path))


def write_picture(figure: "Figure", path: Path) -> None:
    """Write a figure, whole or not at all; equal figures give equal files."""
    from io import BytesIO

    import matplotlib
    from matplotlib.text import Text

    buffer = BytesIO()
    kind = path.suffix.lower().removeprefix(".")
    # A date or a random id in the file would make equal pictures differ.
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    width, height = figure.get_size_inches()
    if max(width, height) * 200 > 2**16:
        raise InputError(f"The picture would be {width:.0f} x {height:.0f} inches; draw fewer scores or heads.")
    for text in figure.findobj(Text):  # a control character in a name would make an SVG ill-formed
        text.set_text("\n".join(map(printable, text.get_text().split("\n"))))
    with matplotlib.rc_context({"svg.hashsalt": "inductionlens"}):
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    write_atomically(path, buffer.getvalue())


def check_picture(path: Path) -> None:
    """Refuse a picture's path by its suffix or place before anything is drawn.

    Raises:
        InputError: it cannot be used.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"The suffix of {path} must be one of {', '.join(SUFFIXES)}; got {path.suffix or 'none'!r}.")
    check_writable(path)
