"""Decides which calls may take several requests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .._request.body import Body
from ..errors import ConfigurationError
from ..types import Validate
from .capabilities import Capabilities
from .flow import Flow
from .response_format import expects_json
from .structured_output import StructuredOutputFlow, needs_structured_output, offers_tools
from .tool_call_retry import ToolCallRetry


def plan(
    body: Body,
    capabilities: Capabilities,
    *,
    stream: bool,
    retry_tool_calls: bool | None,
    validate: Validate | None = None,
) -> Flow | None:
    """Return the flow of a call; None if it takes one request, whatever the answer.

    Args:
        body: What the caller set.
        capabilities: What is known about the server.
        stream: Whether the answer is to be streamed.
        retry_tool_calls: Whether to ask again if all tool calls of an answer are invalid; None: only if a stream has
            lost one.
        validate: Raises ValueError if the JSON of an answer is not valid: that of a `response_format`, otherwise the
            arguments of the only tool. Not used with several answers.

    Raises:
        ConfigurationError: It is not clear what to validate, or the thinking cannot have a budget.
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
    flow: Flow | None = retry(body) if retry else None
    if is_structured:
        flow = StructuredOutputFlow(body, stream=stream, validate=validate, retry_tool_calls=retry)
    if body.thinking_budget is None:
        return flow
    from .thinking_budget import ThinkingBudgetFlow  # noqa: PLC0415 - most programs set none

    return ThinkingBudgetFlow(body, flow, capabilities)
