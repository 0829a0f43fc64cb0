"""Conversion between LangChain's messages and the wire format, without a server."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
    message_chunk_to_message,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import TypeAdapter

from langchain_tir_qwen._messages import (
    chunk_from_delta,
    message_from_choice,
    messages_to_wire,
    result_from_completion,
    tool_choice_to_wire,
    usage_metadata,
)
from langchain_tir_qwen._tool_calls import ToolCallChunks, read_invalid_call
from tir_qwen import Choice, Completion, ConfigurationError, Delta, ToolCall, ToolCallDelta, Usage
from tir_qwen._integrations import REPEATED

ASK = {"type": "text", "text": "Wo?"}
CALL = {"name": "f", "args": {"city": "दिल्ली", "n": 1}, "id": "c1"}
WIRE_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city":"दिल्ली","n":1}'}}


def call(id_: str, name: str, arguments: str) -> dict[str, Any]:
    """Return a tool call in the wire format."""
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


MESSAGES: dict[str, tuple[BaseMessage, dict[str, Any]]] = {
    "system": (SystemMessage("Be kind."), {"role": "system", "content": "Be kind."}),
    "system chunk": (SystemMessageChunk(content="Be kind."), {"role": "system", "content": "Be kind."}),
    "developer": (
        SystemMessage("Be kind.", additional_kwargs={"__openai_role__": "developer"}),
        {"role": "system", "content": "Be kind."},
    ),
    "human": (HumanMessage("Hello"), {"role": "user", "content": "Hello"}),
    "human chunk": (HumanMessageChunk(content="Hello"), {"role": "user", "content": "Hello"}),
    "name": (HumanMessage("Hello", name="asha"), {"role": "user", "content": "Hello", "name": "asha"}),
    "strings": (HumanMessage(["Hello", "again"]), {"role": "user", "content": "Hello\nagain"}),
    "blocks": (HumanMessage([ASK, ASK]), {"role": "user", "content": "Wo?\nWo?"}),
    "block without type": (HumanMessage([{"text": "Wo?"}]), {"role": "user", "content": "Wo?"}),
    "plain text file": (
        HumanMessage([ASK, {"type": "text-plain", "text": "Hier.", "mime_type": "text/plain"}]),
        {"role": "user", "content": "Wo?\nHier."},
    ),
    "nothing": (HumanMessage([]), {"role": "user", "content": ""}),
    "ai": (AIMessage("Hello!"), {"role": "assistant", "content": "Hello!"}),
    "ai chunk": (AIMessageChunk(content="Hello!"), {"role": "assistant", "content": "Hello!"}),
    "ai blocks": (AIMessage(["Da", {"type": "text", "text": "."}]), {"role": "assistant", "content": "Da."}),
    "refusal": (
        AIMessage([{"type": "refusal", "refusal": "No.", "text": "No."}]),
        {"role": "assistant", "content": "No."},
    ),
    "tool calls": (
        AIMessage("", tool_calls=[CALL, {"name": "g", "args": {}, "id": "c2"}]),
        {"role": "assistant", "content": "", "tool_calls": [WIRE_CALL, call("c2", "g", "{}")]},
    ),
    "tool call chunk": (
        AIMessageChunk(
            content="",
            tool_call_chunks=[{"name": "g", "args": '{"a": 1}', "id": "c2", "index": 0, "type": "tool_call_chunk"}],
        ),
        {"role": "assistant", "content": "", "tool_calls": [call("c2", "g", '{"a":1}')]},
    ),
    "tool call without id": (
        AIMessage("", tool_calls=[{"name": "g", "args": {}, "id": None}]),
        {"role": "assistant", "content": "", "tool_calls": [call("", "g", "{}")]},
    ),
    "tool calls of OpenAI": (
        AIMessage("", additional_kwargs={"tool_calls": [call("c2", "g", '{"a": 1}')]}),
        {"role": "assistant", "content": "", "tool_calls": [call("c2", "g", '{"a":1}')]},
    ),
    "function call": (
        AIMessage("", additional_kwargs={"function_call": {"name": "g", "arguments": '{"a": 1}'}}),
        {"role": "assistant", "content": "", "tool_calls": [call("g", "g", '{"a": 1}')]},
    ),
    "function": (FunctionMessage("5", name="g"), {"role": "tool", "content": "5", "tool_call_id": "g", "name": "g"}),
    "function chunk": (
        FunctionMessageChunk(content="5", name="g"),
        {"role": "tool", "content": "5", "tool_call_id": "g", "name": "g"},
    ),
    "tool": (ToolMessage("5", tool_call_id="c1"), {"role": "tool", "content": "5", "tool_call_id": "c1"}),
    "tool chunk": (
        ToolMessageChunk(content="5", tool_call_id="c1"),
        {"role": "tool", "content": "5", "tool_call_id": "c1"},
    ),
    "tool error": (
        ToolMessage("Too hot.", tool_call_id="c1", name="g", status="error"),
        {"role": "tool", "content": "Too hot.", "tool_call_id": "c1", "name": "g"},
    ),
    "tool blocks": (
        ToolMessage([ASK, {"type": "json", "json": {"a": [1, "ü"]}}], tool_call_id="c1"),
        {"role": "tool", "content": 'Wo?\n{"a":[1,"ü"]}', "tool_call_id": "c1"},
    ),
    **{
        f"chat {role}": (ChatMessage("Hello", role=role), {"role": wire, "content": "Hello"})
        for role, wire in {
            "system": "system",
            "developer": "system",
            "user": "user",
            "human": "user",
            "assistant": "assistant",
            "ai": "assistant",
        }.items()
    },
    "chat chunk": (ChatMessageChunk(content="Hello", role="user"), {"role": "user", "content": "Hello"}),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_each_message_is_sent_with_exactly_its_fields(name: str) -> None:
    """Every kind of message is sent with its role, its text and its own fields, and nothing else."""
    message, wire = MESSAGES[name]
    assert messages_to_wire([message]) == [wire]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "reasoning", "reasoning": "Hm."},
        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "tool_call", "name": "f", "args": {}, "id": "c1"},
        {"type": "tool_call_chunk", "name": "f", "args": "{}", "id": "c1", "index": 0},
        {"type": "tool_use", "name": "f", "input": {}, "id": "c1"},
        {"type": "invalid_tool_call", "name": "f", "args": "{", "id": "c1", "error": "x"},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c1"},
        {"type": "input_json_delta", "partial_json": "{}", "index": 0},
        {"type": "server_tool_call", "name": "f", "args": {}, "id": "c1"},
    ],
    ids=lambda block: block["type"],
)
def test_blocks_beside_the_text(block: dict[str, Any]) -> None:
    """Blocks next to the text in another provider's answer, such as reasoning, do not become part of the text."""
    history = [AIMessage(["Hel", block, "lo"]), HumanMessage("And?")]
    assert messages_to_wire(history) == [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And?"}]


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("", tool_calls=[CALL], additional_kwargs={"reasoning_content": "Hm."}),
        AIMessage([{"type": "reasoning", "reasoning": part} for part in ("H", "m.")], tool_calls=[CALL]),
        AIMessage(
            [
                {"type": "reasoning"},
                {"type": "reasoning", "reasoning": "Hm."},
                "",
                {"type": "text", "text": "", "reasoning": "?"},
            ],
            tool_calls=[CALL],
        ),
    ],
    ids=["additional_kwargs", "blocks", "one of the blocks"],
)
def test_reasoning_within_a_tool_loop(message: AIMessage) -> None:
    """The reasoning that led to a tool call is sent back with it; reasoning from earlier turns is not."""
    wire = {"role": "assistant", "content": "", "tool_calls": [WIRE_CALL]}
    result, known = ToolMessage("5", tool_call_id="c1"), {"role": "tool", "content": "5", "tool_call_id": "c1"}
    user, asked = HumanMessage("Hello"), {"role": "user", "content": "Hello"}

    thought = {"reasoning_content": "Hm.", "reasoning": "Hm."}
    assert messages_to_wire([user, message, result]) == [asked, {**wire, **thought}, known]
    assert messages_to_wire([user, message, result, user]) == [asked, wire, known, asked]


CANARY = "c4n4ry"
NOT_TEXT = ["image", "image_url", "audio", "input_audio", "file", "video", "document", "media", "non_standard"]


@pytest.mark.parametrize("kind", NOT_TEXT)
@pytest.mark.parametrize("message", [HumanMessage, SystemMessage])
def test_refused_block(message: type[BaseMessage], kind: str) -> None:
    """A user's block that is not text is rejected with its position and type, without revealing its content."""
    block = {"type": kind, "url": f"https://{CANARY}", "base64": CANARY, kind: {"url": CANARY}}
    refused = message(content=[ASK, block])

    with pytest.raises(ConfigurationError) as caught:
        messages_to_wire([HumanMessage("Hello"), refused])

    words = f"message 1 ({refused.type}) contains a block of type {kind!r}: Qwen3-32B accepts text only."
    assert str(caught.value) == words


@pytest.mark.parametrize("block", [{"type": "reasoning", "reasoning": CANARY}, {"type": "tool_use", "input": CANARY}])
def test_refused_block_of_a_user(block: dict[str, Any]) -> None:
    """A block that only belongs in an answer is rejected in a user's message rather than silently dropped."""
    with pytest.raises(ConfigurationError, match=r"^message 0 \(human\) contains a block of type") as caught:
        messages_to_wire([HumanMessage([ASK, block])])
    assert CANARY not in str(caught.value)


def test_a_value_beside_the_text_of_a_block_is_not_its_text() -> None:
    """Only LangChain's own wrapper of other blocks has its content in the field `value`."""
    blocks: list[Any] = [{"type": "text", "text": "a", "value": {"type": "text", "text": "b"}}]
    blocks += [{"type": "non_standard", "value": block} for block in blocks]
    assert messages_to_wire([HumanMessage(blocks)]) == [{"role": "user", "content": "a\na"}]


@pytest.mark.parametrize("function", [{"arguments": "{}"}, {"name": 7}, "get_weather"], ids=["none", "number", "text"])
def test_a_function_call_without_a_name_is_refused(function: Any) -> None:
    """An old `function_call` of which it is not known what was called is rejected."""
    with pytest.raises(ConfigurationError) as caught:
        messages_to_wire([AIMessage("", additional_kwargs={"function_call": function})])
    assert str(caught.value) == "a message contains a function_call that does not name its function."


@pytest.mark.parametrize(
    ("message", "role"), [(ChatMessage("x", role="critic"), "critic"), (RemoveMessage(id="1"), "remove")]
)
def test_refused_role(message: BaseMessage, role: str) -> None:
    """A message with a role that the server would silently drop is rejected."""
    with pytest.raises(ConfigurationError) as caught:
        messages_to_wire([HumanMessage("Hello"), message])
    assert str(caught.value) == f"message 1 has the role {role!r}, which Qwen3-32B does not support."


@pytest.mark.parametrize(
    ("invalid", "sent", "reason"),
    [
        pytest.param(
            {"name": "g", "args": '{"a', "id": "c2", "error": "it is no JSON"},
            call("c2", "g", '"{\\"a"'),
            "it is no JSON",
            id="whole",
        ),
        pytest.param(
            {"name": "g", "args": '{"a "] // not run: it is no JSON', "id": "c2", "error": None},
            call("c2", "g", '"{\\"a"'),
            "it is no JSON",
            id="streamed",
        ),
        pytest.param(
            {"name": None, "args": None, "id": None, "error": None},
            call("", "", "{}"),
            "its arguments are not valid JSON",
            id="without anything",
        ),
    ],
)
def test_an_invalid_call_is_sent_with_what_is_wrong_with_it(invalid: Any, sent: dict[str, Any], reason: str) -> None:
    """An invalid call is sent as the model wrote it, followed by a result that says why it was not run."""
    good = {"name": "f", "args": {}, "id": "c1"}
    messages = [AIMessage("", tool_calls=[good], invalid_tool_calls=[invalid]), ToolMessage("5", tool_call_id="c1")]
    error = f"Error: this tool call was not run: {reason}. Correct it, or answer without it."
    assert messages_to_wire(messages) == [
        {"role": "assistant", "content": "", "tool_calls": [call("c1", "f", "{}"), sent]},
        {"role": "tool", "content": error, "tool_call_id": sent["id"]},
        {"role": "tool", "content": "5", "tool_call_id": "c1"},
    ]


def test_an_invalid_call_that_has_a_result_gets_no_other() -> None:
    """If a program has answered an invalid call itself, its answer is sent."""
    invalid = {"name": "g", "args": '{"a', "id": "c2", "error": "x"}
    messages = [AIMessage("", invalid_tool_calls=[invalid]), ToolMessage("Again!", tool_call_id="c2")]
    assert messages_to_wire(messages)[1:] == [{"role": "tool", "content": "Again!", "tool_call_id": "c2"}]


def test_a_whole_answer_keeps_what_the_server_said() -> None:
    """A whole answer becomes one message with all of the server's data under LangChain's names."""
    choice = Choice(
        content="It is sunny.",
        reasoning="Hm.",
        tool_calls=[ToolCall("c1", "f", '{"city": "Paris"}'), ToolCall("", "g", "{}")],
        finish_reason="tool_calls",
        stop_reason=151645,
        logprobs={"content": [{"token": "It", "logprob": -0.5}]},
    )
    usage: Usage = {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    response = {"id": "x", "created": 1, "model": "qwen3_32b", "system_fingerprint": "fp", "prompt_logprobs": [None]}

    assert message_from_choice(choice, Completion([choice], usage, response)) == AIMessage(
        content="It is sunny.",
        additional_kwargs={"reasoning_content": "Hm."},
        tool_calls=[{"name": "f", "args": {"city": "Paris"}, "id": "c1"}, {"name": "g", "args": {}, "id": None}],
        usage_metadata={
            "input_tokens": 5,
            "output_tokens": 7,
            "total_tokens": 12,
            "input_token_details": {"cache_read": 4},
            "output_token_details": {"reasoning": 3},
        },
        response_metadata={
            "model_provider": "tir_qwen",
            "model_name": "qwen3_32b",
            "id": "x",
            "created": 1,
            "system_fingerprint": "fp",
            "prompt_logprobs": [None],
            "finish_reason": "tool_calls",
            "stop_reason": 151645,
            "logprobs": {"content": [{"token": "It", "logprob": -0.5}]},
        },
    )


@pytest.mark.parametrize(
    "arguments", ['{"city": "Par', '{"city": ["Par\\', '{"a": [1, {', '{"a": [[1]', "[1]", "{}", '{"a": "b" "c"}']
)
def test_a_call_with_an_error_is_invalid(arguments: str) -> None:
    """A call that must not be run stays invalid: whole, as a sum of chunks, and after serialization."""
    choice = Choice(tool_calls=[ToolCall("c1", "f", arguments, "it is wrong")], finish_reason="tool_calls")
    whole = message_from_choice(choice, Completion([choice]))
    (invalid,) = whole.invalid_tool_calls
    assert invalid == {
        "type": "invalid_tool_call",
        "name": "f",
        "args": arguments,
        "id": "c1",
        "error": "it is wrong",
    }
    deltas = [
        Delta(tool_calls=[ToolCallDelta(0, "c1", "f", arguments[:1])]),
        Delta(tool_calls=[ToolCallDelta(0, arguments=arguments[1:])]),
        Delta(tool_calls=[ToolCallDelta(0, error="it is wrong")], finish_reason="tool_calls"),
        Delta(last=True),
    ]
    calls = ToolCallChunks()
    streamed = reduce(add, [chunk_from_delta(delta, calls).message for delta in deltas])
    messages = TypeAdapter(AnyMessage)
    for message in (
        streamed,
        message_chunk_to_message(streamed),
        *messages_from_dict(messages_to_dict([streamed])),
        messages.validate_json(messages.dump_json(streamed)),
    ):
        assert message.tool_calls == []
        (invalid,) = message.invalid_tool_calls
        assert read_invalid_call(invalid) == (arguments, "it is wrong")


def test_a_streamed_call_with_two_reasons() -> None:
    """A call that was requested again has both reasons after its arguments, and is not sent with the conversation."""
    calls = ToolCallChunks()
    parts = [
        ToolCallDelta(0, "c1", "f", "{}"),
        ToolCallDelta(0, error="a part is lost"),
        ToolCallDelta(0, error=REPEATED),
        ToolCallDelta(1, "c2", "f", '{"a":', error="it is cut off"),
    ]
    message = reduce(add, [chunk_from_delta(Delta(tool_calls=[part]), calls).message for part in parts])
    assert [read_invalid_call(call) for call in message.invalid_tool_calls] == [
        ("{}", "a part is lost; it was requested again"),
        ('{"a":', "it is cut off"),
    ]
    assert [call["id"] for call in messages_to_wire([message])[0]["tool_calls"]] == ["c2"]


def test_each_fact_of_a_delta_is_in_its_own_chunk() -> None:
    """Each value in a delta appears in the corresponding chunk, and only there."""
    chunk = chunk_from_delta(
        Delta(content="Hel", reasoning="Hm", tool_calls=[ToolCallDelta(1, "c1", "f", "{")], response={"id": "x"}),
        ToolCallChunks(),
    )
    assert (chunk.text, chunk.generation_info) == ("Hel", {"id": "x"})
    assert chunk.message.model_dump(exclude_defaults=True) == {
        "content": "Hel",
        "additional_kwargs": {"reasoning_content": "Hm"},
        "response_metadata": {"model_provider": "tir_qwen", "id": "x"},
        "tool_call_chunks": [{"name": "f", "args": "{", "id": "c1", "index": 1, "type": "tool_call_chunk"}],
        "tool_calls": [{"name": "f", "args": {}, "id": "c1", "type": "tool_call"}],
    }


def test_a_choice_of_a_tool_that_is_not_offered_is_refused() -> None:
    """The name of a tool must be one of those offered; the error names them."""
    tools = [{"function": {"name": name}} for name in ("f", "g")]
    assert tool_choice_to_wire("g", tools) == {"type": "function", "function": {"name": "g"}}
    with pytest.raises(ConfigurationError) as caught:
        tool_choice_to_wire("h", tools)
    assert str(caught.value) == "tool_choice is 'h', but the tools are 'f', 'g'."


def test_the_result_holds_every_answer_with_its_facts() -> None:
    """Each choice is a generation with its finish reason and log-probabilities; counts and model are the output."""
    logprobs = {"content": [{"token": "It", "logprob": -0.5}]}
    choices = [Choice(0, "It.", finish_reason="stop", logprobs=logprobs), Choice(1, "That.", finish_reason="length")]
    completion = Completion(choices, {"total_tokens": 3}, {"model": "m"})
    assert result_from_completion(completion) == ChatResult(
        generations=[
            ChatGeneration(
                message=message_from_choice(choices[0], completion),
                generation_info={"finish_reason": "stop", "logprobs": logprobs},
            ),
            ChatGeneration(
                message=message_from_choice(choices[1], completion), generation_info={"finish_reason": "length"}
            ),
        ],
        llm_output={"token_usage": {"total_tokens": 3}, "model_name": "m"},
    )


def test_a_later_part_of_a_call_is_an_invalid_call_of_its_chunk() -> None:
    """A later part of a call's arguments is in its chunk as it came, and is no call of its own."""
    calls = ToolCallChunks()
    chunk_from_delta(Delta(tool_calls=[ToolCallDelta(0, "c1", "f", '{"a":')]), calls)
    later = chunk_from_delta(Delta(tool_calls=[ToolCallDelta(0, arguments=" [1]")]), calls)
    assert later.message.model_dump(exclude_defaults=True) == {
        "content": "",
        "response_metadata": {"model_provider": "tir_qwen"},
        "tool_call_chunks": [{"name": None, "args": " [1]", "id": None, "index": 0, "type": "tool_call_chunk"}],
        "invalid_tool_calls": [
            {"name": None, "args": " [1]", "id": None, "error": None, "type": "invalid_tool_call"},
        ],
    }


def test_a_first_part_that_is_no_object_is_an_invalid_call_with_its_id() -> None:
    """A call whose arguments do not begin an object is an invalid call of its chunk, with all that is known of it."""
    parts = [ToolCallDelta(0, "c1", "f", "[1"), ToolCallDelta(1, "c2", "g", "{", error="it is wrong")]
    message = chunk_from_delta(Delta(tool_calls=parts), ToolCallChunks()).message
    assert isinstance(message, AIMessageChunk)
    assert message.tool_calls == []
    assert message.invalid_tool_calls == [
        invalid_tool_call(name="f", args="[1", id="c1"),
        invalid_tool_call(name="g", args="{  ] // not run: it is wrong", id="c2", error="it is wrong"),
    ]


def test_content_blocks_of_a_chunk_are_merged_by_their_own_index() -> None:
    """Each kind of block of a chunk has an index of its own, which is a string, so that core merges only its parts."""
    delta = Delta(content="Hel", reasoning="Hm", tool_calls=[ToolCallDelta(1, "c1", "f", "{")])
    assert chunk_from_delta(delta, ToolCallChunks()).message.content_blocks == [
        {"type": "reasoning", "reasoning": "Hm", "index": "lc_rs_0"},
        {"type": "text", "text": "Hel", "index": "lc_txt_0"},
        {"type": "tool_call_chunk", "id": "c1", "name": "f", "args": "{", "index": "lc_tc_1"},
    ]


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (None, None),
        ({}, None),
        ({"prompt_tokens": 1}, {"input_tokens": 1, "output_tokens": 0, "total_tokens": 1}),
        (
            {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": None},
            {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        ),
        (
            {"prompt_tokens": None, "completion_tokens": 2, "total_tokens": 3, "completion_tokens_details": {}},
            {"input_tokens": 0, "output_tokens": 2, "total_tokens": 3},
        ),
        (
            {"prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}},
            {
                "input_tokens": 0,
                "output_tokens": 0,
                "total_tokens": 0,
                "input_token_details": {"cache_read": 0},
                "output_token_details": {"reasoning": 0},
            },
        ),
    ],
)
def test_usage_is_counted_as_langchain_does(usage: Usage | None, counted: dict[str, Any] | None) -> None:
    """Usage follows LangChain's conventions, and counts the server omits are left out or zero, never guessed."""
    assert usage_metadata(usage) == counted


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("", tool_calls=[{"name": "f", "args": {"city": "\ud800"}, "id": "c1"}]),
        AIMessage("", tool_calls=[{"name": "f", "args": {"city": object()}, "id": "c1"}]),
        ToolMessage([{"type": "json", "json": "\ud800"}], tool_call_id="c1"),
    ],
    ids=["lone surrogate", "no JSON", "tool's lone surrogate"],
)
def test_what_cannot_be_json(message: BaseMessage) -> None:
    """History that cannot be serialized as JSON is rejected with a `ConfigurationError`."""
    with pytest.raises(ConfigurationError, match="cannot be written as JSON"):
        messages_to_wire([HumanMessage("Hello"), message])
