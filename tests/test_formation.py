"""Checkpoints one at a time, and what is measured at each."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.models.checkpoints import Checkpoint, chosen_steps, hub_checkpoints, local_checkpoints
from inductionlens.studies.formation import formation
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
    columns = [name for name in measured.steps.columns if name not in ("tokens", "problem")]
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
    assert found.token_losses.shape == (3, 3)
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
    with refused("could not be listed"):
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


def test_before_and_after_follows_the_same_tokens_without_each_head(run_folder):
    """By hand: one whole run per head, and the followed tokens' losses."""
    from inductionlens.scores.trajectories import before_and_after, before_and_after_score

    found = formation(run_folder, **QUICK)
    assert found.ablated_losses.shape == (5, 4, 3)
    model = il.load_model(run_folder / "step-0000008")
    icl = il.in_context_learning(model, n_windows=3)
    at = [int(np.abs(icl.losses[window] - loss).argmin()) for window, loss in enumerate(found.token_losses[-1])]
    windows = make_windows(model, "random", windows=3).tokens
    for place, head in enumerate(Head(layer, index) for layer in range(2) for index in range(2)):
        with il.ablate(model, [head]), torch.no_grad():
            losses = model(windows, return_type="loss", loss_per_token=True)
        expected = [float(losses[window, place]) for window, place in enumerate(at)]
        assert found.ablated_losses[-1, place] == pytest.approx(expected, abs=1e-5)
    assert found.before_and_after().empty  # nothing changes in 8 steps
    found.steps["prefix_matching"] = [0.0, 0.01, 0.0, 0.9, 0.91]
    clean = torch.from_numpy(found.token_losses)
    change = type("Change", (), {"found": True, "start": 2, "end": 4})()
    table = found.before_and_after(change)
    direction = before_and_after(clean[2], clean[3])
    slow = before_and_after_score(direction, clean[-1], torch.from_numpy(found.ablated_losses[-1]))
    assert table[table["step"] == 8]["before_and_after"].tolist() == pytest.approx(slow.tolist())
    assert table[table["step"] == 8]["name"].tolist() == ["L0H0", "L0H1", "L1H0", "L1H1"]


def test_every_snapshot_has_its_row_and_its_heads(measured):
    assert measured.steps["step"].tolist() == [0, 1, 2, 4, 8]
    assert measured.steps["tokens"].tolist() == [0, 128, 256, 512, 1024]
    assert len(measured.heads) == 5 * 4
    assert len(measured.losses) == 5 * 31
    assert (measured.steps["problem"] == "").all()


def test_numbers_are_those_of_the_other_studies(run_folder, measured):
    from inductionlens.composition import measure_k_term
    from inductionlens.measure import measure_attention, measure_induction_logit
    from inductionlens.probes import repeated_tokens, token_pool
    from inductionlens.scores.attention import TARGETS

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
    assert row["loss"] == pytest.approx(icl.losses.mean(), abs=1e-6)
    assert measured.provenance["measured"]["icl"] == [icl.late, icl.early]
    at = measured.losses[measured.losses["step"] == 4]
    assert at["loss"].to_numpy() == pytest.approx(icl.losses.mean(0), abs=1e-6)
    place = measured.steps["step"].tolist().index(4)
    for window, loss in enumerate(measured.token_losses[place]):
        assert np.isclose(icl.losses[window], loss, atol=1e-6).any()
    best = own.loc[own["prefix_matching"].idxmax()]
    assert (row["prefix_matching"], row["prefix_matching_head"]) == (best["prefix_matching"], best["name"])


def test_ablation_at_a_snapshot_is_that_of_the_ablation_study(run_folder, measured):
    model = il.load_model(run_folder / "step-0000008")
    study = il.ablation_study(model, measures=("icl",), n_windows=3, groups=False, period=5)
    own = measured.heads[measured.heads["step"] == 8]
    assert own["effect_icl"].to_numpy() == pytest.approx(study.table["effect_icl"].to_numpy(float), abs=1e-6)
    assert formation(run_folder, steps="8", ablate=False, **QUICK).heads["effect_icl"].isna().all()


def test_the_same_tokens_are_followed_at_every_snapshot(run_folder, measured):
    """The first checkpoint again, alone: the same numbers."""
    alone = formation(run_folder, steps="0,8", **QUICK)
    assert np.array_equal(alone.token_losses, measured.token_losses[[0, -1]])
    assert not np.array_equal(formation(run_folder, steps="0", seed=1, **QUICK).token_losses, alone.token_losses[:1])


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
    for name in ("steps", "heads", "losses"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(measured, name), check_exact=True)
    assert np.array_equal(again.token_losses, measured.token_losses)
    assert not partial.exists()


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
    measured.save(tmp_path / "run.csv")
    back = pd.read_csv(tmp_path / "run.csv", keep_default_na=False, na_values=["nan"])
    assert back["step"].tolist() == measured.steps["step"].tolist()
    assert len(pd.read_csv(tmp_path / "run.heads.csv")) == 20
    assert len(pd.read_csv(tmp_path / "run.losses.csv")) == 155
    assert json.loads((tmp_path / "run.csv.meta.json").read_text())["options"]["n_windows"] == 3


def test_runs_that_do_not_belong_together_are_refused(tmp_path, run_folder):
    other = train_toy(tmp_path / "wide", **{**SHAPE, "d_model": 24})
    mixed = [local_checkpoints(run_folder)[0], local_checkpoints(other)[-1]]
    with refused("has another shape than those before it"):
        formation(mixed, **QUICK)
    with refused("There is no checkpoint to measure"):
        formation([])
    with refused("formation has no setting 'window'"):
        formation(run_folder, window=3)
    with refused("sequences must be a whole number of at least 2; got 1"):
        formation(run_folder, sequences=1)
    with refused("period must fit the context four times and the vocabulary once; 7 does, got 9"):
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
        return pd.DataFrame({"step": steps, "loss": 4.0, **curves})

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
    assert words[-1] == (
        "In-context learning changes 0 steps after prefix matching (middle to middle); their windows overlap by 100%."
    )
    few = in_words(table([0, 100, 200]))
    assert few[0].endswith("too few snapshots, or too even, to look for a change.")
