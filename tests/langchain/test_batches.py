"""A data set run through a chain: each row is answered once, saved on arrival, and resumed after a crash."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas
import pyarrow
import pytest
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel

from demo.replay import Received
from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen._answer_file import Row
from langchain_tir_qwen.batches import AnswerBatch, AnswerFile, answer_rows
from tests.support.captures import CAPTURES
from tests.support.server import Loopback, completion, echo, response
from tir_qwen import AuthenticationError, NotFoundError, PermissionDeniedError, TIRError

WHOLE = next(capture.raw for capture in CAPTURES if capture.id == "vllm-0.9.2/plain_think")
ANSWERED = {"reasoning": "", "finish_reason": "stop", "input_tokens": 0, "output_tokens": 3, "error": None}
"""The columns that every answer of `echo` has in addition to its text."""
NO_MESSAGE = dict.fromkeys(["reasoning", "finish_reason", "input_tokens", "output_tokens", "error"])
LINE = json.dumps({"id": 1, "response": "a", **NO_MESSAGE})


def rows_of(number: int) -> list[Row]:
    """Return a data set of `number` rows."""
    return [{"id": at, "prompt": f"Question {at}"} for at in range(number)]


def asks(server: Loopback, **settings: Any) -> Runnable[Any, Any]:
    """Return the chain that most tests use: it sends the `prompt` column."""
    return itemgetter("prompt") | ChatTIRQwen(base_url=server.base_url, **settings)


def question(request: Received) -> str:
    """Return the question in a request."""
    return str(request.json()["messages"][-1]["content"])


async def tasks_left() -> set[Any]:
    """Return the other tasks that are still running, after finished ones have been given time to end."""
    for _ in range(10):
        await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}


async def answers(chain: Runnable[Any, Any], rows: list[Row], **options: Any) -> list[Row]:
    """Return all rows with their answers, in the order of the data set."""
    return sorted([row async for row in answer_rows(chain, rows, **options)], key=itemgetter("id"))


def read(path: Path) -> list[Row]:
    """Return the contents of a file, in the order of the data set."""
    with path.open(encoding="utf-8") as lines:
        return sorted(map(json.loads, lines), key=itemgetter("id"))


async def test_rows_and_their_answers() -> None:
    """Each row comes back exactly once and unchanged, with its answer and the answer's metadata."""
    rows = [{"id": f"row {at}", "prompt": f"Question {at}", "topic": {"at": at}} for at in range(50)]
    with Loopback(echo) as server:
        got = [row async for row in answer_rows(asks(server), iter(rows), max_concurrency=8)]
    assert sorted(got, key=lambda row: row["topic"]["at"]) == [
        {**row, "response": row["prompt"], **ANSWERED} for row in rows
    ]


async def test_the_reasoning_and_the_tokens() -> None:
    """Reasoning has its own column, next to the finish reason and the server's token counts."""
    with Loopback(lambda _: [WHOLE]) as server:
        (row,) = await answers(asks(server), [{"id": 1, "prompt": "Hi"}])
    message = json.loads(WHOLE.partition(b"\r\n\r\n")[2])
    assert row == {
        "id": 1,
        "prompt": "Hi",
        "response": message["choices"][0]["message"]["content"].strip(),
        "reasoning": message["choices"][0]["message"]["reasoning_content"].strip(),
        "finish_reason": "stop",
        "input_tokens": message["usage"]["prompt_tokens"],
        "output_tokens": message["usage"]["completion_tokens"],
        "error": None,
    }


class City(BaseModel):
    """The structured answer of the chains below."""

    name: str
    founded: int | None = None


def chains(model: ChatTIRQwen) -> dict[str, Runnable[Any, Any]]:
    """Return chains that end in something other than a message."""
    prompt = ChatPromptTemplate.from_template('{{"name": "{prompt}"}}')
    return {
        "text": prompt | model | StrOutputParser(),
        "JSON": prompt | model | JsonOutputParser(),
        "object": prompt | model.with_structured_output(City),
        "raw": prompt | model.with_structured_output(City, include_raw=True),
    }


@pytest.mark.parametrize(
    ("ending", "columns"),
    [
        ("text", {"response": '{"name": "Pune"}', **NO_MESSAGE}),
        ("JSON", {"response": {"name": "Pune"}, **NO_MESSAGE}),
        ("object", {"response": {"name": "Pune", "founded": None}, **NO_MESSAGE}),
        ("raw", {"response": {"name": "Pune", "founded": None}, **ANSWERED}),
    ],
)
async def test_what_a_chain_ends_in(ending: str, columns: Row) -> None:
    """A chain may end in a message, a text or an object; the row holds it as JSON values."""
    with Loopback(lambda _: [completion('{"name": "Pune"}')]) as server:
        chain = chains(ChatTIRQwen(base_url=server.base_url))[ending]
        assert await answers(chain, [{"id": 1, "prompt": "Pune"}]) == [{"id": 1, "prompt": "Pune", **columns}]


@pytest.mark.parametrize("ending", ["JSON", "object", "raw"])
async def test_an_answer_that_is_not_the_object(ending: str, tmp_path: Path) -> None:
    """An answer that cannot be parsed is reported in its row, is not saved, and does not stop the others."""
    with Loopback(lambda request: [completion('{"name": "Pune"}' if "good" in question(request) else "no")]) as server:
        chain = chains(ChatTIRQwen(base_url=server.base_url))[ending]
        with AnswerFile(tmp_path / "answers") as file:
            rows = [{"id": 1, "prompt": "bad"}, {"id": 2, "prompt": "good"}]
            bad, good = await answers(chain, rows, keep=file.add)
            assert file.missing(rows) == rows[:1]
    assert bad["error"].startswith("OutputParserException: ")
    assert "troubleshooting" not in bad["error"]
    assert (bad["response"], good["error"], good["response"]["name"]) == ("no", None, "Pune")


async def test_rows_are_requested_in_order() -> None:
    """Rows are requested in order, so that a server's prefix cache sees similar prompts together."""
    with Loopback(echo) as server:
        await answers(asks(server), rows_of(30), max_concurrency=1)
        assert [question(request) for request in server.received] == [row["prompt"] for row in rows_of(30)]


async def test_only_so_many_at_once() -> None:
    """The number of concurrent requests reaches `max_concurrency` while rows remain, and never exceeds it."""
    at_once, most, lock = 0, 0, threading.Lock()
    full = threading.Barrier(4)

    def answer(request: Received) -> Iterator[bytes]:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        full.wait(10)
        with lock:
            at_once -= 1
        yield completion(question(request))

    with Loopback(answer) as server:
        assert len(await answers(asks(server), rows_of(20), max_concurrency=4)) == 20
    assert most == 4


async def test_rows_are_read_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set too large for memory can be an iterator; only a few rows are read ahead."""
    monkeypatch.setattr("langchain_tir_qwen.batches._ROWS_AT_ONCE", 3)
    taken: list[int] = []

    def source() -> Iterator[Row]:
        for row in rows_of(8):
            taken.append(row["id"])
            yield row

    with Loopback(echo) as server:
        ahead = [len(taken) async for _ in answer_rows(asks(server), source())]
    assert ahead == [3, 3, 3, 6, 6, 6, 8, 8]


async def test_a_slow_reader_loses_nothing(tmp_path: Path) -> None:
    """Answers are saved as they arrive, even while the consumer is still busy with the first one."""
    all_there = asyncio.Event()
    with Loopback(echo) as server, AnswerFile(tmp_path / "answers") as file:

        def keep(row: Row) -> None:
            file.add(row)
            if len(file) == 20:
                all_there.set()

        async with aclosing(answer_rows(asks(server), rows_of(20), keep=keep)) as results:
            await anext(results)
            await asyncio.wait_for(all_there.wait(), 10)
    assert [row["response"] for row in read(tmp_path / "answers")] == [f"Question {at}" for at in range(20)]


async def test_leaving_ends_the_calls() -> None:
    """Leaving the loop early cancels running calls and starts no new ones."""
    left = threading.Semaphore(0)

    def answer(request: Received) -> Iterator[bytes]:
        if question(request) == "Question 0":
            while len(server.received) < 4:
                threading.Event().wait(0.001)
            yield completion("first")
        elif server.left_within(10):
            left.release()

    with Loopback(answer) as server:
        async with aclosing(answer_rows(asks(server), rows_of(100), max_concurrency=4)) as results:
            assert (await anext(results))["response"] == "first"
        for _ in range(3):
            assert left.acquire(timeout=5)
        assert await tasks_left() == set()
        assert 4 <= len(server.received) <= 5  # the first one may already have been replaced


async def test_leaving_before_it_begins() -> None:
    """Leaving the loop before the first request means that none is sent."""
    with Loopback(echo) as server:
        results = answer_rows(asks(server), rows_of(100), max_concurrency=4)
        first = asyncio.ensure_future(anext(results))
        await asyncio.sleep(0)  # the tasks exist, but none has started
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await results.aclose()
        assert await tasks_left() == set()
        assert server.received == []


REFUSED = response({"message": "no"}, "400 Bad Request")


async def test_a_row_that_fails(tmp_path: Path) -> None:
    """A refused row reports why, is requested once and is not saved; the next run retries that row only."""
    rows = rows_of(6)
    broken = True

    def answer(request: Received) -> Iterator[bytes]:
        yield REFUSED if broken and question(request) == "Question 3" else completion(question(request))

    path = tmp_path / "answers.jsonl"
    with Loopback(answer) as server:
        with AnswerFile(path) as file:
            first = await answers(asks(server), file.missing(rows), keep=file.add)
        broken = False
        with AnswerFile(path) as file:
            assert len(file) == 5
            second = await answers(asks(server), file.missing(rows), keep=file.add)
        asked = Counter(map(question, server.received))
    assert first[3] == {**rows[3], "response": None, **NO_MESSAGE, "error": "BadRequestError: 400 Bad Request: no"}
    assert [row["error"] for row in first if row["id"] != 3] == [None] * 5
    whole = {**rows[3], "response": "Question 3", **ANSWERED}
    assert second == [whole]
    assert read(path) == [{**row, "response": row["prompt"], **ANSWERED} for row in rows]
    assert asked == {f"Question {at}": 2 if at == 3 else 1 for at in range(6)}


@pytest.mark.parametrize(
    ("status", "kind"),
    [("401 No", AuthenticationError), ("403 No", PermissionDeniedError), ("404 No", NotFoundError)],
    ids=["401", "403", "404"],
)
async def test_what_fails_for_all(status: str, kind: type[TIRError]) -> None:
    """A wrong token, project or model stops the run at once instead of failing for thousands of rows."""
    with Loopback(lambda _: [response({"error": "no"}, status)]) as server:
        with pytest.raises(kind):
            await answers(asks(server), rows_of(500), max_concurrency=4)
        assert len(server.received) < 20


@pytest.mark.parametrize("error", [ZeroDivisionError, ValueError, OSError])
async def test_a_mistake_in_the_chain(error: type[Exception]) -> None:
    """A bug in the chain is raised; otherwise every answer would be paid for and thrown away."""

    def fails(_: Any) -> None:
        raise error

    with Loopback(echo) as server:
        with pytest.raises(error):
            await answers(asks(server) | fails, rows_of(500), max_concurrency=4)
        assert len(server.received) < 20


async def test_columns_that_answers_have() -> None:
    """A data set with a column that answers use is rejected before the first request."""
    with Loopback(echo) as server:
        with pytest.raises(ValueError, match="columns that answers have too: response, error; rename them"):
            await answers(asks(server), [{"id": 1, "prompt": "Hi", "response": "x", "error": None}])
        assert server.received == []


PROGRAM = """
import asyncio, sys
from operator import itemgetter
from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen.batches import AnswerFile, answer_rows

rows = [{"id": at, "prompt": f"Question {at}"} for at in range(300)]

async def main():
    chain = itemgetter("prompt") | ChatTIRQwen(base_url=sys.argv[1])
    with AnswerFile(sys.argv[2]) as file:
        async for row in answer_rows(chain, file.missing(rows), keep=file.add, max_concurrency=8):
            assert row["response"] == row["prompt"], row

asyncio.run(main())
"""


def test_killed_twice(tmp_path: Path) -> None:
    """A program killed twice resumes where it stopped: every row is answered, and only rows in flight are repeated."""
    path = tmp_path / "answers.jsonl"
    with Loopback(lambda request: [completion(question(request))]) as server:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen([sys.executable, "-c", PROGRAM, server.base_url, str(path)])

        for number in (60, 160):
            with start() as process:
                while len(server.received) < number:
                    assert process.poll() is None
                    threading.Event().wait(0.002)
                os.kill(process.pid, signal.SIGKILL)
        with start() as process:
            assert process.wait(60) == 0
        asked = Counter(map(question, server.received))
    assert read(path) == [
        {"id": at, "prompt": f"Question {at}", "response": f"Question {at}", **ANSWERED} for at in range(300)
    ]
    assert set(asked) == {f"Question {at}" for at in range(300)}
    assert max(asked.values()) <= 3
    assert asked.total() <= 300 + 2 * 8


def test_half_a_line_is_asked_again(tmp_path: Path) -> None:
    """A last line cut off anywhere, even within a character, is removed, and its row counts as missing."""
    rows = rows_of(2)
    answered = [{**row, "response": 'é नमस्ते 😀 "q" \\', **NO_MESSAGE} for row in rows]
    lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in answered]
    path = tmp_path / "answers.jsonl"
    for end in range(len(lines[1]) - 1):
        path.write_bytes(lines[0] + lines[1][:end])
        with AnswerFile(path) as file:
            assert file.missing(rows) == rows[1:]
            assert path.read_bytes() == lines[0]
            file.add({**rows[1], "response": "a", **NO_MESSAGE})
        assert read(path) == [answered[0], {**answered[1], "response": "a"}]
    path.write_bytes(lines[0] + lines[1][:-1])
    with AnswerFile(path) as file:
        assert file.missing(rows) == []  # only the line ending is missing
        assert path.read_bytes() == lines[0] + lines[1]


def test_a_full_disk_leaves_no_partial_line(tmp_path: Path) -> None:
    """If the disk is full, saving an answer raises an error and leaves no partial line behind."""
    path = tmp_path / "answers.jsonl"
    program = f"""
import resource, signal
from langchain_tir_qwen.batches import AnswerFile
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


def test_one_program_at_a_time(tmp_path: Path) -> None:
    """A file that another program or a forgotten notebook is writing can only be opened once that one is done."""
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path), pytest.raises(BlockingIOError, match="the file is already open for answers"):
        AnswerFile(path)
    with AnswerFile(path) as file:
        assert len(file) == 0


@pytest.mark.parametrize(
    "content",
    [
        f"{LINE}\nhello\n",
        f"{LINE}\nhello",
        "[1]\n",
        "[1",
        "null\n",
        "a text",
        '{"id": 1, "prompt": "precious"}',
        '{"id": 1, "prompt": "precious"}\n{"id": 2, "pro',
        LINE.replace('"id"', '"name"') + "\n",
        LINE.replace("1", "[1]", 1) + "\n",
    ],
    ids=[
        "text",
        "text without end",
        "list",
        "half a list",
        "null",
        "alone",
        "a row",
        "rows",
        "no key",
        "a list as key",
    ],
)
def test_another_kind_of_file(content: str, tmp_path: Path) -> None:
    """A file with other contents is left unchanged, and the error names the file, the line and the expected format."""
    path = tmp_path / "notes.txt"
    path.write_text(content)
    line = len(content.splitlines()) - ("precious" in content and content.count("\n"))
    with pytest.raises(ValueError, match=rf"notes.txt, line {line}: not an answered row with a column 'id'."):
        AnswerFile(path)
    assert path.read_text() == content


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
        ([{"id": 1}, {"id": 1}], "two rows have the 'id' 1: their answers could not be told apart."),
        ([{"id": 0, "prompt": "Else"}], "has the answer to another row whose 'id' is 0."),
    ],
    ids=["no key", "none", "uuid", "nan", "bool", "list", "half an emoji", "twice", "changed"],
)
def test_rows_that_cannot_be_found_again(rows: list[Row], words: str, tmp_path: Path) -> None:
    """Rows without a key that JSON can represent are rejected, as are rows that changed since they were answered."""
    with AnswerFile(tmp_path / "answers.jsonl") as file:
        file.add({**rows_of(1)[0], "response": "a", **NO_MESSAGE})
        with pytest.raises(ValueError, match=words):
            file.missing(rows)


def test_rows_may_be_identified_by_any_column(tmp_path: Path) -> None:
    """Any column can identify rows, and rows may hold NumPy numbers, nested values and non-ASCII text."""
    rows = [{"name": np.str_("né"), "size": np.int64(1), "parts": np.array([0.5]), "more": {"b": 1, "a": [None]}}]
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, key="name") as file:
        file.add({**rows[0], "response": "a", **NO_MESSAGE})
    with AnswerFile(path, key="name") as file:
        turned = {**rows[0], "more": {"a": [None], "b": 1}}
        assert file.missing([turned, {"name": "b"}]) == [{"name": "b"}]
    assert json.loads(path.read_text("utf-8")) == {
        "name": "né",
        "size": 1,
        "parts": [0.5],
        "more": {"b": 1, "a": [None]},
        "response": "a",
        **NO_MESSAGE,
    }


def test_what_cannot_be_written(tmp_path: Path) -> None:
    """A row that JSON cannot represent raises a clear error before it is requested."""
    with AnswerFile(tmp_path / "answers.jsonl") as file:
        with pytest.raises(ValueError, match="object cannot be written as JSON"):
            file.missing([{"id": 1, "x": object()}])
        with pytest.raises(ValueError, match="object cannot be written as JSON"):
            file.add({"id": 1, "x": object(), "response": "a", **NO_MESSAGE})
        assert len(file) == 0
        file.add({"id": 1, "x": 1, "response": "a", **NO_MESSAGE})
    assert read(tmp_path / "answers.jsonl") == [{"id": 1, "x": 1, "response": "a", **NO_MESSAGE}]


def test_no_secret_is_kept(tmp_path: Path) -> None:
    """Neither answered nor refused rows contain the token or the project."""
    path = tmp_path / "answers.jsonl"
    refused = response({"message": "the token canary-token of p-424242 is bad"}, "400 Bad Request")
    replies = {"Question 0": refused, "Question 1": completion("Hi")}
    with Loopback(lambda request: [replies[question(request)]]) as server, AnswerFile(path) as file:
        model = ChatTIRQwen(base_url=server.url, access_token="canary-token", project_id=424242)
        chain = itemgetter("prompt") | model
        rows = asyncio.run(answers(chain, rows_of(2), keep=file.add))
    assert [row["response"] for row in rows] == [None, "Hi"]
    assert len(read(path)) == 1
    for text in (str(rows), path.read_text("utf-8")):
        assert "canary" not in text
        assert "424242" not in text


async def test_a_batch_of_columns() -> None:
    """A batch of columns, as Ray Data passes it, is answered row by row and returned as columns."""
    with Loopback(echo) as server:
        ask = AnswerBatch(asks(server), max_concurrency=2)
        batch = {"id": np.arange(3), "prompt": np.array(["a", "b", "c"])}
        (answered,) = [columns async for columns in ask(batch)]
        assert [columns async for columns in ask({"id": np.array([]), "prompt": np.array([])})] == []
    got = sorted(zip(*answered.values(), strict=True))
    assert list(answered) == ["id", "prompt", "response", *ANSWERED]
    assert got == [(at, name, name, *ANSWERED.values()) for at, name in enumerate("abc")]


async def test_a_slow_reader_and_a_failure(tmp_path: Path) -> None:
    """After a failure that affects all rows no further row is requested, even if the consumer is slow to notice it."""

    def keep(row: Row) -> None:
        file.add(row)
        if len(file) == 4:
            file.close()  # the next write fails, as on a full disk

    with Loopback(echo) as server, AnswerFile(tmp_path / "answers.jsonl") as file:
        async with aclosing(answer_rows(asks(server), rows_of(500), max_concurrency=4, keep=keep)) as results:
            await anext(results)
            async with asyncio.timeout(20):
                while await tasks_left():  # noqa: ASYNC110 - tasks of others
                    await asyncio.sleep(0.01)
            with pytest.raises(ValueError, match="closed file"):
                await anext(results)
        assert len(server.received) < 12
    assert len(read(tmp_path / "answers.jsonl")) == 4


async def test_an_asynchronous_keeper() -> None:
    """The object that saves rows may be asynchronous, and is awaited."""
    kept = []

    async def keep(row: Row) -> None:
        await asyncio.sleep(0)
        kept.append(row["id"])

    with Loopback(echo) as server:
        assert len(await answers(asks(server), rows_of(5), keep=keep)) == 5
    assert sorted(kept) == [0, 1, 2, 3, 4]


async def test_tool_calls_are_kept() -> None:
    """A message that calls tools instead of answering is saved with its tool calls."""
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"x": 1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    with Loopback(lambda _: [response(body)]) as server:
        (row,) = await answers(asks(server), rows_of(1))
    assert row["response"] == {"text": "", "tool_calls": [{"name": "find", "args": {"x": 1}}]}
    assert (row["finish_reason"], row["error"]) == ("tool_calls", None)


@pytest.mark.parametrize("number", [0, -1])
def test_none_at_once(number: int) -> None:
    """A concurrency limit of less than one is rejected at once instead of blocking forever."""
    for make in (
        lambda: answer_rows(chain, [], max_concurrency=number),
        lambda: AnswerBatch(chain, max_concurrency=number),
    ):
        with pytest.raises(ValueError, match=f"max_concurrency must be 1 or more, not {number}."):
            make()


chain = RunnableLambda(str)


def test_what_a_cluster_makes_of_rows(tmp_path: Path) -> None:
    """A row that comes back with converted numbers or extra columns is saved as it was requested."""
    rows: list[Row] = [{"id": 1, "n": 5, "more": {"a": 1}}, {"id": 2}]
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as file:
        for row in file.missing(rows):
            come = {"n": None, "more": {"a": None, "b": None}, **row} | ({"n": 5.0} if "n" in row else {})
            file.add({**come, "response": "a", **NO_MESSAGE})
    with AnswerFile(path) as file:
        assert file.missing(rows) == []
    assert read(path) == [{**row, "response": "a", **NO_MESSAGE} for row in rows]


async def test_a_chain_that_changes_its_row(tmp_path: Path) -> None:
    """Changes that a chain makes to its row are not visible outside the chain."""
    rows = rows_of(3)
    path = tmp_path / "answers.jsonl"
    with Loopback(echo) as server, AnswerFile(path) as file:
        takes = RunnableLambda(lambda row: row.pop("prompt")) | ChatTIRQwen(base_url=server.base_url)
        assert len(await answers(takes, file.missing(rows), keep=file.add)) == 3
    assert read(path) == [{**row, "response": row["prompt"], **ANSWERED} for row in rows_of(3)]


def test_answers_with_errors_in_a_file(tmp_path: Path) -> None:
    """Lines of failed rows, perhaps written by another program, count as missing."""
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({**rows_of(1)[0], "response": None, **NO_MESSAGE, "error": "busy"}) + "\n")
    with AnswerFile(path) as file:
        assert file.missing(rows_of(1)) == rows_of(1)


def test_a_deleted_file(tmp_path: Path) -> None:
    """Writing to a file that has been deleted raises an error that says so."""
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as file:
        path.unlink()
        with pytest.raises(FileNotFoundError, match="was deleted while answers were written to it"):
            file.add({"id": 1, "response": "a", **NO_MESSAGE})


async def test_batches_at_once_share_the_limit() -> None:
    """Batches that Ray gives a worker concurrently share one `max_concurrency` limit."""
    at_once, most, lock = 0, 0, threading.Lock()

    def answer(request: Received) -> Iterator[bytes]:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.01)
        with lock:
            at_once -= 1
        yield completion(question(request))

    async def columns(ask: AnswerBatch, first: int) -> list[int]:
        batch = {"id": np.arange(first, first + 5), "prompt": np.array(["a"] * 5)}
        return [at async for columns in ask(batch) for at in columns["id"]]

    with Loopback(answer) as server:
        ask = AnswerBatch(asks(server), max_concurrency=2)
        got = await asyncio.gather(*(columns(ask, first) for first in range(0, 20, 5)))
    assert sorted(at for batch in got for at in batch) == list(range(20))
    assert most == 2


@pytest.mark.parametrize("kind", ["pandas", "pyarrow"])
async def test_batches_of_another_format(kind: str) -> None:
    """Ray's other batch formats are supported too."""
    columns = {"id": [1, 2], "prompt": ["a", "b"]}
    batch = pandas.DataFrame(columns) if kind == "pandas" else pyarrow.table(columns)
    with Loopback(echo) as server:
        (answered,) = [columns async for columns in AnswerBatch(asks(server))(batch)]
    assert sorted(zip(answered["id"], answered["response"], strict=True)) == [(1, "a"), (2, "b")]
