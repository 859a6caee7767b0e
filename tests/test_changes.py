"""Several runs together: when their curves change, over seeds, and one figure of them all."""

import math

import numpy as np
import pandas as pd
import pytest
from test_cli import run

from inductionlens import InputError
from inductionlens.cli.changes import _in_brief
from inductionlens.plots.formation import ROWS, draw_analysis
from inductionlens.studies.analysis import analysis
from inductionlens.studies.changes_table import changes_table, read_models
from inductionlens.studies.formation_result import Formation

STEPS = np.arange(0, 1001, 25)
T = {2: 12.706205, 3: 4.302653}  # Student's t, 97.5%, of as many seeds


def refused(match):
    return pytest.raises(InputError, match=match)


def made(
    prefix=400, icl=None, *, steps=STEPS, size=0.8, copying=False, settings=None, followed="a", seed=0, named="L1H0"
):
    """A run whose prefix matching jumps in the interval after step ``prefix``, and its score after ``icl``."""
    steps = np.array(steps)
    wiggle = 0.004 * np.sin(7.0 * np.arange(len(steps)) + seed)
    jump = np.where(steps > prefix, size, 0.02) + wiggle
    fall = np.where(steps > (prefix if icl is None else icl), -2.0, -0.1) + wiggle
    table = pd.DataFrame({
        "step": steps, "loss": 5 - jump, "icl_score": fall, "prefix_matching": jump,
        "copying_gain": 3 * jump if copying else 0.0, "prefix_matching_head": "L1H0", "problem": "",
        "induction_heads": [""] * (len(steps) - 1) + [named],
    })  # fmt: skip
    heads = pd.DataFrame([
        {"step": step, "name": f"L{layer}H0", "layer": layer, "head": 0, "prefix_matching": value * layer,
         "qk_eigen_trace": math.nan, "effect_icl": 0.1 * value}
        for step, value in zip(steps, jump, strict=True) for layer in (0, 1)
    ])  # fmt: skip
    losses = pd.DataFrame([
        {"step": step, "index": index, "loss": 5 - value * math.log(index + 1)}
        for step, value in zip(steps, jump, strict=True) for index in range(20)
    ])  # fmt: skip
    rng = np.random.default_rng(seed)
    way = rng.normal(size=12)
    tokens = pd.DataFrame([
        {"step": step, "token": token, "loss": 5 - value * way[token]}
        for step, value in zip(steps, jump, strict=True) for token in range(12)
    ])  # fmt: skip
    before = heads[["step", "name"]].assign(before_and_after=-heads["prefix_matching"])
    note = {"run": settings, "measured": {"followed": followed}}
    return Formation(table, heads, losses, tokens, before, note)


def test_one_row_per_model_and_curve_with_students_intervals():
    table = changes_table({"two": [made(300), made(400), made(350, icl=450)], "one": [made(size=0.02)]})
    assert table[["model", "curve"]].to_numpy().tolist() == [
        [model, curve] for model in ("two", "one") for curve in ("prefix_matching", "icl_score", "copying_gain")
    ]
    first = table.iloc[0]
    assert (first["seeds"], first["changed"], first["formed"]) == (3, 3, 3)
    starts = np.array([300.0, 400.0, 350.0])
    half = T[3] * starts.std(ddof=1) / math.sqrt(3)
    assert [first[name] for name in ("start", "start_low", "start_high")] == pytest.approx(
        [350, 350 - half - 12.5, 350 + half + 12.5], rel=1e-6
    )
    assert (first["end"], first["middle"]) == (375, 362.5)
    assert first["end_high"] - first["end"] == pytest.approx(half + 12.5)
    assert first["middle"] - first["middle_low"] == pytest.approx(half + 12.5)
    assert first["size"] == pytest.approx(0.78, abs=0.02)
    assert first["sharpness"] == pytest.approx(40, rel=0.1)  # one of 40 even intervals
    assert np.isnan(first["after_prefix"])
    score = table.iloc[1]
    after = np.array([0, 0, 100.0])
    half = T[3] * after.std(ddof=1) / math.sqrt(3)
    assert [score[name] for name in ("after_prefix", "after_prefix_low", "after_prefix_high")] == pytest.approx(
        [100 / 3, 100 / 3 - half - 25, 100 / 3 + half + 25]
    )
    assert score["size"] == pytest.approx(-1.9, abs=0.02)
    assert score["overlap"] == pytest.approx(2 / 3)
    assert table.iloc[2]["changed"] == 0  # it never moves
    still = table[table["model"] == "one"].iloc[0]
    assert (still["seeds"], still["changed"]) == (1, 0)
    assert still[["start", "middle_low", "size", "after_prefix"]].isna().all()
    lone = table[table["model"] == "one"].iloc[1]
    assert (lone["changed"], lone["middle"]) == (1, 412.5)
    assert lone[["middle_low", "middle_high", "after_prefix"]].isna().all()


def test_seeds_that_do_not_change_are_counted_and_left_out():
    table = changes_table({"m": [made(300), made(size=0.02), made(500)]})
    first = table.iloc[0]
    assert (first["seeds"], first["changed"], first["start"]) == (3, 2, 400)
    assert set(table["formed"]) == {2}
    weak = changes_table({"m": [made(300), made(300, named="none"), made(300, size=0.3)]}).iloc[0]
    assert (weak["changed"], weak["formed"]) == (3, 2)
    assert first["start_high"] - 400 == pytest.approx(T[2] * 100 + 12.5)
    score = table.iloc[1]  # the second seed's score changes at 400 although nothing else does
    assert (score["changed"], score["after_prefix"]) == (3, 0)


def test_runs_that_are_too_short_to_tell_are_counted():
    def blunt(steps):
        cut = made(size=0.02, steps=steps, named="")
        cut.steps["copying_gain"] = np.random.default_rng(1).normal(size=len(steps))
        return cut

    table = changes_table({"m": [blunt(range(0, 700, 100)), blunt(range(4)), blunt(STEPS)]})
    gain = table[table["curve"] == "copying_gain"].iloc[0]
    assert (gain["seeds"], gain["changed"], gain["too_few"]) == (3, 0, 2)
    assert table["formed"].isna().all()  # nobody scanned them
    assert _in_brief(table)["runs"].tolist()[-1] == "0 of 3, 2 too short"
    assert _in_brief(table)["formed"].tolist() == ["-"] * 3


def test_log_spaced_runs_have_geometric_means():
    steps = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    table = changes_table({"m": [made(32, steps=steps), made(128, steps=steps)]})
    first = table.iloc[0]
    assert (first["start"], first["end"]) == (pytest.approx(64), pytest.approx(128))
    assert first["start_high"] / first["start"] == pytest.approx(first["start"] / first["start_low"])
    with refused("Runs of one model must be watched at steps of one spacing"):
        changes_table({"m": [made(32, steps=steps), made(400)]})
    with refused("m has no run"):
        changes_table({"m": []})


def test_analysis_puts_runs_of_the_same_tokens_into_one_plane():
    runs = {
        "a": made(300, seed=1),
        "b": made(400, seed=2),
        "c": made(followed="other"),
        "weak": made(seed=3, named="none"),
    }
    found = analysis(runs)
    assert [found[name]["plane"] for name in runs] == [0, 0, 1, 0]
    assert found["a"]["window"] == (300, 325)
    assert found["weak"]["window"] is None  # it changes, and a scan finds no induction head
    losses = np.concatenate([
        runs[name].followed.pivot_table(index="step", columns="token", values="loss").to_numpy()
        for name in ("a", "b", "weak")
    ])  # fmt: skip
    centred = losses - losses.mean(0)
    _, _, loadings = np.linalg.svd(centred, full_matrices=False)
    loadings = loadings[:2] * np.sign(loadings[range(2), np.abs(loadings[:2]).argmax(1)])[:, None]
    places = np.split(centred @ loadings.T, 3)
    for name, expected in zip(("a", "b", "weak"), places, strict=True):
        own = found[name]["trajectory"]
        assert own[["first", "second"]].to_numpy() == pytest.approx(expected, abs=1e-8)
        assert own["step"].tolist() == STEPS.tolist()
    alone = analysis({"c": runs["c"]})["c"]["trajectory"]
    pd.testing.assert_frame_equal(alone, found["c"]["trajectory"])
    still = made()
    still.followed["loss"] = 1.0
    assert (analysis({"s": still})["s"]["trajectory"][["first", "second"]] == 0).all(axis=None)


def test_the_slope_over_position_is_that_of_the_curve():
    """loss = 5 - b ln(index + 1) on bins of index: between the slopes at either end, and steeper where b is larger."""
    found = analysis({"a": made(300)})["a"]["derivative"]
    early, late = (found[found["step"] == step].set_index("index")["slope"] for step in (0, 1000))
    assert (late < 0).all()
    assert (late / early).to_numpy() == pytest.approx(np.full(len(late), late.iloc[0] / early.iloc[0]))
    last = late.index.max()
    assert -late[last] == pytest.approx(0.8 * last / (last + 1), rel=0.02)


def test_every_row_of_the_figure_is_drawn():
    runs = {"a": made(300, seed=1), "b": made(400, followed="other")}
    figure = draw_analysis(analysis(runs))
    axes = np.array([axis for axis in figure.axes if axis.get_label() != "<colorbar>"]).reshape(len(ROWS), 2)
    assert [axis.get_title() for axis in axes[0]] == ["a", "b"]
    assert axes[0, 0].get_ylabel() == ROWS[0]
    assert len(axes[0, 0].lines) == 3  # its own way, the change, its end: the other run has another plane
    assert axes[4, 0].lines[0].get_ydata().tolist() == runs["a"].steps["icl_score"].tolist()
    assert [text.get_text() for text in axes[5, 0].get_legend().get_texts()] == ["layer 0", "layer 1"]
    shaded = [patch.get_x() for patch in axes[1, 0].patches]
    assert shaded == [300]
    assert [text.get_text() for text in axes[6, 1].texts] == ["none"]
    both = draw_analysis(analysis({"a": made(300, seed=1), "b": made(400)}))
    assert len(both.axes[0].lines) == 4


def test_tables_are_grouped_by_what_they_were_trained_with(tmp_path):
    two, one = ({"layers": layers, "steps": 9} for layers in (2, 1))
    for name, settings in (
        ("two-seed0", {**two, "seed": 0}), ("two-seed1", {**two, "seed": 1}), ("one-seed0", {**one, "seed": 0}),
        ("pythia", None), ("0", {**one, "steps": 8, "seed": 0}), ("1", {**one, "steps": 8, "seed": 1}),
    ):  # fmt: skip
        made(settings=settings).save(tmp_path / f"{name}.csv")
    paths = [tmp_path / f"{name}.csv" for name in ("two-seed0", "pythia", "two-seed1", "one-seed0", "0", "1")]
    found = read_models(paths)
    assert {name: len(runs) for name, runs in found.items()} == {"two": 2, "pythia": 1, "one-seed0": 1, "0": 1 + 1}
    with refused("pythia.csv was given twice"):
        read_models([paths[1], paths[1]])
    (tmp_path / "b").mkdir()
    made(settings=None).save(tmp_path / "b" / "pythia.csv")
    with refused("Two models would be called pythia; rename their tables"):
        read_models([paths[1], tmp_path / "b" / "pythia.csv"])


def test_changes_from_the_command_line(tmp_path):
    settings = {"layers": 2}
    for seed, prefix in enumerate((300, 400)):
        made(prefix, settings={**settings, "seed": seed}).save(tmp_path / f"toy-seed{seed}.csv")
    made(size=0.02).save(tmp_path / "flat.csv")
    tables = [tmp_path / f"{name}.csv" for name in ("toy-seed0", "toy-seed1", "flat")]
    out, picture = tmp_path / "changes.csv", tmp_path / "analysis.png"
    code, printed, err = run("changes", *tables, "--out", out, "--picture", picture)
    assert (code, err) == (0, "")
    lines = [line.split() for line in printed.splitlines()]
    assert lines[3][:6] == ["toy", "prefix_matching", "2", "of", "2", "2"]
    assert lines[3][6:12] == ["350", "to", "375", "362", "[-285,", "1010]"]
    assert ["flat", "prefix_matching", "0", "of", "1", "0", "-", "-", "-", "-", "-"] in lines
    assert f"6 rows written to {out}" in printed
    assert picture.stat().st_size > 10_000
    table = pd.read_csv(out)
    expected = changes_table({"toy": [made(300), made(400)], "flat": [made(size=0.02)]})
    pd.testing.assert_frame_equal(table, expected)
    assert run("changes", *tables, "--quiet") == (0, "", "")
    for words, said in (
        ((tmp_path / "none.csv",), "none.csv cannot be read: No such file"),
        ((out,), "is not a table of steps of a run: it has no column step"),
        ((tables[0], "--out", "x.txt"), "The suffix of x.txt must be one of .csv"),
        ((tables[0], "--picture", "x.gif"), "x.gif"),
        ((), "Missing argument 'tables'"),
    ):
        code, printed, err = run("changes", *words)
        assert (code, printed) == (2, ""), words
        assert said in err
        assert len(err.strip().splitlines()) == 1


def test_every_column_is_explained(tmp_path):
    from inductionlens.circuit_columns import CIRCUIT_COLUMNS
    from inductionlens.effect_columns import EFFECT_COLUMNS
    from inductionlens.formation_columns import FORMATION_COLUMNS
    from inductionlens.studies.formation import formation
    from inductionlens.studies.training import train_toy
    from inductionlens.studies.watching import watch
    from inductionlens.tables import COLUMNS

    place = train_toy(tmp_path, d_model=16, d_head=8, heads=2, d_vocab=40, n_ctx=32, batch_size=4, steps=2, snapshots=2)
    found = formation(place, sequences=2, n_windows=3)
    names = {name for table in (found.steps, found.heads, found.losses, found.followed, found.before) for name in table}
    names |= set(watch(place).table()) | set(changes_table({"m": [found]}))
    known = COLUMNS | EFFECT_COLUMNS | CIRCUIT_COLUMNS | FORMATION_COLUMNS
    ends = {f"{name}_{end}" for name, column in known.items() if column.interval for end in ("low", "high")}
    assert names - set(known) - ends == set()
