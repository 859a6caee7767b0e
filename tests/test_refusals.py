"""Every public function refuses what cannot be meant, in one sentence, and takes what is only spelt another way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import inductionlens as il
from inductionlens import Head
from inductionlens.heads import parse_heads
from inductionlens.models.token_checks import checked_tokens


@pytest.fixture(scope="module")
def outcomes():
    """The table of `bad_calls`, run by an interpreter of its own: here shapes are checked before the calls begin."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, here / "bad_calls.py"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_every_bad_call_is_refused_in_one_sentence(outcomes):
    assert len(outcomes) > 150
    badly = {}
    for name, (kind, message, words) in outcomes.items():
        sentence = message.endswith(".") and "\n" not in message
        if kind != "InputError" or not sentence or not any(part in message for part in words.split("|")):
            badly[name] = (kind, message, words)
    assert not badly


def test_every_public_function_is_in_the_table(outcomes):
    results = {"HeadScores", "InputError"}  # a table of scores, and the exception itself
    named = " ".join(outcomes)
    assert [name for name in il.PUBLIC if name not in named and name not in results] == []


@pytest.mark.parametrize(
    "heads",
    [
        (1, 2), Head(1, 2), "1.2", " L1H2 ", ["1.2"], [(np.int64(1), np.int64(2))], (np.int8(1), 2),
        iter([Head(1, 2), "1.2"]), {"l1h2"},
    ],
    ids=[f"spelling {number}" for number in range(9)],
)  # fmt: skip
def test_one_head_may_be_spelt_in_many_ways(heads):
    assert parse_heads(heads, "heads") == [Head(1, 2)]
    assert [type(part) for part in parse_heads((np.int64(1), np.int64(2)), "heads")[0]] == [int, int]


def test_heads_are_ordered_and_named_once():
    assert parse_heads("1.2, 0.1,1.2", "heads") == [Head(0, 1), Head(1, 2)]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_tokens_of_every_whole_kind_are_taken(planted, dtype):
    tokens = torch.arange(1, 25).view(2, 12)
    given = checked_tokens(planted, tokens.to(dtype), "tokens")
    assert given.dtype == torch.int64
    assert torch.equal(given, tokens)
    assert il.clean_run(planted, tokens).tokens is tokens


def test_pools_of_every_whole_kind_are_taken():
    expected = il.token_pool(torch.arange(100))
    for given in (range(100), list(range(100)), torch.arange(100, dtype=torch.int32)):
        pool = il.token_pool(given)
        assert pool.dtype == torch.int64
        assert torch.equal(pool, expected)
    assert len(il.token_pool([])) == 0
