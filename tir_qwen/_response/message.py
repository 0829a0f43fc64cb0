"""Conversion of the messages and deltas of other servers to the shape of vLLM's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..types import JSON
from .fields import expect

ORDINARY_FIELDS = frozenset({"role", "content", "reasoning", "reasoning_content", "tool_calls"})
"""The fields of a delta that need no conversion, if its content is text."""
TEXT_TYPES = frozenset({str, type(None)})


def convert(said: Any) -> JSON:
    """Return a message or delta with its reasoning, text and tool calls in the fields where vLLM puts them.

    - Content as a list of parts (Mistral) is split into text and reasoning.
    - A refusal (OpenAI) is the text of an answer that has no other.
    - The `function_call` that preceded `tool_calls` in OpenAI's API is the only tool call.

    Raises:
        MalformedChunkError: It is not an object, or its content cannot be read as text.
    """
    converted: JSON = dict(expect(said, dict, "delta"))
    content = converted.get("content")
    if isinstance(content, (list, dict)):
        parts = content if isinstance(content, list) else [content]
        content = converted["content"] = "".join(_texts(parts, "text"))
        if thinking := "".join(_texts(parts, "thinking")):
            converted["reasoning"] = thinking
    expect(content or "", str, "content")
    if not content and isinstance(refusal := converted.get("refusal"), str):
        converted["content"] = refusal
    if not converted.get("tool_calls") and (function := converted.get("function_call")):
        converted["tool_calls"] = [{"index": 0, "function": function}]
    return converted


def _texts(parts: Iterable[Any], kind: str) -> Iterable[str]:
    """Yield the texts of one kind: `text` or `thinking`, whose value may be a list of text parts itself."""
    for part in parts:
        if isinstance(part, str):
            if kind == "text":
                yield part
            continue
        expect(part, dict, "content part")
        if (part.get("type") or "text").removeprefix("output_") != kind:  # references and images have no text
            continue
        value = part.get(kind) or ""
        if isinstance(value, list):
            yield from _texts(value, "text")
        else:
            yield expect(value, str, "content")
