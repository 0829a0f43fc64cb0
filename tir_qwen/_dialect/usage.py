"""Token counts of calls that take several requests."""

from __future__ import annotations

from typing import Any

from ..types import Usage


def add_usage(first: Usage | None, second: Usage | None) -> Usage | None:
    """Return the sum of the token counts of two answers."""
    if first is None or second is None:
        return first or second
    total: Any = dict(second)
    for name, value in first.items():
        if isinstance(value, int):
            total[name] = value + (total.get(name) or 0)
        elif isinstance(value, dict):
            details = total.get(name) or {}
            added = {key: count + (details.get(key) or 0) for key, count in value.items() if count}
            total[name] = {**details, **added}
    usage: Usage = total
    return usage
