"""`FakeEndpoint` answers from its script, with faults and at a pace, and keeps the requests."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tir_qwen import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    AuthenticationError,
    Client,
    ContextOverflowError,
    InternalServerError,
    RateLimitError,
    ServerStreamError,
    StreamInterruptedError,
    Timeout,
)
from tir_qwen.testing import FakeEndpoint, Reply, Request, Response, faults

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
both_shapes = pytest.mark.parametrize("vllm", ["0.9", "0.32"])


def ask(endpoint: FakeEndpoint, streamed: bool = False, **params: Any) -> str:
    """Return the answer to a question."""
    with Client(**endpoint.settings) as client:
        if streamed:
            return "".join(delta.content for delta in client.stream(HELLO, **params))
        return client.complete(HELLO, **params).content


@both_shapes
def test_a_reply(vllm: Any) -> None:
    """A reply arrives whole and streamed, in both shapes: text, reasoning, calls, the reason of its end, and counts."""
    reply = Reply("Let me see.", reasoning="Hm.", tool_calls=[("weather", {"city": "Pune"})], usage={"total_tokens": 9})
    with FakeEndpoint(default=reply, vllm=vllm) as endpoint, Client(**endpoint.settings) as client:
        whole = client.complete(HELLO, tools=[WEATHER])
        deltas = list(client.stream(HELLO, tools=[WEATHER]))
    (call,) = whole.tool_calls
    assert (whole.content, whole.reasoning, whole.finish_reason) == ("Let me see.", "Hm.", "tool_calls")
    assert (call.name, call.arguments) == ("weather", '{"city": "Pune"}')
    assert [usage and usage["total_tokens"] for usage in (whole.usage, deltas[-1].usage)] == [9, 9]
    assert "".join(delta.content for delta in deltas) == "Let me see."
    assert "".join(delta.reasoning for delta in deltas) == "Hm."
    parts = [part for delta in deltas for part in delta.tool_calls]
    assert (parts[0].name, "".join(part.arguments for part in parts)) == ("weather", '{"city": "Pune"}')


def test_answers_in_order() -> None:
    """Each request takes the next answer: a text, a reply, or what a function returns for it; then the default."""
    with FakeEndpoint("1", Reply("2"), lambda request: request.prompt, default="more") as endpoint:
        endpoint.add("4")
        assert [ask(endpoint) for _ in range(6)] == ["1", "2", "Hello", "4", "more", "more"]
        endpoint.check()


def test_requests_are_kept() -> None:
    """A request shows what was asked, for assertions; not the token, which its repr hides like the prompt."""
    with FakeEndpoint("Hi!") as endpoint:
        ask(endpoint, temperature=0.5)
    (request,) = endpoint.requests
    assert (request.prompt, request.messages, request.json()["temperature"]) == ("Hello", HELLO, 0.5)
    assert request.path == "/project/p-6530/genai/qwen3_32b/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer testing"
    assert repr(request) == "<Request POST /project/p-***/genai/qwen3_32b/v1/chat/completions, model 'qwen3_32b'>"
    assert repr(Request("GET", "/v1/models?key=secret", {}, b"[]")) == "<Request GET /v1/models>"
    parts = Request("POST", "/", {}, b'{"messages": [{"content": [{"text": "a"}, {"image": 1}, {"text": "b"}]}]}')
    assert (parts.prompt, Request("POST", "/", {}, b"{}").prompt) == ("ab", "")


@both_shapes
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_thinking_budget(vllm: Any, streamed: bool) -> None:
    """A reply is the whole answer whatever the budget; one that ends with `length` is continued by the next."""
    with FakeEndpoint(Reply("It is Paris.", reasoning="a b c"), vllm=vllm) as endpoint:
        assert ask(endpoint, streamed, thinking_budget=1) == "It is Paris."
        endpoint.add(Reply(reasoning="France,", finish_reason="length"), "It is Paris.")
        assert ask(endpoint, streamed, thinking_budget=2) == "It is Paris."
        endpoint.check()
    assert endpoint.requests[2].messages[-1]["content"].startswith("<think>\nFrance,\n\nConsidering the limited time")


def test_calls_without_tools() -> None:
    """Where the request offers no tools in its field, calls are in the text, as Qwen3 writes them."""
    with FakeEndpoint(Reply("Let me see.", tool_calls=[("a", {"b": 1}), ("c", "{broken")])) as endpoint:
        text = ask(endpoint)
    assert text == (
        'Let me see.\n<tool_call>\n{"name": "a", "arguments": {"b": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "c", "arguments": {broken}\n</tool_call>'
    )


FAULTS = {
    "unauthorized": (faults.unauthorized(), AuthenticationError),
    "unavailable": (faults.unavailable(), InternalServerError),
    "rate limited": (faults.rate_limited(), RateLimitError),
    "overflow": (faults.context_overflow(), ContextOverflowError),
    "status": (faults.status(418, "I am a teapot."), APIStatusError),
    "hang up": (faults.hang_up(), APIConnectionError),
    "cut": (faults.cut("a b c"), StreamInterruptedError),
    "stall": (faults.stall("a b c"), APITimeoutError),
    "stall within": (faults.stall("a b c", after=1), APITimeoutError),
}
EVERY_CALL = [(name, streamed) for name in FAULTS for streamed in (False, True)]


@both_shapes
@pytest.mark.parametrize(("name", "streamed"), [*EVERY_CALL])
def test_faults_by_name(vllm: Any, name: str, streamed: bool) -> None:
    """Each fault raises the error that it names, whole and streamed."""
    fault, error = FAULTS[name]
    is_begun = streamed and name == "stall within"
    timeout = Timeout(first_delta=0.1 if "stall" in name and not is_begun else 5, between_deltas=0.1)
    with FakeEndpoint(fault, vllm=vllm) as endpoint:
        with pytest.raises(error) as caught:
            ask(endpoint, streamed, max_retries=0, timeout=timeout)
        endpoint.check()
    if streamed and name in ("cut", "stall within"):
        assert caught.value.partial.content == {"cut": "a b", "stall within": "a"}[name]


@both_shapes
def test_an_error_within_a_stream(vllm: Any) -> None:
    """`stream_error` ends a stream with an error that has the part before it; a whole answer is a status 500."""
    with FakeEndpoint(faults.stream_error("a b c"), faults.stream_error("a b c"), vllm=vllm) as endpoint:
        with pytest.raises(ServerStreamError) as caught:
            ask(endpoint, streamed=True)
        assert caught.value.partial.content == "a b"
        with pytest.raises(InternalServerError, match=r"^500 Internal Server Error: EngineCore encountered an issue"):
            ask(endpoint, max_retries=0)


@both_shapes
def test_an_answer_shorter_than_its_fault(vllm: Any) -> None:
    """An answer that has fewer tokens than should arrive is interrupted before its end all the same."""
    with FakeEndpoint(faults.cut("Yes"), faults.stall("Yes", after=9), vllm=vllm) as endpoint:
        for error in (StreamInterruptedError, APITimeoutError):
            with pytest.raises(error) as caught:
                ask(endpoint, streamed=True, timeout=Timeout(between_deltas=0.1))
            assert caught.value.partial.content == "Yes"


def test_a_fault_and_then_an_answer() -> None:
    """A client tries again after a 503 and a 429, soon, and each request takes the next of the script."""
    with FakeEndpoint(faults.unavailable(), faults.rate_limited(), "Hi!") as endpoint:
        begun = time.monotonic()
        assert ask(endpoint) == "Hi!"
        assert (len(endpoint.requests), time.monotonic() - begun < 0.4) == (3, True)
        endpoint.check()


def test_a_raw_response() -> None:
    """A response of one's own is sent as it is."""
    page = Response(status=502, headers={"content-type": "text/html", "x-request-id": "r-1"}, content=b"<h1>Down</h1>")
    with FakeEndpoint(page) as endpoint, pytest.raises(InternalServerError) as caught:
        ask(endpoint, max_retries=0)
    assert (caught.value.status_code, caught.value.request_id) == (502, "r-1")


def test_pace() -> None:
    """Tokens come at the pace of the endpoint or of the reply, after the delay; a whole answer takes the same time."""
    waits: list[float] = []
    reply = Reply("a b c", delay=0.5, tokens_per_second=10)
    with FakeEndpoint(tokens_per_second=20) as endpoint:
        for body, expected in (({"stream": True}, [0.5, 0.5, 0.6, 0.7, 0.8, 0.5, 0.5]), ({}, [0.8])):
            list(endpoint._written(reply, body, 1)._parts(waits.append))
            assert [round(wait, 6) for wait in waits] == expected
            waits.clear()
        list(endpoint._written("a b", {}, 1)._parts(waits.append))
        list(endpoint._written(faults.cut("a b c", after=1), {"stream": True}, 1)._begin(waits.append))
        assert waits == [0.1, 0.05]
        begun = time.monotonic()
        endpoint.add(Reply("a b"))
        ask(endpoint, streamed=True)
        assert time.monotonic() - begun >= 0.1


def test_the_end_does_not_wait() -> None:
    """An endpoint ends at once, although a call waits for an answer that stalls; the call fails."""
    with ThreadPoolExecutor(1) as pool:
        with FakeEndpoint(faults.stall("a b", after=1)) as endpoint:
            call = pool.submit(ask, endpoint, streamed=True)
            while not endpoint.requests:
                time.sleep(0.001)
            begun = time.monotonic()
        assert time.monotonic() - begun < 1
        assert isinstance(call.exception(5), (StreamInterruptedError, APIConnectionError))


async def test_many_at_once() -> None:
    """Many asynchronous calls at once each get an answer of their own."""
    with FakeEndpoint(default=lambda request: request.prompt) as endpoint:
        async with AsyncClient(**endpoint.settings) as client:
            asked = [client.complete([{"role": "user", "content": str(number)}]) for number in range(50)]
            answers = await asyncio.gather(*asked)
    assert [answer.content for answer in answers] == [str(number) for number in range(50)]


def test_settings_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings fit clients and both faces; the environment does the same for a program that reads it."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.invalid")
    with FakeEndpoint(default="Hi!") as endpoint:
        assert TIRQwen(**endpoint.settings).complete("Hello").text == "Hi!"
        assert endpoint.environment["NO_PROXY"] == "example.invalid,127.0.0.1"
        for name, value in endpoint.environment.items():
            monkeypatch.setenv(name, value)
        assert ChatTIRQwen().invoke("Hello").content == "Hi!"
        with Client(base_url=f"{endpoint.base_url}/v1") as client:
            assert client.complete(HELLO).content == "Hi!"
    assert [request.path for request in endpoint.requests][-1] == "/v1/chat/completions"


@pytest.mark.parametrize("listed", ["NO_PROXY", "no_proxy", ""])
def test_the_proxy_of_the_environment(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests pass a proxy by while an endpoint of several runs; then the environment is as it was."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    if listed:
        monkeypatch.setenv(listed, "example.invalid")
    before = dict(os.environ)
    first, second = FakeEndpoint("1", "2"), FakeEndpoint("3")
    with first:
        assert ask(first) == "1"
        second.__enter__()
        assert os.environ["no_proxy"] == ("example.invalid,127.0.0.1" if listed else "127.0.0.1")
    assert ask(second) == "3"
    second.__exit__(None, None, None)
    assert dict(os.environ) == before


def test_other_paths_and_bodies() -> None:
    """Other paths are not found, and a body that is not JSON is a bad request; both have vLLM's status."""
    with FakeEndpoint("Hi!") as endpoint:
        for request, status in (
            (Request("GET", "/v1/models", {}, b""), 404),
            (Request("POST", "/v1/chat/completions", {}, b"{"), 400),
        ):
            assert endpoint._response(request).status == status
        assert ask(endpoint) == "Hi!"


def test_an_endpoint_that_is_not_running() -> None:
    """The address of an endpoint is known while it runs, and a version of vLLM that it cannot write is an error."""
    with pytest.raises(ValueError, match=r"^vllm must be one of 0\.9, 0\.32\.$"):
        FakeEndpoint(vllm="0.10")  # type: ignore[arg-type]
    endpoint = FakeEndpoint("Hi!")
    with pytest.raises(RuntimeError, match=r"^The endpoint is not running: use it as a context manager\.$"):
        _ = endpoint.base_url
    assert repr(endpoint) == "<FakeEndpoint, 0 requests, 1 answers left>"
