"""Conversion of the server's error responses to exceptions that say what to do and do not quote the request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from pydantic_core import from_json

from .._redaction import redact, redact_urls
from ..errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ContextOverflowError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerStreamError,
)
from .echo import hide_echo
from .retry_after import retry_after_seconds

MAX_TEXT = 500
"""Maximum number of characters kept of a server's message."""
_MAX_SCANNED_TEXT = 64 * 1024
"""Maximum number of its characters that are searched: some patterns take more than linear time."""

_ERROR_CLASSES: dict[int, type[APIStatusError]] = {
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
        " expires 365 days after it was created."
    ),
    403: "Check that the access token was created for this project (project_id or E2E_TIR_PROJECT_ID) and is valid.",
    404: "Check the project id, the model name{model} and the base URL{address}",
}
# Wordings, in any case, for a prompt, or prompt and max_tokens, that exceed the context window.
_OVERFLOW = (
    # vLLM 0.9 to 0.32, OpenAI, DeepSeek, OpenRouter
    r"maximum context length|maximum model length|greater than max_model_len|tokens'? is too large: \d+"
    r"|at least \d+ input tokens"
    # SGLang, llama.cpp, Ollama, LM Studio, and the newer models of OpenAI
    r"|longer than the (?:model's )?context length|input length .{0,40}exceeds the maximum allowed length"
    r"|(?:exceeds?|larger than) (?:the )?(?:available |max )?context (?:size|length|window)"
    r"|context size has been exceeded|context length of only|input \(\d+ tokens\) is too large"
    # TGI, TensorRT-LLM, SiliconFlow
    r"|`inputs` (?:tokens \+|must have less than)|(?:not exceed|be less than) max_seq_len|prompt length \(\d+\) exceeds"
    # DashScope, Azure, Gemini, Anthropic
    r"|range of input length|input tokens exceed|input token count .{0,20}exceeds|prompt is too long"
    # Groq and Cerebras, Moonshot, xAI, MiniMax, and newer versions of LM Studio and Ollama
    r"|reduce the length of the messages|exceeded model token limit|maximum prompt length|context window exceeds"
    r"|greater than the context length|exceeded (?:max )?context length"
    # OpenAI's code, which services take over with words of their own
    r"|context_length_exceeded"
)
_SHORT_OVERFLOW = "max_model_len"
"""The word by which other messages of vLLM with status 400 say so; its errors with status 500 mention it, too."""
_OVERFLOW_STATUSES = frozenset((400, 413, 422, 500))
# vLLM 0.9 to 0.11 parses calls with `tool_choice: required` as JSON, even truncated ones, and fails.
_TRUNCATED_CALL = r"(?s)validation error for list\[.*Invalid JSON: EOF while parsing"
# Grammars do not support all of JSON schema: guidance, xgrammar and outlines in vLLM 0.9 to 0.32, others elsewhere.
_GRAMMAR_LIMIT = (
    r"(?i)\bgrammar error:|unimplemented keys|not supported by (?:xgrammar|outlines|guidance)|regex parse error"
    r"|look-?(?:around|ahead|behind)|regex uses unsupported|grammar compilation error|invalid (?:json )?grammar spec"
    r"|(?:failed to|unable to|cannot|could not) (?:transform|convert|compile|generate) (?:the |a )?(?:json )?schema"
    r"|json schema (?:conversion failed|contains)|unsupported (?:json schema|keyword in schema)|invalid schema for"
    r"|keyword '\w+' is not (?:permitted|supported)|error serializing structured outputs|schema conversion failed"
    r"|failed to (?:compile|parse) (?:json )?grammar|grammar is (?:not valid|too large)|grammar preprocessing"
    r"|grammar and tools are mutually exclusive|automatic parser generation failed"
)
_FUNCTION_SCHEMA = r"(?i)invalid schema for function"
_UNSUPPORTED = r"model does not support"
_USED_UP = r"(?i)insufficient[_ ]quota|exceeded your current quota|billing"
"""What says of a 429 that waiting does not help."""
_TRANSIENT = r"out of memory|shutting down|restart"
_SCHEMA_MISTAKE = (
    r"(?i)(?:invalid|unknown|unsupported|unrecognized) type:? ['\"]?\w+['\"]?\W*$|pointer '[^']*' does not exist"
    r"|cannot resolve \$ref"
)
"""Errors in a schema itself, which another form of it would not fix."""
# vLLM up to 0.13 reports validation errors as the repr of pydantic's error list, which contains the request.
_ECHO = r"(?s)(?: \[type=\w+)?,? *(?:['\"]input['\"]:|input_value=).*"
_PYDANTIC_ERROR = r"'loc': (?P<loc>\(.{0,1000}?\)|'[^']*'), 'msg': (?P<msg>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
_PYDANTIC_WRAPPER = r"'function-wrap\[[^']*'"
_MESSAGE_FIELDS = ("error", "message", "detail")
_TITLE = r"(?i)<(title|h1)[^<>]{0,200}>([^<]{0,1000})</\1>"  # haproxy's pages have no title


def error_from_response(
    status_code: int,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Iterable[str] = (),
    request: bytes = b"",
    *,
    url: str = "",
    has_credentials: bool = True,
) -> APIStatusError:
    """Return the error for a response whose status is not 2xx.

    Args:
        status_code: The HTTP status.
        headers: The response's headers, with lower-case names.
        body: The body or its beginning: JSON from any version of vLLM, text or HTML from a gateway, or nothing.
        secrets: Strings to replace with `***`, in case the server repeats them.
        request: The content of the request, whose parts are hidden in the message (but not in the error's `body`).
        url: Its address, which a 404 shows without the query, and with the project id masked.
        has_credentials: Whether the request contained a token, or anything else that may be one.
    """
    parsed = _parse(body)
    text = redact(_find_message(parsed), secrets)
    if status_code == 400 and re.search(_TRUNCATED_CALL, text[:MAX_TEXT]):
        text = "max_tokens (or the context window) truncated the tool call"
    detail = text[:MAX_TEXT]
    plain_body = _plain_body(parsed, detail, secrets)
    code = plain_body.get("code", "") if isinstance(plain_body, dict) else ""
    overflow = _OVERFLOW if status_code == 500 else f"{_OVERFLOW}|{_SHORT_OVERFLOW}"
    if status_code in _OVERFLOW_STATUSES and re.search(f"(?i){overflow}", f"{detail} {code}"):
        error_class: type[APIStatusError] = ContextOverflowError
    else:
        fallback = InternalServerError if status_code >= 500 else APIStatusError
        error_class = _ERROR_CLASSES.get(status_code, fallback)
    request_id = headers.get("x-request-id")
    message = _status_line(status_code, hide_echo(text, request, MAX_TEXT))
    if hint := _hint(status_code, secrets, request, url, has_credentials):
        message = f"{message}{'' if message.endswith(('.', '!', '?')) else '.'} {hint}"
    error = error_class(
        message,
        status_code=status_code,
        body=plain_body,
        request_id=None if request_id is None else redact(request_id, secrets),
        retry_after=retry_after_seconds(headers),
    )
    if isinstance(error, RateLimitError) and re.search(_USED_UP, f"{detail} {error.body}"):
        error.is_retryable = False
    return error


def error_from_frame(
    frame: Any, secrets: Iterable[str] = (), request: bytes = b"", *, begun: bool = True
) -> ServerStreamError | ContextOverflowError:
    """Return the error for an error frame within a stream, or for an error sent with status 200.

    Args:
        frame: The parsed JSON of the frame, or its text.
        secrets: As for `error_from_response`.
        request: As for `error_from_response`.
        begun: Whether a part of the answer has arrived: if not, an overflow is one of the prompt.
    """
    text = redact(_find_message(frame), secrets)
    shown = hide_echo(text, request, MAX_TEXT)
    message = "the server reported an error in its answer"
    body = _plain_body(frame, text[:MAX_TEXT], secrets)
    message = f"{message}: {shown}" if shown else message
    is_overflow = re.search(rf"(?i){_OVERFLOW}", text[:MAX_TEXT]) is not None
    if is_overflow and not begun:  # TGI and LM Studio check the prompt after they have sent the status
        return ContextOverflowError(message, status_code=200, body=body)
    error = ServerStreamError(message, body=body)
    error.is_retryable = not (is_overflow or re.search(f"{_GRAMMAR_LIMIT}|{_UNSUPPORTED}", text[:MAX_TEXT]))
    return error


def server_text(error: APIStatusError | ServerStreamError) -> str:
    """Return the server's text with what it repeats of the request, to draw conclusions from."""
    return str(error.body.get("message", "")) if isinstance(error.body, dict) else error.body or ""


def is_about_grammar(text: str) -> bool:
    """Whether a server's text says that its grammar does not support a schema, which itself is valid."""
    is_of_schema = re.search(f"{_SCHEMA_MISTAKE}|{_TRANSIENT}", text) is None
    return is_of_schema and re.search(_GRAMMAR_LIMIT, text) is not None


def is_about_function(text: str) -> bool:
    """Whether a server's text is about the schema of a tool."""
    return re.search(_FUNCTION_SCHEMA, text) is not None


def _parse(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        return body.decode("utf-8", "replace").strip()


def _find_message(parsed: Any) -> str:
    """Return the `error.message`, `error`, `message` or `detail` of a JSON body, the title of a page, or the text."""
    if isinstance(parsed, dict):
        metadata = parsed.get("metadata")
        raw = metadata.get("raw") if isinstance(metadata, dict) else None  # OpenRouter: what its provider answered
        return _find_message(next((found for found in (raw, *map(parsed.get, _MESSAGE_FIELDS)) if found), ""))
    if isinstance(parsed, list):
        items = [item for item in parsed if isinstance(item, dict)]
        if items and "error" in items[0]:  # Gemini
            return _find_message(items[0])
        return _without_echo("; ".join(f"{item.get('loc')}: {item.get('msg')}" for item in items))  # FastAPI
    return _message_of_text(parsed) if isinstance(parsed, str) else ""


def _message_of_text(text: str) -> str:
    text = text[:_MAX_SCANNED_TEXT]
    if text.startswith(('{"', "{\n")):  # a gateway's copy of the server's body
        try:
            return _find_message(from_json(text))
        except ValueError:
            pass
    if "<html" in text[:1000].lower():
        title = re.search(_TITLE, text)
        return " ".join(title[2].split()) if title else "an HTML page"
    return _without_echo(text)


def _without_echo(text: str) -> str:
    """Remove parts of the request that the server repeats, and the structure around pydantic's messages."""
    text = " ".join(text.split())  # first, since the patterns take quadratic time on runs of spaces
    text = re.sub(_ECHO, "", text)  # keeps the first error, which says enough
    if found := re.search(_PYDANTIC_ERROR, text):
        loc = re.sub(_PYDANTIC_WRAPPER, "", found["loc"])
        field = ".".join(re.findall(r"\w+", loc)).removeprefix("body").removeprefix(".")
        message = found["msg"][1:-1]
        text = f"{field}: {message}" if field else message.removeprefix("Value error, ")
    return text.removesuffix(" None")  # vLLM 0.9 appends the cause, which is None


def _plain_body(parsed: Any, detail: str, secrets: Iterable[str]) -> dict[str, Any] | str | None:
    """Return the part of the body to keep in the error: the redacted message and known plain fields."""
    if not isinstance(parsed, dict):
        return detail or None
    error = parsed["error"] if isinstance(parsed.get("error"), dict) else parsed
    kept = {key: error[key] for key in ("type", "param", "code") if isinstance(error.get(key), (str, int))}
    plain = {
        key: redact(_without_echo(value), secrets)[:MAX_TEXT] if isinstance(value, str) else value
        for key, value in kept.items()
        if str(value) not in secrets
    }
    return {"message": detail, **plain}


def _hint(status_code: int, secrets: Iterable[str], request: bytes, url: str, has_credentials: bool) -> str:
    """Return what to check; for a 404, with the model and the address that were asked."""
    if status_code == 401 and not has_credentials:
        return "No token was sent: pass access_token or set E2E_TIR_ACCESS_TOKEN."
    hint = _HINTS.get(status_code, "")
    if status_code != 404:
        return hint
    model = from_json(request).get("model") if request else ""
    address = redact_urls(url.partition("?")[0])
    shown = hint.format(model=f" ({model})" if model else "", address=f": {address}" if address else ".")
    if address and "/v1/" not in address:
        shown += " (is /v1 missing?)"
    return redact(shown, secrets)


def _letters(text: str) -> str:
    """Return what is compared of a status: haproxy writes "Gateway Time-out"."""
    return "".join(filter(str.isalnum, text)).lower()


def _status_line(status_code: int, detail: str) -> str:
    try:
        phrase = HTTPStatus(status_code).phrase
    except ValueError:
        phrase = ""
    line = f"{status_code} {phrase}".rstrip()
    if not detail or _letters(detail) in (_letters(phrase), _letters(line)):
        return f"{line}."
    return f"{line}: {detail}"
