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
from inductionlens.cli.outputs import Checked
from inductionlens.cli.speak import app
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
for command in app.registered_commands:
    command.cls = Checked


def main() -> None:
    """Run the command line; bad input is one sentence on stderr and exit code 2, an interrupt is exit code 130."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    warnings.showwarning = lambda message, *_, **__: sys.stderr.write(f"inductionlens: {message}\n")
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        sys.stderr.write(f"inductionlens: {error}\n")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"inductionlens: {place}{error.strerror or error}.\n")
        code = 2
    except Exception as error:
        # Typer carries its own copy of click, or uses the installed one: its usage errors are known by what they do.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        if message.strip():  # empty where help was shown for want of a command
            sys.stderr.write(f"inductionlens: {message.rstrip('.')}; see --help.\n")
        code = 2
    if code == 130:
        sys.stderr.write("inductionlens: interrupted; no half-written file is left.\n")
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
