"""The time limits of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import ConfigurationError

__all__ = ["Timeout"]

CONNECT_TIMEOUT = 5.0
DEFAULT_TIMEOUT = 600.0
"""Seconds. The first token of a long prompt on a busy server may take minutes, and so may a whole answer."""
MAX_TIMEOUT = 1_000_000  # seconds; the operating system's own limits are not much higher


@dataclass(frozen=True, slots=True)
class Timeout:
    """Time limits of a call, in seconds; None means no limit. Exceeding one raises an `APITimeoutError`.

    ```python
    from tir_qwen import Client, Timeout

    client = Client(timeout=Timeout(first_delta=120, between_deltas=30, total=900))
    ```

    Attributes:
        connect: Until the connection to the server is established, including TLS.
        first_delta: From the request to the first part of the answer. Without streaming, the answer is a single part,
            which may take longer as long as bytes keep arriving. Also limits the wait for a free connection.
        between_deltas: From one part of a streamed answer to the next. Keep-alive comments do not count as progress,
            and time spent in the caller's code is not counted.
        total: From the call to the last part of its answer, including retries, their delays, and time spent in the
            caller's code.

    Raises:
        ConfigurationError: A limit is not a number above 0 and up to 1,000,000.
    """

    connect: float | None = CONNECT_TIMEOUT
    first_delta: float | None = DEFAULT_TIMEOUT
    between_deltas: float | None = DEFAULT_TIMEOUT
    total: float | None = None

    def __post_init__(self) -> None:
        for name in _FIELD_NAMES:
            seconds = getattr(self, name)
            if seconds is not None and not _is_limit(seconds):
                raise ConfigurationError(f"timeout: {name} must be {_VALID_LIMIT}, or None.")


_FIELD_NAMES = tuple(part.name for part in fields(Timeout))
_VALID_LIMIT = f"a number of seconds, above 0 and up to {MAX_TIMEOUT}"


def timeout_from(value: Any) -> Timeout | None:
    """Convert a `timeout` argument to a `Timeout`; None if it is unset.

    Args:
        value: Seconds without progress (connecting may take up to 5 of them); a `Timeout`; a dict of its fields; or a
            timeout of httpx or httpx2, whose `read` becomes both `first_delta` and `between_deltas`.

    Raises:
        ConfigurationError: It is none of these.
    """
    if value is None or isinstance(value, Timeout):
        return value
    if _is_limit(value):
        return Timeout(min(value, CONNECT_TIMEOUT), value, value)
    if isinstance(value, Mapping):
        if unknown := sorted(str(name) for name in value.keys() - set(_FIELD_NAMES)):
            raise ConfigurationError(f"timeout has no field {unknown[0]!r}: the fields are {', '.join(_FIELD_NAMES)}.")
        return Timeout(**value)
    if hasattr(value, "connect") and hasattr(value, "read"):
        return Timeout(value.connect, value.read, value.read)
    raise ConfigurationError(f"timeout must be {_VALID_LIMIT}, or a tir_qwen.Timeout, or a dict of its fields.")


def _is_limit(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= MAX_TIMEOUT
