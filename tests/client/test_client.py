"""Both clients over a real socket: the requests they send, and the answers they return."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.captures import CAPTURES, Capture
from tests.support.server import (
    END,
    MESSAGES,
    STREAM_HEAD,
    Driver,
    Loopback,
    ask,
    both_clients,
    chunk,
    completion,
    decode,
    event,
    in_turn,
    is_whole,
    outcome_of,
    stream,
    whole_and_streamed,
)
from tir_qwen import AsyncClient, Client, Delta
from tir_qwen.testing import Request

NAMES = {
    "continue_final_message",
    "err_after_engine_dead_0",
    "json_schema",
    "logprobs",
    "magic_abort",
    "magic_stream_cut-mid",
    "magic_stream_dead-mid",
    "magic_stream_finish-error",
    "magic_stream_raise-before",
    "n2_think",
    "plain_nothink",
    "plain_think",
    "prompt_logprobs",
    "stream_client_disconnect",
    "stream_continuous_usage",
    "stream_emoji",
    "stream_engine_killed_mid",
    "stream_json_schema",
    "stream_keep_alive",
    "stream_logprobs",
    "stream_n2",
    "stream_softswitch",
    "stream_think",
    "stream_tool_auto_nothink",
    "stream_tool_malformed_call",
    "stream_tool_parallel_think",
    "stream_tool_required_truncated",
    "stream_trunc_in_thinking",
    "stream_unicode_hindi",
    "stream_usage_details_cached",
    "tool_auto_think",
    "tool_no_args",
    "tool_required_nothink",
    "trunc_in_thinking",
}
ANSWERS = [capture for capture in CAPTURES if capture.name in NAMES and capture.status == 200]
BY_ID = {capture.id: capture for capture in ANSWERS}


@pytest.fixture(scope="module")
def recordings() -> Iterator[Loopback]:
    """Start a server that returns the recorded answer named in the path."""

    def answer(request: Request) -> Iterator[bytes]:
        capture = BY_ID[request.target.removeprefix("/").removesuffix("/chat/completions")]
        yield from in_turn(capture.raw)(request)

    with Loopback(answer) as server:
        yield server


def test_recordings_are_representative() -> None:
    """The recordings cover every recorded server, whole and streamed answers, successes and errors."""
    assert {capture.setup for capture in ANSWERS} == {capture.setup for capture in CAPTURES}
    assert sum(capture.streamed for capture in ANSWERS) > 30
    assert sum(not capture.streamed for capture in ANSWERS) > 25
    assert sum(decode(capture)[0].error is not None for capture in ANSWERS) > 5


@pytest.mark.parametrize("capture", ANSWERS, ids=lambda capture: capture.id)
@both_clients
def test_recorded_answers(recordings: Loopback, driver: Driver, capture: Capture) -> None:
    """Over a socket, both clients yield exactly what the decoder yields without one, including the final error."""
    client = driver.make(base_url=f"{recordings.url}/{capture.id}")
    expected, whole = decode(capture)
    if not is_whole(capture.raw):
        expected.words = "the connection broke before the end of the answer (RemoteProtocolError)"
    assert outcome_of(driver.deltas(client)) == expected
    if expected.error is None:
        assert driver.complete(client) == whole
        assert expected.deltas[-1].last
        assert [delta.last for delta in expected.deltas].count(True) == 1


@whole_and_streamed
@both_clients
def test_the_request_that_arrives(driver: Driver, streamed: bool) -> None:
    """A call is a single POST with TIR's path and query, the token, and a body with the question and the parameters."""
    with Loopback(in_turn(stream("Hi") if streamed else completion())) as server:
        client = driver.make(
            6530, "token-4711", base_url=server.url, apikey="key-0815", default_headers={"X-Team": "blue"}, model="m/1"
        )
        ask(driver, client, streamed, temperature=0.5, max_tokens=None, stop="END", enable_thinking=False)
    (request,) = server.requests
    assert (request.method, request.target) == (
        "POST",
        "/project/p-6530/genai/m%2F1/v1/chat/completions?project_id=6530&apikey=key-0815",
    )
    body = {
        "model": "m/1",
        "messages": MESSAGES,
        "stream": streamed,
        "temperature": 0.5,
        "stop": ["END"],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    if streamed:
        body["stream_options"] = {"include_usage": True}
    assert json.loads(request.body) == body
    ours = dict(request.headers)
    assert ours.pop("user-agent")
    encodings = ours.pop("accept-encoding")
    assert encodings == "identity" if streamed else "gzip" in encodings
    assert ours == {
        "host": server.url.removeprefix("http://"),
        "accept": "text/event-stream" if streamed else "application/json",
        "connection": "keep-alive",
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        "authorization": "Bearer token-4711",
        "x-team": "blue",
    }


@both_clients
def test_settings_of_one_call(driver: Driver) -> None:
    """A single call can override the model and change what usage a stream reports."""
    with Loopback(lambda _: [stream("Hi")]) as server:
        client = driver.make(6530, "token-4711", base_url=server.url)
        list(driver.deltas(client, model="other", stream_options=None))
        list(driver.deltas(client, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    first, second = server.requests
    assert first.target == "/project/p-6530/genai/other/v1/chat/completions?project_id=6530"
    assert first.json() == {"model": "other", "messages": MESSAGES, "stream": True}
    assert second.json()["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


@whole_and_streamed
@both_clients
def test_a_server_that_answers_the_other_way(driver: Driver, streamed: bool) -> None:
    """A gateway that streams when asked for a whole answer, or the reverse, is understood."""
    with Loopback(in_turn(completion("In its cage.") if streamed else stream("In its ", "cage."))) as server:
        assert ask(driver, driver.make(base_url=server.base_url), streamed) == "In its cage."


@both_clients
def test_a_stream_cut_anywhere(driver: Driver) -> None:
    """A stream decodes to the same deltas however the network splits it, even byte by byte."""
    raw = stream("Ä ", "\u2028\U0001f600", "\r x")
    with Loopback(lambda _: (raw[at : at + 1] for at in range(len(raw)))) as server:
        deltas = list(driver.deltas(driver.make(base_url=server.base_url)))
    assert deltas == [
        Delta(content="Ä ", response={"id": "x"}),
        Delta(content="\u2028\U0001f600"),
        Delta(content="\r x"),
        Delta(finish_reason="stop"),
        Delta(last=True),
    ]


@whole_and_streamed
@both_clients
def test_compressed_answers(driver: Driver, streamed: bool) -> None:
    """Compressed answers are decoded, whether or not compression was requested."""
    if streamed:
        events = b"".join(b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number for number in range(9))
        packed = gzip.compress(events + b"data: [DONE]\n\n")
        raw = STREAM_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n" + chunk(packed) + END
    else:
        packed = gzip.compress(completion().partition(b"\r\n\r\n")[2])
        raw = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed) + packed
    with Loopback(in_turn(raw)) as server:
        assert ask(driver, driver.make(base_url=server.base_url), streamed) == (
            "012345678" if streamed else "In its cage."
        )


@both_clients
def test_deltas_come_as_they_are_sent(driver: Driver) -> None:
    """Each delta is yielded as soon as its bytes arrive, without waiting for more."""
    seen: list[str] = []
    turn = threading.Semaphore(0)

    def answer(_: Request) -> Iterator[bytes]:
        yield STREAM_HEAD
        for number in range(3):
            yield event(str(number))
            turn.acquire(timeout=5)  # the server continues only after the client has seen this
        yield event("", "stop") + END

    with Loopback(answer) as server:
        for delta in driver.deltas(driver.make(base_url=server.base_url, timeout=5)):
            seen.append(delta.content)
            turn.release()
    assert seen == ["0", "1", "2", "", ""]


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_the_endpoint_is_its_url(client: Any) -> None:
    """`endpoint` is the URL without its query, with the project id masked and the path of the user as it is."""
    hosted = client(6530, "token-4711")
    complete = client(access_token="token-4711", base_url="https://h.example/MODEL/v1?key=0815")
    assert hosted.endpoint == "https://infer.e2enetworks.net/project/p-***/genai/qwen3_32b/v1/chat/completions"
    assert complete.endpoint == "https://h.example/MODEL/v1/chat/completions"


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_nothing_is_opened_before_the_first_call(monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
    """Creating, printing or closing a client, or requesting a stream without reading it, opens no connection."""

    def engine() -> None:
        pytest.fail("an HTTP client was built")

    monkeypatch.setattr("tir_qwen._transport.engine._engine", engine)
    made = client(6530, "token-4711")
    assert repr(made) == (
        f"{client.__name__}(model='qwen3_32b', endpoint="
        "<Endpoint https://infer.e2enetworks.net/project/p-***/genai/.../v1/chat/completions>)"
    )
    made.stream(MESSAGES)
    if client is Client:
        made.close()
    else:
        asyncio.run(made.aclose())


@pytest.mark.parametrize("name", ["X-Padded", "x-empty", "Cookie"])
@both_clients
def test_every_accepted_header_can_be_sent(driver: Driver, name: str) -> None:
    """Every header accepted by the settings reaches the server, stripped of surrounding whitespace."""
    value = {"X-Padded": "  a b  ", "x-empty": "", "Cookie": 'a=1; b="2"'}[name]
    with Loopback(in_turn(completion("Hi"))) as server:
        driver.complete(driver.make(base_url=server.base_url, default_headers={name: value}))
    assert server.requests[0].headers[name.lower()] == value.strip()
