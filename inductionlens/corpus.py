"""Text into token windows."""

import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens.errors import InputError

#: Folders of the standard library that are not ordinary source text: tests, generated tables, installed packages.
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "pydoc_data"}


class Text(NamedTuple):
    """A piece of text and the name of the file it came from."""

    name: str
    text: str


def python_stdlib() -> Iterator[Text]:
    """Yield the source files of the running Python's standard library, in alphabetical order of their paths.

    Real text that every machine has, so that no download stands between a newcomer and a result. Test suites and
    installed packages are left out. The text differs a little between Python versions: tables name the version.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in _LEFT_OUT]
        found += [Path(folder, name).relative_to(root).as_posix() for name in files if name.endswith(".py")]
    for name in sorted(found):
        yield Text(name, (root / name).read_text(encoding="utf-8", errors="replace"))


def text_file(path: str | Path) -> Iterator[Text]:
    """Yield one UTF-8 text file, or each ``.txt`` file below a folder in alphabetical order.

    Raises:
        InputError: nothing is there, or a folder holds no ``.txt`` file, or a file is not text.
    """
    if not str(path):
        raise InputError("text must name a .txt file or a folder of them; got an empty name.")
    path = Path(path)
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"The folder {path} holds no .txt file to take text from.")
    for file in files:
        try:
            yield Text(file.name, file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"The text {file} is not UTF-8: {error}.") from error
        except OSError as error:
            raise InputError(f"The text {file} cannot be read: {error.strerror or error}.") from error


def text_windows(
    texts: Sequence[Text],
    encode: Callable[[str], list[int]],
    *,
    windows: int,
    length: int,
    bos: int | None,
    seed: int,
) -> Int[Tensor, "batch pos"]:
    """Cut ``windows`` windows of ``length`` tokens out of ``texts``, each with ``bos`` in front.

    Shape [windows, length], token ids. Texts are visited in an order that ``seed`` alone decides, and give one window
    each, from their first token on; where that is not enough, a second round takes the next piece of each, and so on.

    Raises:
        InputError: the texts are too short to give so many windows.
    """
    body = length - (bos is not None)
    piece = body * 16  # characters: long enough for a window of any byte-level or word-piece vocabulary
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    rounds = range(max((len(text.text) // piece for text in texts), default=0) + 1)
    places = ((number, index) for number in rounds for index in order if number * piece < len(texts[index].text))
    rows: list[list[int]] = []
    for number, index in places:
        if len(rows) == windows:
            break
        ids = encode(texts[index].text[number * piece : (number + 1) * piece])
        if len(ids) >= body:
            rows.append(([] if bos is None else [bos]) + ids[:body])
    if len(rows) < windows:
        raise InputError(
            f"The text gives only {len(rows)} windows of {length} tokens and {windows} are needed; give more text."
        )
    return torch.tensor(rows)


def digest(texts: Sequence[Text]) -> str:
    """A short fingerprint of texts, for the record of where a number came from."""
    hashed = hashlib.sha256()
    for text in texts:
        hashed.update(text.text.encode("utf-8", errors="replace"))
    return hashed.hexdigest()[:12]
