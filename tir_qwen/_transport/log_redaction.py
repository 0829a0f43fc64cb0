"""Redaction of the HTTP engine's logs: project ids and keys in URLs, and everything sent by the server.

httpx logs complete URLs at INFO. httpcore logs response headers and errors at DEBUG, which may repeat any part of the
request. Only records of this library's own requests are changed: those logged while the engine works on one of them.
"""

from __future__ import annotations

import logging
import re

from .._redaction import redact_urls, strip_control_characters
from .body.interception import current_read

_REDACTED_LOGGERS = (
    "httpx",
    "httpx2",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore2.http11",
    "httpcore2.http2",
)
_SILENCED_LOGGERS = ("hpack.hpack", "hpack.table")
"""Loggers of HTTP/2 header compression, whose every record quotes a header."""

_SERVER_TEXT = r"(?s)(return_value=\(b'[^']*', \d+, |\.failed exception=\w+).*"
"""The headers of a response, or an error that quotes them."""


def install_log_filters() -> None:
    """Add the filters to the engine's loggers; idempotent."""
    for name in _REDACTED_LOGGERS:
        logging.getLogger(name).addFilter(_redact_record)
    for name in _SILENCED_LOGGERS:
        logging.getLogger(name).addFilter(_drop_record)


def _redact_record(record: logging.LogRecord) -> bool:
    if current_read.get() is None:  # not a request of this library
        return True
    if isinstance(record.msg, str):
        record.msg = _redact_text(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(_redact_argument(argument) for argument in record.args)
    return True


def _drop_record(_: logging.LogRecord) -> bool:
    return current_read.get() is None


def _redact_argument(argument: object) -> object:
    """Return the argument itself unless its text must be redacted, so that `%d` and the like still work."""
    text = str(argument)
    redacted = _redact_text(text)
    return argument if redacted == text else redacted


def _redact_text(text: str) -> str:
    return strip_control_characters(redact_urls(re.sub(_SERVER_TEXT, r"\1...", text)))
