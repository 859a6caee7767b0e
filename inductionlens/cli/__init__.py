"""The command line: the only room that prints."""

import sys
import warnings
from typing import Annotated

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
from inductionlens.cli.speak import app, refuse, tell
from inductionlens.errors import InputError

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


def main() -> None:
    """Run the command line; bad input is one sentence on stderr and exit code 2, an interrupt is exit code 130."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    held: list[str] = []
    warnings.showwarning = lambda message, *_, **__: held.append(str(message))
    try:
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
        tell("interrupted; no half-written file is left.")
    raise SystemExit(code if isinstance(code, int) else 0)


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
