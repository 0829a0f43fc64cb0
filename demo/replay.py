"""A loopback server that answers with recorded bytes, optionally at a model's pace."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Received:
    """A request as received from the socket."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as parsed JSON."""
        return json.loads(self.body)


Answer = Callable[[Received], Iterable[bytes]]
"""Returns the raw response, including the status line, in the parts in which to write it."""


class ReplayServer(ThreadingTCPServer):
    """Listens on a free port of 127.0.0.1 while used as a context manager.

    Args:
        answer: Returns the response to a request.
        pause: Seconds to wait before each part except the first.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, answer: Answer, *, pause: float = 0.0) -> None:
        self.answer = answer
        self.pause = pause
        self.received: list[Received] = []
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
        self.server_close()


class _Handler(StreamRequestHandler):
    server: ReplayServer

    def handle(self) -> None:
        while (request := self._read()) is not None:
            self.server.received.append(request)
            try:
                for number, piece in enumerate(self.server.answer(request)):
                    if number:
                        time.sleep(self.server.pause)
                    self.wfile.write(piece)
            except OSError:  # the client has disconnected
                return
            if request.headers.get("connection") == "close":
                return

    def _read(self) -> Received | None:
        try:
            method, target, _ = self.rfile.readline().decode("latin-1").split()
            headers = {}
            while line := self.rfile.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            return Received(method, target, headers, self.rfile.read(int(headers.get("content-length", "0"))))
        except (OSError, ValueError):  # the connection was closed, perhaps in the middle of a request
            return None


def pieces(raw: bytes) -> Iterator[bytes]:
    """Split a raw response into its head and its events, as a server would write them."""
    head, separator, body = raw.partition(b"\r\n\r\n")
    yield head + separator
    while body:
        event, separator, body = body.partition(b"\n\n")
        yield event + separator


def from_files(folder: Path) -> Answer:
    """Return a function that answers each request with the response recorded for the same messages (files in pairs)."""
    recorded = {}
    for path in sorted(folder.glob("*.request.json")):
        request = json.loads(path.read_bytes())
        response = path.with_name(path.name.replace(".request.json", ".response.http"))
        recorded[_key(request)] = response.read_bytes()

    def answer(request: Received) -> Iterable[bytes]:
        raw = recorded.get(_key(request.json()))
        if raw is None:
            return [b"HTTP/1.1 404 Not Found\r\ncontent-length: 35\r\n\r\n" + b'{"error":"no such recorded answer"}']
        return pieces(raw)

    return answer


def _key(body: dict[str, Any]) -> str:
    return json.dumps([body["messages"], bool(body.get("stream"))], sort_keys=True)
