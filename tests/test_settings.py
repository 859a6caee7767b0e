"""Settings that no command can use: refused in one way, before anything is loaded or written."""

import os

import pytest

import inductionlens as il
from inductionlens import checks
from inductionlens.models.memory import check_memory, memory_of
from inductionlens.studies.training import TrainOptions, snapshot_steps, train_toy
from inductionlens.studies.watching import watch
from tests.test_cli import run

#: A model that is not there: a setting that was looked at after the model was loaded would bring another sentence.
COMMANDS = {
    "scan nowhere": ("seed", "batch-size", "sequences", "period", "repeats", "logit-period"),
    "icl nowhere": ("seed", "batch-size", "windows", "length", "late", "early"),
    "ablate nowhere": ("seed", "batch-size", "sequences", "period", "repeats", "windows", "length", "draws"),
    "circuit nowhere": ("seed", "batch-size", "sequences", "period", "distance"),
    "orders nowhere": ("seed", "batch-size", "sequences", "period", "repeats", "windows", "length"),
    "trigrams nowhere": ("seed", "top", "distance"),
    "repeats nowhere": ("seed", "batch-size", "sequences", "period", "times"),
    "train --out r": ("seed", "batch-size", "steps", "layers", "heads", "d-model", "d-head", "d-vocab", "n-ctx",
                      "warmup", "snapshots", "learning-rate", "weight-decay"),
    "formation nowhere": ("seed", "batch-size", "sequences", "period", "windows", "length", "late", "early"),
    "watch nowhere --out w.csv": ("seed", "frames", "period"),
    "reproduce --out r": ("workers",),
}  # fmt: skip
VALUES = {"negative": "-1", "huge": str(2**63), "nan": "nan", "infinite": "inf"}
OPTIONS = [(command, option) for command, options in COMMANDS.items() for option in options]


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=[" ".join(pair) for pair in OPTIONS])
def test_no_number_that_cannot_be_meant_is_taken(command, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = {"windows": "n_windows", "times": "repeats"}.get(option, option.replace("-", "_"))
    for value in VALUES.values():
        code, printed, err = run(*command.split(), f"--{option}", value)
        assert (code, printed, len(err.splitlines())) == (2, "", 1)
        assert f"{name} must" in err or f"Invalid value for '--{option}'" in err
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("formation nowhere --device x", "The device 'x' cannot be used here"),
        ("watch nowhere --out w.csv --device meta", "The device 'meta' cannot be used here"),
        ("watch nowhere --out w.csv --frames 0", "frames must be at least 1; got 0"),
        ("train --out r --device x", "The device 'x' cannot be used here"),
        ("train --out r --device meta", "The device 'meta' cannot be used here"),
        ("train --out r --batch-size 1000000", "A step of 1000000 rows of 96 tokens needs at least"),
        ("train --out r --d-vocab 1", "d_vocab must be at least 4; got 1"),
        ("train --out r --data bigrams --d-vocab 1000000", "A table of bigrams needs at least 8 TB of memory"),
        ("train --out r --norm BN", "norm must be one of LN, RMS, none; got 'BN'"),
        ("formation nowhere --windows 1000000000", "n_windows must be at most 100,000; got 1000000000"),
        ("scan nowhere --sequences 100000", "1000000 sequences of 60 tokens are too many: their ids and losses alone"),
        ("ablate nowhere --measures copies,", "measures must be among copies, icl, text; got ''"),
        ("ablate nowhere --heads inducton", "There is no kind 'inducton' of head; heads may be all, names"),
        ("circuit nowhere --readers 1.x", "A head is named like 5.1"),
        ("trigrams nowhere --head 1.0", "Skip trigrams are read off heads of layer 0; got 1.0"),
        ("repeats nowhere --tokens letters", "distributions must be among uniform, zipf, shuffled, text"),
        ("reproduce --out r --preset long", "preset must be one of quick, full; got 'long'"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_loaded(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, err = run(*words.split())
    assert (code, printed, len(err.splitlines())) == (2, "", 1)
    assert sentence in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("train", "--out", ""), "--out"),
        (("train", "--out="), "--out"),
        (("scan", ""), "an argument"),
        (("scan", "planted", "--text", " "), "--text"),
    ],
)
def test_an_empty_word_is_refused(words, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == (2, "", f"inductionlens: {named} is empty; give it a value, or leave it out.\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [-1, 2**63, True])
def test_python_refuses_the_same_seeds(value, tmp_path):
    calls = (
        lambda: il.scan("nowhere", seed=value),
        lambda: il.in_context_learning("nowhere", seed=value),
        lambda: il.ablation_study("nowhere", seed=value),
        lambda: il.circuit("nowhere", seed=value),
        lambda: il.path_orders("nowhere", seed=value),
        lambda: il.skip_trigrams("nowhere", seed=value),
        lambda: il.repeats("nowhere", seed=value),
        lambda: il.train_toy(tmp_path / "r", seed=value),
        lambda: il.formation("nowhere", seed=value),
        lambda: watch("nowhere", seed=value),
    )
    for call in calls:
        with pytest.raises(il.InputError, match=r"seed must lie between 0 and 2\^63 - 1; got "):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 0.5}, "seed must lie between 0 and 2\\^63 - 1; got 0.5"),
        ({"seed": None}, "seed must lie between 0 and 2\\^63 - 1; got None"),
        ({"bos": -1}, "bos must be True, False or a token id, a whole number from 0 on; got -1"),
        ({"bos": "5"}, "bos must be True, False or a token id, a whole number from 0 on; got '5'"),
        ({"ablate": "no"}, "ablate must be True or False; got 'no'"),
        ({"controls": 1}, "controls must be True or False; got 1"),
        ({"period": 4.0}, "period must be a whole number; got 4.0"),
        ({"sequences": True}, "sequences must be a whole number; got True"),
        ({"repeats": None}, "repeats must be a whole number; got None"),
        ({"n_windows": 1000, "length": 10**6}, "1000 windows of 1000000 tokens are too many"),
    ],
)
def test_values_of_another_kind_are_refused(settings, said):
    with pytest.raises(il.InputError, match=said):
        checks.check_settings(**settings)


def test_long_values_are_cut_in_messages():
    with pytest.raises(il.InputError, match="got a number beyond 10"):
        il.scan("nowhere", sequences=10**4000)
    with pytest.raises(il.InputError) as refusal:
        il.scan("nowhere", reduce="x" * 500)
    assert len(str(refusal.value)) < 200


def test_sizes_are_told_in_bytes():
    assert [checks.in_bytes(count) for count in (12, 3200, 4.1e12, 10**40)] == [
        "12 bytes", "3.2 kB", "4.1 TB", "more than all computers have",
    ]  # fmt: skip
    with pytest.raises(il.InputError, match=r"100001 sequences of 100 tokens .* take about 160 MB"):
        checks.check_size(100_001, 100)


def test_work_that_no_memory_holds_is_refused():
    most = memory_of("cpu")
    if most is None:
        pytest.skip("this system does not say how much memory it has")
    check_memory(most, "cpu", "It", "take less")
    with pytest.raises(il.InputError, match=r"It needs at least .*B of memory, and cpu has .*B; take less\."):
        check_memory(most + 1, "cpu", "It", "take less")


def test_more_snapshots_than_steps_are_every_step():
    assert snapshot_steps(3, 10_000) == [0, 1, 2, 3]
    with pytest.raises(il.InputError, match="snapshots must be at most 10,000"):
        TrainOptions(snapshots=10**9)


def test_a_run_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(il.InputError, match="path is empty"):
        train_toy("", steps=1)
    assert os.listdir(tmp_path) == []
