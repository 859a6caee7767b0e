"""Cells of a table's file as numbers."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

_WORDS = {"": None, "True": True, "False": False}


def numbers(values: "pandas.Series") -> "pandas.Series":
    """Whole numbers where all cells are, else floats, to the last bit; empty cells are NaN.

    A column with a whole number beyond 64 bits becomes floats. Truths stay truths; beside empty cells they are 1 and 0.

    Raises:
        ValueError: a cell holds something else, or truths stand among numbers.
        OverflowError: a whole number is too large for a float.
    """
    import pandas as pd

    if pd.api.types.is_numeric_dtype(values):
        return values
    cells = [_cell(value) for value in values]
    kinds = {type(cell) for cell in cells} - {type(None)}
    if bool in kinds and len(kinds) > 1:
        raise ValueError("truths among numbers")
    if None not in cells:
        if kinds == {bool}:
            return pd.Series(cells, dtype="bool", index=values.index)
        if kinds <= {int} and all(-(2**63) <= cell < 2**63 for cell in cells):
            return pd.Series(cells, dtype="int64", index=values.index)
    floats = [math.nan if cell is None else float(cell) for cell in cells]
    return pd.Series(floats, dtype="float64", index=values.index)


def _cell(value: Any) -> int | float | bool | None:
    """What one cell holds: a number, a truth, or None where it is empty."""
    value = value.item() if hasattr(value, "item") else value
    if value is None or type(value).__name__ == "NAType" or value != value:
        return None
    if isinstance(value, (bool, int, float)):
        return value
    if not isinstance(value, str):
        raise ValueError(f"no number: {value!r}")
    if value in _WORDS:
        return _WORDS[value]
    try:
        return int(value)
    except ValueError:
        return _cell(float(value))


def printable(text: str) -> str:
    """Text on one line, with control characters and what no file can hold as escapes, such as ``\\x1b``."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
