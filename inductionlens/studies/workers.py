"""Worker processes that end with their parent."""

import os
import threading
import time
from functools import cache

#: Seconds between two looks at the parent.
EVERY = 0.2


@cache
def end_with(parent: int) -> None:
    """End this process at once when the process ``parent``, which started it, is gone; once for each parent.

    A parent that is killed tells its workers nothing, and they would work on. Where a parent's end is not seen in the
    id of the parent (Windows), nothing happens.
    """

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY)
        os._exit(1)

    if os.getppid() == parent:
        threading.Thread(target=look, daemon=True).start()
