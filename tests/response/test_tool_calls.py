"""Parsing tool calls out of the text of an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.decode import FIXED, pieces_of
from tir_qwen._json import parse_object
from tir_qwen._response.text import tool_calls as calls
from tir_qwen._response.text.tool_calls import ToolCallParser

Found = list[str | tuple[str, str, str]]


def read(text: str, cuts: Sequence[int] = ()) -> Found:
    """Parse text that arrives in pieces; calls are returned as name, arguments and error."""
    parser = ToolCallParser()
    found: list[Any] = []
    calls: dict[int, list[str]] = {}
    for event in [*(event for piece in pieces_of(text, cuts) for event in parser.feed(piece)), *parser.close()]:
        if isinstance(event, str):
            if found and isinstance(found[-1], str):
                found[-1] += event
            else:
                found.append(event)
            continue
        if event.index not in calls:
            calls[event.index] = ["", "", ""]
            found.append(calls[event.index])
        for place, piece in enumerate((event.name, event.arguments, event.error)):
            calls[event.index][place] += piece or ""
    return [each if isinstance(each, str) else tuple(each) for each in found]


def written(*inner: str) -> str:
    """Return calls as the model writes them."""
    return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in inner)


ARGUMENTS = '{"city": "Paris", "near": {"a": [1, {}]}}'


QUOTED = json.dumps(ARGUMENTS)


TEXTS_WITH_CALLS: dict[str, tuple[str, Found]] = {
    "none": ("Hello {x} <b>\n", ["Hello {x} <b>\n"]),
    "one": (written('{"name": "a", "arguments": ' + ARGUMENTS + "}"), [("a", ARGUMENTS, "")]),
    "text around": (
        "I look.\n" + written('{"name": "a", "arguments": {}}', '{"name": "b", "arguments": {"x": "é"}}') + "\nDone.",
        ["I look.\n", ("a", "{}", ""), "\n", ("b", '{"x": "é"}', ""), "\nDone."],
    ),
    "no white space": ('<tool_call>{"name":"a","arguments":{"x":1}}</tool_call>', [("a", '{"x":1}', "")]),
    "arguments first": (written('{"arguments": ' + ARGUMENTS + ', "name": "a"}'), [("a", ARGUMENTS, "")]),
    "a string": (written('{"name": "a", "arguments": ' + QUOTED + "}"), [("a", QUOTED, "")]),
    "a string first": (written('{"arguments": ' + QUOTED + ', "name": "a"}'), [("a", QUOTED, "")]),
    "parameters": (written('{"name": "a", "parameters": ' + ARGUMENTS + "}"), [("a", ARGUMENTS, "")]),
    "null": (written('{"name": "a", "arguments": null}'), [("a", "null", "")]),
    "missing": (written('{"name": "a"}'), [("a", "", "")]),
    "not an object": (written('{"name": "a", "arguments": [1, {"x": 2}]}'), [("a", '[1, {"x": 2}]', "")]),
    "a number": (written('{"name": "a", "arguments": 5}'), [("a", "5", "")]),
    "other fields": (
        written('{"id": {"name": "x"}, "name": "a", "type": "arguments", "arguments": {"name": "b"}, "z": [{}]}'),
        [("a", '{"name": "b"}', "")],
    ),
    "escapes": (written(r'{"n\u0061me": "\u00e9", "arguments": {"x": "\"}\\"}}'), [("é", r'{"x": "\"}\\"}', "")]),
    "spread out": (
        '<tool_call>\n\n  {\n  "name" : "a" ,\n"arguments" :\n{\n"x": 1\n}\n}\n\n</tool_call>',
        [("a", '{\n"x": 1\n}', "")],
    ),
    "quoted end": (
        written('{"name": "a", "arguments": {"x": "</tool_call> <tool_call>{"}}') + "!",
        [("a", '{"x": "</tool_call> <tool_call>{"}', ""), "!"],
    ),
    "in prose": ("Write `<tool_call>` and </tool_call>, or <tool_call> x", ...),  # type: ignore[dict-item]
    "end of prose": ("The mark is <tool_call>", ...),  # type: ignore[dict-item]
    "begun": ("a <tool_ca", ...),  # type: ignore[dict-item]
    "twice": ('<tool_call><tool_call>{"name": "a"}</tool_call>', ["<tool_call>", ("a", "", "")]),
    "never closed": ('<tool_call>\n{"name": "a", "arguments": {"x": 1}}', [("a", '{"x": 1}', "")]),
}


@pytest.mark.parametrize(("text", "found"), TEXTS_WITH_CALLS.values(), ids=TEXTS_WITH_CALLS.keys())
def test_calls_are_found_in_text_cut_anywhere(text: str, found: Any) -> None:
    """Calls are found in every notation that models use, and everything else stays text, wherever it is cut."""
    expected = [text] if found is ... else found
    assert read(text) == expected
    assert read(text, range(len(text))) == expected
    assert [cut for cut in range(len(text)) if read(text, [cut]) != expected] == []


FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "\n", "{", "}", "[", "]", '"', ":", ",", " ", "\\", "<", "null", "1", "x"),
    *('"name"', '"name": "a"', '"arguments"', '"arguments": {"x": 1}', '"parameters": {}', "<tool_call>\n{"),
]


GARBAGE = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map(lambda some: "<tool_call>\n{" + "".join(some))


@FIXED
@given(text=GARBAGE, cuts=st.lists(st.integers(0, 120), max_size=8))
@example(text='<tool_call>{"name": "a", "name": "b"}</tool_call>', cuts=range(50))
@example(text='<tool_call>{"name": "a", "arguments": {"x": 1}, "parameters": {"y": 2}}</tool_call>', cuts=range(90))
def test_garbage_is_read_the_same_wherever_it_is_cut(text: str, cuts: Sequence[int]) -> None:
    """Garbage raises no error and gives the same result wherever it is cut."""
    assert read(text, cuts) == read(text)


@pytest.mark.parametrize(
    "inner",
    [
        '{"name": "a", arguments: {"x": 1}}',
        '{"name": "a", "arguments" {"x": 1}}',
        '{"name": "a" "arguments": {"x": 1}}',
        '{"name": "a"; "arguments": {}}',
        '{"name": "a", "arguments": {"x": tru}}',
        '{"name": "a", "arguments": {"x": "1}}',
        '{"name": "a", "arguments": {"x": [1}]}',
        '{"name": "a", "arguments": nil}',
        '{"name": "a", "arguments": "Paris"}',
        "{'name': 'a', 'arguments': {}}",
        '{name: "a", arguments: {}}',
        '{"name": 5, "arguments": {}}',
        '{"arguments": {}}',
        '{"city": "Paris"}',
        "{}",
    ],
)
def test_a_malformed_call_has_an_error(inner: str) -> None:
    """A malformed call has an error, or arguments that are not a JSON object, so no tool runs with invented ones."""
    text = written(inner)
    (found,) = read(text)
    assert read(text, range(len(text))) == [found]
    assert not isinstance(found, str)
    assert found[2] or parse_object(found[1] or "{}") is None


@pytest.mark.parametrize(
    ("call", "until"),
    [
        ('{"name": "a", "arguments": {"x": {"y": 1}}}', '{"name": "a", "arguments": {"x": {"y": 1}'),
        ('{"name": "a", "arguments": {}}', '{"name": "a", "arguments": {'),
        ('{"name": "a", "arguments": "{}"}', '{"name": "a", "arguments": "{}'),
        ('{"name": "a", "arguments": null}', '{"name": "a", "arguments": null'),
        ('{"arguments": {"x": 1}, "name": "a"}', '{"arguments": {"x": 1}, "name": "a'),
    ],
)
def test_a_truncated_call_has_an_error(call: str, until: str) -> None:
    """A truncated call has an error, or arguments that are not a JSON object."""
    taken = []
    for end in range(1, len(until) + 1):
        found = read("<tool_call>\n" + call[:end])
        assert len(found) == 1
        if isinstance(found[0], str) or not (found[0][2] or parse_object(found[0][1] or "{}") is None):
            taken.append((call[:end], found))
    assert taken == []


@pytest.mark.parametrize("arguments", ['{"text": "0123456789"}', '{"a": [1, 2, 3]}'])
def test_the_name_and_the_arguments_of_a_call_stream(arguments: str) -> None:
    """The name arrives as soon as it is known, and the arguments as they are written."""
    parser = ToolCallParser()
    text = written('{"name": "a", "arguments": ' + arguments + "}")
    pieces = [event for char in text for event in parser.feed(char)]
    assert [(piece.index, piece.name, piece.arguments) for piece in pieces] == [
        (0, "a", ""),
        *((0, None, char) for char in arguments),
    ]
    assert parser.close() == []


class _Counted:
    """A pattern that counts the characters it searches."""

    def __init__(self, pattern: Any) -> None:
        self.pattern, self.characters = pattern, 0

    def search(self, text: str) -> Any:
        self.characters += len(text)
        return self.pattern.search(text)


@pytest.mark.parametrize(
    ("before", "unit", "after"),
    [
        ('<tool_call>\n{"name": "a", "arguments": {"x": "', "y\\n<", '"}}\n</tool_call>'),
        ('<tool_call>\n{"name": "a", "arguments": {"x": [', "[1],", "0]}}\n</tool_call>"),
        ("", "<tool_call> is <to ", ""),
        ("", "\n{<<", ""),
        ("<tool_call>", "\n\n  ", '{"name": "a"}\n</tool_call>'),
    ],
    ids=["string", "array", "marks", "braces", "white space"],
)
def test_a_long_answer_is_scanned_once(monkeypatch: pytest.MonkeyPatch, before: str, unit: str, after: str) -> None:
    """A long answer in small pieces is scanned in linear time."""
    counters = [_Counted(calls._START), _Counted(calls._POSSIBLE_START)]
    monkeypatch.setattr(calls, "_START", counters[0])
    monkeypatch.setattr(calls, "_POSSIBLE_START", counters[1])
    steps = []
    read_one = calls._ToolCallScanner._scan
    monkeypatch.setattr(
        calls._ToolCallScanner, "_scan", lambda call, char: (steps.append(char), read_one(call, char))[1]
    )
    text = before + unit * (60_000 // len(unit)) + after
    parser = ToolCallParser()
    for start in range(0, len(text), 4):
        parser.feed(text[start : start + 4])
        assert sum(counter.characters for counter in counters) + len(steps) <= 20 * (start + 100)
    parser.close()


@pytest.mark.parametrize("length", [1023, 1024, 1025, 2048, 2049, 5000])
def test_a_long_text_in_one_piece_is_passed_on_whole(length: int) -> None:
    """A long text that arrives in one piece is passed on from its first character to its last, as is a call in it."""
    text = ("".join(map(str, range(2000))) * 2)[:length]
    assert read(text) == [text]
    assert read(text + written('{"name": "a", "arguments": ' + ARGUMENTS + "}")) == [text, ("a", ARGUMENTS, "")]


@pytest.mark.parametrize("key", ["", "\\\\", '\\"'], ids=["empty", "backslash", "quotation mark"])
def test_the_first_key_of_a_call_may_be_any_text(key: str) -> None:
    """A first key of a call that is empty, or only an escape, is skipped like any other key."""
    assert read(written(f'{{"{key}": 1, "name": "a", "arguments": {{}}}}')) == [("a", "{}", "")]


def test_only_surplus_braces_are_dropped_after_a_call() -> None:
    """Whatever else stands between the object of a call and its closing tag is text."""
    for surplus in ("X", "]", ".", "{"):
        found = read(f'<tool_call>{{"name": "a", "arguments": {{}}}}{surplus}</tool_call>')
        assert found == [("a", "{}", ""), f"{surplus}</tool_call>"]


@pytest.mark.parametrize("end", ["\n", ""], ids=["line break", "nothing"])
def test_a_call_without_its_last_brace_ends_with_its_tag(end: str) -> None:
    """The closing tag ends a call whose last brace is missing, whatever follows in the same piece."""
    text = f'<tool_call>{{"name": "a", "arguments": {{}}{end}</tool_call> and ' + written(
        '{"name": "b", "arguments": {}}'
    )
    assert read(text) == [("a", "{}", ""), " and ", ("b", "{}", "")]
    assert read(text, range(len(text))) == read(text)
