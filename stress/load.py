"""Load test: hundreds of concurrent streams and thousands of queued calls through one instance.

python -m stress.load [--streams 500] [--queued 5000] [--engine httpx2|httpx] [--only NAME] [--json FILE]

Each row runs in its own process, which needs an open file per connection: `ulimit -n` must be at least streams + 100,
and 1,100 for the queued calls (the limit is 1,000 connections). The exit status is 1 if an answer is missing or wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .instances import INSTANCES
from .leaks import megabytes
from .server import pieces, running

PIECES = 50
PACE = 0.1
"""Seconds between the deltas of a stream, about a model's pace under load."""
WAIT = 0.05
"""Seconds until the server answers a queued call."""
THREADS = 64
LIMIT = 300.0
"""Maximum seconds for a row."""


@dataclass
class Call:
    """The outcome of one call, with times in seconds from its start."""

    right: bool = False
    first: float = 0.0
    last: float = 0.0
    error: str = ""


@dataclass
class Row:
    """The results of a row."""

    calls: int
    right: int
    at_once: int
    """Maximum number of concurrent requests on the server."""
    seconds: float
    cpu_ms: float
    """CPU time of the client's process per call."""
    first: tuple[float, float, float]
    """Seconds to the first delta: minimum, median, maximum."""
    last: tuple[float, float, float]
    """Seconds to the end, likewise."""
    before_mb: float
    peak_mb: float
    kb_per_call: float
    """Growth of the process up to its peak, per call, including the memory of the caller."""
    retries: int
    errors: list[str]

    @property
    def unfairness(self) -> float:
        """The ratio of the longest call to the median one."""
        return self.last[2] / self.last[1] if self.last[1] else 0.0


class Retries(logging.Handler):
    """Counts retries, by their log records."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        logging.getLogger("tir_qwen").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Count a retry."""
        self.count += 1


class Peak(threading.Thread):
    """Tracks the peak memory of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.most = megabytes()
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        """Sample the memory periodically."""
        while not self.over.wait(0.05):
            self.most = max(self.most, megabytes())


def question(number: int, streamed: bool) -> tuple[str, str]:
    """Return a question and its right answer."""
    facts = {"mode": "answer", "number": number, "pieces": PIECES if streamed else 3}
    facts |= {"pace": PACE} if streamed else {"wait": WAIT}
    return json.dumps(facts), "".join(pieces(facts))


ROWS = ("async streams", "async queued", "sync streams", "sync queued")
"""All streams run at once (synchronous ones in a thread each); calls are queued by tasks or by 64 threads."""


def in_threads(ask: Callable[[str], Any], count: int, streamed: bool) -> list[Call]:
    """Make the calls from threads; each call is timed from when a thread starts it."""

    def one(number: int) -> Call:
        call, began = Call(), time.monotonic()
        text, right = question(number, streamed)
        try:
            content = ""
            for piece in ask(text) if streamed else [ask(text)]:
                call.first = call.first or time.monotonic() - began
                content += piece
            call.right = content == right
        except Exception as error:  # noqa: BLE001 - errors are counted
            call.error = f"{type(error).__name__}: {error}"
        call.last = time.monotonic() - began
        return call

    with ThreadPoolExecutor(count if streamed else THREADS) as threads:
        return list(threads.map(one, range(count)))


async def in_tasks(ask: Callable[[str], Any], count: int, streamed: bool) -> list[Call]:
    """Make the calls from tasks, all at once."""
    began = time.monotonic()

    async def one(number: int) -> Call:
        call = Call()
        text, right = question(number, streamed)
        try:
            content = ""
            if streamed:
                async for piece in ask(text):
                    call.first = call.first or time.monotonic() - began
                    content += piece
            else:
                content = await ask(text)
                call.first = time.monotonic() - began
            call.right = content == right
        except Exception as error:  # noqa: BLE001
            call.error = f"{type(error).__name__}: {error}"
        call.last = time.monotonic() - began
        return call

    async with asyncio.timeout(LIMIT):
        return await asyncio.gather(*map(one, range(count)))


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return minimum, median and maximum."""
    return round(min(values), 2), round(median(values), 2), round(max(values), 2)


def measure(instance: str, row: str, count: int, base_url: str) -> Row:
    """Make the calls of a row in this process."""
    asynchronous, streamed = row.startswith("async"), row.endswith("streams")
    stream, whole = INSTANCES[instance](base_url, asynchronous)
    ask = stream if streamed else whole
    run: Callable[[int], list[Call]] = (
        (lambda count: asyncio.run(in_tasks(ask, count, streamed)))
        if asynchronous
        else (lambda count: in_threads(ask, count, streamed))
    )
    run(1)  # imports, and the SSL context
    peak, retries, began, cpu = Peak(), Retries(), time.monotonic(), time.process_time()
    calls = run(count)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    peak.over.set()
    return Row(
        calls=count,
        right=sum(call.right for call in calls),
        at_once=0,
        seconds=round(seconds, 2),
        cpu_ms=round(cpu / count * 1e3, 2),
        first=spread([call.first for call in calls]),
        last=spread([call.last for call in calls]),
        before_mb=round(peak.before, 1),
        peak_mb=round(peak.most, 1),
        kb_per_call=round((peak.most - peak.before) / count * 1e3, 1),
        retries=retries.count,
        errors=sorted({call.error for call in calls if call.error})[:5],
    )


def child(engine: str, instance: str, row: str, count: int) -> Row | str:
    """Measure a row in a subprocess, against a server in another one."""
    environment = {**os.environ, "TIR_QWEN_HTTP_ENGINE": engine}
    with running() as server:
        command = [sys.executable, "-m", "stress.load", "--child", instance, row, str(count), server.base_url]
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, timeout=LIMIT + 30, check=True
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            return str(error)
        measured = Row(**json.loads(done.stdout))
        measured.at_once = server.stats()["most"]
    return measured


def raise_limit() -> None:
    """Raise the limit of open files, for this process and its children, to what is needed or allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> int:
    """Measure all rows."""
    parser = argparse.ArgumentParser(prog="python -m stress.load", description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--queued", type=int, default=5000)
    parser.add_argument("--engine", choices=["httpx2", "httpx"], action="append")
    parser.add_argument("--only", choices=[*INSTANCES], action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    raise_limit()
    print(f"{'':36}{'right':>11}{'at once':>8}{'wall':>7}{'CPU ms':>8}  first delta      end              max/median")
    table: dict[str, Any] = {}
    for engine in options.engine or ["httpx2", "httpx"]:
        for instance in options.only or INSTANCES:
            for row in ROWS:
                count = options.streams if row.endswith("streams") else options.queued
                name = f"{engine}, {instance}, {row}"
                measured = child(engine, instance, row, count)
                table[name] = measured if isinstance(measured, str) else asdict(measured)
                print(f"{name:36}{show(measured)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    return int(any(isinstance(row, str) or row["right"] != row["calls"] for row in table.values()))


def show(row: Row | str) -> str:
    """Format a line of the table."""
    if isinstance(row, str):
        return f" FAILED {row}"
    first, last = ("/".join(f"{seconds:.2f}" for seconds in times) for times in (row.first, row.last))
    text = f"{row.right:>6}/{row.calls}{row.at_once:>8}{row.seconds:>7.1f}{row.cpu_ms:>8.2f}  {first:17}{last:17}"
    memory = f"{row.before_mb:.0f} -> {row.peak_mb:.0f} MB, {row.kb_per_call:.0f} kB per call"
    memory += f", {row.retries} retries" if row.retries else ""
    return f"{text}{row.unfairness:.2f}  {memory} {'; '.join(row.errors)}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(asdict(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))))
    else:
        sys.exit(main())
