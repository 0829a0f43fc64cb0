"""The file of answers: each row is written on arrival, found again, and survives crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from tir_qwen.batches import AnswerFile

Row = dict[str, Any]

NO_MESSAGE = dict.fromkeys(["reasoning", "finish_reason", "input_tokens", "output_tokens", "error"])
LINE = json.dumps({"id": 1, "response": "a", **NO_MESSAGE})
DAMAGED = "answers.jsonl.damaged"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file of answers."""
    return tmp_path / "answers.jsonl"


def rows_of(number: int) -> list[Row]:
    """Return a data set of `number` rows."""
    return [{"id": at, "prompt": f"Question {at}"} for at in range(number)]


def answered(row: Row, response: Any = "a") -> Row:
    """Return a row with its answer."""
    return {**row, "response": response, **NO_MESSAGE}


def failed(row: Row, error: str = "ValueError: no") -> Row:
    """Return a row that has failed."""
    return {**answered(row, None), "error": error}


def lines_of(number: int) -> list[bytes]:
    """Return the lines of `number` answered rows, which contain characters of several bytes."""
    rows = [answered(row, 'é नमस्ते 😀 "q" \\') for row in rows_of(number)]
    return [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]


def read(path: Path) -> list[Row]:
    """Return the contents of a file, in the order of the data set."""
    with path.open(encoding="utf-8") as lines:
        return sorted(map(json.loads, lines), key=itemgetter("id"))


def missing(path: Path, rows: list[Row], **options: Any) -> list[Row]:
    """Open a file, and return the rows that are missing in it."""
    with AnswerFile(path) as file:
        return list(file.missing(rows, **options))


def test_half_a_line_is_asked_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A last line cut off anywhere, even within a character, is set aside, and its row counts as missing."""
    rows, lines = rows_of(2), lines_of(2)
    for end in range(1, len(lines[1]) - 1):
        path.write_bytes(lines[0] + lines[1][:end])
        caplog.clear()
        assert missing(path, rows) == rows[1:]
        assert path.read_bytes() == lines[0]
        assert path.with_name(DAMAGED).read_bytes() == lines[1][:end] + b"\n"
        moved = f"line 2 ({end:,} bytes) moved to {DAMAGED}, so the rows are missing again"
        assert caplog.messages == [f"{path} was damaged: {moved}."]
        path.with_name(DAMAGED).unlink()
    path.write_bytes(lines[0] + lines[1][:-1])
    assert missing(path, rows) == []  # only the line ending is missing
    assert path.read_bytes() == lines[0] + lines[1]


@pytest.mark.parametrize("with_rows", [0, 3], ids=["alone", "after rows"])
def test_the_first_line_may_be_cut_off(with_rows: int, path: Path) -> None:
    """A file that consists of half a row, or of NULs, is one of answers too."""
    for tail in (b'{"id": 0, "pro', b"\0" * 4096):
        path.write_bytes(b"".join(lines_of(with_rows)) + tail)
        assert len(missing(path, rows_of(4))) == 4 - with_rows
        assert path.read_bytes() == b"".join(lines_of(with_rows))


DAMAGES = {
    "NULs within": (lambda line: b"\0" * 512 + b"\n", "NULs, blanks or a byte order mark removed from 1 lines", []),
    "blank": (lambda line: line + b"\n \r\n", "removed from 2 lines", []),
    "mark": (lambda line: b"\xef\xbb\xbf" + line, "removed from 1 lines", []),
    "NULs before": (lambda line: b"\0\0" + line, "removed from 1 lines", []),
    "flipped": (lambda line: line.replace(b":", b"z", 1), "line 2 (", [1]),
    "flipped name": (lambda line: line.replace(b"error", b"errnr"), "line 2 (", [1]),
    "half a character": (lambda line: line.replace("é".encode(), b"\xc3"), "line 2 (", [1]),
    "half a surrogate": (lambda line: line.replace("é".encode(), b"\\ud83d"), "line 2 (", [1]),
    "half a row": (lambda line: line[:40] + b"\n", "line 2 (41 bytes) moved to", [1]),
    "two in one": (lambda line: line.rstrip() + lines_of(1)[0], "line 2 (", [1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_costs_that_line(damage: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever has become of a line, the others count, the file is mended, and the log says what happened."""
    damaged, words, lost = DAMAGES[damage]
    lines = lines_of(4)
    bad = damaged(lines[1])
    path.write_bytes(lines[0] + bad + b"".join(lines[2:]))
    expected = [row for row in rows_of(4) if row["id"] in lost or (damage == "NULs within" and row["id"] == 1)]
    assert missing(path, rows_of(4)) == expected
    assert words in caplog.text
    assert len(caplog.messages) == 1
    assert [row["id"] for row in read(path)] == [at for at in range(4) if rows_of(4)[at] not in expected]
    aside = path.with_name(DAMAGED)
    assert (aside.read_bytes() if lost else None) == (bad if lost else None) or damage == "two in one"
    caplog.clear()
    assert missing(path, rows_of(4)) == expected
    assert caplog.messages == []


def test_many_damaged_lines(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warning describes a few lines and counts the others; all of them are set aside."""
    path.write_bytes(b"".join(lines_of(2)) + b"half\n" * 9)
    with AnswerFile(path) as file:
        assert len(file) == 2
    assert "line 7 (5 bytes), 4 more moved to" in caplog.text
    assert path.with_name(DAMAGED).read_bytes() == b"half\n" * 9
    assert path.read_bytes() == b"".join(lines_of(2))


def test_a_mended_file_can_be_added_to(path: Path) -> None:
    """After a repair the file is locked, keeps its permissions, and takes further rows; a link remains one."""
    target = path.with_name("elsewhere")
    target.write_bytes(b"\xef\xbb\xbf" + b"".join(lines_of(2)))
    target.chmod(0o600)
    path.symlink_to(target)
    with AnswerFile(path) as file:
        with pytest.raises(BlockingIOError):
            AnswerFile(path)
        file.add(answered(rows_of(3)[2]))
    assert [row["id"] for row in read(target)] == [0, 1, 2]
    assert path.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("hello\n", 1),
        ("[1]\n", 1),
        ("[1", 1),
        ("null\n", 1),
        ("a text", 1),
        ('{"id": 1, "prompt": "precious"}', 1),
        ('{"id": 1, "prompt": "precious"}\n{"id": 2, "pro', 1),
        ("\nhello\n" * 300, 2),
        (LINE.replace('"id"', '"name"') + "\n", 1),
        (LINE.replace("1", "[1]", 1) + "\n", 1),
    ],
    ids=["text", "list", "half a list", "null", "no end", "a row", "rows", "long", "no key", "a list as key"],
)
def test_another_kind_of_file(content: str, line: int, path: Path) -> None:
    """A file without any answered row is left unchanged, and the error names the file, the line and what is wrong."""
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"answers.jsonl, line {line}: not an answered row with a column 'id'."):
        AnswerFile(path)
    assert path.read_text() == content
    assert [*path.parent.iterdir()] == [path]


def test_failed_rows_are_recorded(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failed row has a line with its error and the number of attempts, and is asked again if that is wanted."""
    rows = rows_of(3)
    for attempt in (1, 2):
        with AnswerFile(path) as file:
            file.add(failed(rows[1]))
            assert len(file) == 0
        assert read(path) == [{**failed(rows[1]), "attempts": attempt}]
    assert missing(path, rows) == [rows[0], rows[2]]
    assert "1 row failed before and will not be sent again" in caplog.text
    assert missing(path, rows, max_attempts=2) == [rows[0], rows[2]]
    assert missing(path, rows, max_attempts=3) == rows
    assert missing(path, rows, max_attempts=None) == rows


def test_a_failed_row_that_has_changed(path: Path) -> None:
    """A failed row is another one if its question has changed: it is asked, and its attempts start anew."""
    with AnswerFile(path) as file:
        file.add(failed({"id": 1, "prompt": "long"}))
        assert list(file.missing([{"id": 1, "prompt": "short"}])) == [{"id": 1, "prompt": "short"}]
        file.add(failed({"id": 1, "prompt": "short"}))
    assert [row["attempts"] for row in read(path)] == [1]


def test_an_answer_after_a_failure(path: Path) -> None:
    """A row that is answered at last has one line when the file is closed; a failure after that counts for nothing."""
    rows = rows_of(3)
    with AnswerFile(path) as file:
        for row in rows:
            file.add(failed(row))
        file.add(answered(rows[1]))
        file.add(failed(rows[1]))
        assert len(file) == 1
        assert path.read_bytes().count(b"\n") == 4
    assert read(path) == [{**failed(rows[0]), "attempts": 1}, answered(rows[1]), {**failed(rows[2]), "attempts": 1}]


def test_killed_between_failure_and_answer(path: Path) -> None:
    """Where a program died before it removed lines of failures, the answers count, and the next one removes them."""
    row, other = rows_of(2)
    lines = [failed(row), failed(other), answered(row), failed(row)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert missing(path, [row, other]) == []
    assert read(path) == [answered(row), failed(other)]


def test_lines_of_failures_that_cannot_be_removed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If there is no space to write the file anew, it stays as it is."""
    row = rows_of(1)[0]
    path.with_name(f"{path.name}.new").mkdir()
    with AnswerFile(path) as file:
        file.add(failed(row))
        file.add(answered(row))
    assert "still contains rows that failed before they were answered" in caplog.text
    assert len(read(path)) == 2
    assert missing(path, [row]) == []


def test_missing_rows_are_found_one_by_one(path: Path) -> None:
    """A data set too large for memory can be an iterator, of which no more is read than is wanted."""
    read_so_far = []

    def source() -> Any:
        for row in rows_of(1_000_000):
            read_so_far.append(row["id"])
            yield row

    path.write_bytes(b"".join(lines_of(2)))
    with AnswerFile(path) as file:
        assert [row["id"] for row in islice(file.missing(source()), 3)] == [2, 3, 4]
        assert read_so_far == [0, 1, 2, 3, 4]


def test_a_full_disk_leaves_no_partial_line(path: Path) -> None:
    """If the disk is full, saving an answer raises an error and leaves no partial line behind."""
    program = f"""
import resource, signal
from tir_qwen.batches import AnswerFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
row = dict.fromkeys(["response", "reasoning", "finish_reason", "input_tokens", "output_tokens", "error"])
with AnswerFile({str(path)!r}) as file:
    for at in range(3):
        try:
            file.add({{"id": at, "x": "x" * 10 ** (at % 2 * 3), **row, "response": "y"}})
        except OSError as error:
            print(type(error).__name__, at, len(file))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "OSError 1 1\n"
    assert [row["id"] for row in read(path)] == [0, 2]


def test_fsync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `fsync`, each row is on the disk when `add` returns."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_bytes().count(b"\n")))
    for fsync in (False, True):
        with AnswerFile(path, fsync=fsync) as file:
            for row in rows_of(3):
                file.add(answered(row))
    assert synced == [4, 5, 6]


def test_one_program_at_a_time(path: Path) -> None:
    """A file that another program or a forgotten notebook is writing can only be opened once that one is done."""
    with AnswerFile(path), pytest.raises(BlockingIOError, match="the file is already open for answers"):
        AnswerFile(path)
    with AnswerFile(path) as file:
        assert len(file) == 0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"prompt": "Hi"}],
            "a row has no 'id': it must be a string or a number, so that its answer can be found again.",
        ),
        ([{"id": None}], "a row has no 'id'"),
        (
            [{"id": UUID(int=1)}],
            "a row has the 'id' UUID(.*), a UUID: it must be a string or a number, so that its answer can be found",
        ),
        ([{"id": float("nan")}], "a row has the 'id' nan, a float"),
        ([{"id": True}], "a row has the 'id' True, a bool"),
        ([{"id": [1]}], "a row has the 'id' .1., a list"),
        ([{"id": 1, "prompt": "\ud83d"}], "surrogates not allowed"),
        ([{"id": 1, "x": object()}], "object cannot be written as JSON"),
        ([{"id": 1}, {"id": 1}], "two rows have the 'id' 1: their answers could not be told apart."),
        ([{"id": "x"}, {"id": "x"}], "two rows have the 'id' 'x': their answers could not be told apart."),
        (
            [{"id": 0, "prompt": "Else"}],
            "has an answer to a row whose 'id' is 0, but whose other columns differ: write to another file, or change"
            " the key.",
        ),
    ],
    ids=[
        *("no key", "none", "uuid", "nan", "bool", "list", "half an emoji", "no JSON", "twice", "text twice", "changed")
    ],
)
def test_rows_that_cannot_be_found_again(rows: list[Row], words: str, path: Path) -> None:
    """Rows without a key that JSON can represent are rejected, as are rows that changed since they were answered."""
    with AnswerFile(path) as file:
        file.add(answered(rows_of(1)[0]))
        with pytest.raises(ValueError, match=words):
            list(file.missing(rows))


def test_numbers_are_told_apart(path: Path) -> None:
    """Numbers that Python gives the same hash are different keys."""
    rows: list[Row] = [{"id": at} for at in (-1, -2, 0, 2**61 - 1, 0.5, 2**70)]
    with AnswerFile(path) as file:
        assert list(file.missing(rows)) == rows


def test_rows_may_be_identified_by_any_column(path: Path) -> None:
    """Any column can identify rows, and rows may hold NumPy numbers, nested values and non-ASCII text."""
    rows = [{"name": np.str_("né"), "size": np.int64(1), "parts": np.array([0.5]), "more": {"b": 1, "a": [None]}}]
    with AnswerFile(path, key="name") as file:
        file.add(answered(rows[0]))
    with AnswerFile(path, key="name") as file:
        turned = {**rows[0], "more": {"a": [None], "b": 1}}
        assert list(file.missing([turned, {"name": "b"}])) == [{"name": "b"}]
    plain = {"name": "né", "size": 1, "parts": [0.5], "more": {"b": 1, "a": [None]}}
    assert json.loads(path.read_text("utf-8")) == answered(plain)


def test_standard_json(path: Path) -> None:
    """NaN and Infinity, for which JSON has no words, are written as null, also where an older file has them."""
    row = {"id": 1, "x": float("nan"), "y": [float("inf"), np.float64("nan")], "z": {"v": float("-inf")}}
    path.write_text(json.dumps(answered(row, 1)) + "\n")
    assert missing(path, [row]) == []
    path.unlink()
    with AnswerFile(path) as file:
        file.add(answered(row, float("nan")))

    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert json.loads(path.read_text(), parse_constant=refuse)["y"] == [None, None]
    assert missing(path, [row]) == []


def test_what_cannot_be_written(path: Path) -> None:
    """A row that JSON cannot represent raises a clear error and leaves the file as it was."""
    with AnswerFile(path) as file:
        with pytest.raises(ValueError, match="object cannot be written as JSON"):
            file.add(answered({"id": 1}, object()))
        with pytest.raises(KeyError):
            file.add({"id": 1, "response": "no columns"})
        assert len(file) == 0
        file.add(answered({"id": 1, "x": 1}))
    assert read(path) == [answered({"id": 1, "x": 1})]


def test_what_a_cluster_makes_of_rows(path: Path) -> None:
    """A row that comes back with converted numbers or empty columns is found again."""
    rows: list[Row] = [{"id": 1, "n": 5, "more": {"a": 1}}, {"id": 2}]
    with AnswerFile(path) as file:
        for row in file.missing(rows):
            come = {"n": None, "more": {"a": None, "b": None}, **row} | ({"n": 5.0} if "n" in row else {})
            file.add(answered(come))
    assert missing(path, rows) == []


def test_a_deleted_file(path: Path) -> None:
    """Writing to a file that has been deleted raises an error that says so."""
    with AnswerFile(path) as file:
        path.unlink()
        with pytest.raises(FileNotFoundError, match="was deleted while answers were written to it"):
            file.add(answered({"id": 1}))
