"""Content blocks and tool calls of LangChain messages and chunks."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall, message_chunk_to_message
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import ContentBlock, ReasoningContentBlock, TextContentBlock, ToolCallChunk
from langchain_core.messages.tool import invalid_tool_call, tool_call
from pydantic import ConfigDict, model_validator
from pydantic_core import from_json

PROVIDER = "tir_qwen"


def read_tool_call(id_: str | None, name: str | None, arguments: str) -> ToolCall | InvalidToolCall:
    """Return a complete tool call, or an invalid one with the reason if its arguments are not a JSON object."""
    problem = "the arguments are not a JSON object"
    try:
        parsed = from_json(arguments or "{}")
    except ValueError as error:
        parsed, problem = None, f"the arguments are not JSON: {error}"
    if isinstance(parsed, dict) and name:
        return tool_call(name=name, args=parsed, id=id_)
    return invalid_tool_call(name=name, args=arguments, id=id_, error=problem if name else "the call names no tool")


class _PlainMessage(AIMessage):
    """Creates an `AIMessage` instead of an instance of itself.

    To convert a chunk to a message, langchain-core calls the first base of the chunk's class, which for a subclass of
    `AIMessageChunk` would be a chunk again.
    """

    model_config = ConfigDict(defer_build=True)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return AIMessage(*args, **kwargs) if cls is _PlainMessage else super().__new__(cls)


class StrictToolCallChunk(_PlainMessage, AIMessageChunk):
    """A message chunk that does not repair truncated tool calls when chunks are added up.

    langchain-core completes the arguments of streamed calls: `{"city": "Par` would become a call for the city Par. In
    the sum of all chunks (`chunk_position == "last"`), such a call is invalid here, as it is without streaming.
    """

    model_config = ConfigDict(defer_build=False)
    type: Literal["AIMessageChunk"] = "AIMessageChunk"  # type: ignore[assignment]

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the id of core's own chunk."""
        return [*cls.get_lc_namespace(), "AIMessageChunk"]

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Serialize a sum with an invalid call as a message: as a chunk of core, loading it would repair the call."""
        if self.chunk_position == "last" and self.invalid_tool_calls:
            return message_chunk_to_message(self).to_json()
        return super().to_json()

    @model_validator(mode="after")
    def init_tool_calls(self) -> Self:
        """Parse `tool_call_chunks`. Overrides core's validator of the same name, which tries to repair each of them."""
        chunks = self.tool_call_chunks
        if not (chunks or self.tool_calls or self.invalid_tool_calls):  # nearly every chunk
            return self
        if chunks and self.chunk_position == "last":
            self._read_complete_calls()
        elif any(_may_be_object(chunk["args"]) for chunk in chunks) or not chunks:
            super().init_tool_calls()  # type: ignore[operator]
        else:
            self.invalid_tool_calls = [
                invalid_tool_call(name=chunk["name"], args=chunk["args"], id=chunk["id"], error=None)
                for chunk in chunks
            ]
        return self

    def _read_complete_calls(self) -> None:
        calls = [read_tool_call(chunk["id"], chunk["name"], chunk["args"] or "") for chunk in self.tool_call_chunks]
        self.tool_calls = [call for call in calls if call["type"] == "tool_call"]
        self.invalid_tool_calls = [call for call in calls if call["type"] == "invalid_tool_call"]
        if isinstance(self.content, list):  # output_version v1: the blocks contain the calls too
            found = iter(calls)
            self.content = [
                {**next(found)} if isinstance(block, dict) and block.get("type") in _CALL_BLOCKS else block
                for block in self.content
            ]


def _may_be_object(arguments: str | None) -> bool:
    """Whether core could repair a part of arguments to an object; it takes an empty string for an empty object."""
    return not arguments or arguments.lstrip().startswith("{")


_CALL_BLOCKS = frozenset({"tool_call", "tool_call_chunk", "invalid_tool_call"})


def translate_content(message: AIMessage) -> list[ContentBlock]:
    """Return the content blocks of a message: reasoning, text, tool calls."""
    return _text_blocks(message) + cast("list[ContentBlock]", [*message.tool_calls, *message.invalid_tool_calls])


def translate_content_chunk(chunk: AIMessageChunk) -> list[ContentBlock]:
    """Return the content blocks of a chunk, with an index by which blocks of the same kind are merged.

    Core numbers blocks without an index from 0 and merges those with equal indices. The server's indices of tool calls
    would collide with these numbers; strings do not.
    """
    if chunk.chunk_position == "last":
        return translate_content(chunk)
    blocks = _text_blocks(chunk, numbered=True)
    for call in chunk.tool_call_chunks:
        block = ToolCallChunk(type="tool_call_chunk", id=call["id"], name=call["name"], args=call["args"])
        block["index"] = f"lc_tc_{call['index']}"
        blocks.append(block)
    return blocks


def _text_blocks(message: AIMessage, *, numbered: bool = False) -> list[ContentBlock]:
    if not isinstance(message.content, str):
        raise NotImplementedError  # from another model: core does its best
    blocks: list[ContentBlock] = []
    if reasoning := message.additional_kwargs.get("reasoning_content"):
        blocks.append(ReasoningContentBlock(type="reasoning", reasoning=reasoning))
        if numbered:
            blocks[-1]["index"] = "lc_rs_0"
    if message.content:
        blocks.append(TextContentBlock(type="text", text=message.content))
        if numbered:
            blocks[-1]["index"] = "lc_txt_0"
    return blocks


register_translator(PROVIDER, translate_content, translate_content_chunk)
