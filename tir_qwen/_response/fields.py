"""Validation of the fields of a chunk."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from ..errors import MalformedChunkError
from ..types import JSON, ToolCallDelta

_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", int: "an integer"}
_MAX_DIGITS = 10


def read_tool_call_delta(position: int, call: Any) -> ToolCallDelta:
    """Read a tool call or a part of one; `position` is its index if it has none, as in a non-streaming response."""
    index = expect(call, dict, "tool call").get("index", position)
    if type(index) is not int:
        index = position if index is None else read_index(index)
    function = expect(call.get("function") or {}, dict, "function")
    arguments = function.get("arguments") or ""
    if type(arguments) is not str:
        arguments = to_json(arguments).decode()
    call_id = call.get("id") or None
    if type(call_id) is int:
        call_id = None  # TGI numbers the calls of each answer: the same number names calls of other answers too
    elif call_id is not None:
        expect(call_id, str, "id")
    return ToolCallDelta(index, call_id, expect(function.get("name") or "", str, "name") or None, arguments)


def read_index(index: Any) -> int:
    """Read an index that some servers write as text or as a float."""
    if isinstance(index, str) and index.isdecimal() and index.isascii() and len(index) < _MAX_DIGITS:
        return int(index)
    if isinstance(index, float) and index.is_integer():
        return int(index)
    number: int = expect(index, int, "index")
    return number


def expect(value: Any, kind: type, name: str) -> Any:
    """Return `value`, checked to be of type `kind`.

    Raises:
        MalformedChunkError: It is not; the message says what the field `name` should contain.
    """
    if type(value) is not kind:
        raise MalformedChunkError(f"a chunk of the answer does not have {_TYPE_NAMES[kind]} for its {name}")
    return value


def items(parent: JSON, name: str) -> list[Any]:
    """Return the list in the field `name`, which may be null or missing, or an object if there is only one item."""
    value = parent.get(name)
    if type(value) is list:  # nearly always
        return value
    if type(value) is dict:
        return [value] if value else []
    found: list[Any] = [] if value is None else expect(value, list, name)
    return found
