"""Token counts and log-probabilities as servers report them, without invalid values.

An answer is worth more than its statistics: invalid ones are dropped, and no error is raised.
"""

from __future__ import annotations

from typing import Any

from ..types import JSON, Usage

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
_MAX_COUNT = 2**63 - 1


def read_usage(usage: Any) -> Usage | None:
    """Return the valid token counts, with further fields of the server as they are; None if there are none.

    Details are objects of counts; both may be None.
    """
    if not isinstance(usage, dict):
        return None
    read: Any = {}
    for name, value in usage.items():
        if name in _DETAILS:
            if value is None:
                read[name] = None
            elif isinstance(value, dict):
                read[name] = {key: _count(one) for key, one in value.items() if one is None or _count(one) is not None}
        elif name not in _COUNTS:
            read[name] = value
        elif (count := _count(value)) is not None:
            read[name] = count
    return read or None


def read_logprobs(logprobs: Any) -> JSON | None:
    """Return the lists of tokens whose text and log-probability are known, and of their alternatives; None if none."""
    if not isinstance(logprobs, dict):
        return None
    read: JSON = {}
    for name, tokens in logprobs.items():
        if name == "content" and isinstance(tokens, list):
            read[name] = _tokens(tokens)
        elif tokens is None or isinstance(tokens, list):
            read[name] = tokens
    return read or None


def _count(value: Any) -> int | None:
    """Return a count; servers whose only numbers are floats write 3.0."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def _tokens(tokens: list[Any]) -> list[JSON]:
    return [_token(one) for one in tokens if _is_token(one)]


def _is_token(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("token"), str) and type(one.get("logprob")) in (float, int)


def _token(token: JSON) -> JSON:
    """Return the token itself if all of it is valid."""
    others, octets = token.get("top_logprobs"), token.get("bytes")
    has_odd_others = others is not None and not (isinstance(others, list) and all(map(_is_plain, others)))
    if _is_plain(token) and not has_odd_others:
        return token
    read = {name: value for name, value in token.items() if name != "index"}
    if has_odd_others:
        read["top_logprobs"] = _tokens(others) if isinstance(others, list) else []
    if not _are_bytes(octets):
        read["bytes"] = None
    return read


def _is_plain(one: Any) -> bool:
    # LangChain merges objects in lists by their `index`, which would add up the tokens of a stream.
    return _is_token(one) and _are_bytes(one.get("bytes")) and "index" not in one


def _are_bytes(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(type(one) is int and 0 <= one < 256 for one in value))
