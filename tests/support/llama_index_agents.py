"""Helpers for LlamaIndex agents: run one, and read its events and requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentStream,
    AgentStreamStructuredOutput,
    ToolCall,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer

from tests.support.cassette_fixtures import Server

QUIET = [
    pytest.mark.filterwarnings(f"ignore{what}")
    for what in (
        "::pydantic.PydanticDeprecatedSince20",
        "::pydantic.warnings.PydanticDeprecatedSince211",
        ":is_running called from within a step:DeprecationWarning",
    )
]
"""Marks that let core use what is deprecated."""

FORMS = {"stream": True, "whole": False}
"""Whether an agent streams."""

# What is asked of several agents, and what they are told.
BOTH = "What is the weather in Paris and London?"
UMBRELLA = "Do I need an umbrella in London?"
WELCOME = "You're welcome! Let me know if there is anything else you need."
HANDED = (
    "Agent weather is now handling the request due to the following reason: The user asks about rain..\n"
    "Please continue with the current request."
)
WEATHER = {"Paris": "18 °C, sunny", "London": "14 °C, rainy", "Oslo": "3 °C, snow", "Rome": "21 °C, sunny"}


async def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    if city not in WEATHER:
        raise LookupError("no such city")
    return WEATHER[city]


def memory_of(messages: list[ChatMessage] | None = None) -> ChatMemoryBuffer:
    """Return a memory with these messages."""
    return ChatMemoryBuffer.from_defaults(messages, token_limit=8000)


async def run(agent: Any, *args: Any, **kwargs: Any) -> tuple[AgentOutput, list[Any]]:
    """Return the result of a run and all of its events."""
    handler = agent.run(*args, **kwargs)
    events = [event async for event in handler.stream_events()]
    return await handler, events


def seen(events: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the content of the events in order; the deltas of each step are merged."""
    told: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, AgentStream):
            _, reasoning, text = told.pop() if told and told[-1][0] == "stream" else ("stream", "", "")
            told.append(("stream", reasoning + (event.thinking_delta or ""), text + event.delta))
            assert event.response == text + event.delta
        elif isinstance(event, ToolCallResult):
            told.append(("result", event.tool_id, event.tool_output.content))
        elif isinstance(event, ToolCall):
            told.append(("call", event.tool_id, event.tool_name, event.tool_kwargs))
        elif isinstance(event, AgentOutput):
            told.append(("output", event.current_agent_name, event.response.content))
        elif isinstance(event, AgentStreamStructuredOutput):
            told.append(("object", event.output))
    return told


def without_streams(told: list[tuple[Any, ...]], form: str) -> list[tuple[Any, ...]]:
    """Return the events without those of streams."""
    return told if FORMS[form] else [one for one in told if one[0] != "stream"]


def ids_of(server: Server, number: int = 0) -> list[str]:
    """Return the ids of a response's tool calls."""
    choices = [choice for frame in server.frames(number) for choice in frame["choices"]]
    said = [choice.get("delta") or choice.get("message") or {} for choice in choices]
    return [call["id"] for one in said for call in one.get("tool_calls") or [] if call.get("id")]


def user(text: str) -> dict[str, Any]:
    """Return a user message in wire format."""
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    """Return an answer in wire format."""
    return {"role": "assistant", "content": text}


def called(thought: dict[str, str], *calls: tuple[str, str, str]) -> dict[str, Any]:
    """Return an answer with tool calls in wire format, with its reasoning in these fields."""
    written = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id_, name, arguments in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": written, **thought}


def result(id_: str, text: str) -> dict[str, Any]:
    """Return a tool result in wire format."""
    return {"role": "tool", "content": text, "tool_call_id": id_}
