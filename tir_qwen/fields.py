"""The fields of a chunk, each of which must be of its kind (pure)."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from .errors import MalformedChunkError
from .types import JSON, ToolCallDelta

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


def call_delta(position: int, call: Any) -> ToolCallDelta:
    """Read a tool call, or a piece of one."""
    index = expect(call, dict, "tool call").get("index")
    if index is None:  # a whole answer numbers by position
        index = position
    function = expect(call.get("function") or {}, dict, "function")
    arguments = function.get("arguments") or ""
    if isinstance(arguments, dict):
        arguments = to_json(arguments).decode()
    return ToolCallDelta(
        expect(index, int, "index"),
        expect(call.get("id") or "", str, "id") or None,
        expect(function.get("name") or "", str, "name") or None,
        expect(arguments, str, "arguments"),
    )


def expect(value: Any, kind: type, name: str) -> Any:
    """Return `value`, which must be of `kind`."""
    if type(value) is not kind:
        raise MalformedChunkError(f"a chunk of the answer has something else than {_NAMES[kind]} for its {name}")
    return value


def items(parent: JSON, name: str) -> list[Any]:
    """The list `name` of `parent`, which may be null or missing."""
    found = parent.get(name)
    if found is None:
        return []
    listed: list[Any] = expect(found, list, name)
    return listed
