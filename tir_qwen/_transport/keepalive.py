"""TCP keep-alive: probes that show whether a connection still exists while an answer takes its time."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

_OPTIONS = (
    ("SOL_SOCKET", "SO_KEEPALIVE", 1),
    ("IPPROTO_TCP", "TCP_KEEPIDLE", 60),
    ("IPPROTO_TCP", "TCP_KEEPALIVE", 60),  # the name on macOS
    ("IPPROTO_TCP", "TCP_KEEPINTVL", 5),
    ("IPPROTO_TCP", "TCP_KEEPCNT", 4),
    ("IPPROTO_TCP", "TCP_USER_TIMEOUT", 80_000),
)
"""The first probe after a minute of silence, then one every five seconds, until four have gone unanswered.

The last option (in milliseconds, on Linux) is for requests over an idle connection that has been forgotten: while a
request is unacknowledged, there are no probes.
"""


def keep_alive(stream: Any) -> None:
    """Turn on keep-alive for the socket of a new network stream, as far as the operating system has the options.

    A router that has forgotten an idle connection drops what is sent over it, so that neither side would notice. The
    probes also remind it of the connection.
    """
    sock: Any = stream.get_extra_info("socket") if hasattr(stream, "get_extra_info") else None
    if not hasattr(sock, "setsockopt"):
        return
    for level, option, value in _OPTIONS:
        if hasattr(socket, option):
            with suppress(OSError):
                sock.setsockopt(getattr(socket, level), getattr(socket, option), value)
