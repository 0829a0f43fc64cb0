"""Content blocks of LangChain messages and chunks."""

from __future__ import annotations

from typing import cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import ContentBlock, ReasoningContentBlock, TextContentBlock, ToolCallChunk

PROVIDER = "tir_qwen"


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
