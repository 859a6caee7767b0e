"""One process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from inductionlens.errors import InputError


@contextmanager
def held(lock: Path, taken: str) -> Iterator[None]:
    """Hold the file ``lock``, made here and removed afterwards; however its holder ends, the system lets go of it.

    Raises:
        InputError: another holds it (``taken`` is then said), or it cannot be made.
    """
    from filelock import FileLock, Timeout

    holder = FileLock(lock, timeout=0)
    try:
        holder.acquire()
    except Timeout:
        raise InputError(taken) from None
    except OSError as error:
        raise InputError(f"{lock} cannot be made: {error.strerror or error}.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove what is open
            lock.unlink()
        holder.release()
