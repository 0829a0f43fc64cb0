"""Conversion of a `Request` to a request object of the HTTP engine."""

from __future__ import annotations

from functools import lru_cache
from math import inf
from typing import Any

from .._request.build import Request
from ..errors import ConfigurationError
from .deadline import Deadline


def build_engine_request(client: Any, request: Request, deadline: Deadline, trace: Any) -> Any:
    """Build the engine's request.

    Args:
        client: The engine's client that will send it.
        request: What to send.
        deadline: Determines the engine's own timeouts.
        trace: Receives the engine's trace events: `RequestTrace.record` or `RequestTrace.arecord`.

    Raises:
        ConfigurationError: The engine does not accept the URL.
    """
    url = _parse_url(type(client.base_url), request.url)
    if url is None:
        raise ConfigurationError("the HTTP engine cannot use the URL: check base_url and model.")
    return client.build_request(
        "POST",
        url,
        headers=dict(request.headers),
        content=request.content,
        timeout=_engine_timeout(deadline),
        extensions={"trace": trace},
    )


def _engine_timeout(deadline: Deadline) -> tuple[float | None, float | None, float | None, float | None]:
    """Return the engine's connect, read, write and pool timeouts."""
    limits = deadline.timeout
    connect = deadline.remaining(limits.connect)
    first_delta = deadline.remaining(limits.first_delta)
    read = max(first_delta, deadline.remaining(limits.between_deltas))
    return _or_none(connect), _or_none(read), _or_none(first_delta), _or_none(first_delta)


def _or_none(seconds: float) -> float | None:
    return None if seconds == inf else seconds


def _parse_url(url_class: Any, url: str) -> Any:
    """Return the engine's URL object; None if `url` is invalid, since the engine's error would quote it."""
    try:
        return _cached_url(url_class, url)
    except Exception:  # noqa: BLE001 - raised by the engine or its dependencies
        return None


@lru_cache(64)
def _cached_url(url_class: Any, url: str) -> Any:
    """Parse each URL only once: it takes as long as the rest of building a request."""
    return url_class(url)
