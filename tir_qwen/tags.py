"""Incremental splitters for text whose marks may be cut anywhere."""

from __future__ import annotations

_OPEN, _CLOSE = "<think>", "</think>"


class ThinkSplitter:
    """Tells reasoning from answer in text that starts with `<think>`, as a server without a reasoning parser sends it.

    Only a tag at the very start (after white space) opens the reasoning, and the first `</think>` ends it: a tag that
    the answer quotes is text. What cannot be told yet is held back, which is never more than a tag's length, or the
    white space before the first word.
    """

    __slots__ = ("_held", "_state")

    _START, _THINK, _ANSWER = range(3)

    def __init__(self) -> None:
        self._state = self._START
        self._held = ""

    @property
    def settled(self) -> bool:
        """True once all further text is answer."""
        return self._state == self._ANSWER

    def feed(self, text: str) -> tuple[str | None, str]:
        """Return what `text` adds to the reasoning (None: there is no think block) and to the answer."""
        text = self._held + text
        self._held = ""
        if self._state == self._START:
            started = text.lstrip()
            if started.startswith(_OPEN):
                self._state = self._THINK
                text = started[len(_OPEN) :]
            elif _OPEN.startswith(started):
                self._held = text
                return None, ""
            else:
                self._state = self._ANSWER
        if self._state == self._ANSWER:
            return None, text
        reasoning, close, answer = text.partition(_CLOSE)
        if close:
            self._state = self._ANSWER
            return reasoning, answer
        cut = len(text) - _overlap(text, _CLOSE)
        self._held = text[cut:]
        return text[:cut], ""

    def close(self) -> tuple[str | None, str]:
        """Return what was held back: the text ends here."""
        held, self._held = self._held, ""
        if self._state == self._THINK:
            return held, ""
        self._state = self._ANSWER
        return None, held


class NewlineTrimmer:
    """Drops the newlines around a text: leading ones at once, trailing ones held back until more text follows.

    The chat template puts newlines around the reasoning, before the answer, and before and between tool calls; they
    are not the model's words.
    """

    __slots__ = ("_held", "leading")

    def __init__(self, *, leading: bool) -> None:
        self.leading = leading
        self._held = ""

    def feed(self, text: str) -> str:
        """Return `text` as far as it is sure to be wanted."""
        if self.leading:
            text = text.lstrip("\n")
            if not text:
                return ""
            self.leading = False
        if text[-1:] != "\n" and not self._held:  # nearly every chunk
            return text
        kept = text.rstrip("\n")
        if not kept:
            self._held += text
            return ""
        kept, self._held = self._held + kept, text[len(kept) :]
        return kept

    def release(self) -> str:
        """Return the trailing newlines held back: they were the model's own."""
        held, self._held = self._held, ""
        return held

    def drop(self) -> None:
        """Forget the trailing newlines, and those that lead the next text: they were the template's."""
        self._held = ""
        self.leading = True


def _overlap(text: str, mark: str) -> int:
    """The length of the longest end of `text` that begins `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
