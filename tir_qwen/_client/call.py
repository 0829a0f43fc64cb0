"""The state of one call, from its request to its last delta, without I/O. Both clients drive it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from math import inf
from time import monotonic
from typing import Any

from .._dialect.dialect import Dialect
from .._redaction import redact
from .._request.body import Body
from .._request.build import Request
from .._response.arguments import LOST, TRUNCATED
from .._response.response import ResponseDecoder
from .._response.retry_after import rate_limit_pause
from .._response.server_errors import error_from_response
from .._transport.deadline import Deadline
from ..errors import APIConnectionError, APIStatusError, ServerStreamError, TIRError
from ..types import Completion, Delta
from .retry import RetryPolicy
from .throttle import REFUSALS, Throttle

logger = logging.getLogger("tir_qwen")

MAX_STALE_CONNECTIONS = 1
"""Stale connections per call that neither count as an attempt nor cause a delay; the retry opens a new connection."""


class Call:
    """The state of one call.

    The client sends what `start_request` returns. If there is no 2xx response, it passes the error to `request_failed`
    and waits for the delay that this returns. Otherwise it passes the body to `feed` and then calls `close`; if either
    raises, it calls `answer_failed`, which says whether to start again with another request.

    Attributes:
        deadline: When the call must have made progress, and when it must have finished.
        throttle: What limits the calls at once, if anything.
        was_refused: Whether the endpoint has refused the last request for now, but will accept it.
        on_retry: Called with the error and the delay in seconds before each retry; awaited by `AsyncClient`.
    """

    __slots__ = (
        "_attempts",
        "_build",
        "_decoder",
        "_dialect",
        "_heard",
        "_passed_on",
        "_refusal",
        "_refusals",
        "_request",
        "_retry_policy",
        "_rewritten_requests",
        "_secrets",
        "_sent_at",
        "_stale_connections",
        "_started_answer",
        "deadline",
        "on_retry",
        "throttle",
        "was_refused",
    )

    def __init__(
        self,
        dialect: Dialect,
        build: Callable[[Body], Request],
        retry_policy: RetryPolicy,
        deadline: Deadline,
        *,
        secrets: tuple[str, ...] = (),
        on_retry: Any = None,
        throttle: Throttle | None = None,
    ) -> None:
        self.throttle = throttle
        self.was_refused = False
        self._sent_at = 0.0
        self.deadline = deadline
        self.on_retry = on_retry
        self._dialect = dialect
        self._build = build
        self._request = build(dialect.write())
        self._decoder = ResponseDecoder(secrets, dialect.decoding_options, self._request.content)
        self._retry_policy = retry_policy
        self._secrets = secrets
        self._attempts = 0
        self._refusals = 0
        self._refusal = ""  # the text of the last one
        self._rewritten_requests = 0
        self._stale_connections = 0
        self._started_answer = False
        self._heard = 0
        self._passed_on = False

    @property
    def done(self) -> bool:
        """Whether the answer is complete, even if more bytes follow."""
        return self._decoder.done

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
        return error_from_response(status_code, headers, body, self._secrets, self._request.content)

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
        """Complete the error of a call that ran out of time while it waited for its turn."""
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

    def feed(self, data: bytes) -> Iterator[Delta]:
        """Decode bytes of the body and yield their deltas.

        Raises:
            APITimeoutError: Bytes such as keep-alive comments arrived, but no part of the answer for too long.
        """
        arrived_at = monotonic()
        if not self._started_answer:
            self._started_answer = True
            self._dialect.request_accepted()
        made_progress, has_total = False, self.deadline.total_expires_at != inf
        for delta in self._decoder.feed(data):
            made_progress = self._passed_on = True
            yield delta
            if has_total and not self.done and not self.deadline.remaining():  # the caller's code used up the time
                raise self.deadline.timeout_error()
        if not made_progress and self._decoder.heard > self._heard:  # progress, though its text is still held back
            self._heard, made_progress = self._decoder.heard, True
        expires_at = self.deadline.total_expires_at if made_progress else self.deadline.expires_at
        if not self.done and arrived_at > expires_at:
            raise self.deadline.timeout_error()
        if made_progress:
            self.deadline.extend()  # from now on: time spent in the caller's code is not counted
        elif self._decoder.is_whole:
            self.deadline.extend_whole_answer()

    def close(self) -> Iterator[Delta]:
        """Yield the remaining deltas: the body has ended."""
        yield from self._decoder.close()
        completion = self._decoder.completion()
        self._dialect.observe(completion, self._decoder.signs)
        if not (self._dialect.is_limited and completion.finish_reason == "length"):  # another request continues it
            _warn_of_unusable_answer(completion)

    def answer_failed(self, error: TIRError) -> bool:
        """Return whether to start again, since the server refused the request within its answer.

        Otherwise, attach the partial answer to the error that ended it.
        """
        if isinstance(error, ServerStreamError) and not self._passed_on and self._dialect.request_refused(error):
            self._rewrite_request()
            return True
        error.attempts = self._sent_requests + 1
        self._decoder.interrupt()
        error.partial = self._decoder.completion()
        return False

    def completion(self) -> Completion:
        """Return everything that has arrived so far."""
        return self._decoder.completion()

    @property
    def _sent_requests(self) -> int:
        return self._attempts + self._refusals + self._rewritten_requests

    def _retry_delay(self, error: TIRError) -> float | None:
        if isinstance(error, APIStatusError) and self._dialect.request_refused(error):
            self._rewrite_request()
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
        self.was_refused = False  # other calls go first, lest this one uses up its retries
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

    def _rewrite_request(self) -> None:
        self._request = self._build(self._dialect.write())
        self._decoder = ResponseDecoder(self._secrets, self._dialect.decoding_options, self._request.content)
        self._rewritten_requests += 1
        self._heard = 0
        self._started_answer = False


def _warn_of_unusable_answer(completion: Completion) -> None:
    for choice in completion.choices:
        is_cut = choice.finish_reason == "length"
        if is_cut and choice.reasoning and not choice.content and not choice.tool_calls:
            logger.warning(
                "The answer is empty: max_tokens (or the context window) was reached during the reasoning. Set"
                " thinking_budget, raise max_tokens, or set enable_thinking=False."
            )
        for call in choice.tool_calls:
            if call.error:
                advice = " Raise max_tokens." if call.error == TRUNCATED else ""
                level = logging.INFO if call.error == LOST else logging.WARNING
                logger.log(level, "A tool call of the model cannot be run: %s.%s", call.error, advice)
