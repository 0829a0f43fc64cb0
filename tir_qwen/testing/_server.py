"""A threaded HTTP server on the loopback interface, which writes any bytes that it is given."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import Any, NoReturn, Self

from .._redaction import redact_urls


@dataclass(frozen=True, repr=False)
class Request:
    """A request that the server received.

    Attributes:
        method: `POST`, for example.
        target: Path and query.
        headers: The headers, with lower-case names.
        body: The body's bytes.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        try:
            model = self.json()["model"]
        except (ValueError, TypeError, KeyError):
            model = None
        return f"<Request {self.method} {redact_urls(self.path)}" + (f", model {model!r}>" if model else ">")

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def json(self) -> Any:
        """Return the body as parsed JSON."""
        return json.loads(self.body)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that was sent, oldest message first; empty if the request has none."""
        messages: list[dict[str, Any]] = self.json().get("messages", [])
        return messages

    @property
    def prompt(self) -> str:
        """The text of the last message: a question, or a tool's result."""
        content = self.messages[-1].get("content") if self.messages else None
        if isinstance(content, list):
            return "".join(part.get("text", "") for part in content)
        return content or ""


Answer = Callable[[Request], Iterable[bytes]]
"""Returns the raw response, including the status line, in the parts in which to write it."""


class HangUpError(OSError):
    """Raised within an answer to close the connection."""


class LoopbackServer(ThreadingTCPServer):
    """Listens on a free port of 127.0.0.1 while used as a context manager; each connection has its own thread.

    Args:
        answer: Returns the response to a request. It may call `left_within` and `reset_connection`.

    Attributes:
        requests: The requests so far.
        connections: How many connections were accepted so far.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, many clients at once wait a second for a lost SYN

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._own = threading.local()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """The root URL of the server."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()
        for connection in self._open.copy():
            with suppress(OSError):  # the client has disconnected
                connection.shutdown(socket.SHUT_RDWR)  # which ends its thread, whatever it is waiting for
        self.server_close()

    def left_within(self, seconds: float | None) -> bool:
        """Within an answer: wait up to `seconds`, or forever; return whether the client or the server hangs up."""
        seconds = None if seconds is None else max(seconds, 0)
        return bool(select.select([self._own.connection], [], [], seconds)[0])

    def reset_connection(self) -> NoReturn:
        """Within an answer: close the connection with a TCP reset."""
        self._own.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._own.reset = True
        raise HangUpError

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        self._open.add(request)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._own.connection, self._own.reset = request, False
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        if getattr(self._own, "reset", False):
            self.close_request(request)  # without the orderly shutdown of the base class
        else:
            super().shutdown_request(request)


class _Handler(StreamRequestHandler):
    server: LoopbackServer
    disable_nagle_algorithm = True  # or each event of a stream may wait for the acknowledgement of the last

    def handle(self) -> None:
        while (request := self._read()) is not None:
            self.server.requests.append(request)
            try:
                for part in self.server.answer(request):
                    self.wfile.write(part)
            except OSError:  # the client has disconnected, or is disconnected
                return
            if request.headers.get("connection") == "close":
                return

    def _read(self) -> Request | None:
        try:
            method, target, _ = self.rfile.readline().decode("latin-1").split()
            headers = {}
            while line := self.rfile.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            return Request(method, target, headers, self.rfile.read(int(headers.get("content-length", "0"))))
        except (OSError, ValueError):  # the connection was closed, perhaps in the middle of a request
            return None
