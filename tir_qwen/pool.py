"""Connections, for calls from any thread; `loops` has those for calls from event loops.

Each connection is a client of the HTTP engine of its own. The engines' pools of many connections are slow in proportion
to their load, and that of httpx loses places for good when calls are cancelled; here a connection that did not come to
the end of its answer is thrown away whole.

Errors of the HTTP engine are turned into ours here, and are never chained: they hold the request, hence the token.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from inspect import iscoroutinefunction
from time import monotonic
from typing import Any
from weakref import WeakSet

from .body import Body, ChunkedBody, chunks_of
from .connection import Use, in_use
from .errors import APIConnectionError, ConfigurationError, TIRError
from .failure import error_from_engine
from .http import KEEPALIVE_SECONDS, Trace, build_request, is_taken_over, new_client
from .request import Request
from .timeouts import Clock

MAX_CONNECTIONS = 1000
"""Calls at the same time; more of them wait for their turn."""
MAX_IDLE = 100
MAX_ERROR_BODY = 64 * 1024
MAX_ERROR_SECONDS = 5.0
DRAIN_SECONDS = 0.1
"""How long to wait, after an answer, for the end of its body."""
_STALE_SECONDS = 1.0
"""An idle connection that the server has closed fails at once; one that fails later failed at work."""


@dataclass(slots=True)
class Reply:
    """A response whose body is to be read, and where its connection comes from."""

    client: Any
    response: Any
    body: Any
    shelf: Shelf | None
    ended: bool = False
    """Whether the body has been read to its end, so that the connection can serve another call."""

    def can_be_drained(self) -> bool:
        """Whether its connection is its own, and its reads have a deadline."""
        stream = self.response.extensions.get("network_stream")
        return not self.ended and stream is not None and self.response.http_version == "HTTP/1.1"


class Shelf:
    """The engine's clients: those between two calls, and those at work.

    The latter are known weakly: a thread that is interrupted at any point may lose one, and its place is free again.
    """

    def __init__(self) -> None:
        self._idle: deque[tuple[float, Any]] = deque()
        self._all: WeakSet[Any] = WeakSet()
        self.freed = threading.Condition()

    @property
    def full(self) -> bool:
        """Whether a call has to wait for another one's end."""
        return len(self._all) - len(self._idle) >= MAX_CONNECTIONS

    def take(self, make: Callable[[], Any]) -> Any:
        """The client that was used last, or a new one."""
        with self.freed:
            if self._idle:
                return self._idle.pop()[1]
            client = make()
            self._all.add(client)
        return client

    def put(self, client: Any, *, reusable: bool) -> list[Any]:
        """Take a client back; return those that are to be closed."""
        now, closing = monotonic(), []
        with self.freed:
            if reusable and client in self._all:
                self._idle.append((now, client))
            else:
                closing.append(client)
            while self._idle and (len(self._idle) > MAX_IDLE or self._idle[0][0] < now - KEEPALIVE_SECONDS):
                closing.append(self._idle.popleft()[1])
            self._all.difference_update(closing)
            self.freed.notify()
        return closing

    def take_idle(self) -> list[Any]:
        """Take all clients that are idle, to be closed."""
        with self.freed:
            clients = [client for _, client in self._idle]
            self._all.difference_update(clients)
            self._idle.clear()
        return clients

    def clear(self, *, at_work: bool = False) -> list[Any]:
        """Forget all clients; return those to be closed: that are idle, or all of them.

        One that is at work, and is forgotten, is closed when it is put back.
        """
        with self.freed:
            clients = list(self._all) if at_work else [client for _, client in self._idle]
            self._all.clear()
            self._idle.clear()
        return clients


class Pool:
    """Connections of any number of threads, opened when they are needed.

    A fork, a copy or a pickle starts with none. Connections close with `close`, when the pool is garbage, or at exit.
    """

    _shelf: Shelf
    _closing: Any = None

    def __init__(self, client: Any = None) -> None:
        """Begin without connections; a `client` of the engine's that is passed in does all calls instead."""
        self.given = checked(client, asynchronous=False)
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a client that was passed in does not pickle

    def __deepcopy__(self, memo: dict[int, Any]) -> Pool:
        return type(self)(self.given)

    def send(self, request: Request, clock: Clock) -> Reply:
        """Post `request`; return the response with its body unread.

        Raises:
            APIConnectionError: There is no response.
        """
        client, shelf = self._take(clock)
        reply: Reply | None = None
        failure: BaseException
        trace, began = Trace(), monotonic()
        in_use.set(Use(clock, own=shelf is not None))
        try:
            response = client.send(
                build_request(client, request, clock, trace.note), stream=True, follow_redirects=False
            )
            if is_surplus(response, trace, clock):
                response.close()
                failure = surplus()
            else:
                chunks = None if trace.body_begun else chunks_of(response)
                reply = Reply(client, response, ChunkedBody(response, chunks) if chunks else Body(response), shelf)
        except BaseException as error:  # noqa: BLE001 - raised below, free of its context
            reply, failure = None, error_from_engine(error, clock, stale=is_stale(trace, clock, began))
        finally:
            in_use.set(None)
            if reply is None:
                self._give(shelf, client, reusable=False, opened=trace.stream)
                if shelf is not None and getattr(failure, "stale", False):
                    for idle in shelf.take_idle():  # the server may have closed these too
                        idle.close()
        if reply is not None:
            return reply
        try:
            raise failure
        finally:
            del failure  # which would keep this frame, and this frame it

    def read(self, reply: Reply, clock: Clock) -> bytes:
        """What comes next of the body; nothing once it has ended.

        Raises:
            APITimeoutError: A deadline of the clock's has passed.
            StreamInterruptedError: The connection broke.
            MalformedChunkError: The body's compression is corrupt.
        """
        try:
            data: bytes = reply.body.read(clock)
        except BaseException as error:  # noqa: BLE001 - raised below
            failure = error_from_engine(error, clock, answering=True)
        else:
            reply.ended = not data
            return data
        try:
            raise failure
        finally:
            del failure

    def release(self, reply: Reply, clock: Clock, *, drain: bool = False) -> None:
        """Keep the connection for another call if the body has ended, or does so at once; else close it."""
        try:
            if drain and reply.can_be_drained():
                clock.until = monotonic() + DRAIN_SECONDS
                with suppress(TIRError):
                    while self.read(reply, clock) and monotonic() <= clock.until:
                        pass
            # While Python 3.13.0 finalizes, it dies within the engine's own close; _give closes the connection too.
            if reply.shelf is None or not sys.is_finalizing():
                reply.response.close()
        finally:
            self._give(reply.shelf, reply.client, reusable=reply.ended)

    def read_error(self, reply: Reply, clock: Clock) -> bytes:
        """The beginning of a refusal's body, or what soon comes of it; releases the connection."""
        body = b""
        clock.until = min(clock.until, monotonic() + MAX_ERROR_SECONDS)
        try:
            while len(body) <= MAX_ERROR_BODY and monotonic() <= clock.until and (data := self.read(reply, clock)):
                body += data
        except TIRError:
            pass  # the status says enough
        finally:
            self.release(reply, clock)
        return body

    def close(self) -> None:
        """Close the connections, those at work when their calls end; a later call opens new ones.

        A client that was passed in stays open.
        """
        _close(self._shelf)

    def _take(self, clock: Clock) -> tuple[Any, Shelf | None]:
        """A client to send by, and the shelf to put it back on; wait for it if there are too many at work."""
        if self.given is not None:
            return self.given, None
        if self._pid != os.getpid():
            self._begin()
        shelf = self._shelf
        with shelf.freed:
            if shelf.full:
                end = monotonic() + clock.left(clock.timeout.first_delta)
                while shelf.full:
                    if (left := end - monotonic()) <= 0:
                        raise clock.overdue("PoolTimeout")
                    shelf.freed.wait(min(left, 1.0))  # a place that was lost and found is not told of
                clock.start()  # what the queue has taken was not the server's
            return shelf.take(new_client), shelf

    def _give(self, shelf: Shelf | None, client: Any, *, reusable: bool, opened: Any = None) -> None:
        """Put a client back, or close it, and what the engine has `opened` and may not know of yet."""
        if shelf is not None:
            for closing in (*shelf.put(client, reusable=reusable), opened):
                if closing is not None:
                    closing.close()

    def _begin(self) -> None:
        """Start anew, as a forked child has to: the connections and the locks are its parent's."""
        if self._closing is not None:
            self._closing.detach()
        self._pid = os.getpid()
        self._shelf = Shelf()
        self._closing = weakref.finalize(self, _close, self._shelf)


def _close(shelf: Shelf) -> None:
    for client in shelf.clear():
        client.close()


def checked(client: Any, *, asynchronous: bool) -> Any:
    """A client that the user passed in; the two kinds are easily confused."""
    if client is not None and iscoroutinefunction(getattr(client, "send", None)) is not asynchronous:
        kind = "an AsyncClient" if asynchronous else "a Client"
        raise ConfigurationError(
            f"the client for {'a' if asynchronous else ''}synchronous calls must be {kind} of httpx or httpx2."
        )
    return client


def is_stale(trace: Trace, clock: Clock, began: float) -> bool:
    """Whether a request that failed met an idle connection that the server had closed."""
    return trace.reused and not clock.heard and monotonic() - began < _STALE_SECONDS


def is_surplus(response: Any, trace: Trace, clock: Clock) -> bool:
    """Whether a response was there before its request: the server has sent one too many to an earlier one."""
    return is_taken_over(response) and trace.reused and not clock.heard


def surplus() -> APIConnectionError:
    """The error for that; the request is to be sent over another connection."""
    error = APIConnectionError("the connection held an answer to an earlier request")
    error.stale = True
    return error
