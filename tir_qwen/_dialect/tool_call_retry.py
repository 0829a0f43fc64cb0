"""Asks the model again if none of its tool calls can be run.

An agent would otherwise end there, with an empty answer: it goes on only for calls that it can run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .._request.body import Body
from .._request.tool_calls import error_result, tool_call_to_wire
from .._response.arguments import TRUNCATED
from ..errors import TIRError
from ..types import JSON, Choice, Completion, Delta, Usage
from .usage import add_usage

logger = logging.getLogger("tir_qwen")

_LOST_CALL = "Your last answer was empty. If it was meant to be a tool call, write its JSON without errors."


class ToolCallRetry:
    """The one or two requests of a call with tools, and how their deltas form a single answer.

    Send `first_request`, and pass each delta of its answer through `feed`. If `next_request` returns a request, send it
    and do the same, or call `request_failed`. Finally, pass on what `remaining` yields.

    The second answer continues the first one: the invalid calls stay in it, since a stream has already passed them on.
    """

    def __init__(self, body: Body, *, for_invalid_calls: bool, for_lost_calls: bool) -> None:
        """Start a call.

        Args:
            body: The request.
            for_invalid_calls: Ask again if the answer contains tool calls, but none that can be run.
            for_lost_calls: Ask again if the answer is empty: vLLM's streams lose a call that is not an object with a
                name.
        """
        self.first_request = body
        self._for_invalid_calls = for_invalid_calls
        self._for_lost_calls = for_lost_calls
        self._is_valid: dict[int, bool] = {}  # of each call of the first answer
        self._is_truncated = False
        self._content_end, self._reasoning_end = "", ""  # what separates the first answer's texts from the second's
        self._held_back: list[Delta] = []
        self._is_asked_again = False
        self._second_answer_began = False

    def feed(self, delta: Delta) -> Delta | None:
        """Return the part of a delta to pass on now."""
        if self._is_asked_again:
            return self._continue(delta)
        for part in delta.tool_calls:
            self._is_valid[part.index] = part.error is None and self._is_valid.get(part.index, True)
            self._is_truncated |= part.error == TRUNCATED
        self._content_end = "\n" if delta.content.strip() else self._content_end
        self._reasoning_end = "\n" if delta.reasoning else self._reasoning_end
        if delta.finish_reason and self._must_ask_again(delta.finish_reason):
            self._held_back.append(Delta(finish_reason=delta.finish_reason, stop_reason=delta.stop_reason))
            return replace(delta, finish_reason=None, stop_reason=None)
        if delta.last and self._held_back:
            self._held_back.append(delta)
            return None
        return delta

    def next_request(self, completion: Completion) -> Body | None:
        """Return the body of the second request; None if the first answer needs none."""
        if self._is_asked_again or not self._held_back:
            return None
        self._is_asked_again = True
        logger.info("The model is asked again: its answer contains no tool call that can be run.")
        return replace(self.first_request, messages=[*self.first_request.messages, *_correction(completion.first)])

    def request_failed(self, error: TIRError) -> None:
        """Fall back to the first answer.

        Raises:
            TIRError: `error`, if it ended the first answer, or the second one had begun.
        """
        if not self._is_asked_again or self._second_answer_began:
            raise error
        logger.warning("The model could not be asked for a valid tool call: %s", error)

    def remaining(self) -> Iterator[Delta]:
        """Yield what was held back of the first answer, unless the second one took its place."""
        if not self._second_answer_began:
            yield from self._held_back

    @property
    def _first_usage(self) -> Usage | None:
        return self._held_back[-1].usage

    def _must_ask_again(self, finish_reason: str) -> bool:
        if self._is_valid:
            return self._for_invalid_calls and not self._is_truncated and not any(self._is_valid.values())
        return self._for_lost_calls and finish_reason == "stop" and not self._content_end

    def _continue(self, delta: Delta) -> Delta:
        """Return a delta of the second answer as a delta of the whole one."""
        self._second_answer_began = True
        if delta.last:
            return replace(delta, usage=add_usage(self._first_usage, delta.usage))
        changes: dict[str, Any] = {"response": None}  # already reported by the first answer
        if delta.content:
            changes["content"], self._content_end = self._content_end + delta.content, ""
        if delta.reasoning:
            changes["reasoning"], self._reasoning_end = self._reasoning_end + delta.reasoning, ""
        if delta.tool_calls:
            first_index = max(self._is_valid, default=-1) + 1
            changes["tool_calls"] = [replace(part, index=first_index + part.index) for part in delta.tool_calls]
        return replace(delta, **changes)


def _correction(answer: Choice) -> list[JSON]:
    """Return an answer, and what is wrong with its tool calls, as further messages of the conversation."""
    message: JSON = {"role": "assistant", "content": answer.content}
    if answer.reasoning:
        message |= {"reasoning_content": answer.reasoning, "reasoning": answer.reasoning}
    if not answer.tool_calls:
        return [message, {"role": "user", "content": _LOST_CALL}]
    message["tool_calls"] = [tool_call_to_wire(call.id, call.name, call.arguments) for call in answer.tool_calls]
    return [message, *(error_result(call.id, call.error or "") for call in answer.tool_calls)]
