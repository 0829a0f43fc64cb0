"""Idle connections: how long they are kept, and what happens when the server leaves them first."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.server import (
    MESSAGES,
    QUESTION,
    Driver,
    HangUpError,
    Loopback,
    both_clients,
    echo,
    record_complaints,
)
from tests.support.stopping_servers import open_sockets
from tests.transport.test_interception import SERVER_TLS, trust
from tir_qwen import AsyncClient, Client, ConfigurationError
from tir_qwen._transport.connections import KEEPALIVE_SECONDS, MAX_IDLE, Connections
from tir_qwen._transport.engine import _client_options
from tir_qwen.testing import Request

CLOCK = "tir_qwen._transport.connections.monotonic"


class Clock:
    """Time as the pools see it, which only passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr(CLOCK, lambda: self.now)

    def pass_by(self, seconds: float) -> None:
        """Let this much time pass."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of the pools."""
    return Clock(monkeypatch)


def call_in_turn(driver: Driver, url: str, number: int, between: Callable[[], Any] = bool, **params: Any) -> list[str]:
    """Make calls one after another with one client, every second one streamed; then close the client.

    If it is asynchronous, they run in one event loop.
    """
    client = driver.make(base_url=url, timeout=5)

    def calls() -> Iterator[str]:
        with client:
            for turn in range(number):
                if turn % 2:
                    yield "".join(delta.content for delta in client.stream(MESSAGES, **params))
                else:
                    yield client.complete(MESSAGES, **params).content
                between()

    async def acalls() -> list[str]:
        contents = []
        async with client:
            for turn in range(number):
                if turn % 2:
                    contents.append("".join([delta.content async for delta in client.stream(MESSAGES, **params)]))
                else:
                    contents.append((await client.complete(MESSAGES, **params)).content)
                await asyncio.to_thread(between)
        return contents

    return list(calls()) if driver.make is Client else asyncio.run(acalls())


def saying(keep_alive: str | None) -> Callable[[Request], list[bytes]]:
    """Answer with this `Keep-Alive` header."""
    header = b"" if keep_alive is None else b"keep-alive: %s\r\n" % keep_alive.encode()
    return lambda request: [raw.replace(b"200 OK\r\n", b"200 OK\r\n" + header, 1) for raw in echo(request)]


LIMITS: list[tuple[str | None, float]] = [
    (None, 55.0),
    ("timeout=5", 4.0),
    ("timeout=5, max=100", 4.0),
    ("max=100, timeout=5", 4.0),
    ("timeout=2", 1.0),
    ("timeout=1", 0.5),
    ("timeout=600", 55.0),
    ("timeout=99999999999999999999", 55.0),
    ("timeout=soon", 55.0),
    ("timeout=", 55.0),
    ("timeout=-5", 55.0),
    ("max=5", 55.0),
    ("Timeout=5", 4.0),
]


@pytest.mark.parametrize(("keep_alive", "seconds"), LIMITS, ids=[str(header) for header, _ in LIMITS])
@both_clients
def test_idle_connections_are_kept_as_long_as_the_server_says(
    clock: Clock, driver: Driver, keep_alive: str | None, seconds: float
) -> None:
    """A connection is used again until shortly before the server closes it, and closed, but not used, afterwards."""
    with Loopback(saying(keep_alive)) as server:
        counts = []

        def between() -> None:
            counts.append((server.connections, open_sockets(server)))
            clock.pass_by(next(passing))

        passing = iter([seconds - 0.01, seconds, 0, 0])
        assert call_in_turn(driver, server.base_url, 4, between) == [QUESTION] * 4
        assert counts == [(1, 1), (1, 1), (2, 1), (2, 1)]
        assert server.noticed(2)


@both_clients
def test_a_server_that_keeps_nothing_is_left_at_once(driver: Driver) -> None:
    """With `Keep-Alive: timeout=0`, each connection is closed after its answer."""
    with Loopback(saying("timeout=0")) as server:
        counts: list[int] = []
        answers = call_in_turn(driver, server.base_url, 3, lambda: counts.append(open_sockets(server)))
        assert (answers, counts, server.connections) == ([QUESTION] * 3, [0] * 3, 3)


def test_the_engine_keeps_a_connection_as_long() -> None:
    """The engine's own limit is that of the pool: 55 seconds, less than the minute of many gateways."""
    assert _client_options()["limits"].keepalive_expiry == KEEPALIVE_SECONDS == 55.0


class Leaving(Loopback):
    """Leaves idle connections: some time after an answer, or with a reset as soon as the next request comes."""

    def __init__(self, seconds: float | None, **options: Any) -> None:
        self.seconds = seconds
        self.left = threading.Semaphore(0)
        super().__init__(self._answer, **options)

    def _answer(self, request: Request) -> Iterator[bytes]:
        if self.seconds is None and getattr(self._own, "is_used", False):
            self.reset_connection()
        self._own.is_used = True
        yield from echo(request)
        if self.seconds is not None and not self.left_within(self.seconds):
            raise HangUpError

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.left.release()


@pytest.mark.parametrize(("encrypted", "number"), [(False, 25), (True, 6)], ids=["plain", "TLS"])
@pytest.mark.parametrize("seconds", [0.01, None], ids=["at its leisure", "with a reset"])
@both_clients
def test_connections_that_the_server_leaves_cost_no_attempt(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    driver: Driver,
    seconds: float | None,
    encrypted: bool,
    number: int,
) -> None:
    """Whenever a server closes its idle connections, each of many calls is answered, and none counts as a retry."""
    trust(monkeypatch)
    caplog.set_level(logging.INFO, "tir_qwen")
    complaints = record_complaints(monkeypatch)
    retries: list[Any] = []

    def on_retry(*told: Any) -> None:
        retries.append(told)

    async def aon_retry(*told: Any) -> None:
        retries.append(told)

    with Leaving(seconds, tls=SERVER_TLS if encrypted else None) as server:
        url = server.base_url.replace("http:", "https:" if encrypted else "http:")

        def between() -> None:
            if seconds is not None:
                assert server.left.acquire(timeout=5)

        note = on_retry if driver.make is Client else aon_retry
        assert call_in_turn(driver, url, number, between, on_retry=note) == [QUESTION] * number
        assert (server.connections, retries) == (number, [])
        assert open_sockets(server) == 0
    assert [record.getMessage() for record in caplog.records if record.name == "tir_qwen"] == []
    assert complaints() == []


def test_connections_that_expire_in_any_order_are_closed(clock: Clock) -> None:
    """The most recently used connection that has not expired is used, and expired ones are closed with the next."""
    connections = Connections()
    one, two, three, four = (connections.acquire(lambda name=name: Named(name)) for name in "1234")
    for connection, seconds in ((one, 55.0), (two, 4.0), (three, 55.0), (four, 4.0)):
        assert connections.release(connection, idle_seconds=seconds) == []
    clock.pass_by(10)
    assert connections.acquire(unwanted) is three
    assert connections.acquire(unwanted) is one
    new = connections.acquire(lambda: Named("5"))
    assert connections.release(new) == [four, two, new]
    assert connections.release(three, idle_seconds=55.0) == []
    assert connections.pop_all(include_busy=True) in ([three, one], [one, three])


def test_expired_connections_do_not_outlive_a_failed_attempt(clock: Clock) -> None:
    """If there is no new connection in the place of an expired one, the expired one is closed with the others."""
    connections = Connections()
    one = connections.acquire(lambda: Named("1"))
    connections.release(one, idle_seconds=1.0)
    clock.pass_by(2)
    with pytest.raises(ConfigurationError):
        connections.acquire(unwanted)
    assert connections.pop_all(include_busy=True) == [one]
    assert connections.pop_all(include_busy=True) == []


def test_expired_connections_do_not_count_as_busy(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """A call that takes the place of an expired connection is the only one that runs."""
    monkeypatch.setattr("tir_qwen._transport.connections.MAX_CONNECTIONS", 2)
    connections = Connections()
    connections.release(connections.acquire(lambda: Named("1")), idle_seconds=1.0)
    clock.pass_by(2)
    held = [connections.acquire(lambda: Named("2"))]
    assert not connections.exhausted
    held.append(connections.acquire(lambda: Named("3")))
    assert connections.exhausted


def test_no_more_than_the_maximum_is_kept(clock: Clock) -> None:
    """Of a hundred and twenty connections that become idle, the hundred that were used last are kept."""
    connections = Connections()
    all_of_them = [connections.acquire(lambda: Named("")) for _ in range(120)]
    closing = [one for connection in all_of_them for one in connections.release(connection, idle_seconds=55.0)]
    assert (MAX_IDLE, closing) == (100, all_of_them[:20])
    assert connections.pop_idle() == all_of_them[20:]


class Named:
    """A connection that can be told from others, and be referenced weakly."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.users = 0

    def __repr__(self) -> str:
        return self.name


def unwanted() -> Named:
    """Open a connection where none is wanted."""
    raise ConfigurationError("no new connection")


def test_threads_share_connections_that_expire() -> None:
    """Threads never get the same connection at once, nor one that has been closed, and each is closed exactly once."""
    connections = Connections()
    opened: list[Named] = []
    closed: list[Named] = []

    def connect() -> Named:
        opened.append(Named("new"))
        return opened[-1]

    def work(number: int) -> None:
        for turn in range(300):
            connection = connections.acquire(connect)
            connection.users += 1
            assert (connection.users, connection in closed[-50:]) == (1, False)
            if turn % 7 == number:
                time.sleep(0)
            connection.users -= 1
            closed.extend(connections.release(connection, idle_seconds=(0.0, 1e-7, 2e-5, 1e-3, 5.0)[turn % 5]))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    closed.extend(connections.pop_all())
    assert len(closed) == len(opened) > 8
    assert set(map(id, closed)) == set(map(id, opened))
    assert not connections.exhausted


def test_threads_whose_connections_expire_leave_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls from many threads over connections that expire all the time are answered, and every socket is closed."""
    complaints = record_complaints(monkeypatch)
    monkeypatch.setattr("tir_qwen._transport.connections.KEEPALIVE_SECONDS", 0.002)
    with Loopback(echo) as server:
        with Client(base_url=server.base_url, max_retries=0) as client, ThreadPoolExecutor(8) as threads:

            def ask(_: int) -> str:
                answer = client.complete(MESSAGES).content
                time.sleep(0.004)  # in which the connections of all threads may expire
                return answer

            assert list(threads.map(ask, range(200))) == [QUESTION] * 200
        assert open_sockets(server) == 0
        assert server.connections > 8
        assert server.noticed(server.connections)
    assert complaints() == []


async def test_tasks_whose_connections_expire_leave_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same is true of many tasks of an event loop."""
    complaints = record_complaints(monkeypatch)
    monkeypatch.setattr("tir_qwen._transport.connections.KEEPALIVE_SECONDS", 0.002)
    with Loopback(echo) as server:
        async with AsyncClient(base_url=server.base_url, max_retries=0) as client:

            async def calls() -> list[str]:
                return [(await client.complete(MESSAGES)).content for _ in range(5) if not await asyncio.sleep(0.003)]

            assert await asyncio.gather(*(calls() for _ in range(8))) == [[QUESTION] * 5] * 8
        assert open_sockets(server) == 0
        assert server.connections > 8
        assert await asyncio.to_thread(server.noticed, server.connections)
    assert complaints() == []
