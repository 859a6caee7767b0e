"""Tables to files and back, whole or not at all."""

import hashlib
import json
import math
import os
import tempfile
import warnings
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inductionlens.errors import InputError
from inductionlens.tables import REQUIRED, SCORES, explain

if TYPE_CHECKING:
    import pandas

FORMATS = {".csv": "csv", ".parquet": "parquet", ".json": "json"}
#: Version of the table's layout, in the sidecar; raised when a column changes its meaning.
SCHEMA = 1
#: Layers and heads beyond this are taken for a mistake.
MOST = 10_000


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
    name = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
            name = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path!s} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        if name is not None and os.path.exists(name):
            os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def encode_table(table: "pandas.DataFrame", kind: str) -> bytes:
    """A table as the bytes of a CSV, Parquet or JSON file; numbers exact, NaN an empty cell or null."""
    if kind == "csv":
        return table.to_csv(index=False, lineterminator="\n").encode()
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


def read_table(path: Path, kind: str | None = None) -> "tuple[pandas.DataFrame, dict[str, Any]]":
    """Read a head table and its record back, exactly as written; the record is empty where there is none.

    A record that belongs to other bytes than the table's, say because the table was edited, is left out with a
    warning. Columns this package does not know are kept.

    Raises:
        InputError: no such file, an unknown suffix or layout, or a table that is no head table.
    """
    kind = format_of(path, kind)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The table {path!s} cannot be read: {reason}.") from error
    table = typed(_decode(path, content, kind), str(path))
    return table, _read_record(path, content)


def _decode(path: Path, content: bytes, kind: str) -> "pandas.DataFrame":
    import pandas as pd

    try:
        if kind == "csv":
            return pd.read_csv(StringIO(content.decode()), dtype=str, keep_default_na=False)
        if kind == "parquet":
            return pd.read_parquet(BytesIO(content))
        return pd.DataFrame(json.loads(content))
    except Exception as error:
        raise InputError(f"{path} is not a readable {kind} table: {str(error).splitlines()[0]}.") from error


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


def typed(table: "pandas.DataFrame", name: str) -> "pandas.DataFrame":
    """Give every known column its own type, whatever file it came from.

    Raises:
        InputError: the table is not a head table, or a column holds something else than its type.
    """
    import pandas as pd

    absent = [column for column in REQUIRED if column not in table.columns]
    if absent or not any(score in table.columns for score in SCORES):
        raise InputError(
            f"{name} is not a head table: it has no column {', '.join(absent) or 'with a score'}; "
            "tables written by scan have them."
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
    return result


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
