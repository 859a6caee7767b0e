"""Sources of text by name."""

import platform
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from inductionlens import corpus
from inductionlens.models.hub import offline_if_unreachable


def read_texts(text: str | Path, windows: int, length: int) -> tuple[Sequence[corpus.Text], str]:
    """The texts of a source, enough for so many windows of so many tokens, and what they are; see `make_windows`.

    Raises:
        InputError: no such text, or a data set that cannot be had.
    """
    if text in ("auto", "stdlib"):
        return list(corpus.python_stdlib()), f"stdlib of Python {platform.python_version()}"
    if str(text).startswith("hub:"):
        # Eight characters a token, so that a row of prose fills a window; four rows a window, for the seed to choose.
        with offline_if_unreachable():
            rows = corpus.hub_texts(str(text).removeprefix("hub:"), least=8 * length)
            return list(islice(rows, 4 * windows)), str(text)
    return list(corpus.text_file(text)), Path(text).resolve().name
