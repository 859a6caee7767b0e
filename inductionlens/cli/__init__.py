"""The command line: the only room that prints."""

import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from inductionlens.cli import (  # noqa: F401 (each adds its commands)
    ablate,
    changes,
    circuit,
    columns,
    icl,
    pictures,
    references,
    scan,
    tables,
    terms,
    training,
    watch,
)
from inductionlens.cli.outputs import Checked
from inductionlens.cli.speak import app, refuse, tell
from inductionlens.errors import INTERRUPTED, InputError

#: As --help lists them.
ORDER = (
    "scan",
    "icl",
    "ablate",
    "circuit",
    "orders",
    "trigrams",
    "repeats",
    "train",
    "formation",
    "watch",
    "changes",
    "reproduce",
    "compare",
    "why",
    "validate",
    "ranks",
    "plot",
    "columns",
)
app.registered_commands.sort(key=lambda command: ORDER.index(command.callback.__name__))
for command in app.registered_commands:
    command.cls = Checked


def main() -> None:
    """Run the command line; bad input is one sentence on stderr and exit code 2, an interrupt is exit code 130."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    held: list[str] = []
    warnings.showwarning = lambda message, *_, **__: held.append(str(message))
    try:
        with _interrupts():
            _check_words(sys.argv[1:])
            code = app(standalone_mode=False)
    except InputError as error:
        code = refuse(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        code = refuse(f"{place}{error.strerror or error}.")
    except Exception as error:
        # Typer carries its own copy of click, or uses the installed one: its usage errors are known by what they do.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        # empty where help was shown for want of a command
        code = refuse(f"{message.rstrip('.')}; see --help.") if message.strip() else 2
    if code != 2:  # a refusal is one line, whatever was warned of on the way
        for message in dict.fromkeys(held):
            tell(message)
    if code == 130:
        tell(INTERRUPTED)
    raise SystemExit(code if isinstance(code, int) else 0)


class _Interrupt(KeyboardInterrupt):
    """Ctrl-C. Python ends by the signal after a KeyboardInterrupt inside ``exec``; not after one of another class."""


@contextmanager
def _interrupts() -> Iterator[None]:
    """Raise `_Interrupt` for Ctrl-C, also where a library turns it into an error of its own, as lazy imports do."""
    seen = False

    def interrupt(*_: Any) -> None:
        nonlocal seen
        seen = True
        raise _Interrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception as error:
        if seen:
            raise _Interrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _check_words(words: list[str]) -> None:
    """Refuse words without anything in them, as an unset variable of a script leaves them.

    Raises:
        InputError: there is one.
    """
    for before, word in zip(["", *words], words, strict=False):
        if not word.strip() or re.fullmatch(r"--[a-z-]+=\s*", word):
            name = word.rstrip("= ") or (before if before.startswith("-") else "an argument")
            raise InputError(f"{name} is empty; give it a value, or leave it out.")


def _version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        print(version("inductionlens"))
        raise typer.Exit
    return asked


@app.callback()
def _options(
    show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
