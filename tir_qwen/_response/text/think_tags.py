"""Separation of the think block at the start of a streamed text, whose tags may be split anywhere."""

from __future__ import annotations

import re

from .fences import CodeTracker

OPEN, CLOSE = "<think>", "</think>"
_PROSE = frozenset(".,:;!?)")
"""What follows a tag that is mentioned, whereas text or a newline follows one that opens a block."""
_UNOPENED = re.compile(r"(?<![ \t`'\"(\[])</think>(?![ \t`'\".,:;!?)\]])")
_CALL = re.compile(r"<tool_call>\s*\{")


class ThinkSplitter:
    """Separates reasoning from answer in text that starts with `<think>`, sent by servers without a reasoning parser.

    Only a tag at the very start (after white space) opens the reasoning, and the first `</think>` ends it; tags quoted
    in the answer are text. So is a tag at the start that is followed by punctuation, or by a space and a small letter,
    as in a sentence about it. It holds back at most the length of a tag, or white space before the first word.

    Args:
        strict: Only a tag with a newline after it opens the reasoning, as Qwen3 writes it: thinking was switched off.
    """

    __slots__ = ("_held", "_state", "_strict")

    _START, _THINK, _ANSWER = range(3)

    def __init__(self, *, strict: bool = False) -> None:
        self._state = self._START
        self._held = ""
        self._strict = strict

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
            opened = stripped.startswith(OPEN)
            rest = stripped[len(OPEN) :] if opened else ""
            after = rest.lstrip(" \t\r")
            if OPEN.startswith(stripped) or (opened and not after):
                self._held = text
                return None, ""
            is_mentioned = after[:1] in _PROSE or (after != rest and after[:1].islower())
            if opened and (after[0] == "\n" or not (self._strict or is_mentioned)):
                self._state = self._THINK
                text = rest
            else:
                self._state = self._ANSWER
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
        if self._state == self._START and held.lstrip().startswith(OPEN):  # cut off after the tag
            self._state = self._THINK
            held = held.lstrip()[len(OPEN) :]
        if self._state == self._THINK:
            return held, ""
        self._state = self._ANSWER
        return None, held


def split_unopened(text: str) -> tuple[str, str]:
    """Return the reasoning and the answer in a whole text whose think block was opened by the prompt.

    The chat templates of Qwen3-Thinking-2507 and DeepSeek-R1 end the prompt with `<think>`, so the text has only the
    closing tag, which servers without a reasoning parser pass on. The text is an answer that mentions the tag if the
    tag is within code, quotation marks or a sentence, or if the text contains an opening tag, a tool call or JSON
    before it.

    A stream cannot be read like this without delaying each answer until its end: its text is the answer.
    """
    if CLOSE not in text or text.lstrip()[:1] in ("{", "["):
        return "", text
    for found in _UNOPENED.finditer(text):
        reasoning = text[: found.start()]
        if OPEN in reasoning or _CALL.search(reasoning):
            break
        code = CodeTracker()
        code.feed(reasoning)
        if not code.is_in_code:
            return reasoning, text[found.end() :]
    return "", text


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `tag`."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
