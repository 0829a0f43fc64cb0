"""The groups of measurements: which subjects do which jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import certifi

from .driver import Job, Key, Results, Workers, environment
from .server import CERTIFICATE, running
from .startup import PARTS
from .subjects import (
    CLIENT,
    LANGCHAIN,
    LANGCHAIN_FLOOR,
    LANGCHAIN_LEAST,
    LIKE,
    LLAMA_INDEX,
    LLAMA_INDEX_FLOOR,
    LLAMA_INDEX_LEAST,
    MISTRAL,
    ON_HTTPX,
    OPENAI,
    RAW,
    RAW_HTTPX,
)
from .work import Work

ON_LANGCHAIN = (LANGCHAIN_FLOOR, LANGCHAIN, OPENAI, MISTRAL)
ON_LLAMA_INDEX = (LLAMA_INDEX_FLOOR, LLAMA_INDEX, LIKE)
EVERYONE = (RAW, RAW_HTTPX, CLIENT, *ON_LANGCHAIN, *ON_LLAMA_INDEX)
OURS = (CLIENT, LANGCHAIN, LLAMA_INDEX)
OF_GROWTH = (CLIENT, LANGCHAIN_FLOOR, LANGCHAIN, LLAMA_INDEX_FLOOR, LLAMA_INDEX)
_FEW = 200
"""Number of chunks that are added up one by one, which takes quadratic time."""
_PACE = 1 / 40
PACED_SECONDS = 4
_ANSWERS = 3200
"""Short answers per second that the server sends in the group `flight`."""
IN_FLIGHT = (1, 16, 64, 256)
_IMPORTS, _FEW_IMPORTS = 15, 3
"""Measured imports of our models, and of the others, which have no target."""
OVER_TLS = (RAW, CLIENT, LANGCHAIN_FLOOR, LANGCHAIN, OPENAI, LLAMA_INDEX_FLOOR, LLAMA_INDEX)
BURSTS = (64, 256)
_OPENED = 200
"""Connections per second that the server and any client can open: no call of a burst ends before they are all open."""
START, LOOP = "start to two answers", "loop, ms"
"""CPU time of the event loop's thread in the first call of a process, for which it can do nothing else."""
CHUNKS, CHARACTERS, MESSAGES = (1_000, 10_000, 100_000), (1_000, 10_000, 100_000, 1_000_000), (1, 100, 1_000)
SYNC, ASYNC, CPU, RATE, SECONDS = "sync", "async", "CPU us", "calls/s", "seconds"


@dataclass(frozen=True)
class Options:
    """How much to measure."""

    rounds: int = 5
    chunks: int = 2000

    @property
    def fewer(self) -> int:
        """Number of rounds for figures without a target."""
        return max(self.rounds // 2, 1)


def _both(case: str, subject: str, work: Work, times: int = 1) -> Iterator[Job]:
    yield Job(case, subject, ((SYNC, "cpu"),), "stream", work, times)
    yield Job(case, subject, ((ASYNC, "cpu"),), "astream", work, times)


def _calls(case: str, subjects: Iterable[str], times: int = 100) -> list[Job]:
    jobs = []
    for subject in subjects:
        jobs.append(Job(case, subject, ((SYNC, "cpu"),), "call", Work(), times))
        jobs.append(Job(case, subject, ((ASYNC, "cpu"),), "acall", Work(), times))
    return jobs


def stream(workers: Workers, results: Results, options: Options) -> None:
    """CPU us per chunk of a stream."""
    jobs = [job for subject in EVERYONE for job in _both("text", subject, Work(chunks=options.chunks))]
    workers.run("stream", jobs, options.rounds, results)
    half = options.chunks // 2
    kinds = ("reasoning", "tool")
    jobs = [job for kind in kinds for subject in EVERYONE for job in _both(kind, subject, Work(kind, half))]
    workers.run("stream", jobs, options.fewer, results)
    jobs = []
    for form in ("v1", "v3"):
        for kind in ("text", "reasoning", "tool"):
            work = Work(kind, half, form=form)
            jobs += [job for subject in ON_LANGCHAIN for job in _both(f"{kind}, {form}", subject, work)]
    adding = {"text, first + rest": Work(chunks=half, form="sum"), "text, one by one": Work(chunks=_FEW, form="fold")}
    for case, work in adding.items():
        jobs += [job for subject in ON_LANGCHAIN for job in _both(case, subject, work, half // work.chunks or 1)]
    workers.run("stream", jobs, min(options.fewer, 2), results)


def call(workers: Workers, results: Results, options: Options) -> None:
    """CPU us per sequential call."""
    subjects = (*EVERYONE, LANGCHAIN_LEAST, LLAMA_INDEX_LEAST)
    workers.run("call", _calls("short answer", subjects), options.rounds, results)


def flight(workers: Workers, results: Results, options: Options) -> None:
    """Short asynchronous calls, with a constant number in flight.

    The server delays its answers, so that the calls are really in flight, but could serve more than any client asks.
    """
    on_httpx = [subject + ON_HTTPX for subject in OURS]
    for count in IN_FLIGHT:
        columns, work, many = ((CPU, "cpu"), (RATE, "rate")), Work(pace=count / _ANSWERS), count > 64
        peers = (OPENAI,) if many else (OPENAI, LIKE)  # both use the same client, and take long
        jobs = [
            Job(f"{count} at once", subject, columns, "flight", work, max(min(3 * count, 256), 64), count)
            for subject in (RAW, RAW_HTTPX, *OURS, *on_httpx, *peers)
        ]
        workers.run("flight", jobs, 1 if many else options.fewer, results, warm=False)


def paced(workers: Workers, results: Results, options: Options) -> None:
    """256 concurrent asynchronous streams of 40 tokens per second, for 4 seconds if the client keeps up."""
    work = Work(chunks=int(PACED_SECONDS / _PACE), pace=_PACE)
    columns = ((CPU, "cpu"), ("% of a core", "share"), (SECONDS, "wall"))
    subjects = (RAW, *OURS, OPENAI, MISTRAL, LIKE)
    jobs = [Job("256 streams", subject, columns, "together", work, at_once=256) for subject in subjects]
    workers.run("paced", jobs, 1, results, warm=False)


def tls(workers: Workers, results: Results, options: Options) -> None:
    """CPU us per chunk, call, and call of a first burst over TLS, and CPU ms from process start to two answers."""
    with running("TLSv1_3") as base_url, TemporaryDirectory() as directory:
        file = Path(directory, "certificates.pem")
        file.write_text(certifi.contents() + CERTIFICATE.read_text())
        with Workers(base_url, str(file)) as over_tls:
            jobs = [job for name in OVER_TLS for job in _both("chunk", name, Work(chunks=options.chunks))]
            over_tls.run("tls", jobs, options.rounds, results)
            over_tls.run("tls", _calls("call", OVER_TLS), options.rounds, results)
        for count in BURSTS * options.rounds:
            work, case = Work(pace=count / _OPENED), f"{count} first calls"
            with Workers(base_url, str(file)) as fresh:
                fresh.run("tls", _calls(case, OVER_TLS, times=1), 0, results)  # imports, and the certificates
                jobs = [Job(case, name, ((SYNC, "cpu"),), "burst", work, at_once=count) for name in OVER_TLS]
                jobs += [Job(case, name, ((ASYNC, "cpu"),), "aburst", work, at_once=count) for name in OVER_TLS]
                fresh.run("tls", jobs, 1, results, warm=False)
        subjects = [name for name in OVER_TLS if name not in (LANGCHAIN_FLOOR, LLAMA_INDEX_FLOOR)]
        for number in range(options.rounds + 1):
            for name in subjects:
                _first_answers(name, base_url, str(file), results if number else Results())


def _first_answers(name: str, base_url: str, certificates: str, results: Results) -> None:
    for mode in (SYNC, ASYNC):
        command = [sys.executable, "-m", "benchmarks.first_answers", name, base_url, mode]
        env = environment(certificates=certificates)
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            results.failures[Key("tls", START, name, f"{mode}, ms")] = f"exit status {done.returncode}"
            continue
        figures = json.loads(done.stdout)
        results.add(Key("tls", START, name, f"{mode}, ms"), figures["cpu"])
        if mode == ASYNC:
            results.add(Key("tls", START, name, LOOP), figures["loop"])


def startup(workers: Workers, results: Results, options: Options) -> None:
    """Importing a model's module after its framework, and creating models, each time in a fresh process."""
    for number in range(_IMPORTS + 1):
        for name, (framework, _) in PARTS.items():
            if name not in OURS and number > _FEW_IMPORTS:
                continue
            command = [sys.executable, "-m", "benchmarks.startup", name]
            done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                results.failures[Key("startup", framework, name, "adds %")] = f"exit status {done.returncode}"
            elif number:  # the first run writes bytecode files
                for column, value in json.loads(done.stdout).items():
                    results.add(Key("startup", framework, name, column), value)


def memory(workers: Workers, results: Results, options: Options) -> None:
    """Memory growth in kB per stream, for 200 concurrent asynchronous streams of 20 chunks."""
    work, columns = Work(chunks=20, pace=0.1), (("kB per stream", "kb"),)
    jobs = [
        Job("200 streams", subject, columns, "memory", work, at_once=200)
        for subject in (RAW, *OURS, OPENAI, MISTRAL, LIKE)
    ]
    with Workers(workers.base_url) as fresh:
        fresh.run("memory", jobs, 1, results, warm=False)


def growth(workers: Workers, results: Results, options: Options) -> None:
    """CPU us per chunk or call, with increasing numbers of chunks, characters of tool arguments, or messages."""
    rounds = min(options.rounds, 2)
    works = [("chunks", count, Work(chunks=count)) for count in CHUNKS]
    works += [("characters", count, Work("tool", count // 40, size=40)) for count in CHARACTERS]
    for case, count, work in works:
        columns, times = ((f"{count:,}", "cpu"),), max(1_000 // work.chunks, 1)
        subjects = OF_GROWTH if work.chunks > 10_000 else (*OF_GROWTH, OPENAI, LIKE)
        jobs = [Job(case, subject, columns, "stream", work, times) for subject in subjects]
        small = work.chunks <= 1_000
        workers.run("growth", jobs, rounds if small else 1, results, warm=small)
    for count in MESSAGES:
        work, columns, times = Work(history=count), ((f"{count:,}", "cpu"),), max(100 // count, 5)
        jobs = [Job("messages", subject, columns, "call", work, times) for subject in (RAW, *OF_GROWTH, OPENAI, LIKE)]
        workers.run("growth", jobs, rounds, results)


GROUPS: dict[str, Callable[[Workers, Results, Options], None]] = {
    function.__name__: function for function in (stream, call, flight, paced, tls, startup, memory, growth)
}
