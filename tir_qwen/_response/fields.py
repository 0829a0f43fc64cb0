"""Validation of the fields of a chunk."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from ..errors import MalformedChunkError
from ..types import JSON, ToolCallDelta

_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", int: "an integer"}


def read_tool_call_delta(position: int, call: Any) -> ToolCallDelta:
    """Read a tool call or a part of one; `position` is its index if it has none, as in a non-streaming response."""
    index = expect(call, dict, "tool call").get("index")
    if index is None:
        index = position
    function = expect(call.get("function") or {}, dict, "function")
    arguments = function.get("arguments") or ""
    if not isinstance(arguments, str):
        arguments = to_json(arguments).decode()
    return ToolCallDelta(
        expect(index, int, "index"),
        expect(call.get("id") or "", str, "id") or None,
        expect(function.get("name") or "", str, "name") or None,
        arguments,
    )


def expect(value: Any, kind: type, name: str) -> Any:
    """Return `value`, checked to be of type `kind`.

    Raises:
        MalformedChunkError: It is not; the message says what the field `name` should contain.
    """
    if type(value) is not kind:
        raise MalformedChunkError(f"a chunk of the answer does not have {_TYPE_NAMES[kind]} for its {name}")
    return value


def items(parent: JSON, name: str) -> list[Any]:
    """Return the list in the field `name`, which may be null or missing."""
    value = parent.get(name)
    if value is None:
        return []
    found: list[Any] = expect(value, list, name)
    return found
