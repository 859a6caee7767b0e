"""Tables as CSV: exact, whole, and harmless in a spreadsheet."""

import csv
import re
from io import StringIO
from typing import TYPE_CHECKING

from inductionlens.errors import InputError

if TYPE_CHECKING:
    import pandas

SEPARATORS = (",", ";", "\t")
#: Columns that tables of this package alone have together; these end with an end of line.
WRITTEN_HERE = ({"probe"}, {"problem"}, {"before_and_after"}, {"step", "index", "loss"}, {"step", "token", "loss"})
#: Text that a spreadsheet takes for a formula. Apostrophes before it are kept apart from the one that is put there.
_FORMULA, _MARKED = re.compile(r"'*[=+\-@\t\r]"), re.compile(r"'+[=+\-@\t\r]")
_DECIMAL_COMMA, _DECIMAL_POINT = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?"), re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")


def encode_csv(table: "pandas.DataFrame") -> bytes:
    """A table as a CSV file: numbers exact, NaN an empty cell.

    Text that begins with ``=``, ``+``, ``-`` or ``@`` gets an apostrophe in front, so that no spreadsheet runs it as a
    formula; `decode_csv` takes it off.
    """
    marked = table.rename(columns=_mark)
    for place, kind in enumerate(table.dtypes):
        if kind.kind not in "biufMm":
            marked.isetitem(place, table.iloc[:, place].map(_mark))
    content = marked.to_csv(index=False, lineterminator="\n").encode()
    if b"\r" in content:  # a carriage return ends a line for readers, and the writer does not quote it by itself
        content = marked.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).encode()
    return content


def decode_csv(content: bytes, name: str) -> "pandas.DataFrame":
    """The cells of a CSV file as text, exactly as `encode_csv` had them; ``name`` is the file's, for what is refused.

    Cells may be separated by commas, semicolons or tabs, whichever the first line has. Decimal commas are read where
    semicolons or tabs separate cells and no cell has a decimal point.

    Raises:
        InputError: no text, no columns, a row with more or fewer cells than the first line, a cut end, or both kinds
            of decimals.
    """
    import pandas as pd

    try:
        text = content.decode("utf-8-sig")
        separator = _separator(text)
        table = pd.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except Exception as error:
        raise InputError(f"{name} is not a readable csv table: {_reason(error)}.") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(f"{name} is not a readable csv table: its rows have more cells than its first line.")
    if line := _short_line(text, separator):
        raise InputError(
            f"{name} is cut off or damaged: line {line} has fewer cells than the first, which has {len(table.columns)}."
        )
    if not text.endswith("\n") and any(names <= set(table.columns) for names in WRITTEN_HERE):
        raise InputError(f"{name} is cut off: its last line does not end; write it again, or copy it again.")
    if separator != ",":
        table = _with_points(table, name)
    table = table.rename(columns=_unmark)
    return table.apply(lambda cells: cells.map(_unmark)) if len(table) else table


def _separator(text: str) -> str:
    """The first of `SEPARATORS` in the first line; a comma where there is none."""
    first = text.lstrip("\r\n").partition("\n")[0]
    return next((separator for separator in SEPARATORS if separator in first), ",")


def _short_line(text: str, separator: str) -> int | None:
    """The first line that has fewer cells than the first one, counted from 1; pandas fills such rows up unasked."""
    # A quoted cell counts for the ends of lines in it alone.
    quoted = re.compile(rf'(^|[{separator}\n])"[^"]*(?:""[^"]*)*"')
    bare = quoted.sub(lambda cell: cell[1] + "\0" * cell[0].removeprefix(cell[1]).count("\n") + "x",
                      re.sub("\r\n?", "\n", text))  # fmt: skip
    inside, most = 0, None
    for number, line in enumerate(bare.split("\n"), 1):
        cells = line.count(separator)
        most = cells if most is None and line.strip() else most
        if line.strip() and most is not None and cells < most:
            return number + inside
        inside += line.count("\0")
    return None


def _reason(error: Exception) -> str:
    """Why it could not be read, in one line and without the reader's own prefixes."""
    said = (str(error).splitlines() or [type(error).__name__])[0].removeprefix("Error tokenizing data. C error: ")
    return f"it is cut off inside quotes ({said})" if "EOF inside string" in said else said.rstrip(".")


def _with_points(table: "pandas.DataFrame", name: str) -> "pandas.DataFrame":
    """Columns of numbers with decimal commas, with decimal points instead."""

    def all_are(cells: "pandas.Series", *kinds: re.Pattern[str]) -> bool:
        filled = [cell for cell in cells if cell]
        return bool(filled) and all(any(kind.fullmatch(cell) for kind in kinds) for cell in filled)

    whole = {column for column in table if all_are(table[column], _WHOLE)}
    commas = [column for column in table if column not in whole and all_are(table[column], _DECIMAL_COMMA, _WHOLE)]
    points = [column for column in table if column not in whole and all_are(table[column], _DECIMAL_POINT, _WHOLE)]
    if commas and points:
        raise InputError(
            f"{name} has decimal commas (column {commas[0]}) and decimal points (column {points[0]}); use one of them."
        )
    return table.assign(**{column: table[column].str.replace(",", ".", regex=False) for column in commas})


def _mark(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _unmark(cell: object) -> object:
    return cell[1:] if isinstance(cell, str) and _MARKED.match(cell) else cell
