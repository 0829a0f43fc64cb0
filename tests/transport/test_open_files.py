"""No socket stays open, as counted in the list of open files of this process."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any

import pytest

from tests.support.server import (
    MESSAGES,
    QUESTION,
    STREAM_HEAD,
    Driver,
    HangUpError,
    Loopback,
    ask,
    both_clients,
    chunk,
    completion,
    echo,
    event,
    record_complaints,
    record_waits,
    response,
    stream,
    whole_and_streamed,
)
from tests.support.stopping_servers import open_files, open_sockets
from tests.support.subprograms import in_child
from tir_qwen import AsyncClient, Client, TIRError
from tir_qwen.testing import Request


@whole_and_streamed
@both_clients
def test_closed_clients(monkeypatch: pytest.MonkeyPatch, driver: Driver, streamed: bool) -> None:
    """A closed client has no open socket; it opens one when it is used again."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        client = driver.make(base_url=server.base_url)
        for _ in range(3):
            assert ask(driver, client, streamed) == QUESTION
            driver.close(client)
            assert open_sockets(server) == 0
    assert complaints() == []


def test_forgotten_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage-collected clients leave no socket open."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        clients = [Client(base_url=server.base_url) for _ in range(5)]
        for client in clients:
            client.complete(MESSAGES)
        assert open_sockets(server) == 5
        del client
        clients.clear()
        gc.collect()
        assert open_sockets(server) == 0
    assert complaints() == []


async def test_forgotten_async_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage-collected async clients leave no socket open, once the event loop has run."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        clients = [AsyncClient(base_url=server.base_url) for _ in range(5)]
        await asyncio.gather(*(client.complete(MESSAGES) for client in clients))
        assert open_sockets(server) == 5
        clients.clear()
        gc.collect()
        assert await asyncio.to_thread(server.noticed, 5)
        assert open_sockets(server) == 0
    assert complaints() == []


def test_event_loops_that_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred `asyncio.run` calls with one client do not change the number of open files."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        client = AsyncClient(base_url=server.base_url)
        before = open_files()
        for _ in range(200):
            assert asyncio.run(client.complete(MESSAGES)).content == QUESTION
        assert open_sockets(server) == 0
        assert server.noticed(200)
        assert open_files() == before
    assert complaints() == []


def test_event_loop_that_ends_within_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop that ends during calls and streams closes their sockets."""
    complaints = record_complaints(monkeypatch)

    def answer(request: Request) -> Iterator[bytes]:
        if request.json()["stream"]:
            yield STREAM_HEAD + event("0")
        server.left_within(10)
        raise HangUpError

    with Loopback(echo) as server:
        server.answer = answer
        client = AsyncClient(base_url=server.base_url)
        kept: list[Any] = []

        async def main() -> None:
            for _ in range(5):
                kept.append(client.stream(MESSAGES))
                await anext(kept[-1])
                kept.append(asyncio.ensure_future(client.complete(MESSAGES)))
            await asyncio.sleep(0.05)

        asyncio.run(main())
        assert open_sockets(server) == 0
        assert server.noticed(10)
        kept.clear()
    assert complaints() == []


@both_clients
def test_fifty_breaks(driver: Driver) -> None:
    """Fifty abandoned streams leave no socket open."""

    def answer(_: Request) -> Iterator[bytes]:
        yield STREAM_HEAD + event("0")
        server.left_within(10)
        raise HangUpError

    with Loopback(echo) as server:
        server.answer = answer
        client = driver.make(base_url=server.base_url)

        def leave() -> None:
            for _ in range(50):
                for _ in client.stream(MESSAGES):
                    break

        async def aleave() -> None:
            for _ in range(50):
                async for _ in client.stream(MESSAGES):
                    break
            assert await asyncio.to_thread(server.noticed, 50)
            assert open_sockets(server) == 0

        leave() if driver.make is Client else asyncio.run(aleave())
        assert open_sockets(server) == 0


BROKEN: dict[str, bytes | None] = {
    "refused": response({"error": "no"}, "400 Bad Request"),
    "busy": response({"error": "no"}, "503 Service Unavailable"),
    "redirected": response(b"", "302 Found", location="https://host.invalid/"),
    "hung up": None,
    "no HTTP": b"Hello\r\n\r\n",
    "empty": response(b""),
    "not JSON": response(b"{oops"),
    "cut": completion()[:-5],
    "cut stream": STREAM_HEAD + event("0"),
    "malformed stream": STREAM_HEAD + chunk(b"data: {oops\n\n"),
    "failed stream": STREAM_HEAD + event("0") + chunk(b'data: {"error": "engine died"}\n\n'),
    "corrupt gzip": response(b"oops", content_encoding="gzip"),
    "silent": b"",
}


@pytest.mark.parametrize("kind", BROKEN)
@whole_and_streamed
@both_clients
def test_errors_leave_no_socket_open(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, streamed: bool, kind: str
) -> None:
    """After an error, even one still referenced, a closed client has no open socket and nothing warns of one."""
    record_waits(monkeypatch)
    complaints = record_complaints(monkeypatch)

    def answer(_: Request) -> Iterator[bytes]:
        raw = BROKEN[kind]
        if raw is None:
            raise HangUpError
        yield raw
        if kind == "silent":
            server.left_within(5)
        raise HangUpError

    with Loopback(echo) as server:
        server.answer = answer
        timeout = 0.1 if kind == "silent" else 5
        client = driver.make(base_url=server.base_url, max_retries=1, timeout=timeout)
        with pytest.raises(TIRError) as caught:
            ask(driver, client, streamed)
        driver.close(client)
        assert open_sockets(server) == 0
        assert isinstance(caught.value, TIRError)
    assert complaints() == []


@both_clients
def test_refused_connections(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """Failed connections leave no socket open."""
    record_waits(monkeypatch)
    with Loopback(echo) as server:
        base_url = server.base_url
    before = open_sockets()
    client = driver.make(base_url=base_url)
    for _ in range(3):
        with pytest.raises(TIRError):
            ask(driver, client, streamed=False)
    assert open_sockets() == before


@both_clients
def test_errors_of_the_consumer(driver: Driver) -> None:
    """An exception in the loop over a stream leaves no socket open, although its traceback is still referenced."""

    def fail() -> None:
        for _ in client.stream(MESSAGES):
            raise KeyError

    async def afail() -> None:
        async with aclosing(client.stream(MESSAGES)) as deltas:
            async for _ in deltas:
                raise KeyError

    with Loopback(lambda _: [stream(*"many words " * 100)]) as server:
        client = driver.make(base_url=server.base_url)
        for _ in range(5):
            with suppress(KeyError):
                fail() if driver.make is Client else asyncio.run(afail())
        driver.close(client)
        assert open_sockets(server) == 0


def test_threads_that_end() -> None:
    """Finished threads leave at most one socket for each concurrent call, and none after `close`."""
    with Loopback(echo) as server, Client(base_url=server.base_url) as client:
        for _ in range(5):
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(lambda _: ask_whole(client), range(32)))
        assert open_sockets(server) <= 8
        client.close()
        assert open_sockets(server) == 0


def ask_whole(client: Client) -> str:
    """Return a whole answer."""
    return client.complete(MESSAGES).content


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_children() -> None:
    """A forked child that closes its client leaves none of its sockets open, and the parent's connections intact."""
    with Loopback(echo) as server, Client(base_url=server.base_url) as client:
        assert ask_whole(client) == QUESTION
        inherited = open_sockets(server)

        def work() -> None:
            assert ask_whole(client) == QUESTION
            client.close()
            assert open_sockets(server) <= inherited

        assert [in_child(work) for _ in range(3)] == [0, 0, 0]
        assert open_sockets(server) == 1
        assert ask_whole(client) == QUESTION
        assert server.connections == 4
        client.close()
        assert open_sockets(server) == 0
