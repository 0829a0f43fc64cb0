"""Streaming parser of the tool calls that Qwen3 writes into the text of its answer.

Source: the chat template of Qwen3-32B (`tokenizer_config.json`), which uses the format of the Hermes models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO

from pydantic_core import from_json

from ..._json import parse_object
from ...types import ToolCallDelta

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_ARGUMENT_KEYS = ("arguments", "parameters")
_MAX_PIECE = 1024

_START = re.compile(r"<tool_call>\s{0,64}\{")
_POSSIBLE_START = re.compile(
    "|".join([r"<tool_call>\s{0,64}\Z", *(rf"{re.escape(OPEN[:end])}\Z" for end in range(10, 0, -1))])
)
"""The end of a text that may turn out to begin a call."""


class ToolCallParser:
    """Finds tool calls in a streamed answer: call `feed` with its text, which may be split anywhere, then `close`.

    Arguments are passed on as they stream in. A truncated or malformed call is passed on with the arguments as the
    model wrote them. A tag that is not followed by an object is text.
    """

    __slots__ = ("_held", "_new_id", "_next_index", "_scanner")

    def __init__(self, new_id: Callable[[int], str]) -> None:
        """Start an answer; `new_id` returns the id for the call with a given index."""
        self._new_id = new_id
        self._held = ""
        self._scanner: _ToolCallScanner | None = None  # of the call that is being read
        self._next_index = 0

    def feed(self, text: str) -> list[str | ToolCallDelta]:
        """Return what `text` adds: texts and parts of calls, in order."""
        if len(text) > _MAX_PIECE:  # otherwise each of many calls would copy all the text after it
            pieces = [text[at : at + _MAX_PIECE] for at in range(0, len(text), _MAX_PIECE)]
            return [found for piece in pieces for found in self.feed(piece)]
        text, self._held = self._held + text, ""
        found: list[str | ToolCallDelta] = []
        while text:
            if self._scanner is None:
                text = self._read_text(text, found)
            else:
                rest = self._scanner.feed(text)
                self._pass_on(self._scanner, found)
                if rest is None:
                    break
                self._end_call(self._scanner, found)
                text = rest
        return found

    def close(self) -> list[str | ToolCallDelta]:
        """Return what was held back, at the end of the text."""
        found: list[str | ToolCallDelta] = []
        if self._scanner is not None:
            self._end_call(self._scanner, found)
        if self._held:
            found.append(self._held)
            self._held = ""
        return found

    def _read_text(self, text: str, found: list[str | ToolCallDelta]) -> str:
        """Pass on the text before the next call; return the rest, from the start of the call."""
        start = _START.search(text)
        if start is not None:
            self._scanner = _ToolCallScanner()
            before, rest = text[: start.start()], text[start.end() - 1 :]
        else:
            possible = _POSSIBLE_START.search(text)
            cut = possible.start() if possible else len(text)
            before, self._held, rest = text[:cut], text[cut:], ""
        if before:
            found.append(before)
        return rest

    def _pass_on(self, scanner: _ToolCallScanner, found: list[str | ToolCallDelta]) -> None:
        """Pass on the new part of a call, once its name is known."""
        if scanner.name is None:
            return
        arguments = scanner.take_arguments()
        if scanner.index is None:
            scanner.index = self._next_index
            self._next_index += 1
            found.append(ToolCallDelta(scanner.index, self._new_id(scanner.index), scanner.name, arguments))
        elif arguments:
            found.append(ToolCallDelta(scanner.index, arguments=arguments))

    def _end_call(self, scanner: _ToolCallScanner, found: list[str | ToolCallDelta]) -> None:
        self._scanner = None
        if scanner.name is None:
            scanner.name = ""
            self._pass_on(scanner, found)
        if not scanner.is_call and parse_object("".join(scanner.taken) or "{}") is not None:
            # Make the arguments invalid, so that what is not a call is not taken for one with other or no arguments.
            tag = OPEN if parse_object(scanner.text) is not None else ""
            found.append(ToolCallDelta(scanner.index or 0, arguments=f"{tag}{scanner.text}"))


class _ToolCallScanner:
    """Scans the JSON object of a call character by character for its name and arguments.

    Attributes:
        name: The name of the tool, once known.
        index: The index of the call, once assigned.
        taken: The parts of the arguments returned by `take_arguments` so far.
    """

    __slots__ = (
        "_arguments_end",
        "_arguments_start",
        "_arguments_text",
        "_depth",
        "_is_escaped",
        "_key",
        "_object_arguments_start",
        "_object_end",
        "_past_colon",
        "_position",
        "_string_start",
        "_taken_up_to",
        "_text",
        "_unread",
        "_value_start",
        "index",
        "name",
        "taken",
    )

    def __init__(self) -> None:
        self.name: str | None = None
        self.index: int | None = None
        self.taken: list[str] = []
        self._text = StringIO()  # all text so far; appending to a string takes quadratic time
        self._unread = ""  # the end of the text, which may begin a closing tag
        self._position = 0  # the number of characters scanned
        self._depth = 0
        self._string_start: int | None = None  # of the open string
        self._is_escaped = False
        self._key: str | None = None  # of the current pair of the outermost object
        self._past_colon = False
        self._value_start: int | None = None  # of the current pair
        self._arguments_start: int | None = None
        self._object_arguments_start: int | None = None  # the same, if the arguments are an object
        self._arguments_end: int | None = None
        self._arguments_text = ""  # the arguments, if they are not an object
        self._taken_up_to = 0
        self._object_end: int | None = None

    def feed(self, text: str) -> str | None:
        """Scan more text; return what follows the call if it has ended, otherwise None."""
        self._text.write(text)
        unread, started_at, self._unread = self._unread + text, self._position, ""
        while (here := self._position - started_at) < len(unread):
            if self._object_end is not None:
                return self._after_object(unread[here:])
            char = unread[here]
            tag = self._closing_tag(char)
            found = unread[here : here + len(tag)]
            if tag and found == tag:
                self._text.seek(self._position)
                self._text.truncate()
                return unread[here + len(tag) :]
            if tag and tag.startswith(found):
                self._unread = unread[here:]
                return None
            self._scan(char)
            self._position += 1
        return None

    @property
    def text(self) -> str:
        """The text of the object, as far as it has arrived."""
        return self._slice(0, self._object_end).strip()

    @property
    def is_call(self) -> bool:
        """Whether the object is a call; its closing brace, which models sometimes forget, may be missing."""
        text = self.text
        call = parse_object(text) or (parse_object(text + "}") if any(self.taken) else None) or {}
        return isinstance(call.get("name"), str) and bool(call["name"])

    def take_arguments(self) -> str:
        """Return the arguments that have arrived since the last call of this method."""
        if self._object_arguments_start is None:
            piece, self._arguments_text = self._arguments_text, ""
        else:
            end = self._position if self._arguments_end is None else self._arguments_end
            start = max(self._taken_up_to, self._object_arguments_start)
            piece, self._taken_up_to = self._slice(start, end) if start < end else "", end
        self.taken.append(piece)
        return piece

    def _slice(self, start: int, end: int | None = None) -> str:
        self._text.seek(start)
        text = self._text.read(None if end is None else end - start)
        self._text.seek(0, 2)
        return text

    def _after_object(self, unread: str) -> str | None:
        """Return what follows the closing tag, skipping surplus braces; None if more text is needed."""
        after = unread.lstrip(" \t\r\n}")
        self._position += len(unread) - len(after)
        if after.startswith(CLOSE):
            return after[len(CLOSE) :]
        if CLOSE.startswith(after):
            self._unread = after
            return None
        return self._slice(self._object_end or 0)

    def _closing_tag(self, char: str) -> str:
        """Return the tag that would end the call at this character; empty if none would.

        JSON strings cannot contain line breaks, so after a line break a tag counts even within a string.
        """
        if char == "\n":
            return f"\n{CLOSE}"
        return CLOSE if char == "<" and self._string_start is None else ""

    def _scan(self, char: str) -> None:
        if self._string_start is None:
            self._scan_outside_strings(char)
        elif self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            start, self._string_start = self._string_start, None
            if self._depth == 1:
                self._end_string(start, self._slice(start, self._position + 1))

    def _scan_outside_strings(self, char: str) -> None:
        if self._past_colon and self._value_start is None and not char.isspace():
            self._start_value(char)
        if char == '"':
            self._string_start = self._position
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._close_bracket()
        elif self._depth == 1 and char == ":":
            self._past_colon = True
        elif self._depth == 1 and char == ",":
            self._end_pair()

    def _start_value(self, char: str) -> None:
        self._value_start = self._position
        if self._key in _ARGUMENT_KEYS and self._arguments_start is None:
            self._arguments_start = self._position
            self._object_arguments_start = self._position if char == "{" else None

    def _close_bracket(self) -> None:
        self._depth -= 1
        if self._depth == 1 and self._value_start is not None and self._value_start == self._object_arguments_start:
            self._arguments_end = self._position + 1
        elif self._depth == 0:
            self._end_pair()
            self._object_end = self._position + 1

    def _end_string(self, start: int, string: str) -> None:
        """Handle the end of a string in the outermost object: a key, the name, or arguments written as a string."""
        try:
            text = from_json(string)
        except ValueError:
            text = string
        if not self._past_colon:
            self._key = text
        elif start != self._value_start:
            return
        elif self._key == "name":
            self.name = text if self.name is None else self.name
        elif start == self._arguments_start:
            self._arguments_text = text

    def _end_pair(self) -> None:
        if self._value_start is not None and self._value_start == self._arguments_start:
            value = self._slice(self._value_start, self._position).strip()
            if value and value[0] not in '{"' and value != "null":
                self._arguments_text = value
        self._key, self._past_colon, self._value_start = None, False, None
