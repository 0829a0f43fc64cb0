"""Servers whose limits nobody knows: `python -m stress.limits [--subject NAME] [SCENARIO ...]`.

Each scenario is a server on loopback that answers a short question in half a second, and refuses what exceeds its
limit. A subject asks for all rows, 32 at once, with the defaults of its client. The table shows the seconds that this
took beside the least that the limit allows, how many rows failed, and how many requests were refused.

The exit status is 1 if a row failed, or if it took over 1.5 times as long or half a refusal per row. Peers have no
adaptive limit; with `langchain-openai` installed, `--subject ChatOpenAI` shows how they fare.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tir_qwen import AsyncClient

AT_ONCE = 32
ANSWER_SECONDS = 0.5
Refusal = tuple[int, dict[str, str]]
"""The status and the headers of a refusal."""


class Limit:
    """Decides about each request; `start` is the time of the first one."""

    start = 0.0
    in_flight = 0

    def refuse(self, now: float) -> Refusal | None:
        """Return the refusal of a request, or None to answer it."""
        raise NotImplementedError


@dataclass
class AtOnce(Limit):
    """Answers so many requests at once, perhaps more with time."""

    number: int
    headers: dict[str, str] = field(default_factory=dict)
    more_per_second: float = 0.0

    def refuse(self, now: float) -> Refusal | None:
        """Refuse what exceeds the number at once."""
        allowed = self.number + int((now - self.start) * self.more_per_second)
        return None if self.in_flight < allowed else (429, self.headers)


@dataclass
class PerPeriod(Limit):
    """Accepts so many requests within any period of so many seconds."""

    number: int
    seconds: float
    headers: dict[str, str] = field(default_factory=dict)
    _accepted: deque[float] = field(default_factory=deque)

    def refuse(self, now: float) -> Refusal | None:
        """Refuse what exceeds the number per period."""
        while self._accepted and self._accepted[0] <= now - self.seconds:
            self._accepted.popleft()
        if len(self._accepted) >= self.number:
            return 429, self.headers
        self._accepted.append(now)
        return None


@dataclass
class Outage(Limit):
    """Is out for so many seconds, once after a time or in each period."""

    after: float
    seconds: float
    period: float = float("inf")

    def refuse(self, now: float) -> Refusal | None:
        """Refuse everything during an outage."""
        return (503, {}) if 0 <= (now - self.start - self.after) % self.period < self.seconds else None


@dataclass
class Scenario:
    """A limit, the number of rows, and the least seconds that they take."""

    make: Callable[[], Limit]
    rows: int
    ideal: float


SCENARIOS = {
    "8 at once": Scenario(lambda: AtOnce(8), 160, 10),
    "8 at once, Retry-After: 1": Scenario(lambda: AtOnce(8, {"Retry-After": "1"}), 160, 10),
    "10 a second": Scenario(lambda: PerPeriod(10, 1), 200, 19.5),
    "10 a second, Retry-After: 1": Scenario(lambda: PerPeriod(10, 1, {"Retry-After": "1"}), 200, 19.5),
    "8 at once, Retry-After: 0": Scenario(lambda: AtOnce(8, {"Retry-After": "0"}), 160, 10),
    "150 a minute": Scenario(lambda: PerPeriod(150, 60), 300, 60.5),
    "an outage of 30 s": Scenario(lambda: Outage(1, 30), 640, 40),
    "503 for 2 of every 6 s": Scenario(lambda: Outage(0, 2, 6), 640, 16),
    "a slow start": Scenario(lambda: AtOnce(2, more_per_second=4), 320, 12),
}


@asynccontextmanager
async def serving(limit: Limit, refused: list[float]) -> Any:
    """Serve answers within a limit; yield the base URL."""
    answer = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "qwen3_32b",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }

    async def respond(status: int, headers: dict[str, str], body: Any, writer: asyncio.StreamWriter) -> None:
        content = json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} S", "Content-Type: application/json", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line
                )
                await reader.readexactly(length)
                now = time.monotonic()
                limit.start = limit.start or now
                if refusal := limit.refuse(now):
                    refused.append(now)
                    await respond(*refusal, {"error": {"message": "later"}}, writer)
                    continue
                limit.in_flight += 1
                try:
                    await asyncio.sleep(ANSWER_SECONDS)
                finally:
                    limit.in_flight -= 1
                await respond(200, {}, answer, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has left, or the scenario is over, with connections still open
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


Ask = Callable[[], Awaitable[Any]]


def _client(base_url: str) -> Ask:
    client = AsyncClient(base_url=base_url)
    return lambda: client.complete([{"role": "user", "content": "Is it?"}])


def _langchain(base_url: str) -> Ask:
    from langchain_tir_qwen import ChatTIRQwen  # noqa: PLC0415 - other subjects need not have it

    model = ChatTIRQwen(base_url=base_url)
    return lambda: model.ainvoke("Is it?")


def _llama_index(base_url: str) -> Ask:
    from llama_index_tir_qwen import TIRQwen  # noqa: PLC0415

    model = TIRQwen(api_base=base_url)
    return lambda: model.acomplete("Is it?")


def _openai(base_url: str) -> Ask:
    from langchain_openai import ChatOpenAI  # noqa: PLC0415

    model = ChatOpenAI(base_url=base_url, api_key="token", model="qwen3_32b")
    return lambda: model.ainvoke("Is it?")


SUBJECTS: dict[str, Callable[[str], Ask]] = {
    "AsyncClient": _client,
    "ChatTIRQwen": _langchain,
    "TIRQwen": _llama_index,
    "ChatOpenAI": _openai,
}


async def run(scenario: Scenario, make: Callable[[str], Ask]) -> tuple[float, int, int]:
    """Return the seconds that all rows took, how many failed, and how many requests were refused."""
    refused: list[float] = []
    places = asyncio.Semaphore(AT_ONCE)
    async with serving(scenario.make(), refused) as base_url:
        ask = make(base_url)

        async def answer() -> None:
            async with places:
                await ask()

        began = time.monotonic()
        outcomes = await asyncio.gather(*(answer() for _ in range(scenario.rows)), return_exceptions=True)
        took = time.monotonic() - began
    return took, sum(isinstance(outcome, BaseException) for outcome in outcomes), len(refused)


def verdicts(took: float, failed: int, refused: int, scenario: Scenario) -> Iterator[str]:
    """Yield what is not as it should be."""
    if failed:
        yield "rows failed"
    if took > 1.5 * scenario.ideal:
        yield "slow"
    if refused > 0.5 * scenario.rows:
        yield "many refusals"


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default: all of {', '.join(SCENARIOS)}")
    parser.add_argument("--subject", choices=SUBJECTS, action="append", help="default: AsyncClient")
    options = parser.parse_args()
    logging.getLogger("tir_qwen").setLevel(logging.ERROR)
    is_good = True
    print(f"{'':30}{'':14}{'rows':>6}{'ideal s':>9}{'took s':>8}{'failed':>8}{'refused':>9}")
    for name in options.scenarios or SCENARIOS:
        scenario = SCENARIOS[name]
        for subject in options.subject or ["AsyncClient"]:
            took, failed, refused = asyncio.run(run(scenario, SUBJECTS[subject]))
            problems = ", ".join(verdicts(took, failed, refused, scenario))
            is_good = is_good and not problems
            figures = f"{scenario.rows:6}{scenario.ideal:9.1f}{took:8.1f}{failed:8}{refused:9}"
            print(f"{name:30}{subject:14}{figures}  {problems}", flush=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
