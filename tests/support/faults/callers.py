"""Calls to faulty servers with any client, and their outcomes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from time import monotonic
from typing import Any, Protocol

from tests.support.faults.outcomes import REUSED, Fault, Outcome
from tests.support.server import MESSAGES
from tir_qwen import AsyncClient, Client, Completion, Delta, TIRError


class Caller(Protocol):
    """A client behind an interface that is the same for all."""

    def texts(self, *, streamed: bool) -> Iterator[str]:
        """Ask, and yield the text of the answer, and the names and arguments of its calls."""

    def close(self) -> None:
        """Close the client."""


Make = Callable[[str, Any, int], Caller]
"""Makes a client, for a base URL, with a timeout and a number of retries."""


class SyncCaller:
    """A `Client`."""

    def __init__(self, base_url: str, timeout: Any, retries: int) -> None:
        self._client = Client(1, "token", base_url=base_url, timeout=timeout, max_retries=retries)

    def texts(self, *, streamed: bool) -> Iterator[str]:
        """See `Caller`."""
        if streamed:
            yield from map(_text, self._client.stream(MESSAGES))
        else:
            yield _text(self._client.complete(MESSAGES))

    def close(self) -> None:
        """See `Caller`."""
        self._client.close()


class AsyncCaller:
    """An `AsyncClient`, in an event loop of its own."""

    def __init__(self, base_url: str, timeout: Any, retries: int) -> None:
        self._loop = asyncio.Runner()
        self._client = AsyncClient(1, "token", base_url=base_url, timeout=timeout, max_retries=retries)

    def texts(self, *, streamed: bool) -> Iterator[str]:
        """See `Caller`."""
        if not streamed:
            yield _text(self._loop.run(self._client.complete(MESSAGES)))
            return
        deltas = self._client.stream(MESSAGES)
        while (delta := self._loop.run(anext(deltas, None))) is not None:
            yield _text(delta)

    def close(self) -> None:
        """See `Caller`."""
        self._loop.run(self._client.aclose())
        self._loop.close()


def _text(said: Delta | Completion) -> str:
    return said.content + "".join(f"{call.name or ''}{call.arguments}" for call in said.tool_calls)


def outcome_of(fault: Fault, make: Make, waits: list[float]) -> tuple[Outcome, float]:
    """Call a server that plays a fault; return the outcome.

    Args:
        fault: The fault.
        make: Makes the client.
        waits: Where the client's waits are recorded, instead of waited for.

    Returns:
        What came of the call, and the seconds that it took.
    """
    pieces: list[str] = []
    error = None
    read = threading.Event()
    with fault.place(fault, read) as stage, closing(make(stage.base_url, fault.timeout, fault.retries)) as client:
        if fault.phase == REUSED:
            for _ in client.texts(streamed=fault.streamed):
                pass
            read.set()
            stage.settle()
            read.clear()
        began = monotonic()
        try:
            for text in client.texts(streamed=fault.streamed):
                if text:
                    pieces.append(text)
                    read.set()
        except Exception as failure:
            error = failure
        seconds = monotonic() - began
        requests = stage.requests(getattr(error, "attempts", 1))
    return _outcome("".join(pieces), requests, error, tuple(wait for wait in waits if wait)), seconds


def _outcome(text: str, requests: int | None, error: Exception | None, waits: tuple[float, ...]) -> Outcome:
    if error is None:
        return Outcome(text, requests or 0, waits=waits)
    name, kept = type(error).__name__, None
    if isinstance(error, TIRError):
        kept = error.partial and _text(error.partial)
        if requests not in (None, error.attempts):
            name += f" of {error.attempts} attempts"
        requests = requests or error.attempts
    return Outcome(text, requests or 0, name, kept, waits, str(error))
