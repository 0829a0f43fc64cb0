"""`validate`: the caller decides whether an answer is valid."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from tests.support.server import (
    MESSAGES,
    Driver,
    Loopback,
    both_clients,
    in_turn,
    response,
    said,
    whole_and_streamed,
)
from tir_qwen import Completion, ConfigurationError, StreamInterruptedError
from tir_qwen._dialect.json_answer import describe_schema
from tir_qwen._response.accumulator import Accumulator


class Even(BaseModel):
    """An even number."""

    number: int

    @field_validator("number")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


FORMAT = {"type": "json_schema", "json_schema": {"name": "Even", "schema": Even.model_json_schema()}}
TOOL = {"type": "function", "function": {"name": "store", "parameters": Even.model_json_schema()}}
END = b"data: [DONE]\n\n"
COMPLAINT = (
    "This answer is not valid: number: must be even. Give it again as one JSON object that follows the JSON schema."
)


def whole(message: dict[str, Any]) -> bytes:
    """Return a whole answer of three tokens."""
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return response({"id": "x", "choices": [choice], "usage": {"completion_tokens": 3, "total_tokens": 3}})


def streamed_text(*parts: str, finish_reason: str = "stop") -> bytes:
    """Return a stream of these parts, with a usage of three tokens."""
    usage = b'data: {"id": "x", "choices": [], "usage": {"completion_tokens": 3, "total_tokens": 3}}\n\n'
    events = [*map(said, parts), said("", finish_reason), usage, END]
    return response(b"".join(events), content_type="text/event-stream")


def text(content: str, streamed: bool) -> bytes:
    """Return an answer, in two parts if it is streamed."""
    return streamed_text(content[:5], content[5:]) if streamed else whole({"content": content})


def call(arguments: dict[str, Any], streamed: bool) -> bytes:
    """Return an answer that calls the tool."""
    function = {"name": "store", "arguments": json.dumps(arguments)}
    calls = [{"index": 0, "id": "a", "type": "function", "function": function}]
    if not streamed:
        return whole({"content": "", "tool_calls": calls})
    choice = {"index": 0, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}
    events = b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n" + END
    return response(events, content_type="text/event-stream")


def ask(driver: Driver, client: Any, streamed: bool, **params: Any) -> Completion:
    """Ask for a whole or a streamed answer."""
    if not streamed:
        return driver.complete(client, **params)
    accumulator = Accumulator()
    for delta in driver.deltas(client, **params):
        accumulator.add(delta)
    return accumulator.completion()


def exchange(
    driver: Driver, answers: list[bytes], streamed: bool, **params: Any
) -> tuple[Completion, list[dict[str, Any]]]:
    """Return the answer and the bodies of the requests."""
    with Loopback(in_turn(*answers)) as server:
        client = driver.make(base_url=server.base_url)
        completion = ask(driver, client, streamed, **{"validate": Even.model_validate_json, **params})
        return completion, [request.json() for request in server.requests]


@whole_and_streamed
@both_clients
def test_a_valid_answer_takes_one_request(driver: Driver, streamed: bool) -> None:
    """A valid answer is passed on."""
    answer = text('{"number": 4}', streamed)
    completion, bodies = exchange(driver, [answer], streamed, response_format=FORMAT)
    assert (completion.content, completion.finish_reason, len(bodies)) == ('{"number": 4}', "stop", 1)
    assert completion.usage == {"completion_tokens": 3, "total_tokens": 3}


@whole_and_streamed
@both_clients
def test_an_invalid_answer_is_sent_back(driver: Driver, streamed: bool) -> None:
    """An answer that is not valid is corrected once; what a stream has passed on is replaced."""
    answers = [text('{"number": 3}', streamed), text('{"number": 4}', streamed)]
    completion, (first, second) = exchange(driver, answers, streamed, response_format=FORMAT)
    assert completion.content == '{"number": 4}'
    assert completion.usage == {"completion_tokens": 6, "total_tokens": 6}
    assert completion.finish_reason == "stop"
    draft = {"role": "assistant", "content": '{"number": 3}'}
    schema = {"role": "system", "content": describe_schema(Even.model_json_schema())}
    assert second["messages"] == [schema, *first["messages"], draft, {"role": "user", "content": COMPLAINT}]
    assert second["response_format"] == FORMAT


@whole_and_streamed
@both_clients
def test_the_second_answer_is_final(driver: Driver, streamed: bool) -> None:
    """There is no third request."""
    completion, bodies = exchange(driver, [text('{"number": 3}', streamed)] * 2, streamed, response_format=FORMAT)
    assert completion.content == '{"number": 3}'
    assert len(bodies) == 2


@whole_and_streamed
@both_clients
def test_the_answer_stands_if_the_second_request_fails(driver: Driver, streamed: bool) -> None:
    """If the model cannot be asked again, the first answer is the answer."""
    answers = [text('{"number": 3}', streamed), response({"error": {"message": "No."}}, "400 Bad Request")]
    completion, bodies = exchange(driver, answers, streamed, response_format=FORMAT)
    assert (completion.content, completion.finish_reason, len(bodies)) == ('{"number": 3}', "stop", 2)
    assert completion.usage == {"completion_tokens": 3, "total_tokens": 3}


def refuse_nine(content: str) -> None:
    """Accept any text that does not contain a nine, even none."""
    if "9" in content:
        raise ValueError("must not contain a nine")


@whole_and_streamed
@both_clients
def test_a_failed_request_has_no_answer_to_validate(driver: Driver, streamed: bool) -> None:
    """If the second request fails, the first answer stands, even if the validator would accept an empty one."""
    answers = [text("nothing but 9", streamed), response({"error": {"message": "No."}}, "400 Bad Request")]
    completion, bodies = exchange(driver, answers, streamed, response_format=FORMAT, validate=refuse_nine)
    assert (completion.content, completion.finish_reason, len(bodies)) == ("nothing but 9", "stop", 2)


@both_clients
def test_a_stream_that_breaks_in_the_second_answer_fails(driver: Driver) -> None:
    """Once the corrected answer has begun, an error ends the call, with what has arrived of it."""
    refused = response({"error": {"message": "No."}}, "400 Bad Request")
    cut = response(said('{"num'), content_type="text/event-stream")
    answers = [streamed_text('{"number": 3}'), cut, refused]
    with Loopback(in_turn(*answers)) as server:
        client = driver.make(base_url=server.base_url)
        with pytest.raises(StreamInterruptedError) as caught:
            ask(driver, client, True, response_format=FORMAT, validate=Even.model_validate_json)
    assert caught.value.partial is not None
    assert caught.value.partial.content == '{"num'


@both_clients
def test_what_a_stream_replaces(driver: Driver) -> None:
    """The first delta of the corrected answer says how much of the content it replaces."""
    answers = [streamed_text('{"number"', ": 3}"), streamed_text('{"number"', ": 4}")]
    with Loopback(in_turn(*answers)) as server:
        client = driver.make(base_url=server.base_url)
        deltas = [*driver.deltas(client, response_format=FORMAT, validate=Even.model_validate_json)]
    parts = [(delta.content, delta.replaces) for delta in deltas if delta.content]
    assert parts == [('{"number"', 0), (": 3}", 0), ('{"number"', 13), (": 4}", 0)]


@pytest.mark.parametrize("draft", ['{"number": 3,}', "{'number': 3}", '{"number": [3]}', '[{"number": 4}]', "4"])
@whole_and_streamed
@both_clients
def test_malformed_answers(driver: Driver, streamed: bool, draft: str) -> None:
    """Whatever was wrong with the first answer, the corrected one takes its place."""
    answers = [text(draft, streamed), text('{"number": 4}', streamed)]
    completion, bodies = exchange(driver, answers, streamed, response_format=FORMAT)
    assert (completion.content, len(bodies)) == ('{"number": 4}', 2)


@both_clients
def test_several_answers_are_not_validated(driver: Driver) -> None:
    """With `n` above 1, answers are passed on as they are."""
    completion, bodies = exchange(driver, [whole({"content": '{"number": 3}'})], False, response_format=FORMAT, n=2)
    assert (completion.content, len(bodies)) == ('{"number": 3}', 1)


@whole_and_streamed
@both_clients
def test_arguments_of_a_tool(driver: Driver, streamed: bool) -> None:
    """Without a `response_format`, the arguments of a tool call are validated."""
    answers = [call({"number": 3}, streamed), call({"number": 4}, streamed)]
    completion, (first, second) = exchange(driver, answers, streamed, tools=[TOOL], tool_choice="required")
    problem = "its arguments are not valid: number: must be even"
    assert [(one.arguments, one.error) for one in completion.tool_calls] == [
        ('{"number": 3}', problem),
        ('{"number": 4}', None),
    ]
    *before, answer, result = second["messages"]
    assert before == first["messages"]
    assert answer["tool_calls"][0]["function"] == {"name": "store", "arguments": '{"number": 3}'}
    error = f"Error: this tool call was not run: {problem}. Correct it, or answer without it."
    assert result == {"role": "tool", "tool_call_id": "a", "content": error}
    assert second["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("draft", "problem"),
    [
        ("I store it.", "Invalid JSON: EOF while parsing a value at line 1 column 0"),
        ('{"number": 3}', "number: must be even"),
        ("", "Invalid JSON: EOF while parsing a value at line 1 column 0"),
    ],
)
@both_clients
def test_text_instead_of_a_call(driver: Driver, draft: str, problem: str) -> None:
    """If the model had to call the tool, text that is not the arguments is sent back."""
    answers = [whole({"content": draft}), call({"number": 4}, False)]
    completion, (first, second) = exchange(driver, answers, False, tools=[TOOL], tool_choice="required")
    assert [one.arguments for one in completion.tool_calls] == ['{"number": 4}']
    said = [{"role": "assistant", "content": draft}] if draft else []
    request = f"This answer is not a valid call of the tool: {problem}. Call the tool."
    assert second["messages"] == [*first["messages"], *said, {"role": "user", "content": request}]


@both_clients
def test_arguments_as_text(driver: Driver) -> None:
    """Valid arguments as text take one request, as does any text if the tool need not be called."""
    text = '{"number": 4}'
    completion, bodies = exchange(driver, [whole({"content": text})], False, tools=[TOOL], tool_choice="required")
    assert (completion.content, len(bodies)) == (text, 1)
    completion, bodies = exchange(driver, [whole({"content": "Hello."})], False, tools=[TOOL])
    assert (completion.content, len(bodies)) == ("Hello.", 1)


@both_clients
def test_arguments_are_not_validated_beside_a_response_format(driver: Driver) -> None:
    """With a `response_format`, the answer is validated and tool calls are not."""
    answer = call({"number": 3}, False)
    completion, bodies = exchange(driver, [answer], False, tools=[TOOL], response_format=FORMAT)
    assert [one.error for one in completion.tool_calls] == [None]
    assert len(bodies) == 1


@both_clients
def test_no_second_request_for_calls(driver: Driver) -> None:
    """`retry_tool_calls=False` turns the second request for a tool call off."""
    answer = call({"number": 3}, False)
    completion, bodies = exchange(driver, [answer], False, tools=[TOOL], retry_tool_calls=False)
    assert [one.error for one in completion.tool_calls] == [None]
    assert len(bodies) == 1


@both_clients
def test_other_errors_of_the_validator_are_the_users(driver: Driver) -> None:
    """A mistake in the validator is not sent to the model."""

    def validate(text: str) -> None:
        raise KeyError(text)

    with pytest.raises(KeyError):
        exchange(driver, [whole({"content": "{}"})], False, response_format=FORMAT, validate=validate)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({}, "validate needs a response_format of JSON, or a single tool."),
        ({"response_format": {"type": "text"}}, "validate needs a response_format of JSON, or a single tool."),
        ({"tools": [TOOL], "tool_choice": "none"}, "validate needs a response_format of JSON, or a single tool."),
        ({"tools": [TOOL, TOOL]}, "validate needs a response_format of JSON, or a single tool."),
        (
            {"tools": [TOOL], "tool_choice": "required", "response_format": FORMAT},
            "validate needs a response_format of JSON, or a single tool.",
        ),
        ({"response_format": FORMAT, "validate": "Even"}, "validate must be a function that is not asynchronous."),
    ],
)
@both_clients
def test_meaningless_combinations_are_rejected(driver: Driver, params: dict[str, Any], problem: str) -> None:
    """What cannot be validated is rejected before anything is sent."""
    with Loopback(in_turn()) as server:
        client = driver.make(base_url=server.base_url)
        with pytest.raises(ConfigurationError) as caught:
            driver.complete(client, MESSAGES, **{"validate": str, **params})
    assert str(caught.value) == problem
    assert server.requests == []
