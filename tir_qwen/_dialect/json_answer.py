"""JSON as an answer: asking the model for it, finding it in the text, and saying what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ValidationError, from_json

from .._json import dump_json
from ..types import JSON
from .json_schema import describes_objects

_OBJECT = r'\{\s*(?:["}]|\Z)'
_OBJECT_OR_ARRAY = rf'{_OBJECT}|\[\s*(?:[\[{{"\]\d-]|true\b|false\b|null\b|\Z)'
"""How an object begins, or an array."""
_DECODER = json.JSONDecoder()  # pydantic's parser does not say where a value ends
_MAX_LENGTH = 1000
"""Maximum number of characters of a validator's error to report."""


def describe_schema(schema: JSON | None, when: str = "Give your answer") -> str:
    """Return a prompt to answer with JSON that follows `schema` (None: any object).

    vLLM turns a schema into a grammar but does not show it to the model. Without this prompt, the model would not know
    the names and descriptions of the fields that the grammar makes it write.
    """
    if schema is None:
        return f"{when} as one JSON object, and nothing else."
    kind = "object" if describes_objects(schema) else "value"
    text = dump_json(schema, "the schema").decode()
    return f"{when} as one JSON {kind} that follows this JSON schema, and nothing else:\n{text}"


def describe_tools(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return a prompt to follow the schemas of tools, of which a server gets only a part."""
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    text = dump_json(schemas, "the tools").decode()
    return f"The arguments of each tool must follow its JSON schema:\n{text}"


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


def has_description(messages: Sequence[Mapping[str, Any]], schema: JSON) -> bool:
    """Whether the system message already contains a schema."""
    return with_description(messages, describe_schema(schema)) == list(messages)


def extract_json(text: str, *, is_object: bool = False) -> str:
    """Return the JSON in an answer, without surrounding Markdown fences or prose.

    If there is none, or several values, the result is not JSON.

    Args:
        text: The answer.
        is_object: Whether only an object is expected, so that a bracket before it is part of the prose.
    """
    whole = _well_formed(text.strip())
    if _is_json(whole):
        return whole
    start = find_json(whole, is_object=is_object)
    found = _well_formed(whole[start : max(whole.rfind("}"), whole.rfind("]")) + 1])
    if _is_json(found):
        return found
    try:
        _, end = _DECODER.raw_decode(whole, start)
    except (ValueError, RecursionError):
        return found
    has_another = find_json(whole, end, is_object=is_object) < len(whole)
    return found if has_another else whole[start:end]


def find_json(text: str, start: int = 0, *, is_object: bool = False) -> int:
    """Return the position at which the first object or array begins; the end of `text` if there is none.

    Braces and brackets of prose, as in `{name}`, do not begin one.
    """
    found = re.compile(_OBJECT if is_object else _OBJECT_OR_ARRAY).search(text, start)
    return found.start() if found else len(text)


def contains_json(text: str, *, is_object: bool = False) -> bool:
    """Whether `text` contains JSON: an object, or any value."""
    found = extract_json(text, is_object=is_object)
    return _is_json(found) and (not is_object or found.startswith("{"))


def explain_failure(text: str, finish_reason: str | None, error: Exception) -> str:
    """Explain why `text` is not the requested object; building it raised `error`."""
    if finish_reason == "length":
        return "max_tokens (or the context window) truncated the answer before its object was complete"
    if not extract_json(text):
        return "the answer contains no JSON"
    return f"the answer is not the requested object: {error}"


def describe_error(error: ValueError) -> str:
    """Return a validator's error in one line, with the places of pydantic's errors; it may quote the answer."""
    text = str(error)
    if isinstance(error, ValidationError):
        text = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}".removeprefix(": ")
            for one in error.errors(include_url=False, include_context=False)
        )
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except (ValueError, TypeError):  # TypeError: lone surrogates
        return False
    return True


def _well_formed(text: str) -> str:
    r"""Return JSON with halves of characters (`"\ud83d"`) replaced by U+FFFD: pydantic does not accept them."""
    if "\\u" not in text or _is_json(text):
        return text
    try:
        plain = json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
