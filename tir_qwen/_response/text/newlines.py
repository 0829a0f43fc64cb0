"""Newlines that the chat template writes around reasoning, answer and tool calls; they are not the model's words."""

from __future__ import annotations


class NewlineTrimmer:
    """Removes newlines around a streamed text.

    Leading newlines are dropped at once; trailing ones are held back until more text follows.

    Attributes:
        leading: Whether the next text is the first one, whose leading newlines are dropped.
    """

    __slots__ = ("_held", "leading")

    def __init__(self, *, leading: bool) -> None:
        self.leading = leading
        self._held = ""

    def feed(self, text: str) -> str:
        """Return `text` without the newlines that may turn out to be the template's."""
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
        """Drop the newlines that were held back, and those that follow: the template writes them."""
        self._held = ""
        self.leading = True


class AnswerText:
    """The text of an answer: trimmed, and with a line break where a tool call stood between two texts.

    Attributes:
        trimmer: Its trimmer, which may be fed directly where there are no calls.
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
        """Note that a tool call follows: text after it starts a new line."""
        self.trimmer.drop()
        self._after_call = self._begun
