"""Settings that mean the same everywhere are checked here, before work begins."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from inductionlens.errors import InputError

#: Beyond these a stimulus is taken for a mistake.
MOST_SEQUENCES, MOST_TOKENS = 10**5, 10**8


class Whole(NamedTuple):
    """Which whole numbers a setting may be."""

    least: int
    most: int
    optional: bool = False
    """Whether None is a value too."""


#: The rule of every setting that is a whole number, by its name. ``seed`` and ``bos`` have rules of their own.
WHOLE = {
    "sequences": Whole(1, MOST_SEQUENCES),
    "n_windows": Whole(1, MOST_SEQUENCES),
    "period": Whole(3, MOST_TOKENS),
    "logit_period": Whole(3, MOST_TOKENS),
    "repeats": Whole(2, MOST_TOKENS),
    "length": Whole(3, MOST_TOKENS, True),
    "late": Whole(1, MOST_TOKENS, True),
    "early": Whole(0, MOST_TOKENS, True),
    "distance": Whole(0, MOST_TOKENS, True),
    "draws": Whole(1, 10**4),
    "top": Whole(1, 10**5),
    "frames": Whole(1, 10**5, True),
    "workers": Whole(1, 10**3),
    "batch_size": Whole(1, 10**6, True),
    "steps": Whole(1, 10**7),
    "warmup": Whole(1, 10**7),
    "snapshots": Whole(2, 10**4),
    "layers": Whole(1, 10**3),
    "heads": Whole(1, 10**4),
    "d_model": Whole(1, 10**5),
    "d_head": Whole(1, 10**5),
    "d_vocab": Whole(4, 10**7),
    "n_ctx": Whole(16, 2**15),
}


def check_settings(least: dict[str, int] | None = None, **settings: Any) -> None:
    """Refuse settings that no model could be measured with. ``least`` raises the smallest value of some.

    Raises:
        InputError: a value of the wrong kind, too small or too large; or stimuli that no memory holds.
    """
    for name, value in settings.items():
        if name == "seed":
            check_seed(value)
        elif name == "bos":
            check_bos(value)
        elif name in WHOLE:
            rule = WHOLE[name]
            if not (value is None and rule.optional):
                check_whole(name, value, max(rule.least, (least or {}).get(name, 0)), rule.most)
        elif not isinstance(value, bool):
            raise InputError(f"{name} must be True or False; got {told(value)}.")
    if settings.get("period") is not None and "sequences" in settings:
        check_size(settings["sequences"], settings["period"] * settings.get("repeats", 2))
    if settings.get("length") is not None and "n_windows" in settings:
        check_size(settings["n_windows"], settings["length"], "windows", "n_windows or length")


def check_whole(name: str, value: Any, least: int, most: int) -> None:
    """Refuse what is no whole number from ``least`` to ``most``.

    Raises:
        InputError: in terms of ``name``.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number; got {told(value)}.")
    if value < least:
        raise InputError(f"{name} must be at least {least}; got {told(value)}.")
    if value > most:
        raise InputError(f"{name} must be at most {most:,}; got {told(value)}.")


def check_seed(seed: Any) -> None:
    """Refuse what is no seed.

    Raises:
        InputError: it is no whole number from 0 to 2^63 - 1.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InputError(f"seed must lie between 0 and 2^63 - 1; got {told(seed)}.")


def check_bos(bos: Any) -> None:
    """Refuse what cannot start sequences; whether a model has the id is seen later.

    Raises:
        InputError: it is neither True, False nor a whole number from 0 on.
    """
    if not isinstance(bos, int) or bos < 0:
        raise InputError(f"bos must be True, False or a token id, a whole number from 0 on; got {told(bos)}.")


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Refuse what is none of the ``known`` words.

    Raises:
        InputError: in terms of ``name``.
    """
    known = tuple(known)
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}; got {told(value)}.")


def check_choices(name: str, values: Iterable[Any], known: Iterable[str]) -> None:
    """Refuse an empty selection, and one with something that is none of the ``known`` words.

    Raises:
        InputError: in terms of ``name``.
    """
    known, values = tuple(known), [values] if isinstance(values, str) else list(values)
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise InputError(f"{name} must be among {', '.join(known)}; got {told(unknown[0]) if unknown else 'none'}.")


def check_between(name: str, value: Any, low: float, high: float) -> None:
    """Refuse what is no number from ``low`` to below ``high``; NaN lies nowhere.

    Raises:
        InputError: in terms of ``name``.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value < high:
        raise InputError(f"{name} must lie between {low:g} and {high:g}; got {told(value)}.")


def check_text(text: Any) -> None:
    """Refuse what names no text.

    Raises:
        InputError: it is empty, or neither a word nor a path.
    """
    if not (isinstance(text, str) or hasattr(text, "__fspath__")) or not str(text).strip():
        raise InputError(
            f"text must name a .txt file or a folder of them, or be auto, stdlib, random or hub:NAME; got {told(text)}."
        )


def check_size(
    sequences: int, length: int, called: str = "sequences", smaller: str = "sequences, period or repeats"
) -> None:
    """Refuse stimuli that no one can have meant.

    Raises:
        InputError: more than 100,000 sequences, or 100 million tokens; with the memory they would take.
    """
    if sequences > MOST_SEQUENCES or sequences * length > MOST_TOKENS:
        raise InputError(
            f"{sequences} {called} of {length} tokens are too many: their ids and losses alone take about "
            f"{in_bytes(16 * sequences * length)}, and at most {MOST_SEQUENCES:,} {called} and {MOST_TOKENS:,} tokens "
            f"make one stimulus; use a smaller {smaller}."
        )


def in_bytes(count: int | float) -> str:
    """A number of bytes for people: ``3.2 GB``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB" if count < 10**6 else "more than all computers have"


def told(value: Any) -> str:
    """A value as a message shows it, cut where it is long."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number beyond 10^30"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
