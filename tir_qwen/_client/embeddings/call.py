"""The state of one request for vectors, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from ..._dialect.embeddings import EmbeddingDialect
from ..._request.build import Request
from ..._response.embeddings import EmbeddingDecoder
from ..._transport.deadline import Deadline
from ...errors import APIStatusError, ServerStreamError, TIRError
from ...types import JSON, Embeddings
from ..base_call import BaseCall
from ..retry import RetryPolicy
from ..throttle import Throttle


class EmbeddingCall(BaseCall[Embeddings]):
    """The state of one request for vectors, which are a single result.

    Unlike a chat completion, it is also repeated if its answer fails after it has begun: nobody has seen a part of it.
    """

    __slots__ = ("_build", "_decoder", "_dialect", "_new_decoder")

    def __init__(
        self,
        dialect: EmbeddingDialect,
        build: Callable[[JSON], Request],
        new_decoder: Callable[[bytes], EmbeddingDecoder],
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
        self._new_decoder = new_decoder
        self._decoder = new_decoder(request.content)

    @property
    def done(self) -> bool:
        return False  # only the end of the body shows it

    def feed(self, data: bytes) -> Iterator[Embeddings]:
        arrived_at = monotonic()
        self._decoder.feed(data)
        if arrived_at > self.deadline.expires_at:
            raise self.deadline.timeout_error()
        self.deadline.extend_whole_answer()
        return iter(())

    def close(self) -> Iterator[Embeddings]:
        answer = self._decoder.close()
        self._dialect.request_accepted()
        yield answer

    def answer_failed(self, error: TIRError) -> float | None:
        self.was_refused = False
        if isinstance(error, ServerStreamError) and self._rewrite_request(error):
            return 0.0
        delay = self.request_failed(error)
        self._decoder = self._new_decoder(self._request.content)
        return delay

    def _rewrite_request(self, error: APIStatusError | ServerStreamError) -> bool:
        if not self._dialect.request_refused(error):
            return False
        self._request = self._build(self._dialect.write())
        self._decoder = self._new_decoder(self._request.content)
        self._rewritten_requests += 1
        return True
