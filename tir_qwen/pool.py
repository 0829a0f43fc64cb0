"""Connections: those of threads, and those of event loops.

Errors of the HTTP engine are turned into ours here, and are never chained: they hold the request, hence the token.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from inspect import iscoroutinefunction
from time import monotonic
from typing import Any

from .errors import APIConnectionError, ConfigurationError, MalformedChunkError, StreamInterruptedError, TIRError
from .failure import error_from_engine
from .http import DRAIN_SECONDS, Trace, build_request, impatient, new_async_client, new_client
from .request import Request

_MAX_ERROR_BODY = 64 * 1024
_MAX_ERROR_SECONDS = 5.0
_STALE_SECONDS = 1.0
"""An idle connection that the server has closed fails at once; one that fails later failed at work."""


def _checked(client: Any, *, asynchronous: bool) -> Any:
    """A client that the user passed in; the two kinds are easily confused."""
    if client is not None and iscoroutinefunction(getattr(client, "send", None)) is not asynchronous:
        kind = "an AsyncClient" if asynchronous else "a Client"
        raise ConfigurationError(
            f"the client for {'a' if asynchronous else ''}synchronous calls must be {kind} of httpx or httpx2."
        )
    return client


class Pool:
    """Connections for calls from any thread, opened when they are needed.

    A fork, a copy or a pickle starts with none. Connections close with `close`, when the pool is garbage, or at exit.
    """

    _own: Any
    _close_own: weakref.finalize[..., Any] | None
    _lock: threading.Lock

    def __init__(self, client: Any = None) -> None:
        self._given = _checked(client, asynchronous=False)
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a client that was passed in does not pickle

    def __deepcopy__(self, memo: dict[int, Any]) -> Pool:
        return type(self)(self._given)

    def send(self, request: Request) -> Any:
        """Post `request`; return the response with its body unread.

        Raises:
            APIConnectionError: There is no response.
        """
        client, trace, began = self._client(), Trace(), monotonic()
        try:
            return client.send(build_request(client, request, trace.note), stream=True, follow_redirects=False)
        except Exception as error:
            failure = error_from_engine(
                error, answering=False, stale=trace.reused and monotonic() - began < _STALE_SECONDS
            )
            if failure is None:
                raise
        raise failure

    def release(self, response: Any, rest: Iterator[bytes] | None) -> None:
        """Give the connection back, to be used again once the `rest` of the body is read; without one, close it."""
        try:
            if rest is not None:
                limit = monotonic() + DRAIN_SECONDS
                with impatient(response), suppress(TIRError):
                    for _ in rest:
                        if monotonic() > limit:
                            break
        finally:
            response.close()

    def read(self, response: Any) -> Iterator[bytes]:
        """Yield the body as it comes.

        Raises:
            APITimeoutError: Nothing came for too long.
            StreamInterruptedError: The connection broke.
            MalformedChunkError: The body's compression is corrupt.
        """
        try:
            yield from response.iter_bytes()
        except Exception as error:
            failure = error_from_engine(error, answering=True)
            if failure is None:
                raise
        else:
            return
        raise failure

    def read_error(self, response: Any, patience: float) -> bytes:
        """The beginning of a refusal's body, or what can be read of it in `patience` seconds; closes the response."""
        body, limit = b"", monotonic() + min(patience, _MAX_ERROR_SECONDS)
        try:
            for data in self.read(response):
                body += data
                if len(body) > _MAX_ERROR_BODY or monotonic() > limit:
                    break
        except (APIConnectionError, StreamInterruptedError, MalformedChunkError):
            pass  # the status says enough
        finally:
            response.close()
        return body

    def close(self) -> None:
        """Close all connections; a later call opens new ones. A client that was passed in stays open."""
        with self._lock:
            close, self._close_own, self._own = self._close_own, None, None
        if close is not None:
            close()

    def _client(self) -> Any:
        if self._given is not None:
            return self._given
        if self._pid != os.getpid():
            self._forget()
        client = self._own
        if client is None:
            with self._lock:
                client = self._own
                if client is None:
                    client = self._own = new_client()
                    self._close_own = weakref.finalize(self, client.close)
        return client

    def _forget(self) -> None:
        """Start anew, as a forked child has to: the connections and the lock are its parent's."""
        self._own = None
        self._close_own = None
        self._lock = threading.Lock()
        self._pid = os.getpid()


class AsyncPool:
    """As `Pool`, for calls from any event loop: each loop has its own connections, which close with it."""

    def __init__(self, client: Any = None) -> None:
        self._given = _checked(client, asynchronous=True)
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncPool:
        return type(self)(self._given)

    async def send(self, request: Request) -> Any:
        """As `Pool.send`."""
        client, trace, began = await self._client(), Trace(), monotonic()
        try:
            return await client.send(build_request(client, request, trace.anote), stream=True, follow_redirects=False)
        except Exception as error:
            failure = error_from_engine(
                error, answering=False, stale=trace.reused and monotonic() - began < _STALE_SECONDS
            )
            if failure is None:
                raise
        raise failure

    async def release(self, response: Any, rest: AsyncIterator[bytes] | None) -> None:
        """As `Pool.release`."""
        try:
            if rest is not None:
                limit = monotonic() + DRAIN_SECONDS
                with impatient(response), suppress(TIRError):
                    async for _ in rest:
                        if monotonic() > limit:
                            break
        finally:
            await response.aclose()

    async def read(self, response: Any) -> AsyncGenerator[bytes]:
        """As `Pool.read`."""
        try:
            async with aclosing(response.aiter_bytes()) as body:
                async for data in body:
                    yield data
        except Exception as error:
            failure = error_from_engine(error, answering=True)
            if failure is None:
                raise
        else:
            return
        raise failure

    async def read_error(self, response: Any, patience: float) -> bytes:
        """As `Pool.read_error`."""
        body, limit = b"", monotonic() + min(patience, _MAX_ERROR_SECONDS)
        try:
            async for data in self.read(response):
                body += data
                if len(body) > _MAX_ERROR_BODY or monotonic() > limit:
                    break
        except (APIConnectionError, StreamInterruptedError, MalformedChunkError):
            pass
        finally:
            await response.aclose()
        return body

    async def aclose(self) -> None:
        """Close the connections of the running loop; those of other loops close with them."""
        with self._lock:
            connections = self._loops.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.end()

    def _forget(self) -> None:
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        weakref.finalize(self, _abandon, self._loops).atexit = False

    async def _client(self) -> Any:
        if self._given is not None:
            return self._given
        if self._pid != os.getpid():
            self._forget()
        loop = asyncio.get_running_loop()
        connections = self._loops.get(loop)
        if connections is None:
            connections = _Connections()
            with self._lock:  # against other threads, with loops of their own
                for other in [other for other in self._loops if other.is_closed()]:
                    del self._loops[other]
                self._loops[loop] = connections
            await anext(connections.keeper)  # does not suspend: no other task can come between
        return connections.client


class _Connections:
    """One loop's connections. They close by `end`, or when the loop shuts down.

    A loop closes its unfinished asynchronous generators before it stops, as the last thing that it waits for: `keeper`
    is one. Whoever comes second to close waits for the first.
    """

    def __init__(self) -> None:
        self.client = new_async_client()
        self.keeper = self._keep()
        self._lock = asyncio.Lock()

    async def _keep(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self._close()

    async def _close(self) -> None:
        async with self._lock:
            await self.client.aclose()

    async def end(self) -> None:
        await self._close()
        with suppress(RuntimeError):  # the loop, which shuts down, is closing it
            await self.keeper.aclose()


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
