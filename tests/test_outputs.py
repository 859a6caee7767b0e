"""What a command writes never replaces what it reads, nor its other output."""

import os
import shutil
from pathlib import Path

import pytest
from test_cli import run
from test_run_folders import good  # noqa: F401 (a fixture)
from test_training import files

from inductionlens import InputError, cli
from inductionlens.cli.outputs import BESIDE, OUTPUTS, Checked, check_outputs

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def desk(good, tmp_path, monkeypatch):  # noqa: F811
    """A model ``m``, a run ``run``, tables, and links to them, in the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "data" / "attn-only-1l", "m")
    shutil.copytree(good, "run")
    for name in ("a.csv", "b.csv", "steps.csv", "steps.heads.csv", "steps.csv.meta.json", "t.csv", "t.recipe.json"):
        Path(name).write_text("precious")
    os.link("a.csv", "hard.csv")
    os.symlink("a.csv", "soft.csv")
    os.symlink("m", "n")
    os.symlink("../c.json", "m/linked.json")
    Path("c.json").write_text("precious")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("scan m --out m/config.json", "--out m/config.json would replace m/config.json, which is read"),
        ("scan m --samples m/config.json", "--samples m/config.json would replace"),
        ("scan n --out m/config.json", "--out m/config.json would replace"),
        ("scan m --out n/config.json", "--out n/config.json would replace"),
        ("scan m --out c.json", "--out c.json would replace"),
        ("icl m --out ./m/../m/config.json", "would replace"),
        ("circuit m --terms m/config.json", "--terms m/config.json would replace"),
        ("repeats planted m --out m/config.json", "would replace"),
        ("formation run --out run/training.csv", "--out run/training.csv would replace run/training.csv"),
        ("formation run --out run/run.json", "would replace"),
        ("watch run --out run/step-0000000/config.json", "would replace"),
        ("compare a.csv b.csv --out b.csv", "--out b.csv would replace b.csv, which is read"),
        ("compare a.csv b.csv --out hard.csv", "--out hard.csv would replace hard.csv"),
        ("compare soft.csv b.csv --out a.csv", "--out a.csv would replace a.csv"),
        ("compare a.csv b.csv --out soft.csv", "--out soft.csv would replace soft.csv"),
        ("ranks a.csv --out a.csv", "would replace"),
        ("changes steps.csv --out steps.csv", "would replace"),
        ("changes steps.csv --out steps.heads.csv", "--out steps.heads.csv would replace steps.heads.csv"),
        ("changes steps.csv --out steps.csv.meta.json", "would replace"),
        ("validate m --against t.csv --out t.recipe.json", "would replace"),
        (
            "circuit planted --out x.csv --terms x.csv",
            "--terms and --out need files of their own; both would write x.csv",
        ),
        ("circuit planted --out x.csv --terms x.heads.csv", "both would write x.heads.csv"),
        ("circuit planted --out x.csv --terms ./x.csv", "need files of their own"),
        ("scan planted --out x.csv --samples x.csv.meta.json", "--samples and --out need files of their own"),
    ],
)
def test_it_is_refused_before_anything_is_loaded(words, said, desk, monkeypatch):
    from inductionlens.models import loading

    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    before = files(desk)
    code, printed, err = run(*words.split())
    assert (code, printed, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert files(desk) == before


def test_new_files_earlier_tables_and_pictures_may_lie_in_a_folder_that_is_read(desk):
    Path("m/scores.csv").write_text("an earlier table")
    Path("m/scores.csv.meta.json").write_text("{}")
    Path("run/f.heads.csv").write_text("interrupted")
    Path("run/f.heads.csv.meta.json").write_text("{}")
    check_outputs("scan", {"model": "m", "out": Path("m/scores.csv"), "samples": Path("m/new.csv")})
    check_outputs("formation", {"run": "run", "out": Path("run/f.csv")})
    check_outputs("circuit", {"model": "planted", "out": Path("b.csv"), "picture": Path("b.png")})
    check_outputs("compare", {"first": Path("a.csv"), "second": Path("gone.csv"), "out": Path("b.csv")})
    with pytest.raises(InputError, match="would replace"):
        check_outputs("formation", {"run": "run", "out": Path("run/training.csv")})


def test_an_output_without_a_name_is_one_sentence(desk):
    code, _, err = run("compare", "s.csv", "t.csv", "--out", "/")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("inductionlens: ")


def test_every_command_passes_through_the_check_and_every_output_is_known():
    from typer.main import get_command

    commands = get_command(cli.app).commands
    assert set(BESIDE) <= set(commands)
    for name, command in commands.items():
        assert isinstance(command, Checked), name
        for option in command.params:
            if (option.help or "").startswith(("Write", "Draw", "The picture", "A picture")):
                assert option.name in OUTPUTS, (name, option.name)
