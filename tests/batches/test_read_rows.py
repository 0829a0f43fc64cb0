"""Data sets in JSON Lines and CSV files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tir_qwen.batches import read_rows


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_json_lines(mark: bytes, end: bytes, tmp_path: Path) -> None:
    """Each line that is not blank is a row, also in files of Windows and with a byte order mark."""
    path = tmp_path / "rows.JSONL"
    path.write_bytes(mark + end.join(['{"id": 7, "prompt": "é\u2028"}'.encode(), b"", b'{"id": 8, "n": 1.5}']))
    assert list(read_rows(path)) == [{"id": 7, "prompt": "é\u2028"}, {"id": 8, "n": 1.5}]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "mark"])
def test_bulk_prompts_of_the_console(mark: str, tmp_path: Path) -> None:
    """A CSV file with a column `prompts` is a data set of numbered prompts, which may contain lines and quotes."""
    path = tmp_path / "prompts.csv"
    path.write_text(mark + 'prompts\r\n"Hi, ""you""\r\nthere"\r\n\r\nनमस्ते\r\n', encoding="utf-8", newline="")
    assert list(read_rows(path)) == [{"id": 1, "prompt": 'Hi, "you"\r\nthere'}, {"id": 2, "prompt": "नमस्ते"}]


def test_columns_stay(tmp_path: Path) -> None:
    """Columns stay as they are where there is a key, and a `prompt` of its own."""
    path = tmp_path / "rows.csv"
    path.write_text("name,prompt,prompts\na,b,c\n")
    assert list(read_rows(path, key="name")) == [{"name": "a", "prompt": "b", "prompts": "c"}]


def test_rows_are_read_as_they_are_needed(tmp_path: Path) -> None:
    """A file is read as far as rows are taken, so an error further down is found later."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n' * 3 + "half")
    assert len(list(islice(read_rows(path), 3))) == 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.jsonl", b'{"id": 1}\n{"id"', r"rows.jsonl, line 2: EOF while parsing"),
        ("rows.jsonl", b"[1]\n", r"rows.jsonl, line 1: not a JSON object"),
        ("rows.ndjson", b'{"id": "\xff"}\n', r"rows.ndjson, line 1: invalid unicode"),
        ("rows.csv", b"a,b\n1,2\n1\n", r"rows.csv, line 3: more or fewer values than the header has"),
        ("rows.csv", b"a,b\n1,2,3\n", r"rows.csv, line 2: more or fewer values than the header has"),
        ("rows.csv", b"a,b,a\n1,2,3\n", r"rows.csv, line 1: the header has the column 'a' twice"),
        ("rows.csv", b'a,b\n1,"2\n', r"rows.csv, line 2: unexpected end of data"),
        ("rows.csv", b"a,b\n1,\xff\n", r"rows.csv, line \d: 'utf-8' codec can't decode"),
        ("rows.xlsx", b"", r"rows.xlsx: the name of a data set ends in .jsonl, .ndjson, .csv."),
    ],
)
def test_what_cannot_be_read(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    """An error names the file and the line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        list(read_rows(tmp_path / name))


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    """A missing file is reported when the first row is wanted."""
    with pytest.raises(FileNotFoundError):
        next(read_rows(tmp_path / "rows.csv"))
