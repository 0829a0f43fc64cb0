"""The process of one subject: reads jobs from standard input as JSON lines, and prints what they cost."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from stress.leaks import megabytes

from .subjects import ON_HTTPX, SUBJECTS, Subject
from .work import Seen, Work

LIMIT = 120
"""Maximum seconds for a job; the process is ended if it takes longer."""
_LOOK_SECONDS = 0.1
Measured = dict[str, float]


class Task(NamedTuple):
    """A job, ready for the worker to run."""

    subject: Subject
    loop: asyncio.Runner
    work: Work
    times: int
    at_once: int

    def check(self, seen: Iterable[Seen], *, streamed: bool) -> None:
        """Raise an error unless all answers are right."""
        for one in seen:
            self.work.check(one, streamed=streamed)


class Clock:
    """Context manager that measures CPU time and wall time."""

    def __enter__(self) -> Clock:
        gc.collect()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cpu = time.process_time() - self._cpu
        self.wall = time.perf_counter() - self._wall

    def per(self, units: int) -> Measured:
        """Return CPU microseconds per unit, units per second, total seconds, and the percentage of a core used."""
        share = 100 * self.cpu / self.wall
        return {"cpu": self.cpu / units * 1e6, "rate": units / self.wall, "wall": self.wall, "share": share}


def stream(task: Task) -> Measured:
    """Measure the CPU time per chunk of sequential streams."""
    with Clock() as clock:
        seen = [task.subject.stream(task.work) for _ in range(task.times)]
    task.check(seen, streamed=True)
    return clock.per(task.times * task.work.chunks)


def astream(task: Task) -> Measured:
    """Like `stream`, asynchronously."""

    async def run() -> list[Seen]:
        return [await task.subject.astream(task.work) for _ in range(task.times)]

    with Clock() as clock:
        seen = task.loop.run(run())
    task.check(seen, streamed=True)
    return clock.per(task.times * task.work.chunks)


def call(task: Task) -> Measured:
    """Measure the CPU time per sequential non-streaming call."""
    with Clock() as clock:
        seen = [task.subject.call(task.work) for _ in range(task.times)]
    task.check(seen, streamed=False)
    return clock.per(task.times)


def acall(task: Task) -> Measured:
    """Like `call`, asynchronously."""

    async def run() -> list[Seen]:
        return [await task.subject.acall(task.work) for _ in range(task.times)]

    with Clock() as clock:
        seen = task.loop.run(run())
    task.check(seen, streamed=False)
    return clock.per(task.times)


def flight(task: Task) -> Measured:
    """Measure the CPU time per non-streaming call, with a constant number in flight."""

    async def caller(numbers: Iterable[int]) -> list[Seen]:
        return [await task.subject.acall(task.work) for _ in numbers]

    async def run(times: int) -> list[list[Seen]]:
        numbers = iter(range(times))
        return await asyncio.gather(*(caller(numbers) for _ in range(task.at_once)))

    task.loop.run(run(task.at_once))  # opens the connections
    with Clock() as clock:
        seen = task.loop.run(run(task.times))
    task.check((one for some in seen for one in some), streamed=False)
    return clock.per(task.times)


def burst(task: Task) -> Measured:
    """Measure the CPU time per non-streaming call of many at once, each in a thread, which open connections."""
    with ThreadPoolExecutor(task.at_once) as threads, Clock() as clock:
        seen = [*threads.map(task.subject.call, [task.work] * task.at_once)]
    task.check(seen, streamed=False)
    return clock.per(task.at_once)


def aburst(task: Task) -> Measured:
    """Like `burst`, asynchronously."""

    async def run() -> list[Seen]:
        return await asyncio.gather(*(task.subject.acall(task.work) for _ in range(task.at_once)))

    with Clock() as clock:
        seen = task.loop.run(run())
    task.check(seen, streamed=False)
    return clock.per(task.at_once)


def together(task: Task) -> Measured:
    """Measure the CPU time per chunk of concurrent streams."""

    async def run(work: Work) -> list[Seen]:
        return await asyncio.gather(*(task.subject.astream(work) for _ in range(task.at_once)))

    task.loop.run(run(Work(chunks=2)))  # opens the connections
    with Clock() as clock:
        seen = task.loop.run(run(task.work))
    task.check(seen, streamed=True)
    return clock.per(task.at_once * task.work.chunks)


def memory(task: Task) -> Measured:
    """Measure the peak memory growth per concurrent stream, in kB."""

    async def run() -> tuple[list[Seen], float]:
        streams = asyncio.gather(*(task.subject.astream(task.work) for _ in range(task.at_once)))
        peak = 0.0
        while not streams.done():
            peak = max(peak, megabytes())
            await asyncio.sleep(_LOOK_SECONDS)
        return streams.result(), peak

    task.loop.run(task.subject.astream(Work()))  # imports, and the SSL context
    gc.collect()
    before = megabytes()
    seen, peak = task.loop.run(run())
    task.check(seen, streamed=True)
    return {"kb": (peak - before) / task.at_once * 1e3}


JOBS: dict[str, Callable[[Task], Measured]] = {
    function.__name__: function for function in (stream, astream, call, acall, flight, burst, aburst, together, memory)
}


def main(name: str, base_url: str) -> None:
    """Run jobs until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps what libraries print out of the answers
    subject = SUBJECTS[name.removesuffix(ON_HTTPX)](base_url)
    warnings.simplefilter("ignore")  # v3 is in beta; LangChain has set filters of its own
    with asyncio.Runner() as loop:
        for line in sys.stdin:
            job = json.loads(line)
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            try:
                task = Task(subject, loop, Work(**job["work"]), job["times"], job["at_once"])
                measured: Any = JOBS[job["job"]](task)
            except Exception as error:  # noqa: BLE001 - reported; may be from another library
                measured = {"error": f"{type(error).__name__}: {error}"[:200]}
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(measured), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
