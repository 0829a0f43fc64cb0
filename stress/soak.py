"""Soak test: abandons thousands of calls at random points, then checks later calls and looks for leaks.

python -m stress.soak [--calls 10000] [--engine httpx2|httpx] [--json FILE]

Each combination of engine and client runs in its own process. The exit status is 1 if a call hung, failed or got a
wrong answer, if later calls were not answered promptly, or if there were leaks or warnings.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tir_qwen._client.base import BaseClient
from tir_qwen._client.throttle import Throttle

from .leaks import Figures
from .server import MODES, Running, pieces, running

IN_FLIGHT = 50
AFTERWARDS = 100
AT_ONCE = 1000
"""Maximum number of concurrent calls of a client; it is lower if connection slots have been lost."""
HUNG_SECONDS = 20.0
"""Seconds after which a call counts as hung."""
GROWTH = 32.0
"""Megabytes by which a process may grow: the allocator returns little to the system."""
WITH_DELTAS = ("deltas", "frame", "done")
"""The modes in which at least one delta arrives."""
PHASES = ("at once", "connecting", *MODES, "refused", "answered")
SEED = 20_250_701


@dataclass
class Report:
    """The results of a soak test."""

    calls: int = 0
    seconds: float = 0.0
    left: Counter[str] = field(default_factory=Counter)
    """Number of abandoned calls, by phase and way."""
    failures: Counter[str] = field(default_factory=Counter)
    next_answered: int = 0
    next_seconds: float = 0.0
    at_once: int = 0
    """Number of slow calls, out of `AT_ONCE`, that reached the server at the same time."""
    before: Figures | None = None
    afterwards: Figures | None = None
    closed: Figures | None = None
    server: dict[str, Any] = field(default_factory=dict)
    complaints: Counter[str] = field(default_factory=Counter)
    tolerated: Counter[str] = field(default_factory=Counter)
    """Complaints that are not our fault."""

    def as_json(self) -> str:
        """Return JSON for the parent process."""
        return json.dumps(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return a dict of plain values."""
        return {name: vars(value) if isinstance(value, Figures) else value for name, value in vars(self).items()}

    def problems(self) -> list[str]:
        """Describe everything that is wrong."""
        found = [f"{number} x {text}" for text, number in self.failures.items()]
        found += [f"{number} x complaint: {text}" for text, number in self.complaints.items()]
        if self.next_answered != AFTERWARDS:
            found.append(f"only {self.next_answered} of the next {AFTERWARDS} calls were answered")
        if self.at_once != AT_ONCE:
            found.append(f"only {self.at_once} of {AT_ONCE} calls could be made at once")
        if self.server.get("connections"):
            found.append(f"the server still has {self.server['connections']} connections")
        if self.before is None or self.closed is None:
            return [*found, "it did not come to its end"]
        for name, before in asdict(self.before).items():
            # memory: from before the maximum number of concurrent calls
            after = getattr(self.afterwards if name == "megabytes" else self.closed, name)
            if after > before + (GROWTH if name == "megabytes" else 0):
                found.append(f"{name}: {before} before, {after} after")
        return found


def question(mode: str, number: int, **facts: Any) -> list[dict[str, Any]]:
    """Return the messages of a call."""
    content = json.dumps({"mode": mode, "number": number, **facts})
    return [{"role": "user", "content": content}]


def right_answer(number: int) -> str:
    """Return the right answer in mode `answer`."""
    return "".join(pieces({"number": number}))


class Dice:
    """Makes the random decisions of one worker."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def phase(self) -> str:
        """Return the phase in which to abandon a call."""
        return self.random.choice(PHASES)

    def streamed(self, mode: str) -> bool:
        """Whether the call asks for a stream."""
        return mode != "body" and (mode in WITH_DELTAS or self.random.random() < 0.5)

    def seconds(self, most: float) -> float:
        """Return a random time to wait."""
        return most * self.random.random()


def lift_limit(client: BaseClient, report: Report) -> None:
    """Forget what refusals have taught about the calls at once, once all calls have given up their places."""
    throttle = client._throttle
    if throttle is not None and throttle._in_flight:
        report.failures["places that are still taken"] += throttle._in_flight
    client._throttle = Throttle()


def limited(calls: int) -> None:
    """End this process, with a traceback of each thread, if it takes far too long."""
    faulthandler.dump_traceback_later(90 + calls / 50, exit=True)


def child(kind: str, engine: str, calls: int, server: Running) -> Report:
    """Run a soak test in a subprocess."""
    command = [sys.executable, "-m", f"stress.soak_{kind}", str(calls), server.base_url, server.full_url]
    environment = {**os.environ, "TIR_QWEN_HTTP_ENGINE": engine}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        facts = json.loads(done.stdout)
    except ValueError:
        return Report(failures=Counter([f"exit status {done.returncode}: {done.stderr[-4000:]}"]))
    for name in ("before", "afterwards", "closed"):
        facts[name] = Figures(**facts[name])
    report = Report(**{**facts, "failures": Counter(facts["failures"])})
    if done.returncode or done.stderr:
        report.failures[f"exit status {done.returncode}: {done.stderr[-4000:]}"] += 1
    return report


def show(name: str, report: Report) -> None:
    """Print a report."""
    print(f"\n{name}: {report.calls} calls in {report.seconds:.1f} s")
    for phase in PHASES:
        ways = {key.split("/")[1]: count for key, count in report.left.items() if key.startswith(f"{phase}/")}
        seen = report.server.get("seen", {})
        words = ", ".join(f"{way} {count}" for way, count in sorted(ways.items()))
        print(f"  {phase:11}{sum(ways.values()):6}  {words}; server: {seen.get(f'{phase} left', '-')} left")
    print(f"  next {AFTERWARDS} calls: {report.next_answered} answered, in {report.next_seconds:.2f} s")
    print(f"  then {AT_ONCE} calls at once: {report.at_once}")
    rows = {"before": report.before, "after the next calls": report.afterwards, "closed": report.closed}
    for title, figures in rows.items():
        if figures:
            print(f"  {title:22}" + "  ".join(f"{key} {value}" for key, value in asdict(figures).items()))
    print(f"  the server's open connections: {report.server.get('connections')}")
    for text, number in report.tolerated.items():
        print(f"  tolerated: {number} x {text}")
    for problem in report.problems():
        print(f"  PROBLEM {problem}")
    sys.stdout.flush()


def main() -> int:
    """Run all soak tests in sequence."""
    parser = argparse.ArgumentParser(prog="python -m stress.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--engine", choices=["httpx2", "httpx"], action="append")
    parser.add_argument("--client", choices=["async", "sync"], action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    reports = {}
    for engine in options.engine or ["httpx2", "httpx"]:
        for kind in options.client or ["async", "sync"]:
            began = time.monotonic()
            with running() as server:
                report = child(kind, engine, options.calls, server)
            report.seconds = report.seconds or time.monotonic() - began
            reports[f"{engine} {kind}"] = report
            show(f"{engine}, {kind}", report)
    if options.json:
        table = {name: {**report.as_dict(), "problems": report.problems()} for name, report in reports.items()}
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    return int(any(report.problems() for report in reports.values()))


if __name__ == "__main__":
    sys.exit(main())
