"""Any conversation is either converted to the wire format or rejected with one of our own errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from llama_index.core.base.llms import types as llama

from langchain_tir_qwen._messages import messages_to_wire as langchain_to_wire
from llama_index_tir_qwen._messages import messages_to_wire as llama_index_to_wire
from tir_qwen import ConfigurationError

TEXT = st.text(max_size=5)
MAYBE = st.none() | TEXT
SCALAR = st.none() | st.booleans() | st.integers() | TEXT
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=2), max_leaves=3)
ARGUMENTS = st.dictionaries(TEXT, JSON, max_size=2)

KINDS = ["text", "image", "image_url", "audio", "file", "reasoning", "tool_use", "json", "new"]
BLOCK = st.one_of(
    TEXT,
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}),
    st.fixed_dictionaries({"type": st.sampled_from(KINDS)}),
)
CONTENT = TEXT | st.lists(BLOCK, max_size=3)
ROLES = ["user", "assistant", "system", "tool", "function", "poet"]
CALL = st.fixed_dictionaries({"name": TEXT, "args": ARGUMENTS, "id": MAYBE})
INVALID_CALL = st.fixed_dictionaries({"name": MAYBE, "args": MAYBE, "id": MAYBE, "error": MAYBE})
LANGCHAIN = st.one_of(
    st.builds(SystemMessage, CONTENT),
    st.builds(HumanMessage, CONTENT, name=MAYBE),
    st.builds(
        AIMessage,
        CONTENT,
        tool_calls=st.lists(CALL, max_size=2),
        invalid_tool_calls=st.lists(INVALID_CALL, max_size=1),
        additional_kwargs=st.sampled_from([{}, {"reasoning_content": "Hm."}, {"function_call": {"name": "f"}}]),
    ),
    st.builds(ToolMessage, CONTENT, tool_call_id=TEXT),
    st.builds(FunctionMessage, TEXT, name=TEXT),
    st.builds(ChatMessage, CONTENT, role=st.sampled_from(ROLES)),
)

TEXT_BLOCK = st.builds(llama.TextBlock, text=TEXT)
REFUSED = (llama.ImageBlock, llama.AudioBlock, llama.VideoBlock, llama.DocumentBlock)
LLAMA_BLOCK = st.one_of(
    TEXT_BLOCK,
    st.builds(llama.ThinkingBlock, content=MAYBE),
    st.builds(llama.ToolCallBlock, tool_call_id=MAYBE, tool_name=TEXT, tool_kwargs=ARGUMENTS | TEXT),
    st.builds(llama.CitableBlock, content=st.lists(TEXT_BLOCK, max_size=2), title=TEXT, source=TEXT),
    st.sampled_from([kind(url="https://host.invalid") for kind in REFUSED]),
)
WIRE_CALL = st.fixed_dictionaries(
    {"id": TEXT, "function": st.fixed_dictionaries({"name": TEXT, "arguments": MAYBE | ARGUMENTS})}
)
KWARGS = {"name": TEXT, "tool_call_id": TEXT, "tool_calls": st.lists(WIRE_CALL, max_size=2)}
LLAMA_INDEX = st.builds(
    llama.ChatMessage,
    role=st.sampled_from(llama.MessageRole),
    blocks=st.lists(LLAMA_BLOCK, max_size=3),
    additional_kwargs=st.fixed_dictionaries({}, optional=KWARGS),
)
thoroughly = settings(derandomize=True, max_examples=200, deadline=None, database=None)


def check(to_wire: Callable[[Any], list[dict[str, Any]]], messages: Sequence[Any], refusable: bool) -> None:
    """Check the result of converting a conversation; `refusable` tells whether it has content that may be rejected."""
    try:
        wire = to_wire(messages)
    except ConfigurationError:
        assert refusable
        return
    assert json.loads(json.dumps(wire, allow_nan=False)) == wire
    results = [message for message in wire if message["content"].startswith("Error: this tool call was not run: ")]
    assert len(wire) - len(results) == len(messages)
    for message in wire:
        assert isinstance(message["content"], str)
        assert message["role"] in {"system", "user", "assistant", "tool"}
        for call in message.get("tool_calls", []):
            json.loads(call["function"]["arguments"])


@thoroughly
@given(st.lists(LANGCHAIN, max_size=4))
def test_any_langchain_conversation_is_sent_or_refused(messages: list[BaseMessage]) -> None:
    """Any conversation becomes one JSON wire message per message, unless it has an unknown block or role.

    Each invalid call is followed by a result that says why it was not run.
    """
    blocks = [block for message in messages for block in message.content if isinstance(block, dict)]
    odd = any("text" not in block for block in blocks)
    check(langchain_to_wire, messages, odd or any(getattr(message, "role", "") == "poet" for message in messages))


@thoroughly
@given(st.lists(LLAMA_INDEX, max_size=4))
def test_any_llama_index_conversation_is_sent_or_refused(messages: list[llama.ChatMessage]) -> None:
    """Any conversation becomes one JSON wire message per message, unless it has a block that is not text."""
    check(llama_index_to_wire, messages, any(isinstance(block, REFUSED) for one in messages for block in one.blocks))
