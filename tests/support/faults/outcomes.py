"""The actual and the expected outcome of a fault."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from tir_qwen import TIRError

TEXT = "In its cage."
"""The right answer."""
REUSED = "on a reused connection"
"""The phase of a fault after another call over the same connection."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call.

    Attributes:
        text: What the caller got of the answer.
        requests: How many there were, not counting the one before the fault: the server and the error agree on it.
        error: The class of the error that ended the call.
        kept: What the error holds of the answer; None if it says that none began.
        waits: The seconds before each further request.
        says: The error's text; of what is expected, how it begins.
    """

    text: str = ""
    requests: int = 1
    error: str = ""
    kept: str | None = None
    waits: tuple[float, ...] = ()
    says: str = field(default="", compare=False)

    def __str__(self) -> str:
        text = repr(self.text) if len(self.text) < 40 else f"{len(self.text)} characters"
        parts = [self.error or text]
        if self.kept:
            parts.append(f"keeps {self.kept!r}")
        if self.requests != 1:
            parts.append(f"{self.requests} requests")
        if self.waits and self.waits != backoff(self.requests):
            parts.append(f"after {', '.join(f'{wait:g}' for wait in self.waits)} s")
        return ", ".join(parts)


def backoff(requests: int) -> tuple[float, ...]:
    """Return the waits before further requests without `Retry-After`, with the jitter fixed at its middle."""
    return tuple(0.4375 * 2**number for number in range(requests - 1))


@dataclass(frozen=True)
class Fault:
    """A row of the table, for one way of asking.

    Attributes:
        name: What goes wrong.
        phase: When.
        streamed: Whether the answer is asked for in pieces.
        leads_to: The outcome.
        scripts: What the server does with each request in turn; the last is for all that follow. The first one is for
            a call before the one that counts, if the phase is `REUSED`.
        timeout: As given to the client.
        retries: As given to the client.
        within: Seconds after which the call hangs.
        place: Makes the `Stage`.
    """

    name: str
    phase: str
    streamed: bool
    leads_to: Outcome
    scripts: tuple[Any, ...]
    timeout: Any
    retries: int
    within: float
    place: Callable[..., AbstractContextManager[Any]]

    def __str__(self) -> str:
        return f"{self.name} {self.phase}, {'streamed' if self.streamed else 'whole'}"

    def verdict(self, outcome: Outcome, seconds: float) -> str:
        """Return `ok`, or what is wrong."""
        if seconds > self.within:
            return "hang"
        if not outcome.error and (self.leads_to.error or outcome.text != self.leads_to.text):
            return "silent success"
        return "ok" if outcome == self.leads_to and outcome.says.startswith(self.leads_to.says) else "differs"


def answers(text: str = TEXT, requests: int = 1, waits: tuple[float, ...] | None = None) -> Outcome:
    """Expect the right answer in the end."""
    return Outcome(text, requests, waits=backoff(requests) if waits is None else waits)


def fails(error: type[TIRError], says: str = "", requests: int = 2) -> Outcome:
    """Expect an error before any answer, by default after one retry."""
    return Outcome("", requests, error.__name__, waits=backoff(requests), says=says)


def breaks(error: type[TIRError], kept: str = "", says: str = "") -> Outcome:
    """Expect an error within an answer, with the partial answer and without a retry."""
    return Outcome(kept, 1, error.__name__, kept, says=says)
