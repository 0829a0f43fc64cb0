"""Tools through the messages alone: the prompt is the one that native tools make, and calls in a text are found."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import jinja2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.decode import FIXED, pieces_of
from tests.support.paths import DATA
from tir_qwen._dialect.prompted_tools import messages_with_tools
from tir_qwen._json import parse_object
from tir_qwen._response.text import tool_calls as calls
from tir_qwen._response.text.tool_calls import ToolCallParser

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "मौसम; 天気 <now>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_time", "description": "", "parameters": {"type": "object", "properties": {}}},
}
TOOLS = [WEATHER, CLOCK]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((DATA / "chat_template.jinja").read_text(encoding="utf-8"))


TEMPLATE = _template()


def prompt(messages: Sequence[Any], tools: Sequence[Any] | None = None) -> str:
    """What the model reads: vLLM joins the parts of a content, and parses the arguments of calls, for the template."""
    shown = []
    for message in copy.deepcopy([*messages]):
        if isinstance(message.get("content"), list):
            message["content"] = "\n".join(part["text"] for part in message["content"])
        for each in message.get("tool_calls", ()):
            each["function"]["arguments"] = json.loads(each["function"]["arguments"])
        shown.append(message)
    return TEMPLATE.render(messages=shown, tools=tools, add_generation_prompt=True)


def user(content: Any = "What is the weather?") -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def called(*calls: tuple[str, str], content: str | None = "", **more: Any) -> dict[str, Any]:
    """A message that calls tools: their names and arguments."""
    wire = [
        {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": content, "tool_calls": wire, **more}


def result(content: Any) -> dict[str, Any]:
    """The result of a call."""
    return {"role": "tool", "tool_call_id": "c0", "content": content}


PARIS = ("get_weather", '{"city": "Paris"}')
PUNE = ("get_weather", '{"city": "पुणे"}')
SYSTEM = {"role": "system", "content": "Be kind.\n"}
HISTORIES: dict[str, list[dict[str, Any]]] = {
    "question": [user()],
    "system message": [SYSTEM, user()],
    "empty system message": [{**SYSTEM, "content": ""}, user()],
    "later system message": [user(), SYSTEM],
    "one call": [SYSTEM, user(), called(PARIS), result("20 °C")],
    "content is null": [user(), called(PARIS, content=None), result("20 °C")],
    "text before a call": [user(), called(PARIS, content="Let me look."), result("20 °C")],
    "parallel calls": [user(), called(PARIS, PUNE, ("get_time", "{}")), result("20"), result("30"), result("noon")],
    "calls in turn": [user(), called(PARIS), result("20"), called(PUNE), result("30")],
    "results, then a question": [user(), called(PARIS), result("20"), user("And there?")],
    "answered, and asked again": [
        *(user(), called(PARIS), result("20"), {"role": "assistant", "content": "It is 20."}, user("And Pune?")),
        *(called(PUNE), result("30")),
    ],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind."}]},
        user([{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]),
        *(called(PARIS), result([{"type": "text", "text": "20"}, {"type": "text", "text": "°C"}])),
    ],
    "reasoning in a tool loop": [
        *(user(), called(PARIS, reasoning_content="Where?\n\nParis."), result("20")),
        called(PUNE, PARIS, content="Further.", reasoning_content="Pune too."),
        *(result("30"), result("20")),
    ],
    "reasoning of an earlier turn": [user(), called(PARIS, reasoning_content="Hm."), result("20"), user("Thanks.")],
    "reasoning as text": [user(), called(PARIS, content="<think>\nHm.\n</think>\n\nI look."), result("20")],
    "empty result": [user(), called(PARIS), result(""), result(None)],
    "result that looks like one": [user(), called(PARIS), result("<tool_response>\n{}\n</tool_response>")],
    "question that looks like a result": [user("<tool_response>\n1\n</tool_response>"), called(PARIS), result("2")],
    "text that looks like a result": [user(), called(PARIS, content="<tool_response>?"), result("20"), result("30")],
    "compact arguments": [user(), called(("get_weather", '{"city":"Paris","days":[1,2]}')), result("20")],
    "escaped arguments": [user(), called(("get_weather", '{"city": "\\u092a\\u0941\\u0923\\u0947"}')), result("20")],
    "malformed arguments": [user(), called(("get_weather", json.dumps('{"city": Paris'))), result("no JSON")],
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
def test_the_prompt_is_the_native_one(history: list[dict[str, Any]]) -> None:
    """Whatever the history, the model reads what it would have read of tools in the request, with tools or without."""
    given_ = copy.deepcopy(history)
    assert prompt(messages_with_tools(history, TOOLS)) == prompt(history, TOOLS)
    assert prompt(messages_with_tools(history, [])) == prompt(history)
    assert history == given_


TEXTS = st.lists(
    st.sampled_from(["a", " ", "\n", "é", "天", "🙂", '"', "\\", "{", "}", "<tool_call>", "</tool_call>", "# Tools"])
    | st.text(max_size=3),
    max_size=5,
).map("".join)
SAID = TEXTS.map(lambda text: text.strip("\n"))  # the decoder takes the newlines off an answer and its reasoning
CALLS = st.tuples(
    st.sampled_from(["get_weather", "get_time"]),
    st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(st.booleans(), max_size=2), max_size=2),
).map(lambda call: (call[0], json.dumps(call[1], ensure_ascii=False)))


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Questions, each with calls and results in turn, and perhaps an answer."""
    messages = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(user(draw(TEXTS)))
        for _ in range(draw(st.integers(0, 2))):
            calls = draw(st.lists(CALLS, min_size=1, max_size=3))
            more = {"reasoning_content": draw(SAID)} if draw(st.booleans()) else {}
            messages.append(called(*calls, content=draw(SAID), **more))
            messages += [result(draw(TEXTS)) for _ in calls]
        if draw(st.booleans()):
            messages.append({"role": "assistant", "content": draw(SAID)})
    return messages


@FIXED
@given(history=conversations(), offered=st.booleans())
def test_any_prompt_is_the_native_one(history: list[dict[str, Any]], offered: bool) -> None:
    """The prompts are equal for conversations of any kind."""
    tools = TOOLS if offered else []
    assert prompt(messages_with_tools(history, tools)) == prompt(history, tools)


def test_arguments_that_quote_a_think_tag() -> None:
    """A call of the past whose arguments hold `</think>` still stands whole in the prompt, name and all."""
    arguments = '{"text": "a</think>b"}'
    written = prompt(messages_with_tools([user(), called(("note", arguments)), result("ok")], []))
    text = written.partition("<|im_start|>assistant\n")[2].partition("<|im_end|>")[0]
    found = [(each[1], parse_object(each[2])) for each in read(text) if isinstance(each, tuple)]
    assert found == [("note", json.loads(arguments))]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (None, ""),
        ("auto", ""),
        ("required", "\n\nAnswer with one or more function calls, and nothing else."),
        (
            {"type": "function", "function": {"name": "get_time"}},
            "\n\nAnswer with a call of the function get_time, and nothing else.",
        ),
    ],
)
def test_a_required_tool_is_named_in_the_prompt(choice: Any, told: str) -> None:
    """A tool that has to be called is named below the offer."""
    offer = messages_with_tools([user()], TOOLS)[0]["content"]
    assert messages_with_tools([user()], TOOLS, choice) == [{"role": "system", "content": offer + told}, user()]


def test_tool_choice_none() -> None:
    """Tools that must not be called are not offered; the calls of the past remain."""
    history = [SYSTEM, user(), called(PARIS), result("20")]
    assert messages_with_tools(history, TOOLS, "none") == messages_with_tools(history, [])


Found = list[str | tuple[str, str, str]]


def read(text: str, cuts: Sequence[int] = ()) -> Found:
    """What is found in a text that comes in pieces: texts, and calls as id, name and arguments."""
    splitter = ToolCallParser(lambda number: f"c{number}")
    found: list[Any] = []
    calls: dict[int, list[str]] = {}
    for event in [*(event for piece in pieces_of(text, cuts) for event in splitter.feed(piece)), *splitter.close()]:
        if isinstance(event, str):
            if found and isinstance(found[-1], str):
                found[-1] += event
            else:
                found.append(event)
            continue
        if event.index not in calls:
            calls[event.index] = ["", "", ""]
            found.append(calls[event.index])
        for place, piece in enumerate((event.id, event.name, event.arguments)):
            calls[event.index][place] += piece or ""
    return [each if isinstance(each, str) else tuple(each) for each in found]


def written(*inner: str) -> str:
    """Calls as the model writes them."""
    return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in inner)


ARGUMENTS = '{"city": "Paris", "near": {"a": [1, {}]}}'
QUOTED = json.dumps(ARGUMENTS)
TEXTS_WITH_CALLS: dict[str, tuple[str, Found]] = {
    "none": ("Hello {x} <b>\n", ["Hello {x} <b>\n"]),
    "one": (written('{"name": "a", "arguments": ' + ARGUMENTS + "}"), [("c0", "a", ARGUMENTS)]),
    "text around": (
        "I look.\n" + written('{"name": "a", "arguments": {}}', '{"name": "b", "arguments": {"x": "é"}}') + "\nDone.",
        ["I look.\n", ("c0", "a", "{}"), "\n", ("c1", "b", '{"x": "é"}'), "\nDone."],
    ),
    "no white space": ('<tool_call>{"name":"a","arguments":{"x":1}}</tool_call>', [("c0", "a", '{"x":1}')]),
    "arguments first": (written('{"arguments": ' + ARGUMENTS + ', "name": "a"}'), [("c0", "a", ARGUMENTS)]),
    "a string": (written('{"name": "a", "arguments": ' + QUOTED + "}"), [("c0", "a", ARGUMENTS)]),
    "a string first": (written('{"arguments": ' + QUOTED + ', "name": "a"}'), [("c0", "a", ARGUMENTS)]),
    "parameters": (written('{"name": "a", "parameters": ' + ARGUMENTS + "}"), [("c0", "a", ARGUMENTS)]),
    "null": (written('{"name": "a", "arguments": null}'), [("c0", "a", "")]),
    "missing": (written('{"name": "a"}'), [("c0", "a", "")]),
    "not an object": (written('{"name": "a", "arguments": [1, {"x": 2}]}'), [("c0", "a", '[1, {"x": 2}]')]),
    "a number": (written('{"name": "a", "arguments": 5}'), [("c0", "a", "5")]),
    "other fields": (
        written('{"id": {"name": "x"}, "name": "a", "type": "arguments", "arguments": {"name": "b"}, "z": [{}]}'),
        [("c0", "a", '{"name": "b"}')],
    ),
    "escapes": (written(r'{"n\u0061me": "\u00e9", "arguments": {"x": "\"}\\"}}'), [("c0", "é", r'{"x": "\"}\\"}')]),
    "spread out": (
        '<tool_call>\n\n  {\n  "name" : "a" ,\n"arguments" :\n{\n"x": 1\n}\n}\n\n</tool_call>',
        [("c0", "a", '{\n"x": 1\n}')],
    ),
    "quoted end": (
        written('{"name": "a", "arguments": {"x": "</tool_call> <tool_call>{"}}') + "!",
        [("c0", "a", '{"x": "</tool_call> <tool_call>{"}'), "!"],
    ),
    "in prose": ("Write `<tool_call>` and </tool_call>, or <tool_call> x", ...),  # type: ignore[dict-item]
    "end of prose": ("The mark is <tool_call>", ...),  # type: ignore[dict-item]
    "begun": ("a <tool_ca", ...),  # type: ignore[dict-item]
    "twice": ('<tool_call><tool_call>{"name": "a"}</tool_call>', ["<tool_call>", ("c0", "a", "")]),
    "never closed": ('<tool_call>\n{"name": "a", "arguments": {"x": 1}}', [("c0", "a", '{"x": 1}')]),
}


@pytest.mark.parametrize(("text", "found"), TEXTS_WITH_CALLS.values(), ids=TEXTS_WITH_CALLS.keys())
def test_calls_in_a_text(text: str, found: Any) -> None:
    """Calls are found in every spelling that models write, and all else stays text, wherever the text is cut."""
    expected = [text] if found is ... else found
    assert read(text) == expected
    assert read(text, range(len(text))) == expected
    assert [cut for cut in range(len(text)) if read(text, [cut]) != expected] == []


@FIXED
@given(names=st.lists(CALLS, min_size=1, max_size=3), between=TEXTS, cuts=st.lists(st.integers(0, 300), max_size=8))
def test_what_the_prompt_shows_is_what_is_read(names: list[tuple[str, str]], between: str, cuts: list[int]) -> None:
    """Calls that are written into the messages are read back as they were, wherever the text is cut."""
    (message,) = messages_with_tools([called(*names)], [])
    calls = [each for each in read(message["content"] + "\n" + between.replace("<", ""), cuts) if each[:1] != "\n"]
    read_back = [(each[1], json.loads(each[2])) for each in calls if isinstance(each, tuple)]
    assert read_back == [(name, json.loads(arguments)) for name, arguments in names]


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
    """Garbage is read without an error, and as the same wherever it is cut."""
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
def test_a_malformed_call_has_no_valid_arguments(inner: str) -> None:
    """A malformed call is a call whose arguments are no JSON object: the tool is never run on what was not written."""
    text = written(inner)
    (found,) = read(text)
    assert read(text, range(len(text))) == [found]
    assert not isinstance(found, str)
    assert parse_object(found[2] or "{}") is None


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
def test_a_truncated_call_has_no_valid_arguments(call: str, until: str) -> None:
    """A call that is cut before its arguments (and its name) are whole is one whose arguments are no JSON object."""
    taken = []
    for end in range(1, len(until) + 1):
        found = read("<tool_call>\n" + call[:end])
        assert len(found) == 1
        if isinstance(found[0], str) or parse_object(found[0][2] or "{}") is not None:
            taken.append((call[:end], found))
    assert taken == []


@pytest.mark.parametrize("arguments", ['{"text": "0123456789"}', '{"a": [1, 2, 3]}'])
def test_arguments_stream(arguments: str) -> None:
    """The name of a call comes as soon as it is known, and its arguments as they are written."""
    splitter = ToolCallParser(lambda number: f"c{number}")
    text = written('{"name": "a", "arguments": ' + arguments + "}")
    pieces = [event for char in text for event in splitter.feed(char)]
    assert [(piece.index, piece.id, piece.name, piece.arguments) for piece in pieces] == [
        (0, "c0", "a", ""),
        *((0, None, None, char) for char in arguments),
    ]
    assert splitter.close() == []


class _Counted:
    """A pattern that counts the characters it is given."""

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
    """A long answer in small pieces is read once, not anew with every piece."""
    counters = [_Counted(calls._START), _Counted(calls._POSSIBLE_START)]
    monkeypatch.setattr(calls, "_START", counters[0])
    monkeypatch.setattr(calls, "_POSSIBLE_START", counters[1])
    steps = []
    read_one = calls._ToolCallScanner._scan
    monkeypatch.setattr(
        calls._ToolCallScanner, "_scan", lambda call, char: (steps.append(char), read_one(call, char))[1]
    )
    text = before + unit * (60_000 // len(unit)) + after
    splitter = ToolCallParser(lambda number: f"c{number}")
    for start in range(0, len(text), 4):
        splitter.feed(text[start : start + 4])
        assert sum(counter.characters for counter in counters) + len(steps) <= 20 * (start + 100)
    splitter.close()
