"""The HTTP engine, and the only file that knows it: httpx2 where it is installed, else httpx.

The two have the same API. httpx2 is the maintained one, and its pool survives cancelled tasks; langchain-core and
llama-index-core still bring httpx. `TIR_QWEN_HTTP_ENGINE=httpx` (or `httpx2`) forces one of them. A client of either
may be passed in.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .errors import ConfigurationError
from .request import Request
from .settings import DEFAULT_TIMEOUT, without_ids

CONNECT_TIMEOUT = 5.0
_ENGINES_TIMEOUT = 5.0
_KEEPALIVE_SECONDS = 4.0  # below the 5 s after which uvicorn closes: an idle connection is not found dead
DRAIN_SECONDS = 0.1
"""How long to wait, after an answer, for the end of its body."""
_MAX_CONNECTIONS = 1000
_ENGINES = ("httpx2", "httpx")


@cache
def _engine() -> Any:
    """The module `httpx2` or `httpx`, imported when the first client is built."""
    wanted = os.environ.get("TIR_QWEN_HTTP_ENGINE", "")
    if wanted and wanted not in _ENGINES:
        raise ConfigurationError(f"TIR_QWEN_HTTP_ENGINE must be one of {', '.join(_ENGINES)}.")
    try:
        return import_module(wanted or ("httpx2" if _installed("httpx2") else "httpx"))
    except ModuleNotFoundError:
        if not wanted:
            raise
    raise ConfigurationError(f"TIR_QWEN_HTTP_ENGINE is {wanted}, which is not installed.")


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # barred by None in sys.modules
        return False


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


def new_client() -> Any:
    """A synchronous client."""
    return _engine().Client(**_options())


def new_async_client() -> Any:
    """An asynchronous client, for the running event loop."""
    return _engine().AsyncClient(**_options())


def build_request(client: Any, request: Request, trace: Any) -> Any:
    """The engine's request; without a timeout of its own, the client's holds."""
    seconds = request.timeout
    if seconds is None and client.timeout == type(client.timeout)(_ENGINES_TIMEOUT):
        seconds = DEFAULT_TIMEOUT  # nobody chose the engine's, which is too short for any model
    extra: dict[str, Any] = {} if seconds is None else {"timeout": _timeout(seconds)}
    extra["extensions"] = {"trace": trace}
    return client.build_request("POST", request.url, headers=dict(request.headers), content=request.content, **extra)


class Trace:
    """What the engine tells of a request: whether it went over a connection that had been idle."""

    def __init__(self) -> None:
        self._events: set[str] = set()

    @property
    def reused(self) -> bool:
        """Whether the request was sent, and no connection was opened for it."""
        return "http11.send_request_headers.started" in self._events and not any(
            event.startswith("connection.connect") for event in self._events
        )

    def note(self, event: str, _: Any) -> None:
        """Take note of an event; called by a synchronous engine."""
        self._events.add(event)

    async def anote(self, event: str, _: Any) -> None:
        """As `note`; awaited by an asynchronous engine."""
        self._events.add(event)


_draining: ContextVar[bool] = ContextVar("_draining", default=False)


@contextmanager
def impatient(response: Any) -> Iterator[None]:
    """Have the caller's reads of the response's connection wait for `DRAIN_SECONDS` at most.

    The engine takes the time limit once for a whole body, so it can only be changed where the bytes are read. Once the
    body has ended, another thread or task may have the connection: the context variable is theirs, and false.
    """
    stream = response.extensions.get("network_stream")
    read = getattr(stream, "read", None)
    if read is not None and not isinstance(read, _Read):
        stream.read = _Read(read)
    token = _draining.set(True)
    try:
        yield
    finally:
        _draining.reset(token)


class _Read:
    """A connection's `read`, of either kind: what it returns is passed on, be it bytes or a coroutine."""

    def __init__(self, read: Any) -> None:
        self._read = read

    def __call__(self, max_bytes: int, timeout: float | None = None) -> Any:
        return self._read(max_bytes, DRAIN_SECONDS if _draining.get() else timeout)


def _redact_urls(record: logging.LogRecord) -> bool:
    """Keep project ids and keys out of the engine's log.

    It writes whole URLs: at INFO those of requests, at DEBUG those that a response holds.
    """
    if isinstance(record.msg, str):
        record.msg = without_ids(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(_redacted(arg) for arg in record.args)
    return True


def _redacted(arg: object) -> object:
    """An argument of a record as it is, unless its text is to be changed."""
    text = str(arg)
    redacted = without_ids(text)
    return arg if redacted == text else redacted


for _name in _ENGINES:
    for _logger in (_name, f"{_name.replace('httpx', 'httpcore')}.http11"):
        logging.getLogger(_logger).addFilter(_redact_urls)
