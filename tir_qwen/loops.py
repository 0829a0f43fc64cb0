"""Connections, for calls from any number of event loops; see `pool`, from which this differs by `await` alone."""

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

from .body import AsyncBody, AsyncChunkedBody, chunks_of
from .connection import Use, in_use
from .errors import TIRError
from .failure import error_from_engine
from .http import Trace, build_request, new_async_client
from .pool import (
    DRAIN_SECONDS,
    MAX_CONNECTIONS,
    MAX_ERROR_BODY,
    MAX_ERROR_SECONDS,
    Reply,
    Shelf,
    checked,
    is_stale,
    is_surplus,
    surplus,
)
from .request import Request
from .timeouts import Clock


class AsyncPool:
    """As `Pool`: each event loop has its own connections, which close with it."""

    def __init__(self, client: Any = None) -> None:
        self.given = checked(client, asynchronous=True)
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncPool:
        return type(self)(self.given)

    async def send(self, request: Request, clock: Clock) -> Reply:
        """As `Pool.send`."""
        client, shelf = await self._take(clock)
        reply: Reply | None = None
        failure: BaseException
        trace, began = Trace(), monotonic()
        in_use.set(Use(clock, own=shelf is not None))
        try:
            response = await client.send(
                build_request(client, request, clock, trace.anote), stream=True, follow_redirects=False
            )
            if is_surplus(response, trace, clock):
                await response.aclose()
                failure = surplus()
            else:
                chunks = None if trace.body_begun else chunks_of(response)
                body = AsyncChunkedBody(response, chunks) if chunks else AsyncBody(response)
                reply = Reply(client, response, body, shelf)
        except BaseException as error:  # noqa: BLE001 - raised below, free of its context
            reply, failure = None, error_from_engine(error, clock, stale=is_stale(trace, clock, began))
        finally:
            in_use.set(None)
            if reply is None:
                await self._give(shelf, client, reusable=False, opened=trace.stream)
                if shelf is not None and getattr(failure, "stale", False):
                    await _close(shelf.take_idle())
        if reply is not None:
            return reply
        try:
            raise failure
        finally:
            del failure

    async def read(self, reply: Reply, clock: Clock) -> bytes:
        """As `Pool.read`."""
        try:
            data: bytes = await reply.body.read(clock)
        except BaseException as error:  # noqa: BLE001 - raised below
            failure = error_from_engine(error, clock, answering=True)
        else:
            reply.ended = not data
            return data
        try:
            raise failure
        finally:
            del failure

    async def release(self, reply: Reply, clock: Clock, *, drain: bool = False) -> None:
        """As `Pool.release`."""
        if not _in_loop():  # a stream that is dropped after its loop, with which its connection has closed
            return
        try:
            if drain and reply.can_be_drained():
                clock.until = monotonic() + DRAIN_SECONDS
                with suppress(TIRError):
                    while await self.read(reply, clock) and monotonic() <= clock.until:
                        pass
            await reply.response.aclose()
            await reply.body.aclose()
        finally:
            await self._give(reply.shelf, reply.client, reusable=reply.ended)

    async def read_error(self, reply: Reply, clock: Clock) -> bytes:
        """As `Pool.read_error`."""
        body = b""
        clock.until = min(clock.until, monotonic() + MAX_ERROR_SECONDS)
        try:
            while (
                len(body) <= MAX_ERROR_BODY and monotonic() <= clock.until and (data := await self.read(reply, clock))
            ):
                body += data
        except TIRError:
            pass
        finally:
            await self.release(reply, clock)
        return body

    async def aclose(self) -> None:
        """Close the connections of the running loop; those of other loops close with them."""
        with self._lock:
            connections = self._loops.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.end()

    async def _take(self, clock: Clock) -> tuple[Any, Shelf | None]:
        if self.given is not None:
            return self.given, None
        shelf = await self._shelf()
        if shelf.places.locked():
            seconds = clock.left(clock.timeout.first_delta)
            try:
                async with asyncio.timeout(seconds if isfinite(seconds) else None):
                    await shelf.places.acquire()
            except TimeoutError:
                raise clock.overdue("PoolTimeout") from None
            clock.start()
        else:
            await shelf.places.acquire()  # does not suspend
        try:
            return shelf.take(new_async_client), shelf
        except BaseException:
            shelf.places.release()
            raise

    async def _give(self, shelf: Shelf | None, client: Any, *, reusable: bool, opened: Any = None) -> None:
        if shelf is not None:
            await _close([*shelf.put(client, reusable=reusable), opened])

    def _begin(self) -> None:
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        weakref.finalize(self, _abandon, self._loops).atexit = False

    async def _shelf(self) -> _LoopShelf:
        """The connections of the running loop."""
        if self._pid != os.getpid():
            self._begin()
        loop = asyncio.get_running_loop()
        connections = self._loops.get(loop)
        if connections is None:
            connections = _Connections()
            with self._lock:  # against other threads, with loops of their own
                for other in [other for other in self._loops if other.is_closed()]:
                    del self._loops[other]
                self._loops[loop] = connections
            await anext(connections.keeper)  # does not suspend: no other task can come between
        return connections.shelf


class _LoopShelf(Shelf):
    """One loop's clients; calls that wait for one are served in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.places = asyncio.Semaphore(MAX_CONNECTIONS)

    def put(self, client: Any, *, reusable: bool) -> list[Any]:
        """As `Shelf.put`."""
        self.places.release()
        return super().put(client, reusable=reusable)


class _Connections:
    """One loop's connections. They close by `end`, or when the loop shuts down.

    A loop closes its unfinished asynchronous generators before it stops, as the last thing that it waits for: `keeper`
    is one. Whoever comes second to close waits for the first.
    """

    def __init__(self) -> None:
        self.shelf = _LoopShelf()
        self.keeper = self._keep()
        self._lock = asyncio.Lock()

    async def _keep(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self._close()

    async def _close(self) -> None:
        async with self._lock:
            await _close(self.shelf.clear(at_work=True))

    async def end(self) -> None:
        await self._close()
        with suppress(RuntimeError):  # the loop, which shuts down, is closing it
            await self.keeper.aclose()


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _close(clients: list[Any]) -> None:
    """Close all of them, also if a cancellation comes between."""
    async with AsyncExitStack() as stack:
        for client in clients:
            if client is not None:
                stack.push_async_callback(client.aclose)


def _abandon(loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections]) -> None:
    """Have each loop close the connections of a pool that is garbage."""
    for loop, connections in list(loops.items()):
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_end_soon, loop, connections)


def _end_soon(loop: asyncio.AbstractEventLoop, connections: _Connections) -> None:
    ending = loop.create_task(connections.end())
    _endings.add(ending)  # a loop holds its tasks weakly
    ending.add_done_callback(_endings.discard)


_endings: set[asyncio.Task[None]] = set()
