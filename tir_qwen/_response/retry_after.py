"""Parser of the `Retry-After` headers: how long a server asks clients to wait."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite
from time import time

_DURATION = r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_LIMITED = ("requests", "tokens")


def rate_limit_pause(headers: Mapping[str, str]) -> float:
    """Return the seconds until more is allowed, from headers such as OpenAI's; 0 if there is something left.

    `x-ratelimit-remaining-requests: 0` and `x-ratelimit-reset-requests: 1m30s`, and the same for `tokens`.
    """
    pause = 0.0
    for what in _LIMITED:
        if headers.get(f"x-ratelimit-remaining-{what}", "").strip() == "0":
            pause = max(pause, _duration(headers.get(f"x-ratelimit-reset-{what}", "")))
    return pause


def _duration(text: str) -> float:
    """Return the seconds in `1m30s`, `120ms` or `2.5`; 0 for anything else."""
    text = text.strip()
    parts = re.findall(_DURATION, text)
    is_whole = parts and "".join(number + unit for number, unit in parts) == text
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if is_whole else 0.0


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read how long to wait; None if that is absent, malformed or in the past.

    The headers are `retry-after-ms`, `Retry-After` (seconds or an HTTP date), or those of `rate_limit_pause`.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        if isfinite(seconds) and seconds >= 0:
            return seconds or rate_limit_pause(headers)
    try:
        date = parsedate_to_datetime(headers["retry-after"])
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time()
    except (KeyError, ValueError, TypeError, OverflowError):
        return rate_limit_pause(headers) or None
    return seconds if seconds >= 0 else None
