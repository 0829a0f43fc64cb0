"""JSON as an answer: asking the model for it, finding it in the text, and saying what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from .._json import dump_json
from ..types import JSON
from .json_schema import describes_objects

_OPENING = re.compile(r"[{\[]")
_BRACE = re.compile(r"{")
_CLOSING = re.compile(r"[}\]](?=[^}\]]*\Z)")
_FENCE = "```"
_DECODER = json.JSONDecoder()  # pydantic's parser does not say where a value ends
_MAX_ERRORS = 10
"""Number of a validator's errors that are named."""


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


def extract_json(text: str, *, is_object: bool = False) -> str:
    """Return the JSON in an answer, without surrounding Markdown fences or prose; of several values, the last one.

    Args:
        text: The answer.
        is_object: Whether only an object is expected, so that a bracket before it is part of the prose.
    """
    whole = _well_formed(text.strip())
    if _is_json(whole):
        return whole
    start = find_last_value(whole, is_object=is_object)
    end = _CLOSING.search(whole, start)
    return _well_formed(whole[start : end.end()]) if end else ""


def find_value(text: str, start: int = 0, *, is_object: bool = False) -> int:
    """Return the position of the first brace, or bracket, in `text`; the end of `text` if there is none."""
    found = (_BRACE if is_object else _OPENING).search(text, start)
    return found.start() if found else len(text)


def find_last_value(text: str, start: int = 0, *, is_object: bool = False) -> int:
    """Return the position at which the last object or array in `text` begins; the end of `text` if there is none.

    Only the last one may be incomplete. It is at the beginning, after another one, or in a Markdown fence.
    """
    last, following = len(text), find_value(text, start, is_object=is_object)
    while following < len(text):
        last = following
        try:
            _, end = _DECODER.raw_decode(text, last)
        except (ValueError, RecursionError):
            end = text.find(_FENCE, last)
        following = find_value(text, end, is_object=is_object) if end >= 0 else len(text)
    return last


def contains_json(text: str, *, is_object: bool = False) -> bool:
    """Whether `text` contains JSON: an object, or any value."""
    found = extract_json(text, is_object=is_object)
    return _is_json(found) and (not is_object or found.startswith("{"))


def explain_failure(text: str, finish_reason: str | None, error: Exception) -> str:
    """Explain why `text` is not the requested object; building it raised `error`."""
    if finish_reason == "length":
        return "max_tokens (or the context window) truncated the answer before its object was complete"
    if not extract_json(text):
        return "the answer contains no JSON object"
    return f"the answer is not the requested object: {error}"


def describe_error(error: ValueError) -> str:
    """Return a validator's error in one line, with the place of each of pydantic's errors."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return " ".join(str(error).split())
    lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in errors()]
    more = [f"and {len(lines) - _MAX_ERRORS} more"] if len(lines) > _MAX_ERRORS else []
    return " ".join("; ".join([*lines[:_MAX_ERRORS], *more]).split())


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
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
