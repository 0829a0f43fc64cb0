"""Tool calls out of the text of an answer, as Qwen3 writes them, while it streams (pure).

Source: the chat template of Qwen3-32B (`tokenizer_config.json`); the format is that of the Hermes models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO

from pydantic_core import from_json

from .types import ToolCallDelta
from .wire import object_of

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_ARGUMENTS = ("arguments", "parameters")
_PIECE = 1024


class CallSplitter:
    """Finds tool calls in an answer whose marks may be cut anywhere: `feed` its text, then `close`.

    The arguments stream, though the model writes them within an object. A call that is cut or malformed comes out with
    what the model wrote for its arguments; a mark that no object follows is text.
    """

    __slots__ = ("_call", "_held", "_new_id", "_next")

    def __init__(self, new_id: Callable[[int], str]) -> None:
        """Begin an answer; `new_id` makes the id of a call of its number."""
        self._new_id = new_id
        self._held = ""
        self._call: _Call | None = None
        self._next = 0

    def feed(self, text: str) -> list[str | ToolCallDelta]:
        """What `text` adds: texts and pieces of calls, in their order."""
        if len(text) > _PIECE:  # else each call of many would copy all that follows it
            return [one for at in range(0, len(text), _PIECE) for one in self.feed(text[at : at + _PIECE])]
        text, self._held = self._held + text, ""
        found: list[str | ToolCallDelta] = []
        while text:
            if self._call is None:
                text = self._without(text, found)
            else:
                rest = self._call.feed(text)
                self._tell(self._call, found)
                if rest is None:
                    break
                self._end(self._call, found)
                text = rest
        return found

    def close(self) -> list[str | ToolCallDelta]:
        """What was held back: the text ends here."""
        found: list[str | ToolCallDelta] = []
        if self._call is not None:
            self._end(self._call, found)
        if self._held:
            found.append(self._held)
            self._held = ""
        return found

    def _without(self, text: str, found: list[str | ToolCallDelta]) -> str:
        """Pass on what stands before a call; return the text within it."""
        start = _BEGIN.search(text)
        if start is not None:
            self._call = _Call()
            before, rest = text[: start.start()], text[start.end() - 1 :]
        else:
            held = _BEGUN.search(text)
            cut = held.start() if held else len(text)
            before, self._held, rest = text[:cut], text[cut:], ""
        if before:
            found.append(before)
        return rest

    def _tell(self, call: _Call, found: list[str | ToolCallDelta]) -> None:
        """Pass on what is new of a call, once its name is known."""
        if call.name is None:
            return
        arguments = call.take()
        if call.index is None:
            call.index = self._next
            self._next += 1
            found.append(ToolCallDelta(call.index, self._new_id(call.index), call.name, arguments))
        elif arguments:
            found.append(ToolCallDelta(call.index, arguments=arguments))

    def _end(self, call: _Call, found: list[str | ToolCallDelta]) -> None:
        self._call = None
        if call.name is None:
            call.name = ""
            self._tell(call, found)
        if not call.sound and object_of("".join(call.given) or "{}") is not None:
            # What is not a call must not pass for one with other arguments, or with none.
            mark = OPEN if object_of(call.whole) is not None else ""
            found.append(ToolCallDelta(call.index or 0, arguments=f"{mark}{call.whole}"))


_BEGIN = re.compile(r"<tool_call>\s{0,64}\{")
_BEGUN = re.compile("|".join([r"<tool_call>\s{0,64}\Z", *(rf"{re.escape(OPEN[:end])}\Z" for end in range(10, 0, -1))]))
"""The beginning of a mark at the end of a text: what follows decides."""


class _Call:
    """Reads the object of a call, character by character: which of it is the name, and which the arguments."""

    __slots__ = (
        *("_argued", "_at", "_closed", "_decoded", "_depth", "_end", "_escaped", "_key", "_paired", "_quote"),
        *("_ahead", "_start", "_taken", "_text", "_value", "given", "index", "name"),
    )

    def __init__(self) -> None:
        self._text = StringIO()  # all of it: appending to a string is quadratic
        self._ahead = ""  # the end of it, which has not been read
        self.name: str | None = None
        self.index: int | None = None
        self.given: list[str] = []
        """The arguments as far as they have been taken."""
        self._at = 0  # up to where the text has been read
        self._depth = 0
        self._quote: int | None = None  # where the string began that is open
        self._escaped = False
        self._key: str | None = None  # of the pair that is read, on the outermost level
        self._paired = False  # past its colon
        self._value: int | None = None  # where its value began
        self._argued: int | None = None  # where the value of the arguments began,
        self._start: int | None = None  # if they are an object
        self._end: int | None = None
        self._taken = 0
        self._closed: int | None = None  # where the object has ended
        self._decoded = ""  # the arguments, if they are anything else

    def feed(self, text: str) -> str | None:
        """Read on; return what follows the call once it has ended."""
        self._text.write(text)
        ahead, begun, self._ahead = self._ahead + text, self._at, ""
        while (here := self._at - begun) < len(ahead):
            if self._closed is not None:
                return self._after(ahead[here:])
            char = ahead[here]
            mark = self._mark(char)
            found = ahead[here : here + len(mark)]
            if mark and found == mark:
                self._text.seek(self._at)
                self._text.truncate()
                return ahead[here + len(mark) :]
            if mark and mark.startswith(found):
                self._ahead = ahead[here:]
                return None
            self._read(char)
            self._at += 1
        return None

    def _slice(self, start: int, end: int | None = None) -> str:
        self._text.seek(start)
        text = self._text.read(None if end is None else end - start)
        self._text.seek(0, 2)
        return text

    @property
    def whole(self) -> str:
        """Its object, as far as it has come."""
        return self._slice(0, self._closed).strip()

    @property
    def sound(self) -> bool:
        """Whether it is the object of a call, but perhaps for the brace after its arguments, which models forget."""
        whole = object_of(self.whole) or (object_of(self.whole + "}") if any(self.given) else None) or {}
        return isinstance(whole.get("name"), str) and bool(whole["name"])

    def _after(self, ahead: str) -> str | None:
        """What follows the object, without the mark and with braces too many; None: more has to come."""
        after = ahead.lstrip(" \t\r\n}")
        self._at += len(ahead) - len(after)
        if after.startswith(CLOSE):
            return after[len(CLOSE) :]
        if CLOSE.startswith(after):
            self._ahead = after
            return None
        return self._slice(self._closed or 0)

    def take(self) -> str:
        """The arguments as far as they have not been taken yet."""
        if self._start is None:
            piece, self._decoded = self._decoded, ""
        else:
            end = self._at if self._end is None else self._end
            start = max(self._taken, self._start)
            piece, self._taken = self._slice(start, end) if start < end else "", end
        self.given.append(piece)
        return piece

    def _mark(self, char: str) -> str:
        """What would end the call here. JSON strings have no line ends: after one, it does so within a string too."""
        if char == "\n":
            return f"\n{CLOSE}"
        return CLOSE if char == "<" and self._quote is None else ""

    def _read(self, char: str) -> None:
        if self._quote is None:
            self._read_plain(char)
        elif self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            start, self._quote = self._quote, None
            if self._depth == 1:
                self._told_string(start, self._slice(start, self._at + 1))

    def _read_plain(self, char: str) -> None:
        if self._paired and self._value is None and not char.isspace():
            self._value = self._at
            if self._key in _ARGUMENTS and self._argued is None:
                self._argued = self._at
                self._start = self._at if char == "{" else None
        if char == '"':
            self._quote = self._at
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._close_bracket()
        elif self._depth == 1 and char == ":":
            self._paired = True
        elif self._depth == 1 and char == ",":
            self._end_pair()

    def _close_bracket(self) -> None:
        self._depth -= 1
        if self._depth == 1 and self._value is not None and self._value == self._start:
            self._end = self._at + 1
        elif self._depth == 0:
            self._end_pair()
            self._closed = self._at + 1

    def _told_string(self, start: int, string: str) -> None:
        try:
            text = from_json(string)
        except ValueError:
            text = string
        if not self._paired:
            self._key = text
        elif start != self._value:
            return
        elif self._key == "name":
            self.name = text if self.name is None else self.name
        elif start == self._argued:  # an object written as a string
            self._decoded = text

    def _end_pair(self) -> None:
        if self._value is not None and self._value == self._argued:
            value = self._slice(self._value, self._at).strip()
            if value and value[0] not in '{"' and value != "null":
                self._decoded = value
        self._key, self._paired, self._value = None, False, None
