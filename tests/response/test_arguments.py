"""Decoding the arguments of one tool call."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.decode import FIXED, pieces_of
from tir_qwen._response.arguments import ArgumentsDecoder


def read(text: str, cuts: Iterable[int] = ()) -> tuple[str, str | None]:
    """Return the text that is passed on for arguments that arrive in pieces, and what is wrong with them."""
    decoder = ArgumentsDecoder()
    passed_on = "".join([decoder.feed(piece) for piece in pieces_of(text, cuts)])
    end, problem = decoder.close()
    return passed_on + end, problem


INVALID = "its arguments are not valid JSON: "
NO_OBJECT = "its arguments are not a JSON object"
ARGUMENTS = {
    "object": ('{"a": {"b": [{}]}, "c": "}"}', '{"a": {"b": [{}]}, "c": "}"}', None),
    "nothing": ("", "{}", None),
    "white space": (" \n", "{}", None),
    "null": ("null", "{}", None),
    "empty string": ('""', "{}", None),
    "object as a string": (r'"{\"a\": \"b\"}"', '{"a": "b"}', None),
    "object as a string, with a line break": (r'"{\"a\": \"b\nc\"}"', r'{"a": "b\nc"}', None),
    "line break and tab": ('{"a": "b\n\tc"}', r'{"a": "b\n\tc"}', None),
    "line break after an escaped backslash": ('{"a": "b\\\\\nc"}', '{"a": "b\\\\\\nc"}', None),
    "line break outside strings": ('{\n"a": 1\n}\n', '{\n"a": 1\n}', None),
    "surplus brace": ('{"a": "b"}}', '{"a": "b"}', None),
    "surplus braces": ('{"a": "b"}}\n}', '{"a": "b"}', None),
    "NaN": ('{"a": NaN, "b": -Infinity}', '{"a": NaN, "b": -Infinity}', None),
    "list": ("[1]", "[1]", NO_OBJECT),
    "number": ("5", "5", NO_OBJECT),
    "list as a string": ('"[1]"', '"[1]"', NO_OBJECT),
    "string": ('"Paris"', '"Paris"', f"{INVALID}expected value at line 1 column 1"),
    "word": ("Paris", "Paris", f"{INVALID}expected value at line 1 column 1"),
    "quotes": (
        '{"a": "say "hi""}',
        '{"a": "say "hi""}',
        f"{INVALID}expected `,` or `}}` at line 1 column 13",
    ),
    "trailing comma": ('{"a": 1,}', '{"a": 1,}', f"{INVALID}trailing comma at line 1 column 9"),
    "unknown escape": (r'{"a": "\d"}', r'{"a": "\d"}', f"{INVALID}invalid escape at line 1 column 9"),
    "single quotes": ("{'a': 1}", "{'a': 1}", f"{INVALID}key must be a string at line 1 column 2"),
    "two objects": ('{"a": 1}{"b": 2}', '{"a": 1}{"b": 2}', f"{INVALID}trailing characters at line 1 column 9"),
    "cut": ('{"a": "b', '{"a": "b', f"{INVALID}EOF while parsing a string at line 1 column 8"),
    "cut in a string": (r'"{\"a\":', r'"{\"a\":', f"{INVALID}EOF while parsing a string at line 1 column 8"),
}


@pytest.mark.parametrize(("text", "passed_on", "problem"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_arguments_are_an_object_or_have_a_problem(text: str, passed_on: str, problem: str | None) -> None:
    """What can only mean one object becomes its text, and everything else is passed on with what is wrong with it."""
    assert read(text) == (passed_on, problem)
    assert read(text, range(len(text))) == (passed_on, problem)


SCRAPS = st.lists(st.sampled_from([*'{}[]":,\\n1 \n\té', "null", '"a"', '"{', "\\u00e9"]), max_size=20).map("".join)


@FIXED
@given(SCRAPS.map("{{{}".format) | SCRAPS, st.lists(st.integers(0, 40), max_size=6))
def test_arguments_do_not_depend_on_where_they_are_cut(text: str, cuts: list[int]) -> None:
    """Any text in any pieces gives the same result: the text of an object, or a problem."""
    passed_on, problem = read(text)
    assert read(text, cuts) == (passed_on, problem)
    assert problem or isinstance(json.loads(passed_on), dict)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@FIXED
@given(st.dictionaries(st.text(), VALUES, max_size=4), st.booleans(), st.sampled_from(["", "}", " \n}"]))
def test_every_object_is_read_as_it_was_meant(value: dict[str, object], raw: bool, surplus: str) -> None:
    """Every object is passed on as the same object, with escaped or raw control characters and surplus braces."""
    text = json.dumps(value, ensure_ascii=False)
    if raw:
        text = text.replace("\\n", "\n").replace("\\t", "\t") if "\\\\" not in text else text
    passed_on, problem = read(text + surplus, range(0, len(text), 2))
    assert (json.loads(passed_on), problem) == (value, None)


@pytest.mark.parametrize(
    ("text", "truncated"),
    [("", True), ('{"a": "b"}', False), ('{"a": "b', True), ('{"a":', True), ('{"a": "b" "c"}', False), ("{", True)],
)
def test_truncated_arguments_are_told_from_malformed_ones(text: str, truncated: bool) -> None:
    """Arguments are truncated if more text could make them an object."""
    decoder = ArgumentsDecoder()
    decoder.feed(text)
    assert decoder.is_truncated is truncated
