"""Reads the rows of a data set from a file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from ._lines import BOM, Row


def read_rows(path: str | os.PathLike[str], *, key: str = "id") -> Iterator[Row]:
    r"""Read the rows of a JSON Lines or CSV file one by one.

    Rows without a `key` are numbered from 1, so that an `AnswerFile` can tell them apart. Append new rows to such a
    file; do not insert them. A column `prompts`, as in the files for TIR's *Bulk Prompts*, is renamed to `prompt`.

    ```python
    from pathlib import Path

    from tir_qwen.batches import read_rows

    Path("prompts.csv").write_text("prompts\nWhat is the capital of France?\n", encoding="utf-8")
    assert list(read_rows("prompts.csv")) == [{"id": 1, "prompt": "What is the capital of France?"}]
    ```

    Args:
        path: A file in UTF-8, with or without a byte order mark. Its name ends in `.jsonl` or `.ndjson` (a JSON object
            in each line) or in `.csv` (with a header; all values are strings).
        key: The column that identifies a row.

    Raises:
        OSError: The file cannot be read.
        ValueError: The name ends in something else, or (when iterated) a line is not a row.
    """
    path = Path(path)
    readers = {".jsonl": _read_json_lines, ".ndjson": _read_json_lines, ".csv": _read_csv}
    if (reader := readers.get(path.suffix.lower())) is None:
        raise ValueError(f"{path}: the name of a data set ends in {', '.join(readers)}.")
    return _rows(reader(path), key)


def _rows(rows: Iterator[Row], key: str) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if "prompts" in row and "prompt" not in row:
            row["prompt"] = row.pop("prompts")
        yield row if key in row else {key: number, **row}


def _read_json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not (text := line.removeprefix(BOM).strip()):
                continue
            try:
                yield _object(text)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None


def _object(text: bytes) -> Row:
    if isinstance(row := from_json(text), dict):
        return row
    raise ValueError("not a JSON object")


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            _check_header(reader.fieldnames or [])
            yield from map(_record, reader)
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{path}, line {reader.reader.line_num}: {error}") from None


def _check_header(names: Sequence[str]) -> None:
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"the header has the column {twice[0]!r} twice")


def _record(row: dict[Any, Any]) -> Row:
    if None in row or None in row.values():
        raise ValueError("more or fewer values than the header has")
    return row
