"""The HTTP engine, and the only file that knows it: httpx2 where it is installed, else httpx.

The two have the same API. httpx2 is the maintained one; langchain-core and llama-index-core still bring httpx.
`TIR_QWEN_HTTP_ENGINE=httpx` (or `httpx2`) forces one of them. A client of either may be passed in.
"""

from __future__ import annotations

import logging
import os
import re
from functools import cache, lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import import_module
from importlib.util import find_spec
from math import inf
from operator import call
from typing import Any

from .connection import take_over
from .errors import ConfigurationError
from .request import Request
from .secrecy import printable, without_ids
from .timeouts import Clock, Timeout, timeout_from

KEEPALIVE_SECONDS = 4.0
"""How long an idle connection is used: below the 5 s after which uvicorn closes, it is not found dead."""
_ENGINES_TIMEOUT = 5.0
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
        "limits": engine.Limits(max_connections=1, keepalive_expiry=KEEPALIVE_SECONDS),
        # No cookies are kept: each connection would have its own.
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
    }


def _new(kind: str) -> Any:
    make = getattr(_engine(), kind)
    try:
        return make(**_options())
    except (ImportError, ValueError, _engine().InvalidURL):  # perhaps with a proxy's password in its text
        pass
    raise ConfigurationError("the HTTP engine refuses HTTP_PROXY, HTTPS_PROXY or ALL_PROXY of the environment.")


def new_client() -> Any:
    """A synchronous client for one connection.

    The engines' pools of many are slow in proportion to their load, and httpx's loses places when calls are cancelled.
    """
    return _new("Client")


def new_async_client() -> Any:
    """As `new_client`, asynchronous, for the running event loop."""
    return _new("AsyncClient")


def timeout_of(client: Any) -> Timeout | None:
    """The time limits that the user has chosen for a client of the engine's."""
    timeout = getattr(client, "timeout", None)
    if timeout is None or timeout == type(timeout)(_ENGINES_TIMEOUT):
        return None  # nobody chose the engine's default, which is too short for any model
    return timeout_from(timeout)


def build_request(client: Any, request: Request, clock: Clock, trace: Any) -> Any:
    """The engine's request."""
    limits = clock.timeout
    connect, first, read = (clock.left(part) for part in (limits.connect, limits.first_delta, limits.between_deltas))
    timeout = (connect, max(first, read), first, first)  # to connect, to read, to write, to get a connection
    try:
        url = _parsed(type(client.base_url), request.url)
    except Exception:  # noqa: BLE001 - the engine's, or of what it calls; it may quote the URL
        url = None
    if url is None:
        raise ConfigurationError("the HTTP engine cannot use the URL: check base_url and model.")
    return client.build_request(
        "POST",
        url,
        headers=dict(request.headers),
        content=request.content,
        timeout=tuple(None if seconds == inf else seconds for seconds in timeout),
        extensions={"trace": trace},
    )


_parsed: Any = lru_cache(64)(call)
"""A URL of an engine's class: parsing takes as long as the rest of a request. (Not a function with locals.)"""


class Trace:
    """What the engine tells of a request: its connection, and whether that had been idle."""

    def __init__(self) -> None:
        self._events: set[str] = set()
        self.stream: Any = None
        """The connection, if it was opened for the request."""

    @property
    def reused(self) -> bool:
        """Whether the request was sent, and no connection was opened for it."""
        return "http11.send_request_headers.started" in self._events and not any(
            event.startswith("connection.connect") for event in self._events
        )

    @property
    def body_begun(self) -> bool:
        """Whether the engine has begun to read the body: a recorder has it read all of it at once."""
        return "http11.receive_response_body.started" in self._events

    def note(self, event: str, info: Any) -> None:
        """Take note of an event; called by a synchronous engine."""
        self._events.add(event)
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self.stream = info["return_value"]
            take_over(self.stream)
        elif event == "http2.send_connection_init.started" and self.stream is not None:
            del self.stream.read, self.stream.write  # which one call will do for others

    async def anote(self, event: str, info: Any) -> None:
        """As `note`; awaited by an asynchronous engine."""
        self.note(event, info)


def is_taken_over(response: Any) -> bool:
    """Whether the engine has used the response's connection by way of `connection` all the while; it does from now on.

    Not with HTTP/2, where one call's reads serve others.
    """
    return response.http_version == "HTTP/1.1" and take_over(response.extensions.get("network_stream"))


def _redact_urls(record: logging.LogRecord) -> bool:
    """Keep credentials out of the engine's log, and what a terminal would act upon.

    It writes whole URLs at INFO, and at DEBUG what the server says: that may be anything of the request.
    """
    if isinstance(record.msg, str):
        record.msg = _clean(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(_redacted(arg) for arg in record.args)
    return True


def _redacted(arg: object) -> object:
    """An argument of a record as it is, unless its text is to be changed."""
    text = str(arg)
    redacted = _clean(text)
    return arg if redacted == text else redacted


def _clean(text: str) -> str:
    return printable(without_ids(_SERVERS_WORDS.sub(r"\1...", text)))


_SERVERS_WORDS = re.compile(r"(return_value=\(b'[^']*', \d+, |\.failed exception=\w+).*", re.DOTALL)
"""The head of a response, and an error that quotes it."""


for _name in _ENGINES:
    _core = _name.replace("httpx", "httpcore")
    for _logger in (_name, f"{_core}.http11", f"{_core}.http2"):
        logging.getLogger(_logger).addFilter(_redact_urls)
for _name in ("hpack.hpack", "hpack.table"):  # of HTTP/2: at DEBUG each header, and nothing else
    logging.getLogger(_name).addFilter(lambda _: False)
