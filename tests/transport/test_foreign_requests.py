"""Other requests of the program are left alone: their logs, and the connections of a client that was passed in."""

from __future__ import annotations

import asyncio
import logging
from importlib import import_module
from typing import Any

import pytest

from tests.support.server import MESSAGES, Loopback, completion, response, stream
from tir_qwen import AsyncClient, Client

ENGINES = pytest.mark.parametrize("engine", [import_module("httpx"), import_module("httpx2")], ids=["httpx", "httpx2"])
OTHER = "other?project_id=acme&apikey=theirs"


def answer(request: Any) -> list[bytes]:
    """Answer our calls, and other requests with a header that their owner wants to see in the log."""
    if request.target.startswith("/other"):
        return [response(b"{}", x_ratelimit_remaining="17")]
    return [stream("Hello") if request.json()["stream"] else completion("Hello")]


def is_theirs(text: str) -> bool:
    """Whether a log line shows the other request unchanged."""
    return "project_id=acme&apikey=theirs" in text


@ENGINES
def test_logs_of_other_requests_are_unchanged(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Another request of the same program is logged in full, also between two parts of a stream."""
    caplog.set_level(logging.DEBUG)
    with Loopback(answer) as server, engine.Client() as other:
        client = Client(base_url=f"{server.base_url}?apikey=ours")
        other.get(f"{server.url}/{OTHER}")
        for _ in client.stream(MESSAGES):
            other.get(f"{server.url}/{OTHER}")
        client.close()
    texts = [record.getMessage() for record in caplog.records]
    assert sum(map(is_theirs, texts)) >= 3
    assert sum("x-ratelimit-remaining" in text for text in texts) >= 3
    assert [text for text in texts if "apikey=ours" in text] == []


@ENGINES
async def test_logs_of_other_requests_are_unchanged_in_event_loops(
    engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Another task's request is logged in full while our call waits for its answer."""
    caplog.set_level(logging.DEBUG)
    with Loopback(answer) as server:
        async with engine.AsyncClient() as other, AsyncClient(base_url=f"{server.base_url}?apikey=ours") as client:
            await asyncio.gather(*(client.complete(MESSAGES) for _ in range(3)), other.get(f"{server.url}/{OTHER}"))
    texts = [record.getMessage() for record in caplog.records]
    assert any(map(is_theirs, texts))
    assert any("x-ratelimit-remaining" in text for text in texts)
    assert [text for text in texts if "apikey=ours" in text] == []


def test_header_compression_is_logged_for_others(caplog: pytest.LogCaptureFixture) -> None:
    """The loggers of HTTP/2 header compression are not silenced outside of our calls."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("hpack.hpack").debug("Decoded %d", 1)
    assert caplog.messages == ["Decoded 1"]


@ENGINES
def test_a_connection_of_a_client_that_was_passed_in_is_restored(engine: Any) -> None:
    """After our call, the connection of the user's own client reads and writes as before."""
    with Loopback(answer) as server, engine.Client() as given:
        client = Client(base_url=server.base_url, http_client=given)
        client.complete(MESSAGES)
        list(client.stream(MESSAGES))
        other = given.get(f"{server.url}/{OTHER}")
        connection = other.extensions["network_stream"]
        assert {type(connection).__name__, type(connection.read).__name__} == {"SyncStream", "method"}
        assert type(connection.write).__name__ == "method"
        assert server.connections == 1
        assert client.complete(MESSAGES).content == "Hello"


@ENGINES
async def test_an_asynchronous_connection_of_a_client_that_was_passed_in_is_restored(engine: Any) -> None:
    """After our call, the connection of the user's own asynchronous client reads and writes as before."""
    with Loopback(answer) as server:
        async with engine.AsyncClient() as given:
            client = AsyncClient(base_url=server.base_url, http_client=given)
            assert [delta.content async for delta in client.stream(MESSAGES)]
            other = await given.get(f"{server.url}/{OTHER}")
            connection = other.extensions["network_stream"]
            assert (type(connection.read).__name__, type(connection.write).__name__) == ("method", "method")
            assert server.connections == 1
