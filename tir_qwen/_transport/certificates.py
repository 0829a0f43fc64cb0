"""The TLS contexts of new connections, which contain the certificates to trust."""

from __future__ import annotations

import os
import platform
import ssl
from collections.abc import Callable
from typing import Any

from ..errors import ConfigurationError

_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_contexts: dict[tuple[Any, ...], ssl.SSLContext | None] = {}
"""The context that all connections share, by the values of these variables; None if each has one of its own."""


def ssl_context(create: Callable[[], Any]) -> Any:
    """Return the context for a new connection, with the certificates that the environment names at this time.

    Loading certificates takes tens of milliseconds, so it is done once. That does not apply where the operating system
    itself verifies certificates, as on macOS and Windows: the engine's context for that lets no two handshakes run at
    the same time, so that a server that does not answer would block the connections to others.

    Args:
        create: Creates the context that the engine uses by default.

    Raises:
        ConfigurationError: SSL_CERT_FILE or SSL_CERT_DIR does not name certificates.
    """
    key = _key(create)
    if key not in _contexts:
        _contexts[key] = _shared_context(create)
    return _contexts[key] or create()


def is_loaded(create: Callable[[], Any]) -> bool:
    """Whether `ssl_context` need not read files."""
    return _key(create) in _contexts


def _key(create: Callable[[], Any]) -> tuple[Any, ...]:
    return create, *map(os.environ.get, _VARIABLES)


def _shared_context(create: Callable[[], Any]) -> ssl.SSLContext | None:
    name = next((name for name in _VARIABLES if os.environ.get(name)), "the HTTP engine")
    problem = ""
    try:
        context = create()
    except OSError as error:  # ssl.SSLError among them
        problem = os.strerror(error.errno) if error.errno and not isinstance(error, ssl.SSLError) else "not PEM format"
    if name == "SSL_CERT_DIR" and not any(map(os.path.isdir, os.environ[name].split(os.pathsep))):
        problem = "not a directory"  # OpenSSL does not mind
    if problem:
        raise ConfigurationError(f"{name} does not name readable certificates ({problem}).")
    if not _is_plain(context) and platform.system() == "Linux":
        context = ssl.create_default_context()  # httpx2 before 2.15.1: its context crashes or starves threads there
    return context if _is_plain(context) else None


def _is_plain(context: Any) -> bool:
    """Whether it is Python's own, even if truststore has put its class in the place of `ssl.SSLContext`."""
    return type(context).__module__ == "ssl"
