"""The connection pool of `Client`; that of `AsyncClient` is in `async_pool`.

Each connection is a separate client of the HTTP engine. The engines' own pools slow down in proportion to their load,
and httpx's permanently loses slots when calls are cancelled. Here, a connection whose response was not read to its end
is simply discarded.

The engine's errors are replaced by ours here and never chained: they refer to the request, which contains the token.
"""

from __future__ import annotations

import os
import sys
import weakref
from contextlib import suppress
from time import monotonic
from typing import Any

from .._request.build import Request
from ..errors import TIRError
from .body.body import open_body
from .body.interception import ReadContext, current_read
from .connections import (
    DRAIN_SECONDS,
    MAX_ERROR_BODY,
    MAX_ERROR_SECONDS,
    Connections,
    StreamingResponse,
    is_stale,
    is_unsolicited,
    unsolicited_response_error,
    validate_http_client,
)
from .deadline import Deadline
from .engine import new_client
from .engine_request import build_engine_request
from .errors import error_from_engine
from .trace import RequestTrace


class Pool:
    """Connections for any number of threads, opened on demand.

    A fork, copy or unpickled pool starts without connections. Connections close on `close`, when the pool is
    garbage-collected, and at exit.
    """

    _connections: Connections
    _finalizer: Any = None

    def __init__(self, http_client: Any = None) -> None:
        """Start without connections; if an `http_client` is passed in, it makes all calls instead."""
        self.http_client = validate_http_client(http_client, asynchronous=False)
        self._start()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a client that was passed in cannot be pickled

    def __deepcopy__(self, memo: dict[int, Any]) -> Pool:
        return type(self)(self.http_client)

    def send(self, request: Request, deadline: Deadline) -> StreamingResponse:
        """Send `request` and return the response with its body unread.

        Raises:
            APIConnectionError: There was no response.
        """
        client, connections = self._acquire(deadline)
        trace, started_at = RequestTrace(request.url), monotonic()
        current_read.set(ReadContext(deadline, is_pooled=connections is not None))
        try:
            response = self._receive_head(client, request, deadline, trace)
            body = open_body(response, engine_reads_body=trace.engine_reads_body)
            return StreamingResponse(client, response, body, connections)
        except BaseException as error:  # noqa: BLE001 - raised below, without this one as its context
            failure = error_from_engine(error, deadline, trace, stale=is_stale(trace, deadline, started_at))
        finally:
            current_read.set(None)
        try:
            self._discard(connections, client, trace, failure)
            raise failure
        finally:
            del failure  # breaks the reference cycle between it and this frame

    def read(self, streaming: StreamingResponse, deadline: Deadline) -> bytes:
        """Return the next bytes of the body, or none once it has ended.

        Raises:
            APITimeoutError: A deadline has passed.
            StreamInterruptedError: The connection broke.
            MalformedChunkError: The body's compression is corrupt.
        """
        try:
            data: bytes = streaming.body.read(deadline)
        except BaseException as error:  # noqa: BLE001 - raised below
            failure = error_from_engine(error, deadline)
        else:
            streaming.ended = not data
            return data
        try:
            raise failure
        finally:
            del failure

    def release(self, streaming: StreamingResponse, deadline: Deadline, *, drain: bool = False) -> None:
        """Keep the connection for another call if the body has ended, otherwise close it.

        Args:
            streaming: The response.
            deadline: The deadline of its call.
            drain: Whether to wait briefly for the end of the body.
        """
        try:
            if drain and streaming.is_drainable:
                deadline.expires_at = monotonic() + DRAIN_SECONDS
                with suppress(TIRError):
                    while self.read(streaming, deadline) and monotonic() <= deadline.expires_at:
                        pass
            streaming.restore_connection()
            # Python 3.13.0 crashes in the engine's close while it finalizes; `_give_back` closes the connection too.
            if streaming.connections is None or not sys.is_finalizing():
                streaming.response.close()
        finally:
            self._give_back(streaming)

    def read_error(self, streaming: StreamingResponse, deadline: Deadline) -> bytes:
        """Return the beginning of an error response's body, and release the connection."""
        body = b""
        deadline.expires_at = min(deadline.expires_at, monotonic() + MAX_ERROR_SECONDS)
        try:
            while (
                len(body) <= MAX_ERROR_BODY
                and monotonic() <= deadline.expires_at
                and (data := self.read(streaming, deadline))
            ):
                body += data
        except TIRError:
            pass  # the status is enough for an error
        finally:
            self.release(streaming, deadline)
        return body

    def close(self) -> None:
        """Close the idle connections now and the busy ones when their calls end; later calls open new ones.

        A client that was passed in stays open.
        """
        _close_idle(self._connections)

    def _acquire(self, deadline: Deadline) -> tuple[Any, Connections | None]:
        """Return a client to send with, and where to give it back; wait while too many calls are running."""
        if self.http_client is not None:
            return self.http_client, None
        if self._pid != os.getpid():
            self._start()
        connections = self._connections
        with connections.released:
            if connections.exhausted:
                give_up_at = monotonic() + deadline.remaining(deadline.timeout.first_delta)
                while connections.exhausted:
                    if (left := give_up_at - monotonic()) <= 0:
                        raise deadline.timeout_error("PoolTimeout")
                    connections.released.wait(min(left, 1.0))  # a lost connection sends no notification
                deadline.start_request()  # time spent waiting for a connection is not counted
            return connections.acquire(new_client), connections

    def _receive_head(self, client: Any, request: Request, deadline: Deadline, trace: RequestTrace) -> Any:
        response = client.send(
            build_engine_request(client, request, deadline, trace.record),  # not in a local: it holds the token
            stream=True,
            follow_redirects=False,
        )
        if is_unsolicited(response, trace, deadline):
            response.close()
            raise unsolicited_response_error()
        return response

    def _give_back(self, streaming: StreamingResponse) -> None:
        if streaming.connections is not None:
            idle_seconds = streaming.idle_seconds if streaming.ended else 0.0
            _close(streaming.connections.release(streaming.client, idle_seconds=idle_seconds))

    def _discard(
        self, connections: Connections | None, client: Any, trace: RequestTrace, failure: BaseException | None
    ) -> None:
        """Close the connection of a request that failed."""
        if connections is None:
            return
        closing = connections.release(client)
        if trace.opened_stream is not None:
            closing.append(trace.opened_stream)  # an interrupted engine may not know about it
        if getattr(failure, "stale", False):
            closing += connections.pop_idle()  # the server has probably closed these too
        _close(closing)

    def _start(self) -> None:
        """Start without connections. A forked child does so again, since it must not use its parent's."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._pid = os.getpid()
        self._connections = Connections()
        self._finalizer = weakref.finalize(self, _close_idle, self._connections)


def _close(closing: list[Any]) -> None:
    for one in closing:
        one.close()


def _close_idle(connections: Connections) -> None:
    _close(connections.pop_all())
