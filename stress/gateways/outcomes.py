"""Calls, what came of them, and what should come of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from stress.server import pieces
from tir_qwen import StreamError

RIGHT = "right"
_numbers = count(1)


@dataclass
class Ask:
    """A call to make.

    Attributes:
        url: The base URL.
        facts: The fields of the question, see `stress.server`.
        streamed: Whether to ask for a stream.
        after: Seconds to wait before the call.
        on_first: Called once the first text has arrived; must return at once.
    """

    url: str
    facts: dict[str, Any] = field(default_factory=dict)
    streamed: bool = True
    after: float = 0.0
    on_first: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        self.facts = {"mode": "answer", "number": next(_numbers), **self.facts}

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages to send."""
        return [{"role": "user", "content": json.dumps(self.facts)}]

    @property
    def answer(self) -> str:
        """The right answer."""
        return "".join(pieces(self.facts))


@dataclass
class Call:
    """What came of a call.

    Attributes:
        ask: What was asked.
        text: The text that arrived.
        error: What was raised.
        retries: Number of retries that `on_retry` reported.
        seconds: How long it took.
    """

    ask: Ask
    text: str = ""
    error: Exception | None = None
    retries: int = 0
    seconds: float = 0.0

    @property
    def result(self) -> str:
        """`right`, the name of the error, or what else is wrong."""
        if self.error is None:
            return RIGHT if self.text == self.ask.answer else "WRONG ANSWER"
        name = type(self.error).__name__
        if isinstance(self.error, StreamError):
            kept = self.error.partial.content if self.error.partial else ""
            return name if kept.startswith(self.text) else f"{name} WITHOUT WHAT HAD ARRIVED"
        return name

    def hear(self, text: str) -> None:
        """Add text that has arrived."""
        if text and not self.text and self.ask.on_first is not None:
            self.ask.on_first()
        self.text += text


@dataclass
class Outcome:
    """What came of a scenario; see `Expected` for the fields.

    `attempts` is the number of requests that the last error tells; 0 if there was none.
    """

    results: str
    requests: int | None = None
    connections: int | None = None
    retries: int = 0
    attempts: int = 0
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Expected:
    """What should come of a scenario.

    Attributes:
        results: What came of the calls, step by step, such as `StreamInterruptedError, then right`.
        requests: Number of requests that arrived; None if nobody could count them, or if it does not matter.
        connections: Number of connections that were opened, likewise.
        retries: Number of retries that `on_retry` reports.
        seconds: The longest that a call with a right answer may take, or any call if there is no such answer.
        at_least: The shortest that it may take.
        says: What the last error must say.
        hides: What it must not say.
    """

    results: str = RIGHT
    requests: int | None = None
    connections: int | None = None
    retries: int = 0
    seconds: float = 10.0
    at_least: float = 0.0
    says: tuple[str, ...] = ()
    hides: str = ""

    def differences(self, outcome: Outcome) -> Iterator[str]:
        """Yield what differs from it."""
        if outcome.results != self.results:
            yield f"{outcome.results} instead of {self.results}"
        for name in ("requests", "connections", "retries"):
            wanted, found = getattr(self, name), getattr(outcome, name)
            if wanted is not None and wanted != found:
                yield f"{found} {name} instead of {wanted}"
        if outcome.attempts and outcome.requests is not None and outcome.attempts != outcome.requests:
            yield f"tells {outcome.attempts} attempts of {outcome.requests}"
        if outcome.seconds > self.seconds:
            yield f"takes longer than {self.seconds:g} s"
        if outcome.seconds < self.at_least:
            yield f"takes less than {self.at_least:g} s"
        if outcome.results == self.results:  # otherwise the message is another error's
            yield from (f"does not say {text!r}" for text in self.says if text.lower() not in outcome.message.lower())
            if self.hides and self.hides in outcome.message:
                yield f"says {self.hides!r}"


def summary(calls: Iterable[Call]) -> str:
    """Return what came of calls made together: one word if it is the same for all."""
    results = Counter(call.result for call in calls)
    if len(results) == 1:
        return next(iter(results))
    return ", ".join(f"{number} {result}" for result, number in sorted(results.items()))


def outcome_of(steps: list[list[Call]], requests: int | None, connections: int | None) -> Outcome:
    """Return what came of calls that were made in steps."""
    calls = [call for step in steps for call in step]
    right = [call.seconds for call in calls if call.result == RIGHT]
    last = next((call.error for call in reversed(calls) if call.error is not None), None)
    return Outcome(
        results=", then ".join(map(summary, steps)),
        requests=requests,
        connections=connections,
        retries=sum(call.retries for call in calls),
        attempts=getattr(last, "attempts", 0) if len(calls) == 1 else 0,
        seconds=round(max(right or [call.seconds for call in calls]), 2),
        message=str(last or ""),
    )
