"""A server without a socket: a transport of the user's own client, which answers as vLLM does."""

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
    """A chunk of a stream."""
    chunk = {"id": ID, "object": "chat.completion.chunk", "created": CREATED, "model": MODEL, **facts}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def delta(finish_reason: str | None = None, **said: str) -> bytes:
    """A chunk that says something."""
    return frame(choices=[{"index": 0, "delta": said, "finish_reason": finish_reason}])


def stream_body(pieces: tuple[str, ...], usage: bool) -> bytes:
    """The answer in pieces, with some reasoning before it."""
    said = [delta(reasoning_content="Hm."), *(delta(content=piece) for piece in pieces), delta("stop")]
    counted = [frame(choices=[], usage=USAGE)] if usage else []
    return b"".join([*said, *counted, b"data: [DONE]\n\n"])


def echo(request: Any) -> str:
    """All that a request holds."""
    return f"no: {request.url} {dict(request.headers)}"


class Lab:
    """Answers every request by the same words, and remembers what was asked.

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
        """What was sent."""
        return [json.loads(request.content) for request in self.requests]

    def answer(self, request: Any, engine: ModuleType = httpx) -> Any:
        """The response to a request."""
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
        """A client that a user may have made."""
        return engine.Client(transport=engine.MockTransport(lambda request: self.answer(request, engine)))

    def async_client(self, engine: ModuleType = httpx) -> Any:
        """As `client`."""

        async def answer(request: Any) -> Any:
            await asyncio.sleep(0)
            return self.answer(request, engine)

        return engine.AsyncClient(transport=engine.MockTransport(answer))
