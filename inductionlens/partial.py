"""Finished parts of long work, kept until the whole is written."""

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from inductionlens.errors import InputError
from inductionlens.files import check_writable, write_atomically
from inductionlens.locks import held


class Partial:
    """Parts by key, appended to a file as they are finished; without a path they are kept in memory alone.

    Inside its ``with`` no other process works on the file. The file is made with the first part. Each line carries a
    digest: a part that was cut off or changed is not taken up, so it is done again.
    """

    def __init__(self, path: Path | None, work: dict[str, Any]) -> None:
        """``work`` describes the whole in plain values; only parts of the same work are taken up."""
        self.path, self.parts = path, dict[str, Any]()
        self._head = json.dumps(work, sort_keys=True).encode()
        self._whole = False
        self._open = ExitStack()

    def __enter__(self) -> "Partial":
        """Take up the parts that the file holds.

        Raises:
            InputError: the file holds other things, is in use, or cannot be read or written.
        """
        if self.path is None:
            return self
        check_writable(self.path)
        taken = f"{self.path} is in use by another process; wait for it to end, or write elsewhere."
        self._open.enter_context(held(self.path.with_name(self.path.name + ".lock"), taken))
        try:
            self._read(self.path)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
        head, *lines = content.split(b"\n")
        if content and head != self._head:
            raise InputError(
                f"{path} holds unfinished work of other settings or another model; remove it to start anew, or "
                "write elsewhere."
            )
        sound = [line[17:] for line in lines if line[:17] == _digest(line[17:])]
        self.parts = dict(json.loads(line) for line in sound)
        self._whole = bool(lines) and lines[-1] == b"" and len(sound) == len(lines) - 1

    def add(self, key: str, part: Any) -> None:
        """Write a finished part down.

        Raises:
            InputError: the file cannot be written.
        """
        self.parts[key] = part
        if self.path is None:
            return
        if not self._whole:
            lines = [_line(key, part) for key, part in self.parts.items()]
            write_atomically(self.path, self._head + b"\n" + b"".join(lines))
            self._whole = True
            return
        try:
            with self.path.open("ab") as file:
                file.write(_line(key, part))
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror or error}.") from error

    def finish(self) -> None:
        """The whole is written: the parts are not needed any more."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _line(key: str, part: Any) -> bytes:
    content = json.dumps([key, part]).encode()
    return _digest(content) + content + b"\n"


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:16].encode() + b" "
