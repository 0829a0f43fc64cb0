"""The connections of a pool, idle and busy, and the response that occupies one of them.

A connection is a client of the HTTP engine that is limited to one connection.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from time import monotonic
from typing import Any
from weakref import WeakSet

from ..errors import APIConnectionError, ConfigurationError
from .body.interception import is_hooked
from .deadline import Deadline
from .trace import RequestTrace

MAX_CONNECTIONS = 1000
"""Concurrent calls of one pool; further calls wait for a connection."""
MAX_IDLE = 100
"""Idle connections that are kept."""
KEEPALIVE_SECONDS = 4.0
"""How long an idle connection stays usable: less than the 5 s after which uvicorn closes it."""
MAX_ERROR_BODY = 64 * 1024
"""Bytes that are read of the body of an error response."""
MAX_ERROR_SECONDS = 5.0
"""Seconds that are spent on reading it."""
DRAIN_SECONDS = 0.1
"""Seconds to wait, after an answer, for the end of its body."""
_STALE_SECONDS = 1.0
"""A request over an idle connection that the server has closed fails at once; one that fails later was served."""


@dataclass(slots=True)
class StreamingResponse:
    """A response whose body is still to be read.

    Attributes:
        client: The engine's client that received it.
        response: The engine's response.
        body: Its body, a `Body` or an `AsyncBody`.
        connections: Where the client goes back to; None if the user passed it in.
        ended: Whether the body has been read to its end, so that the connection can serve another call.
    """

    client: Any
    response: Any
    body: Any
    connections: Connections | None
    ended: bool = False

    @property
    def is_drainable(self) -> bool:
        """Whether the rest of the body can be read within a deadline, without taking reads from other calls."""
        stream = self.response.extensions.get("network_stream")
        return not self.ended and stream is not None and self.response.http_version == "HTTP/1.1"


class Connections:
    """The idle and the busy connections of a pool; safe to use from several threads.

    Busy connections are referenced weakly: a thread that is interrupted at any point may lose one, which frees its
    place.
    """

    def __init__(self) -> None:
        self._idle: deque[tuple[float, Any]] = deque()  # with the time of release, the latest one last
        self._all: WeakSet[Any] = WeakSet()
        self.released = threading.Condition()

    @property
    def exhausted(self) -> bool:
        """Whether a call has to wait for the end of another one."""
        return len(self._all) - len(self._idle) >= MAX_CONNECTIONS

    def acquire(self, connect: Callable[[], Any]) -> Any:
        """Return the connection that was used last, or a new one from `connect`."""
        with self.released:
            if self._idle:
                return self._idle.pop()[1]
            client = connect()
            self._all.add(client)
        return client

    def release(self, client: Any, *, reusable: bool) -> list[Any]:
        """Take a connection back; return the connections that the caller has to close."""
        now, closing = monotonic(), []
        with self.released:
            if reusable and client in self._all:
                self._idle.append((now, client))
            else:
                closing.append(client)
            while self._idle and (len(self._idle) > MAX_IDLE or self._idle[0][0] < now - KEEPALIVE_SECONDS):
                closing.append(self._idle.popleft()[1])
            self._all.difference_update(closing)
            self.released.notify()
        return closing

    def pop_idle(self) -> list[Any]:
        """Remove the idle connections, and return them to be closed."""
        with self.released:
            clients = [client for _, client in self._idle]
            self._all.difference_update(clients)
            self._idle.clear()
        return clients

    def pop_all(self, *, include_busy: bool = False) -> list[Any]:
        """Forget all connections; return those to close: the idle ones, or all of them.

        A busy connection that was forgotten is closed when it is released.
        """
        with self.released:
            clients = list(self._all) if include_busy else [client for _, client in self._idle]
            self._all.clear()
            self._idle.clear()
        return clients


def validate_http_client(client: Any, *, asynchronous: bool) -> Any:
    """Return a client that the user passed in.

    Raises:
        ConfigurationError: It is of the other kind, `httpx.Client` instead of `httpx.AsyncClient` or vice versa.
    """
    if client is not None and iscoroutinefunction(getattr(client, "send", None)) is not asynchronous:
        kind = "an AsyncClient" if asynchronous else "a Client"
        raise ConfigurationError(
            f"the client for {'a' if asynchronous else ''}synchronous calls must be {kind} of httpx or httpx2."
        )
    return client


def is_stale(trace: RequestTrace, deadline: Deadline, started_at: float) -> bool:
    """Whether a request failed because the server had closed the idle connection it was sent over."""
    return trace.reused_connection and not deadline.received_bytes and monotonic() - started_at < _STALE_SECONDS


def is_unsolicited(response: Any, trace: RequestTrace, deadline: Deadline) -> bool:
    """Whether a response arrived before its request was sent: the server answered an earlier request twice."""
    return is_hooked(response) and trace.reused_connection and not deadline.received_bytes


def unsolicited_response_error() -> APIConnectionError:
    """Return the error for such a response; the request is then sent over another connection."""
    error = APIConnectionError("the connection held an answer to an earlier request")
    error.stale = True
    return error
