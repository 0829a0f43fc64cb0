"""Soak test of one AsyncClient: tasks are cancelled and streams abandoned at random points."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from tir_qwen import AsyncClient

from .leaks import Complaints, figures
from .server import Running
from .soak import (
    AFTERWARDS,
    AT_ONCE,
    HUNG_SECONDS,
    IN_FLIGHT,
    SEED,
    WITH_DELTAS,
    Counter,
    Dice,
    Report,
    lift_limit,
    limited,
    question,
    right_answer,
)

CANCELS = ("cancel", "cancel twice", "timeout")
LEAVES = ("break", "dropped", "cancelled aclose", "thrown")


class Soak:
    """One client, and the outcomes of its calls."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.client = AsyncClient(base_url=server.base_url, max_retries=1000)
        self.unaccepted = AsyncClient(base_url=server.full_url)
        """A client whose server accepts no connection."""
        self.report = Report()

    async def work(self, seed: int, numbers: Iterator[int]) -> None:
        """Make calls in sequence."""
        dice = Dice(seed)
        for number in numbers:
            if self.report.failures.total() > 20:
                return
            phase = dice.phase()
            try:
                await self._one(dice, phase, number)
            except Exception as error:  # noqa: BLE001 - errors are counted
                self.report.failures[f"{phase}: {type(error).__name__}: {error}"[:200]] += 1
            self.report.calls += 1

    async def _one(self, dice: Dice, phase: str, number: int) -> None:
        if phase == "answered":
            await self._answered(dice, number)
            return
        way = dice.random.choice((*CANCELS, *LEAVES) if phase in WITH_DELTAS else CANCELS)
        reached = asyncio.Event()
        if way in CANCELS:
            await self._cancelled(dice, way, phase, partial(self._call, dice, phase, number, reached), reached)
        else:
            await _bounded(self._leave(dice, way, phase, number))
        self.report.left[f"{phase}/{way}"] += 1

    async def _answered(self, dice: Dice, number: int) -> None:
        streamed = dice.streamed("answer")
        async with asyncio.timeout(HUNG_SECONDS):
            content = await ask(self.client, question("answer", number), streamed)
        if content != right_answer(number):
            self.report.failures["a wrong answer"] += 1
        self.report.left[f"answered/{'streamed' if streamed else 'whole'}"] += 1

    async def _call(self, dice: Dice, phase: str, number: int, reached: asyncio.Event) -> None:
        """Make a call that sets `reached` once it has got to its phase."""

        async def on_retry(*_: Any) -> None:
            reached.set()

        client = self.unaccepted if phase == "connecting" else self.client
        mode = phase if phase not in ("at once", "connecting") else "answer"
        if not dice.streamed(phase):
            await client.complete(question(mode, number), on_retry=on_retry)
        else:
            async for _ in client.stream(question(mode, number), on_retry=on_retry):
                reached.set()

    async def _cancelled(self, dice: Dice, way: str, phase: str, call: Any, reached: asyncio.Event) -> None:
        limit = asyncio.timeout(None)

        async def limited() -> None:
            async with limit:
                await call()

        task = asyncio.create_task(limited() if way == "timeout" else call())
        if phase == "at once":
            for _ in range(dice.random.randrange(25)):
                await asyncio.sleep(0)
        else:
            if phase in (*WITH_DELTAS, "refused"):
                await _bounded(reached.wait())
            await asyncio.sleep(dice.seconds(0.05))
        if way == "timeout" and not task.done():
            with suppress(RuntimeError):  # it has not begun, or has ended
                limit.reschedule(0)
        task.cancel() if way != "timeout" or limit.when() is None else None
        if way == "cancel twice":
            for _ in range(dice.random.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        with suppress(asyncio.CancelledError, TimeoutError):
            await _bounded(task)

    async def _leave(self, dice: Dice, way: str, phase: str, number: int) -> None:
        deltas = self.client.stream(question(phase, number))
        wanted = 1 if phase == "frame" else dice.random.randrange(1, 3)
        taken = 0
        with suppress(KeyError):
            async for _ in deltas:
                taken += 1
                if taken == wanted:
                    if way == "thrown":
                        raise KeyError
                    break
        if way == "dropped":
            return
        closing = asyncio.ensure_future(deltas.aclose())
        if way == "cancelled aclose":
            for _ in range(dice.random.randrange(5)):
                await asyncio.sleep(0)
            closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing


async def _bounded(waiting: Any) -> None:
    """Wait, but not forever."""
    task = asyncio.ensure_future(waiting)
    done, _ = await asyncio.wait({task}, timeout=HUNG_SECONDS)
    if not done:
        task.cancel()
        raise HungError
    await task


class HungError(Exception):
    """A call makes no progress and does not end."""

    def __str__(self) -> str:
        return "hung"


async def ask(client: AsyncClient, messages: Any, streamed: bool) -> str:
    """Return the answer."""
    if streamed:
        return "".join([delta.content async for delta in client.stream(messages)])
    return (await client.complete(messages)).content


async def answered(client: AsyncClient, numbers: range, wait: float = 0.0) -> int:
    """Return how many of these concurrent calls get the right answer in time."""
    calls = [ask(client, question("answer", number, wait=wait), number % 2 == 0) for number in numbers]
    try:
        async with asyncio.timeout(HUNG_SECONDS):
            contents = await asyncio.gather(*calls, return_exceptions=True)
    except TimeoutError:
        return 0
    return sum(content == right_answer(number) for number, content in zip(numbers, contents, strict=True))


async def main(calls: int, server: Running, complaints: Complaints) -> Report:
    """Warm up, count resources, make the calls, and count again."""
    soak = Soak(server)
    report = soak.report
    await answered(soak.client, range(AFTERWARDS))
    await soak.client.aclose()
    await asyncio.sleep(0.2)
    report.before = figures()
    began, numbers = time.monotonic(), iter(range(calls))
    await asyncio.gather(*(soak.work(SEED + worker, numbers) for worker in range(IN_FLIGHT)))
    report.seconds = time.monotonic() - began
    began = time.monotonic()
    report.next_answered = await answered(soak.client, range(calls, calls + AFTERWARDS))
    report.next_seconds = time.monotonic() - began
    report.afterwards = figures()
    lift_limit(soak.client, report)
    await answered(soak.client, range(AT_ONCE), wait=5.0)
    await soak.client.aclose()
    await soak.unaccepted.aclose()
    await asyncio.sleep(0.5)
    report.closed = figures()
    report.server = await asyncio.to_thread(server.stats)
    report.at_once = report.server["most"]
    report.complaints = Counter(text[:200] for text in complaints.texts)
    return report


if __name__ == "__main__":
    limited(int(sys.argv[1]))
    everything = Complaints()
    print(asyncio.run(main(int(sys.argv[1]), Running(*sys.argv[2:]), everything)).as_json())
