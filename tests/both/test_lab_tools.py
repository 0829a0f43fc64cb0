"""Tools on real servers in both integrations: offered, called, and their results sent back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.tools import FunctionTool

from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen._tool_calls import read_invalid_call
from llama_index_tir_qwen import TIRQwen
from tests.support.cassette_fixtures import Server
from tests.support.entry_points import Answer, from_message, from_response
from tir_qwen import BadRequestError


def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return f"Sunny in {city}."


def magic_function_no_args() -> str:
    """Calculate a magic function."""
    return "5"


def search_docs(query: str, top_k: int) -> str:
    """Search the documentation."""
    return f"{top_k} pages on {query}."


PARIS = "What is the weather in Paris?"
THOUGHT = "Okay, the user wants the weather in Paris. There is a get_weather function that takes a city."


@dataclass(frozen=True)
class ToolWay:
    """A public method that offers tools; `cassette` separates its requests by integration and form."""

    name: str
    cassette: str
    ask: Callable[..., Awaitable[tuple[Answer, Any]]] = field(repr=False)

    def __str__(self) -> str:
        return self.name


async def _invoke(settings, question, choice, tool=get_weather):
    message = ChatTIRQwen(**settings).bind_tools([tool], tool_choice=choice).invoke(question)
    return from_message(message), message


async def _ainvoke(settings, question, choice, tool=get_weather):
    message = await ChatTIRQwen(**settings).bind_tools([tool], tool_choice=choice).ainvoke(question)
    return from_message(message), message


async def _stream(settings, question, choice, tool=get_weather):
    message = reduce(add, ChatTIRQwen(**settings).bind_tools([tool], tool_choice=choice).stream(question))
    return from_message(message), message


async def _astream(settings, question, choice, tool=get_weather):
    model = ChatTIRQwen(**settings).bind_tools([tool], tool_choice=choice)
    message = reduce(add, [chunk async for chunk in model.astream(question)])
    return from_message(message), message


def offer(tool: Callable[..., str], question: str, choice: str | None) -> dict[str, Any]:
    """Return arguments for LlamaIndex's methods, which require a tool call by a flag."""
    kwargs = {"tool_required": True} if choice == "any" else {"tool_choice": choice} if choice else {}
    offered = {"tools": [FunctionTool.from_defaults(tool)], "allow_parallel_tool_calls": True}
    return {**offered, "user_msg": question, **kwargs}


async def _chat(settings, question, choice, tool=get_weather):
    response = TIRQwen(**settings).chat_with_tools(**offer(tool, question, choice))
    return from_response(response), response


async def _achat(settings, question, choice, tool=get_weather):
    response = await TIRQwen(**settings).achat_with_tools(**offer(tool, question, choice))
    return from_response(response), response


async def _stream_chat(settings, question, choice, tool=get_weather):
    *_, response = TIRQwen(**settings).stream_chat_with_tools(**offer(tool, question, choice))
    return from_response(response), response


async def _astream_chat(settings, question, choice, tool=get_weather):
    responses = await TIRQwen(**settings).astream_chat_with_tools(**offer(tool, question, choice))
    *_, response = [response async for response in responses]
    return from_response(response), response


def tool_ways(face: str, *asks: Any) -> list[ToolWay]:
    """Return the methods of an integration that offer tools."""
    form = {True: "stream", False: "whole"}
    return [ToolWay(ask.__name__[1:], f"{face}-{form['stream' in ask.__name__]}", ask) for ask in asks]


LANGCHAIN = tool_ways("langchain", _invoke, _ainvoke, _stream, _astream)
LLAMA_INDEX = tool_ways("llama_index", _chat, _achat, _stream_chat, _astream_chat)
SYNC = [way for way in (*LANGCHAIN, *LLAMA_INDEX) if not way.name.startswith("a")]
CHOICES = {"auto": None, "required": "any", "named": "get_weather"}


@pytest.mark.parsers(True)
@pytest.mark.parametrize("way", SYNC, ids=str)
@pytest.mark.parametrize("choice", CHOICES)
async def test_an_offered_tool_is_called_with_its_arguments(server: Server, choice: str, way: ToolWay) -> None:
    """A tool that is offered, required or named is called with its arguments, and no part of the call is content."""
    answer, _ = await way.ask(server.settings, PARIS, CHOICES[choice])

    assert (answer.content, answer.tool_calls) == ("", [("get_weather", {"city": "Paris"})])


@pytest.mark.parsers(True)
@pytest.mark.parametrize("way", [*LANGCHAIN, *LLAMA_INDEX], ids=str)
async def test_two_calls_in_one_answer_stay_separate(server: Server, way: ToolWay) -> None:
    """Two calls in one answer stay separate, each with its own arguments."""
    answer, _ = await way.ask(server.settings, "What is the weather in Paris and London?", None)

    thought = "I need the weather of two cities, so I make two calls, one for Paris and one for London."
    calls = [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "London"})]
    assert answer == Answer("", server.says(thought), "tool_calls", answer.usage, calls)


@pytest.mark.parsers(True)
@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_call_without_arguments(server: Server, way: ToolWay) -> None:
    """A tool without parameters is called with no arguments, even though old servers send nothing for them."""
    question = "What is the value of magic_function_no_args()? Use the tool."
    answer, _ = await way.ask(server.settings, question, None, magic_function_no_args)

    assert answer.tool_calls == [("magic_function_no_args", {})]


@pytest.mark.parsers(True)
@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_text_before_a_call(server: Server, way: ToolWay) -> None:
    """Text that the model writes before calling a tool is the content, without the newlines before the call."""
    answer, _ = await way.ask(server.settings, "Search the docs for rate limits.", None, search_docs)

    assert answer.tool_calls == [("search_docs", {"query": "rate limits", "top_k": 3})]
    assert answer.content == server.says("Let me look that up.")


@pytest.mark.parsers(True)
@pytest.mark.parametrize("way", [way for way in SYNC if way in LANGCHAIN], ids=str)
async def test_result_in_langchain(server: Server, way: ToolWay) -> None:
    """An answer with a call and the tool's result with the call's id are sent back to the server unchanged."""
    _, message = await way.ask(server.settings, PARIS, None)
    (call,) = message.tool_calls
    result = ToolMessage("18 °C, sunny", tool_call_id=call["id"])

    answer = ChatTIRQwen(**server.settings).invoke([HumanMessage(PARIS), message, result])

    assert answer.content == server.says("The weather in Paris is currently sunny, at 18 °C.")
    assert server.bodies[1]["messages"] == history(call["id"], server.says(THOUGHT))


@pytest.mark.parsers(True)
@pytest.mark.parametrize("way", [way for way in SYNC if way in LLAMA_INDEX], ids=str)
async def test_result_in_llama_index(server: Server, way: ToolWay) -> None:
    """An answer with a call and the tool's result with the call's id are sent back to the server unchanged."""
    llm = TIRQwen(**server.settings)
    _, response = await way.ask(server.settings, PARIS, None)
    (call,) = llm.get_tool_calls_from_response(response)
    result = ChatMessage("18 °C, sunny", role=MessageRole.TOOL, additional_kwargs={"tool_call_id": call.tool_id})

    answer = llm.chat([ChatMessage(PARIS), response.message, result])

    assert answer.message.content == server.says("The weather in Paris is currently sunny, at 18 °C.")
    assert server.bodies[1]["messages"] == history(call.tool_id, server.says(THOUGHT))


def history(id_: str, reasoning: str) -> list[dict[str, Any]]:
    """Return the expected history, with the reasoning that led to the call under the names of old and new servers."""
    call = {"id": id_, "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    thought = {"reasoning_content": reasoning, "reasoning": reasoning}
    return [
        {"role": "user", "content": PARIS},
        {"role": "assistant", "content": "", "tool_calls": [call], **thought},
        {"role": "tool", "content": "18 °C, sunny", "tool_call_id": id_},
    ]


@pytest.mark.parsers(False)
@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_server_without_tools(server: Server, way: ToolWay) -> None:
    """A request to a server without a tool parser is repeated with the tools described in the messages."""
    answer, _ = await way.ask(server.settings, PARIS, "auto")

    assert (answer.content, answer.tool_calls) == ("", [("get_weather", {"city": "Paris"})])
    assert ["tools" in body for body in server.bodies] == [True, False]


@pytest.mark.parsers(False)
@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_native_tools_only(server: Server, way: ToolWay) -> None:
    """If only native tools are allowed, the server's refusal is raised."""
    with pytest.raises(BadRequestError, match="--enable-auto-tool-choice and --tool-call-parser to be set"):
        await way.ask({**server.settings, "tool_calling": "native"}, PARIS, "auto")


@pytest.mark.parsers(True)
@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_a_call_with_broken_arguments_is_not_repaired(server: Server, way: ToolWay) -> None:
    """A call with broken arguments is not repaired: it is invalid.

    vLLM 0.9 withholds them in streams. Then the call has none, or is requested again for a whole answer.
    """
    only_once = way.cassette.startswith("langchain")
    settings = server.settings | ({"retry_tool_calls": False} if only_once else {})
    _, said = await way.ask(settings, "Make a broken tool call.", None)

    if isinstance(said, AIMessage):
        broken = [read_invalid_call(call)[0] for call in said.invalid_tool_calls]
        valid = [call["args"] for call in said.tool_calls]
    else:
        arguments = [block.tool_kwargs for block in said.message.blocks if isinstance(block, ToolCallBlock)]
        broken = [one for one in arguments if isinstance(one, str)]
        valid = [one for one in arguments if not isinstance(one, str)]
    streamed = way.cassette.endswith("stream")  # otherwise the server leaves the call in the text
    written = "".join(fragments(server.frames())) if streamed else '{"city": '
    if not only_once:
        written = written or '{"city": '
    assert (broken, valid) == (([written], []) if written else ([], [{}]))


def fragments(frames: list[dict[str, Any]]) -> list[str]:
    """Return the argument fragments of calls in the server's raw response."""
    deltas = [choice.get("delta", choice.get("message")) for frame in frames for choice in frame["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or []]
    return [call["function"].get("arguments") or "" for call in calls]
