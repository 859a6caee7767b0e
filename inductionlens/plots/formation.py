"""Training runs, drawn: nine rows of a model-analysis table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inductionlens.plots import check_picture, write_picture

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN, OTHER, THIRD, WINDOW = "#5e3c99", "#bbbbbb", "#e66101", "#fdb863"
#: Colours of layers 0 to 5; those above are grey.
LAYERS = (THIRD, OWN, "#1b9e77", "#333333", "#e7298a", "#66a61e")
#: What a run's tables are called in `draw_analysis`.
TABLES = ("steps", "heads", "losses", "derivative", "trajectory", "before")
ROWS = (
    "token losses, 2 components", "loss", "loss by position", "d loss / d ln position",
    "in-context-learning score", "prefix matching of heads", "QK trace of heads", "head zeroed: before-and-after",
    "head zeroed: score lost",
)  # fmt: skip


def draw_curve(table: "pandas.DataFrame", column: str, ax: "Axes", window: tuple[float, float] | None = None) -> "Axes":
    """Draw a column of a table of steps; the window of the change is shaded."""
    ax.plot(table["step"], table[column], color=OWN, lw=1.4)
    return _steps(ax, window)


def draw_heads(table: "pandas.DataFrame", column: str, ax: "Axes", window: tuple[float, float] | None = None) -> "Axes":
    """Draw a column of a table of heads, one line per head, a colour per layer; the window is shaded."""
    known = table.dropna(subset=[column]) if column in table.columns else table.iloc[:0]
    if known.empty:
        ax.text(0.5, 0.5, "none", transform=ax.transAxes, ha="center", va="center", fontsize=8, color="#777777")
        ax.set(xticks=[], yticks=[])
        return ax
    for name, part in known.groupby("name", sort=True):
        layer = int(name[1:].split("H")[0])
        colour = LAYERS[layer] if layer < len(LAYERS) else OTHER
        ax.plot(part["step"], part[column], color=colour, lw=1, alpha=0.8, label=f"layer {layer}")
    return _steps(ax, window)


def draw_plane(
    table: "pandas.DataFrame", x: str, y: str, value: str, ax: "Axes", *, signed: bool, top: float | None = None
) -> "Axes":
    """Draw values over steps (down) and another axis (across) as a grid; signed values have white at 0."""
    grid = table.pivot_table(index=y, columns=x, values=value, sort=True)
    limit = top or float(np.nanmax(np.abs(grid.to_numpy()))) or 1.0
    ends = (-limit, limit) if signed else (0.0, limit)
    image = ax.imshow(
        grid.to_numpy(), cmap="PuOr_r" if signed else "viridis", vmin=ends[0], vmax=ends[1], aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    for axis, names in ((ax.xaxis, list(grid.columns)), (ax.yaxis, list(grid.index))):
        places = np.unique(np.linspace(0, len(names) - 1, min(4, len(names))).round().astype(int))
        axis.set_ticks(places, [f"{names[place]:.0f}" for place in places])
    ax.tick_params(labelsize=7, length=0)
    ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02).ax.tick_params(labelsize=6)
    return ax


def draw_trajectories(
    own: "pandas.DataFrame", others: Sequence["pandas.DataFrame"], window: tuple[float, float] | None, ax: "Axes"
) -> "Axes":
    """Draw where a model's per-token losses move, beside the other models in grey; its change is marked."""
    for other in others:
        ax.plot(other["first"], other["second"], color=OTHER, lw=0.8)
    ax.plot(own["first"], own["second"], color=OWN, lw=1.4)
    if window is not None:
        inside = own[(own["step"] >= window[0]) & (own["step"] <= window[1])]
        ax.plot(inside["first"], inside["second"], color=THIRD, lw=3, alpha=0.8)
    ax.plot(own["first"].iloc[-1:], own["second"].iloc[-1:], "o", color=OWN, ms=4)
    ax.tick_params(labelsize=7)
    return ax


def _steps(ax: "Axes", window: tuple[float, float] | None) -> "Axes":
    if window is not None:
        ax.axvspan(*window, color=WINDOW, alpha=0.35, lw=0)
    ax.tick_params(labelsize=7)
    return ax


def draw_analysis(runs: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draw the model-analysis table of Olsson et al. 2022: nine rows, one column per run.

    Each run is a mapping of tables (see `TABLES`), ``window``, the steps in which its prefix matching changes, or
    None, and ``plane``, equal for runs that share their two components. The window is shaded in every row with steps.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.7 * len(runs) + 0.9, 15), layout="constrained")
    axes = figure.subplots(len(ROWS), len(runs), squeeze=False)
    top = max(float(run["losses"]["loss"].max()) for run in runs.values())
    slope = max(float(run["derivative"]["slope"].abs().quantile(0.98)) for run in runs.values())
    for column, (name, run) in enumerate(runs.items()):
        window = run["window"]
        others = [other["trajectory"] for key, other in runs.items() if key != name and other["plane"] == run["plane"]]
        draw_trajectories(run["trajectory"], others, window, axes[0, column])
        draw_curve(run["steps"], "loss", axes[1, column], window)
        draw_plane(run["losses"], "index", "step", "loss", axes[2, column], signed=False, top=top)
        draw_plane(run["derivative"], "index", "step", "slope", axes[3, column], signed=True, top=slope)
        draw_curve(run["steps"], "icl_score", axes[4, column], window)
        draw_heads(run["heads"], "prefix_matching", axes[5, column], window)
        draw_heads(run["heads"], "qk_eigen_trace", axes[6, column], window)
        draw_heads(run["before"], "before_and_after", axes[7, column], window)
        draw_heads(run["heads"], "effect_icl", axes[8, column], window)
        axes[0, column].set_title(name, fontsize=10)
        axes[8, column].set_xlabel("step", fontsize=8)
        lines = dict(zip(*reversed(axes[5, column].get_legend_handles_labels()), strict=True))
        axes[5, column].legend(lines.values(), lines.keys(), fontsize=6, frameon=False, loc="upper left")
    for row, title in enumerate(ROWS):
        axes[row, 0].set_ylabel(title + ("\n(step, down)" if row in (2, 3) else ""), fontsize=8)
        if row not in (0, 2, 3, 6):  # one scale a row
            low = min(axes[row, column].get_ylim()[0] for column in range(len(runs)))
            high = max(axes[row, column].get_ylim()[1] for column in range(len(runs)))
            for column in range(len(runs)):
                axes[row, column].set_ylim(low, high)
    return figure


def plot_analysis(path: str | Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `draw_analysis` as .png, .svg or .pdf, whole or not at all.

    Raises:
        InputError: an unknown suffix, or a place that cannot be written.
    """
    check_picture(Path(path))
    write_picture(draw_analysis(runs), Path(path))
