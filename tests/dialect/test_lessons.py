"""The life of an endpoint: what is learnt of it, doubted, and unlearnt."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.calls import dialect_of
from tests.support.server import (
    MESSAGES,
    Driver,
    Loopback,
    Request,
    both_clients,
    completion,
    in_turn,
    response,
    said,
    stream,
)
from tir_qwen import Completion
from tir_qwen._dialect import lesson as module
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._dialect.dialect import Dialect
from tir_qwen._response.server_errors import error_from_response
from tir_qwen._response.signs import Signs
from tir_qwen.types import Choice

TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
CALL = {"id": "a", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
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
    known.give_up("tools", is_trial=True)
    clock(600)
    assert not tries(known)
    clock(600)
    assert tries(known)


def test_calls_are_enough_for_another_try(clock: Callable[[float], None]) -> None:
    """It is also tried by the hundredth call that could use it; after a failure, by the two hundredth."""
    known = Capabilities()
    known.give_up("tools")
    assert [tries(known) for _ in range(100)] == [*[False] * 99, True]
    known.give_up("tools", is_trial=True)
    assert [tries(known) for _ in range(200)] == [*[False] * 199, True]


def test_patience_is_limited(clock: Callable[[float], None]) -> None:
    """However often it fails, it is tried at least every eleven hours."""
    known = Capabilities()
    for _ in range(20):
        known.give_up("tools", is_trial=True)
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
        dialect.observe(Completion([Choice(content=ANSWERS[name], finish_reason="stop")]), Signs())
    assert known.response_format is supported


def serve_life(state: dict[str, Any]) -> Callable[[Request], list[bytes]]:
    """Return an endpoint whose set-up changes with `state`."""

    def serve(request: Request) -> list[bytes]:
        body = request.json()
        if "tools" in body and not state["parser"]:
            return [response(NO_PARSER, "400 Bad Request")]
        if "tools" in body:
            return [response({"choices": [{"message": {"tool_calls": [CALL]}, "finish_reason": "tool_calls"}]})]
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
            before = len(server.requests)
            driver.complete(client, **params)
            return [request.json().keys() & {"tools", "response_format"} for request in server.requests[before:]]

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


@pytest.mark.parametrize("choice", [{"finish_reason": "stop"}, {"finish_reason": "length"}], ids=str)
def test_an_object_confirms_even_if_it_may_have_been_cut(
    clock: Callable[[float], None], choice: dict[str, Any]
) -> None:
    """Stop strings can explain a missing object, but not one that is there."""
    known = Capabilities()
    known.give_up("response_format")
    clock(600)
    dialect = dialect_of(MESSAGES, {"response_format": FORMAT, "stop": ["\n"]}, known)
    dialect.write()
    dialect.observe(Completion([Choice(content='{"city": "Paris"}', **choice)]), Signs())
    assert known == Capabilities()


@both_clients
def test_a_server_that_writes_no_opening_tag(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """After two such answers streams are split too, until one shows that there is no reasoning to split off."""
    caplog.set_level(logging.WARNING, "tir_qwen")
    text = ["Hm.\n</think>\n\nIt is Paris."]

    def serve(request: Request) -> list[bytes]:
        if not request.json().get("stream"):
            return [completion(text[0])]
        return [response(said(text[0], "stop") + b"data: [DONE]\n\n", content_type="text/event-stream")]

    def answer(streamed: bool) -> tuple[str, str]:
        """Return reasoning and content of an answer."""
        if not streamed:
            whole = driver.complete(client)
            return whole.reasoning, whole.content
        deltas = [*driver.deltas(client)]
        return "".join(delta.reasoning for delta in deltas), "".join(delta.content for delta in deltas)

    split = ("Hm.", "It is Paris.")
    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url)
        assert [answer(streamed) for streamed in (True, False, True, False)] == [("", text[0]), split, split, split]
        assert not client.capabilities.opening_tag
        text[0] = "It is Paris."
        assert [answer(True) for _ in range(2)] == [(text[0], text[0]), ("", text[0])]
    assert client.capabilities == Capabilities()
    assert caplog.messages == [
        "The server writes reasoning without an opening tag: text before </think> is reasoning from now on.",
        "The server now supports reasoning between two tags.",
    ]


@both_clients
def test_a_server_that_writes_opening_tags_again(driver: Driver) -> None:
    """One stream that begins with the tag is enough."""
    text = "<think>\nHm.\n</think>\n\nIt is Paris."
    with Loopback(lambda _: [stream(*text)]) as server:
        client = driver.make(base_url=server.base_url)
        client.capabilities.give_up("opening_tag")
        deltas = [*driver.deltas(client)]
    split = "".join(delta.reasoning for delta in deltas), "".join(delta.content for delta in deltas)
    assert (split, client.capabilities) == (("Hm.", "It is Paris."), Capabilities())


@both_clients
def test_mentions_of_a_closing_tag_teach_nothing(driver: Driver) -> None:
    """Answers in between that are split in no way keep two others from counting."""
    texts = ["Hm.\n</think>\n\nParis.", "It is Paris.", "Hm.\n</think>\n\nParis.", "<think>\nHm.\n</think>\n\nParis."]
    with Loopback(in_turn(*[completion(text) for text in [*texts, texts[0]]])) as server:
        client = driver.make(base_url=server.base_url)
        for _ in range(5):
            driver.complete(client)
    assert client.capabilities == Capabilities()


def refuse_tools(dialect: Dialect) -> bool:
    """Let the server refuse tools; return whether the call is sent again."""
    refused = dialect.request_refused(error_from_response(400, {}, json.dumps(NO_PARSER).encode()))
    dialect.write()
    dialect.request_accepted()
    return refused


def test_calls_at_once_are_one_lesson(clock: Callable[[float], None]) -> None:
    """Refusals of calls that were sent before the lesson do not count as failed trials."""
    known = Capabilities()
    calls = [dialect_of(MESSAGES, {"tools": [TOOL]}, known) for _ in range(10)]
    for dialect in calls:
        dialect.write()
    assert [refuse_tools(dialect) for dialect in calls] == [True] * 10
    clock(600)
    assert tries(known)


@pytest.mark.parametrize("status", [500, 429])
def test_a_trial_that_fails_is_sent_without_it(clock: Callable[[float], None], status: int) -> None:
    """Whatever the error, a call that tried something again is sent as it would have been without that."""
    known = Capabilities()
    first = dialect_of(MESSAGES, {"tools": [TOOL]}, known)
    first.write()
    refuse_tools(first)
    clock(600)
    dialect = dialect_of(MESSAGES, {"tools": [TOOL]}, known)
    assert dialect.write().tools == [TOOL]
    error = error_from_response(status, {}, b"Something went wrong.")
    assert dialect.request_refused(error) is (status == 500)


def test_a_trial_without_a_call_confirms_nothing(clock: Callable[[float], None]) -> None:
    """Tools that are accepted may have been dropped; only a call shows that they were not."""
    known = Capabilities()
    first = dialect_of(MESSAGES, {"tools": [TOOL]}, known)
    first.write()
    refuse_tools(first)
    for has_parsed_calls in (False, True):
        clock(600)
        dialect = dialect_of(MESSAGES, {"tools": [TOOL]}, known)
        dialect.write()
        dialect.observe(Completion([Choice(content="Hello.")]), Signs(has_parsed_calls=has_parsed_calls))
        assert known.tools is has_parsed_calls


@both_clients
def test_an_answer_that_the_messages_explain_is_no_evidence(driver: Driver) -> None:
    """If only the messages make the model write JSON, two calls show that `response_format` is ignored."""

    def serve(request: Request) -> list[bytes]:
        is_told = "JSON" in json.dumps(request.json()["messages"])
        return [completion('{"city": "Paris"}' if is_told else "It is Paris.")]

    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url)
        numbers = []
        for _ in range(4):
            before = len(server.requests)
            assert driver.complete(client, response_format=FORMAT).content == '{"city": "Paris"}'
            numbers.append(len(server.requests) - before)
    assert numbers == [2, 2, 1, 1]


def test_reasoning_by_default_proves_nothing() -> None:
    """That thinking can be on does not show that it can be off."""
    known = Capabilities()
    thought = Choice(content="Paris.", reasoning="Hm.", finish_reason="stop")
    for thinking in (False, True, False):
        dialect = dialect_of(MESSAGES, {"enable_thinking": thinking}, known)
        dialect.write()
        dialect.observe(Completion([thought]), Signs())
    assert not known.thinking_switch


@both_clients
def test_what_the_user_asks_for_is_done(driver: Driver) -> None:
    """An explicit `schema_in="request"` or `tool_calling="native"` is sent, whatever has been learnt."""
    known = {"qwen3_32b": Capabilities(response_format=False, tools=False)}
    with Loopback(lambda _: [completion('{"city": "Paris"}')]) as server:
        client = driver.make(base_url=server.base_url, capabilities=known)
        driver.complete(client, response_format=FORMAT, schema_in="request")
        driver.complete(client, tools=[TOOL], tool_calling="native")
        sent = [
            {name: request.json().get(name) for name in ("response_format", "tools")} for request in server.requests
        ]
    assert sent == [{"response_format": FORMAT, "tools": None}, {"response_format": None, "tools": [TOOL]}]
