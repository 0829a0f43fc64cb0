"""Performance targets: ratios within a run, and their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from statistics import median

from .driver import Key, Results
from .groups import ASYNC, BURSTS, CHARACTERS, CHUNKS, CPU, LOOP, MESSAGES, OURS, RATE, START, SYNC
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

FLOORS = {
    **dict.fromkeys((LANGCHAIN, OPENAI, MISTRAL, LANGCHAIN_LEAST), LANGCHAIN_FLOOR),
    **dict.fromkeys((LLAMA_INDEX, LIKE, LLAMA_INDEX_LEAST), LLAMA_INDEX_FLOOR),
}
_MODELS = ((LANGCHAIN, "LangChain", OPENAI), (LLAMA_INDEX, "LlamaIndex", LIKE))
_METHODS = {
    LANGCHAIN: {"stream": {SYNC: "stream", ASYNC: "astream"}, "call": {SYNC: "invoke", ASYNC: "ainvoke"}},
    LLAMA_INDEX: {"stream": {SYNC: "stream_chat", ASYNC: "astream_chat"}, "call": {SYNC: "chat", ASYNC: "achat"}},
}
_SHORT = "short answer"


def ratio(results: Results, key: Key) -> float | None:
    """Divide a figure by its lower limit: the raw engine's figure, plus the framework's floor if there is one."""
    if key not in results.figures or key.subject in (RAW, RAW_HTTPX, *FLOORS.values()):
        return None
    floor = FLOORS.get(key.subject.removesuffix(ON_HTTPX))
    if key.group in ("stream", "call", "tls"):
        kind = key.case.partition(",")[0]
        parts = [Key(key.group, kind, RAW, key.column)]
        parts += [key._replace(subject=floor)] if floor else []
    elif key.column == CPU:  # floors are only measured without concurrency
        parts = [key._replace(subject=RAW)]
        alone = ("call", _SHORT) if key.group == "flight" else ("stream", "text")
        parts += [Key(*alone, floor, ASYNC)] if floor else []
    else:
        return None
    if not all(part in results.figures for part in parts):
        return None
    return results.median(*key) / sum(results.median(*part) for part in parts)


Figure = Callable[[Results], float]


def _median(*key: str) -> Figure:
    return lambda run: run.median(*Key(*key))


def _by(above: Figure, below: Figure) -> Figure:
    return lambda run: above(run) / below(run)


@dataclass(frozen=True)
class Target:
    """A figure with a limit."""

    name: str
    limit: float
    at_most: bool
    """Whether the limit is a maximum; otherwise, a minimum."""
    figure: Figure

    def figures(self, runs: list[Results]) -> list[float]:
        """Return the figure for each run that measured it."""
        found = []
        for run in runs:
            with suppress(KeyError):  # not measured
                found.append(self.figure(run))
        return found

    def met(self, figures: list[float]) -> bool:
        """Whether the median is within the limit."""
        return median(figures) <= self.limit if self.at_most else median(figures) >= self.limit


def targets() -> list[Target]:
    """Return all targets."""
    return [*_above_the_floor(), *_above_the_peers(), *_in_flight(), *_tls(), *_startup(), *_growth()]


def _above_the_floor() -> Iterator[Target]:
    for model, framework, _ in _MODELS:
        for group, case in (("stream", "text"), ("call", _SHORT)):
            for column, method in _METHODS[model][group].items():
                key = Key(group, case, model, column)
                yield Target(f"{model}.{method} / ({RAW} + {framework}'s floor)", 1.15, True, partial(_ratio, key=key))


def _above_the_peers() -> Iterator[Target]:
    for model, _, peer in _MODELS:
        for column, method in _METHODS[model]["stream"].items():
            figures = (_median("stream", "text", name, column) for name in (peer, model))
            yield Target(f"{peer} / {model}.{method}", 6, False, _by(*figures))


def _in_flight() -> Iterator[Target]:
    case = "64 at once"
    for model in (CLIENT, LANGCHAIN):
        figures = (_median("flight", case, name, CPU) for name in (RAW_HTTPX, model + ON_HTTPX))
        yield Target(f"{case}: {RAW_HTTPX} / {model}{ON_HTTPX}, CPU", 7, False, _by(*figures))
    figures = (_median("flight", case, name, RATE) for name in (LANGCHAIN, OPENAI))
    yield Target(f"{case}: {LANGCHAIN} / {OPENAI}, {RATE}", 3, False, _by(*figures))


def _tls() -> Iterator[Target]:
    for model, framework, _ in _MODELS:
        for column, method in _METHODS[model]["stream"].items():
            key = Key("tls", "chunk", model, column)
            yield Target(f"TLS: {model}.{method} / ({RAW} + {framework}'s floor)", 1, True, partial(_ratio, key=key))
    for count in BURSTS:
        for column in (SYNC, ASYNC):
            key = Key("tls", f"{count} first calls", CLIENT, column)
            yield Target(f"TLS: {key.case}, {column}: {CLIENT} / {RAW}", 1, True, partial(_ratio, key=key))
    for mode in (SYNC, ASYNC):
        figures = (_median("tls", START, name, f"{mode}, ms") for name in (LANGCHAIN, OPENAI))
        yield Target(f"TLS: {START}, {mode}: {LANGCHAIN} / {OPENAI}", 0.667, True, _by(*figures))
    for subject in OURS:
        yield Target(f"TLS: {subject}: {LOOP} of the first call", 20, True, _median("tls", START, subject, LOOP))


def _startup() -> Iterator[Target]:
    for model, framework, _ in _MODELS:
        figure = partial(_median, "startup", framework, model)
        yield Target(f"importing {model} adds to {framework}, %", 5, True, figure("adds %"))
        yield Target(f"making the first {model}, ms", 1, True, figure("first, ms"))
        yield Target(f"files opened by making {model}", 0, True, figure("files"))


def _growth() -> Iterator[Target]:
    for model, framework, _ in _MODELS:
        for case, small, large in (("chunks", CHUNKS[0], CHUNKS[-1]), ("characters", CHARACTERS[1], CHARACTERS[-1])):
            name = f"{model}: CPU per chunk at {large:,} / {small:,} {case}, less the growth of {framework}'s floor"
            yield Target(name, 1.3, True, partial(_grown, model=model, case=case, small=small, large=large))
        name = f"{model}: CPU per message of {MESSAGES[2]:,} / of {MESSAGES[1]:,}"
        yield Target(name, 1.3, True, _by(*(partial(_per_message, model=model, count=MESSAGES[at]) for at in (2, 1))))


def _ratio(run: Results, key: Key) -> float:
    if (found := ratio(run, key)) is None:
        raise KeyError(key)
    return found


def _grown(run: Results, model: str, case: str, small: int, large: int) -> float:
    less, more = (run.median("growth", case, model, f"{count:,}") for count in (small, large))
    floor, floors = (run.median("growth", case, FLOORS[model], f"{count:,}") for count in (small, large))
    return (more - (floors - floor)) / less


def _per_message(run: Results, model: str, count: int) -> float:
    alone, together = (run.median("growth", "messages", model, f"{number:,}") for number in (1, count))
    return (together - alone) / (count - 1)
