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
from contextlib import suppress
from dataclasses import replace

from pydantic_core import from_json

from .._request.body import Body
from ..errors import ConfigurationError, TIRError
from ..types import Completion, Delta, Validate
from .json_answer import describe_error, describe_schema, extract_json, with_description
from .json_schema import find_mismatch
from .response_format import expects_json, expects_object, extract_schema
from .tool_call_retry import ToolCallRetry
from .usage import add_usage

logger = logging.getLogger("tir_qwen")

_WHEN = "When no further tool is needed, give your final answer"
_FENCE = "```"
_NOT_JSON = "it is not JSON"


def needs_structured_output(body: Body) -> bool:
    """Whether the answer must be JSON, and the model is not forced to call a tool instead."""
    if not expects_json(body.response_format):
        return False
    return body.tool_choice in (None, "auto") if offers_tools(body) else (body.n or 1) == 1


def offers_tools(body: Body) -> bool:
    """Whether the model may call tools."""
    return bool(body.tools) and body.tool_choice != "none"


class StructuredOutputFlow:
    """The requests of a call whose answer must be JSON; see `flow.Flow`.

    A stream that begins with an object or an array is passed on. If it turns out not to be valid, the corrected answer
    follows, and its first delta says that it replaces the other one.
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
            validate: Raises ValueError if the JSON of an answer is not valid. If None, answers are checked against the
                schema, except for streams that are passed on.
            retry_tool_calls: Creates the flow of the request with tools.
        """
        self._body = body
        self._has_tools = offers_tools(body)
        if self._has_tools and (body.n or 1) > 1:
            raise ConfigurationError("n must be 1 where tools and response_format are given together.")
        self._schema = extract_schema(body.response_format)
        self._is_object = expects_object(body.response_format)
        self._validate = validate
        self._stream = stream
        self._draft_request: Body | None = None  # with tools: the request without `response_format`
        self._tool_call_retry: ToolCallRetry | None = None
        if self._has_tools:
            messages = with_description(body.messages, describe_schema(self._schema, _WHEN))
            self._draft_request = replace(body, messages=messages, response_format=None)
            self._tool_call_retry = retry_tool_calls(self._draft_request) if retry_tool_calls else None
        self._passes_through: bool | None = None  # whether deltas are passed on at once; None: not known yet
        self._content = ""  # what is held back of the current answer
        self._held_back: list[Delta] = []  # the end of the current answer
        self._first_answer: tuple[str, list[Delta]] | None = None  # these two of the first answer, during the second
        self._to_replace = 0  # number of characters that were passed on and are not valid
        self._has_failed = False  # whether there is no second answer

    @property
    def first_request(self) -> Body:
        """The body of the first request."""
        return self._draft_request or self._body

    @property
    def asks_whole(self) -> bool:
        """Whether the next request is for a whole answer, even if the call is a stream."""
        return self._tool_call_retry is not None and self._tool_call_retry.asks_whole and self._first_answer is None

    def feed(self, delta: Delta) -> Delta | None:
        """Return the part of a delta to pass on now: all of it but its end, if the stream is the JSON itself."""
        if self._first_answer is None:
            fed = self._tool_call_retry.feed(delta) if self._tool_call_retry else delta
            return fed and self._pass_on(fed)
        _, first_end = self._first_answer
        if delta.last:
            delta.usage = add_usage(first_end[-1].usage if first_end else None, delta.usage)
        else:
            delta.response = None  # already reported by the first answer
        visible = self._pass_on(delta)
        if visible and visible.content:
            visible.replaces, self._to_replace = self._to_replace, 0
        return visible

    def _pass_on(self, delta: Delta) -> Delta | None:
        """Hold back what may be discarded, and return the rest."""
        if self._passes_through is None and delta.content:
            delta = self._look_at_start(delta)
        is_final = self._validate is None or self._first_answer is not None
        if self._passes_through and (is_final or not (delta.finish_reason or delta.last)):
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

    def _look_at_start(self, delta: Delta) -> Delta:
        """Detect whether the answer starts with an object or an array, or with a Markdown fence around it."""
        start = (self._content + delta.content).lstrip()
        if start.startswith(("{", _FENCE) if self._is_object else ("{", "[", _FENCE)):
            self._passes_through = self._stream and (not self._has_tools or self._first_answer is not None)
        elif not _FENCE.startswith(start):
            self._passes_through = False
        if self._passes_through:
            delta, self._content = replace(delta, content=self._content + delta.content), ""
        return delta

    def _hold_content_back(self, delta: Delta) -> Delta:
        self._content += delta.content
        if delta.reasoning or not delta.logprobs:
            return replace(delta, content="")
        self._held_back.append(Delta(logprobs=delta.logprobs))  # their text may be discarded
        return replace(delta, content="", logprobs=None)

    def next_request(self, completion: Completion) -> Body | None:
        """Return the body of the request that must follow this answer; None if the call is complete."""
        retry = self._tool_call_retry if self._first_answer is None else None
        if retry and (request := retry.next_request(completion)):
            return request
        answer = completion.content
        if (
            self._has_failed
            or completion.tool_calls
            or completion.finish_reason == "length"
            or (self._passes_through and not self._validate)
        ):
            return None
        found, problem = self._find_json(answer)
        if problem is None and not self._passes_through:
            self._content = found
        has_stop_strings = bool(self._body.stop)  # they would truncate the second answer too
        if problem is None or self._first_answer is not None or has_stop_strings:
            return None
        self._to_replace = len(answer) if self._passes_through else 0
        self._first_answer = self._content, self._held_back
        self._content, self._held_back, self._passes_through = "", [], None
        return self._correcting_request(answer, problem)

    def _correcting_request(self, answer: str, problem: str) -> Body:
        wanted = f"one JSON {'object' if self._is_object else 'value'}"
        wanted += " that follows the JSON schema" if self._schema is not None else ""
        text = f"This answer is not valid: {problem.rstrip('.')}. Give it again as {wanted}."
        if problem == _NOT_JSON:
            text = f"Give {'this' if answer.strip() else 'your'} answer as {wanted}."
        messages = [*self.first_request.messages]
        if self._schema is not None:  # the server may have ignored `response_format`
            messages = with_description(messages, describe_schema(self._schema))
        if answer.strip():
            messages.append({"role": "assistant", "content": answer})
        return replace(
            self._body,
            messages=[*messages, {"role": "user", "content": text}],
            tools=(),
            tool_choice=None,
            parallel_tool_calls=None,
            enable_thinking=False,
        )

    def request_failed(self, error: TIRError) -> None:
        """Fall back to the answer before this request.

        Raises:
            TIRError: `error`, if it ended the first answer, or the later one had begun.
        """
        if self._first_answer is None:
            if self._tool_call_retry is None:
                raise error
            self._tool_call_retry.request_failed(error)
            return
        if self._passes_through or self._content or self._held_back:
            raise error
        logger.warning("An answer that is not the requested object could not be corrected: %s", error)
        self._content, self._held_back = self._first_answer
        self._has_failed = True

    def remaining(self) -> Iterator[Delta]:
        """Yield what was held back of the last answer."""
        for delta in self._tool_call_retry.remaining() if self._tool_call_retry and not self._first_answer else ():
            if visible := self._pass_on(delta):
                yield visible
        if self._content:
            yield Delta(content=self._content, replaces=self._to_replace)
        yield from self._held_back

    def _find_json(self, text: str) -> tuple[str, str | None]:
        """Return the JSON in an answer, and what is wrong with it, if anything."""
        if self._validate is not None:
            with suppress(ValueError):  # the answer is usually nothing but valid JSON
                self._validate(text)
                return text, None
        found = extract_json(text, is_object=self._is_object)
        try:
            value = from_json(found)
        except ValueError:
            return found, _NOT_JSON
        if self._validate is None:
            return found, find_mismatch(value, {"type": "object"} if self._schema is None else self._schema)
        try:
            self._validate(found)
        except ValueError as error:
            return found, describe_error(error)
        return found, None
