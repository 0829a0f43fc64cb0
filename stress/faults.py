"""Plays a table of faults to the clients: does any call hang, or lose data silently?

python -m stress.faults [--peer] [--json FILE]

Plays the faults of `tests/support/faults/` to both clients on both engines, and prints a Markdown table; the exit
status is 1 unless each has the expected outcome. With --peer, also plays them to `ChatOpenAI` (`pip install
langchain-openai`), whose column shows the outcome there: `ok` is the right answer; errors are given by name.
CI does not run this.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.faults.callers import AsyncCaller, Make, SyncCaller, outcome_of
from tests.support.faults.outcomes import Fault, Outcome
from tests.support.faults.table_before_answer import TABLE
from tests.support.server import record_waits

ENGINES = ("httpx2", "httpx")
PEER = "ChatOpenAI"
VERDICTS = ["ok", "differs", "silent success", "hang"]
LIMIT = 60
"""Maximum seconds for a row: the server ends each fault after a few, but a client might hang on its own."""


class Peer:
    """`ChatOpenAI`, with the closest equivalents of the time limits."""

    def __init__(self, base_url: str, timeout: Any, retries: int) -> None:
        from langchain_openai import ChatOpenAI  # noqa: PLC0415 - only needed by --peer
        from openai import DefaultAsyncHttpxClient, DefaultHttpxClient  # noqa: PLC0415

        seconds = min(timeout.values()) if isinstance(timeout, dict) else timeout
        limits = {"timeout": seconds, "stream_chunk_timeout": seconds, "max_retries": retries}
        # openai's default clients are cached for the whole process: they would be reused for later servers on a port.
        self.clients = {"http_client": DefaultHttpxClient(), "http_async_client": DefaultAsyncHttpxClient()}
        self.model = ChatOpenAI(model="qwen3_32b", base_url=base_url, api_key="token", **limits, **self.clients)

    def texts(self, *, streamed: bool) -> Iterator[str]:
        """See `Caller`."""
        if streamed:
            yield from map(_text, self.model.stream("Where is the canary?"))
        else:
            yield _text(self.model.invoke("Where is the canary?"))

    def close(self) -> None:
        """See `Caller`."""
        self.clients["http_client"].close()


class AsyncPeer(Peer):
    """The asynchronous methods of `ChatOpenAI`, in their own event loop."""

    def __init__(self, base_url: str, timeout: Any, retries: int) -> None:
        super().__init__(base_url, timeout, retries)
        self.loop = asyncio.Runner()

    def texts(self, *, streamed: bool) -> Iterator[str]:
        """See `Caller`."""
        if not streamed:
            yield _text(self.loop.run(self.model.ainvoke("Where is the canary?")))
            return
        chunks = self.model.astream("Where is the canary?")
        while (chunk := self.loop.run(anext(chunks, None))) is not None:
            yield _text(chunk)

    def close(self) -> None:
        """See `Caller`."""
        self.loop.run(self.clients["http_async_client"].aclose())
        self.loop.close()
        super().close()


def _text(message: Any) -> str:
    whole = [f"{call['name']}{json.dumps(call['args'])}" for call in getattr(message, "tool_calls", ())]
    pieces = [f"{call['name'] or ''}{call['args']}" for call in getattr(message, "tool_call_chunks", ())]
    return str(message.text) + "".join(pieces or whole)


def record_peers_waits(patch: pytest.MonkeyPatch) -> list[float]:
    """Like `record_waits`, for openai."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    patch.setattr("openai._base_client.time", SimpleNamespace(time=time.time, sleep=waits.append))
    patch.setattr("openai._base_client.anyio", SimpleNamespace(sleep=sleep))
    return waits


@dataclass
class Played:
    """The outcome of a fault for the synchronous and the asynchronous client."""

    outcomes: list[Outcome]
    seconds: float
    verdicts: list[str]

    def __str__(self) -> str:
        return either(*map(str, self.outcomes))

    @property
    def verdict(self) -> str:
        """The worse of the two verdicts."""
        return max(self.verdicts, key=VERDICTS.index)


def either(one: str, other: str) -> str:
    """Return one text if both are equal, otherwise both."""
    return one if one == other else f"sync: {one}; async: {other}"


def play(fault: Fault, makes: tuple[Make, Make], record: Callable[[pytest.MonkeyPatch], list[float]]) -> Played:
    """Play a fault to the synchronous and the asynchronous client."""
    found = []
    for make in makes:
        with pytest.MonkeyPatch.context() as patch:
            found.append(outcome_of(fault, make, record(patch)))
    verdicts = [fault.verdict(outcome, seconds) for outcome, seconds in found]
    return Played([outcome for outcome, _ in found], max(seconds for _, seconds in found), verdicts)


def play_all(name: str, first: int) -> None:
    """Play the faults to one library's clients and print JSON; a hanging row ends this process."""
    logging.disable()
    kind = ((Peer, AsyncPeer), record_peers_waits) if name == PEER else ((SyncCaller, AsyncCaller), record_waits)
    for fault in TABLE[first:]:
        signal.alarm(LIMIT)
        print(json.dumps(asdict(play(fault, *kind))), flush=True)


def played(name: str) -> list[Played]:
    """Play all faults to one library's clients in a subprocess, which is restarted after a row that hangs."""
    environment = {key: value for key, value in os.environ.items() if "PROXY" not in key.upper()}
    environment |= {"TIR_QWEN_HTTP_ENGINE": name} if name in ENGINES else {"LANGSMITH_TRACING": "false"}
    command = [sys.executable, "-W", "ignore", "-m", "stress.faults", "--play", name, "--first"]
    found: list[Played] = []
    while len(found) < len(TABLE):
        process = subprocess.run(
            [*command, str(len(found))], env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
        found += [_read(line) for line in process.stdout.splitlines()]
        if process.returncode == -signal.SIGALRM:
            found.append(Played([Outcome(error="none")] * 2, LIMIT, ["hang"] * 2))
        else:
            process.check_returncode()
    return found


def _read(line: str) -> Played:
    found = json.loads(line)
    outcomes = [Outcome(**{**each, "waits": tuple(each["waits"])}) for each in found["outcomes"]]
    return Played(outcomes, found["seconds"], found["verdicts"])


def judged(fault: Fault, found: Played) -> str:
    """Describe how the peer handles a fault."""
    return either(*(_judged(fault, *each) for each in zip(found.outcomes, found.verdicts, strict=True)))


def _judged(fault: Fault, outcome: Outcome, verdict: str) -> str:
    if verdict == "hang":
        return "HANGS"
    if outcome.error:
        return outcome.error if fault.leads_to.error else f"fails: {outcome.error}"
    if verdict != "silent success":
        return "ok"
    if outcome.text == "elsewhere":
        return "FOLLOWS IT"
    return f"LOSES DATA: {outcome}"


def table(results: dict[str, list[Played]]) -> Iterator[list[str]]:
    """Yield the table's rows; streamed and non-streamed calls share one if everything else is equal."""
    merged: dict[tuple[str, ...], list[tuple[str, float]]] = {}
    for number, fault in enumerate(TABLE):
        found = {name: played[number] for name, played in results.items()}
        ours = [found[engine] for engine in ENGINES]
        verdict = max((each.verdict for each in ours), key=VERDICTS.index)
        peer = [judged(fault, found[PEER])] if PEER in found else []
        row = (fault.name, fault.phase, str(fault.leads_to), *map(str, ours), verdict, *peer)
        way = "streamed" if fault.streamed else "whole"
        merged.setdefault(row, []).append((way, max(each.seconds for each in ours)))
    for (name, phase, *rest), asked in merged.items():
        yield [name, phase, ", ".join(way for way, _ in asked), *rest, f"{max(seconds for _, seconds in asked):.2f}"]


def summary(results: dict[str, list[Played]]) -> Iterator[str]:
    """Yield a summary line for each library."""
    for name, found in results.items():
        verdicts = Counter(verdict for each in found for verdict in each.verdicts)
        told = f"{verdicts['silent success']} silent successes, {verdicts['hang']} hangs"
        rest = f", {verdicts['differs']} other differences" if name in ENGINES else ""
        yield f"{name}: {sum(verdicts.values())} calls, {told}{rest}"


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", action="store_true", help="also play the faults to ChatOpenAI")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the outcomes to a file")
    parser.add_argument("--play", choices=(*ENGINES, PEER), help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.play:
        play_all(asked.play, asked.first)
        return 0
    if asked.peer and not find_spec("langchain_openai"):
        sys.exit("--peer needs langchain-openai: pip install langchain-openai")
    results = {name: played(name) for name in (*ENGINES, *[PEER] * asked.peer)}
    head = ["fault", "phase", "asked", "expected", *ENGINES, "verdict", *[PEER] * asked.peer, "s"]
    for line in (head, ["---"] * len(head), *table(results)):
        print("|", " | ".join(cell.replace("|", "/") for cell in line), "|")
    print("", *summary(results), sep="\n")
    if asked.json:
        rows = [
            {**_row(fault), **{name: asdict(found[number]) for name, found in results.items()}}
            for number, fault in enumerate(TABLE)
        ]
        asked.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return any(verdict != "ok" for engine in ENGINES for each in results[engine] for verdict in each.verdicts)


def _row(fault: Fault) -> dict[str, Any]:
    about = {"fault": fault.name, "phase": fault.phase, "streamed": fault.streamed}
    return {**about, "expected": asdict(fault.leads_to)}


if __name__ == "__main__":
    sys.exit(main())
