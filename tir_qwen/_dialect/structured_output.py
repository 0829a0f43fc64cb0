"""Structured output: calls whose answer must be a JSON object, which may take two requests.

vLLM enforces a `response_format` by a grammar over the whole answer, so a model that is also given tools cannot call
them. If it should be able to, the first request therefore contains the tools and only a description of the object; if
the answer is neither a tool call nor the object, a second request enforces the object with the grammar.

If the server does not enforce it, an answer that is not the object is sent back once to be corrected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from pydantic_core import from_json

from .._request.body import Body
from ..errors import ConfigurationError, TIRError
from ..types import Completion, Delta
from .json_answer import describe_schema, extract_object, with_description
from .json_schema import expects_object, extract_schema, find_mismatch
from .tool_call_retry import ToolCallRetry
from .usage import add_usage

logger = logging.getLogger("tir_qwen")

_WHEN = "When no further tool is needed, give your final answer"
_CORRECTION = "Give this answer as one JSON object that follows the JSON schema."
_FENCE = "```"
_NO_OBJECT = "it is not a JSON object"


def needs_structured_output(body: Body) -> bool:
    """Whether the answer must be an object, and the model is not forced to call a tool instead."""
    if body.response_format is None:
        return False
    if body.tools:
        is_json = body.response_format.get("type") in ("json_schema", "json_object")
        return is_json and body.tool_choice in (None, "auto")
    return expects_object(body.response_format) and (body.n or 1) == 1


class StructuredOutputFlow:
    """The requests of a call whose answer must be an object; see `flow.Flow`."""

    def __init__(
        self, body: Body, *, stream: bool, retry_tool_calls: Callable[[Body], ToolCallRetry] | None = None
    ) -> None:
        self._body = body
        self._has_tools = bool(body.tools)
        if self._has_tools and (body.n or 1) > 1:
            raise ConfigurationError("n must be 1 where tools and response_format are given together.")
        self._expects_object = expects_object(body.response_format)
        self._schema = extract_schema(body.response_format)
        self._messages = body.messages
        if self._has_tools:
            self._messages = with_description(body.messages, describe_schema(self._schema, _WHEN))
        self._tool_call_retry = retry_tool_calls(self._draft_request) if retry_tool_calls else None
        self._stream = stream
        self._passes_through: bool | None = None  # whether deltas are passed on at once; None: not known yet
        self._content = ""
        self._held_back: list[Delta] = []
        self._object_is_requested = False  # by the second request
        self._second_answer_began = False

    @property
    def first_request(self) -> Body:
        """The body of the first request."""
        return self._draft_request if self._has_tools else self._body

    @property
    def _draft_request(self) -> Body:
        return replace(self._body, messages=self._messages, response_format=None)

    @property
    def asks_whole(self) -> bool:
        """Whether the next request is for a whole answer, even if the call is a stream."""
        return self._tool_call_retry is not None and self._tool_call_retry.asks_whole and not self._object_is_requested

    def feed(self, delta: Delta) -> Delta | None:
        """Return the part of a delta to pass on now: all of it, if the stream is the object itself."""
        if self._object_is_requested:
            return self._second_delta(delta)
        if self._tool_call_retry is None:
            return self._first_delta(delta)
        fed = self._tool_call_retry.feed(delta)
        return fed and self._first_delta(fed)

    def _first_delta(self, delta: Delta) -> Delta | None:
        if self._passes_through is None and delta.content:
            delta = self._look_at_start(delta)
        if self._passes_through:
            return delta
        if delta.last:
            self._held_back.append(delta)
            return None
        self._content += delta.content
        draft_logprobs = None if delta.reasoning else delta.logprobs  # their text may be discarded
        if draft_logprobs:
            self._held_back.append(Delta(logprobs=draft_logprobs))
        if delta.finish_reason:
            self._held_back.append(Delta(finish_reason=delta.finish_reason, stop_reason=delta.stop_reason))
        visible = replace(
            delta,
            content="",
            finish_reason=None,
            stop_reason=None,
            logprobs=None if draft_logprobs else delta.logprobs,
        )
        return visible if visible.reasoning or visible.tool_calls or visible.response or visible.logprobs else None

    def next_request(self, completion: Completion) -> Body | None:
        """Return the body of the request that must follow this answer; None if the call is complete."""
        if self._object_is_requested:
            return None
        if self._tool_call_retry and (request := self._tool_call_retry.next_request(completion)):
            return request
        if self._passes_through or completion.tool_calls or completion.finish_reason == "length":
            return None
        draft = completion.content
        problem = self._find_problem(draft)
        if problem is None:
            self._content = extract_object(draft) if self._expects_object else draft
        has_stop_strings = bool(self._body.stop)  # they would truncate the second answer too
        if problem is None or not draft.strip() or has_stop_strings:
            return None
        self._object_is_requested = True
        correction = _CORRECTION if problem == _NO_OBJECT else f"{_CORRECTION} The last one does not: {problem}."
        messages = [*self._messages, {"role": "assistant", "content": draft}, {"role": "user", "content": correction}]
        return replace(
            self._body, messages=messages, tools=(), tool_choice=None, parallel_tool_calls=None, enable_thinking=False
        )

    def _second_delta(self, delta: Delta) -> Delta:
        """Return a delta of the second answer as a delta of the combined answer."""
        self._second_answer_began = True
        if delta.last:
            delta.usage = add_usage(self._held_back[-1].usage, delta.usage)
        else:
            delta.response = None  # already reported by the first answer
        return delta

    def request_failed(self, error: TIRError) -> None:
        """Fall back to the answer before this request.

        Raises:
            TIRError: `error`, if it ended the first answer, or the later one had begun.
        """
        if self._tool_call_retry and not self._object_is_requested:
            self._tool_call_retry.request_failed(error)
            return
        if not self._object_is_requested or self._second_answer_began:
            raise error
        logger.warning("An answer that is not the requested object could not be corrected: %s", error)

    def remaining(self) -> Iterator[Delta]:
        """Yield what was held back, unless a later answer took its place."""
        for delta in self._tool_call_retry.remaining() if self._tool_call_retry else ():
            if visible := self._first_delta(delta):
                yield visible
        if self._passes_through or self._second_answer_began:
            return
        if self._content:
            yield Delta(content=self._content)
        yield from self._held_back

    def _look_at_start(self, delta: Delta) -> Delta:
        """Detect whether the answer starts with the object, or with a Markdown fence around it."""
        start = (self._content + delta.content).lstrip()
        if start.startswith(("{", _FENCE)):
            self._passes_through = self._stream and not self._has_tools
        elif not _FENCE.startswith(start):
            self._passes_through = False
        if self._passes_through:
            delta, self._content = replace(delta, content=self._content + delta.content), ""
        return delta

    def _find_problem(self, text: str) -> str | None:
        """Explain why `text` does not contain the requested object; return None if it does."""
        try:
            value = from_json(extract_object(text) if self._expects_object else text)
        except ValueError:
            return _NO_OBJECT
        return find_mismatch(value, self._schema or {"type": "object"})
