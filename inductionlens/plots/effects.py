"""What removing heads costs, drawn."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inductionlens.errors import InputError
from inductionlens.plots import check_picture, write_picture

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN, OTHER, THIRD = "#5e3c99", "#999999", "#e66101"
#: Random sets by ``holds_writer``: the legend's words, the marks' filling, and how far they stand aside.
RANDOM_SETS = (
    ("yes", "random others, with a writer", OTHER, 0.08),
    ("no", "random others, without a writer", "white", -0.08),
    ("", "random others", OTHER, 0.0),
)
LABELS = {
    "copies": "loss on later copies",
    "icl": "in-context-learning score",
    "text": "loss on text",
}


def draw_effects(table: "pandas.DataFrame", measure: str, ax: "Axes") -> "Axes":
    """Draw each head's effect as a layer by head grid, orange where its removal helps, purple where it costs."""
    layers, heads = int(table["layer"].max()) + 1, int(table["head"].max()) + 1
    grid = np.full((layers, heads), np.nan)
    grid[table["layer"], table["head"]] = table[f"effect_{measure}"].astype(float)
    top = float(np.nanmax(np.abs(grid))) or 1.0
    ax.set_facecolor("#e6e6e6")
    image = ax.imshow(grid, cmap="PuOr", vmin=-top, vmax=top, aspect="equal", interpolation="nearest")
    ax.set_xticks(range(0, heads, max(1, heads // 12)))
    ax.set_yticks(range(0, layers, max(1, layers // 12)))
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    ax.tick_params(length=0)
    ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03).set_label("nats, ablated minus clean", fontsize=8)
    ax.set_title(f"each head removed: {LABELS.get(measure, measure)}", fontsize=10)
    return ax


def draw_effect_against_prefix_matching(table: "pandas.DataFrame", measure: str, ax: "Axes") -> "Axes":
    """Draw each head's effect, with its 95% interval, against its prefix matching; induction heads are purple."""
    for kind, colour in ((True, OWN), (False, OTHER)):
        part = table[(table["kind"] == "induction") == kind]
        effect = part[f"effect_{measure}"]
        spread = np.abs([effect - part[f"effect_{measure}_low"], part[f"effect_{measure}_high"] - effect])
        ax.errorbar(
            part["prefix_matching"], effect, yerr=np.nan_to_num(spread), fmt="o", color=colour, ms=5, lw=1,
            label="induction heads" if kind else "other heads",
        )  # fmt: skip
    ax.axhline(0, color="#cccccc", lw=1, zorder=0)
    ax.set_xlabel("prefix matching")
    ax.set_ylabel("effect, nats")
    ax.set_title(f"{LABELS.get(measure, measure)} against prefix matching", fontsize=10)
    ax.legend(frameon=False, fontsize=8)
    return ax


def draw_group_curve(groups: "pandas.DataFrame", measure: str, ax: "Axes") -> "Axes":
    """Draw the effect of removing the strongest k induction heads, k previous-token heads, and random sets of k.

    Each random set is a grey mark, filled where it holds a writer: a head that the induction heads read.
    """
    column = f"effect_{measure}"
    for name, colour, said in (
        ("induction", OWN, "strongest induction heads"),
        ("previous_token", THIRD, "strongest previous-token heads"),
    ):
        part = groups[groups["set"] == name].sort_values("k")
        ax.plot(part["k"], part[column], "o-", color=colour, label=said)
    random = groups[groups["set"] == "random"]
    for answer, said, fill, aside in RANDOM_SETS:
        part = random[random["holds_writer"] == answer]
        if not len(part):
            continue
        ax.plot(part["k"] + aside, part[column], "o", color=OTHER, mfc=fill, ms=4, label=said, zorder=1.5)
    ax.set_xticks(sorted(groups["k"].unique()))
    ax.set_xlabel("heads removed together")
    ax.set_ylabel("effect, nats")
    ax.set_title(f"{LABELS.get(measure, measure)}, groups removed", fontsize=10)
    # Below the axes: marks stand high and low, and no corner is free.
    where = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
    ax.legend(frameon=False, fontsize=8, columnspacing=1.0, handlelength=1.5, **where)
    return ax


def draw_losses_by_position(losses: "pandas.DataFrame", ax: "Axes") -> "Axes":
    """Draw mean loss by position with every head and without the induction heads."""
    ax.plot(losses["index"], losses["clean"], color=OTHER, lw=1, label="all heads")
    ax.plot(losses["index"], losses["ablated"], color=OWN, lw=1, label="without the induction heads")
    ax.set_xlabel("token")
    ax.set_ylabel("loss, nats")
    ax.set_title("loss by position", fontsize=10)
    ax.legend(frameon=False, fontsize=8)
    return ax


def draw_study(
    table: "pandas.DataFrame",
    groups: "pandas.DataFrame | None" = None,
    losses: "pandas.DataFrame | None" = None,
    measure: str | None = None,
) -> "Figure":
    """Draw an ablation study: effects by head, against prefix matching, of groups, and loss by position.

    Raises:
        InputError: the table has no such measure.
    """
    from matplotlib.figure import Figure

    measures = [name.removeprefix("effect_") for name in table.columns if name.startswith("effect_")]
    measures = [name for name in measures if f"control_{name}" in table.columns]
    measure = measure or measures[0]
    if measure not in measures:
        raise InputError(f"There is no measure {measure!r} in the table; it has {', '.join(measures)}.")
    panels = [lambda ax: draw_effects(table, measure, ax)]
    panels.append(lambda ax: draw_effect_against_prefix_matching(table, measure, ax))
    if groups is not None and len(groups):
        panels.append(lambda ax: draw_group_curve(groups, measure, ax))
    if losses is not None and len(losses):
        panels.append(lambda ax: draw_losses_by_position(losses, ax))
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(10, 3.6 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for draw, ax in zip(panels, axes, strict=False):
        draw(ax)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    name = str(table["model"].iloc[0])
    figure.suptitle(name if len(name) <= 60 else f"...{name[-57:]}", fontsize=12, parse_math=False)
    return figure


def plot_study(
    path: str | Path,
    table: "pandas.DataFrame",
    groups: "pandas.DataFrame | None" = None,
    losses: "pandas.DataFrame | None" = None,
    measure: str | None = None,
) -> None:
    """Write `draw_study` as .png, .svg or .pdf, whole or not at all.

    Raises:
        InputError: an unknown suffix or measure, or a place that cannot be written.
    """
    check_picture(Path(path))
    write_picture(draw_study(table, groups, losses, measure), Path(path))
