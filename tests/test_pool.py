"""Pools: which token ids random sequences are drawn from."""

import json
import os

import pytest
import torch
from test_cli import run

import inductionlens as il
from inductionlens.models.vocabulary import encoder, ordinary_ids
from inductionlens.studies.ablation_options import AblationOptions
from inductionlens.studies.ablation_stimuli import copies_probe
from inductionlens.studies.circuit import _probe
from inductionlens.studies.formation_options import FormationOptions
from inductionlens.studies.formation_stimuli import Stimuli
from inductionlens.studies.options import ScanOptions
from inductionlens.studies.pool import make_pool, read_ids
from inductionlens.studies.repeats import _probe as repeats_probe
from inductionlens.studies.stimuli import make_probes
from inductionlens.studies.windows import make_windows


@pytest.fixture(scope="module")
def gpt2(gpt2_folder):
    return il.load_model(gpt2_folder)


@pytest.fixture
def some(tmp_path):
    """A file of 20 ids, of which 0 is BOS."""
    path = tmp_path / "ids.txt"
    path.write_text("\n".join(map(str, range(19, -1, -1))) + "\n")
    return str(path)


def test_the_tokenizers_pool_is_its_ordinary_ids_without_the_ends(gpt2):
    pool = make_pool(gpt2, 0)
    assert pool.ids.tolist() == il.token_pool(ordinary_ids(gpt2)).tolist()
    assert pool.record()["source"] == "tokenizer"
    others = [index for index in ordinary_ids(gpt2).tolist() if index != 7]
    assert make_pool(gpt2, 7).ids.tolist() == il.token_pool(others).tolist()


def test_a_text_gives_the_ids_that_occur_in_it(gpt2, tmp_path, monkeypatch):
    words = "def f(x): return x\n" * 3
    (tmp_path / "words.txt").write_text(words)
    pool = make_pool(gpt2, 0, "text", tmp_path / "words.txt")
    assert pool.ids.tolist() == sorted(set(encoder(gpt2)(words)))
    assert pool.record() == {
        "source": "text", "ids": len(pool.ids), "sha256": pool.record()["sha256"],
        "how": "ordinary ids that occur in words.txt; without replacement inside a block",
    }  # fmt: skip
    monkeypatch.setattr("inductionlens.studies.pool.SEARCHED", 3)
    assert make_pool(gpt2, 0, "text", tmp_path / "words.txt").ids.tolist() == sorted(set(encoder(gpt2)(words[:4])))


def test_a_text_pool_leaves_out_bytes_that_no_text_holds(gpt2):
    """Byte-level vocabularies have 256 single bytes; source text has few of those beyond ASCII alone."""
    pool = make_pool(gpt2, 0, "text")
    assert "stdlib of Python" in pool.how
    absent = set(ordinary_ids(gpt2).tolist()) - set(pool.ids.tolist())
    assert 10 < len(absent) < 200
    assert make_pool(gpt2, 0, "text", "random").record() == pool.record()


def test_a_file_of_ids_is_taken_as_it_is_but_for_bos(some, gpt2, tmp_path):
    assert make_pool(gpt2, 0, some).ids.tolist() == list(range(1, 20))
    assert make_pool(gpt2, None, some).ids.tolist() == list(range(20))
    (tmp_path / "ids.json").write_text(json.dumps([5, 3, 3, 8]))
    assert make_pool(gpt2, 0, tmp_path / "ids.json").ids.tolist() == [3, 5, 8]
    (tmp_path / "other.json").write_text(json.dumps([3, 5, 9]))
    digests = {make_pool(gpt2, 0, tmp_path / name).record()["sha256"] for name in ("ids.json", "other.json")}
    assert len(digests) == 2


def test_every_study_draws_from_the_pool_asked_for(some, random_toy):
    ids = set(range(20))
    scan = ScanOptions(pool=some, period=6, logit_period=6, repeats=3)
    probes = make_probes(random_toy, scan)
    formation = Stimuli(random_toy, FormationOptions(pool=some, period=6), None)
    drawn = {
        "scan": [probes.repeated.tokens, probes.once.tokens, probes.logit.tokens, probes.gapped.tokens, probes.fresh],
        "mcdougall": [make_probes(random_toy, ScanOptions(**vars(scan) | {"logit_recipe": "mcdougall"})).logit.tokens],
        "ablate": [copies_probe(random_toy, AblationOptions(pool=some, period=6)).tokens],
        "circuit": [_probe(random_toy, 4, 6, True, 0, some).tokens],
        "formation": [formation.repeated.tokens, formation.logit.tokens, formation.windows.tokens],
        "repeats": [repeats_probe(random_toy, kind, (6, 2, 4), 0, 0, some).tokens for kind in ("uniform", "zipf")],
        "windows": [make_windows(random_toy, "random", windows=4, pool=some).tokens],
    }
    for study, parts in drawn.items():
        for tokens in parts:
            assert set(tokens.flatten().tolist()) <= ids, study
    wide = make_probes(random_toy, ScanOptions(period=6, logit_period=6, repeats=3))
    assert not set(wide.repeated.tokens.flatten().tolist()) <= ids


COMMANDS = {
    "scan": ("scan planted --sequences 2 --period 6 --logit-period 6", lambda record: record["probes"]["pool"]),
    "ablate": ("ablate planted --sequences 2 --period 6 --windows 2 --no-groups --heads 1.2",
               lambda record: record["stimuli"]["pool"]),
    "circuit": ("circuit planted --sequences 2 --period 6 --readers 1.2", lambda record: record["pool"]),
    "orders": ("orders planted --sequences 5 --windows 5 --length 40", lambda record: record["stimuli"]["pool"]),
    "icl": ("icl planted --windows 2", lambda record: record["windows"]["pool"]),
    "repeats": ("repeats planted --period 6 --sequences 2 --tokens uniform", lambda record: record["model"][0]["pool"]),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_a_pool_and_record_it(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(1, 41))))
    words, entry = COMMANDS[command]
    assert run(*words.split(), "--pool", "ids.txt", "--out", "t.csv", "-q")[::2] == (0, "")
    record = json.loads((tmp_path / "t.csv.meta.json").read_text())
    assert (entry(record)["source"], entry(record)["ids"]) == ("ids.txt", 40)
    assert entry(record)["sha256"] == make_pool(il.planted(), 0, "ids.txt").record()["sha256"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "whole numbers from 0 on; it is empty"),
        ("[]", "whole numbers from 0 on; it is empty"),
        ("3\nthree\n", "one on each line or a JSON list: invalid literal"),
        ("[3, 4", "one on each line or a JSON list: Expecting"),
        ("[3, 4.5]", "whole numbers from 0 on; it holds 4.5"),
        ("[3, true]", "whole numbers from 0 on; it holds True"),
        ("3\n-1", "whole numbers from 0 on; it holds -1"),
        ("[" * 100_000, "one on each line or a JSON list"),
    ],
)
def test_a_file_that_holds_no_ids_is_one_sentence(content, sentence, tmp_path):
    (tmp_path / "ids").write_text(content)
    with pytest.raises(il.InputError, match=f"The pool .*ids must hold token ids.*{sentence}"):
        ScanOptions(pool=str(tmp_path / "ids"))


def test_bad_pools_are_refused_before_a_model_is_loaded(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for pool, sentence in (
        ("words", "pool must be tokenizer, text or a file of token ids; there is no file words"),
        ("", "pool must be tokenizer, text or a file of token ids; got ''"),
        (tmp_path, "must be a file; it is a folder"),
        (tmp_path / "pipe", "must be a file; it is a pipe"),
        ("/dev/zero", "must be a file; it is a device"),
    ):
        for study in (il.scan, il.circuit, il.in_context_learning, il.ablation_study, il.path_orders, il.repeats):
            with pytest.raises(il.InputError, match=sentence):
                study("no such model", pool=pool)


def test_ids_and_texts_that_a_model_cannot_use_are_refused(random_toy, gpt2, some, tmp_path):
    (tmp_path / "large").write_text("3\n4\n48\n")
    with pytest.raises(il.InputError, match="must hold ids below the model's 48 tokens; it holds 48"):
        il.scan(random_toy, pool=str(tmp_path / "large"))
    with pytest.raises(
        il.InputError, match="no tokenizer, so no text says which of its ids occur; use pool='tokenizer'"
    ):
        il.scan(random_toy, pool="text")
    with pytest.raises(il.InputError, match="19 ids may be drawn"):
        il.scan(random_toy, pool=some)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(il.InputError, match=r"No ordinary token of the model occurs in the text empty\.txt"):
        make_pool(gpt2, 0, "text", tmp_path / "empty.txt")


def test_ids_may_stand_in_lines_or_in_a_list(tmp_path):
    (tmp_path / "ids").write_text("\ufeff7\r\n8\r\n")
    assert read_ids(tmp_path / "ids") == [7, 8]
    (tmp_path / "ids").write_text(" [7,\n8]\n")
    assert read_ids(tmp_path / "ids") == [7, 8]
    assert torch.equal(make_pool(il.planted(), None, tmp_path / "ids").ids, torch.tensor([7, 8]))
