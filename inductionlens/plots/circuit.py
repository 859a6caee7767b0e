"""Circuits, drawn."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inductionlens.heads import Head
from inductionlens.plots import check_picture, write_picture

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that colour-blind readers tell apart.
VIA_COLOURS = {"k": "#5e3c99", "q": "#e66101", "v": "#1b9e77"}
VIA_NAMES = {"k": "keys", "q": "queries", "v": "values"}
KIND_COLOURS = {"induction": "#5e3c99", "anti_induction": "#b2182b", "previous_token": "#e66101"}
OTHER = "#999999"
#: Paths that carry less of a reader are not drawn.
LEAST = 0.1
#: Readers drawn in one graph, and eigenvalues of how many in one plane.
MOST_READERS, MOST_PLANES = 8, 4


def draw_graph(pairs: "pandas.DataFrame", ax: "Axes") -> "Axes":
    """Draw heads as layer by head, and the measured paths that carry at least a tenth of their reader: a line's colour
    says through what it is read, its width which share of the reader goes with it."""
    shown = pairs[pairs["causal"] >= LEAST]
    readers = list(dict.fromkeys(pairs.loc[pairs["causal"].notna(), "reader"]))
    readers = sorted(readers, key=lambda name: -pairs.loc[pairs["reader"] == name, "prefix_matching"].max())
    shown = shown[shown["reader"].isin(readers[:MOST_READERS])]
    every = sorted({Head.parse(name) for name in {*pairs["writer"], *pairs["reader"]}})
    named = {Head.parse(name) for name in {*shown["writer"], *shown["reader"]}}
    ax.scatter(*_places([head for head in every if head not in named]), s=14, color="#d0d0d0", zorder=1)
    bend = {"k": 0.0, "q": 0.12, "v": -0.12}
    for row in shown.sort_values("causal").to_dict("records"):
        (x0, x1), (y0, y1) = _places([Head.parse(row["writer"]), Head.parse(row["reader"])])
        ax.annotate(
            "", (x1, y1), (x0, y0), zorder=2,
            arrowprops={
                "arrowstyle": "-|>", "color": VIA_COLOURS[row["via"]], "lw": 0.6 + 4 * min(row["causal"], 1.0),
                "alpha": 0.75, "shrinkA": 9, "shrinkB": 9, "connectionstyle": f"arc3,rad={bend[row['via']]}",
            },
        )  # fmt: skip
    for head in sorted(named):
        (x,), (y,) = _places([head])
        ax.scatter([x], [y], s=330, color="white", edgecolor="#333333", zorder=3)
        ax.text(x, y, str(head), ha="center", va="center", fontsize=8, zorder=4)
    from matplotlib.lines import Line2D

    drawn = [via for via in VIA_COLOURS if via in set(shown["via"])]
    lines = [Line2D([], [], color=VIA_COLOURS[via], lw=3, label=f"via {VIA_NAMES[via]}") for via in drawn]
    if lines:
        ax.legend(handles=lines, frameon=False, fontsize=8, loc="lower left", ncols=3)
    ax.set_xticks(range(max(head.index for head in every) + 1)[:: max(1, len(every) // 60)])
    ax.set_yticks(range(max(head.layer for head in every) + 1))
    ax.margins(0.12)
    ax.set_ylim(-0.35 * (1 + every[-1].layer) / 2, every[-1].layer * 1.12 + 0.1)  # room for the legend
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    ax.set_title("who reads whom (width: share lost without)", fontsize=10)
    return ax


def _places(heads: list[Head]) -> tuple[list[int], list[int]]:
    return [head.index for head in heads], [head.layer for head in heads]


def draw_composition(pairs: "pandas.DataFrame", via: str, ax: "Axes") -> "Axes":
    """Draw one kind of composition of all pairs as a writer by reader grid, above random matrices; hatched: no pair."""
    part = pairs[pairs["via"] == via]
    writers = sorted(set(part["writer"]), key=Head.parse)
    readers = sorted(set(part["reader"]), key=Head.parse)
    known = part.set_index(["writer", "reader"])["composition"].to_dict()
    grid = np.array([[known.get((writer, reader), np.nan) for reader in readers] for writer in writers], dtype=float)
    top = float(np.nanmax(np.abs(grid))) if np.isfinite(grid).any() else 1.0
    ax.set_facecolor("#e6e6e6")
    ax.patch.set_hatch("////")
    ax.patch.set_edgecolor("#bbbbbb")
    image = ax.imshow(grid, cmap="PuOr", vmin=-top, vmax=top, aspect="auto", interpolation="nearest")
    for axis, names in ((ax.xaxis, readers), (ax.yaxis, writers)):
        step = max(1, len(names) // 12)
        axis.set_ticks(range(0, len(names), step), [str(Head.parse(name)) for name in names[::step]], fontsize=7)
    ax.tick_params(length=0)
    ax.set_xlabel("reader")
    ax.set_ylabel("writer")
    ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03).set_label("above random matrices", fontsize=8)
    ax.set_title(f"{via.upper()}-composition", fontsize=10)
    return ax


def draw_eigenvalues(eigenvalues: Mapping[str, np.ndarray], ax: "Axes") -> "Axes":
    """Draw OV eigenvalues in the complex plane, each head's over its largest: right of 0 is copying."""
    for (name, values), marker in zip(list(eigenvalues.items())[:MOST_PLANES], "ovs^", strict=False):
        top = np.abs(values).max()
        if np.isfinite(top) and top > 0:
            ax.scatter(values.real / top, values.imag / top, s=16, marker=marker, alpha=0.7, label=name)
    ax.axvline(0, color="#cccccc", lw=1, zorder=0)
    ax.axhline(0, color="#cccccc", lw=1, zorder=0)
    ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal", xlabel="real", ylabel="imaginary")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8, loc="lower left")
    ax.set_title("OV eigenvalues over the largest", fontsize=10)
    return ax


def draw_positivity(heads: "pandas.DataFrame", ax: "Axes") -> "Axes":
    """Draw each head's OV copying against its QK matching through previous-token heads: induction heads belong into
    the upper right corner. Elhage et al. 2021."""
    heads = heads[heads["ov_eigen"].notna() & heads["qk_eigen"].notna()]
    for kind in dict.fromkeys([*(name for name in KIND_COLOURS if name in set(heads["kind"])), "other"]):
        part = heads[heads["kind"] == kind] if kind in KIND_COLOURS else heads[~heads["kind"].isin(KIND_COLOURS)]
        if part.empty:
            continue
        ax.scatter(part["ov_eigen"], part["qk_eigen"], s=22, color=KIND_COLOURS.get(kind, OTHER), alpha=0.8, label=kind)
    ax.axvline(0, color="#cccccc", lw=1, zorder=0)
    ax.axhline(0, color="#cccccc", lw=1, zorder=0)
    ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal", xlabel="OV copies", ylabel="QK matches")
    if len(heads):
        ax.legend(frameon=False, fontsize=8, loc="lower left")
    ax.set_title("eigenvalue positivity of heads above layer 0", fontsize=10)
    return ax


def draw_circuit(
    pairs: "pandas.DataFrame", heads: "pandas.DataFrame", eigenvalues: Mapping[str, np.ndarray]
) -> "Figure":
    """Draw the graph of measured paths, three composition grids, eigenvalues, and the positivity of both circuits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8.4), layout="constrained")
    axes = figure.subplots(2, 3)
    draw_graph(pairs, axes[0, 0])
    for ax, via in zip((axes[0, 1], axes[0, 2], axes[1, 0]), "kqv", strict=True):
        draw_composition(pairs, via, ax)
    draw_eigenvalues(eigenvalues, axes[1, 1])
    draw_positivity(heads, axes[1, 2])
    name = str(pairs["model"].iloc[0])
    figure.suptitle(name if len(name) <= 60 else f"...{name[-57:]}", fontsize=12, parse_math=False)
    return figure


def plot_circuit(
    path: str | Path,
    pairs: "pandas.DataFrame",
    heads: "pandas.DataFrame",
    eigenvalues: Mapping[str, np.ndarray],
) -> None:
    """Write `draw_circuit` as .png, .svg or .pdf, whole or not at all.

    Raises:
        InputError: an unknown suffix, or a place that cannot be written.
    """
    check_picture(Path(path))
    write_picture(draw_circuit(pairs, heads, eigenvalues), Path(path))
