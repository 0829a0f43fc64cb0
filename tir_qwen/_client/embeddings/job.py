"""The requests for the vectors of any number of texts, and their results, without I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..._dialect.usage import add_usage
from ..._response.server_errors import server_text
from ..._transport.deadline import Deadline
from ...errors import APIStatusError, ContextOverflowError, MalformedChunkError
from ...timeouts import Timeout
from ...types import Embeddings, Usage
from .arguments import EmbeddingOptions
from .call import EmbeddingCall

Batch = Sequence[int]
"""The positions of the texts in one request."""

_TOO_MANY_TEXTS = r"(?i)batch ?size|too many inputs|array too long|(?:number|maximum) of inputs"
"""What servers say about a request with too many texts: text-embeddings-inference, Azure, OpenAI, DashScope."""


class EmbeddingJob:
    """The batches of one call of `Client.embed`.

    Send the calls that `new_call` returns for `batches`, and pass each answer to `add`. If a server refuses one, send
    those that `split` returns instead. When all are answered, `result` returns the vectors in the order of the texts.

    Attributes:
        batches: The batches to start with.
        max_concurrency: Maximum number of concurrent requests.
    """

    def __init__(
        self,
        options: EmbeddingOptions,
        timeout: Timeout,
        new_call: Callable[[Sequence[str], Deadline], EmbeddingCall],
    ) -> None:
        """Start with all texts.

        Args:
            options: What to embed, and how.
            timeout: The limits of each request, and of all of them together.
            new_call: Creates the call for some of the texts.
        """
        positions, size = range(len(options.texts)), options.batch_size
        self.batches: list[Batch] = [positions[at : at + size] for at in positions[::size]]
        self.max_concurrency = options.max_concurrency
        self._texts = options.texts
        self._new_call = new_call
        self._timeout = timeout
        self._total_expires_at = Deadline(timeout).total_expires_at
        self._deadlines: list[Deadline] = []
        self._vectors: dict[int, list[float]] = {}
        self._counted: list[Usage | None] = []
        self._model: str | None = None

    def new_call(self, batch: Batch) -> EmbeddingCall:
        """Return the call for a batch."""
        deadline = Deadline(self._timeout, self._total_expires_at)
        self._deadlines.append(deadline)
        return self._new_call([self._texts[position] for position in batch], deadline)

    def add(self, batch: Batch, answer: Embeddings) -> None:
        """Add the answer to a batch; called by several threads."""
        self._vectors.update(zip(batch, answer.vectors, strict=True))
        self._counted.append(answer.usage)
        self._model = self._model or answer.model

    def split(self, batch: Batch, error: APIStatusError) -> list[Batch]:
        """Return the batches to send in place of one that was too large for the server; none if it was not too large.

        Servers do not say which text is too long. The halves with the longest texts come first, so that it is found
        soon. The error of a text that is too long by itself is completed with the position of the text.
        """
        text = server_text(error)
        is_too_long = isinstance(error, ContextOverflowError) or error.status_code == 413
        has_too_many = not error.is_retryable and re.search(_TOO_MANY_TEXTS, text) is not None
        refuses_truncation = "truncate_prompt_tokens" in text  # vLLM, of a number above its limit
        if refuses_truncation or not (is_too_long or has_too_many):
            return []
        if len(batch) == 1:
            if is_too_long:
                length = len(self._texts[batch[0]])
                advice = "shorten it, or have the server cut it with truncate_prompt_tokens=-1"
                error.args = (f"texts[{batch[0]}] is too long, with {length} characters ({advice}): {error}",)
            return []
        by_length = sorted(batch, key=lambda position: len(self._texts[position]), reverse=True)
        middle = len(by_length) // 2
        return [by_length[:middle], by_length[middle:]]

    def abandon(self) -> None:
        """Keep requests in progress from being retried: another one has failed, or was cancelled."""
        self._total_expires_at = 0.0
        for deadline in self._deadlines:
            deadline.total_expires_at = deadline.expires_at = 0.0

    def result(self) -> Embeddings:
        """Return the vectors of all texts.

        Raises:
            MalformedChunkError: The vectors of different requests differ in length.
        """
        vectors = [self._vectors[position] for position in range(len(self._texts))]
        if len({len(vector) for vector in vectors}) > 1:
            raise MalformedChunkError("the vectors of different requests differ in length")
        usage: Usage | None = None
        for counts in self._counted:
            usage = add_usage(usage, counts)
        return Embeddings(vectors, usage, self._model)
