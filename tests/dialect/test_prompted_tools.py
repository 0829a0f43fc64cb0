"""Tools in the messages produce exactly the prompt that native tools produce."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.response.test_tool_calls import read
from tests.support.decode import FIXED
from tests.support.paths import DATA
from tir_qwen import ConfigurationError
from tir_qwen._dialect.prompted_tools import messages_with_tools
from tir_qwen._json import parse_object

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
    """Render the prompt as vLLM does: it joins content parts and parses the arguments of tool calls."""
    shown = []
    for message in copy.deepcopy([*messages]):
        if isinstance(message.get("content"), list):
            message["content"] = "\n".join(part["text"] for part in message["content"])
        for each in message.get("tool_calls", ()):
            each["function"]["arguments"] = json.loads(each["function"]["arguments"])
        shown.append(message)
    return TEMPLATE.render(messages=shown, tools=tools, add_generation_prompt=True)


def user(content: Any = "What is the weather?") -> dict[str, Any]:
    """Return a user message."""
    return {"role": "user", "content": content}


def called(*calls: tuple[str, str], content: str | None = "", **more: Any) -> dict[str, Any]:
    """Return an assistant message that calls tools, given their names and arguments."""
    wire = [
        {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": content, "tool_calls": wire, **more}


def result(content: Any) -> dict[str, Any]:
    """Return the result of a call."""
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
def test_the_prompt_equals_the_native_one(history: list[dict[str, Any]]) -> None:
    """For any history, the model sees the same prompt as with native tools."""
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
    """Generate questions, each followed by calls with results and sometimes by an answer."""
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
def test_any_prompt_equals_the_native_one(history: list[dict[str, Any]], offered: bool) -> None:
    """The prompts are equal for arbitrary conversations."""
    tools = TOOLS if offered else []
    assert prompt(messages_with_tools(history, tools)) == prompt(history, tools)


def test_arguments_with_a_think_tag_stay_intact() -> None:
    """An earlier call whose arguments contain `</think>` stays intact in the prompt."""
    arguments = '{"text": "a</think>b"}'
    written = prompt(messages_with_tools([user(), called(("note", arguments)), result("ok")], []))
    text = written.partition("<|im_start|>assistant\n")[2].partition("<|im_end|>")[0]
    found = [(each[0], parse_object(each[1])) for each in read(text) if isinstance(each, tuple)]
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
    """A required tool is named below the list of tools."""
    offer = messages_with_tools([user()], TOOLS)[0]["content"]
    assert messages_with_tools([user()], TOOLS, choice) == [{"role": "system", "content": offer + told}, user()]


def test_a_conversation_without_messages_gets_the_tools_alone() -> None:
    """Without messages, which are refused later, the tools are still described."""
    offer = messages_with_tools([user()], TOOLS)[:1]
    assert messages_with_tools([], TOOLS) == offer
    assert messages_with_tools([], []) == []


def test_what_cannot_be_written_as_json_is_refused() -> None:
    """A tool or an earlier call that is no JSON raises an error that does not quote it."""
    odd = {"type": "function", "function": {"name": "f", "arguments": {"a": object()}}}
    for history, tools in (([user()], [odd]), ([{"role": "assistant", "tool_calls": [odd]}], [])):
        with pytest.raises(ConfigurationError) as caught:
            messages_with_tools(history, tools)
        assert str(caught.value) == "a tool, or an earlier tool call, cannot be written as JSON."


def test_a_part_without_a_type_is_text() -> None:
    """A part of the content that has no type is text, as for vLLM, and a part of another type is refused."""
    assert messages_with_tools([{"role": "user", "content": [{"text": "a"}, {"type": "text", "text": "b"}]}], []) == [
        {"role": "user", "content": "a\nb"}
    ]
    with pytest.raises(ConfigurationError, match=r"^a message contains a part that is not text"):
        messages_with_tools([{"role": "user", "content": [{"type": "image_url", "text": "a"}]}], [])


def test_tool_choice_none_offers_no_tools() -> None:
    """With `tool_choice="none"` no tools are offered, but earlier calls remain."""
    history = [SYSTEM, user(), called(PARIS), result("20")]
    assert messages_with_tools(history, TOOLS, "none") == messages_with_tools(history, [])


@FIXED
@given(names=st.lists(CALLS, min_size=1, max_size=3), between=TEXTS, cuts=st.lists(st.integers(0, 300), max_size=8))
def test_calls_in_the_prompt_can_be_parsed_back(names: list[tuple[str, str]], between: str, cuts: list[int]) -> None:
    """Calls written into the messages are parsed back unchanged, wherever the text is cut."""
    (message,) = messages_with_tools([called(*names)], [])
    calls = [each for each in read(message["content"] + "\n" + between.replace("<", ""), cuts) if each[:1] != "\n"]
    read_back = [(each[0], json.loads(each[1])) for each in calls if isinstance(each, tuple)]
    assert read_back == [(name, json.loads(arguments)) for name, arguments in names]
