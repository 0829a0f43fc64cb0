"""Messages by which a model continues an answer of its own, after the end of its reasoning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._request.body import PartialAnswer
from .._response.text.think_tags import CLOSE, OPEN
from ..types import JSON
from .mentioned_tags import break_tags

CONTINUE_FIELDS: JSON = {"continue_final_message": True, "add_generation_prompt": False}
"""The fields of a request whose last message is to be continued."""
_GO_ON = "Continue this answer exactly where it stops."
_ANSWER_NOW = "There is no more time to think. Answer now, based on these thoughts."


def with_beginning(messages: Sequence[Mapping[str, Any]], answer: PartialAnswer) -> list[Mapping[str, Any]]:
    """Append the beginning of an answer, in the format of the chat template: it renders what the model has written.

    The template would put an empty think block before one that is not closed.
    """
    text = f"{OPEN}\n{break_tags(answer.reasoning)}\n{CLOSE}\n\n{break_tags(answer.content)}"
    return [*messages, {"role": "assistant", "content": text}]


def with_request_to_go_on(messages: Sequence[Mapping[str, Any]], answer: PartialAnswer) -> list[Mapping[str, Any]]:
    """Append the beginning of an answer, and a request to continue it, for a server that cannot continue a message."""
    said, request = (answer.content, _GO_ON) if answer.content.strip() else (answer.reasoning, _ANSWER_NOW)
    earlier = [{"role": "assistant", "content": break_tags(said)}] if said.strip() else []
    return [*messages, *earlier, {"role": "user", "content": request}]
