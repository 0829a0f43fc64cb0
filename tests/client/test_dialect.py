"""Both clients against servers that reject or ignore undocumented request fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import pytest

from tests.support.server import (
    DONE,
    END,
    MESSAGES,
    QUESTION,
    STREAM_HEAD,
    Driver,
    Loopback,
    both_clients,
    chunk,
    completion,
    in_turn,
    response,
    whole_and_streamed,
)
from tir_qwen import (
    BadRequestError,
    Client,
    Completion,
)
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._dialect.json_answer import describe_schema
from tir_qwen._dialect.prompted_tools import messages_with_tools
from tir_qwen._response.accumulator import Accumulator
from tir_qwen.testing import Request

DOCUMENTED = {
    *("temperature", "max_tokens", "top_p", "frequency_penalty", "presence_penalty", "stream", "model", "messages"),
}
TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
NO_PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
CALL = 'I look.\n<tool_call>\n{"name": "get_time", "arguments": {"zone": "IST"}}\n</tool_call>'
PARIS = '{"city": "Paris"}'
DESCRIBED = {"role": "system", "content": describe_schema(SCHEMA)}
WITH_TOOLS = messages_with_tools(MESSAGES, [TOOL])

Reply = Callable[[dict[str, Any]], str]


def refusal(message: str, **more: Any) -> list[bytes]:
    """Reject a request with a 400 error."""
    return [
        response({"error": {"message": message, "type": "BadRequestError", "code": 400}, **more}, "400 Bad Request")
    ]


def answer(body: dict[str, Any], content: str, finish_reason: str = "stop") -> list[bytes]:
    """Answer in the requested form; a stream comes in pieces of five characters."""
    if not body["stream"]:
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
        return [response({"id": "x", "choices": [choice]})]
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"content": content[start : start + 5]}, None) for start in range(0, len(content), 5)
    ]
    chunks = [
        {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in [*deltas, ({}, finish_reason)]
    ]
    return [STREAM_HEAD, *(chunk(b"data: " + json.dumps(each).encode() + b"\n\n") for each in chunks), DONE + END]


def says(*contents: str) -> Reply:
    """Simulate a model that gives these answers in turn."""
    left: Iterator[str] = iter(contents)
    return lambda _: next(left)


def without_parser(reply: Reply) -> Any:
    """Simulate a vLLM server without a tool parser."""

    def serve(request: Request) -> list[bytes]:
        body = request.json()
        return refusal(NO_PARSER) if "tools" in body else answer(body, reply(body))

    return serve


def strict(reply: Reply, *, at_once: bool, known: set[str] = DOCUMENTED) -> Any:
    """Simulate a gateway that rejects unknown fields, naming the alphabetically first one or all of them."""

    def serve(request: Request) -> list[bytes]:
        body = request.json()
        extra = sorted(body.keys() - known)
        if extra:
            named = extra if at_once else extra[:1]
            return refusal("; ".join(f"{name}: Extra inputs are not permitted" for name in named))
        return answer(body, reply(body))

    return serve


def dropping(reply: Reply) -> Any:
    """Simulate a gateway that silently drops unknown fields."""

    def serve(request: Request) -> list[bytes]:
        body = request.json()
        return answer(body, reply({name: value for name, value in body.items() if name in DOCUMENTED}))

    return serve


def ask(driver: Driver, client: Any, streamed: bool, messages: Any = MESSAGES, **params: Any) -> Completion:
    """Ask for a whole or a streamed answer."""
    if not streamed:
        return driver.complete(client, messages, **params)
    fold = Accumulator()
    for delta in driver.deltas(client, messages, **params):
        fold.add(delta)
    return fold.completion()


def said(completion: Completion) -> tuple[str, str, list[tuple[str, str]]]:
    """Return the reasoning, content and tool calls of an answer."""
    return completion.reasoning, completion.content, [(one.name, one.arguments) for one in completion.tool_calls]


def sent(server: Loopback) -> list[dict[str, Any]]:
    """Return the request bodies, without the fields that every request has."""
    bodies = [request.json() for request in server.requests]
    return [{name: value for name, value in body.items() if name not in ("model", "stream")} for body in bodies]


def options(streamed: bool) -> dict[str, Any]:
    """Return the extra options that a stream is requested with."""
    return {"stream_options": {"include_usage": True}} if streamed else {}


CALLED = ("", "I look.", [("get_time", '{"zone": "IST"}')])


@whole_and_streamed
@both_clients
def test_no_tool_parser(driver: Driver, streamed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Without a tool parser on the server, tools move into the messages from the first call on, logged once."""
    with Loopback(without_parser(lambda _: CALL)) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        retries: list[Any] = []
        answers = [ask(driver, client, streamed, tools=[TOOL], on_retry=lambda *told: retries.append(told))]
        answers += [ask(driver, client, streamed, tools=[TOOL])]
        other = driver.make(base_url=server.base_url, capabilities={client._model: client.capabilities})
        answers += [ask(driver, other, streamed, tools=[TOOL])]
        driver.close(client)
        driver.close(other)
    assert [said(each) for each in answers] == [CALLED] * 3
    assert [len(each.tool_calls[0].id) > 0 for each in answers] == [True] * 3
    more = options(streamed)
    assert sent(server) == [{"messages": MESSAGES, "tools": [TOOL], **more}, *[{"messages": WITH_TOOLS, **more}] * 3]
    assert retries == []
    assert caplog.messages == [
        "The server does not accept tools: they are written into the messages from now on.",
    ]


@whole_and_streamed
@both_clients
def test_native_tool_calling_raises_the_rejection(driver: Driver, streamed: bool) -> None:
    """With `tool_calling="native"`, the server's rejection of tools is raised as an error."""
    with Loopback(without_parser(lambda _: CALL)) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        with pytest.raises(BadRequestError) as caught:
            ask(driver, client, streamed, tools=[TOOL], tool_calling="native")
        driver.close(client)
    assert str(caught.value) == f"400 Bad Request: {NO_PARSER}"
    assert caught.value.attempts == 1
    assert client.capabilities == Capabilities()
    assert len(server.requests) == 1


@whole_and_streamed
@both_clients
def test_prompted_tool_calling_puts_tools_in_the_messages(driver: Driver, streamed: bool) -> None:
    """With `tool_calling="prompted"`, tools are in the messages from the first request."""
    with Loopback(without_parser(lambda _: CALL)) as server:
        client = driver.make(base_url=server.base_url)
        assert said(ask(driver, client, streamed, tools=[TOOL], tool_calling="prompted")) == CALLED
        driver.close(client)
    assert sent(server) == [{"messages": WITH_TOOLS, **options(streamed)}]


@whole_and_streamed
@both_clients
def test_calls_that_the_server_has_not_parsed(driver: Driver, streamed: bool) -> None:
    """A tool call the server returns as text is parsed, but only if tools were in the request."""
    with Loopback(dropping(lambda _: CALL)) as server:
        client = driver.make(base_url=server.base_url)
        assert said(ask(driver, client, streamed, tools=[TOOL])) == CALLED
        assert said(ask(driver, client, streamed, tools=[TOOL], tool_choice="none")) == ("", CALL, [])
        assert said(ask(driver, client, streamed)) == ("", CALL, [])
        driver.close(client)


def test_first_calls_at_once() -> None:
    """Concurrent first calls are all repeated without native tools once the server rejects them."""
    together = Barrier(4)

    def serve(request: Request) -> list[bytes]:
        body = request.json()
        if "tools" not in body:
            return answer(body, CALL)
        together.wait(5)
        return refusal(NO_PARSER)

    with Loopback(serve) as server, Client(base_url=server.base_url, max_retries=0) as client:

        def call(_: int) -> Any:
            return said(client.complete(MESSAGES, tools=[TOOL]))

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(call, range(4))) == [CALLED] * 4
    assert len(server.requests) == 8


@pytest.mark.parametrize("at_once", [False, True])
@whole_and_streamed
@both_clients
def test_everything_refused(driver: Driver, streamed: bool, at_once: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Tool calls work on a gateway that rejects every undocumented field; after the first, each takes one request."""
    params: dict[str, Any] = {"tools": [TOOL], "enable_thinking": False, "max_tokens": 99}
    with Loopback(strict(lambda _: CALL, at_once=at_once)) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        answers = [ask(driver, client, streamed, MESSAGES, **params) for _ in range(2)]
        driver.close(client)
    assert [said(each) for each in answers] == [CALLED] * 2
    switched = messages_with_tools([{"role": "user", "content": f"{QUESTION} /no_think"}], [TOOL])
    lost = ["chat_template_kwargs", "stream_options", "tools"] if streamed else ["chat_template_kwargs", "tools"]
    refusals = 1 if at_once else len(lost)
    assert sent(server)[refusals:] == [{"messages": switched, "max_tokens": 99}] * 2
    assert sorted(message.split()[5].rstrip(":") for message in caplog.messages) == lost


@pytest.mark.parametrize("at_once", [False, True])
@whole_and_streamed
@both_clients
def test_response_format_refused(driver: Driver, streamed: bool, at_once: bool) -> None:
    """If `response_format` is rejected, the schema moves into the messages and the answer is the bare object."""
    reply = says(f"Here:\n```json\n{PARIS}\n```", PARIS)
    with Loopback(strict(reply, at_once=at_once)) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        answers = [ask(driver, client, streamed, response_format=FORMAT, enable_thinking=False) for _ in range(2)]
        driver.close(client)
    assert [(said(each), each.finish_reason) for each in answers] == [(("", PARIS, []), "stop")] * 2
    asked = [DESCRIBED, {"role": "user", "content": f"{QUESTION} /no_think"}]
    assert sent(server)[-2:] == [{"messages": asked}] * 2


@pytest.mark.parametrize(
    ("serve", "switch"),
    [(partial(strict, at_once=True), " /no_think"), (dropping, "")],
    ids=["refusing", "dropping"],
)
@pytest.mark.parametrize(
    ("second", "content"),
    [(PARIS, PARIS), ("Sorry.", "Sorry."), ('{"town": 1}', '{"town": 1}')],
    ids=["repaired", "text", "other"],
)
@whole_and_streamed
@both_clients
def test_an_answer_without_the_object_is_asked_for_once_more(
    driver: Driver, streamed: bool, second: str, content: str, serve: Any, switch: str
) -> None:
    """An answer that is not the requested object is asked for once more, with the schema; the second is final."""
    with Loopback(serve(says("It is Paris.", second))) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        completion = ask(driver, client, streamed, response_format=FORMAT, schema_in="both")
        driver.close(client)
    assert (said(completion), completion.finish_reason) == (("", content, []), "stop")
    request = f"Give this answer as one JSON object that follows the JSON schema.{switch}"
    draft = {"role": "assistant", "content": "It is Paris."}
    assert sent(server)[-1]["messages"] == [DESCRIBED, *MESSAGES, draft, {"role": "user", "content": request}]


TOWN = '{"town": "Paris"}'


@pytest.mark.parametrize(
    ("streamed", "text"), [(False, TOWN), (False, f"```json\n{TOWN}\n```"), (True, f"Here it is: {TOWN}")]
)
@both_clients
def test_repair_names_the_problem(driver: Driver, streamed: bool, text: str) -> None:
    """If an object violates its schema, the repair request names the location of the violation."""
    with Loopback(dropping(says(text, PARIS))) as server:
        client = driver.make(base_url=server.base_url)
        completion = ask(driver, client, streamed, response_format=FORMAT, schema_in="messages")
        driver.close(client)
    assert completion.content == PARIS
    request = (
        "This answer is not valid: it has no 'city'. Give it again as one JSON object that follows the JSON schema."
    )
    first = [DESCRIBED, *MESSAGES]
    draft = [{"role": "assistant", "content": text}, {"role": "user", "content": request}]
    assert [body["messages"] for body in sent(server)] == [first, [*first, *draft]]


@pytest.mark.parametrize("text", [TOWN, f"```json\n{TOWN}\n```", '{"city": ', "{Paris}"])
@pytest.mark.parametrize("schema_in", ["request", "messages", "both"])
@both_clients
def test_a_stream_that_begins_with_a_wrong_object(driver: Driver, schema_in: str, text: str) -> None:
    """A stream whose object turns out to be invalid is not asked for again, since it has already been passed on."""
    with Loopback(dropping(says(text))) as server:
        client = driver.make(base_url=server.base_url)
        completion = ask(driver, client, True, response_format=FORMAT, schema_in=schema_in)
        driver.close(client)
    assert (said(completion), completion.finish_reason) == (("", text, []), "stop")
    assert len(server.requests) == 1


@both_clients
def test_the_schema_is_in_the_repair(driver: Driver) -> None:
    """The repair request contains the schema even if only `response_format` carried it before."""
    with Loopback(dropping(says("It is Paris.", PARIS, PARIS))) as server:
        client = driver.make(base_url=server.base_url)
        for _ in range(2):
            assert ask(driver, client, False, response_format=FORMAT).content == PARIS
        driver.close(client)
    assert [body["messages"][0] for body in sent(server)] == [MESSAGES[0], DESCRIBED, MESSAGES[0]]


ENFORCED = {"messages": MESSAGES, "response_format": FORMAT, **options(True)}
SHOWN = {"messages": [DESCRIBED, *MESSAGES], **options(True)}


@pytest.mark.parametrize("text", [PARIS, f"```json\n{PARIS}\n```"], ids=["object", "fence"])
@pytest.mark.parametrize(("schema_in", "body"), [("request", ENFORCED), ("messages", SHOWN)])
@both_clients
def test_an_object_streams(driver: Driver, schema_in: str, body: dict[str, Any], text: str) -> None:
    """An object, bare or in a code fence, is streamed in one request as it arrives, whether or not it is enforced."""
    with Loopback(dropping(says(text))) as server:
        client = driver.make(base_url=server.base_url)
        deltas = driver.deltas(client, response_format=FORMAT, schema_in=schema_in)
        pieces = [delta.content for delta in deltas if delta.content]
        driver.close(client)
    assert pieces == [text[start : start + 5] for start in range(0, len(text), 5)]
    assert sent(server) == [body]


@both_clients
def test_a_sentence_before_the_object(driver: Driver) -> None:
    """An answer that starts with other text is held back until it contains an object, which alone is passed on."""

    def serve(request: Request) -> list[bytes]:
        return answer(request.json(), f"Here you are: {PARIS}.")

    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url)
        pieces = [delta.content for delta in driver.deltas(client, response_format=FORMAT) if delta.content]
        driver.close(client)
    assert pieces == [PARIS]
    assert len(server.requests) == 1


@whole_and_streamed
@both_clients
def test_thinking_is_not_switched(driver: Driver, streamed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """If the server ignores the thinking switch, two answers reveal it and later calls use `/no_think`."""

    def reply(body: dict[str, Any]) -> str:
        quiet = body["messages"][-1]["content"].endswith(" /no_think")
        return "<think>\n\n</think>\n\nHi." if quiet else "<think>\nHm.\n</think>\n\nHi."

    with Loopback(dropping(reply)) as server:
        client = driver.make(base_url=server.base_url)
        answers = [said(ask(driver, client, streamed, enable_thinking=False)) for _ in range(3)]
        driver.close(client)
    assert answers == [("Hm.", "Hi.", []), ("Hm.", "Hi.", []), ("", "Hi.", [])]
    assert [body["messages"][0]["content"] for body in sent(server)] == [QUESTION, QUESTION, f"{QUESTION} /no_think"]
    assert caplog.messages == [
        "The server ignores enable_thinking: thinking is switched by /think and /no_think from now on.",
    ]


@whole_and_streamed
@both_clients
def test_reasoning_refused(driver: Driver, streamed: bool) -> None:
    """If a gateway rejects reasoning in the history, it is left out from then on."""

    def serve(request: Request) -> list[bytes]:
        body = request.json()
        if any("reasoning" in message for message in body["messages"]):
            loc = ["body", "messages", 1, "reasoning"]
            detail = [{"type": "extra_forbidden", "loc": loc, "msg": "Extra inputs are not permitted", "input": "Hm."}]
            return [response({"detail": detail}, "422 Unprocessable Entity")]
        return answer(body, "Hi.")

    past = {"role": "assistant", "content": "Yes?"}
    messages = [*MESSAGES, {**past, "reasoning": "Hm.", "reasoning_content": "Hm."}, *MESSAGES]
    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        assert [ask(driver, client, streamed, messages).content for _ in range(2)] == ["Hi."] * 2
        driver.close(client)
    shown = [messages, *[[*MESSAGES, past, *MESSAGES]] * 2]
    assert [body["messages"] for body in sent(server)] == shown


@both_clients
def test_a_refusal_that_stays(driver: Driver) -> None:
    """A rejection that persists is raised after one further request, and the client learns nothing from it."""
    policy = "Blocked by the content policy: tools are forbidden."

    def serve(_: Request) -> list[bytes]:
        return refusal(policy)

    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url)
        with pytest.raises(BadRequestError, match=f"^400 Bad Request: {policy}$"):
            ask(driver, client, False, tools=[TOOL])
        driver.close(client)
    assert len(server.requests) == 2
    assert client.capabilities == Capabilities()


@both_clients
def test_template_arguments_in_extra_body(driver: Driver) -> None:
    """`chat_template_kwargs` in `extra_body` is merged with the thinking switch instead of overwriting it."""
    extra = {"chat_template_kwargs": {"custom": 1}}
    with Loopback(in_turn(completion("Hi"))) as server:
        driver.complete(driver.make(base_url=server.base_url), enable_thinking=False, extra_body=extra)
    assert server.requests[0].json()["chat_template_kwargs"] == {"enable_thinking": False, "custom": 1}
    assert extra == {"chat_template_kwargs": {"custom": 1}}
