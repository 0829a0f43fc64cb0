"""The groups of measurements: which subjects do what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .driver import Job, Results, Workers
from .subjects import (
    CLIENT,
    LANGCHAIN,
    LANGCHAIN_FLOOR,
    LIKE,
    LLAMA_INDEX,
    LLAMA_INDEX_FLOOR,
    MISTRAL,
    OPENAI,
    RAW,
    RAW_HTTPX,
)
from .work import Work

ON_LANGCHAIN = (LANGCHAIN_FLOOR, LANGCHAIN, OPENAI, MISTRAL)
ON_LLAMA_INDEX = (LLAMA_INDEX_FLOOR, LLAMA_INDEX, LIKE)
EVERYONE = (RAW, RAW_HTTPX, CLIENT, *ON_LANGCHAIN, *ON_LLAMA_INDEX)
FEW = 200
"""Chunks that are added up one by one, which takes the square of their number."""


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    rounds: int = 7
    chunks: int = 2000


def both(case: str, subject: str, work: Work, times: int = 1) -> Iterator[Job]:
    """A stream, synchronous and asynchronous."""
    yield Job(case, subject, (("sync", "cpu"),), "stream", work, times)
    yield Job(case, subject, (("async", "cpu"),), "astream", work, times)


def stream(workers: Workers, results: Results, options: Options) -> None:
    """CPU us per chunk."""
    jobs = [job for subject in EVERYONE for job in both("text", subject, Work(chunks=options.chunks))]
    workers.run("stream", jobs, options.rounds, results)
    half = options.chunks // 2
    jobs = []
    for kind in ("reasoning", "tool"):
        jobs += [job for subject in EVERYONE for job in both(kind, subject, Work(kind, half))]
    for form in ("v1", "v3"):
        for kind in ("text", "reasoning", "tool"):
            work = Work(kind, half, form=form)
            jobs += [job for subject in ON_LANGCHAIN for job in both(f"{kind}, {form}", subject, work)]
    adding = {"text, added up at once": Work(chunks=half, form="sum"), "text, one by one": Work(chunks=FEW, form="fold")}
    for case, work in adding.items():
        jobs += [job for subject in ON_LANGCHAIN for job in both(case, subject, work, times=half // work.chunks or 1)]
    workers.run("stream", jobs, (options.rounds + 1) // 2, results)


def call(workers: Workers, results: Results, options: Options) -> None:
    """CPU us per call."""
    jobs = []
    for subject in EVERYONE:
        jobs.append(Job("short answer", subject, (("sync", "cpu"),), "call", Work(), times=100))
        jobs.append(Job("short answer", subject, (("async", "cpu"),), "acall", Work(), times=100))
    workers.run("call", jobs, options.rounds, results)


GROUPS: dict[str, Callable[[Workers, Results, Options], None]] = {"stream": stream, "call": call}
