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
from inductionlens.file_text import EvenSpread, FileText, marked_bytes, regular_size

#: Folders of the standard library that are not ordinary source text: tests, generated tables, installed packages.
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "pydoc_data"}
#: Bytes of text beyond which files are read piece by piece instead of whole.
LARGE = 32 * 2**20
#: Characters for each token of a window in the piece of text that it is cut from: enough for English words and code.
PIECE = 16
#: Bytes of a large file that are cut into windows from end to end at a time.
_WHOLE = 2**20


class Text(NamedTuple):
    """A piece of text and the name of the file it came from."""

    name: str
    text: str | FileText
    """The text itself; of large files a stand-in that reads slices."""


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


def text_files(path: str | Path) -> dict[Path, int]:
    """A text file, or each ``.txt`` file below a folder in alphabetical order, and its size in bytes; none is read.

    Raises:
        InputError: nothing is there, or a folder holds no ``.txt`` file, or one of them is a pipe or a device.
    """
    if not isinstance(path, (str, Path)) or not str(path):
        raise InputError(f"text must name a .txt file or a folder of them; got {path!r}.")
    path = Path(path)
    try:
        below = path.is_dir()
        files = sorted(file for file in path.rglob("*.txt") if not file.is_dir()) if below else [path]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The text {path!s} cannot be read: {reason}.") from error
    if not files:
        raise InputError(f"The folder {path} holds no .txt file to take text from.")
    return {file: regular_size(file, "text") for file in files}


def check_text(text: str | Path) -> None:
    """Refuse a source of text that cannot be had, before a model is loaded for it; of a data set nothing is asked.

    Raises:
        InputError: as `text_files`, or a file's mark names another encoding.
    """
    if text not in ("auto", "stdlib", "random") and not str(text).startswith("hub:"):
        for file in text_files(text):
            marked_bytes(file)


def text_file(path: str | Path) -> Iterator[Text]:
    """Yield one UTF-8 text file, or each ``.txt`` file below a folder in alphabetical order.

    A byte-order mark at the start is no part of the text. Where the files have more than `LARGE` bytes together, none
    is kept whole: each text is a `FileText`, of which every byte is looked at once.

    Raises:
        InputError: as `text_files`, or a file is not UTF-8; the message names UTF-16 and UTF-32 by their marks.
    """
    sizes = text_files(path)
    marks = {file: marked_bytes(file) for file in sizes}
    large = sum(sizes.values()) > LARGE
    for file, size in sizes.items():
        try:
            if large:
                text = FileText(file, size - marks[file], marks[file])
                text.check()
            else:
                text = file.read_text(encoding="utf-8-sig")
            yield Text(file.name, text)
        except UnicodeDecodeError as error:
            raise InputError(f"The text {file} is not UTF-8: {error.reason} at byte {error.start}.") from error
        except OSError as error:
            raise InputError(f"The text {file} cannot be read: {error.strerror or error}.") from error


def hub_texts(name: str, least: int = 1) -> Iterator[Text]:
    """Yield the rows of a Hugging Face data set, streamed: what is not asked for is not downloaded.

    ``name`` is that of the hub, followed by ``:CONFIGURATION`` where the data set has several. Rows come from the
    split ``train``, or the first there is, and from the column ``text`` or ``content``, in their own order. Rows
    shorter than ``least`` characters are joined, with an empty line between, until they are that long.

    Raises:
        InputError: no network, no such data set or configuration, or no such column.
    """
    import datasets

    data_set, _, configuration = name.partition(":")
    if not data_set:
        raise InputError(f"hub: must be followed by the name of a data set of the hub; got {name!r}.")
    rows: list[str] = []
    try:
        splits = datasets.load_dataset(data_set, configuration or None, streaming=True)
        for number, row in enumerate(splits["train" if "train" in splits else next(iter(splits))]):
            column = next((column for column in ("text", "content") if isinstance(row.get(column), str)), None)
            if column is None:
                raise InputError(
                    f"The data set {name!r} has no column text or content to read; it has {', '.join(row)}."
                )
            rows.append(row[column])
            if sum(map(len, rows)) >= least:
                yield Text(f"{name}[{number}]", "\n\n".join(rows))
                rows = []
    except InputError:
        raise
    except Exception as error:  # the hub's client has no common class for what can go wrong on the way
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"The data set {name!r} could not be read from the hub ({reason}); offline, give 'stdlib', "
            "or a .txt file or a folder of them."
        ) from error
    if rows:
        yield Text(f"{name}, the last rows", "\n\n".join(rows))


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

    Shape [windows, length], token ids. Texts are visited in an order that ``seed`` alone decides. More texts than
    windows give one window each, from their first token on. Fewer texts give pieces from all over them, from places on
    that ``seed`` decides too. Where that is not enough, every text is cut into windows from end to end, and ``seed``
    picks among them: all that fit can be had, however many letters a token has.

    Raises:
        InputError: the texts are empty, or too short to give so many windows.
    """
    body = length - (bos is not None)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(texts), generator=generator).tolist()
    rows = _spread_rows([texts[index] for index in order], encode, body, windows, generator)
    if len(rows) < windows:
        rows = _every_row([texts[index] for index in order], encode, body, length)
        if len(rows) < windows:
            raise InputError(
                f"The text gives only {len(rows)} windows of {length} tokens and {windows} are needed; give more text."
            )
        rows = [rows[place] for place in torch.randperm(len(rows), generator=generator)[:windows].tolist()]
    return torch.tensor([([] if bos is None else [bos]) + row for row in rows])


def _spread_rows(
    texts: Sequence[Text], encode: Callable[[str], list[int]], body: int, windows: int, generator: torch.Generator
) -> list[list[int]]:
    """At most ``windows`` rows of ``body`` ids, each from the start of a piece of text: first a piece of each text,
    then another of each, and so on."""
    piece = body * PIECE
    pieces = [-(-len(text.text) // piece) for text in texts]
    few = len(texts) <= windows
    places = [
        EvenSpread(count, generator) if few or isinstance(text.text, FileText) else range(count)
        for text, count in zip(texts, pieces, strict=True)
    ]
    rows: list[list[int]] = []
    for number, index in ((number, index) for number in range(max(pieces, default=0)) for index in range(len(texts))):
        if len(rows) == windows:
            break
        if number < pieces[index]:
            place = places[index][number]
            ids = encode(texts[index].text[place * piece : (place + 1) * piece])
            rows += [ids[:body]] if len(ids) >= body else []
    return rows


def _every_row(texts: Sequence[Text], encode: Callable[[str], list[int]], body: int, length: int) -> list[list[int]]:
    """Every row of ``body`` ids that texts give, one after the other; of a `FileText` piece by piece.

    Raises:
        InputError: there is not a single one.
    """
    rows: list[list[int]] = []
    longest = 0
    for text in texts:
        whole, step = text.text, _WHOLE if isinstance(text.text, FileText) else max(1, len(text.text))
        for start in range(0, len(whole), step):
            ids = encode(whole[start : start + step])
            longest = max(longest, len(ids))
            rows += [ids[at : at + body] for at in range(0, len(ids) - body + 1, body)]
    if not longest:
        raise InputError("The text is empty, so there is no window to cut; give text with words in it.")
    if not rows:
        raise InputError(
            f"The text is too short for one window of {length} tokens: its longest piece has {longest} and "
            f"{body} are needed; give more text."
        )
    return rows


def digest(texts: Sequence[Text]) -> str:
    """A short fingerprint of texts, for the record of where a number came from.

    Of a `FileText` it takes the size and four pieces of 4 KiB, from its start to its end, instead of every byte.
    """
    hashed = hashlib.sha256()
    for text in texts:
        if isinstance(text.text, str):
            hashed.update(text.text.encode("utf-8", errors="replace"))
            continue
        hashed.update(text.text.sample())
    return hashed.hexdigest()[:12]
