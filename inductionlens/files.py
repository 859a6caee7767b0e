"""Tables to files and back, whole or not at all."""

import hashlib
import json
import math
import os
import secrets
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inductionlens.cells import numbers
from inductionlens.csv_tables import decode_csv, encode_csv
from inductionlens.errors import InputError
from inductionlens.published_columns import listed

if TYPE_CHECKING:
    import pandas

FORMATS = {".csv": "csv", ".parquet": "parquet", ".json": "json"}
#: Version of the table's layout, in the sidecar; raised when a column changes its meaning.
SCHEMA = 1


def format_of(path: Path, given: str | None = None) -> str:
    """``csv``, ``parquet`` or ``json``: as given, else by the file's suffix.

    Raises:
        InputError: neither tells.
    """
    if given is not None:
        if given not in FORMATS.values():
            raise InputError(f"format must be one of {', '.join(FORMATS.values())}; got {given!r}.")
        return given
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"The suffix of {path} must be one of {', '.join(FORMATS)}, which tells the format; "
            f"got {path.suffix or 'none'!r}."
        )
    return FORMATS[path.suffix.lower()]


def check_writable(path: Path) -> None:
    """Refuse, before any work is done, a path that could not be written.

    Raises:
        InputError: it is a folder, or its folder is missing or closed to us.
    """
    try:
        folder, parent, other = path.is_dir(), path.parent.is_dir(), path.exists() and not path.is_file()
    except (OSError, ValueError) as error:
        raise InputError(f"{path!s} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    if folder:
        raise InputError(f"{path} is a folder; give the name of a file in it.")
    if other:
        raise InputError(f"{path} is no ordinary file, which a table could replace; write to another name.")
    if not parent:
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"{path} cannot be written: no permission.")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: into a temporary file beside it, then renamed.

    Raises:
        InputError: the file cannot be written.
    """
    check_writable(path)
    writing: Path | None = path.parent / f".writing-{secrets.token_hex(8)}"
    try:
        # A new file has the mode that the umask leaves; the umask itself belongs to all threads and is not touched.
        with open(writing, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(writing, path)
    except FileExistsError as error:
        writing = None  # somebody else's
        raise InputError(f"{path!s} cannot be written: {error.strerror}.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path!s} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        if writing is not None and writing.exists():
            writing.unlink()


def encode_table(table: "pandas.DataFrame", kind: str) -> bytes:
    """A table as the bytes of a CSV, Parquet or JSON file; numbers exact, NaN an empty cell or null."""
    if kind == "csv":
        return encode_csv(table)
    if kind == "parquet":
        buffer = BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue()
    rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")]
    return (json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    missing = value is None or value != value or type(value).__name__ == "NAType"
    return None if missing or (isinstance(value, float) and math.isinf(value)) else value


def sidecar_of(path: Path) -> Path:
    """Where the record of a table is kept: ``scores.csv.meta.json`` beside ``scores.csv``."""
    return path.with_name(path.name + ".meta.json")


def write_table(path: Path, table: "pandas.DataFrame", record: dict[str, Any], kind: str | None = None) -> None:
    """Write a table and the record beside it. The record names the table's bytes, so neither can pass for another's.

    Raises:
        InputError: an unknown suffix, or a place that cannot be written.
    """
    content = encode_table(table, format_of(path, kind))
    note = {"schema": SCHEMA, "table_sha256": hashlib.sha256(content).hexdigest(), **record}
    check_writable(sidecar_of(path))
    write_atomically(path, content)
    write_atomically(sidecar_of(path), (json.dumps(note, indent=2, ensure_ascii=False) + "\n").encode())


def read_plain_table(
    path: Path, text: Sequence[str], required: Sequence[str], called: str, kind: str | None = None
) -> "tuple[pandas.DataFrame, dict[str, Any]]":
    """Read a table and its record: columns named in ``text`` hold text, all others numbers (empty is NaN).

    Raises:
        InputError: no such file, an unknown suffix, no column of ``required``, or text where a number should be.
    """
    table, record = read_raw(path, kind)
    if not len(table.columns) and not len(table):  # JSON keeps no columns where there are no rows
        table = table.reindex(columns=list(required))
    absent = [name for name in required if name not in table.columns]
    if absent:
        raise InputError(
            f"{path} is not a {called}: it has no column {absent[0]}; its columns are {listed(table.columns)}."
        )
    for name in table.columns:
        try:
            table[name] = table[name].fillna("") if name in text else numbers(table[name])
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{path} is not a {called}: column {name} must hold numbers.") from error
    return table, record


def read_raw(path: Path, kind: str | None) -> "tuple[pandas.DataFrame, dict[str, Any]]":
    """A table as the file holds it, and its record."""
    kind = "csv" if kind is None and path.suffix.lower() == ".tsv" else format_of(path, kind)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The table {path!s} cannot be read: {reason}.") from error
    return _decode(path, content, kind), _read_record(path, content)


def _decode(path: Path, content: bytes, kind: str) -> "pandas.DataFrame":
    import pandas as pd

    if kind == "csv":
        return decode_csv(content, str(path))
    try:
        if kind == "parquet":
            return pd.read_parquet(BytesIO(content))
        rows = json.loads(content)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not a readable {kind} table: {reason.rstrip('.')}.") from error
    return _of_rows(rows, path)


def _of_rows(rows: Any, path: Path) -> "pandas.DataFrame":
    """A table from a list of rows, or from one list (or dictionary) per column, as pandas writes JSON."""
    import pandas as pd

    by_column = isinstance(rows, dict) and len({type(cells) for cells in rows.values()}) == 1
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        by_column = True
    try:
        if by_column:
            return pd.DataFrame(rows).reset_index(drop=True)
    except Exception:  # columns of unequal lengths, single values
        pass
    what = (
        f"its top holds {listed((f'{key} ({_called(value)})' for key, value in rows.items()), 8)}"
        if isinstance(rows, dict)
        else f"its top is {_called(rows)}"
    )
    raise InputError(
        f"{path} is not a readable json table: {what}; a table is a list of rows, such as "
        '[{"layer": 0, "head": 0, "prefix_matching": 0.5}], or one list for each column.'
    )


def _called(value: Any) -> str:
    """A JSON value in words."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return f"{value!r:.30}"


def checked_path(path: object) -> Path:
    """What a caller gave as a path.

    Raises:
        InputError: it is neither text nor a path.
    """
    if not isinstance(path, (str, Path)):
        raise InputError(f"path must be a path; got {path!r}.")
    if not str(path).strip():
        raise InputError("path is empty; give the name of a file or folder.")
    return Path(path)


def _read_record(path: Path, content: bytes) -> dict[str, Any]:
    note = sidecar_of(path)
    try:
        there = note.is_file()
    except OSError:
        there = False  # a name too long for a record
    if not there:
        return {}
    try:
        record = json.loads(note.read_text(encoding="utf-8"))
        schema, digest = record["schema"], record["table_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"The record {note} is not readable; delete it to read the table alone.") from error
    if schema != SCHEMA:
        raise InputError(f"The table {path} has layout {schema}; this version reads layout {SCHEMA}.")
    if digest != hashlib.sha256(content).hexdigest():
        warnings.warn(f"The record {note} belongs to another version of {path.name} and is left out.", stacklevel=3)
        return {}
    return {key: value for key, value in record.items() if key not in ("schema", "table_sha256")}
