"""One bad input, run in this process: refused in one sentence, or done."""

import contextlib
import io
import os
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jaxtyping
from bad_lines import Case, spoil

from inductionlens import cli

#: Seconds of processor time, and of the clock, that one line may take; and bytes on top of what is in use.
LIMIT, CLOCK, MEMORY = 20, 60, 2**32


class TooLong(BaseException):
    """No answer in time."""


class Answer(NamedTuple):
    """What came of a command line."""

    code: object
    """The exit code; None where there was none."""
    fault: str | None
    """What is wrong with the answer; None where nothing is."""


def judge(case: Case, desk: Path, place: Path) -> Answer:
    """Run a bad input in a fresh copy of ``desk`` at ``place``."""
    shutil.copytree(desk, place, symlinks=True)
    try:
        if case.spoiled:
            spoil(place / case.spoiled[0], case.spoiled[1], case.number)
        before = _contents(place)
        with contextlib.chdir(place), _limits(), warnings.catch_warnings():
            _as_for_users()
            code, printed, err = _run(case.words)
        return Answer(code, _fault(case, code, printed, err, before, _contents(place)))
    except TooLong:
        return Answer(None, "no answer in time")
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/inductionlens/" in frame.filename]
        at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
        line = (str(error).splitlines() or [""])[0][:150]
        told = f"{type(error).__name__}: {line} ({at}, raised in {Path(last.filename).name}:{last.lineno})"
        return Answer(None, f"traceback: {told}")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _fault(case: Case, code: object, printed: str, err: str, before: dict, after: dict) -> str | None:
    if code == 2:
        if printed:
            return f"refused, but something was printed: {printed[:100]!r}"
        if len(err.splitlines()) != 1 or not err.startswith("inductionlens: "):
            return f"not one sentence: {err[:300]!r}"
        if not err[:-1].isprintable():
            return f"control characters in the sentence: {err[:200]!r}"
        if after != before:
            changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            return f"refused, and these files are new or changed: {changed[:3]}; {err[:150]!r}"
        return None
    if code not in ((0, 1) if case.words[0] == "validate" else (0,)):
        return f"exit code {code}: {err[:200]!r}"
    if case.never and "--help" not in case.words:
        return f"taken without a word: {printed.strip().splitlines()[-1:]}"
    if any(not line.startswith("inductionlens: ") for line in err.splitlines()):
        return f"done, with words on stderr: {err[:200]!r}"
    left = [name for name in after.keys() - before.keys() if ".partial" in name or "/." in f"/{name}"]
    return f"done, and half-written files are left: {left}" if left else None


def _run(words: tuple[str, ...]) -> tuple[object, str, str]:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    kept = sys.argv, sys.stdout, sys.stderr
    sys.argv, sys.stdout, sys.stderr = ["inductionlens", *words], out, err
    code: object = None
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv, sys.stdout, sys.stderr = kept
    out.flush()
    err.flush()
    return code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Limits of time and memory; types are not checked, as they are not for users."""
    pages, before = int(Path("/proc/self/statm").read_text().split()[0]), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))

    def stop(*_: object) -> None:
        raise TooLong

    handlers = [(kind, signal.signal(kind, stop)) for kind in (signal.SIGVTALRM, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT, 1)
    signal.setitimer(signal.ITIMER_REAL, CLOCK, 1)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, handler in handlers:
            signal.signal(kind, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
        jaxtyping.config.update("jaxtyping_disable", False)


def _as_for_users() -> None:
    """Warnings as they are shown outside of tests."""
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)


def _contents(place: Path) -> dict[str, bytes | str]:
    """Every file with its bytes, every folder and link by its kind."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        if path.is_file() and not path.is_symlink()
        else ("link" if path.is_symlink() else "folder" if path.is_dir() else "other")
        for path in (Path(top) / name for top, folders, files in os.walk(place) for name in (*folders, *files))
    }
