"""Streaming parser of the tool calls that Qwen3 writes into the text of its answer.

Source: the chat template of Qwen3-32B (`tokenizer_config.json`), which uses the format of the Hermes models.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from io import StringIO
from typing import Any

from pydantic_core import from_json

from ...types import ToolCallDelta
from .fences import CodeTracker

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_ARGUMENT_KEYS = ("arguments", "parameters")
_MAX_PIECE = 1024

_START = re.compile(r"<tool_call>\s{0,64}\{")
_POSSIBLE_START = re.compile(
    "|".join([r"<tool_call>\s{0,64}\Z", *(rf"{re.escape(OPEN[:end])}\Z" for end in range(10, 0, -1))])
)
"""The end of a text that may turn out to begin a call."""
_BLOCK = r"(?s)<tool_call>(.*?)(?:</tool_call>|\Z)"


class ToolCallParser:
    """Finds tool calls in a streamed answer: call `feed` with its text, which may be split anywhere, then `close`.

    Arguments are passed on as they stream in, just as the model wrote them. The last part of a malformed call has an
    `error`. A tag that is not followed by an object, or is within Markdown code, is text.

    Args:
        hold: Hold back everything from the first call on, to be taken as `held_text` or parsed by `close`.
    """

    __slots__ = ("_code", "_held", "_held_call", "_hold", "_next_index", "_scanner")

    def __init__(self, *, hold: bool = False) -> None:
        self._hold = hold
        self._held_call: list[str] | None = None  # the text from the first call on
        self._held = ""  # the end of the text, which may begin a call
        self._code = CodeTracker()
        self._scanner: _ToolCallScanner | None = None  # of the call that is being read
        self._next_index = 0

    @property
    def is_holding(self) -> bool:
        """Whether there has been a call, with `hold`."""
        return self._held_call is not None

    @property
    def held_text(self) -> str:
        """All text from the first call on, with `hold`; empty if there is no call."""
        return "".join(self._held_call or [])

    def feed(self, text: str) -> list[str | ToolCallDelta]:
        """Return what `text` adds: texts and parts of calls, in order."""
        if self._held_call is not None:
            self._held_call.append(text)
            return []
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

    def close(self, *, cut: bool = False) -> list[str | ToolCallDelta]:
        """Return what was held back, at the end of the text, without the tag of a call that was cut off before it."""
        found: list[str | ToolCallDelta] = []
        if self._scanner is not None:
            self._end_call(self._scanner, found)
        if self._held and not (cut and self._held.startswith(OPEN)):
            found.append(self._held)
        self._held = ""
        return found

    def _read_text(self, text: str, found: list[str | ToolCallDelta]) -> str:
        """Pass on the text before the next call; return the rest, from the start of the call."""
        start = _START.search(text)
        if start is not None:
            before, rest = text[: start.start()], text[start.start() :]
            self._code.feed(before)
            if self._code.is_in_code:
                before, rest = before + OPEN, rest[len(OPEN) :]
                self._code.feed(OPEN)
            elif self._hold:
                self._held_call, rest = [rest], ""
            else:
                self._scanner = _ToolCallScanner()
                rest = text[start.end() - 1 :]
        else:
            possible = _POSSIBLE_START.search(text)
            cut = possible.start() if possible else len(text)
            before, self._held, rest = text[:cut], text[cut:], ""
            self._code.feed(before)
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
            found.append(ToolCallDelta(scanner.index, name=scanner.name, arguments=arguments))
        elif arguments:
            found.append(ToolCallDelta(scanner.index, arguments=arguments))

    def _end_call(self, scanner: _ToolCallScanner, found: list[str | ToolCallDelta]) -> None:
        self._scanner = None
        if scanner.name is None:
            scanner.name = ""
            self._pass_on(scanner, found)
        if (problem := scanner.find_problem()) is not None:
            text = "" if scanner.has_arguments else scanner.text  # shows what the model wrote instead
            found.append(ToolCallDelta(scanner.index or 0, arguments=text, error=problem))


def parse_tool_calls(text: str, *, cut: bool = False) -> list[str | ToolCallDelta]:
    """Return the texts and calls in a text, which is complete or was cut off."""
    parser = ToolCallParser()
    return [*parser.feed(text), *parser.close(cut=cut)]


def has_malformed_call(text: str) -> bool:
    """Whether a text contains a call that vLLM's parser cannot parse; it then leaves all of the text unparsed."""
    calls = [_parse_object(block) for block in re.findall(_BLOCK, text)]
    return not all(call and {"name", "arguments"} <= call.keys() for call in calls)


class _ToolCallScanner:
    """Scans the JSON object of a call character by character for its name and arguments.

    Attributes:
        name: The name of the tool, once known.
        index: The index of the call, once assigned.
    """

    __slots__ = (
        "_arguments_end",
        "_arguments_start",
        "_depth",
        "_is_escaped",
        "_key",
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
    )

    def __init__(self) -> None:
        self.name: str | None = None
        self.index: int | None = None
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
        self._arguments_end: int | None = None
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
    def has_arguments(self) -> bool:
        """Whether the object has arguments, of whatever type."""
        return self._arguments_start is not None

    def find_problem(self) -> str | None:
        """Explain why the object is not a call; its closing brace, which models sometimes forget, may be missing."""
        text = self.text
        call = _parse_object(text, strict=False)
        if call is None and self._arguments_end is not None:
            call = _parse_object(text + "}", strict=False)
        if call is None:
            return "it is not valid JSON"
        if not (isinstance(call.get("name"), str) and call["name"]):
            return "it names no tool"
        return None if self.has_arguments or len(call) == 1 else "it has no arguments"

    def take_arguments(self) -> str:
        """Return the arguments that have arrived since the last call of this method."""
        if self._arguments_start is None:
            return ""
        start = max(self._taken_up_to, self._arguments_start)
        end = self._taken_up_to = self._position if self._arguments_end is None else self._arguments_end
        return self._slice(start, end) if start < end else ""

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
            self._start_value()
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

    def _start_value(self) -> None:
        self._value_start = self._position
        if self._key in _ARGUMENT_KEYS and self._arguments_start is None:
            self._arguments_start = self._position

    def _close_bracket(self) -> None:
        self._depth -= 1
        if self._depth == 1 and self._reads_arguments:
            self._arguments_end = self._position + 1
        elif self._depth == 0:
            self._end_pair()
            self._object_end = self._position + 1

    def _end_string(self, start: int, string: str) -> None:
        """Handle the end of a string in the outermost object: a key, the name, or arguments written as a string."""
        text = string
        with suppress(ValueError):
            text = from_json(string)
        if not self._past_colon:
            self._key = text
        elif start != self._value_start:
            return
        elif self._key == "name":
            self.name = text if self.name is None else self.name
        elif self._reads_arguments:
            self._arguments_end = self._position + 1

    def _end_pair(self) -> None:
        if self._reads_arguments and self._arguments_end is None:
            self._arguments_end = self._position
        self._key, self._past_colon, self._value_start = None, False, None

    @property
    def _reads_arguments(self) -> bool:
        """Whether the current pair is that of the arguments."""
        return self._value_start is not None and self._value_start == self._arguments_start


def _parse_object(text: str, *, strict: bool = True) -> dict[str, Any] | None:
    """Parse an object; unless `strict`, its strings may contain unescaped control characters."""
    try:
        value = json.loads(text, strict=strict)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
