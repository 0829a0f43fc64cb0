"""The text of content blocks, including those of other providers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Any

from tir_qwen import ConfigurationError
from tir_qwen._integrations import dump_json, placeholder

_TEXT_FIELDS: dict[str, tuple[str, ...]] = {
    "text": ("text", "data"),  # `data`: the source of an Anthropic document
    "output_text": ("text",),
    "refusal": ("refusal",),
    "reference": ("text",),  # Mistral: a cited part of the answer
    "input_text": ("text",),
    "text-plain": ("text",),
    "file": ("text",),  # of langchain-core 0.3
    "document": ("source",),
    "resource": ("text",),  # MCP
    "guard_content": ("text",),
    "guardContent": ("text",),
    "tool_result": ("content",),
    "toolResult": ("content",),
    "search_result": ("source", "content"),
    "searchResult": ("source", "content"),
    "web_search_result": ("url",),
    "web_fetch_result": ("url", "content"),
    "tool_reference": ("tool_name",),
    "tool_search_tool_search_result": ("tool_references",),
    "executable_code": ("executable_code",),
    "code_execution_result": ("code_execution_result", "stdout", "stderr", "content"),
    "encrypted_code_execution_result": (),
    "text_editor_code_execution_str_replace_result": ("lines",),
    "code_interpreter_call": ("code", "outputs"),
    "logs": ("logs",),
    "file_search_call": ("results",),
}
"""The fields that hold the text of a block, by its type: strings, blocks, or lists of both."""
_USUAL_TEXT_FIELDS = ("text", "stdout", "stderr", "content", "output", "error_code")
_TITLES = ("title", "filename")
_INLINE = frozenset({"text", "output_text", "refusal", "reference"})
"""Types of blocks that are parts of one text in an answer; others start on a new line."""
_TOOL_RESULTS = frozenset({"tool_result", "toolResult"})
_BEDROCK = frozenset(
    {
        "audio",
        "cachePoint",
        "citationsContent",
        "document",
        "guardContent",
        "image",
        "json",
        "reasoningContent",
        "searchResult",
        "toolResult",
        "toolUse",
        "video",
    }
)
"""Keys of the blocks in Bedrock's own format, which have no type."""
_CACHE_POINTS = frozenset({"cachePoint", "cache_point"})
_NOT_SENT = frozenset(
    {
        # The chat template drops the reasoning of earlier turns.
        "reasoning",
        "reasoning_content",
        "reasoningContent",
        "redacted_thinking",
        "thinking",
        # The message's `tool_calls` contain the same.
        "custom_tool_call",
        "function_call",
        "function_call_signature",
        "input_json_delta",
        "invalid_tool_call",
        "tool_call",
        "tool_call_chunk",
        "tool_use",
        "toolUse",
        # Calls that the provider's server has run; their results are blocks of their own.
        "apply_patch_call",
        "computer_call",
        "local_shell_call",
        "mcp_approval_request",
        "mcp_list_tools",
        "mcp_tool_use",
        "server_tool_call",
        "server_tool_call_chunk",
        "server_tool_use",
        "shell_call",
        "tool_search_call",
        # Anthropic: another model has taken over.
        "fallback",
    }
)
"""Types of blocks in answers and tool results that are neither text nor needed by the model."""
_NAMES = {
    "bash_code_execution_output": "file",
    "code_execution_output": "file",
    "compaction": "summary of earlier messages",
    "computer_call_output": "image",
    "container_upload": "file",
    "file_data": "file",
    "file_search_call": "file search results",
    "image_generation_call": "image",
    "image_url": "image",
    "input_audio": "audio",
    "input_file": "file",
    "input_image": "image",
    "mcp_call": "tool result",
    "media": "file",
    "non_standard": "other content",
    "resource_link": "file",
    "server_tool_result": "tool result",
    "text-plain": "file",
    "tool_search_output": "tool search results",
    "video_url": "video",
    "web_fetch_tool_result": "web page",
    "web_search_call": "web search results",
    "web_search_tool_result": "web search results",
}
"""The name of a block in a placeholder, if it differs from the block's type."""


def text_of_blocks(blocks: Iterable[str | dict[Any, Any]], role: str, where: str) -> str:
    """Return the text of a message's content blocks, in order.

    In answers and tool results, a placeholder replaces what the model cannot see, such as an image.

    Args:
        blocks: The content of a message.
        role: Its role in wire format.
        where: Its name in error messages.

    Raises:
        ConfigurationError: A user or system message contains such a block, or a block is malformed.
    """
    texts = []
    try:
        for kind, fields in map(_identify, blocks):
            text = _block_text(kind, fields, where, lenient=role in ("assistant", "tool"))
            if text is not None:
                texts.append((role == "assistant" and kind in _INLINE, text))
    except RecursionError:
        raise ConfigurationError(f"{where} contains blocks that are nested too deeply.") from None
    # Outside of answers, vLLM too puts each block on its own line.
    return "\n".join(
        ("" if inline else "\n").join(text for _, text in group) for inline, group in groupby(texts, itemgetter(0))
    )


def _identify(block: Any) -> tuple[str | None, dict[Any, Any]]:
    """Return the type of a block, if it has one, and the dict of its fields."""
    if isinstance(block, str):
        return "text", {"type": "text", "text": block}
    if not isinstance(block, dict):
        return None, {}
    kind = block.get("type")
    if "type" not in block:
        kind = "text" if "text" in block else next((name for name in block if name in _BEDROCK), None)
    if not isinstance(kind, str):
        return None, block
    if kind == "non_standard" and isinstance(block.get("value"), dict):
        inner, fields = _identify(block["value"])
        return inner or kind, fields
    inner = block.get(kind)  # Bedrock and OpenAI put a block's fields under the name of its type
    return kind, inner if isinstance(inner, dict) and kind != "json" else block


def _block_text(kind: str | None, fields: dict[Any, Any], where: str, *, lenient: bool) -> str | None:
    """Return the text that is sent for a block, or None if nothing is.

    If `lenient`, as for answers and tool results, a placeholder may replace it; what a user sends must not be lost.
    """
    if kind == fields.get("type") == "text" and isinstance(text := fields.get("text"), str):  # nearly every block
        return text
    lenient = lenient or kind in _TOOL_RESULTS
    if kind in _CACHE_POINTS or (lenient and kind in _NOT_SENT):
        return None
    if lenient or kind in _TEXT_FIELDS or kind == "json":
        found = _read(kind, fields, where, lenient=lenient)
        if found is not None:
            return found
    if kind is None:
        raise ConfigurationError(f"{where} contains a block without a type and without text.")
    if kind in _INLINE:
        if lenient and all(fields.get(name) is None for name in _TEXT_FIELDS[kind]):
            return None
        raise ConfigurationError(f"{where} contains a block of type {kind!r} without text.")
    if not lenient:
        raise ConfigurationError(f"{where} contains a block of type {kind!r}: Qwen3-32B accepts text only.")
    return placeholder(_NAMES.get(kind, kind.replace("_", " ")))


def _read(kind: str | None, fields: dict[Any, Any], where: str, *, lenient: bool) -> str | None:
    """Return the text in the fields of a block, after its title, or None if there is no readable text."""
    if kind == "json":
        return dump_json(fields.get("json"), f"a block of {where}").decode()
    if kind == "text_editor_code_execution_view_result" and fields.get("file_type") != "text":
        return None
    names = _USUAL_TEXT_FIELDS if kind is None else _TEXT_FIELDS.get(kind, _USUAL_TEXT_FIELDS)
    texts = [text for name in names if (text := _value_text(fields.get(name), where, lenient=lenient)) is not None]
    if not texts:
        return None
    titles = [title for name in _TITLES if isinstance(title := fields.get(name), str)]
    return "\n".join(filter(None, [*titles, *texts]))


def _value_text(value: Any, where: str, *, lenient: bool) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _read(*_identify(value), where, lenient=lenient)
    if not isinstance(value, list):
        return None
    texts = []
    for kind, fields in map(_identify, value):
        text = (_block_text if kind else _read)(kind, fields, where, lenient=lenient)
        if text is not None:
            texts.append(text)
    return "\n".join(filter(None, texts)) if texts or not value else None
