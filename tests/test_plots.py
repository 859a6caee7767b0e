"""Mosaics: the right number in the right cell, at every size."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from inductionlens import InputError, plots
from inductionlens.plots import SIGNED, UNBOUNDED, plot_mosaic
from inductionlens.tables import COLUMNS, SCORES


def table_of(layers, heads, seed=0):
    rng = np.random.default_rng(seed)
    layer, head = np.divmod(np.arange(layers * heads), heads)
    return pd.DataFrame(
        {
            "model": "made-up",
            "name": [f"L{a}H{b}" for a, b in zip(layer, head, strict=True)],
            "layer": layer,
            "head": head,
            "prefix_matching": rng.uniform(0, 1, layers * heads),
            "copying": rng.uniform(-1, 1, layers * heads),
            "induction_logit": rng.normal(0, 2, layers * heads),
            "previous_token": rng.uniform(0, 1, layers * heads),
        }
    )


def test_each_cell_shows_its_own_head():
    table = table_of(2, 4).sample(frac=1, random_state=1)
    ax = plots.draw_scores(table, "prefix_matching", Figure().subplots())
    drawn = ax.images[0].get_array()
    assert drawn.shape == (2, 4)
    for row in table.to_dict("records"):
        assert drawn[row["layer"], row["head"]] == row["prefix_matching"]
        # Rows go down, so that layer 0 is on top; columns go right.
        assert any(
            text.get_position() == (row["head"], row["layer"])
            and text.get_text() == f"{row['prefix_matching']:.2f}".replace("0.", ".")
            for text in ax.texts
        )
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("head", "layer", "prefix_matching")


def test_signed_scores_are_even_about_zero_and_attention_is_not():
    table = table_of(3, 3)
    axes = Figure().subplots(1, 3)
    limits = [plots.draw_scores(table, name, ax).images[0].get_clim() for name, ax in zip(
        ("prefix_matching", "copying", "induction_logit"), axes, strict=True)]  # fmt: skip
    top = table["induction_logit"].abs().max()
    assert limits == [(0, 1), (-1, 1), (-top, top)]


def test_undefined_cells_are_hatched_and_said_to_be():
    table = table_of(2, 3)
    table.loc[0, "copying"] = np.nan
    figure = plots.draw_mosaic(table, ("copying",))
    assert np.isnan(figure.axes[0].images[0].get_array().filled(np.nan)[0, 0])
    assert figure.axes[0].patch.get_hatch()
    assert figure.get_supxlabel() == "hatched: undefined or absent"
    assert plots.draw_mosaic(table, ("prefix_matching",)).get_supxlabel() == ""


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 4), (12, 12), (32, 32), (24, 16)])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_every_size_is_drawn_without_overlap(layers, heads, suffix, tmp_path):
    path = tmp_path / f"mosaic{suffix}"
    plots.plot_mosaic(table_of(layers, heads), path)
    assert path.stat().st_size > 3000
    figure = plots.draw_mosaic(table_of(layers, heads))
    figure.canvas.draw()
    grids = [ax for ax in figure.axes if ax.images and ax.get_visible()]
    assert len(grids) == 4
    boxes = [ax.get_window_extent() for ax in grids]
    for index, box in enumerate(boxes):
        assert min(box.width / heads, box.height / layers) > 4  # pixels a cell, at 100 to the inch
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_numbers_fit_their_cells():
    figure = plots.draw_mosaic(table_of(12, 12))
    figure.canvas.draw()
    ax = figure.axes[0]
    cell = ax.get_window_extent().width / 12
    assert max(text.get_window_extent().width for text in ax.texts) < 0.95 * cell


def test_equal_tables_give_equal_pictures(tmp_path):
    for suffix in (".png", ".svg", ".pdf"):
        for name in ("a", "b"):
            plots.plot_mosaic(table_of(2, 3), tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_colours_are_told_apart_without_red_and_green():
    """Of the drawn colours: lightness alone orders attention, and the signs differ on the orange-purple axis."""
    axes = Figure().subplots(1, 2)
    table = table_of(3, 3)
    blues = plots.draw_scores(table, "prefix_matching", axes[0]).images[0].cmap(np.linspace(0, 1, 9))
    assert (np.diff(blues[:, :3] @ [0.2126, 0.7152, 0.0722]) < 0).all()
    signed = plots.draw_scores(table, "copying", axes[1]).images[0].cmap(np.linspace(0, 1, 9))
    assert signed[1, 2] < 0.5 * signed[1, 0]  # negative: orange, little blue
    assert signed[-2, 2] > signed[-2, 0] > signed[-2, 1]  # positive: purple, more blue than red than green


def test_awkward_tables_are_drawn(tmp_path):
    table = table_of(2, 3)
    plots.plot_mosaic(table.assign(model="cost $1 or $2_x"), tmp_path / "a.png")
    figure = plots.draw_mosaic(table.assign(model="x" * 300))
    assert len(figure.get_suptitle()) == 60
    assert plots.draw_mosaic(table.iloc[[0, 5]]).get_supxlabel() == "hatched: undefined or absent"
    only = table[["layer", "head"]].assign(copying_share=0.5)
    assert [ax.get_title() for ax in plots.draw_mosaic(only).axes if ax.images] == ["copying_share"]


def test_unknown_scores_and_mixed_tables_are_refused(tmp_path):
    table = table_of(2, 2)
    with pytest.raises(InputError, match="There is no score 'ov_eigen' in the table; it has prefix_matching, previous"):
        plots.draw_mosaic(table, ("ov_eigen",))
    with pytest.raises(InputError, match="A mosaic shows one model"):
        plots.draw_mosaic(pd.concat([table, table]))
    with pytest.raises(InputError, match=r"must be one of .png, .svg, .pdf; got '.jpg'"):
        plot_mosaic(table, tmp_path / "a.jpg")


@pytest.mark.parametrize("score", SCORES)
def test_colours_are_signed_and_bounded_as_the_scores_range_says(score):
    said = COLUMNS[score].range
    assert (score in SIGNED) == (not said.startswith("0..1"))
    assert (score in UNBOUNDED) == said.startswith("unbounded")
    table = table_of(2, 2).assign(**{score: [-3.0, 0.2, 0.1, 0.0]})
    shown = plots.draw_scores(table, score, Figure().subplots()).images[0]
    top = 3.0 if score in UNBOUNDED else 1.0
    assert shown.norm.vmax == top
    assert shown.norm.vmin == (-top if score in SIGNED else 0.0)


def test_the_words_of_a_range_decide_no_colour(monkeypatch):
    monkeypatch.setitem(COLUMNS, "copying", COLUMNS["copying"]._replace(range="between minus one and one"))
    shown = plots.draw_scores(table_of(2, 2), "copying", Figure().subplots()).images[0]
    assert (shown.norm.vmin, shown.norm.vmax) == (-1.0, 1.0)
