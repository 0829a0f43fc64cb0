"""Tokens, project ids, keys and questions: they reach the server, and show nowhere else."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.replay import Received
from tir_qwen import TIRError

from .captured import CAPTURES
from .loopback import (
    END,
    MESSAGES,
    QUESTION,
    STREAM_HEAD,
    Driver,
    HangUpError,
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
    stream,
    whole_and_streamed,
)

TOKEN = "eyJhbGciOiJIUzI1NiJ9.canary.c2lnbmF0dXJl"
PROJECT = "8653097"
KEY = "key-canary-0815"
HEADER = "header-canary"
SECRETS = (TOKEN, PROJECT, KEY, HEADER, "eyJhbGciOiJIUzI1NiJ9", QUESTION)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shown(error: BaseException) -> str:
    """All that an error shows, to a reader or to a tool that reports it."""
    parts = ["".join(traceback.format_exception(error))]
    for each in chain(error):
        parts += [str(each), repr(each), repr(each.args), repr(vars(each)), repr(pickle.dumps(each))]
    return "\n".join(parts)


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged, as read and as handed to a handler."""
    return "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)


def leaked(text: str) -> list[str]:
    """The secrets in a text."""
    return [secret for secret in SECRETS if secret in text]


def gossip(request: Received) -> str:
    """All that a server knows of a request, but for the question."""
    return (
        f"no {request.headers['authorization']} {request.headers['x-team']} at {request.target} p-{PROJECT} {PROJECT}"
    )


def validation(request: Received) -> list[bytes]:
    """A refusal as vLLM 0.9 writes it, the request in it."""
    said = [{"type": "x", "loc": ("body", "n"), "msg": gossip(request), "input": request.json()}]
    return [response({"object": "error", "message": str(said), "code": 400}, "400 Bad Request")]


def frame(request: Received) -> list[bytes]:
    """An answer that ends by an error."""
    error = {"error": {"message": gossip(request), "code": 400}}
    return [STREAM_HEAD + event("In its ") + chunk(b"data: " + json.dumps(error).encode() + b"\n\n") + END]


def hang_up(request: Received) -> Iterator[bytes]:
    """No answer."""
    yield b""
    raise HangUpError


SERVERS: dict[str, Callable[[Received], Any]] = {
    "answers": lambda request: [stream("Hi") if request.json()["stream"] else completion("Hi")],
    "refuses": validation,
    "forbids": lambda request: [response(gossip(request).encode(), "403 Forbidden")],
    "fails": lambda request: [response({"error": gossip(request)}, "503 Service Unavailable")],
    "fails with a page": lambda request: [response(f"<html><title>{gossip(request)}".encode(), "502 Bad Gateway")],
    "moves": lambda _: [response(b"", "307 Temporary Redirect", location="/elsewhere")],
    "gives up": frame,
    "breaks off": in_turn(*[STREAM_HEAD + event("In its ")] * 9),
    "writes nonsense": lambda request: [STREAM_HEAD + chunk(b"data: {" + gossip(request).encode() + b"\n\n") + END],
    "hangs up": hang_up,
}


@pytest.mark.parametrize("does", SERVERS)
@whole_and_streamed
@both_clients
def test_nothing_shows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, driver: Driver, streamed: bool, does: str
) -> None:
    """Whatever a server does and says, no log and no error shows a credential or the question."""
    record_waits(monkeypatch)
    caplog.set_level(logging.DEBUG)
    with Loopback(SERVERS[does]) as server:
        client = driver.make(f"p-{PROJECT}", TOKEN, base_url=server.url, apikey=KEY, default_headers={"X-Team": HEADER})
        if does == "answers":
            assert ask(driver, client, streamed) == "Hi"
        else:
            assert leaked(shown(failure(driver, client, streamed))) == []
        logging.getLogger("user").debug("%r %s %r", client, client, client.stream(MESSAGES))
    (first, *_) = server.received
    assert leaked(f"{first.target} {first.headers} {first.body!r}") == list(SECRETS)
    assert "HTTP Request: POST" in logged(caplog) or does == "hangs up"
    assert leaked(logged(caplog)) == []


@both_clients
def test_what_the_log_says(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, driver: Driver) -> None:
    """A retry is a warning with its reason; a call that goes well is none."""
    record_waits(monkeypatch)
    busy = response(b"no healthy upstream", "503 Service Unavailable")
    with Loopback(in_turn(busy, completion("Hi"), completion("Hi"))) as server:
        client = driver.make(base_url=server.base_url)
        driver.complete(client)
        driver.complete(client)
    assert caplog.record_tuples == [
        (
            "tir_qwen",
            logging.WARNING,
            "Attempt 1 failed, trying again in 0.4 s: 503 Service Unavailable: no healthy upstream",
        )
    ]


LOGGED_CALL = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
from tir_qwen import Client
{setup}
Client(8653097, "eyJhbGciOiJIUzI1NiJ9.canary.c2lnbmF0dXJl", apikey="key-canary-0815", base_url=sys.argv[1],
       default_headers={{"X-Team": "header-canary"}}, http_client=given).complete([{{"role": "user", "content": "Hi"}}])
if given:
    given.close()
"""


def log_of(setup: str) -> str:
    """The log of a fresh process that makes one call; `setup` sets `given`."""
    with Loopback(in_turn(completion())) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", LOGGED_CALL.format(setup=setup), server.url],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "HTTP Request: POST http://127.0.0.1" in done.stdout
        return done.stdout


def test_log_of_our_client() -> None:
    """The HTTP library's log of each URL names neither the project nor the key."""
    log = log_of("given = None")
    assert leaked(log) == []
    assert "/project/p-***/genai/qwen3_32b/v1/chat/completions?project_id=***&apikey=*** " in log


HINT = (
    "The answer is empty: max_tokens (or the context window) cut it within its reasoning. Raise max_tokens, or set"
    " enable_thinking=False."
)
CUT = [capture for capture in CAPTURES if "trunc_" in capture.name]


@pytest.mark.parametrize("capture", CUT, ids=lambda capture: capture.id)
@both_clients
def test_hint_for_an_answer_that_is_all_reasoning(
    caplog: pytest.LogCaptureFixture, driver: Driver, capture: Any
) -> None:
    """An answer that `max_tokens` cut within its reasoning comes with a hint in the log; no other does."""
    with Loopback(in_turn(capture.raw)) as server:
        answer = driver.complete(driver.make(base_url=server.base_url))
    assert answer.finish_reason == "length"
    assert bool(answer.content) is ("trunc_in_thinking" not in capture.name)
    assert caplog.messages == ([] if answer.content else [HINT])


@pytest.mark.parametrize("engine", ["httpx", "httpx2"])
def test_log_of_a_client_that_was_passed_in(engine: str) -> None:
    """That holds for the log of a client that was passed in too."""
    assert leaked(log_of(f"import {engine}; given = {engine}.Client()")) == []


@pytest.mark.parametrize(
    ("settings", "secret"),
    [
        ({"default_headers": {"Authorization": "Bearer token-canary"}}, "token-canary"),
        ({"base_url": "/v1?apikey=query-canary"}, "query-canary"),
        ({"base_url": "/v1?x=query-canary&y=1"}, "query-canary"),
        ({"apikey": "key+canary"}, "key%2Bcanary"),
        ({"default_headers": {"X-Unit": "team", "X-Team": "team-canary"}}, "canary"),
    ],
)
@both_clients
def test_credentials_in_other_places(driver: Driver, settings: dict[str, Any], secret: str) -> None:
    """A credential counts as one wherever the user puts it, and however it is written in the request."""

    def answer(request: Received) -> list[bytes]:
        given = [request.headers.get(name, "") for name in ("authorization", "x-team")]
        said = f"no {given[0].removeprefix('Bearer ')} {given[1]} at {request.target}"
        assert secret in said
        return [response({"error": said}, "401 Unauthorized")]

    with Loopback(answer) as server:
        client = driver.make(**{**settings, "base_url": server.url + settings.get("base_url", "/v1")})
        error = failure(driver, client, streamed=False)
    assert isinstance(error, TIRError)
    assert secret not in shown(error)


@both_clients
def test_log_of_a_redirect(caplog: pytest.LogCaptureFixture, driver: Driver) -> None:
    """A gateway that sends the request's own URL back, as redirects do, does not bring it into the log."""
    caplog.set_level(logging.DEBUG)
    with Loopback(lambda request: [response(b"", "307 Temporary Redirect", location=request.target)]) as server:
        assert failure(driver, driver.make(PROJECT, TOKEN, base_url=server.url, apikey=KEY), streamed=False)
    assert leaked(logged(caplog)) == []


@both_clients
def test_log_of_a_query(caplog: pytest.LogCaptureFixture, driver: Driver) -> None:
    """A base URL's own query, which may be a key of any name, stays out of the log."""
    caplog.set_level(logging.DEBUG)
    with Loopback(in_turn(completion("Hi"))) as server:
        driver.complete(driver.make(base_url=f"{server.base_url}?subscription-key={KEY}&x=1"))
    assert server.received[0].target == f"/v1/chat/completions?subscription-key={KEY}&x=1"
    assert leaked(logged(caplog)) == []
