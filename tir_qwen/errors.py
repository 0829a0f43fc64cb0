"""Everything that can go wrong, as one tree.

    TIRError
    ├── ConfigurationError (also ValueError)   nothing was sent
    ├── APIConnectionError                     no response arrived, or it stopped arriving
    │   └── APITimeoutError
    ├── APIStatusError                         the server refused: .status_code .body .request_id .retry_after
    │   ├── BadRequestError                    400, 422
    │   │   └── ContextOverflowError           the prompt, or prompt and max_tokens, exceed the context window
    │   ├── AuthenticationError                401
    │   ├── PermissionDeniedError              403
    │   ├── NotFoundError                      404
    │   ├── RateLimitError                     429
    │   └── InternalServerError                5xx
    └── StreamError                            after a 200; .partial holds what had arrived
        ├── StreamInterruptedError             the answer never ended
        ├── MalformedChunkError                what arrived is not what the protocol promises
        └── ServerStreamError                  the server reported an error in its answer: .body

Errors hold plain values only, no request or response of the HTTP library: they pickle, and they keep no token,
project id or prompt alive in a traceback or a log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .types import Completion


class TIRError(Exception):
    """Base of all errors of this library. None holds the token, the project id or the prompt; each can be pickled.

    ```python
    from tir_qwen import Client, RateLimitError, TIRError

    question = {"role": "user", "content": "What is the capital of France?"}
    try:
        print(Client().complete([question]).content)
    except RateLimitError as error:
        print(f"Busy after {error.attempts} requests; wait for {error.retry_after or 60} s.")
    except TIRError as error:
        print(error, error.partial.content if error.partial else "")
    ```

    Attributes:
        is_retryable: Whether the same call may well succeed if it is made again.
        attempts: How many requests were sent for the call (0: none).
        partial: What had arrived of the answer, once one had begun (perhaps an empty one); else None.
    """

    is_retryable = False
    attempts: int = 0
    partial: Completion | None = None


class ConfigurationError(TIRError, ValueError):
    """A setting or an argument is missing or malformed, and its text names it; nothing was sent. Also a ValueError."""


class APIConnectionError(TIRError):
    """The server could not be reached, or the connection broke before its response.

    It was tried again as often as `max_retries` allows, unless the server's certificate is not valid.

    Attributes:
        stale: Whether it was an idle connection that the server had closed meanwhile: no fault, and no lost attempt.
    """

    is_retryable = True
    stale: bool = False


class APITimeoutError(APIConnectionError):
    """The server took longer than `timeout` to connect, to start its response, or to go on with it.

    The text names the part of `tir_qwen.Timeout` that ran out. Within an answer it is not tried again, and `partial`
    holds what had arrived.
    """


class APIStatusError(TIRError):
    """The server answered with another status than 2xx. This class itself: one that has none of its own, as 413.

    408, 409, 429 and 5xx are tried again, as often as `max_retries` allows.

    Attributes:
        status_code: The HTTP status.
        body: The error as the server described it (a JSON object or a short text), without what it echoed of the
            request; None if it said nothing.
        request_id: The server's `x-request-id`.
        retry_after: Seconds after which the server wants to be asked again, if it says so.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int = 0,
        body: dict[str, Any] | str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.body = body
        self.request_id = request_id
        self.retry_after = retry_after
        if status_code in (408, 409):  # request timeout, conflict: of no class of their own
            self.is_retryable = True


class BadRequestError(APIStatusError):
    """400 or 422: the server does not accept the request as it is; the text says what of it."""


class ContextOverflowError(BadRequestError):
    """The prompt, or the prompt together with `max_tokens`, does not fit into the model's context window.

    Shorten the prompt, or lower `max_tokens`; the text says how many tokens the server allows, where it tells.
    """


class AuthenticationError(APIStatusError):
    """401: the access token is missing, wrong or expired; TIR's stop working 365 days after they were made."""


class PermissionDeniedError(APIStatusError):
    """403: the access token does not open this project or model; TIR's belong to one project."""


class NotFoundError(APIStatusError):
    """404: no such project, model or path; check `project_id`, `model` and `base_url`."""


class RateLimitError(APIStatusError):
    """429: too many requests, after the retries; `retry_after` says how long to wait, if the server does."""

    is_retryable = True


class InternalServerError(APIStatusError):
    """5xx: the server, or the gateway in front of it, failed, after the retries."""

    is_retryable = True


class StreamError(TIRError):
    """The answer began with a 2xx and then went wrong; `partial` holds what had arrived.

    It is not asked for again: a caller that has read half an answer would read another one after it.
    """


class StreamInterruptedError(StreamError):
    """The answer stopped before its end: the connection broke, or the server closed it too early."""

    is_retryable = True


class MalformedChunkError(StreamError):
    """What arrived is not what the protocol promises: invalid JSON, another shape, an HTML page, corrupt gzip."""


class ServerStreamError(StreamError):
    """The server reported an error within its answer.

    Whether it is worth another try cannot be read off its `code`: vLLM 0.9.2 says 400 even when its engine has died.

    Attributes:
        body: The error as the server described it (a JSON object or a short text); None if it said nothing.
    """

    is_retryable = True

    def __init__(self, message: str = "", *, body: dict[str, Any] | str | None = None) -> None:
        super().__init__(message)
        self.body = body
