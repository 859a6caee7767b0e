"""Bad command lines, drawn from a seed: ``python tests/bad_inputs/bad_lines.py NUMBER`` runs one of them by hand."""

import inspect
import json
import random
import shlex
import sys
import tempfile
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from desk import LONG, WORKING, lay_out

from inductionlens import cli

NAMES = ["no/such", "no/such.csv", "\x1b[31mred.csv", "two\nlines.csv", "x" * 300 + ".csv", "\udcff.csv", " ", "-", "."]
PLACES = ["empty.txt", "toy", "toy/config.json", "run", "scores.csv", "words.txt", "/dev/null", "/", "new.xyz"]
WORDS = ["", "no-such-word", "99.99", "a,b", ",", "nan", "\x1b]0;title\x07", "line\nbreak", "٣", "x" * 5000, "--", "-1"]
WHOLE = ["-1", "0", "", "x", "1.5", "nan", "inf", "-9", "1e3", "٣x", str(2**31), str(2**63), "9" * 25, "9" * 5000]
REAL = ["-1", "0", "", "x", "nan", "inf", "-inf", "1e400", "1e30", "-0.0"]
#: Options for which so many is long work, not bad input.
LONG_WORK = {("train", "--steps")}
#: Values that no whole number, and no real number, of any option may have; they are never work.
NEVER = {int: {"", "x", "1.5", "nan", "inf", "٣x"}, float: {"", "x", "nan", "inf", "-inf"}}
CELLS = ["", "nan", "inf", "-1", "x", "1e400", "9" * 30, "0.5", "\x1b[1m", '"']
FIELDS: list[Any] = [None, True, -1, 0, 1.5, 10**20, 1e308, float("nan"), "", "x", "a\nb", [], [1], {}, {"a": []}]


@dataclass(frozen=True)
class Case:
    """One bad input."""

    number: int
    """From which everything else is drawn."""
    words: tuple[str, ...]
    """The command line."""
    spoiled: tuple[str, str] | None
    """A file of the folder and what is done to it; None where the command line alone is bad."""
    never: bool
    """Whether the line must be refused, whatever else."""

    def told(self) -> str:
        """A line to paste, in a fresh copy of the folder."""
        spoiled = f"  # {self.spoiled[0]}: {self.spoiled[1]}" if self.spoiled else ""
        words = " ".join("$" + repr(word) if not word.isprintable() else shlex.quote(word) for word in self.words)
        return f"[{self.number}] inductionlens {words[:300]}{spoiled}"


def commands() -> dict[str, dict[str, type]]:
    """Command -> option, or argument without dashes -> the type of its value, read from the command line itself."""
    import typer

    groups = typer.main.get_command(cli.app).commands
    called = {info.name or info.callback.__name__: info.callback for info in cli.app.registered_commands}
    return {
        name: {
            option.opts[0]: _kind(inspect.signature(called[name]).parameters[option.name].annotation)
            for option in group.params
            if option.name in inspect.signature(called[name]).parameters
        }
        for name, group in groups.items()
    }


def _kind(annotation: Any) -> type:
    """int, float, bool, Path or str, from ``Annotated[list[int] | None, ...]`` and the like."""
    while not isinstance(annotation, type) or isinstance(annotation, types.GenericAlias):
        kept = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        if not kept:
            return str
        annotation = kept[0]
    return annotation


def draw(number: int, known: dict[str, dict[str, type]], folder: Path) -> Case:
    """The bad input of that number; ``folder`` is looked at for files to spoil."""
    dice = random.Random(f"bad input {number}")
    # Every command in turn, so that each comes up; those that read files may have one spoiled instead.
    command = sorted(known)[number % len(known)]
    if command in LONG:
        line = LONG[command]
    else:
        required = " ".join(name for name in known[command] if not name.startswith("-"))
        line = dice.choice(WORKING.get(command) or [required])
    words = [command, *line.split()]
    read = [word for word in words[1:] if (folder / word).exists() and not word.startswith("new")]
    if read and dice.random() < 0.45:
        inside = sorted(file for word in read for file in _files(folder / word))
        chosen = str(dice.choice(inside).relative_to(folder))
        return Case(number, tuple(words), (chosen, dice.choice(SPOILS)), False)
    never = command in LONG
    for _ in range(dice.choice([1, 1, 1, 2])):
        never |= _worsen(words, known[command], dice)
    return Case(number, tuple(words), None, never)


def _files(path: Path) -> list[Path]:
    beside = [path.with_name(path.name + ".meta.json"), path.with_suffix(".recipe.json")]
    return [file for file in (*path.rglob("*"), path, *beside) if file.is_file()]


def _worsen(words: list[str], options: dict[str, type], dice: random.Random) -> bool:
    """Give an option a bad value, replace an argument, or add a word; True where no reading of it can be meant."""
    named = [name for name in options if name.startswith("-")]
    way = dice.random()
    if way < 0.08 or not named:
        words.insert(dice.randrange(1, len(words) + 1), dice.choice([*WORDS, *NAMES, "--no-such-option"]))
        return False
    plain = [place for place in range(1, len(words)) if words[place][:1] != "-" and words[place - 1][:1] != "-"]
    if way < 0.25 and plain:
        words[dice.choice(plain)] = dice.choice([*NAMES, *PLACES])
        return False
    name = dice.choice(named)
    kind = options[name]
    if kind is bool:
        words.append(dice.choice([name, f"{name}=1"]))
        return False
    whole = WHOLE[:10] if (words[0], name) in LONG_WORK else WHOLE
    values = {int: whole, float: REAL, Path: [*NAMES, *PLACES]}.get(kind, [*WORDS, *NAMES])
    value = dice.choice(values)
    if name in words:
        words[words.index(name) + 1] = value
    else:
        words += [name, value]
    return value in NEVER.get(kind, ())


def spoil(path: Path, way: str, number: int) -> None:
    """Change one file, as another program, a half-finished copy or a hand might."""
    dice, content = random.Random(f"spoil {number}"), path.read_bytes()
    if way == "gone":
        path.unlink()
    elif way == "a folder":
        path.unlink()
        path.mkdir()
    elif way == "a field" and path.suffix == ".json":
        _spoil_json(path, dice)
    elif way in ("a cell", "a column", "a row") and path.suffix == ".csv":
        _spoil_csv(path, way, dice)
    elif way == "empty":
        path.write_bytes(b"")
    elif way == "half":
        path.write_bytes(content[: int(len(content) * dice.random())])
    else:
        changed = bytearray(content)
        for _ in range(dice.choice([1, 3, 30])):
            changed[int(len(changed) * dice.random() ** 2)] = dice.choice([0, 10, 34, 44, 57, 123, 255])
        path.write_bytes(bytes(changed))


SPOILS = ["gone", "a folder", "a field", "a cell", "a column", "a row", "empty", "half", "bytes", "a field", "a cell"]


def _spoil_json(path: Path, dice: random.Random) -> None:
    record = json.loads(path.read_text())
    if dice.random() < 0.1 or not isinstance(record, dict) or not record:
        path.write_text(json.dumps(dice.choice(FIELDS)))
        return
    place = record
    name = dice.choice(sorted(place))
    while isinstance(place[name], dict) and place[name] and dice.random() < 0.8:
        place = place[name]
        name = dice.choice(sorted(place))
    if dice.random() < 0.2:
        del place[name]
    else:
        place[name] = dice.choice(FIELDS)
    path.write_text(json.dumps(record))


def _spoil_csv(path: Path, way: str, dice: random.Random) -> None:
    rows = [line.split(",") for line in path.read_text().splitlines()]
    row, column = dice.randrange(len(rows)), dice.randrange(len(rows[0]))
    if way == "a row":
        rows.insert(row, list(dice.choice(rows)))
    elif way == "a column":
        rows = [[*cells[:column], *cells[column + 1 :]] for cells in rows]
    elif column < len(rows[row]):
        rows[row][column] = dice.choice(CELLS)
    path.write_text("\n".join(",".join(cells) for cells in rows) + "\n")


def main(number: int) -> None:
    """Lay out a folder, spoil it, and run one bad line there as a user would."""
    import os

    folder = Path(tempfile.mkdtemp(prefix="bad-input-"))
    lay_out(folder)
    case = draw(number, commands(), folder)
    if case.spoiled:
        spoil(folder / case.spoiled[0], case.spoiled[1], number)
    print(f"in {folder}:\n{case.told()}")
    os.chdir(folder)
    sys.argv = ["inductionlens", *case.words]
    cli.main()


if __name__ == "__main__":
    main(int(sys.argv[1]))
