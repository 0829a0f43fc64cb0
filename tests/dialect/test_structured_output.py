"""Answers that must be JSON objects take one request, or two that count as one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.calls import read_body
from tests.support.server import MESSAGES, Driver, Loopback, Request, both_clients, response
from tir_qwen import Completion, ConfigurationError, Delta
from tir_qwen._dialect.json_answer import describe_schema
from tir_qwen._dialect.structured_output import StructuredOutputFlow, needs_structured_output
from tir_qwen.types import Choice, ToolCallDelta

TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
BOTH: dict[str, Any] = {"tools": [TOOL], "response_format": FORMAT}
OFFERED = {
    "role": "system",
    "content": describe_schema(SCHEMA, "When no further tool is needed, give your final answer"),
}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}


def answers(*messages: dict[str, Any], finish_reason: str = "stop") -> Any:
    """Return a server that sends these messages in turn, each with a usage of three tokens."""
    left = list(messages)

    def answer(_: Request) -> list[bytes]:
        choice = {"index": 0, "message": left.pop(0), "finish_reason": finish_reason}
        usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3, "prompt_tokens_details": None}
        return [response({"id": f"id-{len(left)}", "model": "m", "choices": [choice], "usage": usage})]

    return answer


def ask(driver: Driver, answer: Any, messages: list[dict[str, Any]] = MESSAGES, **params: Any) -> Any:
    """Return the completion and the bodies of the requests it took."""
    with Loopback(answer) as server:
        completion = driver.complete(driver.make(base_url=server.base_url), messages, **{**BOTH, **params})
        return completion, [request.json() for request in server.requests]


@both_clients
def test_a_tool_call_takes_one_request(driver: Driver) -> None:
    """A tool call is passed on; its request offered the tools and only described the object."""
    completion, (body,) = ask(driver, answers({"content": "", "reasoning": "Hm.", "tool_calls": [CALL]}))
    assert [call.name for call in completion.tool_calls] == ["get_time"]
    assert (completion.content, completion.reasoning) == ("", "Hm.")
    assert body["tools"] == [TOOL]
    assert "response_format" not in body
    assert body["messages"] == [OFFERED, *MESSAGES]


@pytest.mark.parametrize("text", ['{"city": "Paris"}', '```json\n{"city": "Paris"}\n```', 'Here: {"city": "Paris"}'])
@both_clients
def test_an_object_takes_one_request(driver: Driver, text: str) -> None:
    """An answer that already is the object is passed on without the text around it."""
    completion, bodies = ask(driver, answers({"content": text}))
    assert (completion.content, completion.finish_reason, completion.id) == ('{"city": "Paris"}', "stop", "id-0")
    assert completion.usage
    assert completion.usage["total_tokens"] == 3
    assert len(bodies) == 1


@both_clients
def test_a_text_answer_takes_a_next_request(driver: Driver) -> None:
    """A text answer leads to a second request with the schema; the draft stays hidden and the usage adds up."""
    messages = [{"content": "Paris, I think.", "reasoning": "Hm."}, {"content": '{"city": "Paris"}'}]
    completion, (_, second) = ask(driver, answers(*messages))
    assert (completion.content, completion.reasoning) == ('{"city": "Paris"}', "Hm.")
    assert completion.usage == {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "total_tokens": 6,
        "prompt_tokens_details": None,
    }
    assert completion.id == "id-1"
    assert second["response_format"] == FORMAT
    assert second["chat_template_kwargs"] == {"enable_thinking": False}
    assert not second.keys() & {"tools", "tool_choice", "parallel_tool_calls"}
    request = "Give this answer as one JSON object that follows the JSON schema."
    draft = {"role": "assistant", "content": "Paris, I think."}
    assert second["messages"] == [OFFERED, *MESSAGES, draft, {"role": "user", "content": request}]


@both_clients
def test_a_truncated_answer_is_passed_on(driver: Driver) -> None:
    """An answer truncated by `max_tokens` is not requested again, since the next one would be truncated too."""
    completion, bodies = ask(driver, answers({"content": "Par"}, finish_reason="length"))
    assert (completion.content, completion.finish_reason, len(bodies)) == ("Par", "length", 1)


@both_clients
def test_the_description_is_added_to_a_system_message_of_any_form(driver: Driver) -> None:
    """The description is added to the system message, whether that is a string or a list of parts."""
    parts = [{"type": "text", "text": "Be kind."}]
    text = OFFERED["content"]
    for content, seen in ((parts, [*parts, {"type": "text", "text": text}]), ("Be kind.", f"Be kind.\n\n{text}")):
        system = {"role": "system", "content": content}
        _, (body,) = ask(driver, answers({"content": '{"city": "x"}'}), [system, *MESSAGES])
        assert body["messages"] == [{"role": "system", "content": seen}, *MESSAGES]
        assert system["content"] is content


@pytest.mark.parametrize(("messages", "params"), [([], {}), (MESSAGES, {"n": 2})])
@both_clients
def test_unsupported_combinations_are_rejected_before_sending(
    driver: Driver, messages: list[Any], params: dict[str, Any]
) -> None:
    """Empty messages and `n` above 1 raise an error before anything is sent."""
    with Loopback(answers()) as server, pytest.raises(ConfigurationError):
        driver.complete(driver.make(base_url=server.base_url), messages, **BOTH, **params)
    assert server.requests == []


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"tools": [TOOL]},
        {"response_format": None},
        {"response_format": {"type": "text"}},
        {"response_format": FORMAT, "n": 2},
        {**BOTH, "tool_choice": "required"},
        {**BOTH, "tool_choice": {"type": "function", "function": {"name": "get_time"}}},
        {**BOTH, "response_format": {"type": "text"}},
    ],
)
def test_a_plain_request_needs_no_structured_output(params: dict[str, Any]) -> None:
    """A request without an object, or with a forced tool choice, is sent as it is."""
    assert not needs_structured_output(read_body(MESSAGES, params))


@pytest.mark.parametrize(
    "params",
    [
        {"response_format": FORMAT},
        {"response_format": {"type": "json_object"}, "n": 1, "tools": []},
        {"response_format": FORMAT, "tools": None, "n": None},
        BOTH,
        {**BOTH, "tool_choice": "auto"},
        {**BOTH, "tool_choice": "none"},
    ],
)
def test_a_request_for_an_object_needs_structured_output(params: dict[str, Any]) -> None:
    """A request for an object corrects any other answer."""
    assert needs_structured_output(read_body(MESSAGES, params))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Paris.", ""),
        ("", ""),
        (" \n", ""),
        ('{"city": ', ""),
        ("[1]", "This answer is not valid: it is not of type object. "),
        ('{"city": 1}', "This answer is not valid: /city is not of type string. "),
        ("{}", "This answer is not valid: it has no 'city'. "),
        ('{"city": "Paris"}', None),
    ],
)
@pytest.mark.parametrize("tools", [[TOOL], None])
@both_clients
def test_an_answer_that_is_not_the_object_is_sent_back_once(
    driver: Driver, tools: Any, text: str, problem: str | None
) -> None:
    """An invalid answer is sent back once with the problem; a valid object is not."""
    last = {"content": "Sorry.", "reasoning": "Hm."}
    completion, bodies = ask(driver, answers({"content": text}, last), tools=tools)
    if problem is None:
        assert (completion.content, len(bodies)) == (text, 1)
        return
    what = "it again" if problem else "this answer" if text.strip() else "your answer"
    request = f"{problem}Give {what} as one JSON object that follows the JSON schema."
    first, second = [body["messages"] for body in bodies]
    # The server may have ignored `response_format`, so the schema is in the messages.
    shown = [] if tools else [{"role": "system", "content": describe_schema(SCHEMA)}]
    said = [{"role": "assistant", "content": text}] if text.strip() else []
    assert second == [*shown, *first, *said, {"role": "user", "content": request}]
    assert (completion.content, completion.finish_reason) == ("Sorry.", "stop")


@both_clients
def test_without_a_schema_any_object_is_accepted(driver: Driver) -> None:
    """Without a schema, any object is accepted, and nothing else."""
    any_object = {"tools": None, "response_format": {"type": "json_object"}}
    assert ask(driver, answers({"content": '{"a": 1}'}), **any_object)[0].content == '{"a": 1}'
    completion, bodies = ask(driver, answers({"content": "[1]"}, {"content": '{"a": 1}'}), **any_object)
    assert (completion.content, len(bodies)) == ('{"a": 1}', 2)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "array", "items": SCHEMA}, '[{"city": "Paris"}, {"city": "Rome"}]'),
        ({"type": "array", "items": SCHEMA}, '[{"city": "Paris"}]'),
        ({"type": "string", "enum": ["Paris", "Rome"]}, '"Paris"'),
        ({}, "[1]"),
    ],
)
@both_clients
def test_answers_to_other_schemas_are_passed_on(driver: Driver, schema: dict[str, Any], text: str) -> None:
    """If the schema describes a list or a string, the answer is passed on unchanged."""
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    completion, bodies = ask(
        driver, answers({"content": text}, {"content": "Sorry."}), tools=None, response_format=wanted
    )
    assert (completion.content, len(bodies)) == (text, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('Here: [{"city": "Paris"}].', '[{"city": "Paris"}]'),
        ('```json\n[{"city": "Paris"}]\n```', '[{"city": "Paris"}]'),
        ("```json\n[]\n```", "[]"),
    ],
)
@both_clients
def test_a_list_is_found_within_an_answer(driver: Driver, text: str, value: str) -> None:
    """If the schema describes a list, the answer is the list, without the text around it."""
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "array", "items": SCHEMA}}}
    completion, bodies = ask(driver, answers({"content": text}), tools=None, response_format=wanted)
    assert (completion.content, len(bodies)) == (value, 1)


@pytest.mark.parametrize(
    ("response_format", "text", "request_text"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "array"}}},
            "{}",
            "This answer is not valid: it is not of type array. "
            "Give it again as one JSON value that follows the JSON schema.",
        ),
        (
            {"type": "json_object"},
            "[1]",
            "This answer is not valid: it is not of type object. Give it again as one JSON object.",
        ),
        ({"type": "json_object"}, "Paris.", "Give this answer as one JSON object."),
    ],
    ids=["list", "no schema", "text without a schema"],
)
@both_clients
def test_a_correction_names_the_kind_of_value(
    driver: Driver, response_format: dict[str, Any], text: str, request_text: str
) -> None:
    """The second request asks for an object or for any value, and mentions the schema only if there is one."""
    server = answers({"content": text}, {"content": "Sorry."})
    _, bodies = ask(driver, server, tools=None, response_format=response_format)
    first, second = [body["messages"] for body in bodies]
    schema = response_format.get("json_schema", {}).get("schema")
    shown = [{"role": "system", "content": describe_schema(schema)}] if schema else []
    draft = {"role": "assistant", "content": text}
    assert second == [*shown, *first, draft, {"role": "user", "content": request_text}]


@pytest.mark.parametrize("tools", [[TOOL], None])
@both_clients
def test_an_answer_with_stop_strings_is_passed_on(driver: Driver, tools: Any) -> None:
    """With `stop`, an invalid answer is not requested again, since the next one might be truncated too."""
    completion, bodies = ask(driver, answers({"content": "Paris"}), tools=tools, stop=["."])
    assert (completion.content, completion.finish_reason, len(bodies)) == ("Paris", "stop", 1)


@both_clients
def test_text_beside_a_tool_call_is_kept(driver: Driver) -> None:
    """Text beside a tool call is kept, even though it is not an object."""
    completion, bodies = ask(driver, answers({"content": "I look.", "tool_calls": [CALL]}))
    assert (completion.content, [call.name for call in completion.tool_calls]) == ("I look.", ["get_time"])
    assert len(bodies) == 1


@both_clients
def test_the_log_probabilities_are_those_of_the_final_answer(driver: Driver) -> None:
    """The log probabilities belong to the final answer, not to the hidden draft."""

    def answer(request: Request) -> list[bytes]:
        text = "{}" if len(request.json()["messages"]) > 2 else "Paris."
        logprobs = {"content": [{"token": text, "logprob": -0.5}]}
        choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop", "logprobs": logprobs}
        return [response({"id": "x", "choices": [choice]})]

    completion, _ = ask(driver, answer, tools=None, response_format={"type": "json_object"}, logprobs=True)
    assert completion.content == "{}"
    assert completion.first.logprobs == {"content": [{"token": "{}", "logprob": -0.5}]}


REASONING = Delta(reasoning="Hm.", response={"id": "x"})
FINISH, LAST = Delta(finish_reason="stop", stop_reason="."), Delta(last=True, usage={"total_tokens": 3})


def passed(plan: StructuredOutputFlow, deltas: list[Delta]) -> list[Delta]:
    """Return the deltas that are passed on immediately."""
    return [one for delta in deltas if (one := plan.feed(delta)) is not None]


@pytest.mark.parametrize(
    ("contents", "shown"),
    [
        (['{"city', '": "Paris"}'], ['{"city', '": "Paris"}']),
        (['\n {"city', '": "Paris"}'], ['\n {"city', '": "Paris"}']),
        (["`", '``json\n{"city": ', '"Paris"}', "\n```"], ['```json\n{"city": ', '"Paris"}', "\n```"]),
        (['{"town', '": 1}'], ['{"town', '": 1}']),
        (['{"city": '], ['{"city": ']),
    ],
    ids=["object", "white space", "fence", "another object", "broken"],
)
def test_an_object_streams_immediately(contents: list[str], shown: list[str]) -> None:
    """A stream that starts with an object or a code fence is passed on immediately and not requested again."""
    plan = StructuredOutputFlow(read_body(MESSAGES, {"response_format": FORMAT}), stream=True)
    deltas = [REASONING, *(Delta(content=content) for content in contents), FINISH, LAST]
    assert passed(plan, deltas) == [REASONING, *(Delta(content=content) for content in shown), FINISH, LAST]
    assert plan.next_request(Completion([Choice(content="".join(contents), finish_reason="stop")])) is None
    assert list(plan.remaining()) == []


def test_a_list_streams_immediately_if_it_may_be_the_answer() -> None:
    """A stream that starts with a list is passed on immediately if the schema describes lists, else it is held back."""
    deltas = [Delta(content="[1"), Delta(content="]"), FINISH, LAST]
    listed = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "array"}}}
    for response_format, shown in ((listed, deltas), (FORMAT, [])):
        plan = StructuredOutputFlow(read_body(MESSAGES, {"response_format": response_format}), stream=True)
        assert passed(plan, [*deltas]) == shown


@pytest.mark.parametrize("begin", ["`Paris` it is.", "``", "Well."])
def test_a_text_stream_is_held_back(begin: str) -> None:
    """Text in a stream is held back, and the object is requested."""
    plan = StructuredOutputFlow(read_body(MESSAGES, {"response_format": FORMAT}), stream=True)
    deltas = [*(Delta(content=character) for character in begin), FINISH, LAST]
    assert passed(plan, deltas) == []
    assert plan.next_request(Completion([Choice(content=begin, finish_reason="stop")])) is not None


def refuse_value(text: str) -> None:
    """Find something wrong with every answer but one."""
    if text != '{"city": "Paris"}':
        raise ValueError("no city")


def test_a_corrected_stream_replaces_the_text_and_not_the_reasoning() -> None:
    """The first text of the corrected answer says how much it replaces; reasoning before it replaces nothing."""
    plan = StructuredOutputFlow(read_body(MESSAGES, WITHOUT_TOOLS), stream=True, validate=refuse_value)
    wrong = Delta(content='{"city": 7}', finish_reason="stop", stop_reason=".")
    right = [Delta(content='{"city": '), Delta(content='"Paris"}')]
    assert passed(plan, [wrong, LAST]) == [Delta(content='{"city": 7}')]
    assert plan.next_request(Completion([Choice(content='{"city": 7}', finish_reason="stop")])) is not None
    right[1].finish_reason = "stop"  # with the last text, as some servers send it
    assert passed(plan, [REASONING, *right, LAST]) == [
        Delta(reasoning="Hm."),
        Delta(content='{"city": ', replaces=11),
        Delta(content='"Paris"}', finish_reason="stop"),
        Delta(last=True, usage={"total_tokens": 6}),
    ]


WITHOUT_TOOLS: dict[str, Any] = {"response_format": FORMAT}


@pytest.mark.parametrize(
    ("contents", "params", "stream"),
    [
        (["Here: ", '{"city": ', '"Paris"}', "."], WITHOUT_TOOLS, True),
        (['{"city": ', '"Paris"}'], WITHOUT_TOOLS, False),
        (["```json\n", '{"city": "Paris"}', "\n```"], WITHOUT_TOOLS, False),
        (['{"city": ', '"Paris"}'], BOTH, True),
        (["```json\n", '{"city": "Paris"}', "\n```"], BOTH, True),
    ],
)
def test_content_that_may_not_be_the_object_is_held_back(
    contents: list[str], params: dict[str, Any], stream: bool
) -> None:
    """Content that may not be the object is held back until it ends; reasoning and metadata are not."""
    plan = StructuredOutputFlow(read_body(MESSAGES, params), stream=stream)
    deltas = [REASONING, *(Delta(content=content) for content in contents), FINISH, LAST]
    assert passed(plan, deltas) == [REASONING]
    assert plan.next_request(Completion([Choice(content="".join(contents), finish_reason="stop")])) is None
    assert list(plan.remaining()) == [Delta(content='{"city": "Paris"}'), FINISH, LAST]


def test_tool_calls_stream_immediately() -> None:
    """Tool calls are passed on as they arrive, even after some text."""
    plan = StructuredOutputFlow(read_body(MESSAGES, BOTH), stream=True)
    calls = [
        Delta(tool_calls=[ToolCallDelta(0, "c1", "get_time")]),
        Delta(tool_calls=[ToolCallDelta(0, None, None, "{}")]),
    ]
    assert passed(plan, [Delta(content="I look."), *calls, FINISH, LAST]) == calls
    assert (
        plan.next_request(Completion([Choice(content="I look.", tool_calls=[CALL], finish_reason="tool_calls")]))
        is None
    )  # type: ignore[list-item]
    assert list(plan.remaining()) == [Delta(content="I look."), FINISH, LAST]


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [
        (None, None, None),
        ({"total_tokens": 3}, None, {"total_tokens": 3}),
        (None, {"total_tokens": 3}, {"total_tokens": 3}),
        (
            {"total_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2, "x": None}},
            {"total_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 1}},
            {"total_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 3}},
        ),
        (
            {"total_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}},
            {"total_tokens": 4, "completion_tokens_details": None},
            {"total_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 2}},
        ),
        (
            {"total_tokens": 3, "completion_tokens": 0},
            {"total_tokens": 4, "prompt_tokens": 2},
            {"total_tokens": 7, "completion_tokens": 0, "prompt_tokens": 2},
        ),
    ],
)
def test_the_usage_of_both_requests_is_added(first: Any, second: Any, total: Any) -> None:
    """The usage of both requests is added, including its details."""
    plan = StructuredOutputFlow(read_body(MESSAGES, {"response_format": FORMAT}), stream=True)
    assert plan.feed(Delta(content="Paris.")) is None
    assert plan.feed(Delta(last=True, usage=first)) is None
    assert plan.next_request(Completion([Choice(content="Paris.", finish_reason="stop")], first)) is not None
    assert plan.feed(Delta(content="{", response={"id": "y"})) == Delta(content="{")
    assert plan.feed(Delta(last=True, usage=second)) == Delta(last=True, usage=total)
