"""Keeps requests to the server away from proxies: clients would send them to the environment's proxy."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("no_proxy", "NO_PROXY")  # in the order in which clients look
_HOST = "127.0.0.1"
_lock = threading.Lock()
_uses = 0
_before: dict[str, str | None] = {}


def no_proxy_variables() -> dict[str, str]:
    """Return the environment's list of hosts without proxy, and the server's host, by the names of the variables."""
    listed = next(filter(None, map(os.environ.get, _NAMES)), "")
    hosts = [host for host in listed.split(",") if host]
    return dict.fromkeys(_NAMES, ",".join([*hosts, *({_HOST} - set(hosts))]))


@contextmanager
def without_proxy() -> Iterator[None]:
    """Set these variables, until the last of several contexts ends."""
    global _uses  # noqa: PLW0603 - the environment is the process's
    with _lock:
        _uses += 1
        if _uses == 1:
            _before.update((name, os.environ.get(name)) for name in _NAMES)
            os.environ.update(no_proxy_variables())
    try:
        yield
    finally:
        with _lock:
            _uses -= 1
            if _uses == 0:
                for name, value in _before.items():
                    os.environ.pop(name, None)
                    if value is not None:
                        os.environ[name] = value
