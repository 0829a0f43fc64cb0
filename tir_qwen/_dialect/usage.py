"""Token counts."""

from __future__ import annotations

from typing import Any

from ..types import JSON, Usage


def add_usage(first: Usage | None, second: Usage | None) -> Usage | None:
    """Return the sum of the token counts of two answers."""
    if first is None or second is None:
        return first or second
    total: Any = dict(second)
    for name, value in first.items():
        if isinstance(value, dict):
            total[name] = _add_counts(value, total.get(name))
        elif isinstance(value, int):
            total |= _add_counts({name: value}, total)
    usage: Usage = total
    return usage


def _add_counts(first: JSON, second: Any) -> JSON:
    """Return the counts of `second`, if it is an object, plus those of `first`; fields of other types are kept."""
    total = dict(second) if isinstance(second, dict) else {}
    for name, count in first.items():
        other = total.get(name)
        if isinstance(count, int) and isinstance(other, (int, type(None))):
            total[name] = count + (other or 0)
    return total


def count_reasoning(usage: Usage | None) -> int | None:
    """Return the number of tokens of the reasoning; None if the server does not count them."""
    details = (usage or {}).get("completion_tokens_details")
    count = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return count if isinstance(count, int) else None
