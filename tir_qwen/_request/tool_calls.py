"""Earlier tool calls and their errors in wire format."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from .._json import dump_json, parse_object
from ..types import JSON, Messages


def tool_call_to_wire(id_: str | None, name: str | None, arguments: JSON | str | None) -> JSON:
    """Return an earlier tool call in wire format.

    The server requires JSON arguments. Others are sent as a JSON string, which the chat template writes out just as the
    model wrote it. JSON has no NaN and no infinite numbers, so these are sent as text.
    """
    arguments = arguments or {}
    parsed = parse_object(arguments) if isinstance(arguments, str) else arguments
    is_text = isinstance(arguments, str) and parsed is not None
    if not is_text or "NaN" in str(arguments) or "Infinity" in str(arguments):
        what = f"the arguments of the tool call {name!r}"
        arguments = dump_json(arguments if parsed is None else parsed, what, nan_as_text=True).decode()
    return {"id": id_ or "", "type": "function", "function": {"name": name or "", "arguments": arguments}}


def error_result(id_: str | None, error: str) -> JSON:
    """Return the message that takes the place of the result of an invalid call."""
    text = f"Error: this tool call was not run: {error}. Correct it, or answer without it."
    return {"role": "tool", "tool_call_id": id_ or "", "content": text}


def with_results_in_order(messages: Messages) -> list[Mapping[str, Any]]:
    """Return the messages with the results of parallel calls in the order of the calls.

    Qwen3's chat template writes no ids, so the model can tell results apart only by their order. Agents of LlamaIndex
    return them in the order in which the tools have finished. Results that do not match the calls stay as they are.
    """
    ordered: list[Mapping[str, Any]] = []
    for is_result, group in groupby(messages, lambda message: message.get("role") == "tool"):
        run = list(group)
        if is_result and len(run) > 1 and ordered:
            places = {call.get("id"): place for place, call in enumerate(ordered[-1].get("tool_calls") or ())}
            ids = [message.get("tool_call_id") for message in run]
            if len({*ids}) == len(ids) and places.keys() >= {*ids}:
                run.sort(key=lambda message: places[message.get("tool_call_id")])
        ordered += run
    return ordered
