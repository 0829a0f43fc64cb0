"""The HTTP engine: httpx2 if it is installed, otherwise httpx. No other file imports either.

Both have the same API. httpx2 is the maintained continuation of httpx; langchain-core and llama-index-core still
depend on httpx. `TIR_QWEN_HTTP_ENGINE=httpx` (or `httpx2`) selects one. Users may pass in clients of either.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.request import getproxies, getproxies_environment

from ..errors import ConfigurationError
from ..timeouts import Timeout, timeout_from
from .certificates import is_loaded, ssl_context
from .connections import KEEPALIVE_SECONDS
from .log_redaction import install_log_filters

_ENGINES = ("httpx2", "httpx")
_ENGINE_DEFAULT_TIMEOUT = 5.0

install_log_filters()


@cache
def _engine() -> Any:
    """Import the engine; called when the first client is created."""
    selected = os.environ.get("TIR_QWEN_HTTP_ENGINE", "")
    if selected and selected not in _ENGINES:
        raise ConfigurationError(f"TIR_QWEN_HTTP_ENGINE must be one of {', '.join(_ENGINES)}.")
    try:
        return import_module(selected or ("httpx2" if _is_installed("httpx2") else "httpx"))
    except ModuleNotFoundError:
        if not selected:
            raise
    raise ConfigurationError(f"TIR_QWEN_HTTP_ENGINE is {selected}, which is not installed.")


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # sys.modules[name] is None
        return False


@cache
def _client_options() -> dict[str, Any]:
    """Return the options shared by all clients."""
    return {
        "limits": _engine().Limits(max_connections=1, keepalive_expiry=KEEPALIVE_SECONDS),
        # No cookies, since each connection would have its own.
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
    }


def is_prepared() -> bool:
    """Whether an asynchronous client can be created and used without reading files, which would block its loop."""
    return _has_opened and is_loaded(_engine().create_ssl_context)


def prepare() -> None:
    """Import the engine with all that it imports later, and load the certificates; to be called in another thread.

    Raises:
        ConfigurationError: See `new_client`.
    """
    global _has_opened  # noqa: PLW0603 - whether modules are imported is a fact about the process
    new_async_client()
    with suppress(ImportError):
        import_module("anyio._backends._asyncio")  # which anyio imports when it opens the first connection
    _has_opened = True


_has_opened = False


def new_client() -> Any:
    """Return a synchronous client with a single connection, not yet open."""
    return _new("Client")


def new_async_client() -> Any:
    """Return an asynchronous client with a single connection, for the running event loop."""
    return _new("AsyncClient")


def _new(class_name: str) -> Any:
    engine = _engine()
    verify = ssl_context(engine.create_ssl_context)
    try:
        client = getattr(engine, class_name)(verify=verify, trust_env=_may_have_proxy(), **_client_options())
    except (ImportError, ValueError, engine.InvalidURL):  # its text may contain a proxy password
        client = None
    if client is None:
        raise ConfigurationError("the HTTP engine refuses HTTP_PROXY, HTTPS_PROXY or ALL_PROXY of the environment.")
    _verify_proxies(client, verify)
    return client


def _verify_proxies(client: Any, context: Any) -> None:
    """Let connections to https:// proxies share the context: the engine would load the certificates for each.

    Proxies of the environment cannot be given a context through the engine's public interface.
    """
    for transport in getattr(client, "_mounts", {}).values():
        pool: Any = getattr(transport, "_pool", None)
        is_encrypted = getattr(getattr(pool, "_proxy_url", None), "scheme", b"") == b"https"
        if is_encrypted and getattr(pool, "_proxy_ssl_context", context) is None:
            pool._proxy_ssl_context = context


def _may_have_proxy() -> bool:
    """Whether to let the engine look for proxies: it reads the environment twice, which is half of creating a client.

    Nothing else depends on `trust_env`, given the certificates.
    """
    by_system = getproxies is not getproxies_environment  # macOS and Windows have settings for it
    return by_system or "_proxy" in " ".join(os.environ).lower()


def client_timeout(http_client: Any) -> Timeout | None:
    """Return the timeout of a client that was passed in, unless it is the engine's default.

    The default of 5 s is too short for a language model, and was not chosen by the user.
    """
    timeout = getattr(http_client, "timeout", None)
    if timeout is None or timeout == type(timeout)(_ENGINE_DEFAULT_TIMEOUT):
        return None
    return timeout_from(timeout)
