"""The protocol of calls that may take several requests; `plan.plan` decides which do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from .._request.body import Body
from ..errors import TIRError
from ..types import Completion, Delta


class Flow(Protocol):
    """The requests of one call, and how their deltas form a single answer.

    Send `first_request`, and pass each delta of its answer through `feed`. As long as `next_request` returns a request,
    send it and do the same, or call `request_failed`. Finally, pass on what `remaining` yields.
    """

    @property
    def first_request(self) -> Body:
        """The body of the first request."""

    @property
    def asks_whole(self) -> bool:
        """Whether the next request is for a whole answer, even if the call is a stream."""

    def feed(self, delta: Delta) -> Delta | None:
        """Return the part of a delta to pass on now."""

    def next_request(self, completion: Completion) -> Body | None:
        """Return the body of the request that must follow this answer; None if the call is complete."""

    def request_failed(self, error: TIRError) -> None:
        """Fall back to the answer before this request.

        Raises:
            TIRError: `error`, if there is nothing to fall back to, or its answer had begun.
        """

    def remaining(self) -> Iterator[Delta]:
        """Yield what was held back, unless a later answer took its place."""
