"""JSON objects as answers: asking the model for one, and finding it in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from .._json import dump_json
from ..types import JSON


def describe_schema(schema: JSON | None, when: str = "Give your answer") -> str:
    """Return a prompt to answer with an object that follows `schema` (None: any object).

    vLLM turns a schema into a grammar but does not show it to the model. Without this prompt, the model would not know
    the names and descriptions of the fields that the grammar makes it write.
    """
    if schema is None:
        return f"{when} as one JSON object, and nothing else."
    text = dump_json(schema, "the schema").decode()
    return f"{when} as one JSON object that follows this JSON schema, and nothing else:\n{text}"


def with_description(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """Append `text` to the system message, unless that already contains its last line; return the messages."""
    if not messages:
        return []  # rejected when the request is built
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    existing, last_line = first.get("content") or "", text.rpartition("\n")[2]
    if isinstance(existing, str):
        content: Any = existing if last_line in existing else f"{existing}\n\n{text}".lstrip("\n")
    else:
        is_described = any(last_line in part.get("text", "") for part in existing)
        content = existing if is_described else [*existing, {"type": "text", "text": text}]
    return [{**first, "content": content}, *messages[1:]]


def extract_object(text: str) -> str:
    """Return the text from the first brace to the last, without surrounding Markdown fences or prose."""
    return text[text.find("{") : text.rfind("}") + 1]


def contains_object(text: str) -> bool:
    """Whether `text` contains a JSON object."""
    try:
        return isinstance(from_json(extract_object(text)), dict)
    except ValueError:
        return False


def explain_failure(text: str, finish_reason: str | None, error: Exception) -> str:
    """Explain why `text` is not the requested object; building it raised `error`."""
    if finish_reason == "length":
        return "max_tokens (or the context window) truncated the answer before its object was complete"
    if "{" not in text:
        return "the answer contains no JSON object"
    return f"the answer is not the requested object: {error}"
