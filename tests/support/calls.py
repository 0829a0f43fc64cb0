"""Calls without a client: their arguments as a client reads them, and what is sent."""

from __future__ import annotations

from typing import Any

from tir_qwen._client.arguments import read_arguments
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._dialect.dialect import Dialect
from tir_qwen._request.body import Body


def read_body(messages: Any, params: dict[str, Any], *, stream: bool | None = None) -> Body:
    """Return the body of a call; a call with `stream_options` is a stream by default."""
    return _read(messages, params, stream)[1]


def dialect_of(messages: Any, params: dict[str, Any], capabilities: Capabilities) -> Dialect:
    """Return the dialect of a call to a server with these capabilities."""
    options, body = _read(messages, params, None)
    return Dialect(body, capabilities, tool_calling=options.tool_calling, schema_in=options.schema_in)


def sent_by(dialect: Dialect) -> tuple[Any, dict[str, Any]]:
    """Return the messages and the other fields that a dialect sends."""
    body = dialect.write()
    return body.messages, body.fields()


def _read(messages: Any, params: Any, stream: bool | None) -> tuple[Any, Body]:
    return read_arguments(messages, params, stream="stream_options" in params if stream is None else stream)
