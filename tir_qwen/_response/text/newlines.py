"""Removal of the newlines that the chat template puts around reasoning, answer and tool calls."""

from __future__ import annotations


class NewlineTrimmer:
    """Removes leading and trailing newlines from a streamed text.

    Leading newlines are dropped at once; trailing ones are held back until more text follows.

    Attributes:
        leading: Whether the next text is the first, so that its leading newlines are dropped.
    """

    __slots__ = ("_held", "leading")

    def __init__(self, *, leading: bool) -> None:
        self.leading = leading
        self._held = ""

    def feed(self, text: str) -> str:
        """Return `text` and newlines held back before it, without newlines that may be the template's."""
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
        """Return the newlines that were held back: the model wrote them."""
        held, self._held = self._held, ""
        return held

    def drop(self) -> None:
        """Drop the newlines that were held back and those that follow: they belong to the template."""
        self._held = ""
        self.leading = True


class AnswerText:
    """The text of an answer: trimmed, and with a line break in place of a tool call between two texts.

    Attributes:
        trimmer: Its trimmer, which may be fed directly if there can be no tool calls.
    """

    __slots__ = ("_after_call", "_begun", "trimmer")

    def __init__(self) -> None:
        self.trimmer = NewlineTrimmer(leading=False)
        self._begun = False
        self._after_call = False

    def feed(self, text: str) -> str:
        """Return what `text` adds to the answer."""
        text = self.trimmer.feed(text)
        if not text:
            return ""
        if self._after_call:
            text = f"\n{text}"
        self._begun, self._after_call = True, False
        return text

    def interrupt(self) -> None:
        """Note that a tool call follows; text after it starts on a new line."""
        self.trimmer.drop()
        self._after_call = self._begun
