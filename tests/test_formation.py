"""Checkpoints one at a time, and what is measured at each."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.models.checkpoints import Checkpoint, chosen_steps, local_checkpoints
from inductionlens.models.hub_series import hub_checkpoints
from inductionlens.studies.formation import formation
from inductionlens.studies.formation_result import read_formation
from inductionlens.studies.training import train_toy
from inductionlens.studies.windows import make_windows

SHAPE = {
    "d_model": 16,
    "d_head": 8,
    "heads": 2,
    "d_vocab": 40,
    "n_ctx": 32,
    "batch_size": 4,
    "steps": 8,
    "snapshots": 3,
}
QUICK = {"sequences": 2, "n_windows": 3, "text": "random"}


def refused(match):
    return pytest.raises(InputError, match=match)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return train_toy(tmp_path_factory.mktemp("runs") / "run", **SHAPE)


@pytest.fixture(scope="module")
def measured(run_folder):
    return formation(run_folder, **QUICK)


# Checkpoints.
def test_folders_of_many_spellings_are_read_in_order(tmp_path, run_folder):
    for name, step in (("step_16", 8), ("checkpoint-2", 2), ("step-0000004", 4), ("notes", 0), ("ckpt32", 1)):
        shutil.copytree(run_folder / f"step-{step:07d}", tmp_path / name)
    found = local_checkpoints(tmp_path)
    assert [one.step for one in found] == [2, 4, 16, 32]
    assert [one.tokens for one in found] == [None] * 4
    assert il.scan(found[0].load(), sequences=2, period=5, logit_period=5, controls=False)["0.1"]["layer"] == 0
    shutil.copytree(run_folder / "step-0000001", tmp_path / "checkpoint-16")
    with refused("holds step 16 twice: checkpoint-16 and step_16"):
        local_checkpoints(tmp_path)
    with refused("There is no folder"):
        local_checkpoints(tmp_path / "none")
    with refused("holds no checkpoints"):
        local_checkpoints(tmp_path / "notes")


def test_tokens_are_known_for_runs_trained_here(run_folder):
    assert [(one.step, one.tokens) for one in local_checkpoints(run_folder)][-1] == (8, 8 * 4 * 32)


def series(*steps):
    return [Checkpoint(step, None, f"s{step}", lambda: None) for step in steps]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("all", [0, 1, 2, 4, 100, 1000, 143000]),
        ("log", [0, 1, 2, 4, 100, 1000, 143000]),
        ("every:3", [0, 4, 143000]),
        ("every:4", [0, 100, 143000]),
        ("1000,0", [0, 1000]),
    ],
)
def test_steps_are_chosen(asked, expected):
    assert [one.step for one in chosen_steps(series(0, 1, 2, 4, 100, 1000, 143000), asked)] == expected


def test_log_steps_are_the_nearest_to_powers_of_two():
    found = [one.step for one in chosen_steps(series(*range(0, 2001, 100)), "log")]
    assert found == [0, 100, 300, 500, 1000, 2000]
    with refused("There is no checkpoint of step 5; the nearest are 4, 2"):
        chosen_steps(series(0, 2, 4), "5")
    with refused("steps must be all, log, every:K, or numbers with commas; got 'some'"):
        chosen_steps(series(0, 2, 4), "some")
    with refused("steps must be all"):
        chosen_steps(series(0, 2), "every:0")


class FakeHub:
    """A remote folder with one snapshot per branch, and a cache that counts what lies in it."""

    def __init__(self, remote, cache):
        self.remote, self.cache, self.most, self.broken = remote, cache, 0, set()

    def branches(self, repository):
        return ["main", *sorted(path.name for path in self.remote.iterdir())]

    def fetch(self, repository, branch):
        if branch in self.broken:
            raise OSError("connection reset")
        place = shutil.copytree(self.remote / branch, self.cache / branch)
        self.most = max(self.most, len(list(self.cache.iterdir())))
        return place

    def discard(self, place):
        shutil.rmtree(place)

    def series(self, **more):
        calls = {"branches": self.branches, "fetch": self.fetch, "discard": self.discard}
        return hub_checkpoints("somebody/model", **calls, **more)


@pytest.fixture
def hub(tmp_path, run_folder):
    for step in (0, 1, 2, 4, 8):
        shutil.copytree(run_folder / f"step-{step:07d}", tmp_path / "remote" / f"step{step}")
    (tmp_path / "cache").mkdir()
    return FakeHub(tmp_path / "remote", tmp_path / "cache")


def test_a_hub_series_keeps_at_most_two_checkpoints_on_disk(hub, measured):
    found = formation(hub.series(), **QUICK)
    assert 1 <= hub.most <= 2
    assert list(hub.cache.iterdir()) == []
    columns = [name for name in measured.steps.columns if name not in ("tokens", "training_loss", "problem")]
    pd.testing.assert_frame_equal(found.steps[columns], measured.steps[columns])
    hub.most = 0
    formation(hub.series(keep=True), **QUICK)
    assert len(list(hub.cache.iterdir())) == 5


def test_a_checkpoint_that_cannot_be_had_is_reported_and_left_out(hub, measured):
    hub.broken = {"step2"}
    (hub.remote / "step4" / "model.safetensors").write_bytes(b"torn")
    found = formation(hub.series(), **QUICK)
    problems = dict(zip(found.steps["step"], found.steps["problem"], strict=True))
    assert problems[2] == "somebody/model@step2 could not be fetched: connection reset."
    assert "truncated or corrupted" in problems[4]
    assert [problems[step] for step in (0, 1, 8)] == ["", "", ""]
    assert found.steps.set_index("step").loc[[2, 4], "loss"].isna().all()
    assert sorted(found.heads["step"].unique()) == [0, 1, 8]
    assert sorted(found.followed["step"].unique()) == [0, 1, 8]
    assert list(hub.cache.iterdir()) == []


def test_a_checkpoint_that_was_missing_is_tried_again(hub, tmp_path, measured):
    hub.broken = {"step2"}

    def interrupt(done, total):
        if done == 4:
            raise KeyboardInterrupt

    partial = tmp_path / "partial"
    with pytest.raises(KeyboardInterrupt):
        formation(hub.series(), **QUICK, partial=partial, on_progress=interrupt)
    hub.broken = set()
    again = formation(hub.series(), **QUICK, partial=partial)
    assert (again.steps["problem"] == "").all()
    assert again.steps["loss"].tolist() == measured.steps["loss"].tolist()
    hub.broken = {f"step{step}" for step in (0, 1, 2, 4, 8)}
    with refused("None of the 5 checkpoints could be read; of the first: somebody/model@step0 could not be fetched"):
        formation(hub.series(), **QUICK)


def test_repositories_without_checkpoints_are_refused(hub):
    with refused("somebody/model has no branches named step1000"):
        hub_checkpoints("somebody/model", branches=lambda name: ["main"])
    with refused("There is no folder ./runs/none of checkpoints"):
        formation("./runs/none")
    with refused(r"There is no folder somebody/model, and .* could not be listed on the hub \(there is no network\)"):
        formation("somebody/model")


# What is measured.
def test_runs_trained_here_are_read_on_rows_they_have_not_seen(run_folder):
    from inductionlens.training_batches import training_batches

    found = formation(run_folder, steps="8", sequences=2, n_windows=3)
    rows = training_batches("repeats", batch_size=3, length=32, d_vocab=40)(9)
    model = il.load_model(run_folder / "step-0000008")
    with torch.no_grad():
        losses = model(rows, return_type="loss", loss_per_token=True)
    assert found.steps["loss"].iloc[0] == pytest.approx(float(losses.mean()), abs=1e-5)
    late, early = found.provenance["measured"]["icl"]
    score = (losses[:, late] - losses[:, early]).mean()
    assert found.steps["icl_score"].iloc[0] == pytest.approx(float(score), abs=1e-5)


@pytest.fixture
def jump(monkeypatch):
    """Say that prefix matching changes from step 2 to step 4, whatever the curve."""
    from inductionlens.phase_change import Change, PhaseChange
    from inductionlens.studies import formation_tables

    change = PhaseChange((Change(2.0, 4.0, 3.0, 0.5, 2.0, 0.001),), 0.002, "linear", (0.0, 1.0, 2.0, 4.0, 8.0))
    monkeypatch.setattr(formation_tables, "changes_of", lambda steps: {"prefix_matching": change})


def test_before_and_after_follows_the_same_tokens_without_each_head(run_folder, jump, measured):
    """By hand: one whole run per head and snapshot, and the followed tokens' losses."""
    assert measured.before.empty  # nothing changes in 8 steps
    found = formation(run_folder, **QUICK)
    followed = followed_of(found)
    windows, clean, ablated = None, {}, {}
    for step in (2, 4, 8):
        model = il.load_model(run_folder / f"step-{step:07d}")
        windows = make_windows(model, "random", windows=3).tokens if windows is None else windows
        with torch.no_grad():
            own = model(windows, return_type="loss", loss_per_token=True).numpy()
        at = [int(np.abs(own[window] - loss).argmin()) for window, loss in enumerate(followed[step])]
        clean[step] = own[range(3), at]
        for head in (Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 1)):
            with il.ablate(model, [head], patterns=il.clean_run(model, windows)), torch.no_grad():
                losses = model(windows, return_type="loss", loss_per_token=True).numpy()
            ablated[step, head.label] = losses[range(3), at]
    moved = clean[4] - clean[2]
    direction = moved / np.sqrt((moved**2).sum())
    for (step, name), losses in ablated.items():
        row = found.before[(found.before["step"] == step) & (found.before["name"] == name)]
        assert row["before_and_after"].item() == pytest.approx(float((losses - clean[step]) @ direction), abs=1e-4)
    assert formation(run_folder, ablate=False, **QUICK).before.empty


def followed_of(found):
    """Losses of the followed tokens, step -> [token]."""
    return {step: part.sort_values("token")["loss"].to_numpy() for step, part in found.followed.groupby("step")}


def test_the_loss_has_its_slope_and_its_training_loss(run_folder, measured):
    """Second-order differences on the logarithm of tokens, and means of the batches since the snapshot before."""
    table = measured.steps
    x, y = np.log(table["tokens"].to_numpy(float)[1:]), table["loss"].to_numpy()[1:]
    assert np.isnan(table["loss_slope"].iloc[0])
    for place in range(1, len(x) - 1):
        before, after = x[place] - x[place - 1], x[place + 1] - x[place]
        slow = (
            before**2 * y[place + 1] + (after**2 - before**2) * y[place] - after**2 * y[place - 1]
        ) / (before * after * (before + after))  # fmt: skip
        assert table["loss_slope"].iloc[place + 1] == pytest.approx(slow)
    assert table["loss_slope"].iloc[1] == pytest.approx((y[1] - y[0]) / (x[1] - x[0]))
    assert table["loss_slope"].iloc[-1] == pytest.approx((y[-1] - y[-2]) / (x[-1] - x[-2]))
    own = pd.read_csv(run_folder / "training.csv").set_index("step")["loss"]
    assert np.isnan(table["training_loss"].iloc[0])
    assert table["training_loss"].tolist()[1:] == pytest.approx(
        [own[1], own[2], own[[3, 4]].mean(), own[[5, 6, 7, 8]].mean()]
    )
    loose = formation(local_checkpoints(run_folder), **QUICK).steps
    assert loose["training_loss"].isna().all()
    some = formation(run_folder, steps="2,8", **QUICK).steps
    assert some["training_loss"].tolist()[1] == pytest.approx(own[[3, 4, 5, 6, 7, 8]].mean())


def test_slopes_without_tokens_are_over_steps(tmp_path, run_folder, measured):
    """The same, as every step has the same tokens."""
    for step in (0, 1, 2, 4, 8):
        shutil.copytree(run_folder / f"step-{step:07d}", tmp_path / f"step-{step}")
    found = formation(tmp_path, **QUICK).steps
    assert found["tokens"].isna().all()
    assert found["loss_slope"].tolist() == pytest.approx(measured.steps["loss_slope"].tolist(), nan_ok=True)
    assert np.isnan(formation(tmp_path, steps="0,4", **QUICK).steps["loss_slope"]).all()


def test_every_snapshot_has_its_row_and_its_heads(measured):
    assert measured.steps["step"].tolist() == [0, 1, 2, 4, 8]
    assert measured.steps["tokens"].tolist() == [0, 128, 256, 512, 1024]
    assert len(measured.heads) == 5 * 4
    assert len(measured.losses) == 5 * 31
    assert (measured.steps["problem"] == "").all()


def test_numbers_are_those_of_the_other_studies(run_folder, measured):
    from inductionlens.composition import measure_k_term
    from inductionlens.intervals import mean_interval
    from inductionlens.measure import measure_attention, measure_induction_logit
    from inductionlens.probes import repeated_tokens, token_pool
    from inductionlens.scores.attention import TARGETS
    from inductionlens.studies.formation_stimuli import best_head

    model = il.load_model(run_folder / "step-0000004")
    own = measured.heads[measured.heads["step"] == 4]
    row = measured.steps.set_index("step").loc[4]
    pool = token_pool(range(1, 40))
    probe = repeated_tokens(pool, period=7, repeats=4, sequences=2, bos=0)
    assert measured.provenance["measured"]["probe"] == probe.describe()
    targets = {name: TARGETS[name] for name in ("prefix_matching", "previous_token", "duplicate_token")}
    samples, copies = measure_attention(model, probe, targets, with_losses=True)
    for name, part in samples.items():
        assert own[name].tolist() == pytest.approx(part.value().ravel().tolist())
    previous = samples["previous_token"].value()
    assert own["qk_eigen_trace"].tolist() == pytest.approx(measure_k_term(model, previous).trace.ravel(), nan_ok=True)
    logit = repeated_tokens(pool, period=7, repeats=2, sequences=4, bos=0, purpose="logit")
    assert own["induction_logit"].tolist() == pytest.approx(
        measure_induction_logit(model, logit).value().ravel().tolist()
    )
    assert row["loss_first_copy"] == pytest.approx(copies["loss_first_copy"].mean())
    assert row["copying_gain"] == pytest.approx(row["loss_first_copy"] - row["loss_later_copies"])
    icl = il.in_context_learning(model, n_windows=3)
    assert row["icl_score"] == pytest.approx(icl.score, abs=1e-6)
    assert (row["icl_score_low"], row["icl_score_high"]) == pytest.approx((icl.low, icl.high), abs=1e-6, nan_ok=True)
    lows, highs = mean_interval(samples["prefix_matching"].numerator.reshape(4, -1))
    assert own["prefix_matching_low"].tolist() == pytest.approx(lows.tolist(), nan_ok=True)
    assert own["prefix_matching_high"].tolist() == pytest.approx(highs.tolist(), nan_ok=True)
    best = best_head(samples["prefix_matching"].numerator)
    assert (row["prefix_matching_head"], row["prefix_matching"]) == (best["head"], pytest.approx(best["value"]))
    assert row["loss"] == pytest.approx(icl.losses.mean(), abs=1e-6)
    assert measured.provenance["measured"]["icl"] == [icl.late, icl.early]
    at = measured.losses[measured.losses["step"] == 4]
    assert at["loss"].to_numpy() == pytest.approx(icl.losses.mean(0), abs=1e-6)
    for window, loss in enumerate(followed_of(measured)[4]):
        assert np.isclose(icl.losses[window], loss, atol=1e-6).any()


def test_ablation_at_a_snapshot_is_that_of_the_ablation_study(run_folder, measured):
    model = il.load_model(run_folder / "step-0000008")
    free = formation(run_folder, steps="8", hold_patterns=False, **QUICK)
    for found, hold in ((measured, True), (free, False)):
        study = il.ablation_study(model, measures=("icl",), n_windows=3, groups=False, period=5, hold_patterns=hold)
        own = found.heads[found.heads["step"] == 8]
        assert own["effect_icl"].to_numpy() == pytest.approx(study.table["effect_icl"].to_numpy(float), abs=1e-6)
    assert formation(run_folder, steps="8", ablate=False, **QUICK).heads["effect_icl"].isna().all()


def test_the_same_tokens_are_followed_at_every_snapshot(run_folder, measured):
    """The first checkpoint again, alone: the same numbers."""
    alone = formation(run_folder, steps="0,8", **QUICK)
    pd.testing.assert_frame_equal(
        alone.followed, measured.followed[measured.followed["step"].isin([0, 8])].reset_index(drop=True)
    )
    other = formation(run_folder, steps="0", seed=1, **QUICK)
    assert not np.array_equal(followed_of(other)[0], followed_of(alone)[0])
    notes = [found.provenance["measured"]["followed"] for found in (alone, measured, other)]
    assert notes[0] == notes[1] != notes[2]


def test_parts_of_a_run_that_was_trained_anew_are_refused(tmp_path):
    folder, partial = tmp_path / "run", tmp_path / "partial"

    def interrupt(done, total):
        raise KeyboardInterrupt

    train_toy(folder, **SHAPE)
    with pytest.raises(KeyboardInterrupt):
        formation(folder, **QUICK, partial=partial, on_progress=interrupt)
    shutil.rmtree(folder)
    train_toy(folder, **SHAPE, seed=1)
    with refused("holds unfinished work of other settings or another model"):
        formation(folder, **QUICK, partial=partial)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_interrupted_study_goes_on_and_ends_the_same(tmp_path, run_folder, measured, stop):
    partial = tmp_path / "steps.csv.partial"

    def interrupt(done, total):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        formation(run_folder, **QUICK, partial=partial, on_progress=interrupt)
    calls = []
    again = formation(run_folder, **QUICK, partial=partial, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 5) for done in range(stop + 1, 6)]
    for name in ("steps", "heads", "losses", "followed", "before"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(measured, name), check_exact=True)
    again.save(tmp_path / "steps.csv")
    assert not partial.exists()


@pytest.mark.parametrize("broken", ["fetched", "torn"])
def test_a_last_checkpoint_that_cannot_be_read_is_said_to_be(hub, measured, tmp_path, broken):
    """Verdicts are then of the one before; once it can be read again they are its own, and no other's."""
    whole = (hub.remote / "step8" / "model.safetensors").read_bytes()
    hub.broken = {"step8"} if broken == "fetched" else set()
    if broken == "torn":
        (hub.remote / "step8" / "model.safetensors").write_bytes(b"torn")
    found = formation(hub.series(), **QUICK, partial=tmp_path / "parts")
    said = found.steps.set_index("step")["problem"]
    assert ("could not be fetched" if broken == "fetched" else "truncated or corrupted") in said[8]
    assert found.provenance["verdicts"]["step"] == 4
    assert "4 of 5 checkpoints measured." in found.in_words()
    assert set(found.heads[found.heads["kind"] != ""]["step"]) <= {4}
    hub.broken = set()
    (hub.remote / "step8" / "model.safetensors").write_bytes(whole)
    again = formation(hub.series(), **QUICK, partial=tmp_path / "parts")
    alike = formation(hub.series(), **QUICK)
    for name in ("steps", "heads", "followed"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(alike, name), check_exact=True)
    assert again.provenance == alike.provenance


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A run whose context is long enough for a scan."""
    return train_toy(tmp_path_factory.mktemp("runs") / "wide", **{**SHAPE, "n_ctx": 96})


@pytest.mark.parametrize("stop", [1, 5])
def test_a_resumed_study_has_the_verdicts_of_an_uninterrupted_one(wide, tmp_path, stop):
    """Also where everything was measured, and only the tables were missing."""
    whole = formation(wide, **QUICK)
    last = whole.heads[whole.heads["step"] == 8]
    assert (last["kind"] != "").all()
    assert whole.steps["induction_heads"].iloc[-1] != ""

    def interrupt(done, total):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        formation(wide, **QUICK, partial=tmp_path / "parts", on_progress=interrupt)
    again = formation(wide, **QUICK, partial=tmp_path / "parts")
    pd.testing.assert_frame_equal(again.heads, whole.heads, check_exact=True)
    pd.testing.assert_frame_equal(again.steps, whole.steps, check_exact=True)
    assert again.provenance == whole.provenance
    assert again.in_words() == whole.in_words()


def test_snapshots_with_equal_weights_are_named(run_folder, tmp_path):
    for step, source in ((0, 8), (1, 8), (2, 2), (4, 4), (8, 8)):
        shutil.copytree(run_folder / f"step-{source:07d}", tmp_path / "copies" / f"step{step}")
    found = formation(tmp_path / "copies", **QUICK)
    problems = found.steps.set_index("step")["problem"].to_dict()
    assert problems == {
        0: "same weights, bit for bit, as step 1, 8", 1: "same weights, bit for bit, as step 0, 8", 2: "", 4: "",
        8: "same weights, bit for bit, as step 0, 1",
    }  # fmt: skip
    assert found.steps["loss"].notna().all()
    said = " ".join(found.in_words())
    assert "3 checkpoints have the same weights, bit for bit, as others (steps 0, 1, 8; see problem)" in said
    found.save(tmp_path / "f.csv")
    assert read_formation(tmp_path / "f.csv").in_words() == found.in_words()


@pytest.mark.parametrize("value", ["text", [1], 3, [["a", 1]]])
@pytest.mark.parametrize("name", ["run", "measured"])
def test_a_spoiled_record_of_tables_is_refused(name, value, measured, tmp_path):
    measured.save(tmp_path / "f.csv")
    note = tmp_path / "f.csv.meta.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), name: value}))
    with refused(f"The record of .*f.csv has no settings at {name}; delete it to read the tables alone"):
        read_formation(tmp_path / "f.csv")


def test_weights_that_differ_in_one_bit_are_not_equal(run_folder, tmp_path):
    from inductionlens.models.named_weights import named_weights, weights_digest

    model, other = (il.load_model(run_folder / "step-0000008") for _ in range(2))
    assert weights_digest(model) == weights_digest(other)
    weight = named_weights(other)["blocks.1.attn.W_O"]
    weight.view(torch.int32)[0, 0, 0] ^= 1
    assert weights_digest(model) != weights_digest(other)


def test_one_model_is_read_ahead_and_no_more(run_folder):
    loaded, measured_steps, most = [], [], []
    every = local_checkpoints(run_folder)

    def watched(one):
        def load():
            loaded.append(one.step)
            most.append(len(loaded) - len(measured_steps))
            return one.load()

        return one._replace(load=load)

    formation([watched(one) for one in every], **QUICK, on_progress=lambda done, total: measured_steps.append(done))
    assert loaded == [0, 1, 2, 4, 8]
    assert max(most) <= 3  # one measured, one ready, one being read


def test_curves_and_files(tmp_path, measured):
    curve = measured.curve("prefix_matching")
    assert list(curve.columns) == ["step", "value"]
    assert curve["value"].tolist() == measured.steps["prefix_matching"].tolist()
    own = measured.curve("previous_token", "1.0")
    assert own["value"].tolist() == measured.heads.query("name == 'L1H0'")["previous_token"].tolist()
    assert measured.curve("previous_token", Head(1, 0)).equals(own)
    with refused("There is no curve 'accuracy'; there are"):
        measured.curve("accuracy")
    with refused("There is no curve 'loss' of 1.0"):
        measured.curve("loss", "1.0")


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_tables_come_back_number_for_number(tmp_path, run_folder, measured, jump, suffix):
    path = tmp_path / f"run.{suffix}"
    for found in (measured, formation(run_folder, **QUICK)):
        found.save(path)
        back = read_formation(path)
        for name in ("steps", "heads", "losses", "followed", "before"):
            kept = getattr(found, name)
            pd.testing.assert_frame_equal(getattr(back, name), kept, check_exact=True, check_dtype=len(kept) > 0)
        assert back.provenance == json.loads(json.dumps(found.provenance))
        assert back.in_words() == found.in_words()
    assert len(pd.read_csv(tmp_path / "run.heads.csv") if suffix == "csv" else back.heads) == 20
    assert len(back.before) == 20


def test_tables_that_are_none_are_refused(tmp_path, measured):
    measured.save(tmp_path / "run.csv")
    with refused(r"The suffix of .*run.txt must be one of .csv, .parquet, .json"):
        measured.save(tmp_path / "run.txt")
    with refused("none.csv cannot be read: No such file"):
        read_formation(tmp_path / "none.csv")
    with refused("run.heads.csv is not a table of steps of a run: it has no column loss"):
        read_formation(tmp_path / "run.heads.csv")
    heads = (tmp_path / "run.heads.csv").read_text()
    (tmp_path / "run.heads.csv").write_text(heads.replace("L0H0,0,0,", "L0H0,zero,0,"))
    with (
        pytest.warns(UserWarning, match="belongs to another version"),
        refused("run.heads.csv is not a table of heads of a run: column layer must hold numbers"),
    ):
        read_formation(tmp_path / "run.csv")
    (tmp_path / "run.heads.csv").unlink()
    with refused("run.heads.csv cannot be read"):
        read_formation(tmp_path / "run.csv")
    (tmp_path / "ro" / "run.before.csv").mkdir(parents=True)
    with refused("run.before.csv"):
        measured.save(tmp_path / "ro" / "run.csv")
    assert [path.name for path in (tmp_path / "ro").iterdir()] == ["run.before.csv"]


def test_runs_that_do_not_belong_together_are_refused(tmp_path, run_folder):
    other = train_toy(tmp_path / "wide", **{**SHAPE, "d_model": 24})
    mixed = [local_checkpoints(run_folder)[0], local_checkpoints(other)[-1]]
    with refused("has another shape than those before it"):
        formation(mixed, **QUICK)
    with refused("There is no checkpoint to measure"):
        formation([])
    with refused("formation has no setting 'window'"):
        formation(run_folder, window=3)
    with refused("sequences must be at least 2; got 1"):
        formation(run_folder, sequences=1)
    with refused("period must be at least 3 and fit the context four times and the vocabulary once; 7 does, got 9"):
        formation(run_folder, period=9)


def test_an_error_while_reading_is_not_swallowed(run_folder):
    def load():
        raise MemoryError("no room")

    with pytest.raises(MemoryError):
        formation([Checkpoint(0, None, "x", load)], **QUICK)
    assert torch.get_num_threads() >= 1


def test_changes_are_found_on_even_and_on_log_spaced_steps():
    from inductionlens.studies.changes import changes_of, in_words

    def table(steps):
        late = np.array(steps) > 400
        jump = np.where(late, 0.8, 0.05) + 0.005 * np.sin(np.arange(len(steps)))
        curves = {"prefix_matching": jump, "icl_score": -2 * jump, "copying_gain": 0.0}
        return pd.DataFrame(
            {"step": steps, "loss": 4.0, "prefix_matching_head": "L1H2", "induction_heads": "L1H2", **curves}
        )

    even = changes_of(table(range(0, 1001, 25)))
    log = changes_of(table([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000, 8000]))
    assert (even["prefix_matching"].axis, log["prefix_matching"].axis) == ("linear", "log")
    assert (even["prefix_matching"].start, even["prefix_matching"].end) == (400, 425)
    assert (log["prefix_matching"].start, log["prefix_matching"].end) == (256, 512)
    assert "copying_gain" not in even  # it never moves
    words = in_words(table(range(0, 1001, 25)))
    assert words[0].startswith(
        "prefix matching of the best head: 0.05 at first, 0.80 at the end; changes from step 400"
    )
    assert words[-2] == "Induction head at step 1000, by a scan: L1H2; formed in the change from step 400 to 425."
    unnamed = table(range(0, 1001, 25)).assign(induction_heads="none")
    assert in_words(unnamed)[-2].startswith("No induction head at step 1000, by a scan; the head that matches")
    unscanned = table(range(0, 1001, 25)).assign(induction_heads="")
    assert in_words(unscanned)[-2].startswith("No scan was made at step 1000")
    slow = table(range(0, 1001, 25))
    slow["prefix_matching"] = slow["step"] / 1000
    assert "formed in the change" not in in_words(slow)[3]
    assert words[-1] == (
        "In-context learning changes 0 steps after prefix matching (middle to middle); their windows overlap by 100%."
    )
    for steps in ([0, 100, 200], [0, 1, 2, 4, 8, 512], [0], [0, 500]):  # the second: five on a logarithmic axis
        assert in_words(table(steps))[0].endswith("too few snapshots, or too even, to look for a change.")
    few = table([100, 200, 300, 400, 500, 600, 700])
    few["prefix_matching"] = [0.05, 0.04, 0.75, 0.85, 0.90, 0.91, 0.89]
    assert in_words(few)[0].endswith("7 snapshots are too few to tell whether it changes abruptly: 10 can show it.")
    assert in_words(few)[-1].endswith("L1H2; whether formed in an abrupt change cannot be told from these snapshots.")
    assert "changes from step 256 to 512" in in_words(table([0, 16, 32, 64, 128, 256, 512, 1024]))[0]
