"""Answered rows as lines of JSON, and what identifies a row in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import from_json, to_json

Row = dict[str, Any]
"""One row of a data set: column names and values."""

COLUMNS = ("response", "reasoning", "finish_reason", "input_tokens", "output_tokens", "error")
"""The columns that an answer adds to a row."""
ATTEMPTS = "attempts"
"""The column that a file adds to a row that failed: how often it has failed."""
RESERVED = (*COLUMNS, ATTEMPTS)
"""Columns that rows of a data set cannot have."""
_NEEDED = frozenset(COLUMNS)
_RESERVED = frozenset(RESERVED)

Index = int | float
"""Represents the key of a row in memory."""

BOM = b"\xef\xbb\xbf"


def counted(rows: int) -> str:
    """Return `1 row` or `1,234 rows`."""
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def check_row(row: Any) -> None:
    """Check that a row is a dict of its columns.

    Raises:
        TypeError: It is not; iterating over a DataFrame, for example, yields the names of its columns.
    """
    if not isinstance(row, Mapping):
        text = f"a row is a {type(row).__name__}, but must be a dict of its columns"
        raise TypeError(f"{text}; of a DataFrame, pass frame.to_dict('records').")


def to_line(row: Row) -> bytes:
    """Return a row as a line of standard JSON, in which NaN and Infinity are null."""
    return to_json(row, fallback=_from_numpy, inf_nan_mode="null") + b"\n"


def read_line(line: bytes, key: str) -> tuple[Index, int, int]:
    """Return the index and the digest of an answered row, and how often it has failed: 0 if it has its answer.

    Raises:
        ValueError: The line is not an answered row. (Also TypeError or AttributeError.)
    """
    row = from_json(line)
    if not row.keys() >= _NEEDED:
        raise ValueError
    failures = 0 if row["error"] is None else max(int(row.get(ATTEMPTS, 1)), 1)
    return index_of(row, key), digest(row), failures


def index_of(row: Row, key: str) -> Index:
    """Return what represents a row's key: a number itself, or the hash of a string, which takes less memory.

    Two of a million strings have the same hash once in 37 million data sets. They are then reported as duplicates.
    """
    value: Any = row.get(key)
    if hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if isinstance(value, str):
        return hash(value)
    if isinstance(value, int) and value is not True and value is not False:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    what = f"no {key!r}" if value is None else f"the {key!r} {value!r}, a {type(value).__name__}"
    raise ValueError(f"a row has {what}: it must be a string or a number, so that its answer can be found again.")


def digest(row: Row) -> int:
    """Return a 64-bit digest of a row without its answer, valid in this process only.

    Rows are equal if they are equal as JSON. Columns without a value are ignored, and so is the type of whole numbers:
    a cluster, whose columns have one type each, adds the former and changes the latter.

    Raises:
        ValueError: The row cannot be written as JSON.
    """
    return hash(to_json(_sorted(row, row.keys() - _RESERVED)))


def _sorted(values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: plain for name in sorted(names) if (plain := _plain(values[name])) is not None}


def _plain(value: Any) -> Any:
    """Return a value of a row in a form that is the same for all values with equal JSON."""
    kind = type(value)
    if kind is str or kind is int or kind is bool:
        return value
    if kind is float:
        return (int(value) if value.is_integer() else value) if math.isfinite(value) else None
    if kind is list:
        return [_plain(one) for one in value]
    if kind is dict and all(type(name) is str for name in value):
        return _sorted(value, value) or None
    if value is None:
        return None
    return _plain(from_json(to_json(value, fallback=_from_numpy, inf_nan_mode="null")))


def _from_numpy(value: Any) -> Any:
    """Convert numpy numbers and arrays, which data sets may contain."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"{type(value).__name__} cannot be written as JSON")


def without_padding(line: bytes) -> bytes:
    """Return a line without what a crash of the machine or an editor adds: NULs, a byte order mark, blanks."""
    return line.strip(b"\0").removeprefix(BOM).strip(b"\0 \t\r\n")


def is_torn(line: bytes) -> bool:
    """Whether the line, the last of a file, may be a row that was cut off."""
    if line.endswith(b"\n"):
        return False
    line = without_padding(line)
    try:
        from_json(line)
    except ValueError:
        try:
            return isinstance(from_json(line, allow_partial=True), dict)
        except ValueError:
            return False
    return False
