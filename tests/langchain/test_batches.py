"""A data set run through a chain, and the batches of Ray; the engine below is tested in `tests/batches`."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, Runnable, RunnableLambda
from pydantic import BaseModel

from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen.batches import AnswerBatch, AnswerFile, answer_rows
from tests.support.captures import CAPTURES
from tests.support.server import Loopback, completion, echo, response
from tir_qwen import AuthenticationError, NotFoundError, PermissionDeniedError, TIRError
from tir_qwen.testing import Request

WHOLE = next(capture.raw for capture in CAPTURES if capture.id == "vllm-0.9.2/plain_think")
ANSWERED = {"reasoning": "", "finish_reason": "stop", "input_tokens": 0, "output_tokens": 3, "error": None}
"""The columns that every answer of `echo` has in addition to its text."""
NO_MESSAGE = dict.fromkeys(["reasoning", "finish_reason", "input_tokens", "output_tokens", "error"])
Row = dict[str, Any]


def rows_of(number: int) -> list[Row]:
    """Return a data set of `number` rows."""
    return [{"id": at, "prompt": f"Question {at}"} for at in range(number)]


def asks(server: Loopback, **settings: Any) -> Runnable[Any, Any]:
    """Return the chain that most tests use: it sends the `prompt` column."""
    return itemgetter("prompt") | ChatTIRQwen(base_url=server.base_url, **settings)


def question(request: Request) -> str:
    """Return the question in a request."""
    return str(request.json()["messages"][-1]["content"])


async def answers(chain: Runnable[Any, Any], rows: Iterable[Row], **options: Any) -> list[Row]:
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
        ("text", {"response": '{"name": "Pune"}', **ANSWERED}),
        ("JSON", {"response": {"name": "Pune"}, **ANSWERED}),
        ("object", {"response": {"name": "Pune", "founded": None}, **ANSWERED}),
        ("raw", {"response": {"name": "Pune", "founded": None}, **ANSWERED}),
    ],
)
async def test_what_a_chain_ends_in(ending: str, columns: Row) -> None:
    """A chain may end in a message, a text or an object; the row holds it as JSON values, and what it has cost."""
    with Loopback(lambda _: [completion('{"name": "Pune"}')]) as server:
        chain = chains(ChatTIRQwen(base_url=server.base_url))[ending]
        assert await answers(chain, [{"id": 1, "prompt": "Pune"}]) == [{"id": 1, "prompt": "Pune", **columns}]


MODELS: dict[str, Callable[[ChatTIRQwen], Runnable[Any, Any]]] = {
    "model": lambda model: model,
    "bound": lambda model: model.bind(seed=1).with_config(tags=["a"]),
    "tools": lambda model: model.bind_tools([City]),
    "retry": lambda model: model.with_retry(),
    "fallbacks": lambda model: model.with_fallbacks([model]),
    "configurable": lambda model: model.configurable_fields(temperature=ConfigurableField(id="temperature")),
    "parser": lambda model: model | StrOutputParser(),
    "object": lambda model: model.with_structured_output(City),
    "raw": lambda model: model.with_structured_output(City, include_raw=True).with_retry(),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "columns",
    [{"prompt": "Pune?"}, {"prompt": "not this", "messages": [{"role": "user", "content": "Pune?"}]}],
    ids=["prompt", "messages"],
)
async def test_a_model_without_a_prompt_template(kind: str, columns: Row) -> None:
    """A model takes the column `prompt` or `messages`, whatever it is wrapped in, and whatever follows it."""
    with Loopback(lambda _: [completion('{"name": "Pune"}')]) as server:
        (row,) = await answers(MODELS[kind](ChatTIRQwen(base_url=server.base_url)), [{"id": 1, **columns}])
    assert row["response"] in ('{"name": "Pune"}', {"name": "Pune", "founded": None})
    assert row["error"] is None
    assert server.requests[0].json()["messages"][-1]["content"].endswith("Pune?")


async def test_chains_that_call_a_model_more_than_once() -> None:
    """A row counts the tokens of all calls; an answer whose object is refused has been paid for, too."""
    left = ["no", '{"name": "Pune"}']
    with Loopback(lambda _: [completion(left.pop(0) if left else '{"name": "Pune"}')]) as server:
        model = ChatTIRQwen(base_url=server.base_url)
        chain = model.with_structured_output(City).with_retry(wait_exponential_jitter=False)
        twice = (
            model | (lambda message: [*message.content, "?"]) | "".join | model | (lambda message: len(message.content))
        )
        parts = [
            await answers(chain, [{"id": 1, "prompt": "Pune"}]),
            await answers(twice, [{"id": 1, "prompt": "Pune"}]),
        ]
    assert [(row["response"], row["output_tokens"], row["error"]) for (row,) in parts] == [
        ({"name": "Pune", "founded": None}, 6, None),
        (16, 6, None),
    ]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "",
            "a row has no column 'prompt'; it has 'id', 'text'. A prompt template before the model can use other"
            " columns.",
        ),
        ("{topic}: {text}, {place}", "a row has no column 'place' and 'topic'; it has 'id', 'text'."),
    ],
    ids=["model", "template"],
)
async def test_a_column_that_is_not_there(template: str, words: str, tmp_path: Path) -> None:
    """If the first rows lack a column, the run stops before anything is sent, and no row has failed."""
    rows = [{"id": at, "text": "Hi"} for at in range(50)]
    with Loopback(echo) as server, AnswerFile(tmp_path / "answers.jsonl") as file:
        model = ChatTIRQwen(base_url=server.base_url)
        chain = ChatPromptTemplate.from_template(template) | model if template else model
        with pytest.raises(ValueError, match="column") as caught:
            await answers(chain, file.missing(rows), keep=file.add)
        assert str(caught.value) == words
        assert list(file.missing(rows)) == rows
        got = await answers(chain, [{"id": 1, "prompt": "Hi", "topic": "a", "text": "b", "place": "c"}, {"id": 2}])
    assert [row["error"] and row["error"].partition(":")[0] for row in got] == [None, "MissingColumnError"]
    assert len(server.requests) == 1


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_single_row_without_its_column(place: int, tmp_path: Path) -> None:
    """A row that lacks the column fails, wherever it stands, and holds up neither the other rows nor later runs."""
    rows: list[Row] = [{"id": at, "prompt": "Hi"} for at in range(3)]
    rows[place] = {"id": place, "text": "Hi"}
    words = "MissingColumnError: a row has no column 'prompt'; it has 'id', 'text'."
    counts = []
    with Loopback(echo) as server:
        for run in range(4):
            with AnswerFile(tmp_path / "answers.jsonl") as file:
                chain = ChatPromptTemplate.from_template("{prompt}") | ChatTIRQwen(base_url=server.base_url)
                missing = file.missing([*rows, {"id": 3, "prompt": "Hi"}] if run == 3 else rows, max_attempts=3)
                got = await answers(chain, missing, keep=file.add)
            counts.append({row["id"]: row["error"] for row in got})
    good = {at: None for at in range(3) if at != place}
    assert counts == [{**good, place: words}, {place: words}, {place: words}, {3: None}]


async def test_a_column_of_an_alternative() -> None:
    """Columns are not checked where a chain may take others: an alternative, or a fallback."""
    first, other = (ChatPromptTemplate.from_template(text) for text in ("{prompt}", "{other}"))
    row = {"id": 1, "other": "Pune"}
    with Loopback(echo) as server:
        model = ChatTIRQwen(base_url=server.base_url)
        alternatives = first.configurable_alternatives(ConfigurableField(id="p"), default_key="a", b=other)
        chains = [
            alternatives.with_config(configurable={"p": "b"}) | model,
            (first | model).with_fallbacks([other | model]),
        ]
        assert [await answers(chain, [row]) for chain in chains] == [[{**row, "response": "Pune", **ANSWERED}]] * 2


@pytest.mark.parametrize("kind", ["returned", "other callbacks", "raw"])
async def test_a_message_that_no_callback_saw(kind: str) -> None:
    """The reasoning and the tokens of the returned message count if the model was called apart from the chain."""
    with Loopback(echo) as server:
        model = ChatTIRQwen(base_url=server.base_url)
        functions: dict[str, Callable[[Row], Any]] = {
            "returned": lambda _: AIMessage(
                "Hi", usage_metadata={"input_tokens": 0, "output_tokens": 3, "total_tokens": 3}
            ),
            "other callbacks": lambda row: model.invoke(row["prompt"], {"callbacks": []}),
            "raw": lambda row: {
                "raw": model.invoke(row["prompt"], {"callbacks": []}),
                "parsed": row["prompt"],
                "parsing_error": None,
            },
        }
        (row,) = await answers(RunnableLambda(functions[kind]), [{"id": 1, "prompt": "Hi"}])
    assert (row["response"], row["input_tokens"], row["output_tokens"]) == ("Hi", 0, 3)


async def test_tokens_of_a_cached_answer() -> None:
    """An answer of LangChain's cache costs nothing, and its tokens are known to be none."""
    with Loopback(echo) as server:
        model = ChatTIRQwen(base_url=server.base_url, cache=InMemoryCache())
        run = answer_rows(model, [{"id": at, "prompt": "Hi"} for at in range(3)], max_concurrency=1)
        got = [row["output_tokens"] async for row in run]
    assert (got, len(server.requests), run.summary.uncounted) == ([3, 0, 0], 1, 0)


async def test_tokens_of_a_refused_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers before a refusal were paid for; they are counted although the row is sent again."""
    monkeypatch.setattr("tir_qwen.batches._engine._FIRST_PAUSE", 0.01)
    left = [[completion("a")], [response({"error": "no"}, "429 Busy")], [completion("a")], [completion("b")]]
    with Loopback(lambda _: left.pop(0)) as server:
        model = ChatTIRQwen(base_url=server.base_url, max_retries=0)
        (row,) = await answers(model | StrOutputParser() | model, [{"id": 1, "prompt": "Hi"}])
    assert (row["response"], row["output_tokens"], left) == ("b", 9, [])


@pytest.mark.parametrize("ending", ["JSON", "object", "raw"])
async def test_an_answer_that_is_not_the_object(ending: str, tmp_path: Path) -> None:
    """An answer that cannot be parsed is reported in its row, and does not stop the others."""
    with Loopback(lambda request: [completion('{"name": "Pune"}' if "good" in question(request) else "no")]) as server:
        chain = chains(ChatTIRQwen(base_url=server.base_url))[ending]
        with AnswerFile(tmp_path / "answers") as file:
            rows = [{"id": 1, "prompt": "bad"}, {"id": 2, "prompt": "good"}]
            bad, good = await answers(chain, rows, keep=file.add)
            assert list(file.missing(rows, max_attempts=None)) == rows[:1]
    assert bad["error"].startswith("OutputParserException: ")
    assert "troubleshooting" not in bad["error"]
    assert (bad["response"], good["error"], good["response"]["name"]) == ("no", None, "Pune")


REFUSED = response({"message": "no"}, "400 Bad Request")


async def test_rows_that_fail(tmp_path: Path) -> None:
    """Rows that are refused, or that the chain does not understand, say why, and are asked again if that is wanted."""

    def checked(message: AIMessage) -> AIMessage:
        if broken and message.text == "Question 5":
            raise KeyError("no")
        return message

    rows = rows_of(6)
    broken = True
    path = tmp_path / "answers.jsonl"

    def answer(request: Request) -> list[bytes]:
        return [REFUSED if broken and question(request) == "Question 3" else completion(question(request))]

    with Loopback(answer) as server:
        chain = asks(server) | checked
        with AnswerFile(path) as file:
            first = await answers(chain, file.missing(rows), keep=file.add)
            assert list(file.missing(rows)) == []
        broken = False
        with AnswerFile(path) as file:
            assert len(file) == 4
            second = await answers(chain, file.missing(rows, max_attempts=2), keep=file.add)
    assert first[3] == {**rows[3], "response": None, **NO_MESSAGE, "error": "BadRequestError: 400 Bad Request: no"}
    assert [row["error"] for row in first] == [*[None] * 3, first[3]["error"], None, "KeyError: 'no'"]
    assert first[5] == {**rows[5], "response": "Question 5", **ANSWERED, "error": "KeyError: 'no'"}
    assert second == [{**rows[at], "response": f"Question {at}", **ANSWERED} for at in (3, 5)]
    assert read(path) == [{**row, "response": row["prompt"], **ANSWERED} for row in rows]


async def test_rows_that_the_endpoint_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that a busy endpoint refuses are asked again until they are answered."""
    monkeypatch.setattr("tir_qwen.batches._engine._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("tir_qwen.batches._engine._MAX_PAUSE", 0.02)
    monkeypatch.setattr("tir_qwen._client.throttle._FIRST_PAUSE", 0.01)
    left = ["429 Busy", "503 Busy", "502 Bad Gateway"] * 5

    def answer(request: Request) -> list[bytes]:
        return [response({"error": "no"}, left.pop())] if left else echo(request)

    with Loopback(answer) as server:
        got = await answers(asks(server, max_retries=0), rows_of(20), max_concurrency=4)
    assert [row["error"] for row in got] == [None] * 20
    assert len(server.requests) == 35


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
        assert len(server.requests) < 20


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
    assert len(read(path)) == 2
    for text in (str(rows), path.read_text("utf-8")):
        assert "canary" not in text
        assert "424242" not in text


@pytest.mark.parametrize(("chain", "kind"), [("chain", "a str"), (ChatTIRQwen, "the class ChatTIRQwen")])
def test_what_is_not_a_chain(chain: Any, kind: str) -> None:
    """Anything but a chain or a model is rejected at once."""
    with pytest.raises(TypeError) as caught:
        answer_rows(chain, [])
    assert str(caught.value) == f"answer_rows takes a chain or a model, not {kind}."


def test_options_that_cannot_be() -> None:
    """A concurrency limit of less than one is rejected at once instead of blocking forever."""
    for make in (answer_rows, lambda chain, _, **options: AnswerBatch(chain, **options)):
        with pytest.raises(ValueError, match=r"max_concurrency must be a whole number, 1 or more, not -1\."):
            make(RunnableLambda(str), [], max_concurrency=-1)


def make_chain() -> Runnable[Any, Any]:
    """Return a chain whose token and endpoint are in the environment."""
    return itemgetter("prompt") | ChatTIRQwen()


async def test_a_batch_takes_the_token_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that makes the chain is called by the worker, and its pickle contains no token."""
    pickled = pickle.dumps(make_chain)
    with Loopback(echo) as server:
        monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "of-the-worker")
        monkeypatch.setenv("E2E_TIR_BASE_URL", server.base_url)
        ask = AnswerBatch(pickle.loads(pickled))
        (columns,) = [columns async for columns in ask({"prompt": np.array(["a"])})]
        assert columns["response"] == ["a"]
        assert server.requests[0].headers["authorization"] == "Bearer of-the-worker"
    assert b"of-the-worker" not in pickled


async def test_a_batch_in_which_every_row_fails() -> None:
    """Rows that fail never fail a batch, however many there are."""

    def fails(_: Any) -> None:
        raise ValueError("no")

    batch = {"id": np.arange(300), "prompt": np.array(["a"] * 300)}
    (columns,) = [columns async for columns in AnswerBatch(RunnableLambda(fails))(batch)]
    assert columns["error"] == ["ValueError: no"] * 300


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


async def test_tool_calls_are_kept() -> None:
    """A message that calls tools instead of answering is saved with its tool calls."""
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"x": 1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    with Loopback(lambda _: [response(body)]) as server:
        (row,) = await answers(asks(server), rows_of(1))
    assert row["response"] == {"text": "", "tool_calls": [{"name": "find", "args": {"x": 1}}]}
    assert (row["finish_reason"], row["error"]) == ("tool_calls", None)


async def test_batches_at_once_share_the_limit() -> None:
    """Batches that Ray gives a worker concurrently share one `max_concurrency` limit."""
    at_once, most, lock = 0, 0, threading.Lock()

    def answer(request: Request) -> Iterator[bytes]:
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


async def test_a_batch_of_conversations() -> None:
    """Numpy's arrays within a batch become lists, as the messages of a conversation must be."""
    messages = np.array([{"role": "user", "content": "a"}], dtype=object)
    column = np.empty(1, dtype=object)
    column[0] = messages
    with Loopback(echo) as server:
        ask = AnswerBatch(ChatTIRQwen(base_url=server.base_url))
        (answered,) = [columns async for columns in ask({"id": np.arange(1), "messages": column})]
    assert (answered["response"], answered["error"]) == (["a"], [None])


async def test_a_batch_whose_rows_lack_a_column() -> None:
    """A batch is only a part of the data: its rows fail, and the job goes on."""
    ask = AnswerBatch(ChatTIRQwen(base_url="http://127.0.0.1:9/v1"))
    (answered,) = [columns async for columns in ask({"id": np.arange(3), "text": np.array(["a"] * 3)})]
    assert [error.partition(";")[0] for error in answered["error"]] == ["ValueError: a row has no column 'prompt'"] * 3


@pytest.mark.parametrize("kind", ["pandas", "pyarrow"])
async def test_batches_of_another_format(kind: str) -> None:
    """Ray's other batch formats are supported too."""
    columns = {"id": [1, 2], "prompt": ["a", "b"]}
    batch = pandas.DataFrame(columns) if kind == "pandas" else pyarrow.table(columns)
    with Loopback(echo) as server:
        (answered,) = [columns async for columns in AnswerBatch(asks(server))(batch)]
    assert sorted(zip(answered["id"], answered["response"], strict=True)) == [(1, "a"), (2, "b")]
