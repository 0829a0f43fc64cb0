"""Reads the arguments of a call, once: options of the client, and fields of the request body."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from .._request.body import Body
from .._request.endpoint import DEFAULT_MODEL
from ..timeouts import Timeout, timeout_from
from ..types import JSON, Messages, Validate
from .parameters import CallParameters, IgnoredParameters
from .retry import RetryPolicy
from .validation import (
    check_body_fields,
    check_messages,
    check_parameters,
    check_response_format,
    check_tool_choice,
)

logger = logging.getLogger("tir_qwen")

_BODY_ATTRIBUTES = frozenset(part.name for part in fields(Body)) - {"messages", "continues", "other"}
_IGNORED = IgnoredParameters.__annotations__.keys()
_reported_as_ignored: set[str] = set()


class CallOptions(NamedTuple):
    """The options of a call, other than the request body; see `Client.complete`. None means unset."""

    model: str | None = None
    timeout: Timeout | None = None
    retry_policy: RetryPolicy | None = None
    on_retry: Any = None
    tool_calling: str = "auto"
    schema_in: str | None = None
    retry_tool_calls: bool | None = None
    validate: Validate | None = None


def read_arguments(
    messages: Messages, params: CallParameters, *, stream: bool, model: str = DEFAULT_MODEL
) -> tuple[CallOptions, Body]:
    """Validate the arguments of a call, and divide them into options and the request body.

    Args:
        messages: The conversation in wire format.
        params: The other arguments.
        stream: Whether to stream the answer.
        model: Name of the client's model.

    Raises:
        ConfigurationError: An argument is unknown or malformed; the message names it, but never quotes its value.
    """
    check_messages(messages)
    check_parameters(params)
    body_fields: JSON = {**params}
    retries = body_fields.pop("max_retries", None)
    options = CallOptions(
        model=body_fields.pop("model", None),
        timeout=timeout_from(body_fields.pop("timeout", None)),
        retry_policy=None if retries is None else RetryPolicy(retries),
        on_retry=body_fields.pop("on_retry", None),
        tool_calling=body_fields.pop("tool_calling", None) or "auto",
        schema_in=body_fields.pop("schema_in", None),
        retry_tool_calls=body_fields.pop("retry_tool_calls", None),
        validate=body_fields.pop("validate", None),
    )
    if stream:
        body_fields.setdefault("stream_options", {"include_usage": True})
    extra = body_fields.pop("extra_body", None) or {}
    check_body_fields(extra)
    body = _read_body(messages, body_fields, extra, stream=stream)
    _report_ignored(body, options.model or model)
    return options, body


def _read_body(messages: Messages, body_fields: JSON, extra: Mapping[str, Any], *, stream: bool) -> Body:
    template = {**(body_fields.pop("chat_template_kwargs", None) or {}), **(extra.get("chat_template_kwargs") or {})}
    merged = {**{name: value for name, value in body_fields.items() if value is not None}, **extra}
    merged.pop("chat_template_kwargs", None)
    if not stream:
        merged.pop("stream_options", None)  # vLLM rejects it without streaming
    thinking = template.pop("enable_thinking", None)
    if thinking is not None:
        check_body_fields({"enable_thinking": thinking})
        merged["enable_thinking"] = thinking
    if merged.get("thinking_budget") == 0:
        merged |= {"thinking_budget": None, "enable_thinking": False}
    stop = merged.pop("stop", None) or ()
    body = Body(
        messages=messages,
        stop=[stop] if isinstance(stop, str) else list(stop),
        chat_template_kwargs=template,
        **{name: value for name in _BODY_ATTRIBUTES & merged.keys() if (value := merged.pop(name)) is not None},
        other=merged,
    )
    check_tool_choice(body.tool_choice)
    check_response_format(body.response_format)
    return body


def _report_ignored(body: Body, model: str) -> None:
    for name in _IGNORED & body.other.keys() - _reported_as_ignored:
        if name == "reasoning_effort" and "qwen" not in model.lower():  # gpt-oss obeys it
            continue
        _reported_as_ignored.add(name)
        logger.warning("%s has no effect on Qwen3 and vLLM.", name)
