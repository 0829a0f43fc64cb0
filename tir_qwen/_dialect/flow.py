"""Calls that may take several requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from .._request.body import Body
from ..errors import ConfigurationError, TIRError
from ..types import Completion, Delta, Validate
from .response_format import expects_json
from .structured_output import StructuredOutputFlow, needs_structured_output, offers_tools
from .tool_call_retry import ToolCallRetry


class Flow(Protocol):
    """The requests of one call, and how their deltas form a single answer.

    Send `first_request`, and pass each delta of its answer through `feed`. As long as `next_request` returns a request,
    send it and do the same, or call `request_failed`. Finally, pass on what `remaining` yields.
    """

    @property
    def first_request(self) -> Body:
        """The body of the first request."""

    @property
    def asks_whole(self) -> bool:
        """Whether the next request is for a whole answer, even if the call is a stream."""

    def feed(self, delta: Delta) -> Delta | None:
        """Return the part of a delta to pass on now."""

    def next_request(self, completion: Completion) -> Body | None:
        """Return the body of the request that must follow this answer; None if the call is complete."""

    def request_failed(self, error: TIRError) -> None:
        """Fall back to the answer before this request.

        Raises:
            TIRError: `error`, if there is nothing to fall back to, or its answer had begun.
        """

    def remaining(self) -> Iterator[Delta]:
        """Yield what was held back, unless a later answer took its place."""


def plan(
    body: Body,
    *,
    stream: bool,
    retry_tool_calls: bool | None,
    validate: Validate | None = None,
) -> Flow | None:
    """Return the flow of a call; None if it takes one request, whatever the answer.

    Args:
        body: What the caller set.
        stream: Whether the answer is to be streamed.
        retry_tool_calls: Whether to ask again if no tool call of an answer can be run; None: only if a stream has lost
            one.
        validate: Raises ValueError if the JSON of an answer is not valid: that of a `response_format`, otherwise the
            arguments of the only tool. Not used with several answers.

    Raises:
        ConfigurationError: It is not clear what to validate.
    """
    is_structured = needs_structured_output(body)
    is_single = (body.n or 1) == 1
    can_call = offers_tools(body) and is_single
    validates_calls = offers_tools(body) and len(body.tools) == 1 and not expects_json(body.response_format)
    if validate and not (is_structured or validates_calls or not is_single):
        raise ConfigurationError("validate needs a response_format of JSON, or a single tool.")
    validate_calls = validate if validates_calls and is_single and retry_tool_calls is not False else None
    retry: Callable[[Body], ToolCallRetry] | None = None
    for_lost_calls = stream and retry_tool_calls is not False
    if can_call and (for_lost_calls or retry_tool_calls or validate_calls):
        retry = partial(
            ToolCallRetry,
            for_invalid_calls=bool(retry_tool_calls or validate_calls),
            for_lost_calls=for_lost_calls,
            validate=validate_calls,
        )
    if is_structured:
        return StructuredOutputFlow(body, stream=stream, validate=validate, retry_tool_calls=retry)
    return retry(body) if retry else None
