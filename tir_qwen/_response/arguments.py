"""Decoder of the arguments of one tool call, as models write them and servers pass them on."""

from __future__ import annotations

import re

from pydantic_core import from_json, to_json

TRUNCATED = "max_tokens (or the context window) truncated its arguments"
INTERRUPTED = "the answer stopped before its end"
"""The errors of a call that is not complete because its answer is not."""
LOST = "the server's stream may have lost a part of its arguments"
REPEATED = "it was requested again"
"""The errors of a call whose arguments may not be what the model wrote."""

_SURPLUS = "} \t\r\n"
_WHOLE_KEY = r'\{"[^"]+'
_NO_VALUE = r'\{"[^"]+(?:"\s*(?::\s*(?:-?[\d.eE+-]*)?)?)?'
_MARK = re.compile(r'\\.|[\\"{}\x00-\x1f]', re.DOTALL)


class ArgumentsDecoder:
    """Turns the arguments of a call into the text of a JSON object: call `feed` with each part, then `close`.

    The text of the object is passed on as it arrives. Deviations are repaired if there is no doubt about what was
    meant:

    - nothing, `null` or an empty string, for no arguments;
    - the object as a JSON string;
    - unescaped control characters within strings;
    - surplus braces at the end, which vLLM's streaming parser copies from the object around the arguments.

    Attributes:
        has_ended: Whether the brace that closes the object has arrived.
    """

    __slots__ = ("_depth", "_in_string", "_is_escaped", "_is_object", "_parts", "_rest", "has_ended")

    def __init__(self) -> None:
        self._parts: list[str] = []  # the text so far, up to the brace that closes the object
        self._rest: list[str] = []  # the text after it
        self._is_object: bool | None = None  # whether the text begins with a brace; None: only white space so far
        self.has_ended = False
        self._depth = 0
        self._in_string = False
        self._is_escaped = False  # whether the next character is

    @property
    def is_empty(self) -> bool:
        """Whether nothing but white space has arrived."""
        return self._is_object is None

    @property
    def begins_with_a_key(self) -> bool:
        """Whether the first part of the text contains the first key, which it does not if the parts are tokens."""
        return re.match(_WHOLE_KEY, self._first_part) is not None

    @property
    def may_lack_a_part(self) -> bool:
        """Whether a parser that begins with a key may have lost the first value, or digits of it, or closing braces.

        Then the first part ends before the value or within a number, or fewer braces are closed than opened.
        """
        text = "".join(self._parts)
        is_unbalanced = text.count("{") != text.count("}")
        return is_unbalanced or re.fullmatch(_NO_VALUE, self._first_part) is not None or self._problem() is not None

    @property
    def _first_part(self) -> str:
        return next((part for part in self._parts if part), "")

    @property
    def is_truncated(self) -> bool:
        """Whether the text so far may be the beginning of a JSON object, but is not a whole one."""
        problem = self._problem()
        return problem is not None and "EOF while parsing" in problem

    def feed(self, text: str) -> str:
        """Return what a part of the arguments adds to the text of the object."""
        if self._is_object is None:
            text = text.lstrip()
            if text:
                self._is_object = text.startswith("{")
        if not self._is_object:
            self._parts.append(text)
            return ""
        if self.has_ended:
            self._rest.append(text)
            return ""
        if text and (self._is_escaped or _MARK.search(text)):
            text = self._scan(text)
        self._parts.append(text)
        return text

    def close(self) -> tuple[str, str | None]:
        """Return the end of the text, and what is wrong with the arguments, if anything."""
        if not self._is_object:
            return self._close_other()
        problem, rest = self._problem(), "".join(self._rest)
        self._rest.clear()
        if problem is None:
            return "", None
        self._parts.append(rest)
        return rest, problem

    def _scan(self, text: str) -> str:
        """Return `text` up to the end of the object, with escaped control characters."""
        scanned = []
        start, first = 0, int(self._is_escaped)
        self._is_escaped = False
        for found in _MARK.finditer(text, first):
            mark = found[0]
            if mark == '"':
                self._in_string = not self._in_string
            elif self._in_string:
                if mark == "\\":
                    self._is_escaped = True
                elif mark < " ":
                    scanned += [text[start : found.start()], to_json(mark).decode()[1:-1]]
                    start = found.end()
            elif mark == "{":
                self._depth += 1
            elif mark == "}":
                self._depth -= 1
                if self._depth == 0:
                    self.has_ended = True
                    self._rest.append(text[found.end() :])
                    text = text[: found.end()]
                    break
        return "".join([*scanned, text[start:]])

    def _problem(self) -> str | None:
        rest = "".join(self._rest)
        return _find_problem("".join([*self._parts, rest]) if rest.strip(_SURPLUS) else "".join(self._parts))

    def _close_other(self) -> tuple[str, str | None]:
        text = "".join(self._parts)
        self._parts.clear()
        meant = text.strip()
        if meant.startswith('"'):  # the object as a string
            try:
                meant = from_json(meant).strip()
            except ValueError as error:
                return text, f"its arguments are not valid JSON: {error}"
        if meant in ("", "null"):
            meant = "{}"
        if not meant.startswith("{"):
            return text, _find_problem(meant)
        decoder = ArgumentsDecoder()
        start = decoder.feed(meant)
        end, problem = decoder.close()
        if problem is not None:
            return text, problem
        self._parts.append(start + end)
        self._is_object = self.has_ended = True
        return start + end, None


def _find_problem(text: str) -> str | None:
    """Explain why `text` is not a JSON object; return None if it is."""
    try:
        value = from_json(text)
    except ValueError as error:  # says where, and quotes nothing
        return f"its arguments are not valid JSON: {error}"
    return None if isinstance(value, dict) else "its arguments are not a JSON object"
