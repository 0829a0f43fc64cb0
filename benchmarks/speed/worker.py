"""The process of one subject: reads jobs from standard input as lines of JSON, and writes what they have cost."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

from .subjects import ON_HTTPX, SUBJECTS, Subject
from .work import Seen, Work

LIMIT = 120
"""Seconds for a job; one that takes longer ends the process."""
Measured = dict[str, float]


class Clock:
    """The time that passes within it: of this process's CPU, and on the wall."""

    def __enter__(self) -> Clock:
        gc.collect()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cpu = time.process_time() - self._cpu
        self.wall = time.perf_counter() - self._wall

    def per(self, units: int) -> Measured:
        """CPU microseconds for each of so many, how many a second, and the seconds of all."""
        return {"cpu": self.cpu / units * 1e6, "rate": units / self.wall, "wall": self.wall, "share": self.cpu / self.wall}


def stream(subject: Subject, loop: asyncio.Runner, work: Work, times: int) -> Measured:
    """CPU per chunk of streams, one after another."""
    with Clock() as clock:
        seen = [subject.stream(work) for _ in range(times)]
    return _checked(seen, work, streamed=True) or clock.per(times * work.chunks)


def astream(subject: Subject, loop: asyncio.Runner, work: Work, times: int) -> Measured:
    """As `stream`, asynchronous."""

    async def run() -> list[Seen]:
        return [await subject.astream(work) for _ in range(times)]

    with Clock() as clock:
        seen = loop.run(run())
    return _checked(seen, work, streamed=True) or clock.per(times * work.chunks)


def call(subject: Subject, loop: asyncio.Runner, work: Work, times: int) -> Measured:
    """CPU per call of whole answers, one after another."""
    with Clock() as clock:
        seen = [subject.call(work) for _ in range(times)]
    return _checked(seen, work, streamed=False) or clock.per(times)


def acall(subject: Subject, loop: asyncio.Runner, work: Work, times: int) -> Measured:
    """As `call`, asynchronous."""

    async def run() -> list[Seen]:
        return [await subject.acall(work) for _ in range(times)]

    with Clock() as clock:
        seen = loop.run(run())
    return _checked(seen, work, streamed=False) or clock.per(times)


JOBS: dict[str, Callable[[Subject, asyncio.Runner, Work, int], Measured]] = {
    "stream": stream,
    "astream": astream,
    "call": call,
    "acall": acall,
}


def _checked(seen: list[Seen], work: Work, *, streamed: bool) -> Measured:
    for one in seen:
        work.check(one, streamed=streamed)
    return {}


def main(name: str, base_url: str) -> None:
    """Do jobs until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints
    subject = SUBJECTS[name.removesuffix(ON_HTTPX)](base_url)
    warnings.simplefilter("ignore")  # v3 is in beta; LangChain has set filters of its own
    with asyncio.Runner() as loop:
        for line in sys.stdin:
            job = json.loads(line)
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            try:
                measured: Any = JOBS[job["job"]](subject, loop, Work(**job["work"]), job["times"])
            except Exception as error:  # noqa: BLE001 - of another library, perhaps; it is reported
                measured = {"error": f"{type(error).__name__}: {error}"[:200]}
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(measured), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
