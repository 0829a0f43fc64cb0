"""JSON objects as answers: how they are requested from the model, and how they are found in its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from .._json import dump_json
from ..types import JSON


def describe_schema(schema: JSON | None, when: str = "Give your answer") -> str:
    """Return the instruction to answer with an object of this schema (None: with any object).

    vLLM turns a schema into a grammar, but does not show it to the model. Without this instruction the model knows
    neither the names nor the descriptions of the fields that it is made to write.
    """
    if schema is None:
        return f"{when} as one JSON object, and nothing else."
    text = dump_json(schema, "the schema")
    return f"{when} as one JSON object that follows this JSON schema, and nothing else:\n{text}"


def with_description(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """Return the messages with `text` at the end of the system message, unless that contains its last line already."""
    if not messages:
        return []  # which is refused later
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
    """Return the text from the first brace to the last, without a Markdown fence or a sentence around it."""
    return text[text.find("{") : text.rfind("}") + 1]


def contains_object(text: str) -> bool:
    """Whether there is a JSON object in a text."""
    try:
        return isinstance(from_json(extract_object(text)), dict)
    except ValueError:
        return False


def explain_failure(text: str, finish_reason: str | None, error: Exception) -> str:
    """Return why a text is not the requested object, after `error` was raised by an attempt to build it."""
    if finish_reason == "length":
        return "max_tokens (or the context window) truncated the answer before its object was complete"
    if "{" not in text:
        return "the answer contains no JSON object"
    return f"the answer is not the requested object: {error}"
