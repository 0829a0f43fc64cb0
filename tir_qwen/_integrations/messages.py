"""Earlier messages of a conversation on the wire: their tool calls, and the reasoning before these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._json import dump_json, parse_object
from ..types import JSON


def tool_call_to_wire(id_: str | None, name: str | None, arguments: dict[str, Any] | str | None) -> JSON:
    """Return an earlier tool call as on the wire.

    The server requires JSON. Arguments that are not JSON become a JSON string, which the chat template writes as the
    model wrote it.
    """
    if not isinstance(arguments, str) or parse_object(arguments) is None:
        arguments = dump_json(arguments or {}, f"the arguments of the tool call {name!r}")
    return {"id": id_ or "", "type": "function", "function": {"name": name or "", "arguments": arguments}}


def add_reasoning(wire: Sequence[JSON], reasoning: Sequence[str]) -> None:
    """Add the reasoning to the messages after which the model continues: those of the current tool loop.

    The chat template drops the reasoning of the turns before the user's last message, so it is not sent.

    Args:
        wire: The messages as on the wire, which are changed.
        reasoning: The reasoning of each message, or an empty string.
    """
    users = [position for position, message in enumerate(wire) if message["role"] == "user"]
    if not users:
        return
    for message, text in zip(wire[users[-1] :], reasoning[users[-1] :], strict=True):
        if message["role"] == "assistant" and text:
            # vLLM 0.11 to 0.19 reads the first name, later versions the second.
            message |= {"reasoning_content": text, "reasoning": text}
