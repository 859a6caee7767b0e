"""Text into token windows."""

import codecs
import hashlib
import math
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens.errors import InputError

#: Folders of the standard library that are not ordinary source text: tests, generated tables, installed packages.
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "pydoc_data"}
#: Bytes of text beyond which files are read piece by piece instead of whole.
LARGE = 32 * 2**20
#: What the fingerprint of a file read by pieces takes of it, besides its size: so many pieces of so many bytes.
_SAMPLES, _SAMPLE = 4, 4096


@dataclass(frozen=True)
class FileText:
    """A large UTF-8 text file that is never in memory whole: a slice of bytes is read when it is asked for."""

    path: Path
    """Where it lies."""
    size: int
    """Its length in bytes, which is what `len` gives."""

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> str:
        """The text between two bytes, without the letters that the two ends cut in half.

        Raises:
            InputError: the file cannot be read, or what was read is not UTF-8.
        """
        start, stop, _ = part.indices(self.size)
        found = self.read(start, stop)
        if start:
            found = found[next((n for n, byte in enumerate(found[:4]) if byte & 0xC0 != 0x80), 4) :]
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(found, final=stop == self.size)
        except UnicodeDecodeError as error:
            raise InputError(f"The text {self.path} is not UTF-8 in bytes {start} to {stop}: {error}.") from error
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` to ``stop``.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(start)
                return file.read(stop - start)
        except OSError as error:
            raise InputError(f"The text {self.path} cannot be read: {error.strerror or error}.") from error


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


def text_file(path: str | Path) -> Iterator[Text]:
    """Yield one UTF-8 text file, or each ``.txt`` file below a folder in alphabetical order.

    Where the files have more than `LARGE` bytes together, none is read whole: each text is a `FileText`.

    Raises:
        InputError: nothing is there, or a folder holds no ``.txt`` file, or a file is not text.
    """
    if not str(path):
        raise InputError("text must name a .txt file or a folder of them; got an empty name.")
    path = Path(path)
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"The folder {path} holds no .txt file to take text from.")
    sizes: list[int] = []
    for file in files:
        try:
            sizes.append(file.stat().st_size)
        except OSError as error:
            raise InputError(f"The text {file} cannot be read: {error.strerror or error}.") from error
    large = sum(sizes) > LARGE
    for file, size in zip(files, sizes, strict=True):
        try:
            yield Text(file.name, FileText(file, size) if large else file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"The text {file} is not UTF-8: {error}.") from error
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

    Shape [windows, length], token ids. Texts are visited in an order that ``seed`` alone decides, and give one window
    each, from their first token on; where that is not enough, a second round takes the next piece of each, and so on.
    Of a `FileText` the pieces come from all over the file instead, from a place on that ``seed`` decides.

    Raises:
        InputError: the texts are empty, or too short to give so many windows.
    """
    body = length - (bos is not None)
    piece = body * 16  # characters: long enough for a window of any byte-level or word-piece vocabulary
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(texts), generator=generator).tolist()
    pieces = [-(-len(text.text) // piece) for text in texts]
    places = [
        _in_order(count) if isinstance(text.text, str) else _all_over(count, generator)
        for text, count in zip(texts, pieces, strict=True)
    ]
    rows: list[list[int]] = []
    longest = 0
    for number, index in ((number, index) for number in range(max(pieces, default=0)) for index in order):
        if len(rows) == windows:
            break
        if number >= pieces[index]:
            continue
        place = places[index](number)
        ids = encode(texts[index].text[place * piece : (place + 1) * piece])
        longest = max(longest, len(ids))
        if len(ids) >= body:
            rows.append(([] if bos is None else [bos]) + ids[:body])
    if not longest:
        raise InputError("The text is empty, so there is no window to cut; give text with words in it.")
    if not rows:
        raise InputError(
            f"The text is too short for one window of {length} tokens: its longest piece has {longest} and "
            f"{body} are needed; give more text."
        )
    if len(rows) < windows:
        raise InputError(
            f"The text gives only {len(rows)} windows of {length} tokens and {windows} are needed; give more text."
        )
    return torch.tensor(rows)


def _in_order(count: int) -> Callable[[int], int]:
    return range(count).__getitem__


def _all_over(count: int, generator: torch.Generator) -> Callable[[int], int]:
    """Which of ``count`` pieces comes when: each once, and any few in a row spread evenly over them all."""
    start = int(torch.randint(max(count, 1), (), generator=generator))
    # Steps of the golden ratio spread best; one without a common divisor with count meets every piece.
    golden = round(count * (math.sqrt(5) - 1) / 2)
    step = next(step for step in range(max(golden, 1), count + 2) if math.gcd(step, count) == 1)
    return lambda number: (start + number * step) % count


def digest(texts: Sequence[Text]) -> str:
    """A short fingerprint of texts, for the record of where a number came from.

    Of a `FileText` it takes the size and four pieces of 4 KiB, from its start to its end, instead of every byte.
    """
    hashed = hashlib.sha256()
    for text in texts:
        if isinstance(text.text, str):
            hashed.update(text.text.encode("utf-8", errors="replace"))
            continue
        size = len(text.text)
        hashed.update(f"{size} bytes".encode())
        for number in range(_SAMPLES):
            start = max(0, size - _SAMPLE) * number // (_SAMPLES - 1)
            hashed.update(text.text.read(start, min(size, start + _SAMPLE)))
    return hashed.hexdigest()[:12]
