"""Servers that speak OpenAI's protocol, each through both faces: what it sends, and what its user gets.

The table is in tests/data/servers: of each server the bytes of its answers and errors, with what is expected of them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest
import yaml
from langchain_core.exceptions import ModelError

import tir_qwen
from tests.support.captures import CAPTURES
from tests.support.entry_points import CHATS, SYNC, Answer, Way
from tests.support.paths import DATA
from tests.support.server import END, STREAM_HEAD, Loopback, chunk, response
from tir_qwen import TIRError

SERVERS: dict[str, dict[str, Any]] = {
    path.stem: yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    for path in sorted((DATA / "servers").glob("*.yaml"))
}
FEATURES = ("plain", "reasoning", "tools")
STATUSES = {"authentication": (401, 403), "rate limit": (429,), "failure": range(500, 600)}
RAW = {capture.id: capture.raw for capture in CAPTURES}
TURNS = [("user", "What is the weather in the capitals of France and England?")]
WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": WEATHER}]


def raw_answer(sent: str | dict[str, str], *, streamed: bool) -> bytes:
    """Return an answer as it goes over the socket; each event of a stream is a chunk of its own."""
    if isinstance(sent, dict):
        return RAW[sent["capture"]]
    if not streamed:
        return response(sent.encode())
    events = sent.encode().split(b"\n\n")[:-1]
    return STREAM_HEAD + b"".join(chunk(event + b"\n\n") for event in events) + END


def raw_error(error: dict[str, Any]) -> bytes:
    """Return an error, or a stream with one, as it goes over the socket."""
    if "capture" in error:
        return RAW[error["capture"]]
    if "stream" in error:
        return raw_answer(error["stream"], streamed=True)
    status = HTTPStatus(error["status"])
    return response(error["body"].encode(), f"{status.value} {status.phrase}", **error.get("headers", {}))


def expected(answer: dict[str, Any], *, streamed: bool) -> Answer:
    """Return what is said of an answer."""
    says = {**answer["says"], **(answer.get("streamed", {}) if streamed else {})}
    calls = [(name, arguments) for name, arguments in says.get("calls", [])]
    return Answer(says.get("text", ""), says.get("reasoning", ""), says["finish"], tuple(says["tokens"]), calls)


ANSWERS = [
    pytest.param(answer, id=f"{name}-{feature}")
    for name, server in SERVERS.items()
    for feature, answer in server["answers"].items()
]
ERRORS = [
    pytest.param(error, way, id=f"{name}-{kind}-{position}-{way}")
    for name, server in SERVERS.items()
    for kind in ("errors", "overflow", "broken")
    for position, error in enumerate(server.get(kind, []))
    for way in SYNC
    if way.cassette == "stream" or b"event-stream" not in raw_error(error)
]


@pytest.mark.parametrize("way", CHATS, ids=str)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_answers_are_what_the_server_means(answer: dict[str, Any], way: Way) -> None:
    """The text, reasoning, calls, finish reason and token counts are the server's, whole and streamed."""
    streamed = way.cassette == "stream"
    raw = raw_answer(answer["stream" if streamed else "whole"], streamed=streamed)
    params = {"tools": TOOLS} if "calls" in answer["says"] else {}

    with Loopback(lambda _: [raw]) as server:
        given = await way({"base_url": server.base_url, "max_retries": 0}, TURNS, **params)

    assert given == expected(answer, streamed=streamed)
    assert given.details == (answer["says"].get("cached"), answer["says"].get("thought"))
    assert all(isinstance(one, str) and one for one in given.call_ids)
    assert len(set(given.call_ids)) == len(given.tool_calls)
    assert [request.json()["stream"] for request in server.requests] == [streamed]


@pytest.mark.parametrize(("error", "way"), ERRORS)
async def test_errors_say_what_the_server_says(error: dict[str, Any], way: Way) -> None:
    """An error has the class of its status or cause, the server's words, and the time to wait or the partial answer."""
    raw = raw_error(error)

    with Loopback(lambda _: [raw]) as server, pytest.raises(TIRError) as caught:
        await way({"base_url": server.base_url, "max_retries": 0}, TURNS)

    raised, follows = caught.value, error["follows"]
    own_class = next(one for one in type(raised).__mro__ if one.__module__ == "tir_qwen.errors")
    assert own_class is getattr(tir_qwen, follows["error"])
    assert isinstance(raised, ModelError) == (way.name in ("invoke", "stream"))
    assert error.get("says", "").lower() in str(raised).lower()  # a text that repeats the status is left out
    if isinstance(raised, tir_qwen.APIStatusError):
        assert raised.status_code == int(raw.split(b" ", 2)[1])
        assert raised.retry_after == follows.get("retry_after")
    if "partial" in follows:
        assert raised.partial is not None
        assert raised.partial.content == follows["partial"]


@pytest.mark.parametrize("about", SERVERS.values(), ids=[*SERVERS])
def test_table_says_why_something_is_missing(about: dict[str, Any]) -> None:
    """Each server has a version, sources, all features and all kinds of errors, unless its file says why not."""
    codes = [int(raw_error(error).split(b" ", 2)[1]) for error in about["errors"]]
    missing = {feature for feature in FEATURES if feature not in about["answers"]}
    missing |= {kind for kind, statuses in STATUSES.items() if not any(code in statuses for code in codes)}

    assert missing <= about.get("without", {}).keys()
    assert about["version"]
    assert about["origin"]
    assert about["overflow"]


def test_table_has_more_than_ten_servers() -> None:
    """The table covers the servers that users run or rent, apart from the versions of vLLM."""
    assert len({server["server"] for server in SERVERS.values()}) > 10
