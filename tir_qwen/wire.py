"""What both faces write of a conversation's past: tool calls, and the reasoning that led to them (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from .errors import ConfigurationError
from .types import JSON


def json_text(value: Any, what: str) -> str:
    """Write `value` as JSON.

    Raises:
        ConfigurationError: It cannot be; says `what` it is, and quotes nothing.
    """
    try:
        text = to_json(value).decode()
        if "NaN" in text or "Infinity" in text:  # perhaps within a string
            from_json(text, allow_inf_nan=False)
    except (PydanticSerializationError, ValueError, RecursionError):
        pass
    else:
        return text
    raise ConfigurationError(
        f"{what} cannot be written as JSON: it holds something that is neither text, a number, a list nor a dict, or"
        " text with lone surrogates."
    )


def object_of(text: str) -> JSON | None:
    """The JSON object that `text` is, or None: arguments of a tool call may be cut or malformed."""
    try:
        value = from_json(text)
    except (ValueError, TypeError):  # the latter of lone surrogates
        return None
    return value if isinstance(value, dict) else None


def tool_call_to_wire(id_: str | None, name: str | None, arguments: dict[str, Any] | str | None) -> JSON:
    """Write a tool call of the past.

    The server demands JSON. Arguments that are none become a JSON string, which the chat template prints as the model
    wrote them.
    """
    if not isinstance(arguments, str) or object_of(arguments) is None:
        arguments = json_text(arguments or {}, f"the arguments of the tool call {name!r}")
    return {"id": id_ or "", "type": "function", "function": {"name": name or "", "arguments": arguments}}


def add_reasoning(wire: Sequence[JSON], reasoning: Sequence[str]) -> None:
    """Send the reasoning of each message back where the model goes on from it: within a tool loop.

    Of the turns before the last message of the user, the chat template drops the reasoning, so it is not sent.

    Args:
        wire: The messages, in which it is written down.
        reasoning: That of each message; empty where there is none.
    """
    users = [position for position, message in enumerate(wire) if message["role"] == "user"]
    if not users:
        return
    for message, thought in zip(wire[users[-1] :], reasoning[users[-1] :], strict=True):
        if message["role"] == "assistant" and thought:
            # The names that vLLM reads: 0.11 to 0.19, and since.
            message |= {"reasoning_content": thought, "reasoning": thought}
