"""One head's attention over training: what is read, and what is drawn."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_cli import run
from test_formation import SHAPE

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.models.checkpoints import Checkpoint, local_checkpoints
from inductionlens.plots.patterns import draw_forming
from inductionlens.studies.training import train_toy
from inductionlens.studies.watching import watch


def refused(match):
    return pytest.raises(InputError, match=match)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return train_toy(tmp_path_factory.mktemp("runs") / "run", **SHAPE)


def test_the_planted_head_is_found_and_looks_where_it_should():
    """A run that ends as the planted model: its head alone looks after the copies, and nowhere else."""
    idle = il.planted("idle")
    series = [
        Checkpoint(step, None, f"s{step}", load)
        for step, load in ((3, lambda: idle), (9, lambda: il.planted("induction")))
    ]
    found = watch(series)
    assert found.head == Head(1, 2)
    assert found.steps == (3, 9)
    assert found.prefix_matching[1] == pytest.approx(1, abs=1e-4)
    assert found.prefix_matching[0] < 0.1
    assert "".join(found.labels) == "." + "ABCDEFGH" * 3
    for query in range(25):
        for key in range(25):
            copy = query > key - 1 >= 1 and found.labels[query] == found.labels[key - 1]
            assert found.target[query, key] == (copy and key <= query), (query, key)
    looked = (found.patterns[1] * found.target).sum(-1)[9:]
    assert looked == pytest.approx(np.ones(16), abs=1e-4)
    assert watch(series, "0.1").head == Head(0, 1)


def test_patterns_are_the_models_own(run_folder):
    found = watch(run_folder, "1.0", seed=4, period=5)
    assert found.steps == (0, 1, 2, 4, 8)
    kept = {}
    model = il.load_model(run_folder / "step-0000004")
    tokens = tokens_of(found, run_folder, seed=4, period=5)
    with torch.no_grad():
        model.run_with_hooks(
            tokens,
            fwd_hooks=[("blocks.1.attn.hook_pattern", lambda pattern, hook: kept.update(found=pattern[0, 0].clone()))],
        )
    assert found.patterns[3] == pytest.approx(kept["found"].numpy(), abs=1e-6)
    slow = []
    for query in range(16):
        keys = [key for key in range(16) if found.target[query, key]]
        if keys:
            slow.append(sum(float(kept["found"][query, key]) for key in keys))
    assert found.prefix_matching[3] == pytest.approx(sum(slow) / len(slow))
    assert watch(run_folder, "1.0", seed=5, period=5).patterns[3] != pytest.approx(found.patterns[3])
    table = found.table()
    assert len(table) == 5 * 16 * 17 / 2
    row = table[(table["step"] == 4) & (table["query"] == 9) & (table["key"] == 5)].iloc[0]
    assert row["attention"] == found.patterns[3, 9, 5]
    assert (row["query_token"], row["key_token"], bool(row["target"])) == ("D", "E", True)
    assert row["prefix_matching"] == found.prefix_matching[3]


def tokens_of(found, folder, *, seed, period):
    """The sequence by what is said of it: BOS, and the same block three times."""
    from inductionlens.studies.watching import _sequence

    tokens = _sequence(il.load_model(folder / "step-0000008"), period, True, seed).tokens
    assert tokens[0, 0] == 0
    assert torch.equal(tokens[0, 1 : 1 + period], tokens[0, 1 + period : 1 + 2 * period])
    assert torch.equal(tokens[0, 1 : 1 + period], tokens[0, 1 + 2 * period :])
    assert tokens.shape == (1, 1 + 3 * period)
    return tokens


def test_the_best_head_of_the_last_checkpoint_is_watched(run_folder):
    every = {head: watch(run_folder, head) for head in ("0.0", "0.1", "1.0", "1.1")}
    best = max(every, key=lambda head: every[head].prefix_matching[-1])
    found = watch(run_folder)
    assert str(found.head) == best
    assert np.array_equal(found.patterns, every[best].patterns)


def test_frames_are_even_and_hold_both_ends(run_folder):
    assert watch(run_folder, frames=3).steps == (0, 2, 8)
    assert watch(run_folder, frames=1).steps == (8,)
    assert watch(run_folder, frames=9).steps == (0, 1, 2, 4, 8)
    assert watch(run_folder, frames=2, steps="1,2,4").steps == (1, 4)


def test_snapshots_that_cannot_be_read_are_left_out_and_named(run_folder):
    def broken():
        raise InputError("torn.")

    series = local_checkpoints(run_folder)
    series[1] = series[1]._replace(load=broken)
    series[4] = series[4]._replace(load=broken)
    found = watch(series)
    assert found.steps == (0, 2, 4)
    assert found.problems == {1: "torn.", 8: "torn."}
    with refused("None of the 1 checkpoints could be read; of the last: torn"):
        watch(series[1:2])
    with refused("There is no head 2.0: the model has 2 layers of 2 heads"):
        watch(series, "2.0")
    with refused("frames must be at least 1; got 0"):
        watch(series, frames=0)
    with refused("period must be at least 3; got 2"):
        watch(series, period=2)
    with refused("period must lie between 3 and 10, which fits 3 times; got 11"):
        watch(series, period=11)


def test_every_snapshot_is_drawn(run_folder):
    found = watch(run_folder, "1.1", frames=5)
    figure = draw_forming(found.table(), "1.1")
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title().split(":")[0] for axis in shown] == [f"step {step}" for step in found.steps]
    grid = shown[3].images[0].get_array()
    assert np.allclose(grid[np.tril_indices(25)], found.patterns[3][np.tril_indices(25)])
    marks = {(int(query), int(key)) for key, query in shown[3].collections[0].get_offsets()}
    assert marks == {(int(query), int(key)) for query, key in np.argwhere(found.target)}
    assert [text.get_text() for text in shown[0].get_xticklabels()] == list(found.labels)
    many = pd.concat([found.table().assign(step=step) for step in range(41)])
    with refused("At most 40 snapshots fit into one picture, got 41"):
        draw_forming(many, "1.1")


def test_watch_from_the_command_line(tmp_path, run_folder):
    for name in ("w.png", "w.gif", "w.csv"):
        code, printed, err = run("watch", run_folder, "--out", tmp_path / name, "--head", "1.0")
        assert (code, err) == (0, "")
        assert printed.startswith("Head 1.0: prefix matching 0.")
        assert f"5 snapshots written to {tmp_path / name}" in printed
    with Image.open(tmp_path / "w.gif") as moving:
        assert (moving.n_frames, moving.info["loop"]) == (5, 0)
        moving.seek(4)
        last = np.asarray(moving.convert("RGB"))
        moving.seek(0)
        assert (last != np.asarray(moving.convert("RGB"))).any()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "w.csv"), watch(run_folder, "1.0").table(), check_dtype=False)
    before = sorted(tmp_path.iterdir())
    for words, said in (
        (("--out", tmp_path / "w.jpg"), "w.jpg must be one of .png, .svg, .pdf, .gif; got '.jpg'"),
        (("--out", tmp_path / "x.png", "--head", "7.7"), "There is no head 7.7: the model has 2 layers of 2 heads."),
        (("--out", tmp_path / "x.csv", "--head", "best"), "A head is named like 5.1"),
        (("--out", tmp_path / "x.gif", "--steps", "3"), "There is no checkpoint of step 3; the nearest are 2, 4"),
        ((), "Missing option '--out'"),
    ):
        code, printed, err = run("watch", run_folder, *words)
        assert (code, printed) == (2, ""), words
        assert said in err
        assert len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
    assert run("watch", run_folder, "--out", tmp_path / "q.svg", "--quiet") == (0, "", "")
