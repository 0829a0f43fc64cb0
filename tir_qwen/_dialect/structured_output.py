"""Structured output: calls whose answer must be JSON, which may take two requests.

vLLM enforces a `response_format` by a grammar over the whole answer, so a model that is also given tools cannot call
them. If it should be able to, the first request therefore contains the tools and only a description of the schema; if
the answer is neither a tool call nor follows the schema, a second request enforces it with the grammar.

An answer that is not valid is sent back once, with what is wrong with it: not every server enforces a schema, and no
grammar can enforce a validator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from pydantic_core import from_json

from .._request.body import Body
from ..errors import ConfigurationError, TIRError
from ..types import Completion, Delta
from .json_answer import describe_error, describe_schema, extract_json, with_description
from .json_schema import expects_json, expects_object, extract_schema, find_mismatch
from .tool_call_retry import ToolCallRetry
from .usage import add_usage

logger = logging.getLogger("tir_qwen")

_WHEN = "When no further tool is needed, give your final answer"
_FENCE = "```"
_NOT_JSON = "it is not JSON"

Validate = Callable[[str], object]
"""Raises ValueError if the JSON in its argument is not valid."""


def needs_structured_output(body: Body) -> bool:
    """Whether the answer must be JSON, and the model is not forced to call a tool instead."""
    if not expects_json(body.response_format):
        return False
    return body.tool_choice in (None, "auto") if body.tools else (body.n or 1) == 1


class StructuredOutputFlow:
    """The requests of a call whose answer must be JSON; see `flow.Flow`.

    A stream that begins with an object or an array is passed on. If it turns out not to be valid, it continues with a
    line break and the corrected answer.
    """

    def __init__(
        self,
        body: Body,
        *,
        stream: bool,
        validate: Validate | None = None,
        retry_tool_calls: Callable[[Body], ToolCallRetry] | None = None,
    ) -> None:
        """Start a call.

        Args:
            body: The request.
            stream: Whether the answer is streamed.
            validate: Decides whether an answer is valid; None: its schema does, but not for an answer passed on.
            retry_tool_calls: Creates the flow of the request with tools.
        """
        self._body = body
        self._has_tools = bool(body.tools)
        if self._has_tools and (body.n or 1) > 1:
            raise ConfigurationError("n must be 1 where tools and response_format are given together.")
        self._schema = extract_schema(body.response_format)
        self._is_object = expects_object(body.response_format)
        self._validate = validate
        self._messages = body.messages
        if self._has_tools:
            self._messages = with_description(body.messages, describe_schema(self._schema, _WHEN))
        self._tool_call_retry = retry_tool_calls(self._draft_request) if retry_tool_calls else None
        self._stream = stream
        self._passes_through: bool | None = None  # whether deltas are passed on at once; None: not known yet
        self._content = ""
        self._held_back: list[Delta] = []
        self._before_correction = ""  # what separates a corrected answer from the one that was passed on
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
        """Return the part of a delta to pass on now: all of it but its end, if the stream is the JSON itself."""
        if self._object_is_requested:
            return self._second_delta(delta)
        if self._tool_call_retry is None:
            return self._first_delta(delta)
        fed = self._tool_call_retry.feed(delta)
        return fed and self._first_delta(fed)

    def _first_delta(self, delta: Delta) -> Delta | None:
        if self._passes_through is None and delta.content:
            delta = self._look_at_start(delta)
        if self._passes_through and (self._validate is None or not (delta.finish_reason or delta.last)):
            return delta
        if delta.last:
            self._held_back.append(delta)
            return None
        if not self._passes_through:
            delta = self._hold_content_back(delta)
        if delta.finish_reason:
            self._held_back.append(Delta(finish_reason=delta.finish_reason, stop_reason=delta.stop_reason))
            delta = replace(delta, finish_reason=None, stop_reason=None)
        is_visible = delta.content or delta.reasoning or delta.tool_calls or delta.response or delta.logprobs
        return delta if is_visible else None

    def _hold_content_back(self, delta: Delta) -> Delta:
        self._content += delta.content
        if delta.reasoning or not delta.logprobs:
            return replace(delta, content="")
        self._held_back.append(Delta(logprobs=delta.logprobs))  # their text may be discarded
        return replace(delta, content="", logprobs=None)

    def next_request(self, completion: Completion) -> Body | None:
        """Return the body of the request that must follow this answer; None if the call is complete."""
        if self._object_is_requested:
            return None
        if self._tool_call_retry and (request := self._tool_call_retry.next_request(completion)):
            return request
        is_final = self._passes_through and self._validate is None
        if is_final or completion.tool_calls or completion.finish_reason == "length":
            return None
        draft = completion.content
        problem = self._find_problem(draft)
        if problem is None and not self._passes_through:
            self._content = extract_json(draft, is_object=self._is_object)
        has_stop_strings = bool(self._body.stop)  # they would truncate the second answer too
        if problem is None or not draft.strip() or has_stop_strings:
            return None
        self._object_is_requested = True
        self._before_correction = "\n" if self._passes_through else ""
        correction = {"role": "user", "content": self._correction(problem)}
        return replace(
            self._body,
            messages=[*self._messages, {"role": "assistant", "content": draft}, correction],
            tools=(),
            tool_choice=None,
            parallel_tool_calls=None,
            enable_thinking=False,
        )

    def _correction(self, problem: str) -> str:
        follows = " that follows the JSON schema" if self._schema else ""
        request = f"Give this answer as one JSON {'object' if self._is_object else 'value'}{follows}."
        return request if problem == _NOT_JSON else f"{request} The last one is not valid: {problem.rstrip('.')}."

    def _second_delta(self, delta: Delta) -> Delta:
        """Return a delta of the second answer as a delta of the combined answer."""
        self._second_answer_began = True
        if delta.content:
            delta.content, self._before_correction = self._before_correction + delta.content, ""
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
        if self._second_answer_began:
            return
        if self._content:
            yield Delta(content=self._content)
        yield from self._held_back

    def _look_at_start(self, delta: Delta) -> Delta:
        """Detect whether the answer starts with an object or an array, or with a Markdown fence around it."""
        start = (self._content + delta.content).lstrip()
        if start.startswith(("{", _FENCE) if self._is_object else ("{", "[", _FENCE)):
            self._passes_through = self._stream and not self._has_tools
        elif not _FENCE.startswith(start):
            self._passes_through = False
        if self._passes_through:
            delta, self._content = replace(delta, content=self._content + delta.content), ""
        return delta

    def _find_problem(self, text: str) -> str | None:
        """Explain why `text` does not contain valid JSON; return None if it does."""
        found = extract_json(text, is_object=self._is_object)
        try:
            value = from_json(found)
        except ValueError:
            return _NOT_JSON
        if self._validate is None:
            return find_mismatch(value, self._schema or {"type": "object"})
        try:
            self._validate(found)
        except ValueError as error:
            return describe_error(error)
        return None
