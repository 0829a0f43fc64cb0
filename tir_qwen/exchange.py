"""One call, from its request to its last delta, without a socket: what both clients drive."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from math import inf
from time import monotonic
from typing import Any

from .answer import AnswerDecoder
from .dialect import Dialect, Messages
from .errors import APIConnectionError, APIStatusError, TIRError
from .failure import error_from_response
from .request import Request
from .retry import RetryPolicy
from .timeouts import Clock
from .types import JSON, Completion, Delta

logger = logging.getLogger("tir_qwen")

MAX_STALE = 1
"""Idle connections found closed that cost a call neither an attempt nor a wait; the next one is not idle."""


class Exchange:
    """The state of one call.

    A client sends `request`, tells `refused` or `failed` what came of it and waits as it says; once a 2xx has come it
    gives the body to `feed` and calls `close` (`broke`, if that fails), and never sends the request again.
    """

    __slots__ = (
        "_answer",
        "_attempts",
        "_begun",
        "_heard",
        "_policy",
        "_rewritten",
        "_secrets",
        "_stale",
        "_write",
        "clock",
        "dialect",
        "on_retry",
        "request",
    )

    def __init__(
        self,
        dialect: Dialect,
        write: Callable[[Messages, JSON], Request],
        policy: RetryPolicy,
        clock: Clock,
        *,
        secrets: tuple[str, ...] = (),
        on_retry: Any = None,
    ) -> None:
        self.dialect = dialect
        self.clock = clock
        self.request = write(*dialect.write())
        self.on_retry = on_retry
        """Called with the error and the delay before each further request; awaited by the asynchronous client."""
        self._write = write
        self._policy = policy
        self._secrets = secrets
        self._attempts = 0
        self._rewritten = 0
        self._heard = 0
        self._stale = 0
        self._begun = False
        self._answer = AnswerDecoder(secrets, dialect.expected)

    @property
    def done(self) -> bool:
        """True once the answer is complete, though bytes may follow."""
        return self._answer.done

    def begin(self) -> Request:
        """The request, about to be sent.

        Raises:
            APITimeoutError: There is no time left for it.
        """
        self.clock.start()
        if not self.clock.left():
            error = self.clock.overdue()
            error.attempts = self._attempts + self._rewritten
            raise error
        return self.request

    def refused(self, status_code: int, headers: Mapping[str, str], body: bytes) -> APIStatusError:
        """Return the error for a response that is not a 2xx."""
        return error_from_response(status_code, headers, body, self._secrets)

    def failed(self, error: TIRError) -> float | None:
        """Count a failed request; return the seconds to wait before the next one, or None if there is to be none."""
        delay = self._delay(error)
        if delay is None or self.clock.left() <= delay:
            error.attempts = self._attempts + self._rewritten
            return None
        if error.attempts:
            logger.warning("Attempt %d failed, trying again in %.1f s: %s", self._attempts, delay, error)
        return delay

    def _delay(self, error: TIRError) -> float | None:
        if isinstance(error, APIStatusError) and self.dialect.refused(error):
            self.request = self._write(*self.dialect.write())
            self._answer = AnswerDecoder(self._secrets, self.dialect.expected)
            self._rewritten += 1
            return 0.0
        if isinstance(error, APIConnectionError) and error.stale and self._stale < MAX_STALE:
            self._stale += 1
            return 0.0
        self._attempts += 1
        error.attempts = self._attempts + self._rewritten
        return self._policy.delay(error, self._attempts)

    def feed(self, data: bytes) -> Iterator[Delta]:
        """Yield what these bytes of the body bring.

        Raises:
            APITimeoutError: Bytes come, but have brought nothing for too long (keep-alive comments, say).
        """
        arrived = monotonic()
        if not self._begun:
            self._begun = True
            self.dialect.accepted()
        progress, limited = False, self.clock.end != inf
        for delta in self._answer.feed(data):
            progress = True
            yield delta
            if limited and not self.done and not self.clock.left():  # the caller has taken the time
                raise self.clock.overdue()
        if not progress and self._answer.heard > self._heard:  # more has come, and is held back
            self._heard, progress = self._answer.heard, True
        if not self.done and arrived > (self.clock.end if progress else self.clock.until):
            raise self.clock.overdue()
        if progress:
            self.clock.go_on()  # from now and not from `arrived`: the time that the caller took is not the server's
        elif self._answer.whole:
            self.clock.go_on_whole()

    def close(self) -> Iterator[Delta]:
        """Yield the rest of the answer: its body has ended."""
        yield from self._answer.close()
        answer = self._answer.completion()
        self.dialect.learn(answer)
        _hint(answer)

    def broke(self, error: TIRError) -> None:
        """Complete `error`, which ended the body too early, by what had come."""
        error.attempts = self._attempts + self._rewritten + 1
        self._answer.broken()
        error.partial = self._answer.completion()

    def completion(self) -> Completion:
        """The answer as far as it has come."""
        return self._answer.completion()


def _hint(answer: Completion) -> None:
    for choice in answer.choices:
        if choice.finish_reason == "length" and choice.reasoning and not choice.content and not choice.tool_calls:
            logger.warning(
                "The answer is empty: max_tokens (or the context window) cut it within its reasoning. Raise"
                " max_tokens, or set enable_thinking=False."
            )
