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


class TornTags:
    """Takes out what vLLM 0.9 leaves of the tags in a stream with stop strings, though it parses the reasoning.

    Its text lags behind its tokens by one character less than the longest stop string, in case that one comes. Its
    parser goes by the tokens: it throws away what text comes with a tag's token, which is the text so far before the
    tag's end. So the reasoning begins with the last characters of `<think>`, as many as the lag, the content with those
    of `</think>`; of a longer lag with the end of the reasoning, then the whole tag. The characters of the reasoning
    that were thrown away are lost.

    Only text at these very places is taken for a tag, and only after reasoning that begins like this: servers that do
    better, and answers that begin with `>`, are left alone.
    """

    __slots__ = ("_blank", "_head", "_lag", "_lead", "_length", "_pieces", "_torn", "settled")

    def __init__(self, lag: int) -> None:
        """Begin a stream whose text lags behind by so many characters, at least one."""
        self.settled = False
        """True once all further text is what it is said to be."""
        self._lag = lag
        self._lead = f"{_OPEN[-lag:]}\n"  # the model's own reasoning begins with the newline
        self._torn = False  # whether the reasoning began with that
        self._head = ""  # its beginning, while that cannot be told
        self._blank = False
        self._pieces: list[str] = []  # of the content
        self._length = 0

    def blank(self) -> None:
        """Note a piece of reasoning without text: a short one may lag behind until its end."""
        self._blank = True

    def reasoning(self, text: str) -> str:
        """What of a piece of the reasoning is known to be that."""
        if self._torn:
            return text
        text, self._head = self._head + text, ""
        self._torn = text.startswith(self._lead)
        if not self._torn and self._lead.startswith(text):
            self._head = text
            return ""
        self.settled = not self._torn
        return text.removeprefix(self._lead)

    def content(self, text: str) -> tuple[str, str]:
        """What a piece of the content, or of the arguments in its place, adds to the reasoning and to the content."""
        self._pieces.append(text)
        self._length += len(text)
        if self._length < self._lag and self._doubtful:
            return "", ""
        return self.close()

    def close(self, *, ended: bool = True) -> tuple[str, str]:
        """As `content`, where no more of it comes; unless the answer `ended`, because it is broken off."""
        self.settled = True
        text = "".join(self._pieces)
        begun = self._torn or bool(self._head)
        if not begun and text.startswith(_OPEN):  # a block so short is whole
            return "", text
        before = max(self._lag - len(_CLOSE), 0)
        found, tag = text[before : self._lag], _CLOSE[-self._lag :]
        if self._doubtful and tag.startswith(found) and (found or not ended):
            late = text[:before] if begun else _without_opening(text[:before])
            return late or "\n", text[self._lag :]  # the newline before the tag, if it was thrown away
        cut = self._head == self._lead[:-1] and not text
        return "" if cut or not ended else self._head, text

    @property
    def _doubtful(self) -> bool:
        """Whether the content may begin with a tag."""
        return self._torn or self._blank or bool(self._head)


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


def _without_opening(text: str) -> str:
    """The text without what is left of an opening tag at its start."""
    for start in range(len(_OPEN)):
        lead = f"{_OPEN[start:]}\n"
        if text.startswith(lead) or lead.startswith(text):
            return text[len(lead) :]
    return text
