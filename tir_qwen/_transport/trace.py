"""Trace events of one request, which the HTTP engine reports through its `trace` extension."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from .body.interception import install_hooks, remove_hooks
from .keepalive import keep_alive

_CONNECTING = ("connect_tcp.started", "connect_unix_socket.started")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TUNNEL_IS_OPEN = {"proxy.start_tls.started", "socks.setup_socks5_connection.complete"}
_PROXY_IS_CONNECTED = {"connection.connect_tcp.complete"}
"""Enough for a plain HTTP request, which the proxy forwards without a tunnel; a SOCKS proxy has other events."""


class RequestTrace:
    """Collects the trace events of one request, and installs hooks on a connection opened for it.

    It also knows where the request was sent, for error messages: hosts and ports only, since the other parts of a URL
    may contain secrets.
    """

    def __init__(self, url: str) -> None:
        """Start without events; `url` is that of the request."""
        self._url = url
        self._events: set[str] = set()
        self._connected_to = ""  # the host and port of the last attempt to connect
        self.opened_stream: Any = None
        """The network stream that was opened for this request; None if an idle connection is reused."""

    @property
    def reused_connection(self) -> bool:
        """Whether the request was sent over a connection that had been idle."""
        return "http11.send_request_headers.started" in self._events and not any(
            event.endswith(_CONNECTING) for event in self._events
        )

    @property
    def engine_reads_body(self) -> bool:
        """Whether the engine has begun to read the body; recorders such as vcrpy make it read all of it at once."""
        return "http11.receive_response_body.started" in self._events

    @property
    def server(self) -> str:
        """Host and port of the server."""
        url = urlsplit(self._url)
        return _address(url.hostname or "", url.port or _DEFAULT_PORTS.get(url.scheme))

    @property
    def proxy(self) -> str:
        """Host and port of the proxy; empty without one, or if an idle connection is reused."""
        return "" if self._connected_to == self.server else self._connected_to

    @property
    def route(self) -> str:
        """The server and the proxy, if there is one."""
        return f"{self.server} through the proxy {self.proxy}" if self.proxy else self.server

    @property
    def is_at_proxy(self) -> bool:
        """Whether a connection through a proxy has reached only the proxy, not the server."""
        is_tunnelled = self._url.startswith("https:")
        passed_on = _TUNNEL_IS_OPEN if is_tunnelled else _TUNNEL_IS_OPEN | _PROXY_IS_CONNECTED
        return bool(self.proxy) and not self._events & passed_on

    @property
    def peer(self) -> str:
        """What the last attempt to connect was made to."""
        return f"the proxy {self.proxy}" if self.is_at_proxy else self.route

    def record(self, event: str, info: Any) -> None:
        """Record an event (the trace function of a synchronous engine)."""
        self._events.add(event)
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self.opened_stream = info.get("return_value")
            install_hooks(self.opened_stream)
            if event.endswith("connect_tcp.complete"):
                keep_alive(self.opened_stream)
        elif event.endswith("connect_tcp.started") and "host" in info:
            self._connected_to = _address(info["host"], info.get("port"))
        elif event == "http2.send_connection_init.started" and self.opened_stream is not None:
            remove_hooks(self.opened_stream)  # with HTTP/2, one call's reads serve other calls too

    async def arecord(self, event: str, info: Any) -> None:
        """Record an event (the trace function of an asynchronous engine)."""
        self.record(event, info)


def _address(host: str, port: int | None) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
