"""The state of one chat completion, from its request to its last delta, without I/O. Both clients drive it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from math import inf
from time import monotonic
from typing import Any

from .._dialect.dialect import Dialect
from .._request.body import Body
from .._request.build import Request
from .._response.arguments import LOST, TRUNCATED
from .._response.response import ResponseDecoder
from .._transport.deadline import Deadline
from ..errors import APIStatusError, ServerStreamError, TIRError
from ..types import Completion, Delta
from .base_call import BaseCall
from .retry import RetryPolicy
from .throttle import Throttle

logger = logging.getLogger("tir_qwen")


class Call(BaseCall[Delta]):
    """The state of one chat completion; its results are deltas."""

    __slots__ = ("_build", "_decoder", "_dialect", "_heard", "_passed_on", "_started_answer")

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
        request = build(dialect.write())
        super().__init__(request, retry_policy, deadline, secrets=secrets, on_retry=on_retry, throttle=throttle)
        self._dialect = dialect
        self._build = build
        self._decoder = ResponseDecoder(secrets, dialect.decoding_options, request.content)
        self._started_answer = False
        self._heard = 0
        self._passed_on = False

    @property
    def done(self) -> bool:
        return self._decoder.done

    def feed(self, data: bytes) -> Iterator[Delta]:
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
        yield from self._decoder.close()
        completion = self._decoder.completion()
        self._dialect.observe(completion, self._decoder.signs)
        is_cut = completion.finish_reason == "length" or any(call.error == TRUNCATED for call in completion.tool_calls)
        if not (self._dialect.is_limited and is_cut):  # otherwise, another request continues it
            _warn_of_unusable_answer(completion)

    def answer_failed(self, error: TIRError) -> float | None:
        """Return 0 to start again, if the server refused the request within its answer.

        Otherwise, attach the partial answer to the error that ended it: an answer that has begun is never repeated.
        """
        if isinstance(error, ServerStreamError) and not self._passed_on and self._rewrite_request(error):
            return 0.0
        error.attempts = self._sent_requests + 1
        self._decoder.interrupt()
        error.partial = self._decoder.completion()
        return None

    def completion(self) -> Completion:
        """Return everything that has arrived so far."""
        return self._decoder.completion()

    def _rewrite_request(self, error: APIStatusError | ServerStreamError) -> bool:
        if not self._dialect.request_refused(error):
            return False
        self._request = self._build(self._dialect.write())
        self._decoder = ResponseDecoder(self._secrets, self._dialect.decoding_options, self._request.content)
        self._rewritten_requests += 1
        self._heard = 0
        self._started_answer = False
        return True


def _warn_of_unusable_answer(completion: Completion) -> None:
    for choice in completion.choices:
        is_empty = choice.reasoning and not choice.content and not choice.tool_calls
        if is_empty and choice.finish_reason == "length":
            logger.warning(
                "The answer is empty: max_tokens (or the context window) was reached during the reasoning. Set a"
                " thinking_budget below max_tokens, raise max_tokens, or set enable_thinking=False."
            )
        elif is_empty and isinstance(choice.stop_reason, str):
            logger.warning(
                "The answer is empty: a stop string ended it before its first word. Stop strings also apply within the"
                " reasoning."
            )
        for call in choice.tool_calls:
            if call.error:
                advice = " Raise max_tokens." if call.error == TRUNCATED else ""
                level = logging.INFO if call.error == LOST else logging.WARNING
                logger.log(level, "A tool call of the model cannot be run: %s.%s", call.error, advice)
