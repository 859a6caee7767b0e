"""Settings by name or as one bundle."""

from typing import Any, TypeVar

from inductionlens.errors import InputError

Options = TypeVar("Options")


def settled(function: str, kind: type[Options], options: Options | None, settings: dict[str, Any]) -> Options:
    """The options of a study, given as a ``kind`` or by the names of its fields.

    Raises:
        InputError: both were given, or a name that is no field; in terms of ``function``.
    """
    if options is not None and settings:
        raise InputError(f"Give {function} either options or settings by name, not both.")
    known = kind.__dataclass_fields__
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise InputError(f"{function} has no setting {unknown[0]!r}; it has {', '.join(known)}.")
    return options or kind(**settings)
