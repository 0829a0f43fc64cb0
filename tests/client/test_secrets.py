"""Tokens, project ids, keys and questions reach the server and appear nowhere else."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support.captures import CAPTURES
from tests.support.secrets import SECRETS, SERVERS, SETTINGS, leaked, logged, shown
from tests.support.server import (
    MESSAGES,
    Driver,
    Loopback,
    ask,
    both_clients,
    completion,
    failure,
    in_turn,
    record_waits,
    response,
    whole_and_streamed,
)
from tir_qwen import TIRError
from tir_qwen.testing import Request


@pytest.mark.parametrize("does", SERVERS)
@whole_and_streamed
@both_clients
def test_nothing_shows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, driver: Driver, streamed: bool, does: str
) -> None:
    """Whatever the server does or says, no log record and no error reveals a credential or the question."""
    record_waits(monkeypatch)
    caplog.set_level(logging.DEBUG)
    with Loopback(SERVERS[does]) as server:
        client = driver.make(**SETTINGS, base_url=server.url)
        if does == "answers":
            assert ask(driver, client, streamed) == "Hi"
        else:
            assert leaked(shown(failure(driver, client, streamed))) == []
        logging.getLogger("user").debug("%r %s %r", client, client, client.stream(MESSAGES))
    (first, *_) = server.requests
    assert leaked(f"{first.target} {first.headers} {first.body!r}") == list(SECRETS)
    assert "HTTP Request: POST" in logged(caplog) or does == "hangs up"
    assert leaked(logged(caplog)) == []


@both_clients
def test_what_the_log_says(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, driver: Driver) -> None:
    """A retry logs a warning with its reason; a successful call logs nothing."""
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
            "Attempt 1 failed, retrying in 0.4 s: 503 Service Unavailable: no healthy upstream",
        )
    ]


HINT = (
    "The answer is empty: max_tokens (or the context window) was reached during the reasoning. Set a"
    " thinking_budget below max_tokens, raise max_tokens, or set enable_thinking=False."
)
STOPPED = (
    "The answer is empty: a stop string ended it before its first word. Stop strings also apply within the reasoning."
)
CUT = [capture for capture in CAPTURES if "trunc_" in capture.name]


@pytest.mark.parametrize("capture", CUT, ids=lambda capture: capture.id)
@both_clients
def test_hint_for_an_answer_that_is_all_reasoning(
    caplog: pytest.LogCaptureFixture, driver: Driver, capture: Any
) -> None:
    """A hint is logged if `max_tokens` cut the answer off during its reasoning, and not otherwise."""
    with Loopback(in_turn(capture.raw)) as server:
        answer = driver.complete(driver.make(base_url=server.base_url))
    assert answer.finish_reason == "length"
    assert bool(answer.content) is ("trunc_in_thinking" not in capture.name)
    assert caplog.messages == ([] if answer.content else [HINT])


@pytest.mark.parametrize(
    ("reasoning", "content", "stop_reason", "hints"),
    [
        ("The capital is", "", "Paris", [STOPPED]),
        ("The capital is", "", 151645, []),
        ("The capital is", "It is ", "Paris", []),
        ("", "", "Paris", []),
    ],
    ids=["in the reasoning", "a token", "in the answer", "without reasoning"],
)
@both_clients
def test_hint_for_an_answer_that_a_stop_string_ended(
    caplog: pytest.LogCaptureFixture,
    driver: Driver,
    reasoning: str,
    content: str,
    stop_reason: str | int,
    hints: list[str],
) -> None:
    """A hint is logged if a stop string left nothing but reasoning."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, "reasoning_content": reasoning},
        "finish_reason": "stop",
        "stop_reason": stop_reason,
    }
    with Loopback(in_turn(response({"choices": [choice]}))) as server:
        answer = driver.complete(driver.make(base_url=server.base_url))
    first = answer.first
    assert (first.reasoning, first.content, first.stop_reason) == (reasoning, content, stop_reason)
    assert caplog.messages == hints


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "No token was sent: pass access_token"),
        ({"default_headers": {"Authorization": ""}}, "No token was sent: pass access_token"),
        ({"access_token": "t"}, "Check the access token"),
        ({"apikey": "k"}, "Check the access token"),
        ({"base_url": "/v1?key=k"}, "Check the access token"),
        ({"default_headers": {"X-API-Key": "k"}}, "Check the access token"),
    ],
    ids=["nothing", "an empty header", "token", "apikey", "query", "header"],
)
@both_clients
def test_what_a_401_advises(driver: Driver, settings: dict[str, Any], words: str) -> None:
    """A 401 says that there was no token if the request had no credentials of any kind."""
    with Loopback(in_turn(response({"error": "Unauthorized"}, "401 Unauthorized"))) as server:
        base_url = server.url + settings.get("base_url", "/v1")
        error = failure(driver, driver.make(**{**settings, "base_url": base_url}), streamed=False)
    assert str(error).startswith(f"401 Unauthorized. {words}")


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
    """Credentials are redacted wherever the user puts them and however the request encodes them."""

    def answer(request: Request) -> list[bytes]:
        given = [request.headers.get(name, "") for name in ("authorization", "x-team")]
        said = f"no {given[0].removeprefix('Bearer ')} {given[1]} at {request.target}"
        assert secret in said
        return [response({"error": said}, "401 Unauthorized")]

    with Loopback(answer) as server:
        client = driver.make(**{**settings, "base_url": server.url + settings.get("base_url", "/v1")})
        error = failure(driver, client, streamed=False)
    assert isinstance(error, TIRError)
    assert secret not in shown(error)
