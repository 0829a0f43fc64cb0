"""Asks the model again if all of its tool calls are invalid.

Otherwise, an agent would end there with an empty answer: it continues only if there is a valid call.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .._request.body import Body
from .._request.tool_calls import error_result, tool_call_to_wire
from .._response.arguments import LOST, REPEATED, TRUNCATED
from ..errors import TIRError
from ..types import JSON, Choice, Completion, Delta, ToolCallDelta, Usage, Validate
from .json_answer import describe_error, extract_json
from .usage import add_usage

logger = logging.getLogger("tir_qwen")


class ToolCallRetry:
    """The requests of a call with tools, and how their deltas form a single answer; see `flow.Flow`.

    If a stream has lost the model's call, or a part of it, the same request is sent again for a whole answer. If the
    calls of an answer are invalid, the model is told what is wrong and asked again. Each happens once at most.

    The later answers continue the first one: its invalid calls stay in it, since a stream has already passed them on.

    Attributes:
        asks_whole: Whether the next request is for a whole answer, even if the call is a stream.
    """

    def __init__(
        self,
        body: Body,
        *,
        for_invalid_calls: bool,
        for_lost_calls: bool,
        validate: Validate | None = None,
    ) -> None:
        """Start a call.

        Args:
            body: The request.
            for_invalid_calls: Ask again if the answer contains tool calls, but no valid one.
            for_lost_calls: Ask again if a stream has lost calls or parts of them, as streams of vLLM 0.9 do.
            validate: Raises ValueError if the arguments of a call are not valid.
        """
        self.first_request = body
        self.asks_whole = False
        self._may_correct = for_invalid_calls
        self._may_ask_whole = for_lost_calls
        self._validate = validate
        self._is_repeated = False  # whether the current request is the first one again
        self._calls: dict[int, list[ToolCallDelta]] = {}  # the parts of each call so far
        self._first_index = 0  # of the calls of the current answer
        self._answer_began = False
        self._text: list[str] = []  # of the current answer, if there is something to validate
        self._has_text = self._has_reasoning = False
        self._before_text = self._before_reasoning = ""  # what separates the texts of a later answer from those before
        self._to_replace = 0  # number of characters of text that should have been a call
        self._held_back: list[Delta] = []  # the end of the current answer
        self._earlier_end: list[Delta] = []  # the end of the answer before
        self._usage: Usage | None = None  # of the answers before

    def feed(self, delta: Delta) -> Delta | None:
        """Return the part of a delta to pass on now."""
        if self._earlier_end:
            delta = self._continue(delta)
        self._answer_began = True
        for part in delta.tool_calls:
            self._calls.setdefault(part.index, []).append(part)
        if delta.finish_reason and self._validate:
            delta = replace(delta, tool_calls=[*delta.tool_calls, *self._invalid_calls(self._validate)])
        if self._validate:
            self._text.append(delta.content)
        self._has_text = self._has_text or bool(delta.content.strip())
        self._has_reasoning = self._has_reasoning or bool(delta.reasoning)
        if delta.finish_reason and self._must_ask_again(delta):
            self._held_back.append(Delta(finish_reason=delta.finish_reason, stop_reason=delta.stop_reason))
            return replace(delta, finish_reason=None, stop_reason=None)
        if delta.last and self._held_back:
            self._held_back.append(delta)
            return None
        return delta

    def next_request(self, completion: Completion) -> Body | None:
        """Return the body of the request that must follow this answer; None if the call is complete."""
        errors = self._errors()
        if not self._held_back or None in errors:  # a valid call may come after the finish reason
            return None
        self._earlier_end, self._held_back = self._held_back, []
        self._usage = self._earlier_end[-1].usage
        self._first_index = max(self._calls, default=-1) + 1
        self._before_text = "\n" if self._has_text else ""
        self._before_reasoning = "\n" if self._has_reasoning else ""
        self._answer_began = False
        text = "".join(self._text)
        self._text.clear()
        if self._is_repeated:
            logger.info("A stream has lost a tool call or a part of it: a whole answer is requested.")
            return replace(self.first_request, stream_options=None)
        logger.info("The model is asked again: its answer contains no valid tool call.")
        if errors:
            correction = _correction(completion.first, errors)
        else:
            correction = self._correction_of_text(text)
            self._to_replace, self._before_text = len(text), ""
        messages = [*self.first_request.messages, *correction]
        stream_options = None if self.asks_whole else self.first_request.stream_options
        return replace(self.first_request, messages=messages, stream_options=stream_options)

    def request_failed(self, error: TIRError) -> None:
        """Fall back to the answer before this request.

        Raises:
            TIRError: `error`, if it ended the first answer, or the later one had begun.
        """
        if not self._earlier_end or self._answer_began:
            raise error
        logger.warning("The model could not be asked for a valid tool call: %s", error)

    def remaining(self) -> Iterator[Delta]:
        """Yield the end of the last answer, if it was held back."""
        if self._held_back or not self._answer_began:
            yield from self._held_back or self._earlier_end

    def _errors(self) -> list[str | None]:
        """Return the error of each call of the current answer; None for valid ones."""
        return [parts[-1].error for index, parts in self._calls.items() if index >= self._first_index]

    def _invalid_calls(self, validate: Validate) -> list[ToolCallDelta]:
        """Return what marks the calls of the current answer whose arguments are not valid."""
        invalid = []
        for index, parts in self._calls.items():
            if index < self._first_index or parts[-1].error is not None:
                continue
            try:
                validate("".join(part.arguments for part in parts))
            except ValueError as error:
                parts.append(ToolCallDelta(index, error=f"its arguments are not valid: {describe_error(error)}"))
                invalid.append(parts[-1])
        return invalid

    def _must_ask_again(self, end: Delta) -> bool:
        """Whether the current answer, of which this is the last delta but one, contains no valid call."""
        errors = self._errors()
        if None in errors or TRUNCATED in errors:
            return False
        is_lost = LOST in errors if errors else end.finish_reason == "stop" and not self._has_text
        if is_lost and self._may_ask_whole:
            self._may_ask_whole, self._is_repeated = False, True
            self.asks_whole = True  # from now on: later streams would lose the same
            return True
        is_invalid = bool(errors) or (end.finish_reason != "length" and self._find_problem("".join(self._text)))
        if is_invalid and self._may_correct:
            self._may_correct, self._is_repeated = False, False
            return True
        return False

    def _find_problem(self, text: str) -> str | None:
        """Explain what is wrong with the text of an answer that should be the call of a tool; None if it need not be.

        Some servers return the arguments of such a call as text.
        """
        if not self._validate or self.first_request.tool_choice in (None, "auto"):
            return None
        try:
            self._validate(extract_json(text))
        except ValueError as error:
            return describe_error(error)
        return None

    def _correction_of_text(self, text: str) -> list[JSON]:
        request = f"This answer is not a valid call of the tool: {self._find_problem(text)}. Call the tool."
        answer: list[JSON] = [{"role": "assistant", "content": text}] if text.strip() else []
        return [*answer, {"role": "user", "content": request}]

    def _continue(self, delta: Delta) -> Delta:
        """Return a delta of a later answer as a delta of the whole one."""
        if delta.last:
            return replace(delta, usage=add_usage(self._usage, delta.usage))
        changes: dict[str, Any] = {"response": None}  # already reported by the first answer
        repeated: list[ToolCallDelta] = []
        if self._is_repeated and delta.tool_calls:
            changes |= {"content": "", "reasoning": ""}  # a stream has passed them on
            repeated = [ToolCallDelta(index, error=REPEATED) for index in self._calls]
        else:
            if delta.content:
                changes["content"], self._before_text = self._before_text + delta.content, ""
                changes["replaces"], self._to_replace = self._to_replace, 0
            if delta.reasoning:
                changes["reasoning"], self._before_reasoning = self._before_reasoning + delta.reasoning, ""
        renumbered = [replace(part, index=self._first_index + part.index) for part in delta.tool_calls]
        changes["tool_calls"] = [*repeated, *renumbered]
        return replace(delta, **changes)


def _correction(answer: Choice, errors: list[str | None]) -> list[JSON]:
    """Return an answer, and what is wrong with its tool calls, as further messages of the conversation."""
    message: JSON = {"role": "assistant", "content": answer.content}
    if answer.reasoning:
        message |= {"reasoning_content": answer.reasoning, "reasoning": answer.reasoning}
    message["tool_calls"] = [tool_call_to_wire(call.id, call.name, call.arguments) for call in answer.tool_calls]
    results = zip(answer.tool_calls, errors, strict=True)
    return [message, *(error_result(call.id, error or "") for call, error in results)]
