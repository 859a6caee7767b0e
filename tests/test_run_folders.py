"""The files of a run: spoiled ones are refused in a sentence, and one process at a time writes them."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_cli import run
from test_fuzz import answer, often
from test_training import TINY, files

from inductionlens import InputError
from inductionlens import files as package_files
from inductionlens.partial import Partial
from inductionlens.studies.analysis import analysis
from inductionlens.studies.changes_table import read_models
from inductionlens.studies.formation import formation
from inductionlens.studies.run_files import training_losses
from inductionlens.studies.training import run_settings, train_toy

FEW = {"sequences": 2, "n_windows": 3}


def refused(match):
    return pytest.raises(InputError, match=match)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return train_toy(tmp_path_factory.mktemp("runs") / "run", **TINY)


@pytest.fixture
def spoiled(good, tmp_path):
    """A copy of that run for a test to break."""
    return shutil.copytree(good, tmp_path / "run")


def note_of(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda note: {"options": []}, "it is not of format inductionlens-run, version 1"),
        (lambda note: [note], "it is not of format"),
        (lambda note: {**note, "version": 2}, "it is not of format"),
        (lambda note: {**note, "options": {**note["options"], "later": 1}}, "it has an unknown option later"),
        (lambda note: {**note, "options": {"seed": 0}}, "it has no option batch_size"),
        (lambda note: {**note, "options": {**note["options"], "n_ctx": "20"}}, "its option n_ctx is '20', a str"),
        (lambda note: {**note, "options": {**note["options"], "mlp": 1}}, "its option mlp is '1', a int"),
        (lambda note: {**note, "options": {**note["options"], "steps": 0}}, "steps must be at least 1"),
    ],
)
def test_a_spoiled_record_is_named_by_every_command_that_needs_it(change, said, spoiled):
    (spoiled / "run.json").write_text(json.dumps(change(note_of(spoiled))))
    before = files(spoiled)
    for use in (lambda: train_toy(spoiled, **TINY), lambda: formation(spoiled, **FEW)):
        with refused(f"run.json is no record of a run that this version knows .*{said}.*; restore it or move it away"):
            use()
    assert files(spoiled) == before


def test_json_too_deep_is_no_record(spoiled):
    (spoiled / "run.json").write_text("[" * 100_000)
    with refused("it is not readable JSON"):
        formation(spoiled, **FEW)


@pytest.mark.parametrize("text", ["", "step,loss\n1,2\n", "step,tokens,loss\n", "step,tokens,loss\n1,80,much\n",
                                  "step,tokens,loss\n2,80,1.0\n", "\0"])  # fmt: skip
def test_losses_that_are_no_table_of_losses_are_refused(text, spoiled):
    (spoiled / "training.csv").write_text(text)
    for use in (lambda: train_toy(spoiled, **TINY), lambda: formation(spoiled, **FEW)):
        with refused("training.csv is no table of the losses of a training"):
            use()


def test_losses_that_were_removed_are_written_anew(good, spoiled):
    (spoiled / "training.csv").unlink()
    assert training_losses(spoiled) is None
    train_toy(spoiled, **TINY)
    assert files(spoiled) == files(good)


def test_a_state_without_any_one_of_its_tensors_is_refused(good, spoiled):
    state = load_file(good / "state.safetensors")
    for name in state:
        save_file({key: value for key, value in state.items() if key != name}, spoiled / "state.safetensors")
        with refused("state.safetensors"):
            train_toy(spoiled, **TINY)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", torch.tensor(13)),
        ("step", torch.tensor(-1)),
        ("step", torch.tensor([12, 12])),
        ("step", torch.tensor(12.0)),
        ("losses", torch.zeros(11, dtype=torch.float64)),
        ("losses", torch.zeros(12)),
        ("exp_avg.0", torch.zeros(1)),
        ("weight.0", torch.zeros(1)),
        ("weight.999", torch.zeros(1)),
    ],
)
def test_a_state_of_other_shapes_is_refused(name, value, spoiled):
    state = load_file(spoiled / "state.safetensors")
    save_file({**state, name: value}, spoiled / "state.safetensors")
    with refused("state.safetensors"):
        train_toy(spoiled, **TINY)


def test_steps_beyond_any_integer_are_refused(spoiled):
    shutil.copytree(spoiled / "step-0000000", spoiled / "step-9999999999999999999999999")
    with refused("step-9999999999999999999999999 names a step of 2\\^63 or more"):
        formation(spoiled, **FEW)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
                   st.just(10**300))  # fmt: skip


@often(60)
@given(st.dictionaries(st.sampled_from([*sorted(TINY), "data", "norm", "seed", "x"]), VALUES, min_size=1, max_size=3),
       st.sampled_from(["options", "note"]))  # fmt: skip
def test_a_record_of_any_values_is_read_or_refused(good, tmp_path_factory, values, place):
    folder = tmp_path_factory.mktemp("record")
    note = note_of(good)
    changed = {**note, "options": {**note["options"], **values}} if place == "options" else {**note, **values}
    (folder / "run.json").write_text(json.dumps(changed))
    settings = answer(run_settings, folder)
    assert settings is None or set(settings) == set(note["options"])


@often(40)
@given(st.dictionaries(st.sampled_from(["run", "measured", "options", "verdicts", "intervals"]), VALUES, min_size=1),
       st.none() | VALUES)  # fmt: skip
def test_a_record_beside_tables_holds_any_values(table, tmp_path_factory, values, followed):
    folder = shutil.copytree(table, tmp_path_factory.mktemp("tables") / "tables")
    note = folder / "f.csv.meta.json"
    record = json.loads(note.read_text())
    record["measured"]["followed"] = followed
    note.write_text(json.dumps({**record, **values}))
    models = answer(read_models, [folder / "f.csv"])
    if models is not None:
        analysis({name: runs[0] for name, runs in models.items()})


@pytest.fixture(scope="module")
def table(good, tmp_path_factory):
    """A folder with the tables of that run."""
    folder = tmp_path_factory.mktemp("tables")
    formation(good, **FEW).save(folder / "f.csv")
    return folder


# One process at a time.
HOLD = """
import sys, time
from pathlib import Path
from inductionlens.locks import held
with held(Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """Let another process hold a lock; its end is the test's."""
    holders = []

    def start(lock):
        holders.append(subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True))
        assert holders[-1].stdout.readline() == "held\n"
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_a_second_training_into_a_folder_is_refused_until_the_first_is_killed(hold, spoiled, good):
    holder = hold(spoiled / ".lock")
    with refused("Another process is training into .*; wait for it to end, or train into another folder"):
        train_toy(spoiled, **TINY)
    holder.kill()
    holder.wait()
    train_toy(spoiled, **TINY)
    assert files(spoiled) == files(good)


def test_a_folder_in_which_a_training_was_killed_at_once_is_empty(good, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    train_toy(tmp_path / "run", **TINY)
    assert files(tmp_path / "run") == files(good)


def test_parts_in_use_are_refused(hold, good, tmp_path):
    hold(tmp_path / "f.csv.partial.lock")
    code, _, err = run("formation", good, "--windows", 3, "--sequences", 2, "--out", tmp_path / "f.csv")
    assert code == 2
    assert "f.csv.partial is in use by another process; wait for it to end, or write elsewhere" in err
    assert sorted(os.listdir(tmp_path)) == ["f.csv.partial.lock"]


def test_a_lock_is_given_back_after_an_error(tmp_path):
    from inductionlens.locks import held

    for _ in range(2):
        with pytest.raises(KeyError), held(tmp_path / "lock", "taken"):
            raise KeyError
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path / "lock", "taken"), refused("taken"), held(tmp_path / "lock", "taken"):
        pass


# A disk that is full.
def test_a_snapshot_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    from inductionlens.studies import run_files

    def full(model, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_files, "save_toy", full)
    with refused(r"The snapshot .*step-0000000 cannot be written: No space left on device"):
        train_toy(tmp_path / "run", **TINY)
    assert os.listdir(tmp_path / "run") == ["run.json"]


@pytest.mark.parametrize("command", ["formation", "ablate"])
def test_finished_parts_stay_until_the_table_is_there(command, good, tmp_path, monkeypatch):
    words = {
        "formation": ("formation", good, "--windows", 3, "--sequences", 2, "--out", tmp_path / "a.csv"),
        "ablate": ("ablate", "planted", "--measures", "copies", "--no-groups", "--out", tmp_path / "a.csv"),
    }[command]
    replace = os.replace

    def full(source, target):
        if str(target).endswith("a.csv"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(package_files.os, "replace", full)
    code, _, err = run(*words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "a.csv cannot be written: No space left on device" in err
    assert os.listdir(tmp_path) == ["a.csv.partial"]
    monkeypatch.undo()
    assert run(*words)[0] == 0
    assert not (tmp_path / "a.csv.partial").exists()


# Finished parts.
PARTS = {"a": {"values": [1.5, float("nan")]}, "b": [0.1], "c": None}


def written(path):
    with Partial(path, {"seed": 1}) as parts:
        for key, part in PARTS.items():
            parts.add(key, part)
    return path.read_bytes()


def test_parts_make_no_file_before_the_first(tmp_path):
    with Partial(tmp_path / "parts", {"seed": 1}):
        pass
    assert list(tmp_path.iterdir()) == []


@often(80)
@given(
    st.integers(0, 10**6), st.sampled_from([b"", b"\n", b"7", b"\xff", b'["a", 1]\n', b"\0" * 50]), st.integers(0, 40)
)
def test_spoiled_parts_are_done_again_and_never_taken_up(tmp_path_factory, at, piece, cut):
    path = tmp_path_factory.mktemp("parts") / "parts"
    content = written(path)
    head = content.index(b"\n") + 1
    at = head + at % (len(content) - head)
    path.write_bytes(content[:at] + piece + content[at + cut :])
    with Partial(path, {"seed": 1}) as parts:
        kept = dict(parts.parts)
        for key in kept:
            assert repr(kept[key]) == repr(PARTS[key])
        parts.add("d", 4)
    with Partial(path, {"seed": 1}) as parts:
        assert repr(parts.parts) == repr({**kept, "d": 4})


@pytest.mark.parametrize("content", [b"\nmine", b"mine", b"\xff\xfe", b'{"seed": 2}\n'])
def test_a_file_of_other_things_is_left_alone(content, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with refused("holds unfinished work of other settings or another model"), Partial(path, {"seed": 1}):
        pass
    assert path.read_bytes() == content


def test_a_part_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    written(tmp_path / "parts")
    with Partial(tmp_path / "parts", {"seed": 1}) as parts:
        (tmp_path / "parts").unlink()
        (tmp_path / "parts").mkdir()
        with refused("parts cannot be written: Is a directory"):
            parts.add("d", 4)
