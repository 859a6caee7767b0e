"""The reproduction: verdicts computed from runs, resumed work, and the command line."""

import json
import math
import os
import select
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import run

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.studies.arguments import FAILS, HOLDS, OPEN, arguments_table
from inductionlens.studies.formation import formation
from inductionlens.studies.formation_result import read_formation
from inductionlens.studies.reproduce import PRESETS, Preset, _removed
from inductionlens.studies.training import train_toy, unseen_rows

TINY = Preset((1, 2), (False,), {"d_model": 16, "d_head": 8, "heads": 2, "d_vocab": 40, "n_ctx": 40, "batch_size": 4,
                                 "steps": 12, "snapshots": 7}, 8, seeds=(0, 1))  # fmt: skip


def refused(match):
    return pytest.raises(InputError, match=match)


def row(model, seed, **more):
    """A run that changed; ``more`` replaces what differs."""
    plain = {
        "model": model, "seed": seed, "prefix_matching": 0.8, "icl_score": -2.0, "copying_gain": 3.0,
        "prefix_start": 300.0,
        "prefix_end": 400.0, "prefix_middle": 350.0, "prefix_size": 0.7, "icl_start": 320.0, "icl_end": 420.0,
        "icl_middle": 370.0, "icl_size": -1.5, "induction_heads": "1.0", "qk_eigen": 0.9, "lost": 1.8,
        "lost_random": 0.1, "formed": True, "spacing": 20.0, "layers": 1 if model.startswith("1") else 2,
        "mlp": False, "smeared_keys": model.endswith("smeared"),
    }  # fmt: skip
    return {**plain, **more}


NONE = dict.fromkeys(("prefix_start", "prefix_end", "prefix_middle", "prefix_size", "qk_eigen", "lost"), math.nan)
NONE |= {"prefix_matching": 0.09, "induction_heads": "", "formed": False}
EARLY = {"prefix_start": 100.0, "prefix_end": 200.0, "prefix_middle": 150.0, "icl_start": 110.0, "icl_end": 180.0}


#: What a run is, and no change to it.
SHAPE = ("model", "seed", "layers", "mlp", "smeared_keys")


def runs(**more):
    """Three seeds of the four kinds, as the paper has them; ``more``: kind -> changes to its runs."""
    kinds = {"1-layer": NONE, "1-layer-smeared": EARLY, "2-layer": {}, "2-layer-smeared": EARLY}
    rows = []
    for kind, own in kinds.items():
        for seed in range(3):
            shift = {"prefix_middle": own.get("prefix_middle", 350.0) + 5 * seed}
            rows.append(row(kind, seed, **{**own, **shift, **more.get(kind.replace("-", "_"), {})}))
    return pd.DataFrame(rows)


def verdicts(table):
    rows = table.to_dict("records")
    return {(found["argument"], found["claim"].split(" models")[0]): found["verdict"] for found in rows}


def test_runs_like_the_papers_hold_every_claim():
    table = arguments_table(runs())
    assert set(table["verdict"]) == {HOLDS}
    assert set(table["argument"]) == {"1", "2", "3", "5"}
    claims = " ".join(table["claim"])
    assert "1-layer models do not form" in claims
    assert "2-layer-smeared models change earlier than 2-layer models" in claims
    earlier = table[table["claim"].str.contains("change earlier")].iloc[0]
    assert earlier["measured"] == "-200 steps"
    assert earlier["high"] < 0


@pytest.mark.parametrize(
    ("kind", "change", "part", "verdict"),
    [
        ("1_layer", {**row("", 0)}, "do not form", FAILS),  # a one-layer model that changes
        ("2_layer", {"formed": False}, "2-layer models form", FAILS),  # breaks, but a scan finds no induction head
        ("2_layer", {"icl_start": 500.0, "icl_end": 600.0}, "learning of 2-layer models", FAILS),  # another window
        ("2_layer", {"icl_size": 1.0}, "learning of 2-layer models", FAILS),  # the same window, but it gets worse
        ("2_layer", {"icl_start": math.nan, "icl_end": math.nan}, "learning of 2-layer models", FAILS),
        ("2_layer_smeared", {"prefix_middle": 352.0}, "change earlier", FAILS),  # not clearly
        ("2_layer", {"lost": 0.9}, "removing the induction heads of 2-layer models", FAILS),
        ("2_layer", {"qk_eigen": -0.1}, "induction heads of 2-layer models match", FAILS),
        ("2_layer", NONE, "change earlier", OPEN),  # nothing to be earlier than
    ],
)
def test_each_claim_can_fail(kind, change, part, verdict):
    change = {name: value for name, value in change.items() if name not in SHAPE}
    table = arguments_table(runs(**{kind: change}))
    found = table[table["claim"].str.contains(part, regex=False)]
    assert len(found) == 1
    assert found["verdict"].iloc[0] == verdict


def test_one_seed_that_disagrees_is_counted():
    table = runs()
    table.loc[(table["model"] == "2-layer") & (table["seed"] == 1), "formed"] = False
    found = arguments_table(table)
    assert found[found["claim"].str.startswith("2-layer models form")].iloc[0]["measured"] == "2 of 3"
    assert verdicts(found)["1", "2-layer"] == FAILS


def test_intervals_over_seeds_are_students():
    table = runs()
    table.loc[table["model"] == "2-layer-smeared", "prefix_middle"] = [140.0, 155.0, 200.0]
    found = arguments_table(table)
    earlier = found[found["claim"].str.contains("change earlier")].iloc[0]
    steps = np.array([140 - 350, 155 - 355, 200 - 360])
    half = 4.302653 * steps.std(ddof=1) / 3**0.5
    assert (earlier["low"], earlier["high"]) == pytest.approx(
        (steps.mean() - half - 20, steps.mean() + half + 20),
        abs=1e-3,  # snapshots are 20 steps apart
    )


def test_what_a_model_is_stands_in_columns_and_not_in_its_name():
    plain = arguments_table(runs())
    names = {"1-layer": "a", "1-layer-smeared": "b", "2-layer": "c", "2-layer-smeared": "d"}
    renamed = arguments_table(runs().assign(model=lambda table: table["model"].map(names)))
    assert renamed["verdict"].tolist() == plain["verdict"].tolist()
    assert renamed["argument"].tolist() == plain["argument"].tolist()
    assert "d models change earlier than c models" in set(renamed["claim"])


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


@pytest.mark.slow
def test_a_reproduction_resumes_and_ends_the_same(tmp_path):
    calls = []
    note = lambda done, total: calls.append((done, total))  # noqa: E731
    whole = il.reproduce(tmp_path / "whole", TINY, workers=1, on_progress=note)
    assert calls == [(done, 8) for done in range(1, 9)]
    assert len(whole.runs) == 8
    assert set(whole.arguments["verdict"]) <= {HOLDS, FAILS, OPEN}
    assert (whole.folder / "figure.png").stat().st_size > 10_000

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        il.reproduce(tmp_path / "broken", TINY, workers=1, on_progress=interrupt)
    # A run that was cut off inside its formation: its summary is not there yet.
    (tmp_path / "broken" / "tables" / "1-layer-seed1.json").unlink()
    again = il.reproduce(tmp_path / "broken", TINY, workers=1)
    pd.testing.assert_frame_equal(again.arguments, whole.arguments)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")
    assert (tmp_path / "broken" / "figure.png").read_bytes() == (tmp_path / "whole" / "figure.png").read_bytes()
    # What is finished is read, not made again.
    shutil.rmtree(tmp_path / "whole" / "runs")
    pd.testing.assert_frame_equal(il.reproduce(tmp_path / "whole", TINY, workers=1).arguments, whole.arguments)
    assert not (tmp_path / "whole" / "runs").exists()
    assert len(read_formation(tmp_path / "whole" / "tables" / "2-layer-seed0.csv").followed) == 8 * 8
    changes = pd.read_csv(tmp_path / "whole" / "changes.csv")
    assert changes[["model", "curve", "seeds"]].to_numpy().tolist()[:2] == [
        ["1-layer", "prefix_matching", 2],
        ["1-layer", "icl_score", 2],
    ]
    assert len(changes) == 4 * 3


def test_induction_heads_are_removed_beside_as_many_others(tmp_path):
    """The scores lost, against whole runs with `ablate`; with one induction head of four, the others are three."""
    place = train_toy(tmp_path / "run", **TINY.training, seed=0, layers=2)
    found = formation(place, n_windows=8)
    induction = Head(1, 0)
    removed = _removed(place, [induction], 8, found)
    model, rows = il.load_model(place / "step-0000012"), unseen_rows(place, 8).tokens
    late, early = found.provenance["measured"]["icl"]

    def score():
        with torch.no_grad():
            losses = model(rows, return_type="loss", loss_per_token=True)
        return float((losses[:, late] - losses[:, early]).mean())

    clean = score()
    for patterns, end in ((il.clean_run(model, rows), ""), (None, "_free")):
        lost = {}
        for head in (Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 1)):
            with il.ablate(model, [head], patterns=patterns):
                lost[head] = score() - clean
        assert removed[f"lost{end}"] == pytest.approx(lost.pop(induction), abs=1e-5)
        assert sorted(removed[f"lost_random{end}"]) == pytest.approx(sorted(lost.values()), abs=1e-5)
    none = {"lost": None, "lost_random": [], "lost_free": None, "lost_random_free": []}
    assert _removed(place, [], 8, found) == none


def test_presets_are_the_papers_grid():
    quick = {plan.model for plan in PRESETS["quick"].plans()}
    assert quick == {"1-layer", "1-layer-smeared", "2-layer", "2-layer-smeared"}
    assert len(list(PRESETS["quick"].plans())) == 12
    assert len({plan.name for plan in PRESETS["full"].plans()}) == 3 * 2 * 2 * 3


def test_bad_input_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refused("workers must be at least 1; got 0"):
        il.reproduce(tmp_path / "x", workers=0)
    for words, said in (
        (("reproduce", "--out", "r", "--preset", "slow"), "preset must be one of quick, full; got 'slow'"),
        (("formation", "nowhere/at/all"), "There is no folder nowhere/at/all of checkpoints"),
        (("formation", ".", "--steps", "1"), "holds no checkpoints"),
        (("formation", ".", "--out", "steps.txt"), "The suffix of steps.txt must be one of .csv"),
        (("train", "--out", "r", "--steps", 0), "steps must be at least 1; got 0"),
        (("train", "--out", "r", "--data", "stdlib"), "Text is trained on as bytes, which need d_vocab=256; got 64"),
        (("train", "--out", "r", "--norm", "BN"), "norm must be one of LN, RMS, none"),
        (("train", "--layers", 2), "Missing option '--out'"),
    ):
        code, printed, err = run(*words)
        assert (code, printed) == (2, ""), words
        assert said in err
        assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_from_the_command_line(tmp_path):
    shape = ("--d-model", 16, "--d-head", 8, "--heads", 2, "--d-vocab", 40, "--n-ctx", 40, "--batch-size", 4)
    shape += ("--steps", 12, "--snapshots", 7, "--smeared-keys")
    code, printed, err = run("train", "--out", tmp_path / "run", *shape)
    assert (code, err) == (0, "")
    assert printed.startswith("12 steps, 1,920 tokens; loss ")
    assert "8 snapshots in" in printed
    few = ("--windows", 4, "--sequences", 2)
    code, printed, err = run("formation", tmp_path / "run", *few, "--out", tmp_path / "f.csv")
    assert (code, err) == (0, "")
    assert "prefix matching of the best head: " in printed
    assert f"8 rows written to {tmp_path / 'f.csv'}" in printed
    assert len(pd.read_csv(tmp_path / "f.csv")) == 8
    assert not (tmp_path / "f.csv.partial").exists()
    assert run("formation", tmp_path / "run", *few, "--steps", "log", "--quiet")[1:] == ("", "")


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    """A worker whose parent is killed ends by itself, whatever it is doing."""
    code = """
import os, subprocess, sys, time
worker = "from inductionlens.studies.workers import end_with; import os, time; end_with(os.getppid()); " \
         "print(os.getpid(), flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", worker])
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline()  # the worker is at work
    parent.kill()
    parent.wait()
    # The pipe closes when its last holder, the worker, is gone.
    closed, _, _ = select.select([parent.stdout], [], [], 30)
    assert closed
    assert parent.stdout.read() == ""
    parent.stdout.close()


def test_every_worker_is_told_its_parent(tmp_path, monkeypatch):
    from inductionlens.studies import reproduce as reproduction

    jobs = []
    monkeypatch.setattr("joblib.Parallel", lambda **how: lambda given: jobs.extend(given) or iter(()))
    list(reproduction._work(tmp_path, TINY, list(TINY.plans()), 2))
    assert len(jobs) == len(list(TINY.plans()))
    for function, arguments, _ in jobs:
        assert function is reproduction._one_of
        assert arguments[0] == os.getpid()
    told = []
    monkeypatch.setattr(reproduction, "end_with", told.append)
    monkeypatch.setattr(reproduction, "_one", lambda *given: told.append(given))
    plan = next(TINY.plans())
    reproduction._one_of(5, tmp_path, plan, 8)
    assert told == [5, (tmp_path, plan, 8)]


def test_killed_before_its_summary_a_model_is_not_measured_again(tmp_path, monkeypatch):
    from inductionlens.studies import formation as study
    from inductionlens.studies import reproduce as reproduction

    plan = next(TINY.plans())
    (tmp_path / "tables").mkdir()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduction, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        reproduction._one(tmp_path, plan, 8)
    monkeypatch.undo()
    monkeypatch.setattr(study.Stimuli, "measure", lambda *_: pytest.fail("a snapshot was measured again"))
    reproduction._one(tmp_path, plan, 8)
    assert (tmp_path / "tables" / f"{plan.name}.json").is_file()
    assert not (tmp_path / "tables" / f"{plan.name}.csv.partial").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda note: [note], lambda note: {**note, "icl_score": "low"}, lambda note: {**note, "formed": None},
        lambda note: {**note, "lost_random": [None]}, lambda note: {**note, "induction_heads": "1.0"},
        lambda note: {name: value for name, value in note.items() if name != "qk_eigen"}, lambda note: {},
    ],
)  # fmt: skip
def test_a_spoiled_summary_is_refused(tmp_path, spoil):
    from inductionlens.studies.summaries import LISTS, NUMBERS, read_summary

    note = dict.fromkeys(NUMBERS) | {name: [0.5, 1] for name in LISTS}
    note |= {"plan": {}, "formed": True, "induction_heads": ["1.0"], "icl_score": -2}
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(note))
    assert read_summary(path) == note
    path.write_text(json.dumps(spoil(note)))
    with refused("is no summary of a model, by .*; remove it to measure that model again"):
        read_summary(path)
    path.write_text("[" * 100_000)
    with refused("cannot be read: .*; remove it to measure that model again"):
        read_summary(path)


def test_two_reproductions_into_one_folder_are_refused(tmp_path):
    from inductionlens.locks import held

    (tmp_path / "r").mkdir()
    with held(tmp_path / "r" / ".lock", "taken"), refused("Another process is reproducing into"):
        il.reproduce(tmp_path / "r", TINY, workers=1)
