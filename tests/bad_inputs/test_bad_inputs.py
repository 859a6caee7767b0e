"""A thousand bad inputs, drawn from a seed: each is refused in one sentence, or done.

A failing line can be pasted; ``python tests/bad_inputs/bad_lines.py NUMBER`` lays out its folder and runs it.
"""

import sys

import pytest
from bad_lines import Case, commands, draw
from desk import LONG, WORKING, lay_out
from judge_line import judge

from inductionlens import cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CASES, BLOCK = 1000, 100


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "desk"
    folder.mkdir()
    lay_out(folder)
    return folder


@pytest.mark.parametrize("first", range(0, CASES, BLOCK))
def test_bad_inputs_are_refused_in_one_sentence_or_done(first, desk, tmp_path):
    known, faults = commands(), []
    for number in range(first, first + BLOCK):
        case = draw(number, known, desk)
        fault = judge(case, desk, tmp_path / "place").fault
        if fault:
            faults.append(f"{case.told()}\n    {fault}")
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("command", sorted(commands()))
def test_the_lines_that_are_made_bad_work(command, desk, tmp_path):
    """Else everything is refused for another reason than the bad one; and no command is left out."""
    assert command in WORKING
    assert command in LONG or WORKING[command]
    for line in WORKING[command]:
        answer = judge(Case(0, (command, *line.split()), None, False), desk, tmp_path / "place")
        assert answer.fault is None, line
        assert answer.code in ((0, 1) if command == "validate" else (0,)), line


def _raises():
    raise RuntimeError("deep inside")


def _two_lines():
    sys.stderr.write("inductionlens: one.\ninductionlens: two.\n")
    raise SystemExit(2)


def _left_file():
    open("new.csv.partial", "w").close()
    sys.stderr.write("inductionlens: no.\n")
    raise SystemExit(2)


def _accepts():
    raise SystemExit(0)


def _never_ends():
    while True:
        pass


@pytest.mark.parametrize("answer", [_raises, _two_lines, _left_file, _accepts, _never_ends])
def test_the_harness_sees_each_fault(answer, desk, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "main", answer)
    monkeypatch.setattr("judge_line.LIMIT", 1)
    assert judge(Case(0, ("scan", "--seed", "x"), None, True), desk, tmp_path / "place").fault
