"""Faults of endpoints, to pass to a `FakeEndpoint` instead of replies.

```python
from tir_qwen import Client
from tir_qwen.testing import FakeEndpoint, faults

with FakeEndpoint(faults.unavailable(), "It is Paris.") as endpoint:
    with Client(**endpoint.settings) as client:
        print(client.complete([{"role": "user", "content": "What is the capital of France?"}]).content)
print(len(endpoint.requests), "requests")
```

Refusals ask the client to wait for a millisecond, so that retries do not slow tests down. A closed connection cannot do
that: clients wait half a second before they retry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ._replies import Reply
from ._response import Interrupted, Response, json_response
from ._shapes import Vllm09

__all__ = [
    "Interruption",
    "Refusal",
    "context_overflow",
    "cut",
    "hang_up",
    "rate_limited",
    "stall",
    "status",
    "stream_error",
    "unauthorized",
    "unavailable",
]

_BUSY = (
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
)
_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
_DEFAULT = Reply("This answer is not written to its end.")


@dataclass(frozen=True)
class Refusal:
    """An error status instead of an answer.

    Attributes:
        status: The HTTP status.
        message: The error message; None: vLLM's message for a prompt that is too long.
        retry_after: Seconds that the server asks to wait; None: it does not ask.
        body: The JSON of the body, if it is not vLLM's.
    """

    status: int
    message: str | None
    retry_after: float | None = None
    body: Any = None

    def _respond(self, shape: Vllm09) -> Response:
        message = shape.overflow if self.message is None else self.message
        body = shape.error(self.status, message) if self.body is None else self.body
        advice = {} if self.retry_after is None else {"retry-after-ms": f"{1000 * self.retry_after:g}"}
        return json_response(body, self.status, headers=advice)


@dataclass(frozen=True)
class Interruption:
    """An answer that ends too early.

    Attributes:
        reply: The answer.
        after: After how many tokens a stream ends; 0: before it begins. A whole answer ends in its middle instead.
        end: Whether nothing more is sent (`stall`), the connection is closed (`cut`), or the server reports an error.
    """

    reply: Reply
    after: int
    end: Literal["stall", "cut", "error"]

    def _respond(self, shape: Vllm09, body: Mapping[str, Any], number: int) -> Response | Interrupted:
        response = shape.respond(self.reply, body, number)
        if self.end != "error":
            return Interrupted(response, self.after, stalls=self.end == "stall")
        if response.events is None:
            return Refusal(500, _DEAD, 0.001)._respond(shape)
        begin, left = [], self.after
        for event, is_token in response.events:
            left -= is_token
            if left < 0 or event == "data: [DONE]":
                break
            begin.append((event, is_token))
        events = [*begin, (shape.error_event(_DEAD), False), ("data: [DONE]", False)]
        return Response(headers=response.headers, events=events, tokens_per_second=response.tokens_per_second)


def status(code: int, message: str = "Nothing is known about it.", *, retry_after: float | None = 0.001) -> Refusal:
    """Return a refusal with this status.

    Args:
        code: The HTTP status: 4xx or 5xx.
        message: The error message.
        retry_after: Seconds that the server asks to wait; None: it does not ask.
    """
    return Refusal(code, message, retry_after)


def unauthorized() -> Refusal:
    """Return a 401, for a wrong or expired token; calls raise AuthenticationError."""
    return Refusal(401, "", body={"error": "Unauthorized"})


def rate_limited(retry_after: float | None = 0.001) -> Refusal:
    """Return a 429; clients retry, and finally raise RateLimitError."""
    return Refusal(429, "Rate limit exceeded.", retry_after)


def unavailable(retry_after: float | None = 0.001) -> Refusal:
    """Return a 503 in vLLM's words; clients retry, and finally raise InternalServerError."""
    return Refusal(503, _BUSY, retry_after)


def context_overflow() -> Refusal:
    """Return a 400, for a prompt that is too long; calls raise ContextOverflowError."""
    return Refusal(400, None)


def hang_up() -> Interruption:
    """Close the connection without an answer; clients retry, and finally raise APIConnectionError."""
    return Interruption(_DEFAULT, 0, "cut")


def cut(reply: Reply | str = _DEFAULT, *, after: int = 2) -> Interruption:
    """Close the connection within an answer; calls raise StreamInterruptedError with the part that arrived.

    Args:
        reply: The answer.
        after: After how many tokens a stream is cut. A whole answer is cut in its middle.
    """
    return Interruption(_reply(reply), after, "cut")


def stall(reply: Reply | str = _DEFAULT, *, after: int = 0) -> Interruption:
    """Send nothing more until the client hangs up; calls raise APITimeoutError: give them a short `timeout`.

    Args:
        reply: The answer.
        after: After how many tokens a stream stalls; 0: before the answer begins.
    """
    return Interruption(_reply(reply), after, "stall")


def stream_error(reply: Reply | str = _DEFAULT, *, after: int = 2) -> Interruption:
    """Report an error within a stream, as vLLM does when its engine dies; calls raise ServerStreamError.

    Args:
        reply: The answer.
        after: After how many tokens. A whole answer becomes a status 500 instead.
    """
    return Interruption(_reply(reply), after, "error")


def _reply(reply: Reply | str) -> Reply:
    return Reply(reply) if isinstance(reply, str) else reply
