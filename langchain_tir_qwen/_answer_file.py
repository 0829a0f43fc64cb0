"""Answers to a data set in a file that a killed program leaves whole."""

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
"""One prompt with whatever belongs to it, by the names of the columns."""

COLUMNS = ("response", "reasoning", "finish_reason", "input_tokens", "output_tokens", "error")
"""What an answer adds to its row."""

Key = str | int | float


class AnswerFile:
    """Answered rows in a file of JSON lines, each written the moment that it comes.

    A program that is run again, after it was killed or after some rows failed, asks for what is `missing` and for
    nothing else. A line that a kill has cut off is removed, and its row asked again. (A crash of the machine itself may
    cost the last seconds' answers too: the file is not forced to the disk.) It holds the rows as they are, prompts and
    answers; its columns are those of `answer_rows`.

    Args:
        path: The file; made if it is not there. Only one program at a time can have it open (on Windows nobody checks).
        key: The column that tells rows apart: texts or numbers.

    Raises:
        BlockingIOError: The file is open already, in another program or in this one.
        ValueError: The file holds something else; it is left as it is.
    """

    def __init__(self, path: str | os.PathLike[str], *, key: str = "id") -> None:
        self._path = Path(path)
        self._key = key
        self._known: dict[Key, bytes] = {}
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
                raise BlockingIOError(error.errno, "the file is open for answers already", str(self._path)) from None

    def _read(self) -> None:
        """Learn what is there, and cut off a line that has no end."""
        size, line = 0, b"\n"
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    self._learn(line)
                except (ValueError, TypeError, AttributeError):
                    if not _is_torn(line):
                        text = f"{self._path}, line {number}: this is no answered row with a column {self._key!r}."
                        raise ValueError(text) from None
                    self._file.truncate(size)
                    return
                size += len(line)
        if not line.endswith(b"\n"):
            self._file.write(b"\n")

    def _learn(self, line: bytes) -> None:
        row = from_json(line)
        if not row.keys() >= {*COLUMNS}:
            raise ValueError
        if row["error"] is None:
            self._known[self._key_of(row)] = _digest(row)

    def __len__(self) -> int:
        """How many rows are answered."""
        return len(self._known)

    def missing(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that are not answered.

        Raises:
            ValueError: A row has no key, or another row's, or cannot be written as JSON, or the file has an answer to a
                row that has the same key and other content.
        """
        keys = set()
        missing = []
        for row in rows:
            key, asked = self._key_of(row), _digest(row)
            if key in keys:
                raise ValueError(f"two rows have the {self._key!r} {key!r}: their answers could not be told apart.")
            keys.add(key)
            if key not in self._known:
                self._missing[key] = row
                missing.append(row)
            elif self._known[key] != asked:
                raise ValueError(f"{self._path} has the answer to another row whose {self._key!r} is {key!r}.")
        return missing

    def add(self, row: Row) -> None:
        """Write an answered row down. One with an `error` is left out, so that it is asked again the next time.

        Raises:
            OSError: The disk is full, say, or the file was deleted. What was written before is whole.
        """
        if row["error"] is not None:
            return
        key = self._key_of(row)
        asked = self._missing.get(key, row)  # the row as it was: on its way through a cluster its numbers may change
        row = {**asked, **{name: row[name] for name in COLUMNS}}
        line, digest = to_json(row, fallback=_plain) + b"\n", _digest(row)
        if not os.fstat(self._file.fileno()).st_nlink:
            raise FileNotFoundError(f"{self._path} was deleted while answers were written into it.")
        self._write(line)
        self._known[key] = digest
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
            except OSError:  # what follows must not be joined to half a line
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
        raise ValueError(f"a row has {what}: to find its answer again takes a text or a number.")

    def close(self) -> None:
        """Close the file, for others to open it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _is_torn(line: bytes) -> bool:
    """Whether it may be the beginning of a row, which a kill has cut off."""
    if line.endswith(b"\n"):
        return False
    try:
        from_json(line)
    except ValueError:
        with suppress(ValueError):
            return isinstance(from_json(line, allow_partial=True), dict)
    return False


def _digest(row: Row) -> bytes:
    """What was asked: the row without its answer, as it comes out of a file; the rows may be larger than the memory."""
    asked = {name: value for name, value in row.items() if name not in COLUMNS}
    return sha256(json.dumps(from_json(to_json(asked, fallback=_plain)), sort_keys=True).encode()).digest()


def _plain(value: Any) -> Any:
    """The numbers and arrays of numpy, as which data sets have theirs."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"{type(value).__name__} cannot be written as JSON")
