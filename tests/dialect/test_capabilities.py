"""What the client learns about an endpoint, and what it must not learn from a single call."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from typing import Any

import pytest

from tests.client.test_dialect import CALL, FORMAT, PARIS, TOOL, answer, ask, refusal, says, sent, without_parser
from tests.support.calls import dialect_of, sent_by
from tests.support.decode import chunk, decode, events
from tests.support.server import (
    DONE,
    END,
    MESSAGES,
    STREAM_HEAD,
    Driver,
    Loopback,
    both_clients,
    completion,
    response,
    whole_and_streamed,
)
from tests.support.server import chunk as framed
from tir_qwen import BadRequestError, Choice, Completion
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._dialect.dialect import Dialect
from tir_qwen._response.server_errors import error_from_response
from tir_qwen._response.signs import Signs
from tir_qwen.testing import Request
from tir_qwen.types import JSON


def refused(message: str, **params: Any) -> Dialect:
    """Return a dialect whose request was rejected with `message` and then rewritten."""
    dialect = dialect_of(MESSAGES, params, params.pop("capabilities"))
    dialect.write()
    assert dialect.request_refused(error_from_response(400, {}, json.dumps({"error": {"message": message}}).encode()))
    dialect.write()
    return dialect


@pytest.mark.parametrize(
    ("message", "params"),
    [
        ("Invalid schema for response_format 'x': keyword 'oneOf' is not supported", {"response_format": FORMAT}),
        ("Thinking mode does not support this tool_choice", {"tools": [TOOL], "tool_choice": "required"}),
    ],
)
def test_a_refused_value_affects_only_its_own_call(message: str, params: dict[str, Any]) -> None:
    """A value that the server does not support disables the field for this call only."""
    known = Capabilities()
    refused(message, capabilities=known, **params).request_accepted()
    assert known == Capabilities()


def test_a_field_is_disabled_only_once_a_request_without_it_succeeds() -> None:
    """A field is disabled for later calls only after a request without it has been accepted."""
    known = Capabilities()
    dialect = refused("Unknown field: tools", capabilities=known, tools=[TOOL])
    assert known == Capabilities()
    dialect.request_accepted()
    assert known == Capabilities(tools=False)


@both_clients
def test_a_request_rejected_for_another_reason_teaches_nothing(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """If the request is rejected again without the field, nothing is learned or logged."""
    numbers = iter(range(9))
    with Loopback(lambda _: refusal(f"Request {next(numbers)}: tools are forbidden by policy")) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        with pytest.raises(BadRequestError, match=r"^400 Bad Request: Request 1: ") as caught:
            driver.complete(client, tools=[TOOL])
    assert (client.capabilities, caught.value.attempts, caplog.messages) == (Capabilities(), 2, [])


def learn(params: dict[str, Any], choice: Choice, messages: Any = MESSAGES) -> Capabilities:
    """Return the capabilities after two such answers: the first one only raises a doubt."""
    known = Capabilities()
    for _ in range(2):
        dialect = dialect_of(messages, params, known)
        dialect.write()
        dialect.observe(Completion([choice]), Signs())
    return known


def test_an_object_cut_by_a_stop_string_teaches_nothing() -> None:
    """An object cut short by a stop string says nothing about the server."""
    cut = Choice(content='{"city": "Paris"', finish_reason="stop")
    assert learn({"response_format": FORMAT, "stop": ["}"], "enable_thinking": True}, cut) == Capabilities()


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "/no_think"}, *MESSAGES],
        [{"role": "user", "content": "/no_think Hi"}],
        [{"role": "user", "content": "Hi /no_think"}, {"role": "assistant", "content": "Hi"}, *MESSAGES],
    ],
    ids=["system", "at the beginning", "an earlier turn"],
)
def test_a_soft_switch_of_the_user_teaches_nothing(messages: list[dict[str, str]]) -> None:
    """If the user disables thinking in a message, an answer without reasoning says nothing about the server."""
    assert learn({"enable_thinking": True}, Choice(content="Hi", finish_reason="stop"), messages) == Capabilities()


def test_an_answer_is_judged_by_its_own_request() -> None:
    """An answer is judged by its own request, even if another call has changed the capabilities since."""
    known = Capabilities()
    dialect = dialect_of(MESSAGES, {"response_format": FORMAT, "enable_thinking": True}, known)
    dialect.write()
    known.give_up("response_format")
    dialect.observe(
        Completion([Choice(content=PARIS, finish_reason="stop")]), Signs()
    )  # the grammar left no room for thinking
    assert known == Capabilities(response_format=False)


@both_clients
@whole_and_streamed
def test_each_model_has_its_own_capabilities(driver: Driver, streamed: bool) -> None:
    """What one model rejects is still sent to another."""

    def serve(request: Request) -> list[bytes]:
        body = request.json()
        if body["model"] == "small":
            return without_parser(says(CALL))(request)
        return answer(body, "Hello.")

    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url)
        ask(driver, client, streamed, tools=[TOOL], model="small")
        ask(driver, client, streamed, tools=[TOOL])
    assert ["tools" in body for body in sent(server)] == [True, False, True]
    assert client.capabilities == Capabilities()


@both_clients
def test_rejecting_parallel_tool_calls_keeps_native_tools(driver: Driver) -> None:
    """A gateway that rejects `parallel_tool_calls` still gets native tools, and only one call is returned."""
    call = {"type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    calls = [{**call, "id": "a"}, {**call, "id": "b"}]

    def serve(request: Request) -> list[bytes]:
        if "parallel_tool_calls" in request.json():
            return refusal("Unrecognized request argument supplied: parallel_tool_calls")
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        return [response({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})]

    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url)
        done = driver.complete(client, tools=[TOOL], parallel_tool_calls=False)
    assert [one.id for one in done.tool_calls] == ["a"]
    assert [sorted(body.keys() - {"messages"}) for body in sent(server)] == [
        ["parallel_tool_calls", "tools"],
        ["tools"],
    ]


@both_clients
@whole_and_streamed
def test_a_failed_correction_keeps_the_first_answer(
    driver: Driver, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """If the request for a corrected answer fails, the first answer is returned."""
    caplog.set_level(logging.WARNING, "tir_qwen")

    def serve(request: Request) -> list[bytes]:
        body = request.json()
        return answer(body, "Paris.") if len(body["messages"]) == len(MESSAGES) else refusal("prompt too odd")

    with Loopback(serve) as server:
        done = ask(driver, driver.make(base_url=server.base_url), streamed, response_format=FORMAT)
    assert (done.content, done.finish_reason) == ("Paris.", "stop")
    assert caplog.messages[-1] == (
        "An answer that is not the requested object could not be corrected: 400 Bad Request: prompt too odd"
    )


@both_clients
def test_a_schema_for_a_list_is_sent_unchanged(driver: Driver) -> None:
    """A schema that does not describe an object is enforced by the server, too, and described in the messages."""
    listed = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array", "items": {}}}}
    with Loopback(lambda _: [completion('[{"a": 1}, {"a": 2}]')]) as server:
        done = driver.complete(driver.make(base_url=server.base_url), response_format=listed, schema_in="both")
    assert done.content == '[{"a": 1}, {"a": 2}]'
    described = (
        "Give your answer as one JSON value that follows this JSON schema, and nothing else:\n"
        '{"type":"array","items":{}}'
    )
    messages = [{"role": "system", "content": described}, *MESSAGES]
    assert sent(server) == [{"messages": messages, "response_format": listed}]


def test_a_rejected_format_without_json_is_an_error() -> None:
    """A field without an alternative is never dropped: the user gets the error."""
    by_tag = {"type": "structural_tag", "structures": [], "triggers": []}
    dialect = dialect_of(MESSAGES, {"response_format": by_tag}, Capabilities())
    dialect.write()
    body = b'{"error": {"message": "Unknown field: response_format"}}'
    assert not dialect.request_refused(error_from_response(400, {}, body))


def test_text_held_back_is_in_the_partial_answer() -> None:
    """If the stream breaks, the partial answer contains the text held back, including an incomplete tool call."""
    known = dialect_of(MESSAGES, {"tools": [TOOL]}, Capabilities()).decoding_options
    body = events(*(chunk({"content": piece}) for piece in ("I look. ", '<tool_call>\n{"arguments": {"a": 12')))
    outcome = decode(body, expected=known)
    assert outcome.error is not None
    assert outcome.error[0] == "StreamInterruptedError"
    assert outcome.said == ("", "I look. ", [("", '{"a": 12')], None)


PICTURE = [
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {}}]}
]


@both_clients
@whole_and_streamed
@pytest.mark.parametrize("params", [{}, {"enable_thinking": False}], ids=["plain", "thinking off"])
def test_messages_with_images_are_accepted(driver: Driver, streamed: bool, params: dict[str, Any]) -> None:
    """Messages with images work with models that accept them."""
    with Loopback(lambda request: answer(request.json(), "A cat.")) as server:
        assert ask(driver, driver.make(base_url=server.base_url), streamed, PICTURE, **params).content == "A cat."


@both_clients
@whole_and_streamed
def test_a_named_call_needs_no_tags_after_a_rejected_request(driver: Driver, streamed: bool) -> None:
    """Without a tool parser, a call of a named tool is recognized even without its tags."""
    call = '{"name": "get_time", "arguments": {"zone": "IST"}}'
    choice = {"type": "function", "function": {"name": "get_time"}}
    with Loopback(without_parser(says(call))) as server:
        done = ask(driver, driver.make(base_url=server.base_url), streamed, tools=[TOOL], tool_choice=choice)
    assert [(one.name, one.arguments) for one in done.tool_calls] == [("get_time", '{"zone":"IST"}')]


NEWS = {
    "parallel_switch": "The server does not accept parallel_tool_calls: surplus calls are dropped from now on.",
    "tools": "The server does not accept tools: they are written into the messages from now on.",
    "response_format": (
        "The server does not enforce response_format: the schema is written into the messages from now on."
    ),
    "template_kwargs": (
        "The server does not accept chat_template_kwargs: thinking is switched by /think and /no_think from now on."
    ),
    "thinking_switch": (
        "The server ignores enable_thinking: thinking is switched by /think and /no_think from now on."
    ),
    "stream_options": "The server does not accept stream_options: streams have no token counts from now on.",
    "reasoning_history": "The server does not accept reasoning in the history: it is left out from now on.",
    "opening_tag": "The server writes reasoning without an opening tag: text before </think> is reasoning from now on.",
    "base64_vectors": "The server does not accept vectors in base64: they come as lists of numbers from now on.",
    "streamed_calls": (
        "The server loses parts of tool calls in streams: tools are written into the messages there from now on."
    ),
    "continuation": (
        "The server does not continue a message: answers after a thinking_budget are requested without thinking from"
        " now on."
    ),
}


@pytest.mark.parametrize("name", [field.name for field in fields(Capabilities) if field.default is True])
def test_a_missing_capability_is_logged_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A missing capability is logged exactly once, quietly if it does no harm."""
    caplog.set_level(logging.INFO, "tir_qwen")
    capabilities = Capabilities()
    for _ in range(3):
        capabilities.give_up(name)
    level = logging.INFO if name in ("streamed_calls", "base64_vectors") else logging.WARNING
    assert caplog.record_tuples == [("tir_qwen", level, NEWS[name])]
    assert capabilities == Capabilities(**{name: False})


OLD, NEW = {"reasoning_content": "Hm."}, {"reasoning": "Hm."}
BOTH = OLD | NEW
NOT_COUNTED: JSON = {"completion_tokens": 3}
COUNTED = NOT_COUNTED | {"completion_tokens_details": {"reasoning_tokens": 1}}
SERVERS: dict[str, tuple[JSON, JSON | None, JSON]] = {
    "vLLM 0.9 to 0.11.0": (OLD, NOT_COUNTED, OLD),
    "vLLM 0.11.1 to 0.15": (BOTH, NOT_COUNTED, OLD),
    "vLLM 0.16 to 0.27": (NEW, NOT_COUNTED, BOTH),
    "vLLM from 0.28": (NEW, COUNTED, NEW),
    "without a reasoning parser": ({}, NOT_COUNTED, BOTH),
    "without token counts": (OLD, None, BOTH),
    "other details of the tokens": (NEW, NOT_COUNTED | {"completion_tokens_details": {"audio_tokens": 0}}, BOTH),
    "malformed token counts": (NEW, {"completion_tokens_details": 1}, BOTH),
    "a gateway that renames the field": (OLD, COUNTED, BOTH),
}
"""By server: the reasoning of its answers, their token counts, and how it then gets earlier reasoning."""


def reasoning_server(reasoning: JSON, usage: JSON | None) -> Any:
    """Simulate a server that reasons in these fields."""

    def serve(request: Request) -> list[bytes]:
        facts = {"id": "x"} if usage is None else {"id": "x", "usage": usage}
        said = {"role": "assistant", **reasoning, "content": "Hello."}
        if not request.json()["stream"]:
            return [response({**facts, "choices": [{"index": 0, "message": said, "finish_reason": "stop"}]})]
        choices = [
            {"index": 0, "delta": {"role": "assistant", "content": "", **dict.fromkeys(reasoning)}},
            {"index": 0, "delta": reasoning},
            {"index": 0, "delta": {"content": "Hello.", **dict.fromkeys(reasoning)}},
            {"index": 0, "delta": {}, "finish_reason": "stop"},
        ]
        frames = [{"id": "x", "choices": [choice]} for choice in choices] + [{**facts, "choices": []}]
        return [STREAM_HEAD, *(framed(b"data: " + json.dumps(one).encode() + b"\n\n") for one in frames), DONE + END]

    return serve


@pytest.mark.parametrize("stop", [None, ["END"]], ids=["", "stop"])
@pytest.mark.parametrize("kind", SERVERS)
@whole_and_streamed
@both_clients
def test_reasoning_is_sent_back_once_if_the_server_shows_which_field_it_reads(
    driver: Driver, streamed: bool, kind: str, stop: list[str] | None
) -> None:
    """Earlier reasoning is sent in both fields until an answer shows which of them the server reads."""
    reasoning, usage, read = SERVERS[kind]
    history = [*MESSAGES, {"role": "assistant", "content": "Yes?", **BOTH}, *MESSAGES]
    with Loopback(reasoning_server(reasoning, usage)) as loopback:
        client = driver.make(base_url=loopback.base_url, max_retries=0)
        for _ in range(2):
            ask(driver, client, streamed, history, stop=stop)
        driver.close(client)
    shown = [{**history[1], **BOTH}, {"role": "assistant", "content": "Yes?", **read}]
    assert [body["messages"][1] for body in sent(loopback)] == shown


@pytest.mark.parametrize("thought", [OLD, NEW, OLD | {"reasoning": "So?"}], ids=["old", "new", "different"])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_that_is_there_only_once_is_always_sent(field: str, thought: JSON) -> None:
    """Only a copy of the reasoning is left out: what the caller sends in one field arrives in it."""
    messages = [*MESSAGES, {"role": "assistant", "content": "Yes?", **thought}]
    assert sent_by(dialect_of(messages, {}, Capabilities(reasoning_field=field))) == (messages, {})


def test_an_upgraded_server_is_noticed() -> None:
    """The last answer counts: after an upgrade of the server, reasoning is sent in the field that it reads now."""
    known, fields_read = Capabilities(), []
    for kind in ("vLLM 0.11.1 to 0.15", "vLLM 0.16 to 0.27", "vLLM from 0.28"):
        reasoning, usage, _ = SERVERS[kind]
        dialect_of(MESSAGES, {}, known).observe(
            Completion([Choice()], usage), Signs(reasoning_fields=frozenset(reasoning))
        )
        fields_read.append(known.reasoning_field)
    assert fields_read == ["reasoning_content", None, "reasoning"]


def test_a_refusal_of_either_field_is_recognised() -> None:
    """A history with reasoning in either field can do without it, if the server rejects that field."""
    messages = [*MESSAGES, {"role": "assistant", "content": "Yes?", **OLD}]
    known = Capabilities()
    dialect = dialect_of(messages, {}, known)
    dialect.write()
    body = json.dumps({"error": {"message": "Unknown field: reasoning_content"}}).encode()
    assert dialect.request_refused(error_from_response(400, {}, body))
    assert sent_by(dialect) == ([*MESSAGES, {"role": "assistant", "content": "Yes?"}], {})


def test_the_repr_shows_what_is_assumed_and_no_bookkeeping() -> None:
    """The repr of the capabilities has the public fields only."""
    known = Capabilities(tools=False)
    known.doubt("thinking_switch")
    shown = ", ".join(f"{one.name}={getattr(known, one.name)!r}" for one in fields(known) if one.name[0] != "_")
    assert repr(known) == f"Capabilities({shown})"
