"""Incomplete JSON, parsed while it streams in."""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import from_json

from .._dialect.json_answer import find_json

_NUMBER_AT_END = r"(?<=[:,\[])\s*-?[0-9.eE+-]+$"
"""A number at the end of the text, which may be incomplete."""
_ALWAYS_PARSED_UP_TO = 2048
"""Text up to this length is parsed every time it grows."""


class PartialJSON:
    """An object or an array that streams in: call `read` whenever more of its text has arrived.

    A long text is not parsed for every token, which would take quadratic time; the value then lags by 1 or 2 percent.
    """

    __slots__ = ("_is_object", "_next_length", "_parsed_length", "_value")

    def __init__(self, *, is_object: bool = True) -> None:
        """Start with nothing; `is_object`: whether only an object is expected."""
        self._is_object = is_object
        self._parsed_length = 0
        self._next_length = 1  # the length at which to parse again
        self._value: Any = None

    def read(self, text: str) -> Any:
        """Return the value parsed so far, or None; the identical one if nothing new was parsed.

        A number at the end is left out, since more digits may follow.
        """
        if len(text) < self._parsed_length or len(text) >= self._next_length:
            self._value = _parse_partial(text[find_json(text, is_object=self._is_object) :])
            self._parsed_length = len(text)
            self._next_length = len(text) + max(1, (len(text) - _ALWAYS_PARSED_UP_TO) // 64)
        return self._value


def _parse_partial(text: str) -> Any:
    is_outside_strings = re.sub(r"\\.", "", text).count('"') % 2 == 0
    if is_outside_strings:
        text = re.sub(_NUMBER_AT_END, "", text)
    try:
        return from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return None
