"""LlamaIndex's tool calls if the server does not comply with the request, or the answer is truncated."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.tools import FunctionTool

from llama_index_tir_qwen import TIRQwen
from tests.support.server import Loopback, Request, response

RAN: list[str] = []


def wipe(target: str = "everything") -> str:
    """Wipe a target."""
    RAN.append(target)
    return target


def serving(*arguments: str, finish_reason: str = "tool_calls") -> Any:
    """Return a server whose answer calls the tool once with each of these arguments."""
    calls = [
        {"id": f"c{number}", "type": "function", "function": {"name": "wipe", "arguments": text}}
        for number, text in enumerate(arguments)
    ]
    message = {"role": "assistant", "content": "", "tool_calls": calls}

    def answer(_: Request) -> list[bytes]:
        return [response({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]})]

    return answer


def predict(answer: Any, **kwargs: Any) -> list[str]:
    """Let the model call the tool, and return the targets it ran on."""
    RAN.clear()
    with Loopback(answer) as server:
        llm = TIRQwen(api_base=server.base_url)
        llm.predict_and_call([FunctionTool.from_defaults(wipe)], user_msg="Wipe!", **kwargs)
    return RAN


def test_cut_arguments() -> None:
    """A call with truncated arguments raises an error, and does not run the tool with its defaults."""
    with pytest.raises(ValueError, match="'wipe' cannot be run: max_tokens"):
        predict(serving('{"target": "fi', finish_reason="length"))
    assert RAN == []


@pytest.mark.parametrize(("allowed", "ran"), [(False, ["a"]), (True, ["a", "b"])])
def test_parallel_calls(allowed: bool, ran: list[str]) -> None:
    """Only the first of two calls runs if parallel calls are not allowed."""
    assert predict(serving('{"target": "a"}', '{"target": "b"}'), allow_parallel_tool_calls=allowed) == ran


def test_call_without_arguments() -> None:
    """A call without arguments runs the tool with its defaults."""
    assert predict(serving("")) == ["everything"]


def test_positional_arguments() -> None:
    """Core's arguments can be passed by position, including the one that requires a tool."""
    with Loopback(serving("{}")) as server:
        llm = TIRQwen(api_base=server.base_url)
        tools = [FunctionTool.from_defaults(wipe)]
        *_, last = llm.stream_chat_with_tools(tools, "Wipe!", [], False, True, True)
        (request,) = server.requests
    assert [call.tool_name for call in llm.get_tool_calls_from_response(last)] == ["wipe"]
    assert request.json()["tool_choice"] == "required"


def test_a_tool_may_have_a_long_description() -> None:
    """The length of a description is not limited, unlike by core, which fails above 1,024 characters."""
    tool = FunctionTool.from_defaults(wipe, description="x" * 2000)
    (offered,) = TIRQwen(api_base="http://127.0.0.1:9/v1")._prepare_chat_with_tools([tool], "Wipe!")["tools"]
    assert (offered["function"]["name"], offered["function"]["description"]) == ("wipe", "x" * 2000)
