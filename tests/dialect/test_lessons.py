"""The life of an endpoint: what is learnt of it, doubted, and unlearnt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.calls import dialect_of
from tests.support.server import MESSAGES, Driver, Loopback, Received, both_clients, completion, response
from tir_qwen import Completion
from tir_qwen._dialect import capabilities as module
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen.types import Choice

TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
NO_PARSER = {
    "error": {"message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'}
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets seconds pass."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def tries(known: Capabilities, name: str = "tools") -> bool:
    """Whether the next call tries it again."""
    return known.to_try_again([name]) == {name}


def test_time_is_enough_for_another_try(clock: Callable[[float], None]) -> None:
    """What was given up is tried after ten minutes, by one call; after a failure, after twenty."""
    known = Capabilities()
    known.give_up("tools")
    assert not tries(known)
    clock(600)
    assert [tries(known), tries(known)] == [True, False]
    known.give_up("tools")
    clock(600)
    assert not tries(known)
    clock(600)
    assert tries(known)


def test_calls_are_enough_for_another_try(clock: Callable[[float], None]) -> None:
    """It is also tried by the hundredth call that could use it; after a failure, by the two hundredth."""
    known = Capabilities()
    known.give_up("tools")
    assert [tries(known) for _ in range(100)] == [*[False] * 99, True]
    known.give_up("tools")
    assert [tries(known) for _ in range(200)] == [*[False] * 199, True]


def test_patience_is_limited(clock: Callable[[float], None]) -> None:
    """However often it fails, it is tried at least every eleven hours."""
    known = Capabilities()
    for _ in range(20):
        known.give_up("tools")
    clock(64 * 600)
    assert tries(known)


def test_what_the_user_says_is_not_doubted(clock: Callable[[float], None]) -> None:
    """Capabilities that a user turned off stay off."""
    known = Capabilities(tools=False)
    clock(10**6)
    assert not tries(known)


ANSWERS = {"object": '{"city": "Paris"}', "text": "Sorry, we are overloaded."}


@pytest.mark.parametrize(
    ("answers", "supported"),
    [
        (["text"], True),
        (["text", "object", "text"], True),
        (["object", "text", "text"], False),
    ],
)
def test_one_flaky_answer_teaches_nothing(answers: list[str], supported: bool) -> None:
    """Only two answers in a row that ignore a field show that the server does."""
    known = Capabilities()
    for name in answers:
        dialect = dialect_of(MESSAGES, {"response_format": FORMAT}, known)
        dialect.write()
        dialect.observe(Completion([Choice(content=ANSWERS[name], finish_reason="stop")]))
    assert known.response_format is supported


def serve_life(state: dict[str, Any]) -> Callable[[Received], list[bytes]]:
    """Return an endpoint whose set-up changes with `state`."""

    def serve(request: Received) -> list[bytes]:
        body = request.json()
        if "tools" in body and not state["parser"]:
            return [response(NO_PARSER, "400 Bad Request")]
        if state["drops"] or "response_format" not in body:
            return [completion("Hello.")]
        return [completion('{"city": "Paris"}')]

    return serve


@both_clients
def test_the_life_of_an_endpoint(
    driver: Driver, clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a tool parser, restarted with one, behind a gateway that drops fields, and without it again."""
    caplog.set_level(logging.WARNING, "tir_qwen")
    state = {"parser": False, "drops": False}
    with Loopback(serve_life(state)) as server:
        client = driver.make(base_url=server.base_url)

        def sent(**params: Any) -> list[set[str]]:
            """Return which fields the requests of one call contained."""
            before = len(server.received)
            driver.complete(client, **params)
            return [request.json().keys() & {"tools", "response_format"} for request in server.received[before:]]

        assert [sent(tools=[TOOL]) for _ in range(2)] == [[{"tools"}, set()], [set()]]
        clock(600)
        assert [sent(tools=[TOOL]) for _ in range(2)] == [[{"tools"}, set()], [set()]]
        assert str(client.capabilities) == "The server does not accept tools: they are written into the messages."
        state["parser"] = True
        clock(600)
        assert sent(tools=[TOOL]) == [set()]  # the second try failed, so the third takes longer
        clock(600)
        assert [sent(tools=[TOOL]) for _ in range(2)] == [[{"tools"}], [{"tools"}]]
        state["drops"] = True
        asked = {"response_format"}
        assert [sent(response_format=FORMAT) for _ in range(2)] == [[asked, asked], [set(), set()]]
        state["drops"] = False
        clock(600)
        assert [sent(response_format=FORMAT) for _ in range(2)] == [[asked], [asked]]
        assert str(client.capabilities) == "The server has not rejected or ignored anything."
    assert caplog.messages == [
        "The server does not accept tools: they are written into the messages from now on.",
        "The server now supports tools.",
        "The server does not enforce response_format: the schema is written into the messages from now on.",
        "The server now supports response_format.",
    ]


@both_clients
def test_what_the_user_asks_for_is_done(driver: Driver) -> None:
    """An explicit `schema_in="request"` or `tool_calling="native"` is sent, whatever has been learnt."""
    known = {"qwen3_32b": Capabilities(response_format=False, tools=False)}
    with Loopback(lambda _: [completion('{"city": "Paris"}')]) as server:
        client = driver.make(base_url=server.base_url, capabilities=known)
        driver.complete(client, response_format=FORMAT, schema_in="request")
        driver.complete(client, tools=[TOOL], tool_calling="native")
        sent = [
            {name: request.json().get(name) for name in ("response_format", "tools")} for request in server.received
        ]
    assert sent == [{"response_format": FORMAT, "tools": None}, {"response_format": None, "tools": [TOOL]}]
