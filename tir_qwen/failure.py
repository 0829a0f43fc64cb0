"""From what went wrong to an error that tells the user what to do, without what the server echoed (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import isfinite
from time import time
from typing import Any

from pydantic_core import from_json

from .errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ContextOverflowError,
    InternalServerError,
    MalformedChunkError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerStreamError,
    StreamInterruptedError,
)
from .secrecy import without_engine, without_secrets
from .timeouts import Clock, OverdueError

_ENGINES = ("httpx2", "httpx", "httpcore2", "httpcore")
MAX_TEXT = 500
"""Characters kept of a server's message."""

_CLASSES: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    422: BadRequestError,
    429: RateLimitError,
}
_HINTS: dict[int, str] = {
    401: (
        "Check the access token (access_token or E2E_TIR_ACCESS_TOKEN): a TIR token belongs to one project and"
        " stops working 365 days after it was made."
    ),
    403: "Check that the access token was made for this project (project_id or E2E_TIR_PROJECT_ID) and is not expired.",
    404: "Check the project id, the model name and the base URL.",
}
# Every wording of vLLM 0.9 to 0.32 for a prompt, or a prompt and max_tokens, that do not fit.
_OVERFLOW = re.compile(
    r"maximum context length|max_model_len|maximum model length|is too large: \d+|at least \d+ input tokens",
)
# vLLM 0.9 to 0.11 parses the calls of `tool_choice: required` as JSON, cut as they may be.
_CUT_CALL = re.compile(r"validation error for list\[.*Invalid JSON: EOF while parsing", re.DOTALL)
# vLLM up to 0.13 answers a validation error with the repr of pydantic's error list, the whole request in it.
_ECHO = re.compile(r"(?: \[type=\w+)?,? *(?:['\"]input['\"]:|input_value=).*", re.DOTALL)
_PYDANTIC = re.compile(
    r"'loc': (?P<loc>\(.{0,1000}?\)|'[^']*'), 'msg': (?P<msg>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
)
_WRAPPER = re.compile(r"'function-wrap\[[^']*'")
_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{0,1000})</title>", re.IGNORECASE)
_MAX_READ = 64 * 1024
"""Characters of a server's words that are read: some patterns take longer than linear time."""


def error_from_response(
    status_code: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str] = ()
) -> APIStatusError:
    """Return the error for a response with a status other than 2xx.

    Args:
        status_code: The HTTP status.
        headers: The response's headers, found by lower-case name.
        body: The body, or its beginning: vLLM's JSON of any version, a gateway's text or page, nothing.
        secrets: Strings that must not show, should the server repeat them.
    """
    parsed = _parse(body)
    detail = without_secrets(_message(parsed), secrets)[:MAX_TEXT]
    if status_code == 400 and _CUT_CALL.search(detail):
        detail = "max_tokens (or the context window) cut the tool call before it was complete"
    if status_code in (400, 413, 422) and _OVERFLOW.search(detail):
        cls: type[APIStatusError] = ContextOverflowError
    else:
        cls = _CLASSES.get(status_code, InternalServerError if status_code >= 500 else APIStatusError)
    request_id = headers.get("x-request-id")
    return cls(
        " ".join(part for part in (_status_line(status_code, detail), _HINTS.get(status_code)) if part),
        status_code=status_code,
        body=_body(parsed, detail, secrets),
        request_id=None if request_id is None else without_secrets(request_id, secrets),
        retry_after=retry_after_seconds(headers),
    )


def error_from_frame(frame: Any, secrets: Iterable[str] = ()) -> ServerStreamError:
    """Return the error for an error frame within a stream (or for an error sent with status 200)."""
    detail = without_secrets(_message(frame), secrets)[:MAX_TEXT]
    message = "the server reported an error in its answer"
    return ServerStreamError(f"{message}: {detail}" if detail else message, body=_body(frame, detail, secrets))


def error_from_engine(
    error: BaseException, clock: Clock, *, answering: bool = False, stale: bool = False
) -> BaseException:
    """Return the error for one of the HTTP engine's, httpx or httpx2; any other as it is, without the engine's frames.

    The engine's error is not to be chained: it holds the request, hence the token.

    Args:
        error: What was raised.
        clock: The call's, which knows what a timeout means.
        answering: Whether the response had begun.
        stale: Whether the request failed at once, over a connection that had been idle.
    """
    kinds = {cls.__name__ for cls in type(error).__mro__ if cls.__module__.partition(".")[0] in _ENGINES}
    kind = type(error).__name__
    if "TimeoutException" in kinds or isinstance(error, OverdueError):
        return clock.overdue(kind)
    if "DecodingError" in kinds:
        return MalformedChunkError("the compression of the answer is corrupt")
    kinds |= {"NetworkError"} if type(error).__module__ == "ssl" else set()  # anyio passes it through
    if not kinds & {"TransportError", "NetworkError"}:
        return without_engine(error)
    if answering:
        return StreamInterruptedError(f"the connection broke before the end of the answer ({kind})")
    if kind == "ConnectError":  # the only one whose text is known to hold nothing of the request
        failure = APIConnectionError(f"no connection to the server: {error}")
        failure.is_retryable = "CERTIFICATE_VERIFY_FAILED" not in str(error)
        return failure
    failure = APIConnectionError(f"the connection broke before the server's response ({kind})")
    failure.is_retryable = kind not in ("LocalProtocolError", "UnsupportedProtocol")
    failure.stale = stale and failure.is_retryable
    return failure


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read `retry-after-ms` and `Retry-After` (seconds or an HTTP date); None if absent, past or nonsense."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        if isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        date = parsedate_to_datetime(headers["retry-after"])
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return seconds if seconds >= 0 else None


def _parse(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        return body.decode("utf-8", "replace").strip()


def _message(parsed: Any) -> str:
    """The server's words: `error.message`, `error`, `message` or `detail` of a JSON body, a page's title, the text."""
    if isinstance(parsed, dict):
        for key in ("error", "message", "detail"):
            if parsed.get(key):
                return _message(parsed[key])
        return ""
    if isinstance(parsed, list):  # FastAPI's own validation errors
        said = [f"{item.get('loc')}: {item.get('msg')}" for item in parsed if isinstance(item, dict)]
        return _without_echo("; ".join(said))
    if not isinstance(parsed, str):
        return ""
    parsed = parsed[:_MAX_READ]
    if "<html" in parsed[:1000].lower():
        title = _TITLE.search(parsed)
        return " ".join(title[1].split()) if title else "an HTML page"
    return _without_echo(parsed)


def _without_echo(text: str) -> str:
    text = " ".join(text.split())  # before the patterns, which are quadratic in runs of spaces
    text = _ECHO.sub("", text)  # the first error says enough, and is all that stands before the echo
    if found := _PYDANTIC.search(text):
        where = ".".join(re.findall(r"\w+", _WRAPPER.sub("", found["loc"]))).removeprefix("body").removeprefix(".")
        text = f"{where}: {found['msg'][1:-1]}" if where else found["msg"][1:-1].removeprefix("Value error, ")
    return text.removesuffix(" None")  # vLLM 0.9 appends the cause, which is None


def _body(parsed: Any, detail: str, secrets: Iterable[str]) -> dict[str, Any] | str | None:
    """What the error keeps of the body: the known plain fields, and the message as cleaned."""
    if not isinstance(parsed, dict):
        return detail or None
    error = parsed["error"] if isinstance(parsed.get("error"), dict) else parsed
    kept = {key: error[key] for key in ("type", "param", "code") if isinstance(error.get(key), (str, int))}
    plain = {
        key: without_secrets(_without_echo(value), secrets)[:MAX_TEXT] if isinstance(value, str) else value
        for key, value in kept.items()
        if str(value) not in secrets
    }
    return {"message": detail, **plain}


def _status_line(status_code: int, detail: str) -> str:
    try:
        phrase = HTTPStatus(status_code).phrase
    except ValueError:
        phrase = ""
    line = f"{status_code} {phrase}".rstrip()
    if not detail or detail in (phrase, line):
        return f"{line}."
    return f"{line}: {detail}"
