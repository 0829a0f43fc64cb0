"""An object of a `Reply` is the answer to a request for one, in whichever form the request asks for it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from langchain_tir_qwen import ChatTIRQwen
from tir_qwen import Client
from tir_qwen.testing import FakeEndpoint, Reply

from .test_endpoint import HELLO, WEATHER, both_shapes


class City(BaseModel):
    """A city."""

    name: str


@both_shapes
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_an_object(vllm: Any, method: Any, streamed: bool) -> None:
    """An object is the answer to a request for one, however the request asks for it."""
    with FakeEndpoint(Reply(json=City(name="Pune"), reasoning="Hm."), vllm=vllm) as endpoint:
        program = ChatTIRQwen(**endpoint.settings).with_structured_output(City, method=method)
        found = list(program.stream("Which city? As JSON."))[-1] if streamed else program.invoke("Which? As JSON.")
        endpoint.check()
    assert found == City(name="Pune")


@both_shapes
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("value", [[1, 2], [], 5], ids=str)
def test_a_value_that_is_no_object(vllm: Any, method: Any, value: Any) -> None:
    """A list or a number may be the answer, too; as that of a tool, it is its only argument."""
    with FakeEndpoint(Reply(json=value), vllm=vllm) as endpoint:
        program = ChatTIRQwen(**endpoint.settings).with_structured_output(list[int] | int, method=method)
        assert program.invoke("Which numbers? As JSON.") == value
        endpoint.check()


@both_shapes
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_an_object_after_limited_reasoning(vllm: Any, streamed: bool) -> None:
    """A thinking budget moves the tools into the prompt, and an object is the call that the prompt asks for."""
    with FakeEndpoint(Reply(json=City(name="Pune"), reasoning="Hm."), vllm=vllm) as endpoint:
        model = ChatTIRQwen(**endpoint.settings, thinking_budget=100)
        program = model.with_structured_output(City, method="function_calling")
        found = list(program.stream("Which city?"))[-1] if streamed else program.invoke("Which city?")
        endpoint.check()
    assert found == City(name="Pune")


def test_an_object_and_several_tools() -> None:
    """Where one of several tools must be called, a value is a call of the first that has parameters for it."""
    city = {"type": "function", "function": {"name": "City", "parameters": City.model_json_schema()}}
    replies = [Reply(json=each) for each in (City(name="Pune"), {"other": 1}, [[]])]
    with FakeEndpoint(*replies) as endpoint, Client(**endpoint.settings) as client:
        asked = [client.complete(HELLO, tools=[WEATHER, city], tool_choice="required") for _ in replies]
    calls = [(call.name, call.arguments) for answer in asked for call in answer.tool_calls]
    assert calls == [("City", '{"name": "Pune"}'), ("weather", '{"other": 1}'), ("City", '{"name": [[]]}')]


def test_a_value_and_a_named_tool() -> None:
    """A list is the only argument of the tool that must be called."""
    city = {"type": "function", "function": {"name": "City", "parameters": City.model_json_schema()}}
    choice = {"type": "function", "function": {"name": "City"}}
    with FakeEndpoint(Reply(json=["a"])) as endpoint, Client(**endpoint.settings) as client:
        (call,) = client.complete(HELLO, tools=[WEATHER, city], tool_choice=choice).tool_calls
    assert (call.name, call.arguments) == ("City", '{"name": ["a"]}')


@pytest.mark.parametrize("text", ["<tools>\nhammer\n</tools>", '<tools>\n"saw"\n</tools>', "<tools>\n{}\n</tools>"])
def test_an_object_and_a_prompt_with_other_tools(text: str) -> None:
    """A prompt that has other text between the tags is no offer of tools: the object is the answer."""
    with FakeEndpoint(Reply(json={"a": 1})) as endpoint, Client(**endpoint.settings) as client:
        assert client.complete([{"role": "system", "content": text}, *HELLO]).content == '{"a": 1}'
