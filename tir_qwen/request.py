"""A call, written as an HTTP request (pure).

The body holds what the caller set and nothing else, under the names of the wire. Source: the operator's API reference;
vLLM's OpenAI-compatible server for the fields beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import NoneType
from typing import Any

from .errors import ConfigurationError
from .settings import Endpoint
from .types import JSON
from .wire import json_text

_KINDS: dict[str, type] = {"extra_body": Mapping, "chat_template_kwargs": Mapping, "stop": Sequence}
_WORDS: dict[type, str] = {Mapping: "a dict", Sequence: "a string or a list of strings"}


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
    """Write one call.

    Args:
        endpoint: Where to, and with which credentials.
        model: Names the model in the path and in the body.
        messages: Messages as on the wire, with `role` and `content`.
        params: Fields of the body; None means unset. Not sent as they are: `enable_thinking` (goes into
            `chat_template_kwargs`, where vLLM reads it), `stop` (a string is a list of one, an empty list is unset),
            `extra_body` (fields merged over all others).
        stream: Whether the answer is to be streamed.

    Raises:
        ConfigurationError: There is no message, or a value cannot be written as JSON.
    """
    if not messages:
        raise ConfigurationError("messages is empty: there is nothing to answer.")
    if not isinstance(model, str) or not model.strip():
        raise ConfigurationError("model must be the name of a model, such as qwen3_32b.")
    body: JSON = {"model": model, "messages": messages, "stream": stream, **_fields(params)}
    if not stream:
        body.pop("stream_options", None)  # vLLM refuses it on a whole answer
    headers = {"accept": "text/event-stream" if stream else "application/json", "content-type": "application/json"}
    if stream:
        headers["accept-encoding"] = "identity"  # a compressing gateway would hold tokens back
    content = json_text(body, "the request").encode()
    return Request(endpoint.url(model), {**headers, **endpoint.headers}, content)


def _fields(params: Mapping[str, Any]) -> JSON:
    fields = {name: value for name, value in params.items() if value is not None}
    for name, value in fields.items():
        if isinstance(value, float) and not isfinite(value):
            raise ConfigurationError(f"{name} must be a finite number.")
    for name, kind in _KINDS.items():
        if not isinstance(fields.get(name), (kind, NoneType)):
            raise ConfigurationError(f"{name} must be {_WORDS[kind]}.")
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
