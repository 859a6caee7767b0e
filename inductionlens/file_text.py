"""Text files: what may be read, and those too large for memory."""

import codecs
import math
import stat
from dataclasses import dataclass
from pathlib import Path

import torch

from inductionlens.errors import InputError

#: What `FileText.sample` takes of a file: so many pieces of so many bytes.
_SAMPLES, _SAMPLE = 4, 4096
#: Bytes that are decoded at a time where a whole large file is checked.
_PART = 2**18
#: Byte-order marks that name another encoding. Those of UTF-32 come first: one begins like that of UTF-16.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip


def regular_size(path: Path, called: str) -> int:
    """The size in bytes of a file that has an end; nothing is read, not even opened.

    Raises:
        InputError: there is no such file, or it is a folder, a pipe or a device; in terms of ``called``.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The {called} {path!s} cannot be read: {reason}.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe" if stat.S_ISFIFO(status.st_mode) else "a device"
        way_out = "" if kind == "a folder" else ", which may have no end: save what it gives as a file first"
        raise InputError(f"The {called} {path!s} must be a file; it is {kind}{way_out}.")
    return status.st_size


def marked_bytes(path: Path) -> int:
    """How many bytes of a text file come before its text: 3 where it starts with UTF-8's byte-order mark, else 0.

    Raises:
        InputError: the file cannot be read, or its mark names another encoding.
    """
    try:
        with path.open("rb", buffering=0) as file:
            first = file.read(4)
    except OSError as error:
        raise InputError(f"The text {path} cannot be read: {error.strerror or error}.") from error
    for mark, encoding in _OTHER_MARKS.items():
        if first.startswith(mark):
            raise InputError(f"The text {path} is {encoding}, as its first bytes say; save it as UTF-8.")
    return len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0


@dataclass(frozen=True)
class FileText:
    """A large UTF-8 text file that is never in memory whole: a slice of bytes is read when it is asked for."""

    path: Path
    """Where it lies."""
    size: int
    """The length of its text in bytes, which is what `len` gives."""
    skipped: int = 0
    """Bytes before the text: a byte-order mark."""

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
        """The bytes of the text from ``start`` to ``stop``.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.skipped + start)
                return file.read(stop - start)
        except OSError as error:
            raise InputError(f"The text {self.path} cannot be read: {error.strerror or error}.") from error

    def check(self) -> None:
        """Decode every byte once, a part at a time, so that a bad one is found wherever windows are cut.

        Raises:
            InputError: the file cannot be read or is not UTF-8.
        """
        decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
        try:
            with self.path.open("rb", buffering=0) as file:
                while part := file.read(_PART):
                    decoder.decode(part)
                    at += len(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            # Positions count from the first byte that was left over from the part before.
            place = at - len(decoder.getstate()[0]) + error.start
            raise InputError(f"The text {self.path} is not UTF-8: {error.reason} at byte {place}.") from error
        except OSError as error:
            raise InputError(f"The text {self.path} cannot be read: {error.strerror or error}.") from error

    def sample(self) -> bytes:
        """What a fingerprint of the file is made from: its size and four pieces of 4 KiB, from start to end.

        Raises:
            InputError: the file cannot be read.
        """
        starts = [max(0, self.size - _SAMPLE) * number // (_SAMPLES - 1) for number in range(_SAMPLES)]
        pieces = [self.read(start, min(self.size, start + _SAMPLE)) for start in starts]
        return f"{self.size} bytes".encode() + b"".join(pieces)


class EvenSpread:
    """An order of 0 .. ``count`` - 1 that holds each once, with any few in a row spread evenly over them all."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.start = int(torch.randint(max(count, 1), (), generator=generator))
        # Steps of the golden ratio spread best; one without a common divisor with count meets every number.
        golden = max(1, round(count * (math.sqrt(5) - 1) / 2))
        self.step = next(step for step in range(golden, count + 2) if math.gcd(step, count) == 1)

    def __getitem__(self, place: int) -> int:
        return (self.start + place * self.step) % self.count
