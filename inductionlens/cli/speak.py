"""How the command line speaks: progress on stderr, answers on stdout."""

import sys
import threading
import time
from typing import Any

import typer

app = typer.Typer(
    name="inductionlens",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which attention heads are induction heads?",
)


#: Seconds between two lines of progress where stderr is no terminal.
EVERY = 30.0


class Progress:
    """How far long work is, on stderr: a bar on a terminal, elsewhere a line every half minute; nothing where quiet."""

    def __init__(self, quiet: bool, task: str) -> None:
        self.quiet, self.task, self.bar = quiet, task, None
        self.place, self.start, self.ended = "", time.monotonic(), threading.Event()

    def __enter__(self) -> "Progress":
        if self.quiet:
            return self
        if not sys.stderr.isatty():
            threading.Thread(target=self._lines, args=(sys.stderr,), daemon=True).start()
            return self
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self.bar.start()
        self.id = self.bar.add_task(self.task, total=None)
        return self

    def _lines(self, stream: Any) -> None:
        while not self.ended.wait(EVERY):
            stream.write(f"inductionlens: {_plain(self.task)}{self.place}, {time.monotonic() - self.start:.0f} s\n")
            stream.flush()

    def say(self, task: str) -> None:
        """Change what is said to be going on."""
        self.task, self.place = task, ""
        if self.bar is not None:
            self.bar.update(self.id, description=_plain(task))

    def at(self, done: int, total: int) -> None:
        """Say how much is done."""
        self.place = f", {done:,} of {total:,}"
        if self.bar is not None:
            self.bar.update(self.id, completed=done, total=total)

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        if self.bar is not None:
            self.bar.stop()


def _plain(task: str) -> str:
    from inductionlens.cells import printable

    return printable(task)


def console_out() -> Any:
    """A Rich console on stdout that neither colours numbers nor wraps sentences."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def number(value: float) -> str:
    """Three decimals, a dash for what is not defined, and no minus before zero."""
    return "-" if value != value else f"{value:.3f}".replace("-0.000", "0.000")


def tell(sentence: str) -> None:
    """Write one line on stderr, control characters as escapes."""
    from inductionlens.cells import printable

    sys.stderr.write(f"inductionlens: {printable(sentence)}\n")


def refuse(sentence: str) -> int:
    """Write why nothing was done, in one line; gives the exit code of a refusal."""
    tell(sentence)
    return 2


def say(sentence: str) -> None:
    """Print one line on stdout, control characters of names as escapes: no file may steer the terminal."""
    from inductionlens.cells import printable

    print(printable(sentence))
