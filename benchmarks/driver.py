"""Runs jobs in the subjects' processes, interleaved so that a noisy machine disturbs all subjects alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from statistics import median
from types import TracebackType
from typing import NamedTuple, Self

from .subjects import ON_HTTPX
from .work import Work


class Key(NamedTuple):
    """Identifies a figure."""

    group: str
    case: str
    subject: str
    column: str


@dataclass(frozen=True)
class Job:
    """Something to measure repeatedly."""

    case: str
    subject: str
    columns: tuple[tuple[str, str], ...]
    """The columns of the table, each with the name of its value in the worker's answer."""
    job: str
    work: Work
    times: int = 1
    at_once: int = 1


@dataclass
class Results:
    """The figures and failures of a run."""

    figures: dict[Key, list[float]] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)

    def add(self, key: Key, value: float) -> None:
        """Add one figure."""
        self.figures.setdefault(key, []).append(value)

    def median(self, group: str, case: str, subject: str, column: str) -> float:
        """Return the median of a figure; raise KeyError if it was not measured."""
        return median(self.figures[Key(group, case, subject, column)])


class Worker:
    """The process of a subject."""

    def __init__(self, subject: str, base_url: str, certificates: str = "") -> None:
        command = [sys.executable, "-m", "benchmarks.worker", subject, base_url]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment("httpx" if subject.endswith(ON_HTTPX) else "httpx2", certificates),
        )

    def do(self, job: Job) -> dict[str, float | str]:
        """Run a job and return its results."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"job": job.job, "work": asdict(job.work), "times": job.times, "at_once": job.at_once}
        try:
            print(json.dumps(asked), file=self._process.stdin, flush=True)
            measured: dict[str, float | str] = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError):
            return {"error": f"its process ended ({self._process.wait()})"}
        return measured

    def stop(self) -> None:
        """End the process."""
        with self._process:
            self._process.terminate()


def environment(engine: str = "httpx2", certificates: str = "") -> dict[str, str]:
    """Return the environment of a measuring process, without variables that redirect requests or disable bytecode.

    Args:
        engine: The HTTP engine of our own subjects.
        certificates: The file with the certificates to trust; empty for those of the system.
    """
    strange = (
        "PYTHONDONTWRITEBYTECODE",
        "PROXY",
        "E2E_TIR",
        "MODEL_API",
        "OPENAI",
        "MISTRAL",
        "LANGCHAIN_",
        "LANGSMITH_",
        "SSL_CERT_",
    )
    own = {name: value for name, value in os.environ.items() if not any(part in name.upper() for part in strange)}
    own |= {"SSL_CERT_FILE": certificates} if certificates else {}
    return {**own, "TIR_QWEN_HTTP_ENGINE": engine, "LANGSMITH_TRACING": "false", "PYTHONHASHSEED": "0"}


class Workers:
    """The processes of all subjects, each started on first use."""

    def __init__(self, base_url: str, certificates: str = "") -> None:
        self.base_url = base_url
        self._certificates = certificates
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.stop()

    def start(self, subjects: Iterable[str]) -> None:
        """Start the processes of these subjects concurrently."""
        for subject in subjects:
            if subject not in self._workers:
                self._workers[subject] = Worker(subject, self.base_url, self._certificates)

    def run(self, group: str, jobs: list[Job], rounds: int, results: Results, *, warm: bool = True) -> None:
        """Run all jobs in turn: once to warm up, then for the given number of rounds."""
        self.start(job.subject for job in jobs)
        broken: set[Job] = set()
        for number in range(0 if warm else 1, rounds + 1):
            for job in jobs:
                if job in broken:
                    continue
                measured = self._workers[job.subject].do(job)
                if "error" in measured:
                    broken.add(job)
                    results.failures[Key(group, job.case, job.subject, job.columns[0][0])] = str(measured["error"])
                elif number:  # the first round warms up
                    for column, name in job.columns:
                        results.add(Key(group, job.case, job.subject, column), float(measured[name]))
