"""A server on a loopback socket, and both clients behind a common interface."""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.captures import Capture
from tir_qwen import AsyncClient, Client, Completion, Delta, TIRError
from tir_qwen._response.response import ResponseDecoder
from tir_qwen.testing import Request
from tir_qwen.testing._server import Answer, HangUpError, LoopbackServer

QUESTION = "Where is the canary?"
MESSAGES = [{"role": "user", "content": QUESTION}]


def response(body: Any = b"", status: str = "200 OK", **headers: str) -> bytes:
    """Return a raw response; a body other than bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"content_type": "application/json", "content_length": str(len(content)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + content


def completion(content: str = "In its cage.") -> bytes:
    """Return a whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return response({"id": "x", "choices": [choice], "usage": {"completion_tokens": 3}})


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def said(content: str = "", finish_reason: str | None = None) -> bytes:
    """Return one chunk of an answer as an event."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


def event(content: str = "", finish_reason: str | None = None) -> bytes:
    """Return one chunk of an answer as an event within a chunked body."""
    return chunk(said(content, finish_reason))


DONE = chunk(b"data: [DONE]\n\n")
END = chunk(b"")


def stream(*contents: str) -> bytes:
    """Return a complete streamed answer."""
    return STREAM_HEAD + b"".join(map(event, contents)) + event("", "stop") + DONE + END


def echo(request: Request) -> list[bytes]:
    """Answer with the question itself."""
    body = request.json()
    content = body["messages"][0]["content"]
    return [stream(*content) if body["stream"] else completion(content)]


def is_whole(raw: bytes) -> bool:
    """Return whether a client can tell that this response has ended."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if b"content-length: " in head:
        return len(body) >= int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
    return b"chunked" in head and body.endswith(b"0\r\n\r\n")


class Endless:
    """Answers with an endless stream, and notices when the client leaves."""

    def __init__(self) -> None:
        self.left = threading.Event()

    def __call__(self, _: Request) -> Iterator[bytes]:
        try:
            yield STREAM_HEAD + event("0")
            while True:
                time.sleep(0.005)
                yield event("1")
        finally:
            self.left.set()

    def noticed(self) -> bool:
        """Return whether the client leaves within five seconds."""
        return self.left.wait(5)


def pieces(raw: bytes) -> Iterator[bytes]:
    """Split a raw response into its head and its events, as a server would write them."""
    head, separator, body = raw.partition(b"\r\n\r\n")
    yield head + separator
    while body:
        event, separator, body = body.partition(b"\n\n")
        yield event + separator


def in_turn(*raws: bytes) -> Answer:
    """Give the responses in turn; hang up after an incomplete one and after the last."""
    left = list(raws)

    def answer(_: Request) -> Iterator[bytes]:
        if not left:
            raise HangUpError
        raw = left.pop(0)
        yield from pieces(raw)
        if not is_whole(raw):
            raise HangUpError

    return answer


class Loopback(LoopbackServer):
    """A server that notices when its connections end.

    Args:
        answer: See `LoopbackServer`.
        tls: Speak TLS, with this context's certificate.
    """

    def __init__(self, answer: Answer, *, tls: ssl.SSLContext | None = None) -> None:
        self.ended = threading.Semaphore(0)
        self._tls = tls
        super().__init__(answer)

    @property
    def base_url(self) -> str:
        """The complete base URL."""
        return f"{self.url}/v1"

    def get_request(self) -> tuple[Any, Any]:
        request, address = super().get_request()
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        return request, address

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.ended.release()

    def noticed(self, connections: int = 1) -> bool:
        """Return whether this many connections end within five seconds each."""
        return all(self.ended.acquire(timeout=5) for _ in range(connections))


@dataclass
class Outcome:
    """The outcome of a call, comparable between both clients and the decoder alone."""

    deltas: list[Delta] = field(default_factory=list)
    error: type[TIRError] | None = None
    words: str = ""
    partial: Completion | None = None


def outcome_of(deltas: Iterable[Delta], decoder: ResponseDecoder | None = None) -> Outcome:
    """Collect deltas until they end or fail."""
    outcome = Outcome()
    try:
        for delta in deltas:
            outcome.deltas.append(delta)
    except TIRError as error:
        outcome.error, outcome.words = type(error), str(error)
        outcome.partial = decoder.completion() if decoder else error.partial
    return outcome


def decode(capture: Capture) -> tuple[Outcome, Completion]:
    """Decode a capture without a socket; return the outcome and the completion."""
    decoder = ResponseDecoder()

    def deltas() -> Iterator[Delta]:
        yield from decoder.feed(capture.body)
        yield from decoder.close()

    return outcome_of(deltas(), decoder), decoder.completion()


class Sync:
    """Drives a `Client`."""

    make = Client

    def __repr__(self) -> str:
        return "sync"

    def complete(self, client: Any, messages: Any = MESSAGES, **params: Any) -> Completion:
        """Return a whole answer."""
        return client.complete(messages, **params)

    def deltas(self, client: Any, messages: Any = MESSAGES, **params: Any) -> Iterator[Delta]:
        """Return a streamed answer."""
        return client.stream(messages, **params)

    def begin(self, client: Any, number: int, then: Callable[[], Any]) -> list[Delta]:
        """Leave a stream after `number` deltas; then call `then` before the loop ends."""
        taken = []
        with closing(client.stream(MESSAGES)) as deltas:
            for delta in deltas:
                taken.append(delta)
                if len(taken) == number:
                    break
        then()
        return taken

    def close(self, client: Any) -> None:
        """Close the client."""
        client.close()


class Async:
    """Drives an `AsyncClient`, each call in an event loop of its own."""

    make = AsyncClient

    def __repr__(self) -> str:
        return "async"

    def complete(self, client: Any, messages: Any = MESSAGES, **params: Any) -> Completion:
        """Return a whole answer."""
        return asyncio.run(client.complete(messages, **params))

    def deltas(self, client: Any, messages: Any = MESSAGES, **params: Any) -> Iterator[Delta]:
        """Return a streamed answer."""
        deltas = client.stream(messages, **params)
        with asyncio.Runner() as runner:
            while True:
                try:
                    yield runner.run(anext(deltas))
                except StopAsyncIteration:
                    return

    def begin(self, client: Any, number: int, then: Callable[[], Any]) -> list[Delta]:
        """Leave a stream after `number` deltas; then call `then` before the loop ends."""

        async def main() -> list[Delta]:
            taken = []
            async with aclosing(client.stream(MESSAGES)) as deltas:
                async for delta in deltas:
                    taken.append(delta)
                    if len(taken) == number:
                        break
            then()
            return taken

        return asyncio.run(main())

    def close(self, client: Any) -> None:
        """Close the client."""
        asyncio.run(client.aclose())


Driver = Sync | Async
both_clients = pytest.mark.parametrize("driver", [Sync(), Async()], ids=repr)
whole_and_streamed = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


def ask(driver: Driver, client: Any, streamed: bool, **params: Any) -> str:
    """Ask for a whole or a streamed answer; return the content."""
    if streamed:
        return "".join(delta.content for delta in driver.deltas(client, **params))
    return driver.complete(client, **params).content


def failure(driver: Driver, client: Any, streamed: bool, **params: Any) -> TIRError:
    """Return the error that a call raises."""
    with pytest.raises(TIRError) as caught:
        ask(driver, client, streamed, **params)
    return caught.value


def record_waits(monkeypatch: pytest.MonkeyPatch, jitter: float = 0.5) -> list[float]:
    """Record the waits of clients in a list instead of waiting."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("tir_qwen._client.loops.time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr("tir_qwen._client.loops.asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr("tir_qwen._client.retry.random", SimpleNamespace(random=lambda: jitter))
    monkeypatch.setattr("tir_qwen._client.throttle.Throttle._pause", lambda *_: None)
    return waits


def record_complaints(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """Return a function that lists what garbage collection complains about from now on, such as unclosed sockets."""
    gc.collect()
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)

    def all_of_them() -> list[Any]:
        gc.collect()
        return complaints

    return all_of_them
