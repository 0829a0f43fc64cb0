"""Tools and a schema for the answer in one call: two requests that make up one answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.loopback import MESSAGES, Driver, Loopback, Received, both_clients, response
from tir_qwen import Completion, ConfigurationError
from tir_qwen.plan import find_object, needs_plan

TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
BOTH: dict[str, Any] = {"tools": [TOOL], "response_format": FORMAT}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}


def answers(*messages: dict[str, Any], finish_reason: str = "stop") -> Any:
    """A server that gives these messages in turn, whole, with three tokens each."""
    left = list(messages)

    def answer(_: Received) -> list[bytes]:
        choice = {"index": 0, "message": left.pop(0), "finish_reason": finish_reason}
        usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3, "prompt_tokens_details": None}
        return [response({"id": f"id-{len(left)}", "model": "m", "choices": [choice], "usage": usage})]

    return answer


def ask(driver: Driver, answer: Any, messages: list[dict[str, Any]] = MESSAGES, **params: Any) -> Any:
    """The completion, and the bodies of the requests that it took."""
    with Loopback(answer) as server:
        completion = driver.complete(driver.make(base_url=server.base_url), messages, **{**BOTH, **params})
        return completion, [request.json() for request in server.received]


@both_clients
def test_a_call_takes_one_request(driver: Driver) -> None:
    """An answer that calls a tool is passed on; its request offered the tools, and only described the object."""
    completion, (body,) = ask(driver, answers({"content": "", "reasoning": "Hm.", "tool_calls": [CALL]}))
    assert [call.name for call in completion.tool_calls] == ["get_time"]
    assert (completion.content, completion.reasoning) == ("", "Hm.")
    assert body["tools"] == [TOOL]
    assert "response_format" not in body
    assert json.dumps(SCHEMA, separators=(",", ":")) in body["messages"][0]["content"]
    assert body["messages"][1:] == MESSAGES


@pytest.mark.parametrize("text", ['{"city": "Paris"}', '```json\n{"city": "Paris"}\n```', 'Here: {"city": "Paris"}'])
@both_clients
def test_an_object_takes_one_request(driver: Driver, text: str) -> None:
    """An answer that is the object already is passed on, without what stands around it."""
    completion, bodies = ask(driver, answers({"content": text}))
    assert (completion.content, completion.finish_reason, completion.id) == ('{"city": "Paris"}', "stop", "id-0")
    assert completion.usage
    assert completion.usage["total_tokens"] == 3
    assert len(bodies) == 1


@both_clients
def test_a_text_is_asked_for_as_an_object(driver: Driver) -> None:
    """A text becomes the object by a second request, under the grammar; the draft does not show, tokens add up."""
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
    assert second["messages"][-2] == {"role": "assistant", "content": "Paris, I think."}


@both_clients
def test_a_cut_answer_is_passed_on(driver: Driver) -> None:
    """An answer that max_tokens cut is not asked for again: that would be cut too."""
    completion, bodies = ask(driver, answers({"content": "Par"}, finish_reason="length"))
    assert (completion.content, completion.finish_reason, len(bodies)) == ("Par", "length", 1)


@both_clients
def test_system_message_of_parts(driver: Driver) -> None:
    """The description of the object goes to the system message, be it a text or parts."""
    parts = [{"type": "text", "text": "Be kind."}]
    for content, seen in ((parts, parts), ("Be kind.", "Be kind.")):
        system = {"role": "system", "content": content}
        _, (body,) = ask(driver, answers({"content": '{"city": "x"}'}), [system, *MESSAGES])
        sent = body["messages"][0]["content"]
        assert sent[: len(seen)] == seen
        assert "JSON schema" in str(sent[len(seen) :])
        assert system["content"] is content


@pytest.mark.parametrize(("messages", "params"), [([], {}), (MESSAGES, {"n": 2})])
@both_clients
def test_what_cannot_be_asked(driver: Driver, messages: list[Any], params: dict[str, Any]) -> None:
    """No messages, or several answers at once, are refused before anything is sent."""
    with Loopback(answers()) as server, pytest.raises(ConfigurationError):
        driver.complete(driver.make(base_url=server.base_url), messages, **BOTH, **params)
    assert server.received == []


@pytest.mark.parametrize(
    "params",
    [
        {"tools": [TOOL]},
        {"response_format": FORMAT},
        {**BOTH, "tool_choice": "required"},
        {**BOTH, "tool_choice": "none"},
        {**BOTH, "response_format": {"type": "text"}},
        {**BOTH, "tools": []},
    ],
)
def test_calls_without_a_plan(params: dict[str, Any]) -> None:
    """Where the choice is not the model's, or no object is wanted, there is one plain request."""
    assert not needs_plan(params)


def test_find_object() -> None:
    """An object without a required key, or something else than an object, is none."""
    assert find_object('{"a": 1}', ["a"]) == '{"a": 1}'
    assert find_object('{"a": 1}', ["b"]) is None
    assert find_object("[1]") is None
    assert find_object('{"a": ') is None
    assert Completion().content == ""
