"""JSON objects as a model's answer: described to it, found in its text, read while they grow (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from .types import JSON
from .wire import json_text

_OPEN_NUMBER = re.compile(r"(?<=[:,\[])\s*-?[0-9.eE+-]+$")
"""A number at the end of what has come: more digits may follow."""
_ESCAPE = re.compile(r"\\.")
_OFTEN = 2048
"""Characters up to which a growing text is read again whenever more of it has come."""


def description_of(schema: JSON | None, when: str = "Give your answer") -> str:
    """What tells the model to answer with an object of this schema.

    vLLM makes a grammar of a schema, but does not show it to the model, which then knows neither the names nor the
    descriptions of what it is to write before it is forced to write them.
    """
    if schema is None:
        return f"{when} as one JSON object, and nothing else."
    text = json_text(schema, "the schema")
    return f"{when} as one JSON object that follows this JSON schema, and nothing else:\n{text}"


def with_description(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """The messages with `text` at the end of the system message, if what its last line says is not there yet."""
    if not messages:
        return []  # which is refused as such
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    known, told = first.get("content") or "", text.rpartition("\n")[2]
    if isinstance(known, str):
        content: Any = known if told in known else f"{known}\n\n{text}".lstrip("\n")
    else:
        is_told = any(told in part.get("text", "") for part in known)
        content = known if is_told else [*known, {"type": "text", "text": text}]
    return [{**first, "content": content}, *messages[1:]]


def object_text(text: str) -> str:
    """From the first brace to the last: a fence of Markdown or a sentence around an object is not asked for."""
    return text[text.find("{") : text.rfind("}") + 1]


def object_in(text: str) -> bool:
    """Whether there is an object in a text."""
    try:
        return isinstance(from_json(object_text(text)), dict)
    except ValueError:
        return False


def problem_of(text: str, finish_reason: str | None, error: Exception) -> str:
    """Why a text is not the object that was asked for, where `error` came of building that."""
    if finish_reason == "length":
        return "max_tokens (or the context window) cut the answer before its object was complete"
    if "{" not in text:
        return "the answer holds no JSON object"
    return f"the answer is not the object that was asked for: {error}"


class GrowingObject:
    """An object that streams in: `read` it as often as more of its text has come.

    It is not parsed anew for every token of a long one, which would be quadratic: then it lags by some percent.
    """

    __slots__ = ("_known", "_next", "_value")

    def __init__(self) -> None:
        self._known = 0  # the length of the text that was parsed last,
        self._next = 1  # that of the one to parse next,
        self._value: JSON | None = None  # and what was found: the same object until then

    def read(self, text: str) -> JSON | None:
        """What there is of the object by now; a number that may get more digits is not."""
        if not self._known <= len(text) < self._next:
            self._value = _partial(text)
            self._known = len(text)
            self._next = len(text) + max(1, (len(text) - _OFTEN) // 64)
        return self._value


def _partial(text: str) -> JSON | None:
    start = text.find("{")
    if start < 0:
        return None
    begun = text[start:]
    if _ESCAPE.sub("", begun).count('"') % 2 == 0:  # else a string is open, and what looks like a number is not
        begun = _OPEN_NUMBER.sub("", begun)
    try:
        value: Any = from_json(begun, allow_partial="trailing-strings")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
