"""Qwen3's soft switches `/think` and `/no_think`, which turn thinking on and off in a message."""

from __future__ import annotations

import re

from ..types import Messages
from .prompted_tools import message_text

_SWITCH_AT_END = r"/(no_)?think\s*$"
_SWITCH = r"(?<!\S)/(no_)?think\b"


def add_soft_switch(messages: Messages, thinking: bool) -> Messages:
    """Append a switch to the last user message, unless it already ends with one; return the messages."""
    last = _last_user_position(messages)
    if last is None or re.search(_SWITCH_AT_END, message_text(messages[last])):
        return messages
    content, switch = messages[last].get("content") or "", " /think" if thinking else " /no_think"
    content = content + switch if isinstance(content, str) else [*content, {"type": "text", "text": switch}]
    return [*messages[:last], {**messages[last], "content": content}, *messages[last + 1 :]]


def has_soft_switch(messages: Messages) -> bool:
    """Whether a system or user message already contains a switch."""
    return any(
        re.search(_SWITCH, message_text(message)) for message in messages if message.get("role") in ("system", "user")
    )


def _last_user_position(messages: Messages) -> int | None:
    return next((at for at in reversed(range(len(messages))) if messages[at]["role"] == "user"), None)
