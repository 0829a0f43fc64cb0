"""The engine of batches: each row is answered once, and whatever happens, no answer that was paid for is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tests.batches.test_answer_file import NO_MESSAGE, Row, answered, read, rows_of
from tests.support.subprograms import untraced_environment
from tir_qwen import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    Completion,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    TIRError,
    ToolCall,
)
from tir_qwen.batches import AnswerFile, answer_rows
from tir_qwen.types import Choice


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tir_qwen.batches._engine._FIRST_PAUSE", 0.002)
    monkeypatch.setattr("tir_qwen.batches._engine._MAX_PAUSE", 0.02)


async def echo(row: Row) -> str:
    """Answer with the prompt, after the other rows at work have begun."""
    await asyncio.sleep(0)
    return str(row["prompt"])


def refused(status: int, retry_after: float | None = None) -> TIRError:
    """Return the error of a status."""
    kinds: dict[int, type[APIStatusError]] = {
        400: BadRequestError,
        401: AuthenticationError,
        403: PermissionDeniedError,
    }
    kinds |= {404: NotFoundError, 429: RateLimitError}
    kind = kinds.get(status, InternalServerError)
    return kind("no", status_code=status, retry_after=retry_after)


async def collect(answers: AsyncIterator[Row]) -> tuple[list[Row], BaseException | None]:
    """Return all rows that come, in the order of the data set, and the error at the end."""
    rows = []
    error = None
    try:
        async for row in answers:
            rows.append(row)  # noqa: PERF401 - the error does not take them away
    except BaseException as raised:
        error = raised
    return sorted(rows, key=lambda row: row["id"]), error


async def tasks_left() -> set[Any]:
    """Return the other tasks that are still running, after finished ones have been given time to end."""
    for _ in range(10):
        await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_rows_and_their_answers() -> None:
    """Each row comes back exactly once and unchanged, with its answer."""
    rows = [{"id": at, "prompt": f"Question {at}", "topic": {"at": at}} for at in range(50)]
    got, error = await collect(answer_rows(echo, iter(rows), max_concurrency=8))
    assert error is None
    assert got == [answered(row, row["prompt"]) for row in rows]
    assert list(got[0])[-6:] == ["response", *NO_MESSAGE]


async def test_rows_of_an_async_iterable() -> None:
    """Rows may come from an asynchronous source, which is asked for one row at a time."""

    async def source() -> AsyncIterator[Row]:
        for row in rows_of(20):
            await asyncio.sleep(0)
            yield row

    got, error = await collect(answer_rows(echo, source(), max_concurrency=4))
    assert (len(got), error) == (20, None)


CALLS = [ToolCall("1", "find", '{"x": 1}'), ToolCall("2", "find", "{", error="truncated")]


@pytest.mark.parametrize(
    ("output", "columns"),
    [
        ("text", {"response": "text"}),
        ({"at": (1, 2)}, {"response": {"at": [1, 2]}}),
        (
            Completion([Choice(content="It is.", reasoning="Hm.", finish_reason="length")]),
            {"response": "It is.", "reasoning": "Hm.", "finish_reason": "length"},
        ),
        (
            Completion([Choice(content="", tool_calls=CALLS)], usage={"prompt_tokens": 3, "completion_tokens": 4}),
            {
                "response": {
                    "text": "",
                    "tool_calls": [{"name": "find", "args": {"x": 1}}, {"name": "find", "args": "{"}],
                },
                "reasoning": "",
                "input_tokens": 3,
                "output_tokens": 4,
            },
        ),
    ],
    ids=["text", "object", "completion", "tool calls"],
)
async def test_what_a_function_returns(output: Any, columns: Row) -> None:
    """A function may return a completion, a text or an object; the row holds it as JSON values."""

    async def answer(_: Row) -> Any:
        return output

    got, _ = await collect(answer_rows(answer, [{"id": 1}]))
    assert got == [{"id": 1, **NO_MESSAGE, **columns}]


async def test_in_order_and_only_so_many_at_once() -> None:
    """Rows are started in order, for the server's prefix cache, and `max_concurrency` is reached but never exceeded."""
    started: list[int] = []
    at_once = most = 0

    async def answer(row: Row) -> None:
        nonlocal at_once, most
        started.append(row["id"])
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    await collect(answer_rows(answer, rows_of(100), max_concurrency=4))
    assert started == list(range(100))
    assert most == 4


async def test_a_slow_row_holds_nothing_up() -> None:
    """All other rows are answered while one is slow: rows are not answered in parts."""
    others = asyncio.Event()

    async def answer(row: Row) -> None:
        if row["id"] == 0:
            await others.wait()

    got = []
    async for row in answer_rows(answer, rows_of(25_000), max_concurrency=2):
        got.append(row["id"])
        if len(got) == 24_999:
            others.set()
    assert got[-1] == 0


class Counted(dict[str, Any]):
    """A row that counts how many of its kind exist."""

    alive = most = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= 1


async def test_memory_does_not_grow(tmp_path: Path) -> None:
    """However long the data set is, only the rows at work and those that wait to be read are in memory."""
    source = (Counted(row) for row in rows_of(20_000))
    with AnswerFile(tmp_path / "answers.jsonl") as file:
        async for _ in answer_rows(echo, file.missing(source), keep=file.add, max_concurrency=8):
            pass
        assert len(file) == 20_000
    assert Counted.most < 50


async def test_a_slow_reader_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are kept as they arrive, even if the reader is slow; when a limited number waits, no more are started."""
    monkeypatch.setattr("tir_qwen.batches._engine._WAITING", 10)
    kept: list[Row] = []
    async with aclosing(answer_rows(echo, rows_of(100), keep=kept.append, max_concurrency=4)) as results:
        await anext(results)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(kept) == 1 + 10 + 4


async def test_an_asynchronous_keeper() -> None:
    """The function that keeps rows may be asynchronous, and is awaited."""
    kept = []

    async def keep(row: Row) -> None:
        await asyncio.sleep(0)
        kept.append(row["id"])

    await collect(answer_rows(echo, rows_of(5), keep=keep))
    assert sorted(kept) == [0, 1, 2, 3, 4]


async def test_a_row_that_fails(tmp_path: Path) -> None:
    """With 32 at work, one of which fails, the others are answered and kept, and the error is recorded with the row."""

    async def answer(row: Row) -> Any:
        await asyncio.sleep(0)
        return {}["no"] if row["id"] == 7 else row["prompt"]

    rows = rows_of(100)
    with AnswerFile(tmp_path / "answers.jsonl") as file:
        got, error = await collect(answer_rows(answer, rows, keep=file.add))
        assert list(file.missing(rows, max_attempts=2)) == [rows[7]]
    assert error is None
    assert got[7] == {**answered(rows[7], None), "error": "KeyError: 'no'"}
    assert read(tmp_path / "answers.jsonl")[7] == {**got[7], "attempts": 1}
    assert [row["error"] for row in got].count(None) == 99


def fails_at(place: str, error: BaseException) -> tuple[Callable[[Row], Awaitable[Any]], Iterator[Row], Any, list[Row]]:
    """Return a function, rows and a keeper of which one fails at row 7 while the others are at work."""
    kept: list[Row] = []

    async def answer(row: Row) -> str:
        for _ in range(3 if row["id"] == 7 else 9):
            await asyncio.sleep(0)
        if place == "row" and row["id"] == 7:
            raise error
        return "paid"

    def rows() -> Iterator[Row]:
        for row in rows_of(500):
            if place == "rows" and row["id"] == 32:
                raise error
            yield row

    def keep(row: Row) -> None:
        if place == "keep" and row["id"] == 7:
            raise error
        kept.append(row)

    return answer, rows(), keep, kept


class Panic(BaseException):
    """What libraries in Rust raise, which is no Exception."""


@pytest.mark.parametrize(
    ("place", "error", "options"),
    [
        ("row", refused(401), {}),
        ("row", refused(403), {}),
        ("row", refused(404), {}),
        ("row", ZeroDivisionError("no"), {"on_error": "raise"}),
        ("row", ZeroDivisionError("no"), {"max_errors": 1}),
        ("keep", OSError("full"), {}),
        ("rows", ValueError("line 33"), {}),
        ("row", Panic("no"), {}),
        ("keep", Panic("no"), {}),
        ("rows", Panic("no"), {}),
    ],
    ids=["401", "403", "404", "raise", "limit", "keep", "rows", "row panics", "keep panics", "rows panic"],
)
async def test_nothing_paid_is_lost(place: str, error: BaseException, options: Any) -> None:
    """Whatever stops a run, it starts no more rows, keeps and yields those at work, and then raises the error."""
    answer, rows, keep, kept = fails_at(place, error)
    got, raised = await collect(answer_rows(answer, rows, keep=keep, **options))
    assert raised is error
    paid = {row["id"] for row in got if row["response"] == "paid"}
    assert paid >= set(range(32)) - ({7} if place == "row" else set())
    assert {row["id"] for row in kept if row["response"]} == paid - ({7} if place == "keep" else set())
    assert len(paid) <= 64
    assert [row["error"] for row in got if row["error"]] == (
        ["ZeroDivisionError: no"] if "max_errors" in options else []
    )
    assert await tasks_left() == set()


async def test_too_many_errors_in_a_row() -> None:
    """A mistake in the function, which fails every row, stops the run; errors between answers do not."""

    async def answer(row: Row) -> None:
        if row["id"] % 3 or row["id"] > 1_000:
            raise ZeroDivisionError("no")

    got, error = await collect(answer_rows(answer, rows_of(5_000), max_concurrency=1))
    assert isinstance(error, ZeroDivisionError)
    assert error.__notes__ == ["The run was stopped: 766 rows have failed, 100 of them in a row."]
    assert len(got) == 1_100
    got, error = await collect(answer_rows(answer, rows_of(5_000), max_errors_in_a_row=None))
    assert (len(got), error) == (5_000, None)


@pytest.mark.parametrize(
    "error",
    [
        *(refused(status) for status in (429, 502, 503, 504, 529)),
        refused(429, retry_after=0.0),
        refused(429, retry_after=0.01),
        APIConnectionError("refused"),
    ],
    ids=["429", "502", "503", "504", "529", "no advice", "advice", "connection"],
)
async def test_refused_rows_are_asked_again(error: TIRError) -> None:
    """Rows that an endpoint refuses during an outage are asked again until they are answered, each once."""
    asked = 0

    async def answer(row: Row) -> Any:
        nonlocal asked
        asked += 1
        number = asked
        await asyncio.sleep(0)
        if 10 < number < 60:
            raise error
        return row["prompt"]

    answers = answer_rows(answer, rows_of(40), max_concurrency=8)
    got, raised = await collect(answers)
    assert raised is None
    assert got == [answered(row, row["prompt"]) for row in rows_of(40)]
    assert answers.summary.refused == 49


async def test_an_outage_without_end(tmp_path: Path) -> None:
    """After `patience`, the run is stopped; rows that were refused have not failed, and are missing."""

    async def answer(row: Row) -> Any:
        await asyncio.sleep(0)
        if row["id"] >= 10:
            raise refused(503)
        return row["prompt"]

    with AnswerFile(tmp_path / "answers.jsonl") as file:
        got, error = await collect(answer_rows(answer, rows_of(40), keep=file.add, max_concurrency=8, patience=0.1))
        assert len(list(file.missing(rows_of(40)))) == 30
    assert isinstance(error, InternalServerError)
    assert error.__notes__[0].startswith("The endpoint has answered no row for ")
    assert [row["error"] for row in got] == [None] * 10


async def test_without_patience() -> None:
    """With no patience, a refused row has failed."""

    async def answer(_: Row) -> None:
        raise refused(429)

    got, error = await collect(answer_rows(answer, rows_of(3), patience=0))
    assert error is None
    assert [row["error"] for row in got] == ["RateLimitError: no"] * 3


@pytest.mark.parametrize("error", [APIConnectionError("hung up"), refused(502), APITimeoutError("first_delta")])
async def test_a_row_that_breaks_the_connection(error: TIRError) -> None:
    """A row to which the server hangs up while it answers others has failed, instead of being asked for ever."""
    asked: Counter[int] = Counter()

    async def answer(row: Row) -> None:
        asked[row["id"]] += 1
        await asyncio.sleep(0.001)
        if row["id"] == 3:
            raise error

    got, raised = await collect(answer_rows(answer, rows_of(200), max_concurrency=4))
    assert raised is None
    assert [row["id"] for row in got if row["error"]] == [3]
    assert asked[3] == 1 if isinstance(error, APITimeoutError) else 3 <= asked[3] < 10
    assert asked.total() == 199 + asked[3]


async def test_a_certificate_that_is_not_trusted() -> None:
    """What waiting does not help is an error of the row at once."""
    error = APIConnectionError("certificate")
    error.is_retryable = False

    async def answer(_: Row) -> None:
        raise error

    got, _ = await collect(answer_rows(answer, rows_of(1)))
    assert got[0]["error"] == "APIConnectionError: certificate"


async def test_leaving_ends_the_calls() -> None:
    """Leaving the loop early cancels the calls at work, and starts no new ones."""
    ended: list[int] = []

    async def answer(row: Row) -> None:
        if row["id"]:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(row["id"])

    async with aclosing(answer_rows(answer, rows_of(100), max_concurrency=4)) as results:
        assert (await anext(results))["id"] == 0
    assert sorted(ended) == [1, 2, 3, 4]
    assert await tasks_left() == set()
    async for _ in answer_rows(answer, rows_of(100), max_concurrency=4):
        break
    assert await tasks_left() == set()
    assert len(ended) == 8


async def test_leaving_before_it_begins() -> None:
    """Leaving the loop before the first row means that none is asked."""
    asked = []

    async def answer(row: Row) -> None:
        asked.append(row)

    results = answer_rows(answer, rows_of(100), max_concurrency=4)
    first = asyncio.ensure_future(anext(results))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await results.aclose()
    assert await tasks_left() == set()
    assert asked == []


async def test_a_call_that_is_cancelled_from_within() -> None:
    """A row whose own task was cancelled has failed; the run goes on."""

    async def answer(row: Row) -> None:
        if row["id"] == 1:
            raise asyncio.CancelledError

    got, error = await collect(answer_rows(answer, rows_of(4)))
    assert error is None
    assert [row["error"] for row in got] == [None, "RuntimeError: the call was cancelled from within", None, None]


@pytest.mark.parametrize(("place", "name"), [("keep", "`keep`"), ("rows", "the data set")])
async def test_what_is_cancelled_from_within_stops_the_run(place: str, name: str) -> None:
    """A keeper or a data set whose own task was cancelled is an error, not the end of the rows."""
    answer, rows, keep, kept = fails_at(place, asyncio.CancelledError())
    got, error = await collect(answer_rows(answer, rows, keep=keep, max_concurrency=1))
    assert str(error) == f"{name} was cancelled from within"
    assert [row["id"] for row in got] == list(range(8 if place == "keep" else 32))
    assert [row["id"] for row in kept] == list(range(7 if place == "keep" else 32))


async def test_a_mistake_of_the_engine_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody expects is raised too."""
    monkeypatch.setattr("tir_qwen.batches._summary.Summary._add", lambda *_: {}["no"])
    _, error = await collect(answer_rows(echo, rows_of(4)))
    assert isinstance(error, KeyError)


async def test_half_a_character_fails_its_row_only(tmp_path: Path) -> None:
    """An answer or an error with half a character, which models write in JSON, cannot be kept as it is."""

    async def answer(row: Row) -> Any:
        if row["id"] == 1:
            raise ValueError("not \ud83d")
        return json.loads('{"icon": "\\ud83d"}') if row["id"] == 2 else "fine"

    with AnswerFile(tmp_path / "answers.jsonl") as file:
        got, error = await collect(answer_rows(answer, rows_of(4), keep=file.add))
    assert error is None
    assert [row["response"] for row in got] == ["fine", None, None, "fine"]
    assert got[1]["error"] == "ValueError: not \\ud83d"
    assert got[2]["error"].startswith("PydanticSerializationError: ")
    assert len(read(tmp_path / "answers.jsonl")) == 4


async def test_an_error_without_words() -> None:
    """An error that cannot even be described stops the run; the other rows at work are not lost."""

    class WordlessError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    async def answer(row: Row) -> None:
        await asyncio.sleep(0)
        if row["id"] == 0:
            raise WordlessError

    got, error = await collect(answer_rows(answer, rows_of(50)))
    assert isinstance(error, ZeroDivisionError)
    assert {row["id"] for row in got} >= set(range(1, 32))


@pytest.mark.parametrize(("row", "kind"), [("a", "str"), (None, "NoneType")])
async def test_rows_that_are_no_rows(row: Any, kind: str) -> None:
    """A data set of texts is rejected, and None is not its end."""
    _, error = await collect(answer_rows(echo, [row, *rows_of(2)]))
    advice = "of a DataFrame, pass frame.to_dict('records')"
    assert str(error) == f"a row is a {kind}, but must be a dict of its columns; {advice}."


async def test_columns_that_answers_have() -> None:
    """A data set with a column that answers use is rejected before it is asked."""
    asked = []

    async def answer(row: Row) -> None:
        asked.append(row)

    rows = [{"id": 1, "response": "x", "error": None, "attempts": 3}]
    _, error = await collect(answer_rows(answer, rows))
    assert str(error) == "the rows have columns that answers have too: response, error, attempts; rename them."
    assert asked == []


async def test_a_function_that_changes_its_row() -> None:
    """Changes that a function makes to its row are not visible outside."""

    async def answer(row: Row) -> Any:
        return row.pop("prompt")

    got, _ = await collect(answer_rows(answer, rows_of(1)))
    assert got == [answered(rows_of(1)[0], "Question 0")]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"max_concurrency": 0}, ValueError, "max_concurrency must be a whole number, 1 or more, not 0."),
        ({"max_concurrency": "8"}, ValueError, "max_concurrency must be a whole number, 1 or more, not '8'."),
        ({"max_concurrency": True}, ValueError, "max_concurrency must be a whole number, 1 or more, not True."),
        ({"keep": "file"}, ValueError, "keep must be a function, not 'file'."),
        ({"on_error": "ignore"}, ValueError, "on_error must be 'record' or 'raise', not 'ignore'."),
        ({"max_errors": 0}, ValueError, "max_errors must be a whole number, 1 or more, or None, not 0."),
        (
            {"max_errors_in_a_row": 1.5},
            ValueError,
            "max_errors_in_a_row must be a whole number, 1 or more, or None, not 1.5.",
        ),
        ({"patience": "long"}, ValueError, "patience must be a number of seconds, 0 or more, not 'long'."),
        *(
            (
                {"prices": given},
                ValueError,
                f"prices must be the prices of 1,000,000 tokens of input and of output, not {given!r}.",
            )
            for given in ("20", 20, (20,), (20, 60, 1), ("20", "60"), (20, -1))
        ),
        (
            {"max_concurency": 3},
            TypeError,
            "answer_rows has no option 'max_concurency' (did you mean 'max_concurrency'?).",
        ),
        (
            {"workers": 3},
            TypeError,
            "answer_rows has no option 'workers' (there are max_concurrency, keep, on_error, max_errors,"
            " max_errors_in_a_row, patience, progress, prices).",
        ),
    ],
)
def test_options_that_cannot_be(options: Any, kind: type[Exception], words: str) -> None:
    """An invalid option is reported at once."""
    with pytest.raises(kind) as caught:
        answer_rows(echo, [], **options)
    assert str(caught.value) == words


PROGRAM = """
import asyncio, sys
from tir_qwen.batches import AnswerFile, answer_rows

rows = ({"id": at, "prompt": f"Question {at}"} for at in range(300))

async def answer(row):
    print(row["id"], flush=True)
    await asyncio.sleep(0.005)
    return row["prompt"]

async def main():
    with AnswerFile(sys.argv[1]) as file:
        async for row in answer_rows(answer, file.missing(rows), keep=file.add, max_concurrency=8):
            assert row["response"] == row["prompt"], row

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_killed_twice(number: int, tmp_path: Path) -> None:
    """A program killed twice resumes where it stopped: every row is answered, and only rows in flight are repeated."""
    path = tmp_path / "answers.jsonl"
    asked: Counter[int] = Counter()
    for stop_after in (60, 100, None):
        command = [sys.executable, "-c", PROGRAM, str(path)]
        env = untraced_environment()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as process:
            assert process.stdout
            for count, line in enumerate(process.stdout, 1):
                asked[int(line)] += 1
                if count == stop_after:
                    os.kill(process.pid, number)
        assert bool(process.returncode) == bool(stop_after)
    assert read(path) == [answered(row, row["prompt"]) for row in rows_of(300)]
    assert set(asked) == set(range(300))
    assert asked.total() <= 300 + 2 * 8


def test_threads_have_their_own_runs() -> None:
    """Runs in several event loops at once do not know each other."""
    results: list[int] = []

    def work() -> None:
        rows, _ = asyncio.run(collect(answer_rows(echo, rows_of(200))))
        results.append(len(rows))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [200] * 3
