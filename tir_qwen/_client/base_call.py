"""What all kinds of calls have in common: attempts, retries, their deadline, and the concurrency limit."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from math import inf
from time import monotonic
from typing import Any, Generic, TypeVar

from .._redaction import redact
from .._request.build import Request
from .._response.retry_after import rate_limit_pause
from .._response.server_errors import error_from_response
from .._transport.deadline import Deadline
from ..errors import APIConnectionError, APIStatusError, TIRError
from .retry import RetryPolicy
from .throttle import REFUSALS, Throttle

logger = logging.getLogger("tir_qwen")

MAX_STALE_CONNECTIONS = 1
"""Stale connections per call that neither count as an attempt nor cause a delay; the retry opens a new connection."""

_PLAIN_HEADERS = frozenset({"accept", "accept-encoding", "content-type"})
"""The headers that contain no credentials."""

Result = TypeVar("Result")


def _has_credentials(request: Request) -> bool:
    """Whether a request contains anything that may be a credential: a token, a key, or another header of the user's."""
    return "?" in request.url or any(value for name, value in request.headers.items() if name not in _PLAIN_HEADERS)


class BaseCall(ABC, Generic[Result]):
    """The state of one call, whose answer consists of results: deltas, or vectors.

    The client sends what `start_request` returns. If there is no 2xx response, it passes the error to `request_failed`
    and waits for the delay that this returns. Otherwise it passes the body to `feed` and then calls `close`; if either
    raises, it calls `answer_failed`, which says whether, and after which delay, to start again with another request.

    Attributes:
        deadline: When the call must have made progress, and when it must have finished.
        throttle: The concurrency limit, if any.
        was_refused: Whether the endpoint has refused the last request for now, but will accept it later.
        on_retry: Called with the error and the delay in seconds before each retry; awaited by `AsyncClient`.
    """

    __slots__ = (
        "_attempts",
        "_refusal",
        "_refusals",
        "_request",
        "_retry_policy",
        "_rewritten_requests",
        "_secrets",
        "_sent_at",
        "_stale_connections",
        "deadline",
        "on_retry",
        "throttle",
        "was_refused",
    )

    def __init__(
        self,
        request: Request,
        retry_policy: RetryPolicy,
        deadline: Deadline,
        *,
        secrets: tuple[str, ...],
        on_retry: Any,
        throttle: Throttle | None,
    ) -> None:
        self.throttle = throttle
        self.was_refused = False
        self._sent_at = 0.0
        self.deadline = deadline
        self.on_retry = on_retry
        self._request = request
        self._retry_policy = retry_policy
        self._secrets = secrets
        self._attempts = 0
        self._refusals = 0
        self._refusal = ""  # the text of the last one
        self._rewritten_requests = 0
        self._stale_connections = 0

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether the answer is complete, even if more bytes follow."""

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[Result]:
        """Decode bytes of the body and yield their results.

        Raises:
            APITimeoutError: Bytes such as keep-alive comments arrived, but no part of the answer for too long.
        """

    @abstractmethod
    def close(self) -> Iterator[Result]:
        """Yield the remaining results: the body has ended."""

    @abstractmethod
    def answer_failed(self, error: TIRError) -> float | None:
        """Return the seconds to wait before starting again; None if the call has failed."""

    @abstractmethod
    def _rewrite_request(self, error: APIStatusError) -> bool:
        """Replace a request that the server refused with one in another form; return whether there is one."""

    def start_request(self) -> Request:
        """Return the request to send, and start its deadline.

        Raises:
            APITimeoutError: The call has no time left.
        """
        self.deadline.start_request()
        self._sent_at = monotonic()
        if not self.deadline.remaining():
            self.leave()
            error = self.deadline.timeout_error()
            error.attempts = self._sent_requests
            raise error
        return self._request

    def status_error(self, status_code: int, headers: Mapping[str, str], body: bytes) -> APIStatusError:
        """Return the error for a response whose status is not 2xx."""
        request = self._request
        return error_from_response(
            status_code,
            headers,
            body,
            self._secrets,
            request.content,
            url=request.url,
            has_credentials=_has_credentials(request),
        )

    def accepted(self, headers: Mapping[str, str]) -> None:
        """Note that the server has accepted the request."""
        if self.throttle is not None:
            self.throttle.accepted(self._sent_at, rate_limit_pause(headers))

    def leave(self, error: BaseException | None = None) -> None:
        """Note that the request is over, because of an error if it got no answer."""
        if self.throttle is None:
            return
        if isinstance(error, APIStatusError) and error.status_code in REFUSALS and error.is_retryable:
            self.was_refused, self._refusal = True, str(error)
            self.throttle.refused(error.status_code, error.retry_after, self._sent_at)
        else:
            self.was_refused = False
        self.throttle.leave()

    def waited_in_vain(self, error: TIRError) -> None:
        """Complete the error of a call that ran out of time while it waited to be sent."""
        error.attempts = self._sent_requests
        if self._refusal:
            error.args = (f"{error}. The last refusal: {self._refusal}",)

    def request_failed(self, error: TIRError) -> float | None:
        """Return the seconds to wait before the next request; None if there is none, and the call has failed."""
        if isinstance(error, APIConnectionError):  # its host may be a secret too, such as the value of a header
            error.args = (redact(str(error), self._secrets),)
        delay = self._retry_delay(error)
        if delay is None or self.deadline.remaining() <= delay:
            error.attempts = self._sent_requests
            return None
        if error.attempts:
            level = logging.INFO if self.was_refused else logging.WARNING  # the throttle warns of refusals
            logger.log(level, "Attempt %d failed, retrying in %.1f s: %s", self._sent_requests, delay, error)
        return delay

    @property
    def _sent_requests(self) -> int:
        return self._attempts + self._refusals + self._rewritten_requests

    def _retry_delay(self, error: TIRError) -> float | None:
        if isinstance(error, APIStatusError) and self._rewrite_request(error):
            return 0.0
        is_stale = isinstance(error, APIConnectionError) and error.stale
        if is_stale and self._stale_connections < MAX_STALE_CONNECTIONS:
            self._stale_connections += 1
            return 0.0
        pause = self._pause_of_refusal()
        if pause is not None:
            self._refusals += 1
            error.attempts = self._sent_requests
            return pause
        self.was_refused = False  # other calls go first, so that this one keeps its retries
        self._attempts += 1
        error.attempts = self._sent_requests
        return self._retry_policy.delay(error, self._attempts)

    def _pause_of_refusal(self) -> float | None:
        """Return the seconds to wait after a refusal that does not count as a retry; None if there was none.

        It does not count while the endpoint accepts other calls.
        """
        if self.throttle is None or not self.was_refused or not self._retry_policy.max_retries:
            return None
        patience = self.deadline.timeout.first_delta
        return self.throttle.pause if self.throttle.is_patient(inf if patience is None else patience) else None
