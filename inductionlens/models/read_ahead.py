"""The next checkpoint is read while this one is worked on."""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.checkpoints import Checkpoint


def read_ahead(series: Sequence[Checkpoint]) -> Iterator[tuple[Checkpoint, Model | InputError]]:
    """Each checkpoint with its model, or with why there is none. One thread reads ahead, by one checkpoint."""
    ready: queue.Queue[tuple[Checkpoint, Model | InputError | BaseException]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(item: tuple[Checkpoint, Any]) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def read() -> None:
        for one in series:
            if stop.is_set():
                return
            try:
                put((one, one.load()))
            except InputError as error:
                put((one, error))
            except BaseException as error:
                put((one, error))
                return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        for _ in series:
            one, model = ready.get()
            if isinstance(model, BaseException) and not isinstance(model, InputError):
                raise model
            yield one, model
    finally:
        stop.set()
        thread.join()
