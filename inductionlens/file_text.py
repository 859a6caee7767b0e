"""A text file too large for memory."""

import codecs
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from inductionlens.errors import InputError

#: What `FileText.sample` takes of a file: so many pieces of so many bytes.
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
