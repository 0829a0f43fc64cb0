"""Detection of quoted text: Markdown code, where a tool call is an example or somebody else's words."""

from __future__ import annotations

import re

_FENCE = r"[ \t>]*(`{3,}(?=[^`]*$)|~{3,})(.*)"
"""A fence, at any depth of lists and quotations. Further backticks in its line would end a piece of code there."""

_MAX_LINE = 256
"""How much of a long line is kept, besides its last character."""


class CodeTracker:
    """Knows whether a streamed text ends within code: call `feed` with each part of it.

    The text is looked at only when `is_in_code` is asked for.
    """

    __slots__ = ("_fence", "_unread")

    def __init__(self) -> None:
        self._unread: list[str] = []  # from the start of a line
        self._fence = ""  # the fence that opened the current block of code

    def feed(self, text: str) -> None:
        """Add a part of the text."""
        self._unread.append(text)

    @property
    def is_in_code(self) -> bool:
        """Whether the text so far ends within a fenced block of code, or with a backtick."""
        *lines, last_line = "".join(self._unread).split("\n")
        for line in lines:
            self._read_line(line)
        self._unread = [last_line[:_MAX_LINE], last_line[_MAX_LINE:][-1:]]
        starts_block = re.match(_FENCE, last_line[:_MAX_LINE]) is not None
        return bool(self._fence) or starts_block or last_line.endswith("`")

    def _read_line(self, line: str) -> None:
        found = re.match(_FENCE, line[:_MAX_LINE])
        if found is None:
            return
        fence, rest = found.groups()
        if not self._fence:
            self._fence = fence
        elif fence.startswith(self._fence) and not rest.strip():
            self._fence = ""
