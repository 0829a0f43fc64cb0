"""Parser of the `Retry-After` headers: how long a server asks clients to wait."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite
from time import time


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read `retry-after-ms` or `Retry-After` (seconds or an HTTP date); None if absent, malformed or in the past."""
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
