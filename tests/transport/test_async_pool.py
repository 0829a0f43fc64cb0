"""One async client in several event loops: one after another, at once, and as they end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.client.test_processes import question
from tests.support.server import (
    MESSAGES,
    QUESTION,
    Endless,
    Loopback,
    echo,
    record_complaints,
)
from tests.support.subprograms import in_child
from tir_qwen import (
    AsyncClient,
)


def test_one_event_loop_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """An async client can be used in several `asyncio.run` calls; each closes its own connections when it ends."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        client = AsyncClient(base_url=server.base_url)

        async def calls() -> None:
            await asyncio.gather(*(client.complete(MESSAGES) for _ in range(3)))
            assert [delta.content async for delta in client.stream(MESSAGES)][:3] == list("Whe")

        for _ in range(4):
            asyncio.run(calls())
        assert server.noticed(server.connections)
    assert complaints() == []


def test_event_loop_that_ends_within_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished stream is closed together with its event loop."""
    complaints = record_complaints(monkeypatch)
    endless = Endless()
    with Loopback(endless) as server:
        client = AsyncClient(base_url=server.base_url)
        left = []

        async def begin() -> None:
            deltas = client.stream(MESSAGES)
            left.append(deltas)
            await anext(deltas)

        asyncio.run(begin())
        assert endless.noticed()
        server.answer = echo
        assert asyncio.run(client.complete(MESSAGES)).content == QUESTION
        left.clear()
    assert complaints() == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_leaves_inherited_loops_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client garbage-collected in a forked child schedules nothing on the loops of its parent."""
    with Loopback(echo) as server, asyncio.Runner() as runner:
        held = [AsyncClient(base_url=server.base_url)]
        runner.run(held[0].complete(MESSAGES))

        def work() -> None:
            scheduled: list[Any] = []
            monkeypatch.setattr(runner.get_loop(), "call_soon_threadsafe", lambda *task: scheduled.append(task))
            assert asyncio.run(held[0].complete(MESSAGES)).content == QUESTION
            held.clear()
            gc.collect()
            assert scheduled == []

        assert in_child(work) == 0


@pytest.mark.parametrize("turns", range(5))
def test_client_forgotten_while_its_loop_ends(
    turns: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client garbage-collected in its loop's last task closes its connections without warnings."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        held = [AsyncClient(base_url=server.base_url)]
        kept: list[Any] = []

        async def forget() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                held.clear()
                gc.collect()

        async def calls() -> None:
            await asyncio.gather(*(held[0].complete(MESSAGES) for _ in range(3)))
            kept.append(asyncio.ensure_future(forget()))
            for _ in range(turns):
                await asyncio.sleep(0)

        asyncio.run(calls())
        kept.clear()
        if held:  # the task was cancelled before it started
            del held[0]
        gc.collect()
        assert server.noticed(server.connections)
    said = [record.getMessage() for record in caplog.records if record.name in ("asyncio", "tir_qwen")]
    assert (complaints(), said) == ([], [])


def test_event_loops_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An async client can be used by the event loops of several threads at once."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        client = AsyncClient(base_url=server.base_url)
        start = threading.Barrier(6)

        async def calls(name: str) -> list[str]:
            messages = [{"role": "user", "content": name}]
            return [answer.content for answer in await asyncio.gather(*(client.complete(messages) for _ in range(5)))]

        def run(name: str) -> list[list[str]]:
            start.wait(5)
            return [asyncio.run(calls(name)) for _ in range(3)]

        names = [f"thread {number}" for number in range(6)]
        with ThreadPoolExecutor(6) as threads:
            assert list(threads.map(run, names)) == [[[name] * 5] * 3 for name in names]
        assert server.noticed(server.connections)
    assert complaints() == []


class SlowLoop(asyncio.SelectorEventLoop):
    """An event loop whose `is_closed` is slow, so that other threads run in between."""

    def is_closed(self) -> bool:
        time.sleep(0.0005)
        return super().is_closed()


def test_event_loops_come_and_go_at_the_same_time() -> None:
    """Threads can open and close event loops around one async client in any order."""
    with Loopback(echo) as server:
        client = AsyncClient(base_url=server.base_url)

        def run(_: int) -> list[str]:
            answers = []
            for _ in range(5):
                with asyncio.Runner(loop_factory=SlowLoop) as runner:
                    answers.append(runner.run(client.complete(MESSAGES)).content)
            return answers

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(run, range(8))) == [[QUESTION] * 5] * 8


def test_live_loops_in_threads() -> None:
    """Event loops running in several threads can share a client, called repeatedly from outside."""
    with Loopback(echo) as server:
        client = AsyncClient(base_url=server.base_url)
        loops = [asyncio.new_event_loop() for _ in range(4)]
        threads = [threading.Thread(target=loop.run_forever) for loop in loops]
        for thread in threads:
            thread.start()
        calls = [asyncio.run_coroutine_threadsafe(_one(client, f"{n}"), loops[n % 4]) for n in range(80)]
        assert [call.result(10) for call in calls] == [f"{n}" for n in range(80)]
        for loop, thread in zip(loops, threads, strict=True):
            asyncio.run_coroutine_threadsafe(client.aclose(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()
        assert server.noticed(server.connections)


async def _one(client: AsyncClient, name: str) -> str:
    return (await client.complete(question(name))).content
