"""Trace events of one request, which the HTTP engine reports through its `trace` extension."""

from __future__ import annotations

from typing import Any

from .body.interception import install_hooks, remove_hooks


class RequestTrace:
    """Collects the trace events of one request, and installs hooks on a connection opened for it."""

    def __init__(self) -> None:
        self._events: set[str] = set()
        self.opened_stream: Any = None
        """The network stream that was opened for this request; None if an idle connection is reused."""

    @property
    def reused_connection(self) -> bool:
        """Whether the request was sent over a connection that had been idle."""
        return "http11.send_request_headers.started" in self._events and not any(
            event.startswith("connection.connect") for event in self._events
        )

    @property
    def engine_reads_body(self) -> bool:
        """Whether the engine has begun to read the body; recorders such as vcrpy make it read all of it at once."""
        return "http11.receive_response_body.started" in self._events

    def record(self, event: str, info: Any) -> None:
        """Record an event (the trace function of a synchronous engine)."""
        self._events.add(event)
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self.opened_stream = info["return_value"]
            install_hooks(self.opened_stream)
        elif event == "http2.send_connection_init.started" and self.opened_stream is not None:
            remove_hooks(self.opened_stream)  # with HTTP/2, one call's reads serve other calls too

    async def arecord(self, event: str, info: Any) -> None:
        """Record an event (the trace function of an asynchronous engine)."""
        self.record(event, info)
