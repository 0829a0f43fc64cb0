"""Removal of what a server's error message repeats of the request, so that no prompt appears in errors and logs.

Servers quote prompts in many ways: escaped as in JSON, Python or HTML, with other white space, truncated. So both texts
are compared without escapes, white space and quotation marks.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic_core import from_json

from .._redaction import strip_control_characters

MIN_CHARACTERS = 20
"""Repeated text of this length is hidden, and of fewer characters if it has `MIN_WORDS`."""
MIN_WORDS = 4
MIN_MESSAGE = 8
"""A whole message of this length is hidden, and a shorter one between quotation marks."""
_MIN_COMPARED = 8
"""Minimum length of repeated text without white space."""
_ELLIPSIS = "…"
_QUOTES = "\"'`´‘’‚“”„«»‹›"  # noqa: RUF001
# Chinese and Japanese characters count as words. All of them are matched in linear time.
_WORD = r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+"
_HEX = "[0-9a-fA-F]"
_ESCAPE = (
    rf"\\+(?:u[dD][89abAB]{_HEX}{{2}}\\+u[dD][c-fC-F]{_HEX}{{2}}|u{_HEX}{{4}}|U00(?:0{_HEX}|10){_HEX}{{4}}|x{_HEX}{{2}}"
    rf"|[abfnrtv])?|&(?:#[0-9]{{1,6}}|#x{_HEX}{{1,5}}|[a-zA-Z]{{2,8}});"
)
_NOT_PROMPTS = frozenset({"id", "name", "role", "tool_call_id", "type"})
"""Fields of messages with identifiers, which are only hidden if they are long."""


def hide_echo(text: str, request: bytes, limit: int) -> str:
    """Replace what `text` repeats of a request with ellipses.

    Args:
        text: The server's text, on a single line.
        request: The content of the request, which is JSON.
        limit: Maximum length of the result. Only twice as much is searched, since a request may be long.
    """
    if not request:
        return text[:limit]
    quoted, body = _Text(text[: 2 * limit]), from_json(request)
    spans = [*_repeated_runs(quoted, body), *_whole_messages(quoted, body)]
    if not spans:
        return text[:limit]
    if len(text) > 2 * limit:  # what is repeated there may continue
        spans.append((2 * limit - MIN_CHARACTERS, 2 * limit))
    return quoted.without(spans)[:limit]


class _Text:
    """A text with the positions of what is compared of it.

    Attributes:
        plain: The text without escapes.
        compared: The text that is compared.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._origins: list[tuple[int, int]] = []  # for each character of `plain`
        self._places: list[int] = []  # in `plain`, for each character of `compared`
        plain: list[str] = []
        compared: list[str] = []
        for token in re.finditer(rf"{_ESCAPE}|(?s:.)", text):
            for character in _unescape(token):
                if kept := _compared(character):
                    self._places.append(len(plain))
                    compared.append(kept)
                plain.append(character)
                self._origins.append(token.span())
        self.plain, self.compared = "".join(plain), "".join(compared)
        self._words = [word.span() for word in re.finditer(_WORD, self.plain)]

    def plain_span(self, start: int, end: int) -> tuple[int, int]:
        """Convert a span of `compared` to one of `plain`."""
        return self._places[start], self._places[end - 1] + 1

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Convert a span of `plain` to one of the text."""
        return self._origins[start][0], self._origins[end - 1][1]

    def is_meaningful(self, start: int, end: int) -> bool:
        """Whether a span of `plain` is long enough, or has enough words; words that are cut do not count."""
        words = sum(start <= word_start and word_end <= end for word_start, word_end in self._words)
        return end - start >= MIN_CHARACTERS or words >= MIN_WORDS

    def is_quoted(self, start: int, end: int) -> bool:
        """Whether there are quotation marks around a span of `plain`."""
        before, after = self.plain[start - 1 : start], self.plain[end : end + 1]
        return bool(before and after) and before in _QUOTES and after in _QUOTES

    def is_separate(self, start: int, end: int) -> bool:
        """Whether a span of `plain` does not begin or end within a word."""
        return all(re.match(r"\w\w", self.plain[place - 1 : place + 1]) is None for place in (start, end) if place)

    def without(self, spans: list[tuple[int, int]]) -> str:
        """Return the text with an ellipsis in place of these spans, and of what is between two without a word."""
        parts: list[str] = []
        end = 0
        for span_start, span_end in sorted(spans):
            between = self._text[end:span_start]
            if not parts or re.search(r"\w", between):
                parts += [between, _ELLIPSIS]
            end = max(end, span_end)
        return "".join([*parts, self._text[end:]])


def _repeated_runs(text: _Text, body: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield the spans in which the text repeats a part of any string of the request."""
    strings = _strings({name: value for name, value in body.items() if name != "model"})
    sent = "\0".join(_compared(_without_escapes(string)) for string in strings)
    for start, end in _common_runs(text.compared, sent):
        span = text.plain_span(start, end)
        if text.is_meaningful(*span):
            yield text.origin(*span)


def _common_runs(text: str, sent: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of `text`, as long as possible, that also occur in `sent`.

    Only what ends later than everything found so far is searched for, and only if its last characters occur at all. So
    there are few searches for each character of the text, and each of them takes linear time.
    """
    find_end = cache(sent.find)
    start = end = 0
    while (stop := max(end + 1, start + _MIN_COMPARED)) <= len(text):
        if find_end(text[stop - _MIN_COMPARED : stop]) < 0:
            start = stop - _MIN_COMPARED + 1
            continue
        place, found_end = -1, 0
        while stop <= len(text) and (place := sent.find(text[start:stop], place + 1)) >= 0:
            found_end = stop
            while found_end < len(text) and sent.startswith(text[found_end], place + found_end - start):
                found_end += 1
            stop = found_end + 1
        if found_end:
            end = found_end
            yield start, end
        start += 1


def _whole_messages(text: _Text, body: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield the spans in which the text repeats a whole message or input that is too short for `_repeated_runs`."""
    sent = [body.get("messages"), body.get("input")]
    messages = {message.strip() for message in _strings(sent, _NOT_PROMPTS)}
    for message in messages:
        compared = _compared(_without_escapes(message)) if 1 < len(message) < 2 * MIN_CHARACTERS else ""
        start = text.compared.find(compared) if compared else -1
        while start >= 0:
            span = text.plain_span(start, start + len(compared))
            if text.is_quoted(*span) or (len(message) >= MIN_MESSAGE and text.is_separate(*span)):
                yield text.origin(*span)
            start = text.compared.find(compared, start + 1)


def _strings(value: Any, skipped: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield all strings in a JSON value except the names of fields, and the values of those to skip."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        items = [item for name, item in value.items() if name not in skipped] if isinstance(value, dict) else value
        for item in items:
            yield from _strings(item, skipped)


def _compared(text: str) -> str:
    """Return what is compared of a text without escapes."""
    text = "".join(text.split())
    return "".join(strip_control_characters(text).split()).replace('"', "").replace("'", "")


def _without_escapes(text: str) -> str:
    return re.sub(_ESCAPE, _unescape, text)


def _unescape(token: re.Match[str]) -> str:
    """Return the character of an escape; backslashes of a literal one are dropped, as if each text were escaped."""
    text = token[0]
    if text.startswith("&"):
        return html.unescape(text)
    code = text.lstrip("\\")
    if code == text:
        return text
    units = re.findall(rf"[uUx]({_HEX}{{2,}})", code)
    characters = "".join(chr(int(unit, 16)) for unit in units)
    if units:
        return characters.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " " if code else ""
