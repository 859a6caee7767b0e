"""Finished parts of long work, kept until the whole is done."""

import json
from pathlib import Path
from typing import Any

from inductionlens.errors import InputError


class Partial:
    """Parts by key, appended to a file as they are finished; without a path they are kept in memory alone."""

    def __init__(self, path: Path | None, work: dict[str, Any]) -> None:
        """Take up the parts that ``path`` holds of the same ``work``, a description in plain values.

        Raises:
            InputError: the file holds parts of other work, or cannot be read or written.
        """
        self.path = path
        self.parts: dict[str, Any] = {}
        if path is None:
            return
        head = json.dumps(work, sort_keys=True)
        try:
            lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
            if lines and lines[0] and lines[0] != head:
                raise InputError(
                    f"{path} holds unfinished work of other settings or another model; remove it to start anew, or "
                    "write elsewhere."
                )
            for line in lines[1:]:
                try:
                    key, part = json.loads(line)
                except ValueError:
                    break  # cut off in the middle of being written
                self.parts[key] = part
            rest = "".join(json.dumps([key, part]) + "\n" for key, part in self.parts.items())
            path.write_text(head + "\n" + rest, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be used for unfinished work: {error}.") from error

    def add(self, key: str, part: Any) -> None:
        """Write a finished part down."""
        self.parts[key] = part
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, part]) + "\n")

    def finish(self) -> None:
        """The whole is done: the parts are not needed any more."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
