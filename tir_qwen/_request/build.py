"""Builds the HTTP requests of calls.

The body contains only what the caller set, under the API's own names. Sources: TIR's API reference, and the docs of
vLLM's OpenAI-compatible server for further fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .._json import dump_json
from ..types import JSON
from .body import Body
from .endpoint import EMBEDDINGS, Endpoint


@dataclass(slots=True, repr=False)
class Request:
    """An HTTP POST, ready to send."""

    url: str
    headers: Mapping[str, str]
    content: bytes


def build_request(endpoint: Endpoint, model: str, body: Body, *, stream: bool) -> Request:
    """Build the HTTP request of a chat completion.

    Args:
        endpoint: Address and credentials.
        model: Name of the model, sent in the path and the body.
        body: The other fields of the body.
        stream: Whether to stream the answer.

    Raises:
        ConfigurationError: A value cannot be written as JSON.
    """
    fields = {"model": model, "messages": body.messages, "stream": stream, **body.fields()}
    content = dump_json(fields, "the request")
    headers = {"accept": "text/event-stream" if stream else "application/json", "content-type": "application/json"}
    if stream:
        headers["accept-encoding"] = "identity"  # compression by a gateway would delay tokens
    return Request(endpoint.url(model), {**headers, **endpoint.headers}, content)


def build_embedding_request(endpoint: Endpoint, model: str, fields: JSON) -> Request:
    """Build the HTTP request for the vectors of some texts.

    Args:
        endpoint: Address and credentials.
        model: Name of the model, sent in the path and the body.
        fields: The other fields of the body.

    Raises:
        ConfigurationError: A value cannot be written as JSON.
    """
    content = dump_json({"model": model, **fields}, "the request")
    headers = {"accept": "application/json", "content-type": "application/json"}
    return Request(endpoint.url(model, EMBEDDINGS), {**headers, **endpoint.headers}, content)
