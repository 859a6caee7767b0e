"""What the README prints is what its commands print."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from test_cli import run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    (command, printed)
    for block in CONSOLE
    for command, printed in re.findall(r"^\$ inductionlens (.*?)\n(.*?)(?=^\$ |\Z)", block, re.DOTALL | re.MULTILINE)
]


def number(word):
    """A word as a number, 40% as 0.4; the word itself where it is none."""
    bare = word.strip("();.,")
    try:
        return float(bare.removesuffix("%")) / (100 if bare.endswith("%") else 1)
    except ValueError:
        return word


def same(found, shown):
    """Equal words; numbers within 0.02, because text and arithmetic differ a little between machines."""
    found, shown = found.split(), shown.split()
    assert len(found) == len(shown)
    for one, other in zip(map(number, found), map(number, shown), strict=True):
        assert one == other or one == pytest.approx(other, abs=0.021)


def test_commands_print_what_is_shown(tmp_path, monkeypatch):
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 5
    for command, printed in COMMANDS:
        code, found, err = run(*command.split())
        assert (code, err) == (0, "")
        same(found, printed)


def test_the_first_lines_run_and_print_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len([line for line in lines.splitlines() if line.strip()]) <= 8
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(lines, {})
    assert out.getvalue() == re.search(r"```text\n(.*?)```", README, re.DOTALL).group(1)
    assert (tmp_path / "planted_heads.csv").is_file()


def test_every_link_leads_somewhere():
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target in anchors if target.startswith("#") else (ROOT / target).exists(), target


def test_two_install_commands_stand_ready_to_copy():
    assert len(re.findall(r"^pip install", README, re.MULTILINE)) == 2


def test_every_option_of_scan_is_a_setting_or_explained():
    from inductionlens.studies.options import ScanOptions
    from inductionlens.tables import COLUMNS, SCORES

    assert all(f"`{name}`" in README or name.startswith(("copying_", "offset", "ov_")) for name in SCORES)
    code, printed, _ = run("scan", "--help")
    assert code == 0
    for name in ScanOptions.__dataclass_fields__:
        option = name.replace("_", "-")
        assert f"--{option}" in printed or f"--no-{option}" in printed
    assert COLUMNS
