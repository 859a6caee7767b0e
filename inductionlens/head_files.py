"""Head tables from files, every column as what it is."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inductionlens.errors import InputError
from inductionlens.files import read_raw
from inductionlens.published_columns import listed, renamed
from inductionlens.tables import REQUIRED, SCORES, explain, ordered

if TYPE_CHECKING:
    import pandas

#: Layers and heads beyond this are taken for a mistake.
MOST = 10_000


def read_table(
    path: Path, kind: str | None = None, columns: Mapping[str, str] | None = None
) -> "tuple[pandas.DataFrame, dict[str, Any]]":
    """Read a head table and its record back, exactly as written; the record is empty where there is none.

    A record that belongs to other bytes than the table's, say because the table was edited, is left out with a
    warning. Columns this package does not know are kept; ``columns`` says what others call ours (ours: theirs).

    Raises:
        InputError: no such file, an unknown suffix or layout, or a table that is no head table.
    """
    table, record = read_raw(path, kind)
    return typed(renamed(table, columns, ordered(), str(path)), str(path)), record


def typed(table: "pandas.DataFrame", name: str) -> "pandas.DataFrame":
    """Give every known column its own type, whatever file it came from.

    Raises:
        InputError: the table is not a head table, or a column holds something else than its type.
    """
    import pandas as pd

    absent = [column for column in REQUIRED if column not in table.columns]
    if absent or not any(score in table.columns for score in SCORES):
        raise InputError(
            f"{name} is not a head table: it has no column {', '.join(absent) or 'with a score'}; its columns are "
            f"{listed(table.columns)}. Tables written by scan have them, and of other tables --columns OUR=THEIRS "
            "(columns={our: their}) says what is what."
        )
    columns = {}
    for column in table.columns:
        known = explain(str(column))
        try:
            columns[column] = table[column] if known is None else _column(table[column], known.dtype)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            kind = {"int": "whole numbers", "float": "numbers", "str": "text"}[known.dtype]
            raise InputError(f"{name} is not a head table: column {column} must hold {kind}.") from error
    result = pd.DataFrame(columns)
    if result.empty:
        raise InputError(f"{name} is not a head table: it has no rows.")
    for column in REQUIRED:
        if result[column].isna().any() or (result[column] < 0).any() or (result[column] > MOST).any():
            raise InputError(f"{name} is not a head table: {column} must lie between 0 and {MOST} in every row.")
    if result.duplicated(["layer", "head"]).any():
        raise InputError(f"{name} is not a head table: it names a head twice.")
    _warn_of_a_cut(result, name)
    return result


def _warn_of_a_cut(table: "pandas.DataFrame", name: str) -> None:
    """Warn of a table of scan that ends inside a layer: it may have been cut off between two lines."""
    if "probe" not in table.columns:
        return
    heads, layers, width = (
        list(zip(table["layer"], table["head"], strict=True)),
        table["layer"].max(),
        table["head"].max(),
    )
    last = table.loc[table["layer"] == layers, "head"].max()
    whole = [(layer, head) for layer in range(layers + 1) for head in range(width + 1)]
    if last < width and heads == whole[: len(heads)]:
        warnings.warn(f"{name} ends with head {layers}.{last}, and other layers have {width + 1} heads: is it cut off?",
                      stacklevel=4)  # fmt: skip


def _column(values: "pandas.Series", kind: str) -> Any:
    """A column's values as what they are: text, whole numbers or floats; an empty cell is nothing or NaN."""
    import pandas as pd

    values = values.astype(object)
    if kind == "str":
        return values.where(values.notna(), "").astype(str)
    plain = [None if value is None or value is pd.NA or value == "" or value != value else value for value in values]
    if kind == "float":
        return [math.nan if value is None else float(value) for value in plain]
    if any(isinstance(value, float) and not value.is_integer() for value in plain):
        raise ValueError("a fraction")
    whole = [None if value is None else int(value) for value in plain]
    if any(value is not None and abs(value) >= 2**63 for value in whole):
        raise OverflowError("a number too large")
    return pd.array(whole, dtype="Int64")
