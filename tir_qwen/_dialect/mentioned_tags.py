"""Messages that mention the tags and tokens that structure the prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .._response.text.think_tags import CLOSE, OPEN
from ..types import Messages
from .prompted_tools import message_text

_CONTROL_MARK = r"<(?=\|(?:im_start|im_end|endoftext)\|>)"
"""The first character of a token that begins or ends a message, wherever it stands."""
_BREAK = "<\N{ZERO WIDTH SPACE}"


def keep_mentioned_tags(messages: Messages, *, is_continued: bool = False) -> list[Mapping[str, Any]]:
    """Return the messages so that the model reads what they mention as text, and all of it.

    - A `<|im_end|>` in the content, such as a web page that a tool returns, would end the message, and what follows it
      could pass for another one: the tokenizer does not know where a token comes from.
    - Qwen3's chat template takes everything before a `</think>` of an earlier answer for reasoning, and drops it. Text
      that begins with the reasoning is meant to be treated like that.

    An invisible space is inserted into them.

    Args:
        messages: The conversation.
        is_continued: Whether the model continues the last message, which is therefore sent as it is.
    """
    last = len(messages) - 1 if is_continued else None
    return [message if place == last else _keep_tags(message) for place, message in enumerate(messages)]


def break_tags(text: str) -> str:
    """Return a text that neither ends a message nor begins or ends reasoning."""
    return _break_tokens(text).replace(CLOSE, f"{_BREAK}{CLOSE[1:]}").replace(OPEN, f"{_BREAK}{OPEN[1:]}")


def _keep_tags(message: Mapping[str, Any]) -> Mapping[str, Any]:
    text = message_text(message)
    if "<|" in text:
        content = message["content"]
        kept = _break_tokens(content) if isinstance(content, str) else [_break_tokens_of(part) for part in content]
        message = {**message, "content": kept}
    if CLOSE in text and message.get("role") == "assistant":
        text = message_text(message)
        reasoning, tag, answer = text.partition(CLOSE) if text.lstrip().startswith(OPEN) else ("", "", text)
        message = {**message, "content": f"{reasoning}{tag}{answer.replace(CLOSE, f'{_BREAK}{CLOSE[1:]}')}"}
    return message


def _break_tokens(text: str) -> str:
    return re.sub(_CONTROL_MARK, _BREAK, text)


def _break_tokens_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**part, "text": _break_tokens(part["text"])} if part.get("text") else part
