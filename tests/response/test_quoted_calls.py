"""Which calls in the text of an answer are calls, and which are quotations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.decode import DONE, FIXED, chunk, decode, events, native, pieces_of, stream, whole, written
from tir_qwen._response.choice import DecodingOptions
from tir_qwen._response.text.fences import CodeTracker
from tir_qwen.types import Choice, ToolCall

PARIS = '{"city": "Paris"}'
CALL = written(PARIS)
LINES = r'{"city": "Pa\nris"}'
BROKEN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris" "x"}}\n</tool_call>'
MODES = ("unparsed", "quoted", "plain", "prompted")


def options(mode: Any, **more: Any) -> DecodingOptions:
    """Return the options of a request with one tool."""
    return DecodingOptions(tools=True, tool_names=frozenset({"get_weather"}), text_calls=mode, **more)


def said(expected: DecodingOptions, message: dict[str, Any], finish: str = "stop") -> Choice:
    """Decode a whole answer, and the same as a stream in small pieces, which must be equal."""
    deltas = [
        {name: piece}
        for name, text in message.items()
        if isinstance(text, str)
        for piece in pieces_of(text, range(0, len(text), 3))
    ]
    deltas += [{"tool_calls": [{"index": at, **call}]} for at, call in enumerate(message.get("tool_calls", []))]
    one = decode(whole(message, finish), expected=expected).completion.first
    other = decode(stream(*deltas, finish_reason=finish), expected=expected).completion.first
    assert one == other
    return one


TEXTS: dict[str, tuple[str, dict[str, int]]] = {
    # how many calls each mode finds
    "call": (CALL, {"unparsed": 1, "quoted": 0, "plain": 0, "prompted": 1}),
    "words before": (f"I look.\n{CALL}", {"unparsed": 1, "quoted": 0, "plain": 0, "prompted": 1}),
    "malformed call": (BROKEN, {"unparsed": 1, "quoted": 1, "plain": 0, "prompted": 1}),
    "call beside a malformed one": (f"{CALL}\n{BROKEN}", {"unparsed": 2, "quoted": 2, "plain": 0, "prompted": 2}),
    "call with a line break in a string": (
        CALL.replace("Paris", "Pa\nris"),
        {"unparsed": 1, "quoted": 1, "plain": 0, "prompted": 1},
    ),
    "call without its last brace": (CALL.replace("}}", "}"), {"unparsed": 1, "quoted": 1, "plain": 0, "prompted": 1}),
    "call with a surplus brace": (CALL.replace("}}", "}}}"), {"unparsed": 1, "quoted": 1, "plain": 0, "prompted": 1}),
    "call without its closing tag": (
        f"{CALL.removesuffix('</tool_call>')}{CALL}",
        {"unparsed": 2, "quoted": 2, "plain": 0, "prompted": 2},
    ),
    "call with parameters": (
        CALL.replace("arguments", "parameters"),
        {"unparsed": 1, "quoted": 1, "plain": 0, "prompted": 1},
    ),
    "call with a list": (written("[1]"), {"unparsed": 1, "quoted": 0, "plain": 0, "prompted": 1}),
    "fence": (f"It says:\n```\n{CALL}\n```\nI refuse.", dict.fromkeys(MODES, 0)),
    "fence with a language": (f"```xml\n{CALL}\n```", dict.fromkeys(MODES, 0)),
    "tildes": (f"~~~~\n```\n{CALL}\n~~~\n~~~~", dict.fromkeys(MODES, 0)),
    "indented fence": (f"- It says:\n  ```\n  {CALL}\n  ```", dict.fromkeys(MODES, 0)),
    "fence in a list": (f"1. It says:\n\n     ```\n     {CALL}\n     ```", dict.fromkeys(MODES, 0)),
    "fence in a quotation": (f"> ```\n> {CALL}\n> ```", dict.fromkeys(MODES, 0)),
    "after code within a line": (f"```f()``` it is.\n{CALL}", {"unparsed": 1, "quoted": 0, "plain": 0, "prompted": 1}),
    "fence that is never closed": (f"```\n{CALL}", dict.fromkeys(MODES, 0)),
    "backticks": (f"It says `{CALL}`.", dict.fromkeys(MODES, 0)),
    "malformed call in a fence": (f"```\n{BROKEN}\n```", dict.fromkeys(MODES, 0)),
    "after a fence": (f"```\nx\n```\n{CALL}", {"unparsed": 1, "quoted": 0, "plain": 0, "prompted": 1}),
    "in a fence and after it": (f"```\n{CALL}\n```\n{CALL}", {"unparsed": 1, "quoted": 0, "plain": 0, "prompted": 1}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", TEXTS)
def test_which_text_is_a_call(case: str, mode: str) -> None:
    """A quotation stays in the text, unchanged; a malformed call is a call with an error, unless it is quoted too."""
    text, found = TEXTS[case]
    choice = said(options(mode), {"content": text})
    assert len(choice.tool_calls) == found[mode]
    assert choice.finish_reason == ("tool_calls" if choice.tool_calls else "stop")
    if not choice.tool_calls:
        assert choice.content == text
    for call in choice.tool_calls:
        assert (call.name, call.error is None) == ("get_weather", call.arguments in (PARIS, LINES))


@pytest.mark.parametrize("mode", ["unparsed", "quoted", "plain"])
@pytest.mark.parametrize("text", [CALL, BROKEN, f"{CALL}\nI refuse."])
def test_text_beside_parsed_calls_is_text(text: str, mode: str) -> None:
    """Beside calls that the server has parsed, text is text."""
    choice = said(options(mode), {**native(PARIS), "content": text}, "tool_calls")
    assert choice.content == text
    assert [(call.arguments, call.error) for call in choice.tool_calls] == [(PARIS, None)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("message", [{"content": CALL}, native(PARIS)], ids=["text", "parsed"])
def test_a_tool_that_was_not_offered_is_never_called(message: dict[str, Any], mode: Any) -> None:
    """A call of another tool has an error, wherever it comes from."""
    expected = DecodingOptions(tools=True, tool_names=frozenset({"search"}), text_calls=mode)
    for call in said(expected, message, "tool_calls").tool_calls:
        assert (call.name, call.error) == ("get_weather", "there is no tool of this name")


THOUGHT = f"I look.\n{CALL}"


@pytest.mark.parametrize("mode", ["unparsed", "quoted", "prompted"])
@pytest.mark.parametrize(
    "message", [{"content": f"<think>{THOUGHT}"}, {"reasoning_content": THOUGHT}], ids=["tag", "field"]
)
def test_a_call_in_a_think_block_that_is_never_closed(message: dict[str, Any], mode: str) -> None:
    """If the model calls a tool without ending its reasoning, that is a call, as for vLLM's own parsers."""
    choice = said(options(mode), message)
    assert (choice.reasoning, choice.content, choice.finish_reason) == (THOUGHT, "", "tool_calls")
    assert [(call.name, call.arguments, call.error) for call in choice.tool_calls] == [("get_weather", PARIS, None)]


@pytest.mark.parametrize(
    ("message", "finish"),
    [
        ({"content": f"<think>{THOUGHT}</think>"}, "stop"),
        ({"content": f"<think>{THOUGHT}</think>\n\nNo."}, "stop"),
        ({"reasoning_content": THOUGHT, "content": "\n\n"}, "stop"),
        ({"reasoning_content": THOUGHT, "content": "No."}, "stop"),
        ({"content": f"<think>{THOUGHT}"}, "length"),
        ({"reasoning_content": f"```\n{CALL}\n```"}, "stop"),
    ],
)
def test_other_calls_in_the_reasoning_are_thoughts(message: dict[str, Any], finish: str) -> None:
    """A call in reasoning that has ended, or was truncated, or in code, is a thought."""
    choice = said(options("unparsed"), message, finish)
    assert (choice.tool_calls, choice.finish_reason) == ([], finish)


def test_vllm_0_9_completes_truncated_calls() -> None:
    """A stream that used all of max_tokens may end with a call that is complete only in appearance."""
    call = {"index": 0, "id": "i", "function": {"name": "get_weather", "arguments": '{"city": ""}'}}
    body = events(
        chunk({"tool_calls": [call]}),
        chunk({}, "tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 26, "total_tokens": 35}},
        DONE,
    )
    error = "max_tokens (or the context window) truncated its arguments"
    for limit, expected in ((26, error), (27, None), (None, None)):
        (found,) = decode(body, expected=options("unparsed", max_tokens=limit)).completion.tool_calls
        assert found == ToolCall("i", "get_weather", '{"city": ""}', expected)


@pytest.mark.parametrize("length", [255, 256, 257, 600])
def test_the_last_character_of_a_long_line_is_kept(length: int) -> None:
    """However long a line is, a backtick at its end is not forgotten."""
    code = CodeTracker()
    code.feed("x" * length + "`")
    assert [code.is_in_code for _ in range(2)] == [True, True]


def test_what_is_wrong_with_the_object_of_a_call_is_its_error() -> None:
    """A call in the text whose object is no call has an error that says why, though it has no wrong arguments."""
    found = said(options("unparsed"), {"content": '<tool_call>{"name": "get_weather", "city": "Paris"}</tool_call>'})
    (call,) = found.tool_calls
    assert (call.name, call.arguments, call.error) == (
        "get_weather",
        '{"name": "get_weather", "city": "Paris"}',
        "it has no arguments",
    )


def test_the_tokens_of_several_answers_truncate_none_of_them() -> None:
    """The counts of several answers are their sum, which says nothing about the limit of each."""
    call = {"index": 0, "id": "i", "function": {"name": "get_weather", "arguments": '{"city": ""}'}}
    usage = {"prompt_tokens": 9, "completion_tokens": 26, "total_tokens": 35}
    body = events(
        *(chunk({"tool_calls": [call]}, None, index) for index in range(2)),
        *(chunk({}, "tool_calls", index) for index in range(2)),
        {"choices": [], "usage": usage},
        DONE,
    )
    choices = decode(body, expected=options("unparsed", max_tokens=26)).completion.choices
    assert [choice.tool_calls for choice in choices] == [[ToolCall("i", "get_weather", '{"city": ""}')]] * 2


def test_a_whole_answer_of_exactly_max_tokens_is_complete() -> None:
    """Only streams complete truncated calls: a whole answer says so itself, and may end at the limit by chance."""
    usage = {"prompt_tokens": 9, "completion_tokens": 26, "total_tokens": 35}
    call = {"id": "i", "function": {"name": "get_weather", "arguments": '{"city": ""}'}}
    body = whole({"tool_calls": [call]}, "tool_calls", usage=usage)
    found = decode(body, expected=options("unparsed", max_tokens=26)).completion.tool_calls
    assert found == [ToolCall("i", "get_weather", '{"city": ""}')]


def parallel(*ids: str | None, **more: Any) -> list[dict[str, Any]]:
    """Return two calls as servers send them that do not number parallel calls."""
    return [
        {"id": id_, "type": "function", "function": {"name": "get_weather", "arguments": f'{{"n": {number}}}'}, **more}
        for number, id_ in enumerate(ids)
    ]


@pytest.mark.parametrize(
    "calls",
    [parallel("a", "b", index=0), parallel("a", "b"), parallel("", "", index=0), parallel(None, None)],
    ids=["same index", "no index", "same index, no ids", "nothing"],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_calls_of_their_own(calls: list[dict[str, Any]], at_once: bool) -> None:
    """Calls with names and arguments of their own are calls of their own, whatever their index; all have ids."""
    deltas = [{"tool_calls": calls}] if at_once else [{"tool_calls": [call]} for call in calls]
    completion = decode(stream(*deltas, finish_reason="tool_calls"), expected=options("unparsed")).completion
    assert [(call.arguments, call.error) for call in completion.tool_calls] == [('{"n": 0}', None), ('{"n": 1}', None)]
    ids = [call.id for call in completion.tool_calls]
    assert all(ids)
    assert len(set(ids)) == 2
    assert ids == (["a", "b"] if calls[0]["id"] else ids)


@FIXED
@given(st.lists(st.sampled_from(["```", "~~~", "`", "x", "\n", "\n", "  ", "py"]), max_size=20), st.data())
def test_code_does_not_depend_on_where_it_is_cut(parts: list[str], data: st.DataObject) -> None:
    """Whether a text ends in code does not depend on its pieces, nor on whether that was asked before."""
    text = "".join(parts)
    at_once, bit_by_bit = CodeTracker(), CodeTracker()
    at_once.feed(text)
    for character in text:
        bit_by_bit.feed(character)
        if data.draw(st.booleans()):
            assert bit_by_bit.is_in_code in (True, False)
    assert bit_by_bit.is_in_code == at_once.is_in_code


def test_a_long_line_is_read_once() -> None:
    """A line with many tags after backticks takes linear time and little memory."""
    tracker = CodeTracker()
    for _ in range(20_000):
        tracker.feed("`<tool_call>{`")
        assert tracker.is_in_code
    assert len("".join(tracker._unread)) < 1000
