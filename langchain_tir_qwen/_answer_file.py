"""A crash-safe JSON Lines file of the answers to a data set."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic_core import from_json, to_json

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

Row = dict[str, Any]
"""One row of a data set: column names and values."""

COLUMNS = ("response", "reasoning", "finish_reason", "input_tokens", "output_tokens", "error")
"""The columns that an answer adds to a row."""

Key = str | int | float


class AnswerFile:
    """A JSON Lines file of answered rows; each is written as soon as its answer arrives.

    A program that is run again, because it was killed or because rows failed, only requests the `missing` rows. A line
    cut off when the program was killed is removed, and its row is requested again. (The file is not flushed to disk, so
    a crash of the machine may lose the answers of the last seconds.) The file contains the rows with their prompts and
    answers; its columns are those of `answer_rows`.

    Args:
        path: The file; created if it does not exist. Only one program at a time may open it (not checked on Windows).
        key: The column that identifies a row; its values are strings or numbers.

    Raises:
        BlockingIOError: The file is already open in this program or another.
        ValueError: The file contains something other than answered rows. It is left unchanged.
    """

    def __init__(self, path: str | os.PathLike[str], *, key: str = "id") -> None:
        self._path = Path(path)
        self._key = key
        self._answered: dict[Key, bytes] = {}  # digests of the rows
        self._missing: dict[Key, Row] = {}
        self._file = self._path.open("ab+", buffering=0)
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if fcntl:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(error.errno, "the file is already open for answers", str(self._path)) from None

    def _read(self) -> None:
        """Read the answered rows and remove an incomplete line at the end."""
        size, line = 0, b"\n"
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    self._read_line(line)
                except (ValueError, TypeError, AttributeError):
                    if not _is_torn(line):
                        text = f"{self._path}, line {number}: not an answered row with a column {self._key!r}."
                        raise ValueError(text) from None
                    self._file.truncate(size)
                    return
                size += len(line)
        if not line.endswith(b"\n"):
            self._file.write(b"\n")

    def _read_line(self, line: bytes) -> None:
        row = from_json(line)
        if not row.keys() >= {*COLUMNS}:
            raise ValueError
        if row["error"] is None:
            self._answered[self._key_of(row)] = _digest(row)

    def __len__(self) -> int:
        """Return the number of answered rows."""
        return len(self._answered)

    def missing(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows that have not been answered.

        Raises:
            ValueError: A row has no key, shares its key with another row, or cannot be written as JSON; or the file
                contains the answer to a different row with the same key.
        """
        keys = set()
        missing = []
        for row in rows:
            key, asked = self._key_of(row), _digest(row)
            if key in keys:
                raise ValueError(f"two rows have the {self._key!r} {key!r}: their answers could not be told apart.")
            keys.add(key)
            if key not in self._answered:
                self._missing[key] = row
                missing.append(row)
            elif self._answered[key] != asked:
                raise ValueError(f"{self._path} has the answer to another row whose {self._key!r} is {key!r}.")
        return missing

    def add(self, row: Row) -> None:
        """Write an answered row. Rows with an `error` are skipped, so that the next run requests them again.

        Raises:
            OSError: The file cannot be written, for example because the disk is full or the file was deleted. Earlier
                rows are intact.
        """
        if row["error"] is not None:
            return
        key = self._key_of(row)
        asked = self._missing.get(key, row)  # the original row: a cluster may have changed the types of numbers
        row = {**asked, **{name: row[name] for name in COLUMNS}}
        line, digest = to_json(row, fallback=_from_numpy) + b"\n", _digest(row)
        if not os.fstat(self._file.fileno()).st_nlink:
            raise FileNotFoundError(f"{self._path} was deleted while answers were written to it.")
        self._write(line)
        self._answered[key] = digest
        self._missing.pop(key, None)

    def _write(self, line: bytes) -> None:
        size = self._file.seek(0, os.SEEK_END)
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except BaseException:
            try:
                self._file.truncate(size)
            except OSError:  # further rows must not be appended to half a line
                self.close()
            raise

    def _key_of(self, row: Row) -> Key:
        key: Any = row.get(self._key)
        if hasattr(key, "tolist"):  # numpy's
            key = key.tolist()
        if isinstance(key, str) or (isinstance(key, int) and key is not True and key is not False):
            return key
        if isinstance(key, float) and math.isfinite(key):
            return key
        what = f"no {self._key!r}" if key is None else f"the {self._key!r} {key!r}, a {type(key).__name__}"
        raise ValueError(f"a row has {what}: it must be a string or a number, so that its answer can be found again.")

    def close(self) -> None:
        """Close the file, so that it can be opened elsewhere."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _is_torn(line: bytes) -> bool:
    """Whether the line may be a row that was cut off."""
    if line.endswith(b"\n"):
        return False
    try:
        from_json(line)
    except ValueError:
        with suppress(ValueError):
            return isinstance(from_json(line, allow_partial=True), dict)
    return False


def _digest(row: Row) -> bytes:
    """Return a digest of the row without its answer, normalized to JSON; the rows themselves may not fit in memory."""
    asked = {name: value for name, value in row.items() if name not in COLUMNS}
    return sha256(json.dumps(from_json(to_json(asked, fallback=_from_numpy)), sort_keys=True).encode()).digest()


def _from_numpy(value: Any) -> Any:
    """Convert numpy numbers and arrays, which data sets may contain."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"{type(value).__name__} cannot be written as JSON")
