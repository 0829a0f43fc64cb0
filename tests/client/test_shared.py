"""One client shared by several threads or tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import httpx
import httpx2
import pytest

from tests.support.server import (
    MESSAGES,
    QUESTION,
    Loopback,
    Sync,
    ask,
    echo,
)
from tir_qwen import AsyncClient, Client
from tir_qwen.testing import Request


def test_threads_share_a_client() -> None:
    """Threads can share a client, and each gets the answer to its own question."""
    questions = [f"question {number} " for number in range(64)]
    with Loopback(echo) as server, Client(base_url=server.base_url) as client:

        def call(question: str) -> str:
            messages = [{"role": "user", "content": question}]
            whole = client.complete(messages).content
            return whole + "".join(delta.content for delta in client.stream(messages))

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(call, questions)) == [question * 2 for question in questions]


async def test_tasks_share_a_client() -> None:
    """Tasks can share a client."""
    questions = [f"question {number}" for number in range(64)]
    with Loopback(echo) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            answers = await asyncio.gather(
                *(client.complete([{"role": "user", "content": question}]) for question in questions)
            )
    assert [answer.content for answer in answers] == questions


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda module: module.__name__)
def test_a_connection_changes_hands(monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    """Threads waiting for a shared connection each get their full `timeout` once they have it."""
    pool = import_module(engine.__name__.replace("httpx", "httpcore")).ConnectionPool
    close_connections = pool._close_connections

    def slowly(self: Any, closing: Any) -> None:
        close_connections(self, closing)  # the connection is already free
        time.sleep(0.05)

    def answer(request: Request) -> Iterator[bytes]:
        time.sleep(0.3)
        yield from echo(request)

    monkeypatch.setattr(pool, "_close_connections", slowly)
    with Loopback(answer) as server, engine.Client(limits=engine.Limits(max_connections=1), timeout=20) as given:
        client = Client(base_url=server.base_url, http_client=given, max_retries=0)
        with ThreadPoolExecutor(3) as threads:
            answers = list(threads.map(lambda _: ask(Sync(), client, streamed=True), range(3)))
    assert answers == [QUESTION] * 3


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda module: module.__name__)
async def test_a_connection_changes_hands_between_tasks(monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    """Tasks waiting for a shared connection each get their full `timeout` once they have it."""
    pool = import_module(engine.__name__.replace("httpx", "httpcore")).AsyncConnectionPool
    close_connections = pool._close_connections

    async def slowly(self: Any, closing: Any) -> None:
        await close_connections(self, closing)
        await asyncio.sleep(0.05)

    def answer(request: Request) -> Iterator[bytes]:
        time.sleep(0.3)
        yield from echo(request)

    async def call() -> str:
        return "".join([delta.content async for delta in client.stream(MESSAGES)])

    monkeypatch.setattr(pool, "_close_connections", slowly)
    limits = engine.Limits(max_connections=1)
    with Loopback(answer) as server:
        async with engine.AsyncClient(limits=limits, timeout=20) as given:
            client = AsyncClient(base_url=server.base_url, http_client=given, max_retries=0)
            assert await asyncio.gather(call(), call(), call()) == [QUESTION] * 3


def test_close_while_others_are_at_work() -> None:
    """Closing a client lets calls in other threads finish and get their answers."""
    with Loopback(echo) as server, Client(base_url=server.base_url) as client:
        answers: list[str] = []

        def ask() -> None:
            answers.extend(client.complete(MESSAGES).content for _ in range(50))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            client.close()
        assert answers == [QUESTION] * 200
