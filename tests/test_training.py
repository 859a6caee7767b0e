"""Training runs: batches decided by their step, exact resumption, snapshots, and a toy that forms what it should."""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

import inductionlens as il
from inductionlens import InputError
from inductionlens.models.named_weights import portable_weights
from inductionlens.models.training import Trainer
from inductionlens.studies.training import TrainOptions, snapshot_steps, train_toy
from inductionlens.training_batches import KINDS, TRIGGERS, training_batches

TINY = {
    "d_model": 16,
    "d_head": 8,
    "heads": 2,
    "d_vocab": 20,
    "n_ctx": 20,
    "batch_size": 4,
    "steps": 12,
    "snapshots": 4,
}


def refused(match):
    return pytest.raises(InputError, match=match)


def make(data, **more):
    settings = {"batch_size": 6, "length": 40, "d_vocab": 256 if data in ("stdlib", "renamed") else 30, **more}
    return training_batches(data, **settings)


# Batches.
@pytest.mark.parametrize("data", KINDS)
def test_a_batch_is_decided_by_its_step_alone(data):
    first, second = make(data), make(data)
    assert torch.equal(first(7), second(7))
    first(3), first(4)
    assert torch.equal(first(7), second(7))
    assert not torch.equal(first(7), first(8))
    assert not torch.equal(first(7), make(data, seed=1)(7))
    rows = first(7)
    assert rows.shape == (6, 40)
    assert (rows[:, 0] == 0).all()
    assert 0 <= int(rows.min()) <= int(rows.max()) < (256 if data in ("stdlib", "renamed") else 30)


def test_repeats_come_again_at_uneven_distances():
    rows = make("repeats", d_vocab=1000, length=64)(1)
    distances = set()
    for row in rows.tolist():
        seen = {}
        again = 0
        for place, token in enumerate(row):
            if token in seen:
                again += 1
                distances.add(place - seen[token])
            seen[token] = place
        assert again > 15  # most of a row is copies
    assert len(distances) > 8


def test_what_follows_a_trigger_is_kept_inside_a_row_and_drawn_anew_between_rows():
    rows = make("bigrams", batch_size=200, length=80)(2)
    ids = list(range(1, 30))
    triggers, follows = set(ids[:TRIGGERS]), []
    for row in rows[:, 1:].tolist():
        own = {}
        for token, after in itertools.pairwise(row):
            if token in triggers:
                assert own.setdefault(token, after) == after
        follows += own.items()
    by_trigger = pd.DataFrame(follows, columns=["trigger", "after"]).groupby("trigger")["after"]
    assert (by_trigger.nunique() > 15).all()
    # Other tokens keep to one table over all rows: their commonest successor is common.
    pairs = pd.DataFrame(
        [(a, b) for row in rows[:, 1:].tolist() for a, b in itertools.pairwise(row) if a not in triggers],
        columns=["token", "after"],
    )
    shares = pairs.groupby("token")["after"].agg(lambda after: after.value_counts(normalize=True).iloc[0])
    assert shares.mean() > 0.3


def test_text_is_the_standard_librarys_and_names_are_replaced_consistently():
    plain = bytes(make("stdlib", length=400)(1)[0, 1:].tolist()).decode("latin-1")
    assert re.search(r"\b(def|self|return|if|import)\b", plain)
    renamed = [bytes(row[1:].tolist()).decode("latin-1") for row in make("renamed", length=400)(1)]
    originals = [bytes(row[1:].tolist()).decode("latin-1") for row in make("stdlib", length=800)(1)]
    for new, old in zip(renamed, originals, strict=True):
        words = [re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text) for text in (new, old)]
        pairs = list(zip(*words, strict=False))[:-1]  # the last word may be cut
        known = {}
        for fresh, name in pairs:
            assert known.setdefault(name, fresh) == fresh
        assert re.sub(r"[A-Za-z0-9_]+", "x", new)[:40] == re.sub(r"[A-Za-z0-9_]+", "x", old)[:40]
    assert any(word in renamed[0] for word in ("if", "def", "return", "import", "in", "not", "is", "for"))


def test_data_that_cannot_be_used_is_refused(tmp_path):
    with refused("Text is trained on as bytes, which need d_vocab=256; got 30"):
        training_batches("stdlib", batch_size=2, length=20, d_vocab=30)
    with refused("There is no|cannot be read|No text"):
        training_batches(tmp_path / "none.txt", batch_size=2, length=20, d_vocab=256)
    (tmp_path / "short.txt").write_text("word")
    with refused("holds 4 bytes, too few to cut rows of 20 from"):
        training_batches(tmp_path / "short.txt", batch_size=2, length=20, d_vocab=256)
    with refused("bigrams need d_vocab of at least 11"):
        training_batches("bigrams", batch_size=2, length=20, d_vocab=8)


# The trainer.
def trainer_of(seed=0, **settings):
    model = il.new_toy(TrainOptions(**TINY).config(), seed=seed)
    return model, Trainer(model, lambda rows: model(rows, return_type="loss"), steps=12, warmup=4, **settings)


def test_the_learning_rate_rises_and_falls_as_it_should():
    batches = make("repeats", d_vocab=20, length=20)
    for decay in (False, True):
        _, trainer = trainer_of(decay=decay)
        rates = []
        for step in range(1, 13):
            trainer.learn(batches(step))
            rates.append(trainer.optimiser.param_groups[0]["lr"])
        slow = [2e-3 * min(1, k / 4) * ((1 - (k - 1) / 12) if decay else 1) for k in range(1, 13)]
        assert rates == pytest.approx(slow)


def test_a_step_is_that_of_plain_pytorch():
    """One step by hand: AdamW's first step moves each weight by the rate, against its gradient's sign."""
    model, trainer = trainer_of(weight_decay=0.0)
    batch = make("repeats", d_vocab=20, length=20)(1)
    before = [weight.detach().clone() for weight in trainer.parameters]
    loss = model(batch, return_type="loss")
    gradients = torch.autograd.grad(loss, trainer.parameters)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert trainer.learn(batch) == pytest.approx(loss.item())
    rate = 2e-3 / 4
    for old, new, gradient in zip(before, trainer.parameters, gradients, strict=True):
        clipped = gradient * min(1.0, 1 / float(norm))
        expected = old - rate * clipped / (clipped.abs() + 1e-8)
        assert torch.allclose(new, expected, atol=2e-6)


def test_gradients_are_clipped_to_norm_one():
    """AdamW's first moment is a tenth of the clipped gradient; its step alone would not show it."""
    model = il.new_toy(TrainOptions(**TINY).config(), seed=0)
    for scale in (1e3, 1e-3):
        trainer = Trainer(model, lambda rows, scale=scale: scale * model(rows, return_type="loss"), steps=12)
        trainer.learn(make("repeats", d_vocab=20, length=20)(1))
        moments = [trainer.optimiser.state[weight]["exp_avg"] for weight in trainer.parameters]
        norm = float(torch.stack([moment.norm() for moment in moments]).norm()) / 0.1
        assert norm == pytest.approx(1, rel=1e-4) if scale > 1 else norm < 0.1


def test_a_kept_state_goes_on_bit_for_bit():
    batches = make("repeats", d_vocab=20, length=20)
    model, whole = trainer_of()
    losses = [whole.learn(batches(step)) for step in range(1, 13)]
    _, first = trainer_of()
    for step in range(1, 6):
        first.learn(batches(step))
    state = first.state()
    third, second = trainer_of(seed=5)
    second.restore(state)
    assert second.step == 5
    assert [second.learn(batches(step)) for step in range(6, 13)] == losses[5:]
    for one, another in zip(portable_weights(model).values(), portable_weights(third).values(), strict=True):
        assert torch.equal(one, another)
    with refused("belongs to a model of another shape"):
        wide = il.new_toy(TrainOptions(**{**TINY, "d_model": 24}).config())
        Trainer(wide, lambda rows: wide(rows, return_type="loss"), steps=2).restore(state)


# Runs.
def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_snapshots_are_even_and_dense_at_first():
    assert snapshot_steps(600, 7) == [0, 1, 2, 4, 8, 16, 32, 64, 100, 200, 300, 400, 500, 600]
    assert snapshot_steps(3, 2) == [0, 1, 2, 3]
    assert snapshot_steps(1, 2) == [0, 1]


@pytest.mark.parametrize("stop", [1, 5, 8, 11])
def test_an_interrupted_run_ends_where_an_undisturbed_one_does(tmp_path, stop):
    train_toy(tmp_path / "whole", **TINY)

    def interrupt(step, steps):
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path / "broken", **TINY, on_progress=interrupt)
    train_toy(tmp_path / "broken", **TINY)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_killed_between_a_snapshot_and_its_state_nothing_is_lost(tmp_path, monkeypatch):
    from inductionlens.studies import training

    train_toy(tmp_path / "whole", **TINY)
    kept = training._keep

    def dies(trainer, *rest):
        if trainer.step == 8:
            raise KeyboardInterrupt
        kept(trainer, *rest)

    monkeypatch.setattr(training, "_keep", dies)
    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path / "broken", **TINY)
    monkeypatch.undo()
    (tmp_path / "broken" / ".writing").mkdir()  # a snapshot that was being written
    train_toy(tmp_path / "broken", **TINY)
    (tmp_path / "broken" / ".writing").exists()
    assert {k: v for k, v in files(tmp_path / "broken").items() if ".writing" not in k} == files(tmp_path / "whole")


def test_a_run_says_what_it_is(tmp_path):
    folder = train_toy(tmp_path / "run", **TINY)
    options = json.loads((folder / "run.json").read_text())["options"]
    assert options["d_vocab"] == 20
    table = pd.read_csv(folder / "training.csv")
    assert table["step"].tolist() == list(range(1, 13))
    assert table["tokens"].tolist() == [step * 80 for step in range(1, 13)]
    steps = [int(path.name[5:]) for path in sorted(folder.glob("step-*"))]
    assert steps == snapshot_steps(12, 4)
    first, last = (il.load_model(folder / f"step-{step:07d}") for step in (0, 12))
    batch = training_batches("repeats", batch_size=4, length=20, d_vocab=20)(1)
    with torch.no_grad():
        assert float(first(batch, return_type="loss")) == pytest.approx(table["loss"].iloc[0], abs=1e-5)
        assert float(last(batch, return_type="loss")) < table["loss"].iloc[0]
    before = files(folder)
    train_toy(folder, **TINY)
    assert files(folder) == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"norm": "BN"}, "norm must be one of LN, RMS, none; got 'BN'"),
        ({"n_ctx": 8}, "n_ctx must be at least 16"),
        ({"learning_rate": -1.0}, "learning_rate must lie between 0 and 10; got -1.0"),
        ({"seed": -1}, "seed must lie between 0 and"),
        ({"positions": "alibi"}, "positions must be one of standard, rotary, shortformer"),
        ({"layer": 2}, "train_toy has no setting 'layer'; it has layers"),
        ({"data": "stdlib"}, "need d_vocab=256; got 20"),
    ],
)
def test_bad_settings_leave_nothing_behind(tmp_path, settings, said):
    with refused(said):
        train_toy(tmp_path / "run", **{**TINY, **settings})
    assert list(tmp_path.iterdir()) == []


def test_folders_of_other_things_are_left_alone(tmp_path):
    train_toy(tmp_path / "run", **TINY)
    with refused(r"holds a run of other settings \(seed is 0 there and 1 here\); train into another folder"):
        train_toy(tmp_path / "run", **TINY, seed=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years")
    with refused("is not empty and holds no run"):
        train_toy(tmp_path / "full", **TINY)
    (tmp_path / "run" / "state.safetensors").write_bytes(b"torn")
    with refused("is truncated or corrupted"):
        train_toy(tmp_path / "run", **TINY)


def test_the_global_generators_are_left_alone(tmp_path):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train_toy(tmp_path / "run", **{**TINY, "steps": 3, "snapshots": 2})
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
