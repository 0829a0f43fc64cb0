"""Subjects without a framework: the bare HTTP engine with a JSON parser, and our own client."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pydantic_core import from_json

from tir_qwen import AsyncClient, Client

from .work import Seen, Work

_SECONDS = 60


class Raw:
    """A minimal client: splits events by hand; no retries, errors, reasoning or usage."""

    def __init__(self, base_url: str, engine: str = "httpx2") -> None:
        library = import_module(engine)
        limits = library.Limits(max_connections=None)  # so that all calls are really in flight
        self._url = f"{base_url}/chat/completions"
        self._client = library.Client(limits=limits, timeout=_SECONDS)
        self._async_client = library.AsyncClient(limits=limits, timeout=_SECONDS)

    def stream(self, work: Work) -> Seen:
        """Take a stream."""
        chunks = characters = 0
        rest = b""
        with self._client.stream("POST", self._url, json=_body(work, stream=True)) as answer:
            for data in answer.iter_raw():
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    if event != b"data: [DONE]" and (text := _text(from_json(event[6:]))):
                        chunks += 1
                        characters += len(text)
        return Seen(chunks, characters)

    async def astream(self, work: Work) -> Seen:
        """As `stream`."""
        chunks = characters = 0
        rest = b""
        async with self._async_client.stream("POST", self._url, json=_body(work, stream=True)) as answer:
            async for data in answer.aiter_raw():
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    if event != b"data: [DONE]" and (text := _text(from_json(event[6:]))):
                        chunks += 1
                        characters += len(text)
        return Seen(chunks, characters)

    def call(self, work: Work) -> Seen:
        """Take a whole answer."""
        answer = from_json(self._client.post(self._url, json=_body(work, stream=False)).content)
        return Seen(1, len(answer["choices"][0]["message"]["content"]))

    async def acall(self, work: Work) -> Seen:
        """As `call`."""
        response = await self._async_client.post(self._url, json=_body(work, stream=False))
        return Seen(1, len(from_json(response.content)["choices"][0]["message"]["content"]))


def _body(work: Work, *, stream: bool) -> dict[str, Any]:
    return {"model": "qwen3_32b", "messages": work.wire, "stream": stream}


def _text(chunk: dict[str, Any]) -> str | None:
    for choice in chunk["choices"]:
        delta = choice["delta"]
        if calls := delta.get("tool_calls"):
            delta = {"content": calls[0]["function"].get("arguments")}
        text: str | None = delta.get("content") or delta.get("reasoning_content")
        return text
    return None


class Ours:
    """`tir_qwen.Client` and `AsyncClient`."""

    def __init__(self, base_url: str) -> None:
        self._client = Client(base_url=base_url)
        self._async_client = AsyncClient(base_url=base_url)

    def stream(self, work: Work) -> Seen:
        """Take a stream."""
        chunks = characters = 0
        for delta in self._client.stream(work.wire):
            if text := _said(delta):
                chunks += 1
                characters += len(text)
        return Seen(chunks, characters)

    async def astream(self, work: Work) -> Seen:
        """As `stream`."""
        chunks = characters = 0
        async for delta in self._async_client.stream(work.wire):
            if text := _said(delta):
                chunks += 1
                characters += len(text)
        return Seen(chunks, characters)

    def call(self, work: Work) -> Seen:
        """Take a whole answer."""
        return Seen(1, len(self._client.complete(work.wire).content))

    async def acall(self, work: Work) -> Seen:
        """As `call`."""
        return Seen(1, len((await self._async_client.complete(work.wire)).content))


def _said(delta: Any) -> str:
    text: str = delta.content or delta.reasoning or (delta.tool_calls[0].arguments if delta.tool_calls else "")
    return text
