"""Repair of `<think>` tags that vLLM 0.9 tears apart in streams with stop strings."""

from __future__ import annotations

from .think_tags import CLOSE, OPEN


class TornTagRepair:
    """Removes remains of think tags from a stream with stop strings whose reasoning is parsed by the server.

    vLLM holds back as many characters as the longest stop string has, minus one, because they may begin a stop string.
    Its text therefore lags behind its tokens. The reasoning parser of vLLM 0.9 looks at the tokens and drops the text
    sent with a tag's token, which due to the lag is the text before the end of the tag. So the reasoning starts with
    the last characters of `<think>`, as many as the lag, and the content with the last characters of `</think>` (if the
    lag is longer: with the end of the reasoning, then the whole tag). The reasoning that the parser drops is lost.

    Only text at exactly these positions is taken for a tag, and the content is only checked after reasoning that starts
    like this. Servers without the bug, and answers that start with `>`, are left alone.

    Attributes:
        settled: Whether the server's labels are right for all further text.
    """

    __slots__ = (
        "_content",
        "_content_length",
        "_has_blank_reasoning",
        "_lag",
        "_opening_remains",
        "_reasoning_head",
        "_reasoning_is_torn",
        "settled",
    )

    def __init__(self, lag: int) -> None:
        """Start a stream whose text lags behind by up to `lag` characters (at least 1)."""
        self.settled = False
        self._lag = lag
        self._opening_remains = f"{OPEN[-lag:]}\n"  # the model's reasoning starts with the newline
        self._reasoning_is_torn = False  # whether the reasoning started with these remains
        self._reasoning_head = ""  # the start of the reasoning, until that is known
        self._has_blank_reasoning = False
        self._content: list[str] = []
        self._content_length = 0

    def blank(self) -> None:
        """Note a delta with empty reasoning: all of a short reasoning may be lagging behind."""
        self._has_blank_reasoning = True

    def reasoning(self, text: str) -> str:
        """Return the part of the reasoning so far that is known to be reasoning."""
        if self._reasoning_is_torn:
            return text
        text, self._reasoning_head = self._reasoning_head + text, ""
        self._reasoning_is_torn = text.startswith(self._opening_remains)
        if not self._reasoning_is_torn and self._opening_remains.startswith(text):
            self._reasoning_head = text
            return ""
        self.settled = not self._reasoning_is_torn
        return text.removeprefix(self._opening_remains)

    def content(self, text: str) -> tuple[str, str]:
        """Return what a part of the content (or of arguments in its place) adds to the reasoning and to the content."""
        self._content.append(text)
        self._content_length += len(text)
        if self._content_length < self._lag and self._may_hold_tag:
            return "", ""
        return self.close()

    def close(self, *, ended: bool = True) -> tuple[str, str]:
        """Return what is held back, as reasoning and as content, when nothing more is to be waited for.

        Args:
            ended: False if the stream broke.
        """
        self.settled = True
        content = "".join(self._content)
        reasoning_started = self._reasoning_is_torn or bool(self._reasoning_head)
        if not reasoning_started and content.startswith(OPEN):  # a block this short arrives whole
            return "", content
        late_length = max(self._lag - len(CLOSE), 0)
        late_reasoning, remains, answer = (
            content[:late_length],
            content[late_length : self._lag],
            content[self._lag :],
        )
        if self._may_hold_tag and CLOSE[-self._lag :].startswith(remains) and (remains or not ended):
            if not reasoning_started:
                late_reasoning = _strip_opening(late_reasoning)
            return late_reasoning or "\n", answer  # restore the newline before the tag if the parser dropped it
        is_cut_tag = self._reasoning_head == self._opening_remains[:-1] and not content
        return "" if is_cut_tag or not ended else self._reasoning_head, content

    @property
    def _may_hold_tag(self) -> bool:
        """Whether the content may start with the remains of a tag."""
        return self._reasoning_is_torn or self._has_blank_reasoning or bool(self._reasoning_head)


def _strip_opening(text: str) -> str:
    """Return the text without the remains of an opening tag at its start."""
    for start in range(len(OPEN)):
        remains = f"{OPEN[start:]}\n"
        if text.startswith(remains) or remains.startswith(text):
            return text[len(remains) :]
    return text
