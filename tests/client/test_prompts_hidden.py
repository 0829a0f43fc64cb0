"""No error text and no log line repeats a prompt, whatever the server repeats of it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from tests.support.secrets import logged
from tests.support.server import (
    END,
    STREAM_HEAD,
    Driver,
    Loopback,
    ask,
    both_clients,
    chunk,
    completion,
    event,
    failure,
    in_turn,
    record_waits,
    response,
    whole_and_streamed,
)
from tir_qwen import BadRequestError, InternalServerError, ServerStreamError
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen.testing import Request

PROMPT = 'My neighbour, "Canary" Jones,\nhas stolen 12 of my hens. What now?'
LINE = " ".join(PROMPT.split())
MESSAGES = [{"role": "user", "content": PROMPT}]


def quote(request: Request) -> str:
    """Return an error message that repeats the prompt in prose, truncated."""
    prompt = request.json()["messages"][0]["content"]
    return f"Cannot answer {json.dumps(prompt)[:50]}... within 32768 tokens"


@pytest.mark.parametrize(
    ("status", "kind"), [("400 Bad Request", BadRequestError), ("500 Internal Server Error", InternalServerError)]
)
@whole_and_streamed
@both_clients
def test_a_refusal_that_repeats_the_prompt(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    driver: Driver,
    streamed: bool,
    status: str,
    kind: type[Exception],
) -> None:
    """A refusal that repeats the prompt does so in `body` alone, and not in the warning of a retry either."""
    record_waits(monkeypatch)
    caplog.set_level(logging.DEBUG, "tir_qwen")
    with Loopback(lambda request: [response({"error": {"message": quote(request)}}, status)]) as server:
        error: Any = failure(driver, driver.make(base_url=server.base_url), streamed, messages=MESSAGES)
    assert type(error) is kind
    assert str(error) == f'{status}: Cannot answer "…... within 32768 tokens'
    assert error.args == (str(error),)
    assert error.body == {"message": f"Cannot answer {json.dumps(PROMPT)[:50]}... within 32768 tokens"}
    assert "Canary" not in logged(caplog)
    warnings = [record.getMessage() for record in caplog.records]
    assert [text.partition(" s: ")[2] for text in warnings] == [str(error)] * (error.attempts - 1)


@whole_and_streamed
@both_clients
def test_an_error_in_the_answer_that_repeats_the_prompt(driver: Driver, streamed: bool) -> None:
    """An error frame that repeats the prompt does so in `body` alone."""

    def answer(request: Request) -> list[bytes]:
        body = json.dumps({"error": {"message": f"no: {request.json()['messages'][0]['content']}"}}).encode()
        return [STREAM_HEAD + event("In ") + chunk(b"data: " + body + b"\n\n") + END] if streamed else [response(body)]

    with Loopback(answer) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed, messages=MESSAGES)
    assert isinstance(error, ServerStreamError)
    assert str(error) == "the server reported an error in its answer: no: …"
    assert "Canary" not in repr(error)
    assert error.body == {"message": f"no: {LINE}"}


@both_clients
def test_what_is_learnt_from_a_refusal_is_the_same(driver: Driver) -> None:
    """A prompt that contains the server's words does not keep the client from understanding them."""
    text = "Unknown field: stream_options is not supported by this server"
    refusal = response({"error": {"message": text}}, "400 Bad Request")
    known: dict[str, Capabilities] = {}
    with Loopback(in_turn(refusal, completion("Yes."))) as server:
        client = driver.make(base_url=server.base_url, capabilities=known)
        assert ask(driver, client, True, messages=[{"role": "user", "content": f"Explain: {text}"}]) == "Yes."
    assert not known["qwen3_32b"].stream_options
