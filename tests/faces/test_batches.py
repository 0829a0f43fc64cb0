"""A data set through a chain: each row answered once, kept as it comes, and gone on with after a crash."""

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

import numpy as np
import pytest
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from demo.replay import Received
from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen.answer_file import Row
from langchain_tir_qwen.batches import AnswerBatch, AnswerFile, answer_rows
from tests.captured import CAPTURES
from tests.loopback import Loopback, completion, echo, response
from tir_qwen import AuthenticationError

WHOLE = next(capture.raw for capture in CAPTURES if capture.id == "vllm-0.9.2/plain_think")
ANSWERED = {"reasoning": "", "finish_reason": "stop", "input_tokens": 0, "output_tokens": 3, "error": None}
"""The columns that every answer of `echo` has besides its text."""
NO_MESSAGE = dict.fromkeys(["reasoning", "finish_reason", "input_tokens", "output_tokens", "error"])


def rows_of(number: int) -> list[Row]:
    """A data set."""
    return [{"id": at, "prompt": f"Question {at}"} for at in range(number)]


def asks(server: Loopback, **settings: Any) -> Runnable[Any, Any]:
    """The chain of most tests: the prompt is a column."""
    return itemgetter("prompt") | ChatTIRQwen(base_url=server.base_url, **settings)


def question(request: Received) -> str:
    """What a request asks."""
    return str(request.json()["messages"][-1]["content"])


async def tasks_left() -> set[Any]:
    """The tasks that go on, but for this one, once those that end have ended."""
    for _ in range(10):
        await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}


async def answers(chain: Runnable[Any, Any], rows: list[Row], **options: Any) -> list[Row]:
    """All rows with their answers, in the order of the data set."""
    return sorted([row async for row in answer_rows(chain, rows, **options)], key=itemgetter("id"))


def read(path: Path) -> list[Row]:
    """What a file holds, in the order of the data set."""
    return sorted(map(json.loads, path.read_text("utf-8").splitlines()), key=itemgetter("id"))


async def test_rows_and_their_answers() -> None:
    """Each row comes back once, whole, with the answer to it and what is known of that."""
    rows = [{"id": f"row {at}", "prompt": f"Question {at}", "topic": {"at": at}} for at in range(50)]
    with Loopback(echo) as server:
        got = [row async for row in answer_rows(asks(server), iter(rows), max_concurrency=8)]
    assert sorted(got, key=lambda row: row["topic"]["at"]) == [
        {**row, "response": row["prompt"], **ANSWERED} for row in rows
    ]


async def test_the_reasoning_and_the_tokens() -> None:
    """Reasoning stands in a column of its own, with the finish reason and the tokens as the server counts them."""
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
    """What the structured chains answer."""

    name: str
    founded: int | None = None


def chains(model: ChatTIRQwen) -> dict[str, Runnable[Any, Any]]:
    """Chains that end in something else than a message."""
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
    """A chain may end in a message, a text or an object, which stands in the row as JSON values."""
    with Loopback(lambda _: [completion('{"name": "Pune"}')]) as server:
        chain = chains(ChatTIRQwen(base_url=server.base_url))[ending]
        assert await answers(chain, [{"id": 1, "prompt": "Pune"}]) == [{"id": 1, "prompt": "Pune", **columns}]


@pytest.mark.parametrize("ending", ["JSON", "object", "raw"])
async def test_an_answer_that_is_not_the_object(ending: str, tmp_path: Path) -> None:
    """An answer that cannot be read says so in its row, is not kept, and does not stop the others."""
    with Loopback(lambda request: [completion('{"name": "Pune"}' if "good" in question(request) else "no")]) as server:
        chain = chains(ChatTIRQwen(base_url=server.base_url))[ending]
        with AnswerFile(tmp_path / "answers") as file:
            rows = [{"id": 1, "prompt": "bad"}, {"id": 2, "prompt": "good"}]
            bad, good = await answers(chain, rows, keep=file.add)
            assert file.missing(rows) == rows[:1]
    assert bad["error"].startswith(("OutputParserException: ", "JSONDecodeError: "))
    assert (bad["response"], good["error"], good["response"]["name"]) == (None, None, "Pune")


async def test_the_order() -> None:
    """Rows are asked about in their order, so that a server that caches prefixes sees neighbours together."""
    with Loopback(echo) as server:
        await answers(asks(server), rows_of(30), max_concurrency=1)
        assert [question(request) for request in server.received] == [row["prompt"] for row in rows_of(30)]


async def test_only_so_many_at_once() -> None:
    """No more rows are asked about at once than `max_concurrency`, and not fewer while there are more."""
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
    """A data set that does not fit into memory is an iterator, of which only a part is read ahead."""
    monkeypatch.setattr("langchain_tir_qwen.batches._AT_A_TIME", 3)
    taken: list[int] = []

    def source() -> Iterator[Row]:
        for row in rows_of(8):
            taken.append(row["id"])
            yield row

    with Loopback(echo) as server:
        ahead = [len(taken) async for _ in answer_rows(asks(server), source())]
    assert ahead == [3, 3, 3, 6, 6, 6, 8, 8]


async def test_a_slow_reader_loses_nothing(tmp_path: Path) -> None:
    """Answers are written down when they come, also while whoever reads them is still busy with the first."""
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
    """Who leaves the loop leaves no call at work, and none begins."""
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
        assert 4 <= len(server.received) <= 5  # the first one's place may have been taken


REFUSED = response({"message": "no"}, "400 Bad Request")


async def test_a_row_that_fails(tmp_path: Path) -> None:
    """A refused row says why, is asked once, and is not kept: the next run asks for it again and for nothing else."""
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


async def test_what_fails_for_all() -> None:
    """A wrong token ends the whole at once, rather than after thousands of refusals."""
    with Loopback(lambda _: [response({"error": "Unauthorized"}, "401 Unauthorized")]) as server:
        with pytest.raises(AuthenticationError):
            await answers(asks(server), rows_of(500), max_concurrency=4)
        assert len(server.received) < 20


async def test_a_mistake_in_the_chain() -> None:
    """A bug of the chain is raised: else each answer would be paid for and thrown away."""
    with Loopback(echo) as server:
        with pytest.raises(ZeroDivisionError):
            await answers(asks(server) | (lambda _: 1 / 0), rows_of(500), max_concurrency=4)
        assert len(server.received) < 20


async def test_columns_that_answers_have() -> None:
    """A data set with a column of an answer's name is refused before anything is asked."""
    with Loopback(echo) as server:
        with pytest.raises(ValueError, match="columns of the names that answers have: response, error; rename them"):
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
    """A program killed twice in the middle goes on where it was: all are answered, and only those in flight twice."""
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
    """Wherever a kill has cut the last line, it is removed, and its row is missing."""
    rows = rows_of(2)
    lines = [json.dumps({**row, "response": "é", **NO_MESSAGE}).encode() + b"\n" for row in rows]
    path = tmp_path / "answers.jsonl"
    for end in range(len(lines[1])):
        path.write_bytes(lines[0] + lines[1][:end])
        with AnswerFile(path) as file:
            assert file.missing(rows) == rows[1:]
            assert path.read_bytes() == lines[0]
            file.add({**rows[1], "response": "a", **NO_MESSAGE})
        assert [row["response"] for row in read(path)] == ["é", "a"]


def test_a_full_disk(tmp_path: Path) -> None:
    """An answer that fits no more is an error, and leaves no half of a line behind."""
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
    """A file that another program, or a forgotten notebook, is writing can be opened once that one is done."""
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path), pytest.raises(BlockingIOError, match="another program is writing answers into it"):
        AnswerFile(path)
    with AnswerFile(path) as file:
        assert len(file) == 0


@pytest.mark.parametrize(
    "content", ['{"id": 1}\nhello\n', "[1]\n", '{"name": 1}\n', '{"id": [1]}\n', "null\n"], ids=str.strip
)
def test_another_kind_of_file(content: str, tmp_path: Path) -> None:
    """A file that holds something else is left alone, and the error names it, the line, and what was looked for."""
    path = tmp_path / "notes.txt"
    path.write_text(content)
    line = content.count("\n")
    with pytest.raises(ValueError, match=rf"notes.txt, line {line}: this is no answered row with a column 'id'."):
        AnswerFile(path)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"prompt": "Hi"}], "a row has no 'id': its answer could not be found again."),
        ([{"id": 1}, {"id": 1}], "two rows have the 'id' 1: their answers could not be told apart."),
        ([{"id": 0, "prompt": "Else"}], "has the answer to another row whose 'id' is 0."),
    ],
    ids=["no key", "twice", "changed"],
)
def test_rows_that_cannot_be_found_again(rows: list[Row], words: str, tmp_path: Path) -> None:
    """Rows without a key of their own are refused, and those that have changed since they were asked."""
    with AnswerFile(tmp_path / "answers.jsonl") as file:
        file.add({**rows_of(1)[0], "response": "a", **NO_MESSAGE})
        with pytest.raises(ValueError, match=words):
            file.missing(rows)


def test_another_key(tmp_path: Path) -> None:
    """Rows may be told apart by any column, and hold what data sets hold: numpy's numbers, nested values, no ASCII."""
    rows = [{"name": np.str_("né"), "size": np.int64(1), "parts": np.array([0.5]), "more": {"b": 1, "a": [None]}}]
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, key="name") as file:
        file.add({**rows[0], "response": "a", **NO_MESSAGE})
    with AnswerFile(path, key="name") as file:
        assert file.missing([*rows, {"name": "b"}]) == [{"name": "b"}]
    assert json.loads(path.read_text("utf-8")) == {
        "name": "né",
        "size": 1,
        "parts": [0.5],
        "more": {"b": 1, "a": [None]},
        "response": "a",
        **NO_MESSAGE,
    }


def test_what_cannot_be_written(tmp_path: Path) -> None:
    """A row that holds something that is no JSON is an error that says so, before anything is asked about it."""
    with AnswerFile(tmp_path / "answers.jsonl") as file:
        with pytest.raises(ValueError, match="object cannot be written as JSON"):
            file.missing([{"id": 1, "x": object()}])
        with pytest.raises(ValueError, match="object cannot be written as JSON"):
            file.add({"id": 1, "x": object(), "response": "a", **NO_MESSAGE})
        assert len(file) == 0
        file.add({"id": 1, "x": 1, "response": "a", **NO_MESSAGE})
    assert read(tmp_path / "answers.jsonl") == [{"id": 1, "x": 1, "response": "a", **NO_MESSAGE}]


def test_no_secret_is_kept(tmp_path: Path) -> None:
    """A file of answers holds neither token nor project."""
    path = tmp_path / "answers.jsonl"
    with Loopback(lambda _: [REFUSED]) as server, AnswerFile(path) as file:
        chain = asks(server, access_token="canary-token", project_id=424242)
        (row,) = asyncio.run(answers(chain, rows_of(1), keep=file.add))
    assert "canary" not in str(row)
    assert "424242" not in str(row)


async def test_a_batch_of_columns() -> None:
    """What Ray Data hands out, columns of arrays, is answered as rows are, and comes back as columns."""
    with Loopback(echo) as server:
        ask = AnswerBatch(asks(server), max_concurrency=2)
        batch = {"id": np.arange(3), "prompt": np.array(["a", "b", "c"])}
        (answered,) = [columns async for columns in ask(batch)]
        assert [columns async for columns in ask({"id": np.array([]), "prompt": np.array([])})] == []
    got = sorted(zip(*answered.values(), strict=True))
    assert list(answered) == ["id", "prompt", "response", *ANSWERED]
    assert got == [(at, name, name, *ANSWERED.values()) for at, name in enumerate("abc")]
