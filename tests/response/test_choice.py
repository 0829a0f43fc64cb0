"""How an answer is decoded depends on its request: tool calls in the text, a single call, a named tool, thinking."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.calls import dialect_of
from tests.support.decode import (
    DONE,
    FIXED,
    Outcome,
    calls_of,
    chunk,
    decode,
    events,
    native,
    pieces_of,
    several,
    stream,
    whole,
    written,
)
from tir_qwen._client.call import Call
from tir_qwen._client.retry import RetryPolicy
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._request.build import Request
from tir_qwen._response.choice import DEFAULT_OPTIONS, DecodingOptions
from tir_qwen._response.response import ResponseDecoder
from tir_qwen._transport.deadline import Deadline
from tir_qwen.timeouts import Timeout
from tir_qwen.types import Choice, ToolCall, ToolCallDelta

TOOLS = DecodingOptions(tools=True)
PROMPTED = DecodingOptions(tools=True, text_calls="prompted")
ONE_CALL = DecodingOptions(tools=True, single_call=True)
NAMED = DecodingOptions(tools=True, required_tool="get_weather")
NO_THINKING = DecodingOptions(thinking_off=True)
PARIS, LONDON = '{"city": "Paris"}', '{"city": "London"}'


def both_ways(expected: DecodingOptions, message: dict[str, Any], *, finish: str = "stop", by: int = 3) -> Choice:
    """Decode a message both complete and as a stream of pieces of `by` characters, and return the equal choice."""
    deltas: list[dict[str, Any]] = [
        {key: text[start : start + by]}
        for key, text in message.items()
        if isinstance(text, str)
        for start in range(0, len(text), by)
    ]
    calls = [{"index": number, **call} for number, call in enumerate(message.get("tool_calls", []))]
    deltas += [{"content": None, "tool_calls": [call]} for call in calls]
    one, other = (
        decode(body, expected=expected)
        for body in (
            whole(message, finish),
            stream({"role": "assistant", "content": ""}, *deltas, finish_reason=finish),
        )
    )
    assert one.error is None
    assert other.error is None
    assert other.completion == one.completion
    return one.completion.first


def stream_of(text: str, expected: DecodingOptions, cuts: list[int]) -> Outcome:
    """Decode a stream of this text, cut at these positions."""
    return decode(stream(*({"content": piece} for piece in pieces_of(text, cuts))), expected=expected)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-99, 10**12)
    | st.text(max_size=6)
    | st.sampled_from(["</tool_call>", "<tool_call>", "\n</tool_call>", '"', "\\", "}}", "नमस्ते", "</think>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=5) | st.sampled_from(["name", "arguments"]), VALUES, max_size=3)
CUTS = st.lists(st.integers(0, 400), max_size=30)
SCRAPS = st.lists(
    st.sampled_from(
        [
            *("Let me look.", "\n", " ", "<", "<tool", "<tool_call>", "</tool_call>", "{", "}", '"', "\\", ":", ","),
            *('"name"', '"get_weather"', '"arguments"', PARIS, written(PARIS), written("{}"), "<think>", "</think>"),
            *(written(PARIS)[:30], written(PARIS)[:-20], "null", "[", "]", "é", "🚀"),
        ]
    ),
    max_size=12,
).map("".join)


@FIXED
@given(SCRAPS, CUTS, st.sampled_from([TOOLS, ONE_CALL, NAMED, NO_THINKING, DEFAULT_OPTIONS]))
def test_a_text_is_read_the_same_wherever_it_is_cut(text: str, cuts: list[int], expected: DecodingOptions) -> None:
    """Text, calls, ids and the finish reason do not depend on where the text is cut."""
    one = decode(whole({"content": text}), expected=expected)
    assert one.error is None
    for places in (cuts, list(range(len(text)))):
        assert stream_of(text, expected, places).completion == one.completion


@FIXED
@given(st.lists(OBJECTS, min_size=1, max_size=3), st.booleans(), st.sampled_from([None, 1]), CUTS)
def test_the_arguments_are_what_the_model_wrote(
    given_: list[dict[str, Any]], ascii_: bool, indent: int | None, cuts: list[int]
) -> None:
    """Arguments are returned exactly as written, even if they contain tags."""
    texts = [json.dumps(arguments, ensure_ascii=ascii_, indent=indent) for arguments in given_]
    text = "\n".join(["Let me look.", *(written(arguments, f"tool_{at}") for at, arguments in enumerate(texts))])
    outcome = stream_of(text, TOOLS, cuts)
    assert outcome.said == ("", "Let me look.", [(f"tool_{at}", one) for at, one in enumerate(texts)], "tool_calls")
    assert len({call.id for call in outcome.completion.tool_calls}) == len(texts)


@FIXED
@given(OBJECTS, st.permutations(["name", "arguments", "note"]), st.sampled_from(["arguments", "parameters"]), CUTS)
def test_the_keys_of_a_call_may_come_in_any_order(
    arguments: dict[str, Any], order: list[str], key: str, cuts: list[int]
) -> None:
    """A call may have its keys in any order, an extra key, or Llama's name for the arguments."""
    call = {"name": "get_weather", "arguments": arguments, "note": {"name": "x", "arguments": [1]}}
    text = json.dumps({key if name == "arguments" else name: call[name] for name in order})
    outcome = stream_of(f"<tool_call>{text}</tool_call>", TOOLS, cuts)
    assert outcome.said == ("", "", [("get_weather", json.dumps(arguments))], "tool_calls")


@FIXED
@given(SCRAPS, CUTS)
def test_offering_tools_does_not_change_text_without_a_call(text: str, cuts: list[int]) -> None:
    """Offering tools does not change an answer without a call."""
    text = re.sub(r"<tool_call>(?=\s*\{)", "<tool_call>.", text)
    assert stream_of(text, TOOLS, cuts).completion == stream_of(text, DEFAULT_OPTIONS, cuts).completion


@pytest.mark.parametrize(
    ("text", "content", "called"),
    [
        pytest.param(written(PARIS), "", [("get_weather", PARIS)], id="a call"),
        pytest.param(written("{}"), "", [("get_weather", "{}")], id="no arguments"),
        pytest.param('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")], id="none written"),
        pytest.param(written("null"), "", [("get_weather", "{}")], id="null"),
        pytest.param(written(json.dumps(PARIS)), "", [("get_weather", PARIS)], id="an object in a string"),
        pytest.param(f"\n\n{written(PARIS)}\n", "", [("get_weather", PARIS)], id="newlines around it"),
        pytest.param(f"Well.\n\n{written(PARIS)}", "Well.", [("get_weather", PARIS)], id="text before it"),
        pytest.param(
            f"{written(PARIS)}\n{written(LONDON)}", "", [("get_weather", PARIS), ("get_weather", LONDON)], id="two"
        ),
        pytest.param(
            f"{written(PARIS)}{written(LONDON)}", "", [("get_weather", PARIS), ("get_weather", LONDON)], id="adjacent"
        ),
        pytest.param(written(PARIS).removesuffix("\n</tool_call>"), "", [("get_weather", PARIS)], id="no end"),
        pytest.param(written(PARIS).removesuffix("all>"), "", [("get_weather", PARIS)], id="half an end"),
        pytest.param(written('{"city": "Par'), "", [("get_weather", '{"city": "Par}')], id="a string left open"),
        pytest.param(
            written(PARIS[:-1]).replace("}\n", "\n"), "", [("get_weather", PARIS[:-1])], id="a brace left out"
        ),
        pytest.param(f"{written(PARIS)[:-13]}}}\n</tool_call>", "", [("get_weather", PARIS)], id="a brace too many"),
        pytest.param(
            f"{written(PARIS)[:-13]}{written(LONDON)}",
            *("", [("get_weather", PARIS), ("get_weather", LONDON)]),
            id="an end left out",
        ),
        pytest.param('<tool_call>\n{"name": "get', "", [("", '{"name": "get')], id="cut in its name"),
        pytest.param('<tool_call>\n{"name": "f"', "", [("f", '{"name": "f"')], id="cut after its name"),
        pytest.param('<tool_call>\n{"name": "f", "arguments": {"a', "", [("f", '{"a')], id="cut in its arguments"),
        pytest.param("<tool_call>\nget_weather\n</tool_call>", None, [], id="no object"),
        pytest.param("<tool_call>", None, [], id="no more than the tag"),
        pytest.param("Write `<tool_call>` first.", None, [], id="a tag that is quoted"),
    ],
)
def test_calls_in_the_text_are_parsed_if_tools_were_offered(
    text: str, content: str | None, called: list[tuple[str, str]]
) -> None:
    """Unparsed calls become tool calls, broken ones with the text as written; other text stays text."""
    choice = both_ways(TOOLS, {"content": text})
    assert (choice.content, calls_of(choice)) == (text if content is None else content, called)


@pytest.mark.parametrize(
    "expected", [DEFAULT_OPTIONS, NO_THINKING, DecodingOptions(single_call=True)], ids=["none", "thinking", "one"]
)
def test_without_tools_a_call_is_text(expected: DecodingOptions) -> None:
    """If no tools were offered, text that looks like a call stays text."""
    choice = both_ways(expected, {"content": written(PARIS)})
    assert (choice.content, choice.tool_calls) == (written(PARIS), [])


def test_text_before_and_after_a_call_is_separated() -> None:
    """Text after a call does not run into the text before it."""
    choice = both_ways(TOOLS, {"content": f"I look.\n{written(PARIS)}\nThen London."})
    assert (choice.content.split(), calls_of(choice)) == (["I", "look.", "Then", "London."], [("get_weather", PARIS)])


def test_a_call_in_the_text_streams() -> None:
    """The name of a call arrives as soon as it is known, and its arguments as they come."""
    pieces = [
        "I look.",
        "\n<tool_",
        'call>\n{"name": "get',
        '_weather", "argu',
        'ments": {"ci',
        'ty": "Paris"}',
        "}\n</",
    ]
    outcome = decode(stream(*({"content": piece} for piece in pieces)), expected=PROMPTED)
    assert [(delta.content, [*delta.tool_calls]) for delta in outcome.deltas] == [
        ("I look.", []),
        ("", [ToolCallDelta(0, ANY, "get_weather")]),
        ("", [ToolCallDelta(0, arguments='{"ci')]),
        ("", [ToolCallDelta(0, arguments='ty": "Paris"}')]),
        ("", []),
        ("", []),
    ]


def test_reasoning_text_and_calls_are_separated() -> None:
    """Inline reasoning, text and calls are separated, and a call within the reasoning is not a call."""
    text = f"<think>\nI could write {written(LONDON)}.\n</think>\n\nI look.\n{written(PARIS)}"
    choice = both_ways(TOOLS, {"content": text})
    assert choice.reasoning == f"I could write {written(LONDON)}."
    assert (choice.content, calls_of(choice)) == ("I look.", [("get_weather", PARIS)])


@FIXED
@given(SCRAPS, SCRAPS, st.lists(st.booleans(), max_size=40))
def test_interleaved_choices_do_not_mix(first: str, second: str, order: list[bool]) -> None:
    """Interleaved choices decode as each would alone."""
    texts = [[*first], [*second]]
    deltas = [(int(turn), {"content": texts[turn].pop(0)}) for turn in order if texts[turn]]
    deltas += [(turn, {"content": "".join(rest)}) for turn, rest in enumerate(texts)]
    choices = decode(several(*deltas), expected=TOOLS).completion.choices
    alone = [decode(whole({"content": text}), expected=TOOLS).completion.first for text in (first, second)]
    assert [(one.content, one.reasoning, calls_of(one)) for one in choices] == [
        (one.content, one.reasoning, calls_of(one)) for one in alone
    ]


def test_ids_are_unique_in_a_response() -> None:
    """No two calls of a response share an id, even in different choices."""
    delta = {"content": f"{written(PARIS)}\n{written(LONDON)}"}
    choices = decode(several((0, delta), (1, delta)), expected=TOOLS).completion.choices
    assert [calls_of(choice) for choice in choices] == [[("get_weather", PARIS), ("get_weather", LONDON)]] * 2
    assert len({call.id for choice in choices for call in choice.tool_calls}) == 4


def test_ids_are_stable() -> None:
    """Decoding the same response again gives the same ids."""
    delta = {"content": f"{written(PARIS)}\n{written(LONDON)}"}
    body = several((0, delta), (1, delta))
    assert decode(body, expected=TOOLS) == decode(body, expected=TOOLS)


def test_ids_differ_between_responses() -> None:
    """Calls of different responses to a conversation have different ids, even if the responses have the same, or none.

    The request grows with each answer.
    """
    ids = []
    for number, id_ in enumerate(["a", "b", "b", None, None]):
        decoder = ResponseDecoder(options=TOOLS, request=b"{}" * number)
        assert [*decoder.feed(whole({"content": written(PARIS)}, id=id_)), *decoder.close()]
        ids.append(decoder.completion().tool_calls[0].id)
    assert len(set(ids)) == 5


@pytest.mark.parametrize("expected", [TOOLS, NAMED], ids=["tools", "named"])
def test_calls_parsed_by_the_server_keep_their_ids(expected: DecodingOptions) -> None:
    """Calls parsed by the server keep its ids and are not changed."""
    choice = both_ways(expected, native(PARIS, LONDON), finish="tool_calls")
    assert choice.tool_calls == [
        ToolCall("server-0", "get_weather", PARIS),
        ToolCall("server-1", "get_weather", LONDON),
    ]
    assert (choice.content, choice.finish_reason) == ("", "tool_calls")


BERLIN = '{"city": "Berlin"}'
TEXT_FIRST = [{"content": written(BERLIN)}, native(PARIS, first=0), native(LONDON, first=1)]
BETWEEN = [native(PARIS, first=0), {"content": written(BERLIN)}, native(LONDON, first=1)]
TEXT_LAST = [native(PARIS, first=0), native(LONDON, first=1), {"content": written(BERLIN)}]


@pytest.mark.parametrize("deltas", [TEXT_FIRST, BETWEEN, TEXT_LAST], ids=["first", "between", "last"])
def test_text_beside_parsed_calls_is_text(deltas: list[dict[str, Any]]) -> None:
    """If the server parsed calls, one in the text is a quotation."""
    outcome = decode(stream(*deltas, finish_reason="tool_calls"), expected=TOOLS)
    assert outcome.error is None
    calls = [("get_weather", PARIS), ("get_weather", LONDON)]
    assert outcome.said == ("", written(BERLIN), calls, "tool_calls")


def test_text_beside_parsed_calls_is_text_in_a_complete_response() -> None:
    """The same holds for a complete response."""
    message = {**native(PARIS), "content": f"I look.\n{written(BERLIN)}"}
    choice = decode(whole(message, "tool_calls"), expected=TOOLS).completion.first
    assert choice.content == f"I look.\n{written(BERLIN)}"
    assert calls_of(choice) == [("get_weather", PARIS)]


@FIXED
@given(SCRAPS, CUTS)
def test_a_single_call_is_the_first_one(text: str, cuts: list[int]) -> None:
    """Limiting an answer to one call only drops the further calls."""
    one, every = (stream_of(text, expected, cuts).completion.first for expected in (ONE_CALL, TOOLS))
    assert one.tool_calls == every.tool_calls[:1]
    assert (one.content, one.reasoning, one.finish_reason) == (every.content, every.reasoning, every.finish_reason)


@pytest.mark.parametrize("names", [frozenset(), frozenset({"get_weather"})], ids=["unknown", "known"])
def test_a_call_without_a_name_cannot_be_run(names: frozenset[str]) -> None:
    """A call that names no tool has an error that says so, whether or not the tools are known."""
    message = {"tool_calls": [{"id": "c1", "function": {"arguments": PARIS}}]}
    for body in (whole(message, "tool_calls"), stream(message, finish_reason="tool_calls")):
        calls = decode(body, expected=TOOLS._replace(tool_names=names)).completion.tool_calls
        assert calls == [ToolCall("c1", "", PARIS, "it names no tool")]


def test_an_object_after_a_call_of_the_named_tool_is_text() -> None:
    """Where the server has parsed the call, an object in the text is no further part of it."""
    deltas = [native(PARIS, first=0), {"content": LONDON}]
    said = decode(stream(*deltas, finish_reason="tool_calls"), expected=NAMED).said
    assert said == ("", LONDON, [("get_weather", PARIS)], "tool_calls")


def test_a_call_in_the_text_is_not_taken_for_lost() -> None:
    """Only calls that the server has parsed may have lost a part, not those in the text, however they are cut."""
    text = written('{"n": 1}')
    expected = PROMPTED._replace(lossy_streams=True, tools_with_parameters=frozenset({"get_weather"}))
    for cut in range(1, len(text)):
        outcome = decode(stream({"content": text[:cut]}, {"content": text[cut:]}), expected=expected)
        assert [(call.arguments, call.error) for call in outcome.completion.tool_calls] == [('{"n": 1}', None)]


def test_a_call_keeps_the_index_of_the_server() -> None:
    """A call keeps the server's index if it is free, and one in the text gets the next one."""
    for first in (0, 2):
        outcome = decode(stream(native(PARIS, LONDON, first=first), finish_reason="tool_calls"), expected=TOOLS)
        assert [call.index for delta in outcome.deltas for call in delta.tool_calls] == [first, first + 1]


def test_text_that_may_begin_a_call_is_passed_on_once() -> None:
    """A second finish reason does not repeat the beginning of a tag that the first one released."""
    ends = [chunk({}, "stop"), chunk({}, "length")]
    assert decode(events(chunk({"content": "a <tool"}), *ends, DONE), expected=TOOLS).said == (
        "",
        "a <tool",
        [],
        "stop",
    )


def test_what_is_wrong_with_a_dropped_call_is_dropped_too() -> None:
    """Of a second call that is cut off, neither a part nor the error is passed on."""
    deltas = [native(PARIS, first=0), native('{"city": "Lon', first=1)]
    outcome = decode(stream(*deltas, finish_reason="length"), expected=ONE_CALL)
    assert outcome.completion.tool_calls == [ToolCall("server-0", "get_weather", PARIS)]
    assert [call.index for delta in outcome.deltas for call in delta.tool_calls] == [0]


@pytest.mark.parametrize("before", ["", "\n", "\n\n", " ", "<think>\n\n</think>\n\n"], ids=repr)
def test_an_object_as_text_is_a_call_of_the_named_tool(before: str) -> None:
    """If a tool was required, an object in the text is a call of that tool."""
    choice = both_ways(NAMED, {"content": f"{before}{PARIS}"}, by=1)
    assert (choice.content, choice.reasoning, calls_of(choice)) == ("", "", [("get_weather", PARIS)])


def test_a_named_tool_may_be_called_after_reasoning() -> None:
    """Reasoning before such an object stays reasoning, inline or in its own field."""
    for message in (
        {"reasoning": "\nParis.\n", "content": f"\n\n{PARIS}"},
        {"content": f"<think>Paris.</think>{PARIS}"},
    ):
        choice = both_ways(NAMED, message)
        assert (choice.content, choice.reasoning, calls_of(choice)) == ("", "Paris.", [("get_weather", PARIS)])


@pytest.mark.parametrize(
    ("text", "content", "called"),
    [
        pytest.param('{"city": "Par', "", [("get_weather", '{"city": "Par')], id="cut"),
        pytest.param('<tool_call>\n{"', "", [("get_weather", '{"')], id="cut before the name"),
        pytest.param(written(PARIS), "", [("get_weather", PARIS)], id="the whole call"),
        pytest.param("I cannot do that.", "I cannot do that.", [], id="a refusal"),
        pytest.param(f"Here: {PARIS}", f"Here: {PARIS}", [], id="an object within a text"),
        pytest.param("", "", [], id="nothing"),
    ],
)
def test_only_an_object_or_a_call_is_a_call_of_the_named_tool(
    text: str, content: str, called: list[tuple[str, str]]
) -> None:
    """An object or a call, even truncated, is a call of the named tool; other text stays text."""
    choice = both_ways(NAMED, {"content": text}, finish="length")
    assert (choice.content, calls_of(choice), choice.finish_reason) == (content, called, "length")


def test_the_arguments_of_a_named_tool_stream() -> None:
    """The arguments stream as they arrive; id and name come once."""
    outcome = decode(stream(*({"content": piece} for piece in ("{", '"city": ', '"Paris"}'))), expected=NAMED)
    assert [call for delta in outcome.deltas for call in delta.tool_calls] == [
        ToolCallDelta(0, ANY, "get_weather", "{"),
        ToolCallDelta(0, arguments='"city": '),
        ToolCallDelta(0, arguments='"Paris"}'),
    ]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_alone_is_the_answer_if_thinking_is_off(field: str) -> None:
    """With thinking off, a complete answer in the reasoning field is the answer; otherwise it is reasoning."""
    message = {field: "\nIt is Paris.\n", "content": None}
    said = [
        (choice.content.strip("\n"), choice.reasoning)
        for choice in (
            both_ways(NO_THINKING, message),
            both_ways(DEFAULT_OPTIONS, message),
            both_ways(NO_THINKING, message, finish="length"),
        )
    ]
    assert said == [("It is Paris.", ""), ("", "It is Paris."), ("", "It is Paris.")]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_before_an_answer_is_reasoning_with_thinking_off(field: str) -> None:
    """Reasoning followed by an answer or a call stays reasoning."""
    off = DecodingOptions(tools=True, thinking_off=True)
    choice = both_ways(off, {field: "\nHm.\n", "content": "\n\nParis."})
    assert (choice.reasoning, choice.content) == ("Hm.", "Paris.")
    choice = both_ways(off, {field: "\nHm.\n", **native(PARIS)}, finish="tool_calls")
    assert (choice.reasoning, choice.content, calls_of(choice)) == ("Hm.", "", [("get_weather", PARIS)])
    choice = both_ways(off, {field: "\nHm.\n", "content": f"\n\n{written(PARIS)}"})
    assert (choice.reasoning, choice.content, calls_of(choice)) == ("Hm.", "", [("get_weather", PARIS)])


def test_reasoning_comes_with_the_first_text_if_thinking_is_off() -> None:
    """Reasoning that was held back is passed on as soon as there is an answer."""
    outcome = decode(stream({"reasoning": "Hm."}, {"content": "Par"}, {"content": "is."}), expected=NO_THINKING)
    parts = [(delta.reasoning, delta.content) for delta in outcome.deltas if delta.reasoning or delta.content]
    assert parts == [("Hm.", "Par"), ("", "is.")]


def test_inline_reasoning_is_reasoning_with_thinking_off() -> None:
    """Inline reasoning followed by an answer stays reasoning too."""
    choice = both_ways(NO_THINKING, {"content": "<think>\nHm.\n</think>\n\nParis."})
    assert (choice.reasoning, choice.content) == ("Hm.", "Paris.")
    choice = both_ways(NO_THINKING, {"content": "<think>\n\n</think>\n\nParis."})
    assert (choice.reasoning, choice.content) == ("", "Paris.")


def test_calls_in_the_reasoning_field_are_calls_if_thinking_is_off() -> None:
    """With thinking off, calls in the reasoning field are calls, for named tools too."""
    for expected, text in ((TOOLS, f"I look.\n{written(PARIS)}"), (NAMED, PARIS)):
        off = expected._replace(thinking_off=True)
        choice = both_ways(off, {"reasoning": text})
        assert (choice.reasoning, calls_of(choice)) == ("", [("get_weather", PARIS)])
        assert choice.content == ("I look." if expected is TOOLS else "")


def test_a_broken_stream_keeps_text_held_back() -> None:
    """If the stream breaks, the partial answer contains the text held back from the reasoning field."""
    outcome = decode(events(chunk({"reasoning": "It is Par"})), expected=NO_THINKING)
    assert outcome.failed == ("StreamInterruptedError", "the answer stopped before its end")
    first = outcome.completion.first
    assert first.content + first.reasoning == "It is Par"


def test_reasoning_held_back_prevents_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reasoning that is held back counts as progress, so the call does not time out."""
    clock = itertools.count(0, 10)
    for module in ("_client.call", "_transport.deadline"):
        monkeypatch.setattr(f"tir_qwen.{module}.monotonic", lambda: next(clock))
    dialect = dialect_of([{"role": "user", "content": "?"}], {"enable_thinking": False}, Capabilities())
    call = Call(dialect, lambda *_: Request("", {}, b""), RetryPolicy(), Deadline(Timeout(None, 80, 30)))
    pieces = [
        *(events(chunk({"reasoning": "Hm. "})) for _ in range(9)),
        events(chunk({"content": "Yes."}, "stop"), DONE),
    ]
    deltas = [delta for piece in pieces for delta in call.feed(piece)]
    assert ("".join(delta.reasoning for delta in deltas), deltas[-2].content) == ("Hm. " * 9, "Yes.")


@pytest.mark.parametrize(
    ("deltas", "finish"),
    [
        pytest.param([native(PARIS, LONDON, first=0)], "tool_calls", id="whole calls"),
        pytest.param([native("{}", first=0)], "tool_calls", id="a call without arguments"),
        pytest.param([native("", first=0)], "length", id="cut before its arguments"),
        pytest.param([native('{"city": "a" "b"}', first=0)], "tool_calls", id="a malformed call"),
        pytest.param([native(PARIS, '{"city"', first=0)], "length", id="a cut call"),
        pytest.param([{"content": ""}], "length", id="nothing"),
        pytest.param([{"content": "I look.\n"}, native(PARIS, first=0)], "tool_calls", id="words and a call"),
        pytest.param([{"content": written(PARIS)}], "tool_calls", id="a call in the text"),
        pytest.param([{"content": written(PARIS)[:20]}], "length", id="cut in its name"),
        pytest.param([{"content": "I look.\n" + written(PARIS)[:20]}], "length", id="words, and cut in its name"),
        pytest.param([{"content": written(PARIS)[:50]}], "length", id="cut in its arguments"),
    ],
)
def test_a_missing_finish_reason_is_inferred_from_the_calls(deltas: list[dict[str, Any]], finish: str) -> None:
    """Without a finish reason, complete calls give `tool_calls`, and anything truncated or empty gives `length`."""
    outcome = decode(events(*map(chunk, deltas), DONE), expected=TOOLS)
    assert outcome.error is None
    assert outcome.completion.finish_reason == finish
    assert [delta.finish_reason for delta in outcome.deltas if delta.finish_reason] == [finish]


@pytest.mark.parametrize("text_calls", ["unparsed", "prompted"])
@pytest.mark.parametrize("end", ["<tool_call>", "<tool_call>\n"])
@pytest.mark.parametrize("said", ["I look.", written(PARIS)], ids=["text", "a call"])
def test_the_tag_of_a_call_that_was_cut_off_is_not_text(text_calls: Any, end: str, said: str) -> None:
    """If `max_tokens` cuts an answer off right after the tag of a call, the answer ends before the tag."""
    options = TOOLS._replace(text_calls=text_calls)
    cut = both_ways(options, {"content": f"{said}\n{end}"}, finish="length")
    whole = both_ways(options, {"content": f"{said}\n"}, finish="length")
    assert (cut.content.rstrip("\n"), cut.tool_calls) == (whole.content.rstrip("\n"), whole.tool_calls)
    assert "<tool_call>" in both_ways(options, {"content": f"{said}\n{end}"}).content


@pytest.mark.parametrize("expected", [DEFAULT_OPTIONS, NO_THINKING, TOOLS], ids=["nothing", "no thinking", "tools"])
def test_a_text_without_a_finish_reason_has_none(expected: DecodingOptions) -> None:
    """The finish reason of a text is not inferred."""
    outcome = decode(events(chunk({"content": "Paris."}), DONE), expected=expected)
    assert outcome.error is None
    assert outcome.said == ("", "Paris.", [], None)


UNTAGGED = DecodingOptions(tools=True, required_tool="get_weather", text_calls="prompted")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "get_weather", "arguments": {"city": "Paris"}}', '{"city":"Paris"}'),
        ('{"name": "get_weather", "parameters": {}}', "{}"),
        ('{"name": "Paris", "arguments": {"x": 1}}', '{"name": "Paris", "arguments": {"x": 1}}'),
        ('{"city": "Paris"}', '{"city": "Paris"}'),
        ('{"name": "Paris"}', '{"name": "Paris"}'),
        ('{"name": "get_weather", "arguments": {"city": "Pa', '{"name": "get_weather", "arguments": {"city": "Pa'),
    ],
)
def test_a_prompted_named_call_needs_no_tags(text: str, arguments: str) -> None:
    """If the tools are in the messages, a call of the named tool may come without tags."""
    for pieces in ([text], list(text)):
        body = events(*(chunk({"content": piece}) for piece in pieces), chunk({}, "stop"), DONE)
        assert decode(body, expected=UNTAGGED).said == ("", "", [("get_weather", arguments)], "stop")
