"""Which errors are worth another request, and how long to wait for it (pure)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from .errors import APIStatusError, ConfigurationError, TIRError

FIRST_DELAY = 0.5
MAX_DELAY = 8.0
MAX_RETRY_AFTER = 60.0
"""Seconds; a server that wants a longer pause is asked again after this one."""


def _jitter() -> float:
    return random.random()  # noqa: S311 - not for cryptography


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries after errors that are `is_retryable`: statuses 408, 409, 429 and 5xx, connections, timeouts.

    Only asked as long as no 2xx has begun: what the model has started to answer is never asked twice.

    Attributes:
        max_retries: Requests after the first one; 0 means one request.
        jitter: A source of numbers in [0, 1), so that many clients do not come back at once.
    """

    max_retries: int = 2
    jitter: Callable[[], float] = _jitter

    def __post_init__(self) -> None:
        if type(self.max_retries) is not int or self.max_retries < 0:
            raise ConfigurationError("max_retries must be a whole number, 0 or more.")

    def delay(self, error: TIRError, attempts: int) -> float | None:
        """Return the seconds to wait before the next request, or None if there is to be none.

        Args:
            error: How the last request failed.
            attempts: How many requests have been sent (from 1).
        """
        if not error.is_retryable or attempts > self.max_retries:
            return None
        if isinstance(error, APIStatusError) and error.retry_after is not None:
            return min(error.retry_after, MAX_RETRY_AFTER)
        backoff = min(FIRST_DELAY * (1 << min(attempts - 1, 10)), MAX_DELAY)
        return backoff * (1 - 0.25 * self.jitter())
