"""A crash-safe JSON Lines file of the answers to a data set."""

from __future__ import annotations

import logging
import operator
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ._damage import Damage
from ._lines import (
    ATTEMPTS,
    COLUMNS,
    Index,
    Row,
    check_row,
    counted,
    digest,
    index_of,
    is_torn,
    read_line,
    to_line,
    without_padding,
)

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_logger = logging.getLogger("tir_qwen")
_FIRST_LINES = 100
"""A file is rejected if none of its first lines, up to this many, is an answered row."""


class _Failure(NamedTuple):
    digest: int
    attempts: int
    at: int
    """Offset of its line in the file."""


class AnswerFile:
    """A JSON Lines file of answered rows; each is written as soon as its answer arrives.

    A program that was killed or stopped only sends the `missing` rows when it is run again.
    The file contains the rows with their prompts and answers; its columns are those of `answer_rows`. NaN and Infinity
    are written as null.

    A row that failed is also written, with its `error` and the number of its `attempts`. If it is answered later,
    closing the file removes the line of its failure, so that each row has one line.

    Damage to one line does not affect the others. A killed program can leave half a line, a power failure trailing
    NULs, and an editor a byte order mark. When the file is opened, such lines are repaired or moved to
    `<path>.damaged`, with a warning in the log that lists them, and rows without an answer are missing again. (Changes
    that leave a line valid cannot be detected.)

    ```python
    from tir_qwen.batches import AnswerFile

    rows = [{"id": 1, "prompt": "What is the capital of France?"}, {"id": 2, "prompt": "What is the capital of Peru?"}]
    answer = {"reasoning": "", "finish_reason": "stop", "input_tokens": 12, "output_tokens": 5, "error": None}

    with AnswerFile("answers.jsonl") as file:
        file.add({**rows[0], "response": "Paris", **answer})
        assert list(file.missing(rows)) == [rows[1]]
    ```

    Args:
        path: The file; created if it does not exist. Only one program at a time may open it (not checked on Windows).
        key: The column that identifies a row; its values are strings or numbers.
        fsync: Whether to wait until each row is on the disk, which takes milliseconds. Otherwise, a crash of the
            machine (but not of the program) may lose the answers of the last seconds.

    Raises:
        BlockingIOError: The file is already open in this program or another.
        ValueError: The file contains something other than answered rows. It is left unchanged.
    """

    def __init__(self, path: str | os.PathLike[str], *, key: str = "id", fsync: bool = False) -> None:
        self._path = Path(path)
        self._key = key
        self._fsync = fsync
        self._answered: dict[Index, int] = {}  # digests of the rows; 100 MB for a million of them
        self._failed: dict[Index, _Failure] = {}
        self._superseded: set[int] = set()  # offsets of the lines of failures that later lines replace
        self._open()
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        self._file = self._path.open("ab+", buffering=0)
        if fcntl:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise BlockingIOError(error.errno, "the file is already open for answers", str(self._path)) from None

    def _read(self) -> None:
        """Read the answered rows and repair damaged lines."""
        damage = Damage()
        at = sound_until = number = 0
        line = b"\n"
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                is_sound = True
                try:
                    self._remember(line, at)
                except (ValueError, TypeError, AttributeError):
                    mended = self._mended(line, at)
                    damage.add(number, at, line, mended)
                    is_sound = bool(mended)
                at += len(line)
                if is_sound:
                    sound_until = at
                elif len(damage.lost) == _FIRST_LINES and not sound_until:
                    break
        lost = damage.lost
        if lost and not sound_until and not (lost[0].number == number and is_torn(line)):
            raise ValueError(f"{self._path}, line {lost[0].number}: not an answered row with a column {self._key!r}.")
        if damage.mended:
            self._repair(damage, sound_until)
        elif not line.endswith(b"\n"):
            self._file.write(b"\n")

    def _remember(self, line: bytes, at: int) -> None:
        index, asked, attempts = read_line(line, self._key)
        if earlier := self._failed.pop(index, None):
            self._superseded.add(earlier.at)
        if not attempts:
            self._answered[index] = asked
        elif index in self._answered:
            self._superseded.add(at)
        else:
            self._failed[index] = _Failure(asked, attempts, at)

    def _mended(self, line: bytes, at: int) -> bytes:
        """Return the line without padding, if that is an answered row, otherwise nothing."""
        kept = without_padding(line)
        try:
            self._remember(kept, at)
        except (ValueError, TypeError, AttributeError):
            return b""
        return kept + b"\n"

    def _repair(self, damage: Damage, sound_until: int) -> None:
        """Move damaged lines to another file, and repair this one."""
        aside = self._path.with_name(f"{self._path.name}.damaged")
        damage.set_aside(self._path, aside)
        _logger.warning("%s was damaged: %s.", self._path, damage.describe(aside))
        if min(damage.mended) >= sound_until:  # the most frequent case: the last line was cut off
            self._file.truncate(sound_until)
            return
        self._rewrite(damage.mended)
        self._answered.clear()
        self._failed.clear()  # the offsets have changed
        self._superseded.clear()
        self._read()

    def _rewrite(self, lines: Mapping[int, bytes]) -> None:
        """Replace the lines at these offsets; the file is replaced as a whole or not at all."""
        path = self._path.resolve()
        new_path = path.with_name(f"{path.name}.new")
        try:
            with path.open("rb") as old, new_path.open("wb") as new:
                at = 0
                for line in old:
                    new.write(lines.get(at, line))
                    at += len(line)
                new.flush()
                os.fsync(new.fileno())
            shutil.copymode(path, new_path)
        except BaseException:
            with suppress(OSError):
                new_path.unlink()
            raise
        self._file.close()  # Windows does not replace an open file
        new_path.replace(path)
        self._open()

    def __len__(self) -> int:
        """Return the number of answered rows."""
        return len(self._answered)

    def missing(self, rows: Iterable[Row], *, max_attempts: int | None = 1) -> Iterable[Row]:
        """Return the rows that have not been answered; they are determined one by one, during iteration.

        Only the keys are kept in memory: 65 MB for 1,000,000 rows.

        Args:
            rows: The data set; an iterator is read as needed.
            max_attempts: Rows that have failed this many times are not sent again; by default, once is enough. None
                sends all failed rows again.

        Raises:
            TypeError: (when iterated) A row is not a dict.
            ValueError: (when iterated) A row has no key, shares its key with another row, or cannot be written as JSON;
                or the file contains the answer to a different row with the same key.
        """
        return _Missing(self, rows, max_attempts)

    def _missing(self, rows: Iterable[Row], max_attempts: int | None) -> Iterator[Row]:
        seen: set[Index] = set()
        skipped = 0
        for row in rows:
            check_row(row)
            index, asked = index_of(row, self._key), digest(row)
            if index in seen:
                text = f"two rows have the {self._key!r} {row[self._key]!r}: their answers could not be told apart."
                raise ValueError(text)
            seen.add(index)
            failure = self._failed.get(index)
            if (answered := self._answered.get(index)) is not None:
                if answered != asked:
                    text = f"{self._path} has an answer to a row whose {self._key!r} is {row[self._key]!r}"
                    raise ValueError(
                        f"{text}, but whose other columns differ: write to another file, or change the key."
                    )
            elif failure and failure.digest == asked and max_attempts is not None and failure.attempts >= max_attempts:
                skipped += 1
            else:
                yield row
        if skipped:
            text = "%s: %s failed before and will not be sent again, except with missing(rows, max_attempts=None)."
            _logger.warning(text, self._path, counted(skipped))

    def add(self, row: Row) -> None:
        """Write an answered row, or one that failed.

        Raises:
            OSError: The file cannot be written, for example because the disk is full or the file was deleted. Earlier
                rows are intact.
        """
        row = {**row, **{name: row[name] for name in COLUMNS}}
        index, asked = index_of(row, self._key), digest(row)
        earlier = self._failed.get(index)
        if row["error"] is not None:
            if index in self._answered:
                return
            row[ATTEMPTS] = 1 + (earlier.attempts if earlier and earlier.digest == asked else 0)
        line = to_line(row)
        if not os.fstat(self._file.fileno()).st_nlink:
            raise FileNotFoundError(f"{self._path} was deleted while answers were written to it.")
        at = self._write(line)
        if earlier:
            self._superseded.add(earlier.at)
            del self._failed[index]
        if row["error"] is None:
            self._answered[index] = asked
        else:
            self._failed[index] = _Failure(asked, row[ATTEMPTS], at)

    def _write(self, line: bytes) -> int:
        """Write a line whole or not at all; return its offset."""
        size = self._file.seek(0, os.SEEK_END)
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
            if self._fsync:
                os.fsync(self._file.fileno())
        except BaseException:
            try:
                self._file.truncate(size)
            except OSError:  # further rows must not be appended to half a line
                self._file.close()
            raise
        return size

    def close(self) -> None:
        """Close the file, so that it can be opened elsewhere."""
        try:
            if self._superseded and not self._file.closed:
                self._rewrite(dict.fromkeys(self._superseded, b""))
                self._superseded.clear()
        except OSError as error:  # such as a full disk: the file is as it was
            _logger.warning("%s still contains rows that failed before they were answered: %s", self._path, error)
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Missing:
    """The missing rows of a data set, determined one by one during iteration."""

    file: AnswerFile
    rows: Iterable[Row]
    max_attempts: int | None

    def __iter__(self) -> Iterator[Row]:
        return self.file._missing(self.rows, self.max_attempts)

    def __length_hint__(self) -> int:
        return max(operator.length_hint(self.rows) - len(self.file), 0)
