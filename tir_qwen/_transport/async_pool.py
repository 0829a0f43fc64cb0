"""The connection pool of `AsyncClient`: the same as `pool`, apart from `await` and the handling of event loops."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress
from math import isfinite
from time import monotonic
from typing import Any

from .._request.build import Request
from ..errors import TIRError
from .body.body import open_async_body
from .body.interception import ReadContext, current_read
from .connections import (
    DRAIN_SECONDS,
    MAX_CONNECTIONS,
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
from .engine import is_prepared, new_async_client, prepare
from .engine_request import build_engine_request
from .errors import error_from_engine
from .trace import RequestTrace


class AsyncPool:
    """Connections for any number of event loops; each loop's connections close with the loop. See `Pool`."""

    _finalizer: Any = None

    def __init__(self, http_client: Any = None) -> None:
        self.http_client = validate_http_client(http_client, asynchronous=True)
        self._start()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncPool:
        return type(self)(self.http_client)

    async def send(self, request: Request, deadline: Deadline) -> StreamingResponse:
        """Send `request` and return the response with its body unread; see `Pool.send`."""
        client, connections = await self._acquire(deadline)
        trace, started_at = RequestTrace(request.url), monotonic()
        current_read.set(ReadContext(deadline, is_pooled=connections is not None))
        try:
            response = await self._receive_head(client, request, deadline, trace)
            body = open_async_body(response, engine_reads_body=trace.engine_reads_body)
            return StreamingResponse(client, response, body, connections)
        except BaseException as error:  # noqa: BLE001 - raised below, without this one as its context
            failure = error_from_engine(error, deadline, trace, stale=is_stale(trace, deadline, started_at))
        finally:
            current_read.set(None)
        try:
            await self._discard(connections, client, trace, failure)
            raise failure
        finally:
            del failure

    async def read(self, streaming: StreamingResponse, deadline: Deadline) -> bytes:
        """Return the next bytes of the body, or none once it has ended; see `Pool.read`."""
        try:
            data: bytes = await streaming.body.read(deadline)
        except BaseException as error:  # noqa: BLE001 - raised below
            failure = error_from_engine(error, deadline)
        else:
            streaming.ended = not data
            return data
        try:
            raise failure
        finally:
            del failure

    async def release(self, streaming: StreamingResponse, deadline: Deadline, *, drain: bool = False) -> None:
        """Keep the connection for another call if the body has ended, otherwise close it; see `Pool.release`."""
        if not _is_in_loop():  # the stream has outlived its loop, with which the connection was closed
            return
        try:
            if drain and streaming.is_drainable:
                deadline.expires_at = monotonic() + DRAIN_SECONDS
                with suppress(TIRError):
                    while await self.read(streaming, deadline) and monotonic() <= deadline.expires_at:
                        pass
            streaming.restore_connection()
            await streaming.response.aclose()
            await streaming.body.aclose()
        finally:
            await self._give_back(streaming)

    async def read_error(self, streaming: StreamingResponse, deadline: Deadline) -> bytes:
        """Return the beginning of an error response's body, and release the connection."""
        body = b""
        deadline.expires_at = min(deadline.expires_at, monotonic() + MAX_ERROR_SECONDS)
        try:
            while (
                len(body) <= MAX_ERROR_BODY
                and monotonic() <= deadline.expires_at
                and (data := await self.read(streaming, deadline))
            ):
                body += data
        except TIRError:
            pass  # the status is enough for an error
        finally:
            await self.release(streaming, deadline)
        return body

    async def aclose(self) -> None:
        """Close the connections of the running event loop; those of other loops close with their loops."""
        with self._lock:
            loop_connections = self._loops.pop(asyncio.get_running_loop(), None)
        if loop_connections is not None:
            await loop_connections.aclose()

    async def _acquire(self, deadline: Deadline) -> tuple[Any, Connections | None]:
        if self.http_client is not None:
            return self.http_client, None
        if not is_prepared():
            await (await self._running_loop_connections()).prepare()
        connections = await self._running_loop_connections()  # others, if those have been closed meanwhile
        if connections.places.locked():
            seconds = deadline.remaining(deadline.timeout.first_delta)
            try:
                async with asyncio.timeout(seconds if isfinite(seconds) else None):
                    await connections.places.acquire()
            except TimeoutError:
                raise deadline.timeout_error("PoolTimeout") from None
            deadline.start_request()
        else:
            await connections.places.acquire()  # does not suspend
        try:
            return connections.acquire(new_async_client), connections
        except BaseException:
            connections.places.release()
            raise

    async def _receive_head(self, client: Any, request: Request, deadline: Deadline, trace: RequestTrace) -> Any:
        response = await client.send(
            build_engine_request(client, request, deadline, trace.arecord),  # not in a local: it holds the token
            stream=True,
            follow_redirects=False,
        )
        if is_unsolicited(response, trace, deadline):
            await response.aclose()
            raise unsolicited_response_error()
        return response

    async def _give_back(self, streaming: StreamingResponse) -> None:
        if streaming.connections is not None:
            idle_seconds = streaming.idle_seconds if streaming.ended else 0.0
            await _close(streaming.connections.release(streaming.client, idle_seconds=idle_seconds))

    async def _discard(
        self, connections: Connections | None, client: Any, trace: RequestTrace, failure: BaseException | None
    ) -> None:
        if connections is None:
            return
        closing = connections.release(client)
        if trace.opened_stream is not None:
            closing.append(trace.opened_stream)
        if getattr(failure, "stale", False):
            closing += connections.pop_idle()
        await _close(closing)

    def _start(self) -> None:
        """Start without connections. A forked child does so again and leaves its parent's loops alone."""
        if self._finalizer is not None:
            self._finalizer.detach()
            _inherited_loops.append(self._loops)
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopConnections] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(self, _close_from_outside, self._loops)
        self._finalizer.atexit = False

    async def _running_loop_connections(self) -> _LoopConnections:
        if self._pid != os.getpid():
            self._start()
        loop = asyncio.get_running_loop()
        connections = self._loops.get(loop)
        if connections is None:
            connections = _LoopConnections()
            with self._lock:  # other threads may be running other loops
                for other in [other for other in self._loops if other.is_closed()]:
                    del self._loops[other]
                self._loops[loop] = connections
            await anext(connections.keeper)  # does not suspend: no other task runs in between
        return connections


class _LoopConnections(Connections):
    """The connections of one event loop; waiting calls are served in order.

    They close with `aclose`, or when the loop shuts down: the last thing a loop does is close its unfinished async
    generators, and `keeper` is one. If both happen, the second waits for the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = asyncio.Semaphore(MAX_CONNECTIONS)
        self.keeper = self._close_with_the_loop()
        self._closing = asyncio.Lock()
        self._preparing = asyncio.Lock()

    def release(self, client: Any, *, idle_seconds: float = 0.0) -> list[Any]:
        self.places.release()
        return super().release(client, idle_seconds=idle_seconds)

    async def prepare(self) -> None:
        """Prepare the engine in another thread: reading its files would block the loop."""
        async with self._preparing:
            if not is_prepared():
                try:
                    await asyncio.to_thread(prepare)
                except (RuntimeError, ImportError):  # there are no new threads at exit
                    prepare()

    async def aclose(self) -> None:
        await self._close_all()
        with suppress(RuntimeError):  # the loop is shutting down, and is closing it already
            await self.keeper.aclose()

    async def _close_with_the_loop(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self._close_all()

    async def _close_all(self) -> None:
        async with self._closing:
            await _close(self.pop_all(include_busy=True))


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _close(closing: list[Any]) -> None:
    """Close all of them, even if closing one is cancelled."""
    async with AsyncExitStack() as stack:
        for one in closing:
            stack.push_async_callback(one.aclose)


def _close_from_outside(loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopConnections]) -> None:
    """Have each loop close its connections after their pool was garbage-collected (in any thread)."""
    for loop, connections in list(loops.items()):
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_start_closing, loop, connections)


def _start_closing(loop: asyncio.AbstractEventLoop, connections: _LoopConnections) -> None:
    task = loop.create_task(connections.aclose())
    _closing_tasks.add(task)  # loops only keep weak references to tasks
    task.add_done_callback(_closing_tasks.discard)


_closing_tasks: set[asyncio.Task[None]] = set()

_inherited_loops: list[object] = []
"""What a forked child inherited: it is kept, since collecting a `keeper` would schedule a task on the parent's loop."""
