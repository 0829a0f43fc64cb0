"""Builds the HTTP request of a call.

The body contains only what the caller set, under the API's own names. Sources: TIR's API reference, and the docs of
vLLM's OpenAI-compatible server for further fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import NoneType
from typing import Any

from .._json import dump_json
from ..errors import ConfigurationError
from ..types import JSON
from .endpoint import Endpoint

_FIELD_TYPES: dict[str, type] = {"extra_body": Mapping, "chat_template_kwargs": Mapping, "stop": Sequence}
_TYPE_NAMES: dict[type, str] = {Mapping: "a dict", Sequence: "a string or a list of strings"}


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """An HTTP POST, ready to send."""

    url: str
    headers: Mapping[str, str]
    content: bytes


def build_request(
    endpoint: Endpoint,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    *,
    stream: bool,
) -> Request:
    """Build the HTTP request of one call.

    Args:
        endpoint: Address and credentials.
        model: Name of the model, sent in the path and the body.
        messages: Messages in wire format, with `role` and `content`.
        params: Fields of the body; None means unset. Three of them are converted: `enable_thinking` moves into
            `chat_template_kwargs`, where vLLM expects it; `stop` becomes a list, or is left out if empty; the
            fields of `extra_body` are merged in and override all others.
        stream: Whether to stream the answer.

    Raises:
        ConfigurationError: There is no message, or a value cannot be written as JSON.
    """
    if not messages:
        raise ConfigurationError("messages is empty: there is nothing to answer.")
    body: JSON = {"model": model, "messages": messages, "stream": stream, **_body_fields(params)}
    if not stream:
        body.pop("stream_options", None)  # vLLM rejects it without streaming
    headers = {"accept": "text/event-stream" if stream else "application/json", "content-type": "application/json"}
    if stream:
        headers["accept-encoding"] = "identity"  # compression by a gateway would delay tokens
    content = dump_json(body, "the request").encode()
    return Request(endpoint.url(model), {**headers, **endpoint.headers}, content)


def _body_fields(params: Mapping[str, Any]) -> JSON:
    fields = {name: value for name, value in params.items() if value is not None}
    for name, value in fields.items():
        if isinstance(value, float) and not isfinite(value):
            raise ConfigurationError(f"{name} must be a finite number.")
    for name, kind in _FIELD_TYPES.items():
        if not isinstance(fields.get(name), (kind, NoneType)):
            raise ConfigurationError(f"{name} must be {_TYPE_NAMES[kind]}.")
    extra = fields.pop("extra_body", None) or {}
    stop = fields.pop("stop", None)
    if stop:
        fields["stop"] = [stop] if isinstance(stop, str) else list(stop)
    if not isinstance(extra.get("chat_template_kwargs"), (Mapping, NoneType)):
        raise ConfigurationError("chat_template_kwargs must be a dict.")
    thinking = fields.pop("enable_thinking", None)
    if thinking is not None:
        template = {**(fields.get("chat_template_kwargs") or {}), **(extra.get("chat_template_kwargs") or {})}
        extra = {**extra, "chat_template_kwargs": {"enable_thinking": thinking, **template}}
    return {**fields, **extra}
