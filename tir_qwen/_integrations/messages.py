"""Reasoning and placeholders of a conversation's earlier messages, in wire format."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

from ..types import JSON

T = TypeVar("T")

logger = logging.getLogger("tir_qwen")


def add_reasoning(wire: Sequence[JSON], messages: Sequence[T], reasoning_of: Callable[[T], str]) -> None:
    """Add the reasoning to the assistant messages of the current tool loop, after the user's last message.

    The chat template drops the reasoning of earlier turns, so it is not sent.

    Args:
        wire: The messages in wire format; changed in place.
        messages: The same messages as the framework has them.
        reasoning_of: Returns the reasoning of such a message, or an empty string.
    """
    if not any(message["role"] == "user" for message in wire):
        return
    for message, original in zip(reversed(wire), reversed(messages), strict=True):
        if message["role"] == "user":
            return
        if message["role"] == "assistant" and (text := reasoning_of(original)):
            # vLLM 0.11 to 0.19 reads the first name, later versions the second. `Dialect` drops the other, once known.
            message |= {"reasoning_content": text, "reasoning": text}


@lru_cache(maxsize=1000)
def placeholder(name: str) -> str:
    """Return what is sent instead of an earlier answer or tool result that the model cannot see.

    It is logged once for each name; the cache has a limit because a server could invent names.

    Args:
        name: What it is, such as `image`.
    """
    text = f"[{name}, not shown to this model]"
    logger.warning("The model accepts text only: a part of the conversation is sent as %r.", text)
    return text
