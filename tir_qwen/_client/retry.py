"""Which errors are retried, and how long to wait before each retry."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import APIStatusError, ConfigurationError, TIRError

FIRST_DELAY = 0.5
MAX_DELAY = 8.0
MAX_RETRY_AFTER = 60.0
"""Maximum delay in seconds, even if the server asks for a longer one."""


def _random_jitter() -> float:
    return random.random()  # noqa: S311 - not for cryptography


@dataclass(slots=True, eq=False, repr=False)
class RetryPolicy:
    """Decides whether an error is retried, and after how long.

    Errors with `is_retryable` are retried: statuses 408, 409, 429 and 5xx, connection errors, timeouts. This only
    applies until a 2xx response arrives: an answer that has begun is never requested again.

    Attributes:
        max_retries: How often to retry a request; 0 turns retries off.
        jitter: Returns a number in [0, 1), which keeps many clients from retrying at the same moment.
    """

    max_retries: int = 2
    jitter: Callable[[], float] = _random_jitter

    def __post_init__(self) -> None:
        if type(self.max_retries) is not int or self.max_retries < 0:
            raise ConfigurationError("max_retries must be a whole number, 0 or more.")

    def delay(self, error: TIRError, attempts: int) -> float | None:
        """Return the seconds to wait before the next request; None to give up.

        Args:
            error: The error of the last request.
            attempts: Number of failed attempts so far, at least 1, without stale connections and rewritten requests.
        """
        if not error.is_retryable or attempts > self.max_retries:
            return None
        if isinstance(error, APIStatusError) and error.retry_after:  # 0 is no advice
            return min(error.retry_after, MAX_RETRY_AFTER) * (1 + 0.1 * self.jitter())
        backoff = min(FIRST_DELAY * (1 << min(attempts - 1, 10)), MAX_DELAY)
        return backoff * (1 - 0.25 * self.jitter())
