"""Sweep every architecture that TransformerLens lists: ``python tests/families/sweep.py [WORD ...]``.

Each is built with two layers and random weights, run through the package, and compared with Hugging Face. The table of
the installed line of TransformerLens in docs/families.md is written anew; the other line's is kept. With words, only
the families whose names hold one of them are run, and nothing is written. Exit code 1 where a family is WRONG, ends in
a TRACEBACK, or is loaded and then refused by every study.
"""

import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from queue import Empty

for _name, _value in (("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1")):
    os.environ.setdefault(_name, _value)
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from families_page import PAGE, written_anew  # noqa: E402
from tiny_models import families  # noqa: E402
from verdicts import PARTS, REFUSED, TRACEBACK, WRONG, judge  # noqa: E402

#: Seconds that one family may take.
LIMIT = 60
Found = dict[str, list[str]]


def _judged(name: str, special: dict, answers: "multiprocessing.Queue") -> None:
    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    answers.put(judge(name, special))


def sweep(names: list[str], on_family: Callable[[str, Found], None] = lambda name, found: None) -> dict[str, Found]:
    """Family -> part -> [verdict, detail]. Each has a process and a time limit of its own."""
    context, known, found = multiprocessing.get_context("fork"), families(), {}
    for name in names:
        answers = context.Queue()
        process = context.Process(target=_judged, args=(*known[name], answers), daemon=True)
        process.start()
        found[name] = _answer(process, answers)
        process.kill()
        process.join()
        on_family(name, found[name])
    return found


def _answer(process: "multiprocessing.Process", answers: "multiprocessing.Queue") -> Found:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        alive = process.is_alive()
        try:
            return answers.get(timeout=0.5)
        except Empty:
            if not alive:
                return {"load": [TRACEBACK, f"its process ended with code {process.exitcode}"]}
    return {"load": [TRACEBACK, f"no answer within {LIMIT} s"]}


def failures(found: dict[str, Found]) -> list[str]:
    """One line for every part of a family that is wrong or ends in an error, or where loading promised too much."""
    bad = (WRONG, TRACEBACK)
    promised = [
        f"{name}: loaded, then refused by every study: {parts[PARTS[0]][1]}"
        for name, parts in found.items()
        if len(parts) > 1 and all(parts[part][0] == REFUSED for part in PARTS)
    ]
    return promised + [
        f"{name}, {part}: {verdict} {detail}"
        for name, parts in found.items()
        for part, (verdict, detail) in parts.items()
        if verdict in bad
    ]


def main(words: list[str]) -> int:
    """Sweep, print, and write the page."""
    names = [name for name in families() if not words or any(word in name for word in words)]
    found = sweep(names, lambda name, parts: print(_line(name, parts), flush=True))
    failed = failures(found)
    print(f"\n{len(names)} families, {len(failed)} failures", *failed, sep="\n  ")
    if not words:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(written_anew(found), encoding="utf-8")
        print(f"written: {PAGE.relative_to(ROOT)}")
    return int(bool(failed))


def _line(name: str, parts: Found) -> str:
    told = [" ".join(filter(None, (part, *judged))) for part, judged in parts.items()]
    return f"{name}: {'; '.join(told)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
