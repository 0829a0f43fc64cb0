"""Abandoning a call, in any way and at any point, closes its connection and leaves the client usable."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager, suppress
from random import Random
from typing import Any

import pytest

from tests.support.server import (
    MESSAGES,
    QUESTION,
    Endless,
    HangUpError,
    Loopback,
    echo,
    response,
)
from tests.support.stopping_servers import LAST, PHASES, STREAMED, Stopping, open_sockets, unaccepting
from tir_qwen import AsyncClient, Client
from tir_qwen.testing import Request

BUSY = response({"error": "busy"}, "503 Service Unavailable", retry_after="30")


async def acall(client: AsyncClient, streamed: bool = True, **params: Any) -> str:
    """Make a call and read the answer to its end."""
    if not streamed:
        return (await client.complete(MESSAGES, **params)).content
    async with aclosing(client.stream(MESSAGES, **params)) as deltas:
        return "".join([delta.content async for delta in deltas])


def call(client: Client, streamed: bool = True, **params: Any) -> str:
    """Make a call and read the answer to its end, synchronously."""
    if not streamed:
        return client.complete(MESSAGES, **params).content
    with closing(client.stream(MESSAGES, **params)) as deltas:
        return "".join(delta.content for delta in deltas)


async def cancel(calling: Awaitable[str], reached: Callable[[], Awaitable[Any]]) -> None:
    """Cancel the task."""
    task = asyncio.ensure_future(calling)
    await reached()
    task.cancel()
    await task


async def cancel_twice(calling: Awaitable[str], reached: Callable[[], Awaitable[Any]]) -> None:
    """Cancel the task, and cancel it again while it is cleaning up."""
    task = asyncio.ensure_future(calling)
    await reached()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await task


async def run_out_of_time(calling: Awaitable[str], reached: Callable[[], Awaitable[Any]]) -> None:
    """Let an `asyncio.timeout` around the call expire."""

    async def watch() -> None:
        await reached()
        limit.reschedule(0)

    watching = asyncio.ensure_future(watch())
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:
            await calling
        return
    await watching
    raise asyncio.CancelledError


async def fail_beside(calling: Awaitable[str], reached: Callable[[], Awaitable[Any]]) -> None:
    """Let another task in the same task group fail."""

    async def fail() -> None:
        await reached()
        raise KeyError

    with suppress(BaseExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(calling)
            group.create_task(fail())
    raise asyncio.CancelledError


async def still_answers(client: AsyncClient) -> None:
    """Check that the next calls are answered."""
    async with asyncio.timeout(5):
        assert [await acall(client), await acall(client, False)] == [QUESTION] * 2


@pytest.mark.parametrize("way", [cancel, cancel_twice, run_out_of_time, fail_beside], ids=lambda way: way.__name__)
@pytest.mark.parametrize("phase", PHASES)
async def test_cancelled_at_any_point(phase: str, way: Any) -> None:
    """A cancelled call ends at once and closes its connection, whatever it was doing; the next call is answered."""
    with Stopping(PHASES[phase]) as server:

        async def reached() -> None:
            assert await asyncio.to_thread(server.reached.wait, 5)
            await asyncio.sleep(0.01)  # until everything written has been read

        async with AsyncClient(base_url=server.base_url, max_retries=0) as client:
            calling = acall(client, streamed="whole" not in phase)
            async with asyncio.timeout(5):
                if phase == LAST:  # the call may already be finished
                    with suppress(asyncio.CancelledError):
                        await way(calling, reached)
                else:
                    with pytest.raises(asyncio.CancelledError):
                        await way(calling, reached)
            assert await asyncio.to_thread(server.is_left)
            server.answer = echo
            await still_answers(client)
        assert open_sockets(server) == 0


@pytest.mark.parametrize("turns", range(0, 24, 3))
async def test_cancelled_before_it_is_sent(turns: int) -> None:
    """A call can be cancelled while it is connecting, at any step of the event loop."""
    with Loopback(echo) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            tasks = [asyncio.ensure_future(acall(client)) for _ in range(5)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert {answer if isinstance(answer, str) else type(answer) for answer in answers} <= {
                asyncio.CancelledError,
                QUESTION,
            }
            await still_answers(client)
        assert await asyncio.to_thread(server.noticed, server.connections)
        assert open_sockets(server) == 0


async def test_cancelled_while_connecting() -> None:
    """Cancelling a call that waits for the server to accept its connection leaves no socket open."""
    with unaccepting() as port:
        before = open_sockets()
        client = AsyncClient(base_url=f"http://127.0.0.1:{port}/v1")
        task = asyncio.ensure_future(acall(client))
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if open_sockets() > before:
                break
        else:
            pytest.fail("it does not connect")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.01)
        assert open_sockets() == before


async def test_cancelled_while_it_waits_to_try_again() -> None:
    """The wait before a retry can be cancelled, and the connection stays usable."""
    with Loopback(lambda _: [BUSY]) as server:
        async with AsyncClient(base_url=server.base_url, adaptive_limit=False) as client:
            waiting = asyncio.Event()

            async def on_retry(error: Exception, delay: float) -> None:
                waiting.set()

            task = asyncio.ensure_future(acall(client, on_retry=on_retry))
            await waiting.wait()
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            server.answer = echo
            await still_answers(client)
        assert server.connections == 1


@pytest.mark.parametrize("turns", range(4))
async def test_cancelled_while_it_is_closed(turns: int) -> None:
    """If `aclose` of a stream is itself cancelled, the connection is still closed."""
    endless = Endless()
    with Loopback(endless) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            deltas = client.stream(MESSAGES)
            await anext(deltas)
            closing_it = asyncio.ensure_future(deltas.aclose())
            for _ in range(turns):
                await asyncio.sleep(0)
            closing_it.cancel()
            with suppress(asyncio.CancelledError):
                await closing_it
            del deltas
            assert await asyncio.to_thread(endless.noticed)
            server.answer = echo
            await still_answers(client)
        assert open_sockets(server) == 0


LEAVES = ("break", "close", "drop", "throw")


@pytest.mark.parametrize("way", LEAVES)
@pytest.mark.parametrize("phase", STREAMED)
async def test_async_stream_left(phase: str, way: str) -> None:
    """Leaving an asynchronous stream, in any way, closes its connection; the next call is answered."""
    with Stopping(STREAMED[phase]) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            deltas = client.stream(MESSAGES)
            with suppress(KeyError):
                async for _ in deltas:
                    if way == "throw":
                        raise KeyError
                    break
            if way == "close":
                await deltas.aclose()
            del deltas
            assert await asyncio.to_thread(server.is_left)
            server.answer = echo
            await still_answers(client)
        assert open_sockets(server) == 0


@pytest.mark.parametrize("way", LEAVES)
@pytest.mark.parametrize("phase", STREAMED)
def test_leaving_a_stream_closes_its_connection(phase: str, way: str) -> None:
    """Leaving a stream, in any way, closes its connection at once; the next call is answered."""
    with Stopping(STREAMED[phase]) as server, Client(base_url=server.base_url) as client:
        deltas = client.stream(MESSAGES)
        with suppress(KeyError):
            for _ in deltas:
                if way == "throw":
                    raise KeyError
                break
        if way == "close":
            deltas.close()
        del deltas
        assert open_sockets(server) == 0
        assert server.is_left()
        server.answer = echo
        assert [call(client), call(client, False)] == [QUESTION] * 2


@contextmanager
def interrupt_after(reached: threading.Event) -> Iterator[None]:
    """Send this thread a signal that raises `KeyboardInterrupt`, as Ctrl-C does."""
    me = threading.get_ident()

    def send() -> None:
        assert reached.wait(5)
        time.sleep(0.01)
        signal.pthread_kill(me, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != LAST])
def test_ctrl_c_at_any_point(phase: str) -> None:
    """Ctrl-C ends a call at once and closes its connection, whatever it was doing; the next call is answered."""
    with Stopping(PHASES[phase]) as server, Client(base_url=server.base_url, max_retries=0) as client:
        with pytest.raises(KeyboardInterrupt), interrupt_after(server.reached):
            call(client, streamed="whole" not in phase)
        assert open_sockets(server) == 0
        assert server.is_left()
        server.answer = echo
        assert [call(client), call(client, False)] == [QUESTION] * 2


def test_ctrl_c_while_it_waits_to_try_again() -> None:
    """Ctrl-C ends the wait before a retry, and the connection stays usable."""
    waiting = threading.Event()
    with Loopback(lambda _: [BUSY]) as server, Client(base_url=server.base_url, adaptive_limit=False) as client:
        with pytest.raises(KeyboardInterrupt), interrupt_after(waiting):
            call(client, on_retry=lambda error, delay: waiting.set())
        server.answer = echo
        assert call(client) == QUESTION
        assert server.connections == 1


def any_phase(server: Loopback) -> Callable[[Request], Iterator[bytes]]:
    """Stop at the phase named in the question, briefly or until the client disconnects."""

    def answer(request: Request) -> Iterator[bytes]:
        phase = request.json()["messages"][0]["content"]
        if phase == QUESTION:
            yield from echo(request)
            return
        yield PHASES[phase]
        server.left_within(5)
        raise HangUpError

    return answer


async def test_hundreds_of_cancelled_calls() -> None:
    """After hundreds of calls cancelled at random points, new calls are answered and no connection is leaked."""
    random = Random(6)
    with Loopback(echo) as server:
        server.answer = any_phase(server)
        async with AsyncClient(base_url=server.base_url, max_retries=0) as client:

            async def one() -> None:
                phase = random.choice([*PHASES, QUESTION])
                messages = [{"role": "user", "content": phase}]
                task = asyncio.ensure_future(_read(client.stream(messages)))
                if random.random() < 0.4:
                    for _ in range(random.randrange(25)):
                        await asyncio.sleep(0)
                else:
                    await asyncio.sleep(random.random() * 0.04)
                task.cancel()
                await asyncio.wait({task}, timeout=5)
                assert task.done()

            async def work() -> None:
                for _ in range(20):
                    await one()

            await asyncio.gather(*(work() for _ in range(15)))
            async with asyncio.timeout(5):
                answers = await asyncio.gather(*(acall(client, bool(number % 2)) for number in range(50)))
            assert answers == [QUESTION] * 50
        assert await asyncio.to_thread(server.noticed, server.connections)
        assert open_sockets(server) == 0
    assert len(asyncio.all_tasks()) == 1


async def _read(deltas: Any) -> None:
    async for _ in deltas:
        pass


def test_hundreds_of_streams_left_in_threads() -> None:
    """After threads have abandoned hundreds of streams, new calls are answered and no connection is leaked."""
    with Loopback(echo) as server, Client(base_url=server.base_url) as client:
        server.answer = any_phase(server)

        def work(seed: int) -> None:
            random = Random(seed)
            for _ in range(40):
                deltas = client.stream([{"role": "user", "content": random.choice([*STREAMED])}])
                next(deltas)
                if random.random() < 0.5:
                    deltas.close()
                with suppress(StopIteration, KeyError):
                    deltas.throw(KeyError)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
            assert open_sockets(server) == 0
            assert list(threads.map(lambda number: call(client, bool(number % 2)), range(50))) == [QUESTION] * 50
        client.close()
        assert server.noticed(server.connections)
        assert open_sockets(server) == 0


async def test_reused_connection_cancelled() -> None:
    """Cancelling a call on a reused connection does not affect the calls that follow."""
    with Loopback(echo) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            for turns in range(30):
                await still_answers(client)
                task = asyncio.ensure_future(acall(client))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait({task})
            await still_answers(client)
        assert open_sockets(server) == 0


async def test_cancelled_while_encryption_is_agreed_on() -> None:
    """Cancelling a task during the TLS handshake leaves no socket open."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = AsyncClient("1", "token", base_url=f"https://127.0.0.1:{listening.getsockname()[1]}/v1")
        task = asyncio.create_task(client.complete(MESSAGES))
        accepted, _ = await asyncio.to_thread(listening.accept)
        with accepted:
            accepted.settimeout(5)
            assert await asyncio.to_thread(accepted.recv, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while await asyncio.to_thread(accepted.recv, 4096):
                pass
