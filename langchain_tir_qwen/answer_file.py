"""Answers to a data set in a file that a killed program leaves whole."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic_core import from_json, to_json, to_jsonable_python

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

Row = dict[str, Any]
"""One prompt with whatever belongs to it, by the names of the columns."""

COLUMNS = ("response", "reasoning", "finish_reason", "input_tokens", "output_tokens", "error")
"""What an answer adds to its row."""


class AnswerFile:
    """Answered rows in a file of JSON lines, each written the moment that it comes.

    A program that is run again, after it was killed or after some rows failed, asks for what is `missing` and for
    nothing else. A line that a kill has cut off is removed, and its row asked again. (A crash of the machine itself may
    cost the last seconds' answers too: the file is not forced to the disk.) It holds the rows as they are, prompts and
    answers; its columns are those of `answer_rows`.

    Args:
        path: The file; made if it is not there. Only one program at a time can have it open.
        key: The column that tells rows apart: texts or numbers.

    Raises:
        BlockingIOError: Another program has the file open.
        ValueError: The file holds something else.
    """

    def __init__(self, path: str | os.PathLike[str], *, key: str = "id") -> None:
        self._path = Path(path)
        self._key = key
        self._known: dict[Hashable, bytes] = {}
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
                text = "another program is writing answers into it"
                raise BlockingIOError(error.errno, text, str(self._path)) from None

    def _read(self) -> None:
        """Learn what is there, and cut off a line that has no end."""
        size = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    self._file.truncate(size)
                    break
                try:
                    row = from_json(line)
                    self._known[row[self._key]] = _digest(row)
                except (ValueError, TypeError, KeyError, AttributeError):
                    text = f"{self._path}, line {number}: this is no answered row with a column {self._key!r}."
                    raise ValueError(text) from None
                size += len(line)

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
            key = row.get(self._key)
            if key is None:
                raise ValueError(f"a row has no {self._key!r}: its answer could not be found again.")
            if key in keys:
                raise ValueError(f"two rows have the {self._key!r} {key!r}: their answers could not be told apart.")
            keys.add(key)
            asked = _digest(row)
            if key not in self._known:
                missing.append(row)
            elif self._known[key] != asked:
                raise ValueError(f"{self._path} has the answer to another row whose {self._key!r} is {key!r}.")
        return missing

    def add(self, row: Row) -> None:
        """Write an answered row down. One with an `error` is left out, so that it is asked again the next time."""
        if row["error"] is not None:
            return
        line = memoryview(to_json(row, fallback=_plain) + b"\n")
        size = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
        except BaseException:  # the disk is full, say: what follows must not be joined to half a line
            self._file.truncate(size)
            raise
        self._known[row[self._key]] = _digest(row)

    def close(self) -> None:
        """Close the file, for others to open it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _digest(row: Row) -> bytes:
    """What was asked: the row without its answer; the rows themselves may be larger than the memory."""
    asked = {name: value for name, value in row.items() if name not in COLUMNS}
    return sha256(json.dumps(to_jsonable_python(asked, fallback=_plain), sort_keys=True).encode()).digest()


def _plain(value: Any) -> Any:
    """The numbers and arrays of numpy, as which data sets have theirs."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"{type(value).__name__} cannot be written as JSON")
