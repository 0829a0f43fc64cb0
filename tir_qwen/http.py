"""The HTTP engine, and the only file that knows it: httpx2 where it is installed, else httpx.

The two have the same API. httpx2 is the maintained one, and its pool survives cancelled tasks; langchain-core and
llama-index-core still bring httpx. `TIR_QWEN_HTTP_ENGINE=httpx` (or `httpx2`) forces one of them. A client of either
may be passed in.

Errors of the engine are turned into ours here, and are never chained: they hold the request, hence the token.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from time import monotonic
from typing import Any

from .errors import APIConnectionError, ConfigurationError, MalformedChunkError, StreamInterruptedError, TIRError
from .failure import error_from_engine
from .request import Request
from .settings import DEFAULT_TIMEOUT, without_ids

CONNECT_TIMEOUT = 5.0
_KEEPALIVE_SECONDS = 4.0  # below the 5 s after which uvicorn closes: an idle connection is not found dead
_DRAIN_SECONDS = 0.1
_MAX_CONNECTIONS = 1000
_MAX_ERROR_BODY = 64 * 1024
_ENGINES = ("httpx2", "httpx")


@cache
def _engine() -> Any:
    """The module `httpx2` or `httpx`, imported when the first client is built."""
    wanted = os.environ.get("TIR_QWEN_HTTP_ENGINE", "")
    if wanted and wanted not in _ENGINES:
        raise ConfigurationError(f"TIR_QWEN_HTTP_ENGINE must be one of {', '.join(_ENGINES)}.")
    for name in _ENGINES:
        logging.getLogger(name).addFilter(_redact_urls)
    return import_module(wanted or ("httpx2" if find_spec("httpx2") else "httpx"))


@cache
def _options() -> dict[str, Any]:
    """What all clients share, above all the SSL context: making one takes 30 ms."""
    engine = _engine()
    return {
        "verify": engine.create_ssl_context(),
        "limits": engine.Limits(
            max_connections=_MAX_CONNECTIONS, max_keepalive_connections=100, keepalive_expiry=_KEEPALIVE_SECONDS
        ),
        "timeout": _timeout(DEFAULT_TIMEOUT),
    }


def _timeout(seconds: float) -> tuple[float, float, float, float]:
    """To connect, to read, to write, to get a connection: a tuple, which a client of either engine takes."""
    return min(seconds, CONNECT_TIMEOUT), seconds, seconds, seconds


def _build(client: Any, request: Request, trace: Any) -> Any:
    """The engine's request; without a timeout of its own, the client's holds."""
    extra: dict[str, Any] = {} if request.timeout is None else {"timeout": _timeout(request.timeout)}
    extra["extensions"] = {"trace": trace}
    return client.build_request("POST", request.url, headers=dict(request.headers), content=request.content, **extra)


class _Trace:
    """What the engine tells of a request: whether it went over a connection that had been idle."""

    def __init__(self) -> None:
        self._events: set[str] = set()

    @property
    def reused(self) -> bool:
        return "http11.send_request_headers.started" in self._events and not any(
            event.startswith("connection.connect") for event in self._events
        )

    def note(self, event: str, _: Any) -> None:
        self._events.add(event)

    async def anote(self, event: str, _: Any) -> None:
        self._events.add(event)


@contextmanager
def _impatient(response: Any) -> Iterator[None]:
    """Have the response's connection wait for `_DRAIN_SECONDS` at most: its own limit is that of the answer.

    Works for both kinds of connection: what `read` returns is passed on, be it bytes or a coroutine.
    """
    stream = response.extensions.get("network_stream")
    read = getattr(stream, "read", None)
    if read is None:  # not a real connection
        yield
        return
    stream.read = lambda max_bytes, timeout=None: read(max_bytes, _DRAIN_SECONDS)
    try:
        yield
    finally:
        del stream.read


class Pool:
    """Connections for calls from any thread, opened when they are needed.

    A fork, a copy or a pickle starts with none. Connections close with `close`, when the pool is garbage, or at exit.
    """

    def __init__(self, client: Any = None) -> None:
        self._given = client
        self._own: Any = None
        self._close_own: weakref.finalize[..., Any] | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._given,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pool:
        return type(self)(self._given)

    def send(self, request: Request) -> Any:
        """Post `request`; return the response with its body unread.

        Raises:
            APIConnectionError: There is no response.
        """
        client, trace = self._client(), _Trace()
        try:
            return client.send(_build(client, request, trace.note), stream=True, follow_redirects=False)
        except Exception as error:
            failure = error_from_engine(error, answering=False, reused=trace.reused)
            if failure is None:
                raise
        raise failure

    def release(self, response: Any, rest: Iterator[bytes] | None) -> None:
        """Give the connection back, to be used again once the `rest` of the body is read; without one, close it."""
        try:
            if rest is not None:
                limit = monotonic() + _DRAIN_SECONDS
                with _impatient(response), suppress(TIRError):
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

    def read_error(self, response: Any) -> bytes:
        """The beginning of a refusal's body, or what can be read of it; closes the response."""
        body = b""
        try:
            for data in self.read(response):
                body += data
                if len(body) > _MAX_ERROR_BODY:
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
        if self._own is None or self._pid != os.getpid():
            with self._lock:
                if self._own is None or self._pid != os.getpid():
                    self._own = _engine().Client(**_options())
                    self._pid = os.getpid()
                    self._close_own = weakref.finalize(self, self._own.close)
        return self._own


class AsyncPool:
    """As `Pool`, for calls from any event loop: each loop has its own connections, which close with it."""

    def __init__(self, client: Any = None) -> None:
        self._given = client
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._given,)

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncPool:
        return type(self)(self._given)

    async def send(self, request: Request) -> Any:
        """As `Pool.send`."""
        client, trace = await self._client(), _Trace()
        try:
            return await client.send(_build(client, request, trace.anote), stream=True, follow_redirects=False)
        except Exception as error:
            failure = error_from_engine(error, answering=False, reused=trace.reused)
            if failure is None:
                raise
        raise failure

    async def release(self, response: Any, rest: AsyncIterator[bytes] | None) -> None:
        """As `Pool.release`."""
        try:
            if rest is not None:
                limit = monotonic() + _DRAIN_SECONDS
                with _impatient(response), suppress(TIRError):
                    async for _ in rest:
                        if monotonic() > limit:
                            break
        finally:
            await response.aclose()

    async def read(self, response: Any) -> AsyncIterator[bytes]:
        """As `Pool.read`."""
        try:
            async for data in response.aiter_bytes():
                yield data
        except Exception as error:
            failure = error_from_engine(error, answering=True)
            if failure is None:
                raise
        else:
            return
        raise failure

    async def read_error(self, response: Any) -> bytes:
        """As `Pool.read_error`."""
        body = b""
        try:
            async for data in self.read(response):
                body += data
                if len(body) > _MAX_ERROR_BODY:
                    break
        except (APIConnectionError, StreamInterruptedError, MalformedChunkError):
            pass
        finally:
            await response.aclose()
        return body

    async def aclose(self) -> None:
        """Close the connections of the running loop; those of other loops close with them."""
        entry = self._clients.pop(asyncio.get_running_loop(), None)
        if entry is not None:
            await entry[1].aclose()

    def _forget(self) -> None:
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[None]]]
        self._clients = weakref.WeakKeyDictionary()
        self._pid = os.getpid()

    async def _client(self) -> Any:
        if self._given is not None:
            return self._given
        if self._pid != os.getpid():
            self._forget()
        loop = asyncio.get_running_loop()
        entry = self._clients.get(loop)
        if entry is None:
            for other in [other for other in self._clients if other.is_closed()]:
                del self._clients[other]
            client = _engine().AsyncClient(**_options())
            keeper = _close_with_loop(client)
            await anext(keeper)  # does not suspend: no other task can come between
            entry = self._clients[loop] = (client, keeper)
        return entry[0]


async def _close_with_loop(client: Any) -> AsyncGenerator[None]:
    """Close `client` when the running loop shuts down, or when this generator is garbage.

    A loop closes its unfinished asynchronous generators before it stops, as the last thing that it can wait for; and it
    closes one that is garbage, in its own thread.
    """
    try:
        yield
    finally:
        await client.aclose()


def _redact_urls(record: logging.LogRecord) -> bool:
    """Keep project ids and keys out of the engine's log, which writes each request's whole URL at INFO."""
    if isinstance(record.args, tuple):
        record.args = tuple(arg if isinstance(arg, (int, float)) else without_ids(str(arg)) for arg in record.args)
    return True
