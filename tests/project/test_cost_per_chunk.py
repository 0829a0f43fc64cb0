"""The cost of a streamed chunk, counted in function calls, which are the same on any machine, however busy."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import httpx2
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.llms import ChatMessage

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.server import DONE, END, MESSAGES, QUESTION, STREAM_HEAD, Loopback, chunk, echo, event
from tir_qwen import AsyncClient, Client
from tir_qwen.testing import Request

OURS = ("tir_qwen", "langchain_tir_qwen", "llama_index_tir_qwen")
ENGINE = ("httpx", "httpx2", "httpcore", "httpcore2", "h11", "anyio")
FEW, MANY = 200, 1000

CALL = b'data: {"id":"x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,%s"function":{%s}}]}}]}\n\n'
KINDS: dict[str, Callable[[int], list[bytes]]] = {
    "text": lambda number: [event("word ")] * number,
    "reasoning": lambda number: (
        [chunk(b'data: {"id":"x","choices":[{"index":0,"delta":{"reasoning":"word "}}]}\n\n')] * number
    ),
    "arguments": lambda number: [
        chunk(CALL % (b'"id":"c",', b'"name":"f","arguments":"{\\"x\\": \\""')),
        *[chunk(CALL % (b"", b'"arguments":"word "'))] * number,
        chunk(CALL % (b"", b'"arguments":"\\"}"')),
    ],
}


def answering(pieces: list[bytes]) -> Callable[[Request], list[bytes]]:
    """Answer with a stream that arrives all at once, so that reads from the network cost next to nothing."""
    raw = b"".join([STREAM_HEAD, *pieces, event("", "stop"), DONE, END])
    return lambda _: [raw]


def count_calls(work: Callable[[], int], expected: int) -> Counter[str]:
    """Count the Python functions of each package that are called or resumed."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, kind: str, _: Any) -> None:
        if kind == "call":
            calls[frame.f_globals.get("__name__", "").partition(".")[0]] += 1

    work()  # what is made only once
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        number = work()
    finally:
        sys.setprofile(before)
    assert number >= expected
    return calls


def ours(calls: Counter[str]) -> int:
    """Return the number of calls within our packages."""
    return sum(calls[package] for package in OURS)


async def length(items: Any) -> int:
    """Return the number of items."""
    return len([item async for item in items])


def sync_client(base_url: str) -> Callable[[], int]:
    """Stream with the client."""
    client = Client(base_url=base_url)
    return lambda: sum(1 for _ in client.stream(MESSAGES))


def async_client(base_url: str) -> Callable[[], int]:
    """Stream asynchronously."""
    return lambda: asyncio.run(length(AsyncClient(base_url=base_url).stream(MESSAGES)))


def langchain(base_url: str) -> Callable[[], int]:
    """Stream with the LangChain model."""
    model = ChatTIRQwen(base_url=base_url)
    return lambda: sum(1 for _ in model.stream(QUESTION))


def async_langchain(base_url: str) -> Callable[[], int]:
    """Stream asynchronously."""
    return lambda: asyncio.run(length(ChatTIRQwen(base_url=base_url).astream(QUESTION)))


def llama_index(base_url: str) -> Callable[[], int]:
    """Stream with the LlamaIndex LLM."""
    llm = TIRQwen(api_base=base_url)
    return lambda: sum(1 for _ in llm.stream_chat([ChatMessage(QUESTION)]))


def async_llama_index(base_url: str) -> Callable[[], int]:
    """Stream asynchronously."""

    async def ask() -> int:
        return await length(await TIRQwen(api_base=base_url).astream_chat([ChatMessage(QUESTION)]))

    return lambda: asyncio.run(ask())


MOST = {
    sync_client: {"text": 22, "reasoning": 22, "arguments": 34},
    async_client: {"text": 22, "reasoning": 22, "arguments": 34},
    langchain: {"text": 26, "reasoning": 26, "arguments": 43},
    async_langchain: {"text": 27, "reasoning": 27, "arguments": 44},
    llama_index: {"text": 29, "reasoning": 29, "arguments": 45},
    async_llama_index: {"text": 30, "reasoning": 30, "arguments": 46},
}
"""Calls of ours for a chunk, as counted when this was written. Raise one for a good reason only."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", MOST, ids=lambda way: way.__name__)
def test_calls_per_chunk(way: Callable[[str], Callable[[], int]], kind: str) -> None:
    """A chunk takes few function calls of ours and none of the HTTP engine's, however long the answer is."""
    counted = []
    for number in (FEW, MANY):
        with Loopback(answering(KINDS[kind](number))) as server:
            counted.append(count_calls(way(server.base_url), number))
    few, many = counted
    assert round((ours(many) - ours(few)) / (MANY - FEW)) <= MOST[way][kind]
    assert sum(many[package] - few[package] for package in ENGINE) / (MANY - FEW) < 0.2


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("way", [sync_client, async_client], ids=lambda way: way.__name__)
def test_a_head_that_comes_in_two(way: Callable[[str], Callable[[], int]], cut: int) -> None:
    """Chunks cost no more if the response's head is split within its final blank line."""
    counted = []
    for number in (FEW, MANY):
        raw = b"".join([STREAM_HEAD, *KINDS["text"](number), event("", "stop"), DONE, END])
        cut_at = len(STREAM_HEAD) - cut
        pieces = [raw[:cut_at], raw[cut_at:]]
        with Loopback(lambda _, pieces=pieces: pieces) as server:
            server.pause = 0.05
            counted.append(count_calls(way(server.base_url), number))
    few, many = counted
    assert sum(many[package] - few[package] for package in ENGINE) / (MANY - FEW) < 0.2


@pytest.mark.parametrize("face", ["langchain", "llama_index"])
def test_calls_per_message(face: str) -> None:
    """Each message of the history costs the same, however long the history is."""

    def ask(number: int) -> Callable[[], int]:
        texts = [f"Say {at}." for at in range(number)]
        if face == "langchain":
            model = ChatTIRQwen(base_url=server.base_url)
            history = [HumanMessage(text) if at % 2 else AIMessage(text) for at, text in enumerate(texts)]
            return lambda: len(model.invoke(history).text)
        llm = TIRQwen(api_base=server.base_url)
        turns = [ChatMessage(text, role="user" if at % 2 else "assistant") for at, text in enumerate(texts)]
        return lambda: len(llm.chat(turns).message.content or "")

    with Loopback(echo) as server:
        few, more, many = (ours(count_calls(ask(number), 1)) for number in (100, 200, 1000))
    assert 0 < (many - more) / 800 <= 1.05 * (more - few) / 100 < 30


def users_own(base_url: str) -> Callable[[], int]:
    """Stream through an HTTP client that the user passed in."""

    def ask() -> int:
        with httpx2.Client() as given:
            return sum(1 for _ in Client(base_url=base_url, http_client=given).stream(MESSAGES))

    return ask


@pytest.mark.parametrize(
    ("way", "writes"), [(sync_client, 1), (async_client, 1), (users_own, 2)], ids=["sync", "async", "the user's own"]
)
def test_a_request_is_a_single_write(way: Callable[[str], Callable[[], int]], writes: int) -> None:
    """A request's head and content are sent in one write, except by an HTTP client that the user passed in."""
    sent: list[str] = []

    def note(_: FrameType, kind: str, function: Any) -> None:
        to = getattr(function, "__self__", None)
        if kind == "c_call" and isinstance(to, socket.socket) and to.family == socket.AF_INET:
            sent.extend({function.__name__} & {"send", "sendall", "sendmsg"})

    with Loopback(echo) as server:
        ask = way(server.base_url)
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            ask()
        finally:
            sys.setprofile(before)
        assert len(server.requests) == 1
    assert sent == ["send"] * writes


def test_one_connection() -> None:
    """Twenty consecutive streams use a single connection."""
    with Loopback(echo) as server:
        client = Client(base_url=server.base_url)
        for _ in range(20):
            assert "".join(delta.content for delta in client.stream(MESSAGES)) == QUESTION
    assert (server.connections, len(server.requests)) == (1, 20)
