"""What is kept of a model that was trained and watched."""

import json
from pathlib import Path
from typing import Any

from inductionlens.errors import InputError

#: Numbers, or null where nothing was found.
NUMBERS = (
    *("prefix_matching", "icl_score", "copying_gain", "spacing", "qk_eigen", "lost", "lost_free"),
    *(f"{curve}_{part}" for curve in ("prefix", "icl") for part in ("start", "end", "middle", "size")),
)
LISTS = ("lost_random", "lost_random_free")


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of one model: ``plan``, `NUMBERS`, `LISTS` of numbers, ``formed`` and ``induction_heads``.

    Raises:
        InputError: the file is something else.
    """
    way_out = "remove it to measure that model again"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {str(error)[:200]}; {way_out}.") from error
    for name, sound in _checks(summary if isinstance(summary, dict) else {}):
        if not sound:
            raise InputError(f"{path} is no summary of a model, by {name}; {way_out}.")
    return summary


def _checks(summary: dict[str, Any]) -> list[tuple[str, bool]]:
    def number(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) < 1e300

    def listed(name: str) -> list[Any]:
        return summary[name] if isinstance(summary.get(name), list) else [object()]

    checks = [("plan", isinstance(summary.get("plan"), dict)), ("formed", type(summary.get("formed")) is bool)]
    checks += [(name, name in summary and (summary[name] is None or number(summary[name]))) for name in NUMBERS]
    checks += [(name, all(map(number, listed(name)))) for name in LISTS]
    return [*checks, ("induction_heads", all(isinstance(name, str) for name in listed("induction_heads")))]
