"""Earlier answers that mention the tags around reasoning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._response.text.think_tags import CLOSE, OPEN
from ..types import Messages
from .prompted_tools import message_text

_MENTION = f"{CLOSE[0]}\N{ZERO WIDTH SPACE}{CLOSE[1:]}"


def keep_mentioned_tags(messages: Messages, *, is_continued: bool = False) -> list[Mapping[str, Any]]:
    """Return the messages so that the chat template keeps the whole text of earlier answers.

    Qwen3's template takes everything before a `</think>` for reasoning, and drops it. So the tag gets an invisible
    space, unless the text begins with the reasoning: that is meant to be dropped.

    Args:
        messages: The conversation.
        is_continued: Whether the model continues the last message, which is therefore sent as it is.
    """
    last = len(messages) - 1 if is_continued else None
    return [message if place == last else _keep_tags(message) for place, message in enumerate(messages)]


def _keep_tags(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if message.get("role") != "assistant" or CLOSE not in message_text(message):
        return message
    content = message_text(message)
    reasoning, tag, answer = content.partition(CLOSE) if content.lstrip().startswith(OPEN) else ("", "", content)
    return {**message, "content": f"{reasoning}{tag}{answer.replace(CLOSE, _MENTION)}"}
