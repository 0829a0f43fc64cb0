"""A server without a socket: an HTTP transport, for a client to pass in, that answers like vLLM."""

from __future__ import annotations

import asyncio
import json
from types import ModuleType
from typing import Any

import httpx

ID, CREATED, MODEL = "chatcmpl-1", 1, "qwen3_32b"
USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
TOKEN, PROJECT, HEADER, KEY = "t0ken-canary", "987654", "head3r-canary", "ap1key-canary"
SECRETS = (TOKEN, PROJECT, HEADER, KEY)
PRIVATE = {
    "project_id": PROJECT,
    "access_token": TOKEN,
    "default_headers": {"X-Tenant": HEADER},
    "apikey": KEY,
    "base_url": "https://host.invalid",
}
"""Settings that hold all that must not show."""


def frame(**facts: Any) -> bytes:
    """Return a chunk of a stream."""
    chunk = {"id": ID, "object": "chat.completion.chunk", "created": CREATED, "model": MODEL, **facts}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def delta(finish_reason: str | None = None, **said: str) -> bytes:
    """Return a chunk with a delta."""
    return frame(choices=[{"index": 0, "delta": said, "finish_reason": finish_reason}])


def stream_body(pieces: tuple[str, ...], usage: bool) -> bytes:
    """Return the body of a streamed answer that begins with reasoning."""
    said = [delta(reasoning_content="Hm."), *(delta(content=piece) for piece in pieces), delta("stop")]
    counted = [frame(choices=[], usage=USAGE)] if usage else []
    return b"".join([*said, *counted, b"data: [DONE]\n\n"])


def echo(request: Any) -> str:
    """Return everything that a request contains."""
    return f"no: {request.url} {dict(request.headers)}"


class Lab:
    """Gives every request the same answer, and records the requests.

    Args:
        pieces: The answer, cut as it is streamed.
        status: Of all responses; a refusal repeats the secrets of the request.
    """

    def __init__(self, *pieces: str, status: int = 200) -> None:
        self.pieces = pieces or ("Good ", "day", "!")
        self.status = status
        self.requests: list[Any] = []

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the requests."""
        return [json.loads(request.content) for request in self.requests]

    def answer(self, request: Any, engine: ModuleType = httpx) -> Any:
        """Return the response to a request."""
        self.requests.append(request)
        body = json.loads(request.content)
        if self.status != 200:
            return engine.Response(self.status, json={"error": {"message": echo(request)}})
        if body["stream"]:
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            content = stream_body(self.pieces, usage)
            return engine.Response(200, content=content, headers={"content-type": "text/event-stream"})
        message = {"role": "assistant", "reasoning_content": "Hm.", "content": "".join(self.pieces)}
        numbers = range(body.get("n") or 1)
        choices = [{"index": number, "message": message, "finish_reason": "stop"} for number in numbers]
        facts = {"id": ID, "object": "chat.completion", "created": CREATED, "model": MODEL}
        return engine.Response(200, json={**facts, "choices": choices, "usage": USAGE})

    def client(self, engine: ModuleType = httpx) -> Any:
        """Return a synchronous HTTP client to pass in."""
        return engine.Client(transport=engine.MockTransport(lambda request: self.answer(request, engine)))

    def async_client(self, engine: ModuleType = httpx) -> Any:
        """Return an asynchronous HTTP client to pass in."""

        async def answer(request: Any) -> Any:
            await asyncio.sleep(0)
            return self.answer(request, engine)

        return engine.AsyncClient(transport=engine.MockTransport(answer))
