"""Milliseconds to the first chunk for a question now and then, over a network with a round trip of 40 ms.

python -m benchmarks.latency [--rtt 40] [--out FILE]

Each subject asks a question every 1, 12 and 40 seconds, over TLS 1.2 and 1.3, all side by side. The first question
opens a connection; whether the later ones do depends on how long a client keeps an idle one. The table shows the first
question, and the median of the later ones. The exit status is 1 if a question failed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from tir_qwen import AsyncClient

from .driver import environment
from .server import CERTIFICATE, running
from .subjects import CLIENT, LANGCHAIN, OPENAI, RAW, make_chat_tir_qwen, make_openai
from .work import Work

QUESTIONS = {1: 30, 12: 6, 40: 5}
"""How many questions are asked at an interval in seconds."""
VERSIONS = {"1.2": "TLSv1_2", "1.3": "TLSv1_3"}
_APART = 0.21
"""Seconds between the first questions of the subjects, which then never ask at the same time."""
_WORK = Work(chunks=2)
Ask = Callable[[], AsyncIterator[Any]]


class Relay(asyncio.Protocol):
    """Passes on what one side of a connection sends, half a round trip later.

    The handshake of TCP takes no time, since it is with the relay itself. Its round trip is added to the first bytes.
    """

    def __init__(self, rtt: float, port: int = 0) -> None:
        self._rtt = rtt
        self._port = port
        self._opened = time.monotonic() + rtt if port else 0.0
        self.other: asyncio.Future[asyncio.BaseTransport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server's port, if this is the client's side."""
        self._transport = transport
        if self._port:
            self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        far = Relay(self._rtt)
        far.other.set_result(self._transport)
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", self._port)
        self.other.set_result(transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._later(lambda: self.other.result().write(data))  # type: ignore[attr-defined]

    def connection_lost(self, error: Exception | None) -> None:
        """Close the other side too."""
        self._later(lambda: self.other.result().close())

    def _later(self, do: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_at(max(time.monotonic(), self._opened) + self._rtt / 2, do)


async def relayed(port: int, rtt: float) -> str:
    """Start a relay to a server's port, and return the base URL."""
    server = await asyncio.get_running_loop().create_server(lambda: Relay(rtt, port), "127.0.0.1", 0)
    return f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def raw(base_url: str) -> Ask:
    """Stream with httpx2 alone."""
    client = import_module("httpx2").AsyncClient(timeout=60)
    body = {"model": "qwen3_32b", "messages": _WORK.wire, "stream": True}

    async def ask() -> AsyncIterator[Any]:
        async with client.stream("POST", f"{base_url}/chat/completions", json=body) as response:
            async for data in response.aiter_raw():
                yield data

    return ask


def ours(base_url: str) -> Ask:
    """Stream with `AsyncClient`."""
    client = AsyncClient(base_url=base_url)
    return lambda: client.stream(_WORK.wire)


def langchain(make: Callable[[str], Any]) -> Callable[[str], Ask]:
    """Stream with a model of LangChain."""

    def of(base_url: str) -> Ask:
        model = make(base_url)

        async def ask() -> AsyncIterator[Any]:
            async for chunk in model.astream(_WORK.question):
                yield chunk.content

        return ask

    return of


SUBJECTS: dict[str, Callable[[str], Ask]] = {
    RAW: raw,
    CLIENT: ours,
    LANGCHAIN: langchain(make_chat_tir_qwen),
    OPENAI: langchain(make_openai),
}


async def first_chunk(ask: Ask) -> float:
    """Ask, read the whole answer, and return the milliseconds to its first chunk."""
    began, first = time.perf_counter(), None
    async for chunk in ask():
        if chunk and first is None:
            first = (time.perf_counter() - began) * 1e3
    if first is None:
        raise ValueError("no answer")
    return first


async def question_now_and_then(ask: Ask, interval: float, number: int, wait: float) -> list[float]:
    """Ask this many questions after a wait; return the milliseconds to the first chunk of each."""
    await asyncio.sleep(wait)
    took = []
    for left in reversed(range(number)):
        took.append(await first_chunk(ask))
        await asyncio.sleep(interval if left else 0)
    return took


async def measure(ports: dict[str, int], rtt: float) -> dict[tuple[str, str, int], Any]:
    """Let all subjects ask, and return what each question took, or an error, by subject, version and interval."""
    for make in SUBJECTS.values():  # imports, and the certificates
        await first_chunk(make(await relayed(ports["1.3"], 0.02)))
    jobs: dict[tuple[str, str, int], Coroutine[Any, Any, list[float]]] = {}
    for subject, make in SUBJECTS.items():
        for version, port in ports.items():
            for interval, number in QUESTIONS.items():
                # Each has a relay of its own, since ChatOpenAI's models share their connections to an address.
                ask = make(await relayed(port, rtt))
                jobs[subject, version, interval] = question_now_and_then(ask, interval, number, _APART * len(jobs))
    return dict(zip(jobs, await asyncio.gather(*jobs.values(), return_exceptions=True), strict=True))


def table(measured: dict[tuple[str, str, int], Any], rtt: float) -> Iterable[str]:
    """Yield the lines of the table, in Markdown."""
    yield (
        f"| ms to the first chunk, round trip {rtt * 1e3:g} ms | TLS | first question | "
        + " | ".join(f"every {interval} s" for interval in QUESTIONS)
        + " |"
    )
    yield "|---|---|" + "---|" * (len(QUESTIONS) + 1)
    for subject in SUBJECTS:
        for version in VERSIONS:
            found = [measured[subject, version, interval] for interval in QUESTIONS]
            firsts = [took[0] for took in found if isinstance(took, list)]
            cells = [f"{median(firsts):.0f}" if firsts else ""]
            cells += [f"{median(took[1:]):.0f}" if isinstance(took, list) else type(took).__name__ for took in found]
            yield f"| {subject} | {version} | " + " | ".join(cells) + " |"


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--rtt", type=float, default=40.0, help="the round trip in milliseconds")
    parser.add_argument("--out", type=Path, help="a file to write the table to as well")
    asked = parser.parse_args()
    os.environ.update(environment(certificates=str(CERTIFICATE)))
    with ExitStack() as stack:
        ports = {version: urlsplit(stack.enter_context(running(name))).port or 0 for version, name in VERSIONS.items()}
        measured = asyncio.run(measure(ports, asked.rtt / 1e3))
    text = "\n".join(table(measured, asked.rtt / 1e3))
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")
    return int(any(isinstance(took, BaseException) for took in measured.values()))


if __name__ == "__main__":
    sys.exit(main())
