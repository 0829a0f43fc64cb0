"""A data set run through an LLM, a program or a query engine; the engine below is tested in `tests/batches`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, SummaryIndex
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response
from llama_index.core.llms import ChatMessage
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.program import FunctionCallingProgram, LLMTextCompletionProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import CustomQueryEngine
from pydantic import BaseModel

from llama_index_tir_qwen import TIRQwen
from llama_index_tir_qwen.batches import AnswerFile, answer_rows
from tests.support.captures import CAPTURES
from tests.support.server import Loopback, completion, echo, response
from tir_qwen.testing import Request

Row = dict[str, Any]
WHOLE = next(capture.raw for capture in CAPTURES if capture.id == "vllm-0.9.2/plain_think")
NO_MESSAGE = dict.fromkeys(["reasoning", "finish_reason", "input_tokens", "output_tokens", "error"])


async def answers(llm: Any, rows: list[Row], **options: Any) -> list[Row]:
    """Return all rows with their answers, in the order of the data set."""
    return sorted([row async for row in answer_rows(llm, rows, **options)], key=itemgetter("id"))


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "Hi"},
        {"messages": [{"role": "user", "content": "Hi"}], "prompt": "not this"},
        {"messages": [ChatMessage("Hi")]},
    ],
    ids=["prompt", "messages", "objects"],
)
async def test_an_llm(asked: Row, tmp_path: Path) -> None:
    """An LLM takes a prompt or messages; the row has the text, the reasoning, the finish reason and the tokens."""
    rows = [{"id": 1, **asked}]
    with Loopback(lambda _: [WHOLE]) as server, AnswerFile(tmp_path / "answers.jsonl") as file:
        (row,) = await answers(TIRQwen(api_base=server.base_url), rows, keep=file.add)
        assert server.requests[0].json()["messages"] == [{"role": "user", "content": "Hi"}]
        assert list(file.missing(rows)) == []
    message = json.loads(WHOLE.partition(b"\r\n\r\n")[2])
    assert row == {
        **rows[0],
        "response": message["choices"][0]["message"]["content"].strip(),
        "reasoning": message["choices"][0]["message"]["reasoning_content"].strip(),
        "finish_reason": "stop",
        "input_tokens": message["usage"]["prompt_tokens"],
        "output_tokens": message["usage"]["completion_tokens"],
        "error": None,
    }


class City(BaseModel):
    """The structured answer of the programs below."""

    name: str


def city(request: Request) -> list[bytes]:
    """Answer with the city that is asked for, as an object or as a call."""
    body = request.json()
    (name,) = (name for name in ("Pune", "Delhi") if name in str(body["messages"]))
    arguments = json.dumps({"name": name})
    if not body.get("tools"):
        return [completion(arguments)]
    call = {"id": "1", "type": "function", "function": {"name": "City", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [response({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})]


def programs(llm: TIRQwen) -> dict[str, Any]:
    """Return what ends in an object."""
    prompt = PromptTemplate("The city {prompt}")
    return {
        "text": LLMTextCompletionProgram.from_defaults(
            output_parser=PydanticOutputParser(City, pydantic_format_tmpl="{schema}"), prompt=prompt, llm=llm
        ),
        "function": FunctionCallingProgram.from_defaults(output_cls=City, prompt=prompt, llm=llm),
        "structured": llm.as_structured_llm(City),
    }


@pytest.mark.parametrize("kind", ["function", "structured"])
async def test_an_object(kind: str) -> None:
    """A program takes the columns as the variables of its prompt; its object comes as JSON values."""
    rows = [{"id": at, "prompt": name} for at, name in enumerate(["Pune", "Delhi"])]
    with Loopback(city) as server:
        got = await answers(programs(TIRQwen(api_base=server.base_url))[kind], rows)
    assert [row["response"] for row in got] == [{"name": "Pune"}, {"name": "Delhi"}]
    assert {row["error"] for row in got} == {None}


async def test_an_answer_that_is_not_the_object() -> None:
    """An answer that cannot be parsed is an error of its row."""
    rows = [{"id": 1, "prompt": "bad"}, {"id": 2, "prompt": "good"}]

    def answer(request: Request) -> list[bytes]:
        asked = str(request.json()["messages"])
        return [completion('{"name": "Pune"}' if "good" in asked else "no")]

    with Loopback(answer) as server:
        bad, good = await answers(programs(TIRQwen(api_base=server.base_url))["text"], rows)
    assert (bad["response"], bad["error"].partition(":")[0]) == (None, "ValueError")
    assert (good["response"], good["error"]) == ({"name": "Pune"}, None)


async def test_a_query_engine() -> None:
    """A query engine takes the column `query`; the row has the text."""
    rows = [{"id": 1, "query": "Which tea?"}]
    with Loopback(lambda request: [completion(request.json()["messages"][-1]["content"])]) as server:
        llm = TIRQwen(api_base=server.base_url)
        engine = SummaryIndex.from_documents([Document(text="Assam is a tea.")]).as_query_engine(llm=llm)
        (row,) = await answers(engine, rows)
    assert "Assam is a tea." in row["response"]
    assert {name: row[name] for name in NO_MESSAGE} == NO_MESSAGE


async def test_query_engines_stream_at_the_same_time() -> None:
    """Answers that a query engine streams do not wait for each other; one without text is empty."""
    at_work = most = 0

    class Engine(CustomQueryEngine):
        def custom_query(self, query_str: str) -> str:
            raise NotImplementedError

        async def aquery(self, text: Any) -> Any:
            return AsyncStreamingResponse(words(text)) if text else Response(None)

    async def words(text: str) -> AsyncIterator[str]:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        for word in text:
            await asyncio.sleep(0.01)
            yield word
        at_work -= 1

    got = await answers(Engine(), [{"id": 1, "query": "tea"}, {"id": 2, "query": "oil"}, {"id": 3, "query": ""}])
    assert {row["id"]: row["response"] for row in got} == {1: "tea", 2: "oil", 3: ""}
    assert most == 2


async def test_rows_that_the_endpoint_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that a busy endpoint refuses are asked again until they are answered; a row without a prompt has failed."""
    monkeypatch.setattr("tir_qwen.batches._engine._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("tir_qwen.batches._engine._MAX_PAUSE", 0.02)
    monkeypatch.setattr("tir_qwen._client.throttle._FIRST_PAUSE", 0.01)
    left = ["429 Busy", "503 Busy"] * 5

    def answer(request: Request) -> list[bytes]:
        return [response({"error": "no"}, left.pop())] if left else echo(request)

    with Loopback(answer) as server:
        rows = [{"id": at, "prompt": "Hi"} for at in range(20)] + [{"id": 20}]
        got = await answers(TIRQwen(api_base=server.base_url, max_retries=0), rows, max_concurrency=4)
    assert [row["error"] for row in got] == [
        *[None] * 20,
        "MissingColumnError: a row has no column 'prompt'; it has 'id'.",
    ]
    assert len(server.requests) == 30


@pytest.mark.parametrize(("kind", "column"), [("llm", "prompt"), ("query engine", "query"), ("program", "prompt")])
async def test_a_column_that_is_not_there(kind: str, column: str, tmp_path: Path) -> None:
    """If the first rows lack the column, the run stops before anything is sent, and no row has failed."""
    rows = [{"id": at, "question": "Hi"} for at in range(50)]
    with Loopback(echo) as server, AnswerFile(tmp_path / "answers.jsonl") as file:
        llm = TIRQwen(api_base=server.base_url)
        engine = SummaryIndex.from_documents([Document(text="Assam is a tea.")]).as_query_engine(llm=llm)
        with pytest.raises(ValueError, match="column") as caught:
            await answers({"llm": llm, "program": programs(llm)["text"]}.get(kind, engine), rows, keep=file.add)
        assert str(caught.value) == f"a row has no column {column!r}; it has 'id', 'question'."
        assert list(file.missing(rows)) == rows
    assert server.requests == []


def test_what_cannot_be_asked() -> None:
    """Anything else is rejected at once."""
    with pytest.raises(TypeError, match="answer_rows takes an LLM, a program or a query engine, not a str"):
        answer_rows("llm", [])  # type: ignore[arg-type]
