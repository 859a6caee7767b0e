"""What a command writes never replaces what it reads."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from inductionlens.errors import InputError
from inductionlens.files import sidecar_of

#: Options that name a file to write.
OUTPUTS = ("out", "picture", "samples", "terms")
#: Command -> the tables that it writes, or reads, beside one: ``a.heads.csv`` beside ``a.csv``.
BESIDE = {
    "ablate": ("groups",),
    "circuit": ("heads",),
    "formation": ("heads", "losses", "followed", "before"),
    "changes": ("heads", "losses", "followed", "before"),
}
#: Commands whose ``--out`` is a folder, which they check themselves.
INTO_FOLDERS = ("train", "reproduce")


class Checked(TyperCommand):
    """A command that refuses, before it runs, to write over its inputs, or two outputs into one file."""

    def invoke(self, ctx: Any) -> Any:
        """Check the files of the command line, and run the command."""
        if self.name not in INTO_FOLDERS:
            check_outputs(self.name or "", ctx.params)
        return super().invoke(ctx)


def check_outputs(command: str, settings: dict[str, Any]) -> None:
    """Refuse outputs that are one file, one of the files that are read, or part of a folder that is read.

    ``settings`` are the command's, by name; each of them that names a file or folder and is not to be written is read.

    Raises:
        InputError: which option would replace what.
    """
    outputs = {name: Path(settings[name]) for name in OUTPUTS if settings.get(name) is not None}
    if not outputs:
        return
    inputs = [path for name, value in settings.items() if name not in OUTPUTS for path in _paths(value)]
    taken: dict[Any, tuple[str, Path]] = {}
    for name, output in outputs.items():
        for path in _files(command if name == "out" else "", output):
            other, file = taken.setdefault(_identity(path), (name, path))
            if other != name:
                raise InputError(f"--{name} and --{other} need files of their own; both would write {file}.")
            for source in inputs:
                if _replaces(command, path, source):
                    raise InputError(f"--{name} {output} would replace {path}, which is read; write to another file.")


def _paths(value: Any) -> Iterator[Path]:
    for one in value if isinstance(value, (list, tuple)) else [value]:
        try:
            path = Path(one).expanduser() if isinstance(one, (str, Path)) else None
            if path is not None and path.exists():
                yield path
        except (OSError, ValueError, RuntimeError):  # no path, or one that the command will refuse
            continue


def _files(command: str, path: Path) -> list[Path]:
    """A file, and those that are written, or read, with it."""
    if not path.name:  # "/"
        return [path]
    beside = [path.with_suffix(f".{name}{path.suffix}") for name in BESIDE.get(command, ())]
    return [place for table in (path, *beside) for place in (table, sidecar_of(table))]


def _identity(path: Path) -> Any:
    """Equal for two names of one file, also by links."""
    try:
        found = path.stat()
        return found.st_dev, found.st_ino
    except (OSError, ValueError):
        return os.path.realpath(path)


def _replaces(command: str, path: Path, source: Path) -> bool:
    """Whether writing ``path`` changes ``source``: a file and those beside it, or a folder."""
    if not path.is_file():
        return False
    same = _identity(path)
    if not source.is_dir():
        return same in map(_identity, [*_files(command, source), source.with_suffix(".recipe.json")])
    if any(path.with_name(path.name + ending).is_file() for ending in (".meta.json", ".partial")):
        return False  # a table that was written there before
    return any(
        same == _identity(Path(folder) / name)
        for folder, _, names in os.walk(source)
        for name in names
        if not name.endswith((".meta.json", ".partial"))
    )
