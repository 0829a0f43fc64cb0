"""LangChain's content blocks of our messages, and the chunks that add up to them."""

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
    """A whole tool call: an invalid one, with the reason, unless its arguments are a JSON object."""
    problem = "the arguments are not a JSON object"
    try:
        parsed = from_json(arguments or "{}")
    except ValueError as error:
        parsed, problem = None, f"the arguments are not JSON: {error}"
    if isinstance(parsed, dict) and name:
        return tool_call(name=name, args=parsed, id=id_)
    return invalid_tool_call(name=name, args=arguments, id=id_, error=problem if name else "the call names no tool")


class _Whole(AIMessage):
    """What core makes of a whole chunk: it takes the first base of the chunk's class, which is to be an AIMessage."""

    model_config = ConfigDict(defer_build=True)  # there never is one

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return AIMessage(*args, **kwargs) if cls is _Whole else super().__new__(cls)


class StrictToolCallChunk(_Whole, AIMessageChunk):
    """A chunk whose sum is strict about tool calls.

    Core repairs the arguments of streamed calls: `{"city": "Par` would become a call for the city of Par. In a whole
    sum (`chunk_position == "last"`) such a call is an invalid one here, as it is in a whole answer.
    """

    model_config = ConfigDict(defer_build=False)
    type: Literal["AIMessageChunk"] = "AIMessageChunk"  # type: ignore[assignment]

    @classmethod
    def lc_id(cls) -> list[str]:
        """Serialize as core's own chunk."""
        return [*cls.get_lc_namespace(), "AIMessageChunk"]

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Serialize a whole sum with an invalid call as the message that it is: core's own chunk would repair it."""
        if self.chunk_position == "last" and self.invalid_tool_calls:
            return message_chunk_to_message(self).to_json()
        return super().to_json()

    @model_validator(mode="after")
    def init_tool_calls(self) -> Self:
        """Read `tool_call_chunks`; instead of core's method of this name, which tries to repair each of them."""
        chunks = self.tool_call_chunks
        if not (chunks or self.tool_calls or self.invalid_tool_calls):  # nearly every chunk
            return self
        if chunks and self.chunk_position == "last":
            self._read_whole_calls()
        elif any(_may_be_object(chunk["args"]) for chunk in chunks) or not chunks:
            super().init_tool_calls()  # type: ignore[operator]
        else:
            self.invalid_tool_calls = [
                invalid_tool_call(name=chunk["name"], args=chunk["args"], id=chunk["id"], error=None)
                for chunk in chunks
            ]
        return self

    def _read_whole_calls(self) -> None:
        calls = [read_tool_call(chunk["id"], chunk["name"], chunk["args"] or "") for chunk in self.tool_call_chunks]
        self.tool_calls = [call for call in calls if call["type"] == "tool_call"]
        self.invalid_tool_calls = [call for call in calls if call["type"] == "invalid_tool_call"]
        if isinstance(self.content, list):  # output_version v1: the blocks say the same
            found = iter(calls)
            self.content = [
                {**next(found)} if isinstance(block, dict) and block.get("type") in _CALL_BLOCKS else block
                for block in self.content
            ]


def _may_be_object(arguments: str | None) -> bool:
    """Whether a piece of arguments may be an object, if it is repaired; core takes nothing for an empty one."""
    return not arguments or arguments.lstrip().startswith("{")


_CALL_BLOCKS = frozenset({"tool_call", "tool_call_chunk", "invalid_tool_call"})


def translate_content(message: AIMessage) -> list[ContentBlock]:
    """The blocks of a whole message: reasoning, text, tool calls."""
    return _texts(message) + cast("list[ContentBlock]", [*message.tool_calls, *message.invalid_tool_calls])


def translate_content_chunk(chunk: AIMessageChunk) -> list[ContentBlock]:
    """The blocks of a chunk, numbered so that those of the same kind add up.

    Core numbers blocks that have no index by itself, from 0, and adds up what has the same one: the wire's numbers of
    tool calls would collide with it, strings do not.
    """
    if chunk.chunk_position == "last":
        return translate_content(chunk)
    blocks = _texts(chunk, numbered=True)
    for call in chunk.tool_call_chunks:
        block = ToolCallChunk(type="tool_call_chunk", id=call["id"], name=call["name"], args=call["args"])
        block["index"] = f"lc_tc_{call['index']}"
        blocks.append(block)
    return blocks


def _texts(message: AIMessage, *, numbered: bool = False) -> list[ContentBlock]:
    if not isinstance(message.content, str):
        raise NotImplementedError  # not as we wrote it: core reads it as well as it can
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
