"""Separation of the think block at the start of a streamed text, whose tags may be split anywhere."""

from __future__ import annotations

import re

from .fences import CodeTracker

OPEN, CLOSE = "<think>", "</think>"
_PROSE = r" +(?:is|are|and|or|means|marks|opens|starts|begins|tags?|blocks?|tokens?)\b| +\(|[,:;!?]|\.(?!\.)"
"""What follows the tag in a sentence about it, but not in a think block."""
_MAYBE_PROSE = r"(?: +[a-z]{0,8}|\.)?"
_CLOSING_LINE = r"(?m)^</think>[ \t]*$"


class ThinkSplitter:
    """Separates reasoning from answer in text that starts with `<think>`, sent by servers without a reasoning parser.

    Only a tag at the very start (after white space) opens the reasoning, and the first `</think>` ends it; tags quoted
    in the answer are text, also in a sentence that begins with one. It holds back at most the length of a tag, or white
    space before the first word.

    Args:
        is_open: Whether the text starts within the reasoning, if it starts without a tag.

    Attributes:
        has_opening_tag: Whether it has started with a tag.
    """

    __slots__ = ("_held", "_state", "_untagged", "has_opening_tag")

    _START, _THINK, _ANSWER = range(3)

    def __init__(self, *, is_open: bool = False) -> None:
        self._state = self._START
        self._untagged = self._THINK if is_open else self._ANSWER
        self._held = ""
        self.has_opening_tag = False

    @property
    def settled(self) -> bool:
        """Whether all further text is the answer."""
        return self._state == self._ANSWER

    def feed(self, text: str) -> tuple[str | None, str]:
        """Return what `text` adds to the reasoning (None outside of a think block) and to the answer."""
        text = self._held + text
        self._held = ""
        if self._state == self._START:
            stripped = text.lstrip()
            if stripped.startswith(OPEN):
                inner = stripped[len(OPEN) :]
                if re.fullmatch(_MAYBE_PROSE, inner):  # what comes next shows what it is
                    self._held = text
                    return None, ""
                self.has_opening_tag = re.match(_PROSE, inner) is None
                self._state, text = (self._THINK, inner) if self.has_opening_tag else (self._untagged, text)
            elif OPEN.startswith(stripped):
                self._held = text
                return None, ""
            else:
                self._state = self._untagged
        if self._state == self._ANSWER:
            return None, text
        reasoning, close, answer = text.partition(CLOSE)
        if close:
            self._state = self._ANSWER
            return reasoning, answer
        cut = len(text) - _overlap(text, CLOSE)
        self._held = text[cut:]
        return text[:cut], ""

    def close(self) -> tuple[str | None, str]:
        """Return what was held back, as reasoning and as answer, at the end of the text."""
        held, self._held = self._held, ""
        if self._state == self._THINK:
            return held, ""
        block = held.lstrip()
        if self._state == self._START and block.startswith(OPEN) and not re.match(_PROSE, block[len(OPEN) :]):
            self.has_opening_tag = True
            return block[len(OPEN) :], ""
        if self._state == self._START and self._untagged == self._THINK:
            return held, ""
        self._state = self._ANSWER
        return None, held


def lacks_opening_tag(text: str) -> bool:
    """Whether a text begins with reasoning that is closed on a line of its own, but not opened.

    Some chat templates end the prompt with `<think>`, so that the answer does not begin with it.
    """
    found = re.search(_CLOSING_LINE, text)
    if found is None:
        return False
    reasoning = text[: found.start()]
    code = CodeTracker()
    code.feed(reasoning)
    return bool(reasoning.strip()) and OPEN not in reasoning and not code.is_in_code


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `tag`."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
