"""The clients and models under test, each as two functions of a question: one streams the answer, one returns it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tir_qwen import AsyncClient, Client

Ways = tuple[Callable[[str], Any], Callable[[str], Any]]


def _wire(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _lone(base_url: str, asynchronous: bool) -> Ways:
    if not asynchronous:
        client = Client(base_url=base_url)
        return (
            lambda text: (delta.content for delta in client.stream(_wire(text))),
            lambda text: client.complete(_wire(text)).content,
        )
    aclient = AsyncClient(base_url=base_url)

    async def astream(text: str) -> Any:
        async for delta in aclient.stream(_wire(text)):
            yield delta.content

    async def awhole(text: str) -> str:
        return (await aclient.complete(_wire(text))).content

    return astream, awhole


def _langchain(base_url: str, asynchronous: bool) -> Ways:
    model = import_module("langchain_tir_qwen").ChatTIRQwen(base_url=base_url)
    if not asynchronous:
        return (lambda text: (chunk.text for chunk in model.stream(text))), (lambda text: model.invoke(text).text)

    async def astream(text: str) -> Any:
        async for chunk in model.astream(text):
            yield chunk.text

    async def awhole(text: str) -> str:
        return (await model.ainvoke(text)).text

    return astream, awhole


def _llama_index(base_url: str, asynchronous: bool) -> Ways:
    llm = import_module("llama_index_tir_qwen").TIRQwen(api_base=base_url)
    if not asynchronous:
        return (
            lambda text: (response.delta for response in llm.stream_complete(text)),
            lambda text: llm.complete(text).text,
        )

    async def astream(text: str) -> Any:
        async for response in await llm.astream_complete(text):
            yield response.delta

    async def awhole(text: str) -> str:
        return (await llm.acomplete(text)).text

    return astream, awhole


INSTANCES = {"client": _lone, "langchain": _langchain, "llama-index": _llama_index}
