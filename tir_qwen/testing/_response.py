"""Responses as values: a status, headers, and a body or the events of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import responses
from typing import Any

from pydantic_core import to_json

from ._server import HangUpError

At = Callable[[float], None]
"""Waits until so many seconds have passed since the request arrived; raises HangUpError if the client hangs up."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """A raw response, for anything that `Reply` and `faults` do not cover.

    ```python
    from tir_qwen import Client, InternalServerError
    from tir_qwen.testing import FakeEndpoint, Response

    page = Response(status=502, headers={"content-type": "text/html"}, content=b"<h1>Paris is down</h1>")
    with FakeEndpoint(page) as endpoint, Client(**endpoint.settings) as client:
        try:
            client.complete([{"role": "user", "content": "Hello"}], max_retries=0)
        except InternalServerError as error:
            print(error)
    ```

    Attributes:
        status: The HTTP status.
        headers: The headers; the length is added.
        content: The body, unless there are events.
        events: The events of a stream (`data: {...}`), each with whether it contains a token.
        tokens: How many tokens a model writes before a body is complete.
        delay: Seconds before the response begins.
        tokens_per_second: The speed of the model; None: no delay.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    events: Sequence[tuple[str, bool]] | None = None
    tokens: int = 0
    delay: float = 0.0
    tokens_per_second: float | None = None

    def _parts(self, at: At) -> Iterator[bytes]:
        """Yield the bytes to write, in the parts and at the speed in which a model would write them."""
        if self.events is None:
            self._wait(at, self.tokens)
            yield self._head + self.content
            return
        self._wait(at, 0)
        yield self._head
        for part, tokens in self._chunks():
            self._wait(at, tokens)
            yield part
        yield b"0\r\n\r\n"

    def _chunks(self) -> Iterator[tuple[bytes, int]]:
        """Yield each event as a chunk of the body, with the number of tokens up to it; 0 if it contains none."""
        tokens = 0
        for event, is_token in self.events or ():
            tokens += is_token
            data = f"{event}\n\n".encode()
            yield b"%x\r\n%b\r\n" % (len(data), data), tokens if is_token else 0

    @property
    def _head(self) -> bytes:
        """The status line and the headers."""
        length = {"content-length": len(self.content)} if self.events is None else {"transfer-encoding": "chunked"}
        lines = [f"{name}: {value}\r\n" for name, value in {**self.headers, **length}.items()]
        return f"HTTP/1.1 {self.status} {phrase(self.status)}\r\n{''.join(lines)}\r\n".encode("latin-1")

    def _wait(self, at: At, tokens: int) -> None:
        pace = self.tokens_per_second
        seconds = self.delay + (tokens / pace if pace else 0.0)
        if seconds:
            at(seconds)


@dataclass(frozen=True)
class Interrupted:
    """A response that ends too early.

    Attributes:
        response: The whole response.
        after: After how many tokens it ends, at the latest after the last one; 0: before the response begins.
        stalls: Whether nothing more is sent until the client hangs up. Otherwise, the connection is closed.
    """

    response: Response
    after: int
    stalls: bool

    def _parts(self, at: At) -> Iterator[bytes]:
        """Yield the bytes to write; then stall or hang up."""
        if self.after:
            yield from self._begin(at)
        if self.stalls:
            at(float("inf"))
        raise HangUpError

    def _begin(self, at: At) -> Iterator[bytes]:
        response = self.response
        if response.events is None:
            yield response._head + response.content[: len(response.content) // 2]
            return
        after = min(self.after, sum(is_token for _, is_token in response.events))
        parts = response._parts(at)
        yield next(parts)  # the head
        for part, (_, tokens) in zip(parts, response._chunks(), strict=False):
            if tokens > after:
                return
            yield part
            if tokens == after:
                return


def phrase(status: int) -> str:
    """Return the phrase of a status, such as `Not Found`."""
    return responses.get(status, "Unknown")


def json_response(value: Any, status: int = 200, **more: Any) -> Response:
    """Return a response with a JSON body."""
    headers = {"server": "uvicorn", "content-type": "application/json", **more.pop("headers", {})}
    return Response(status=status, headers=headers, content=to_json(value), **more)
