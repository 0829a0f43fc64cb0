"""Errors of requests that got no response: where they were sent, and what went wrong."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from time import monotonic

from ..errors import APIConnectionError, APITimeoutError
from .deadline import Deadline
from .trace import RequestTrace

_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ETIMEDOUT: "unreachable",
    errno.EMFILE: "open_files",
    errno.ENFILE: "open_files",
}
_OPEN_FILES_ADVICE = (
    ". Every call in progress has a connection: raise the limit of open files (ulimit -n), or make fewer calls at once"
)
FORGOTTEN = "the other side no longer answers"
_RETRYABLE_REFUSALS = ("408", "425", "429")
"""The statuses with which a proxy refuses to connect now, but may do so later."""
_TLS_ADVICE = {
    "CERTIFICATE_REQUIRED": "the server demands a client certificate: pass an http_client that has one",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS at this port: should the URL begin with http:?",
    "HTTP_REQUEST": "the server does not speak TLS at this port: should the URL begin with http:?",
}
"""The meaning of OpenSSL's reasons whose texts do not explain them."""
_FINAL_TLS_REASONS = ("BAD_CERTIFICATE", "HANDSHAKE_FAILURE", "UNKNOWN_CA", "UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION")
"""The reasons, or their ends, for which another attempt would fail too, as for those above."""
_ERROR_NUMBER = r"^\[Errno -?\d+\] | \(_ssl\.c:\d+\)$"
_SOCKS_REPLY = r"Proxy Server could not connect: ([A-Za-z ]{1,40})\."


def connection_error(error: BaseException, trace: RequestTrace) -> APIConnectionError:
    """Return the error for a request that got no response, because the engine raised `error`."""
    kind = type(error).__name__
    if kind == "ConnectError":
        return _connect_error(error, trace)
    if kind == "ProxyError" or type(error).__module__.startswith("socksio"):
        return _proxy_error(error, trace)
    tls_error = next((cause for cause in _os_errors(error) if isinstance(cause, ssl.SSLError)), None)
    detail = _describe(tls_error) if tls_error else FORGOTTEN if is_forgotten(error) else kind
    failure = APIConnectionError(f"the connection to {trace.route} broke before the server's response ({detail})")
    failure.reason = "proxy" if trace.is_at_proxy else "tls" if tls_error else ""
    failure.is_retryable = kind not in ("LocalProtocolError", "UnsupportedProtocol") and not _is_final(tls_error)
    return failure


def is_forgotten(error: BaseException) -> bool:
    """Whether the operating system has given up an open connection; an engine reports that as a timeout of its own."""
    is_open = type(error).__name__ != "ConnectTimeout"
    return is_open and any(one.errno == errno.ETIMEDOUT for one in _os_errors(error))


def timeout_error(kind: str, deadline: Deadline, trace: RequestTrace) -> APITimeoutError:
    """Return the error for a request that got no response in time; `kind` is the class name of the engine's error."""
    if kind == "ConnectTimeout":
        failure = deadline.timeout_error(kind, f"could not connect to {trace.peer}")
        failure.reason = "proxy" if trace.is_at_proxy else "unreachable"
    elif trace.is_at_proxy:
        problem = f"the proxy {trace.proxy} did not connect to {trace.server}"
        is_connect = monotonic() < deadline.expires_at  # only a read that we hook ends before that
        failure = deadline.timeout_error("ConnectTimeout" if is_connect else kind, problem)
        failure.reason = "proxy"
    else:
        failure = deadline.timeout_error(kind)
    return failure


def _connect_error(error: BaseException, trace: RequestTrace) -> APIConnectionError:
    """Return the error for a `ConnectError`, the only one whose text never contains parts of the request."""
    causes = list(_os_errors(error))
    texts = map(_describe, causes) if causes else [re.sub(_ERROR_NUMBER, "", str(error))]
    text = ", ".join(dict.fromkeys(texts)) or "the connection was closed"
    reason = next((reason for cause in causes if (reason := _reason(cause))), "")
    if reason == "open_files":
        text += _OPEN_FILES_ADVICE
    elif trace.is_at_proxy:
        reason = "proxy"
    failure = APIConnectionError(f"could not connect to {trace.peer}: {text}")
    failure.reason = reason
    failure.is_retryable = "CERTIFICATE_VERIFY_FAILED" not in text and not any(map(_is_final, causes))
    return failure


def _proxy_error(error: BaseException, trace: RequestTrace) -> APIConnectionError:
    """Return the error for a proxy that refuses to connect to the server; only its status is quoted."""
    status, socks_reply = str(error)[:3], re.match(_SOCKS_REPLY, str(error))
    if status.isdecimal() and int(status) in set(HTTPStatus):
        text = f": {status} {HTTPStatus(int(status)).phrase}"
    else:
        text = f": {socks_reply[1]}" if socks_reply else ""
    proxy = f"the proxy {trace.proxy}".rstrip()  # unknown if a transport of the user's raised the error
    failure = APIConnectionError(f"{proxy} did not connect to {trace.server}{text}")
    failure.reason = "proxy"
    failure.is_retryable = not status.startswith("4") or status in _RETRYABLE_REFUSALS
    return failure


def _os_errors(error: BaseException | None) -> Iterator[OSError]:
    """Yield the errors of the operating system that caused an error of the engine.

    With asynchronous calls they are hidden: anyio tries all addresses of a host, and raises an error without a number,
    whose cause is the only error, or a group of them.
    """
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            for one in error.exceptions:
                yield from _os_errors(one)
            return
        if isinstance(error, OSError) and error.errno is not None:
            yield error
            return
        error = error.__cause__ or error.__context__  # the engine suppresses some causes


def _describe(error: OSError) -> str:
    """Return an error's text without its number, and without the address that asyncio adds."""
    if isinstance(error, (socket.gaierror, ssl.SSLError)):
        reason = getattr(error, "reason", None) or ""
        advice = next((advice for end, advice in _TLS_ADVICE.items() if reason.endswith(end)), None)
        return advice or re.sub(_ERROR_NUMBER, "", str(error))
    return os.strerror(error.errno or 0)


def _is_final(error: OSError | None) -> bool:
    """Whether another attempt would fail in the same way."""
    reason = (isinstance(error, ssl.SSLError) and error.reason) or ""
    return reason.endswith((*_TLS_ADVICE, *_FINAL_TLS_REASONS))


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "name"
    if isinstance(error, ssl.SSLError):
        return "certificate" if isinstance(error, ssl.SSLCertVerificationError) else "tls"
    return _REASONS.get(error.errno or 0, "")
