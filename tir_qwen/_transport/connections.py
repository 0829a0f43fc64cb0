"""The connections of a pool, idle and busy, and the response that occupies one of them.

Each connection is a client of the HTTP engine that is limited to a single connection.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from time import monotonic
from typing import Any
from weakref import WeakSet

from ..errors import APIConnectionError, ConfigurationError
from .body.interception import ensure_hooked, remove_hooks
from .deadline import Deadline
from .trace import RequestTrace

MAX_CONNECTIONS = 1000
"""Maximum number of concurrent calls of a pool; further calls wait for a connection."""
MAX_IDLE = 100
"""Maximum number of idle connections kept."""
KEEPALIVE_SECONDS = 55.0
"""How long an idle connection is kept: less than the minute after which many gateways close it.

A server that closes it earlier, as uvicorn does after 5 s, costs one more request at most: see `is_stale`.
"""
MAX_ERROR_BODY = 64 * 1024
"""Maximum number of bytes read from the body of an error response."""
MAX_ERROR_SECONDS = 5.0
"""Maximum number of seconds spent on reading it."""
DRAIN_SECONDS = 0.1
"""Seconds to wait after an answer for the end of its body."""
_STALE_SECONDS = 1.0
"""A request over a stale connection fails within this time; one that fails later had reached the server."""


@dataclass(slots=True, eq=False, repr=False)
class StreamingResponse:
    """A response whose body is still to be read.

    Attributes:
        client: The engine's client that received the response.
        response: The engine's response.
        body: Its body, a `Body` or an `AsyncBody`.
        connections: Where to give the client back; None if the user passed it in.
        ended: Whether the body has been read to its end, so that the connection can serve another call.
    """

    client: Any
    response: Any
    body: Any
    connections: Connections | None
    ended: bool = False

    @property
    def idle_seconds(self) -> float:
        """How long the connection can stay idle: less than the server says in `Keep-Alive: timeout=`."""
        found = re.search(r"(?i)\btimeout=(\d{1,9})", self.response.headers.get("keep-alive", ""))
        if found is None:
            return KEEPALIVE_SECONDS
        announced = float(found[1])
        return min(max(announced - 1, announced / 2), KEEPALIVE_SECONDS)

    @property
    def is_drainable(self) -> bool:
        """Whether the rest of the body can be read, with a deadline, without interfering with other calls (HTTP/2)."""
        stream = self.response.extensions.get("network_stream")
        return not self.ended and stream is not None and self.response.http_version == "HTTP/1.1"

    def restore_connection(self) -> None:
        """Remove our hooks from a connection of the user's own client, which may use it for other requests next."""
        if self.connections is None:
            remove_hooks(self.response.extensions.get("network_stream"))


class Connections:
    """The idle and busy connections of a pool; thread-safe.

    Busy connections are referenced weakly, so that one lost by an interrupted thread frees its slot when it is
    garbage-collected.
    """

    def __init__(self) -> None:
        self._idle: deque[tuple[float, Any]] = deque()  # with the time of expiry, most recently used last
        self._expired: list[Any] = []  # to be closed with the next one
        self._all: WeakSet[Any] = WeakSet()
        self.released = threading.Condition()

    @property
    def exhausted(self) -> bool:
        """Whether a new call has to wait for another one to end."""
        return len(self._all) - len(self._idle) >= MAX_CONNECTIONS

    def acquire(self, connect: Callable[[], Any]) -> Any:
        """Return the most recently used idle connection, or a new one from `connect`."""
        with self.released:
            while self._idle:
                expires_at, client = self._idle.pop()
                if monotonic() < expires_at:
                    return client
                self._expired.append(client)
                self._all.discard(client)
            client = connect()
            self._all.add(client)
        return client

    def release(self, client: Any, *, idle_seconds: float = 0.0) -> list[Any]:
        """Take a connection back; return the connections that the caller has to close.

        Args:
            client: The connection.
            idle_seconds: How long it can be kept for another call.
        """
        now = monotonic()
        with self.released:
            closing, self._expired = self._expired, []
            if idle_seconds and client in self._all:
                self._idle.append((now + idle_seconds, client))
            else:
                closing.append(client)
            while self._idle and (len(self._idle) > MAX_IDLE or self._idle[0][0] <= now):
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

        Forgotten busy connections are closed when they are released.
        """
        with self.released:
            clients = list(self._all) if include_busy else [client for _, client in self._idle]
            clients += self._expired
            self._all.clear()
            self._idle.clear()
            self._expired.clear()
        return clients


def validate_http_client(client: Any, *, asynchronous: bool) -> Any:
    """Return a client that the user passed in, once checked to be of the right kind.

    Raises:
        ConfigurationError: It is an `httpx.Client` instead of an `httpx.AsyncClient`, or vice versa, or neither.
    """
    send = getattr(client, "send", None)
    if client is not None and (not callable(send) or iscoroutinefunction(send) is not asynchronous):
        kind = "an AsyncClient" if asynchronous else "a Client"
        raise ConfigurationError(
            f"the client for {'a' if asynchronous else ''}synchronous calls must be {kind} of httpx or httpx2."
        )
    return client


def is_stale(trace: RequestTrace, deadline: Deadline, started_at: float) -> bool:
    """Whether a request failed because it was sent over an idle connection that the server had closed."""
    return trace.reused_connection and not deadline.received_bytes and monotonic() - started_at < _STALE_SECONDS


def is_unsolicited(response: Any, trace: RequestTrace, deadline: Deadline) -> bool:
    """Whether a response arrived before its request was sent, because the server answered an earlier one twice."""
    return ensure_hooked(response) and trace.reused_connection and not deadline.received_bytes


def unsolicited_response_error() -> APIConnectionError:
    """Return the error for an unsolicited response; it makes the request be sent again over another connection."""
    error = APIConnectionError("the connection delivered a response to an earlier request")
    error.stale = True
    return error
