"""The exceptions of this library.

    TIRError
    ├── ConfigurationError (also ValueError)   nothing was sent
    ├── APIConnectionError                     no response arrived, or it timed out
    │   └── APITimeoutError
    ├── APIStatusError                         a status other than 2xx: .status_code .body .request_id .retry_after
    │   ├── BadRequestError                    400, 422
    │   │   └── ContextOverflowError           the prompt, or prompt and max_tokens, exceed the context window
    │   ├── AuthenticationError                401
    │   ├── PermissionDeniedError              403
    │   ├── NotFoundError                      404
    │   ├── RateLimitError                     429
    │   └── InternalServerError                5xx
    └── StreamError                            the answer failed after it began: .partial
        ├── StreamInterruptedError             the stream ended before the answer did
        ├── MalformedChunkError                the answer violates the protocol
        └── ServerStreamError                  the server reported an error in its answer: .body

Exceptions contain only plain values, never a request or response of the HTTP library. So they can be pickled, and do
not leak the token or the project id into tracebacks and logs. Their messages do not contain prompts either: if a
server's error repeats a part of the request, it is replaced with "…". Only `.body` keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .types import Completion


class TIRError(Exception):
    """Base class of all exceptions of this library.

    They can be pickled and contain neither token nor project id. Their messages do not repeat the prompt.

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
        is_retryable: Whether the same call may succeed when repeated.
        attempts: Number of requests that were sent.
        partial: The part of the answer that had arrived; None if no answer had begun.
    """

    is_retryable = False
    attempts: int = 0
    partial: Completion | None = None


class ConfigurationError(TIRError, ValueError):
    """A setting or argument, named in the message, is missing or malformed. Nothing was sent. Also a ValueError."""


class APIConnectionError(TIRError):
    """The server could not be reached, or the connection broke before it responded.

    The message names the host and the port that could not be reached, and whether that was a proxy. The request was
    retried up to `max_retries` times, unless the server's certificate is invalid.

    Attributes:
        reason: Why there was no connection: `proxy` (it could not be reached, or did not connect to the server), `name`
            (the host name does not resolve), `refused` (nothing listens on the port), `unreachable` (no route, or no
            answer within `Timeout.connect`), `certificate` (not trusted), `tls` (the handshake failed otherwise) or
            `open_files` (this process has too many). Empty if it is none of these.
        stale: Whether the request was sent over an idle connection that the server had closed. Such a request is
            repeated once without counting as an attempt.
    """

    is_retryable = True
    reason: str = ""
    stale: bool = False


class APITimeoutError(APIConnectionError):
    """A time limit was exceeded while connecting, or while waiting for the answer or its next part.

    The message names the field of `tir_qwen.Timeout`. If the answer had begun, the request was not retried, and
    `partial` contains what had arrived.
    """


class APIStatusError(TIRError):
    """The response has a status other than 2xx. Statuses without a subclass, such as 413, raise this class.

    Statuses 408, 409, 429 and 5xx were retried up to `max_retries` times.

    Attributes:
        status_code: The HTTP status.
        body: The server's description of the error; None if there was none. From a JSON object, it contains the
            `message` (up to 500 characters) and the fields `type`, `param` and `code`; from anything else, up to 500
            characters of text. Credentials are replaced with `***`, and the input that vLLM's validation errors quote
            is cut off. Unlike the message, it may still repeat the prompt: do not log it if prompts are private.
        request_id: The server's `x-request-id`.
        retry_after: Seconds to wait before the next request, if the server specifies them.
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
        if status_code in (408, 409):  # request timeout, conflict
            self.is_retryable = True


class BadRequestError(APIStatusError):
    """400 or 422: the server does not accept the request; the message says why."""


class ContextOverflowError(BadRequestError):
    """The prompt, or the prompt together with `max_tokens`, exceeds the model's context window.

    Shorten the prompt or lower `max_tokens`. The message quotes the server, which usually states the limit. The
    `status_code` is usually 400. Some servers use 413, 422 or 500, or 200 if they check the prompt only after they have
    begun a stream, as TGI and LM Studio do.
    """


class AuthenticationError(APIStatusError):
    """401: the access token is missing, wrong or expired. TIR's tokens expire after 365 days."""


class PermissionDeniedError(APIStatusError):
    """403: the access token is not valid for this project or model. A TIR token belongs to one project."""


class NotFoundError(APIStatusError):
    """404: the project, model or path does not exist; check `project_id`, `model` and `base_url`."""


class RateLimitError(APIStatusError):
    """429: too many requests, even after retries; `retry_after` is the delay that the server asks for, if any."""

    is_retryable = True


class InternalServerError(APIStatusError):
    """5xx: the server, or the gateway in front of it, failed, even after retries."""

    is_retryable = True


class StreamError(TIRError):
    """The answer failed after it had begun with a 2xx status; `partial` contains what had arrived.

    It is not retried, because a new answer would not continue the part that the caller has already read.
    """


class StreamInterruptedError(StreamError):
    """The stream ended before the answer did: the connection broke, or the server closed it too early."""

    is_retryable = True


class MalformedChunkError(StreamError):
    """The answer violates the protocol: invalid JSON, fields of a wrong type, an HTML page, corrupt gzip."""


class ServerStreamError(StreamError):
    """The server reported an error within its answer.

    The `code` in `body` does not show whether a retry helps: vLLM 0.9.2 reports 400 even if its engine has died.

    Attributes:
        body: The server's description of the error, which may repeat parts of the prompt; see `APIStatusError`.
    """

    is_retryable = True

    def __init__(self, message: str = "", *, body: dict[str, Any] | str | None = None) -> None:
        super().__init__(message)
        self.body = body
