"""Both clients on servers that refuse or ignore what the API reference does not document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import pytest

from demo.replay import Received
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
    response,
    whole_and_streamed,
)
from tir_qwen import BadRequestError, Client, Completion
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._dialect.json_answer import describe_schema
from tir_qwen._dialect.prompted_tools import messages_with_tools
from tir_qwen._response.accumulator import Accumulator

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
    """A request that is not accepted."""
    return [
        response({"error": {"message": message, "type": "BadRequestError", "code": 400}, **more}, "400 Bad Request")
    ]


def answer(body: dict[str, Any], content: str, finish_reason: str = "stop") -> list[bytes]:
    """An answer, as it was asked for; streamed, in pieces of five characters."""
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
    """A model that says these in turn."""
    left: Iterator[str] = iter(contents)
    return lambda _: next(left)


def without_parser(reply: Reply) -> Any:
    """A vLLM server without a tool parser."""

    def serve(request: Received) -> list[bytes]:
        body = request.json()
        return refusal(NO_PARSER) if "tools" in body else answer(body, reply(body))

    return serve


def strict(reply: Reply, *, at_once: bool, known: set[str] = DOCUMENTED) -> Any:
    """A gateway that refuses every field it does not know: the first one in alphabetic order, or all at once."""

    def serve(request: Received) -> list[bytes]:
        body = request.json()
        extra = sorted(body.keys() - known)
        if extra:
            named = extra if at_once else extra[:1]
            return refusal("; ".join(f"{name}: Extra inputs are not permitted" for name in named))
        return answer(body, reply(body))

    return serve


def dropping(reply: Reply) -> Any:
    """A gateway that silently drops every field it does not know."""

    def serve(request: Received) -> list[bytes]:
        body = request.json()
        return answer(body, reply({name: value for name, value in body.items() if name in DOCUMENTED}))

    return serve


def ask(driver: Driver, client: Any, streamed: bool, messages: Any = MESSAGES, **params: Any) -> Completion:
    """Ask the one way or the other."""
    if not streamed:
        return driver.complete(client, messages, **params)
    fold = Accumulator()
    for delta in driver.deltas(client, messages, **params):
        fold.add(delta)
    return fold.completion()


def said(completion: Completion) -> tuple[str, str, list[tuple[str, str]]]:
    """Reasoning, content and calls of an answer."""
    return completion.reasoning, completion.content, [(one.name, one.arguments) for one in completion.tool_calls]


def sent(server: Loopback) -> list[dict[str, Any]]:
    """The bodies of the requests, without what all of them have."""
    bodies = [request.json() for request in server.received]
    return [{name: value for name, value in body.items() if name not in ("model", "stream")} for body in bodies]


def options(streamed: bool) -> dict[str, Any]:
    """What a stream is asked for besides."""
    return {"stream_options": {"include_usage": True}} if streamed else {}


CALLED = ("", "I look.", [("get_time", '{"zone": "IST"}')])


@whole_and_streamed
@both_clients
def test_no_tool_parser(driver: Driver, streamed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A server without a tool parser gets the tools in the messages, at once and from then on, and it says so once."""
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
def test_native(driver: Driver, streamed: bool) -> None:
    """Who wants native tools gets the server's refusal."""
    with Loopback(without_parser(lambda _: CALL)) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        with pytest.raises(BadRequestError) as caught:
            ask(driver, client, streamed, tools=[TOOL], tool_calling="native")
        driver.close(client)
    assert str(caught.value) == f"400 Bad Request: {NO_PARSER}"
    assert caught.value.attempts == 1
    assert client.capabilities == Capabilities()
    assert len(server.received) == 1


@whole_and_streamed
@both_clients
def test_prompted(driver: Driver, streamed: bool) -> None:
    """Who wants the tools in the messages has them there from the first request."""
    with Loopback(without_parser(lambda _: CALL)) as server:
        client = driver.make(base_url=server.base_url)
        assert said(ask(driver, client, streamed, tools=[TOOL], tool_calling="prompted")) == CALLED
        driver.close(client)
    assert sent(server) == [{"messages": WITH_TOOLS, **options(streamed)}]


@whole_and_streamed
@both_clients
def test_calls_that_the_server_has_not_parsed(driver: Driver, streamed: bool) -> None:
    """A call that a server passes on as text is a call, though the tools were in the request; without tools, text."""
    with Loopback(dropping(lambda _: CALL)) as server:
        client = driver.make(base_url=server.base_url)
        assert said(ask(driver, client, streamed, tools=[TOOL])) == CALLED
        assert said(ask(driver, client, streamed, tools=[TOOL], tool_choice="none")) == ("", CALL, [])
        assert said(ask(driver, client, streamed)) == ("", CALL, [])
        driver.close(client)


def test_first_calls_at_once() -> None:
    """Many calls at once, before anything is known of the server, are all asked again without its tools."""
    together = Barrier(4)

    def serve(request: Received) -> list[bytes]:
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
    assert len(server.received) == 8


@pytest.mark.parametrize("at_once", [False, True])
@whole_and_streamed
@both_clients
def test_everything_refused(driver: Driver, streamed: bool, at_once: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A gateway that refuses all but the documented fields still gives calls; after the first one, in one request."""
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
    """Where response_format is refused, the schema is in the messages, and the answer is the object alone."""
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
def test_repair(driver: Driver, streamed: bool, second: str, content: str, serve: Any, switch: str) -> None:
    """An answer that is not the object is asked for once more, with the schema; that answer is passed on as it is."""
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
    """An object that does not fit its schema is asked for again with the place where it does not."""
    with Loopback(dropping(says(text, PARIS))) as server:
        client = driver.make(base_url=server.base_url)
        completion = ask(driver, client, streamed, response_format=FORMAT, schema_in="messages")
        driver.close(client)
    assert completion.content == PARIS
    request = (
        "Give this answer as one JSON object that follows the JSON schema. The last one does not: it has no 'city'."
    )
    first = [DESCRIBED, *MESSAGES]
    draft = [{"role": "assistant", "content": text}, {"role": "user", "content": request}]
    assert [body["messages"] for body in sent(server)] == [first, [*first, *draft]]


@pytest.mark.parametrize("text", [TOWN, f"```json\n{TOWN}\n```", '{"city": ', "{Paris}"])
@pytest.mark.parametrize("schema_in", ["request", "messages", "both"])
@both_clients
def test_a_stream_that_begins_with_a_wrong_object(driver: Driver, schema_in: str, text: str) -> None:
    """It has been passed on by the time it shows that it is wrong: it is not asked for again."""
    with Loopback(dropping(says(text))) as server:
        client = driver.make(base_url=server.base_url)
        completion = ask(driver, client, True, response_format=FORMAT, schema_in=schema_in)
        driver.close(client)
    assert (said(completion), completion.finish_reason) == (("", text, []), "stop")
    assert len(server.received) == 1


@both_clients
def test_the_schema_is_in_the_repair(driver: Driver) -> None:
    """Whoever left the schema to the request has it in the messages too, once the server has not held to it."""
    with Loopback(dropping(says("It is Paris.", PARIS, PARIS))) as server:
        client = driver.make(base_url=server.base_url)
        for _ in range(2):
            assert ask(driver, client, False, response_format=FORMAT).content == PARIS
        driver.close(client)
    assert [body["messages"][0] for body in sent(server)] == [MESSAGES[0], DESCRIBED, DESCRIBED]


ENFORCED = {"messages": MESSAGES, "response_format": FORMAT, **options(True)}
SHOWN = {"messages": [DESCRIBED, *MESSAGES], **options(True)}


@pytest.mark.parametrize("text", [PARIS, f"```json\n{PARIS}\n```"], ids=["object", "fence"])
@pytest.mark.parametrize(("schema_in", "body"), [("request", ENFORCED), ("messages", SHOWN)])
@both_clients
def test_an_object_streams(driver: Driver, schema_in: str, body: dict[str, Any], text: str) -> None:
    """An object, or one in a fence, streams as it is written, in one request, whether it is enforced or not."""
    with Loopback(dropping(says(text))) as server:
        client = driver.make(base_url=server.base_url)
        deltas = driver.deltas(client, response_format=FORMAT, schema_in=schema_in)
        pieces = [delta.content for delta in deltas if delta.content]
        driver.close(client)
    assert pieces == [text[start : start + 5] for start in range(0, len(text), 5)]
    assert sent(server) == [body]


@both_clients
def test_a_sentence_before_the_object(driver: Driver) -> None:
    """An answer that does not begin with the object is held back until it is known to hold one, which is passed on."""

    def serve(request: Received) -> list[bytes]:
        return answer(request.json(), f"Here you are: {PARIS}.")

    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url)
        pieces = [delta.content for delta in driver.deltas(client, response_format=FORMAT) if delta.content]
        driver.close(client)
    assert pieces == [PARIS]
    assert len(server.received) == 1


@whole_and_streamed
@both_clients
def test_thinking_is_not_switched(driver: Driver, streamed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Where the switch is dropped, the first answer shows it, and the soft switch is used from then on."""

    def reply(body: dict[str, Any]) -> str:
        quiet = body["messages"][-1]["content"].endswith(" /no_think")
        return "<think>\n\n</think>\n\nHi." if quiet else "<think>\nHm.\n</think>\n\nHi."

    with Loopback(dropping(reply)) as server:
        client = driver.make(base_url=server.base_url)
        answers = [said(ask(driver, client, streamed, enable_thinking=False)) for _ in range(3)]
        driver.close(client)
    assert answers == [("Hm.", "Hi.", []), ("", "Hi.", []), ("", "Hi.", [])]
    assert [body["messages"][0]["content"] for body in sent(server)] == [QUESTION, *[f"{QUESTION} /no_think"] * 2]
    assert caplog.messages == [
        "The server ignores enable_thinking: thinking is switched by /think and /no_think from now on.",
    ]


@whole_and_streamed
@both_clients
def test_reasoning_refused(driver: Driver, streamed: bool) -> None:
    """A gateway that knows no reasoning in the history gets the rest of it, from then on."""

    def serve(request: Received) -> list[bytes]:
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
    """A server that refuses all the same gives its error, after one further request, and nothing is learned of it."""
    policy = "Blocked by the content policy: the prompt asks for tools that are forbidden."

    def serve(_: Received) -> list[bytes]:
        return refusal(policy)

    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url)
        with pytest.raises(BadRequestError, match=f"^400 Bad Request: {policy}$"):
            ask(driver, client, False, tools=[TOOL])
        driver.close(client)
    assert len(server.received) == 2
    assert client.capabilities == Capabilities()
