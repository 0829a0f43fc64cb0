"""Conversion between LlamaIndex's messages and the wire format, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from pydantic import BaseModel

from llama_index_tir_qwen._messages import (
    completion_from_response,
    messages_to_wire,
    response_from_completion,
    tool_choice_to_wire,
    with_first_call,
)
from llama_index_tir_qwen._stream import ResponseStream
from tir_qwen import Choice, Completion, ConfigurationError, Delta, ToolCall, ToolCallDelta, Usage

TEXT = TextBlock(text="Wo?")
CALL = ToolCallBlock(tool_call_id="c1", tool_name="f", tool_kwargs={"city": "दिल्ली", "n": 1})
WIRE_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city":"दिल्ली","n":1}'}}


def call(id_: str, name: str, arguments: str) -> dict[str, Any]:
    """Return a tool call in the wire format."""
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


class Function(BaseModel):
    """A function call as represented by OpenAI's package."""

    name: str
    arguments: str


class OpenAICall(BaseModel):
    """A tool call as represented by OpenAI's package."""

    id: str
    type: str = "function"
    function: Function


def assistant(*blocks: ContentBlock, **kwargs: Any) -> ChatMessage:
    """Return an answer with these blocks."""
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=list(blocks), additional_kwargs=kwargs)


CITED = {"title": "A page", "source": "a.txt"}
MESSAGES: dict[str, tuple[ChatMessage, dict[str, Any]]] = {
    **{
        str(role.value): (ChatMessage("Hello", role=role), {"role": wire, "content": "Hello", **more})
        for role, wire, more in (
            (MessageRole.SYSTEM, "system", {}),
            (MessageRole.DEVELOPER, "system", {}),
            (MessageRole.USER, "user", {}),
            (MessageRole.ASSISTANT, "assistant", {}),
            (MessageRole.CHATBOT, "assistant", {}),
            (MessageRole.MODEL, "assistant", {}),
            (MessageRole.TOOL, "tool", {"tool_call_id": ""}),
            (MessageRole.FUNCTION, "tool", {"tool_call_id": ""}),
        )
    },
    "nothing": (ChatMessage(role="user"), {"role": "user", "content": ""}),
    "name": (
        ChatMessage("Hello", additional_kwargs={"name": "asha"}),
        {"role": "user", "content": "Hello", "name": "asha"},
    ),
    "blocks": (ChatMessage([TEXT, TEXT]), {"role": "user", "content": "Wo?\nWo?"}),
    "cache point": (
        ChatMessage([TEXT, CachePoint(cache_control=CacheControl(type="ephemeral"))]),
        {"role": "user", "content": "Wo?"},
    ),
    "citable": (ChatMessage([CitableBlock(content=[TEXT, TEXT], **CITED)]), {"role": "user", "content": "Wo?\nWo?"}),
    "citation": (
        assistant(CitationBlock(cited_content=TEXT, additional_location_info={}, **CITED)),
        {"role": "assistant", "content": "Wo?"},
    ),
    "thinking": (assistant(ThinkingBlock(content="Hm."), TEXT), {"role": "assistant", "content": "Wo?"}),
    "thinking without words": (assistant(ThinkingBlock(), TEXT), {"role": "assistant", "content": "Wo?"}),
    "tool calls": (
        assistant(TEXT, CALL, ToolCallBlock(tool_name="g")),
        {"role": "assistant", "content": "Wo?", "tool_calls": [WIRE_CALL, call("", "g", "{}")]},
    ),
    "tool call twice": (
        assistant(CALL, tool_calls=[WIRE_CALL]),
        {"role": "assistant", "content": "", "tool_calls": [WIRE_CALL]},
    ),
    "tool call as text": (
        assistant(ToolCallBlock(tool_call_id="c1", tool_name="f", tool_kwargs='{"a": 1}')),
        {"role": "assistant", "content": "", "tool_calls": [call("c1", "f", '{"a": 1}')]},
    ),
    "broken tool call": (
        assistant(ToolCallBlock(tool_call_id="c1", tool_name="f", tool_kwargs='{"a')),
        {"role": "assistant", "content": "", "tool_calls": [call("c1", "f", '"{\\"a"')]},
    ),
    "tool calls of a dict": (
        assistant(TEXT, tool_calls=[call("c2", "g", '{"a": 1}'), call("c3", "g", "")]),
        {"role": "assistant", "content": "Wo?", "tool_calls": [call("c2", "g", '{"a": 1}'), call("c3", "g", "{}")]},
    ),
    "tool calls of OpenAI": (
        assistant(TEXT, tool_calls=[OpenAICall(id="c2", function=Function(name="g", arguments='{"a": 1}'))]),
        {"role": "assistant", "content": "Wo?", "tool_calls": [call("c2", "g", '{"a": 1}')]},
    ),
    "tool result": (
        ChatMessage("5", role="tool", additional_kwargs={"tool_call_id": "c1", "name": "f"}),
        {"role": "tool", "content": "5", "tool_call_id": "c1", "name": "f"},
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_each_message_is_sent_with_exactly_its_fields(name: str) -> None:
    """Every kind of message is sent with its role, its text and its own fields, and nothing else."""
    message, wire = MESSAGES[name]
    before = message.model_dump()
    assert messages_to_wire([message]) == [wire]
    assert message.model_dump() == before


CANARY = "c4n4ry"
NOT_TEXT: list[ContentBlock] = [
    ImageBlock(url=f"https://{CANARY}"),
    AudioBlock(url=f"https://{CANARY}"),
    VideoBlock(url=f"https://{CANARY}"),
    DocumentBlock(url=f"https://{CANARY}", title=CANARY),
]


@pytest.mark.parametrize("block", NOT_TEXT, ids=lambda block: block.block_type)
@pytest.mark.parametrize(("role", "wire"), [("user", "user"), ("developer", "system")])
def test_refused_block(block: Any, role: str, wire: str) -> None:
    """A user's block that is not text is rejected with its position and type, without revealing its content."""
    with pytest.raises(ConfigurationError) as caught:
        messages_to_wire([ChatMessage("Hello"), ChatMessage([TEXT, block], role=role)])
    words = f"message 1 ({wire}) contains a block of type {block.block_type!r}: Qwen3-32B accepts text only."
    assert str(caught.value) == words


@pytest.mark.parametrize(
    "block",
    [
        CitableBlock(content=[TEXT, NOT_TEXT[0]], **CITED),
        CitationBlock(cited_content=NOT_TEXT[0], additional_location_info={}, **CITED),
    ],
    ids=lambda block: block.block_type,
)
def test_refused_block_within_a_block(block: ContentBlock) -> None:
    """A block that is not text is also rejected within a citable block."""
    with pytest.raises(ConfigurationError, match=r"^message 0 \(user\) contains a block of type 'image'"):
        messages_to_wire([ChatMessage([block])])


COMPLETION = Completion(
    [
        Choice(
            content="It is sunny.",
            reasoning="Hm.",
            tool_calls=[
                ToolCall("c1", "f", '{"city": "Paris"}'),
                ToolCall("", "g", "{}"),
                ToolCall("c3", "h", "[1", "its arguments are not valid JSON"),
            ],
            finish_reason="tool_calls",
            stop_reason=7,
            logprobs={
                "content": [
                    {"token": "It", "logprob": -0.5, "bytes": [73, 116], "top_logprobs": []},
                    {
                        "token": " is",
                        "logprob": -1,
                        "bytes": None,
                        "top_logprobs": [
                            {"token": " is", "logprob": -1, "bytes": None},
                            {"token": "'s", "logprob": -2, "bytes": [39, 115]},
                        ],
                    },
                ]
            },
        ),
        Choice(index=1, content="Sunny.", finish_reason="stop"),
    ],
    {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 4}},
    {"id": "x", "created": 1, "model": "qwen3_32b"},
)
CALLS = [call("c1", "f", '{"city": "Paris"}'), call("", "g", "{}"), call("c3", "h", "[1")]


def test_from_completion() -> None:
    """A whole response is converted with all of the server's data in the places where core expects it."""
    assert response_from_completion(COMPLETION) == ChatResponse(
        message=ChatMessage(
            role=MessageRole.ASSISTANT,
            blocks=[
                ThinkingBlock(content="Hm."),
                TextBlock(text="It is sunny."),
                ToolCallBlock(tool_call_id="c1", tool_name="f", tool_kwargs={"city": "Paris"}),
                ToolCallBlock(tool_call_id=None, tool_name="g", tool_kwargs={}),
                ToolCallBlock(tool_call_id="c3", tool_name="h", tool_kwargs="[1"),
            ],
            additional_kwargs={"tool_calls": [*CALLS[:2], {**CALLS[2], "error": "its arguments are not valid JSON"}]},
        ),
        raw={
            "id": "x",
            "created": 1,
            "model": "qwen3_32b",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": "It is sunny.",
                        "reasoning_content": "Hm.",
                        "tool_calls": CALLS,
                    },
                    "finish_reason": "tool_calls",
                    "stop_reason": 7,
                },
                {
                    "index": 1,
                    "message": {"role": "assistant", "content": "Sunny."},
                    "finish_reason": "stop",
                    "stop_reason": None,
                },
            ],
            "usage": COMPLETION.usage,
        },
        logprobs=[
            [LogProb(token="It", logprob=-0.5, bytes=[73, 116])],
            [LogProb(token=" is", logprob=-1, bytes=[]), LogProb(token="'s", logprob=-2, bytes=[39, 115])],
        ],
        additional_kwargs={"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    )


def test_later_calls_are_dropped_everywhere() -> None:
    """Without parallel calls, only the first call remains among the blocks and in the additional data."""
    response = response_from_completion(COMPLETION)
    whole = response.model_copy(deep=True)
    assert with_first_call(response).message == ChatMessage(
        role=MessageRole.ASSISTANT,
        blocks=[
            ThinkingBlock(content="Hm."),
            TextBlock(text="It is sunny."),
            ToolCallBlock(tool_call_id="c1", tool_name="f", tool_kwargs={"city": "Paris"}),
        ],
        additional_kwargs={"tool_calls": CALLS[:1]},
    )
    assert (response.raw, response.logprobs) == (whole.raw, whole.logprobs)


@pytest.mark.parametrize(
    ("choice", "blocks"),
    [
        (Choice(content="Da."), [TextBlock(text="Da.")]),
        (Choice(), [TextBlock(text="")]),
        (Choice(reasoning="Hm."), [ThinkingBlock(content="Hm."), TextBlock(text="")]),
        (Choice(tool_calls=[ToolCall("c1", "f", "{}")]), [ToolCallBlock(tool_call_id="c1", tool_name="f")]),
    ],
    ids=["content", "nothing", "reasoning", "call"],
)
def test_a_message_without_calls_always_has_text(choice: Choice, blocks: list[ContentBlock]) -> None:
    """A message has text, even if empty, unless it calls tools: core treats a missing text as None."""
    response = response_from_completion(Completion([choice]))
    assert response.message.blocks == blocks
    assert (response.logprobs, response.additional_kwargs) == (None, {})


def test_stream_responses_hold_message_and_delta() -> None:
    """Each response of a stream has the message so far and the delta, and the last has the whole message."""
    usage: Usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    stream = ResponseStream()
    thinking = stream.add(Delta(reasoning="Hm.", response={"id": "x"}))
    text = stream.add(Delta(content="Da."))
    calling = stream.add(Delta(tool_calls=[ToolCallDelta(0, "c1", "f", '{"a"')]))
    called = stream.add(Delta(tool_calls=[ToolCallDelta(0, arguments=": 1}")], finish_reason="tool_calls"))
    last = stream.add(Delta(usage=usage, last=True))

    hm, da = ThinkingBlock(content="Hm."), TextBlock(text="Da.")
    assert (thinking.message.blocks, thinking.delta) == ([hm, TextBlock(text="")], "")
    assert thinking.additional_kwargs == {"thinking_delta": "Hm."}
    delta = {"content": "", "reasoning_content": "Hm."}
    assert thinking.raw == {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    assert (text.message.blocks, text.delta, text.additional_kwargs) == ([hm, da], "Da.", {})
    growing = [ToolCallBlock(tool_call_id="c1", tool_name="f", tool_kwargs='{"a"')]
    assert (calling.message.blocks, calling.delta) == ([hm, da, *growing], "")
    assert called.message.additional_kwargs == {"tool_calls": [call("c1", "f", '{"a": 1}')]}
    choice = Choice(0, "Da.", "Hm.", [ToolCall("c1", "f", '{"a": 1}')], "tool_calls")
    assert last == response_from_completion(Completion([choice], usage, {"id": "x"})).model_copy(update={"delta": ""})


def test_a_required_tool_with_definitions_is_named() -> None:
    """The only tool is named if its schema has definitions, which old servers do not support in any other way."""
    plain: dict[str, Any] = {"function": {"name": "f", "parameters": {}}}
    defined: dict[str, Any] = {"function": {"name": "g", "parameters": {"$defs": {}}}}
    for choice in ("any", "required", None):
        chosen = [tool_choice_to_wire(choice, tools, required=True) for tools in ([plain], [defined], [defined, plain])]
        assert chosen == ["required", {"type": "function", "function": {"name": "g"}}, "required"]


def test_a_streamed_call_without_a_name_has_an_empty_one() -> None:
    """Until the name of a call is known, its name is empty."""
    response = ResponseStream().add(Delta(tool_calls=[ToolCallDelta(0, arguments="{")]))
    assert response.message.blocks == [ToolCallBlock(tool_call_id=None, tool_name="", tool_kwargs="{")]
    assert response.message.additional_kwargs == {"tool_calls": [call("", "", "{")]}


@pytest.mark.parametrize("foreign", ["get_weather", {"function": "get_weather"}, {"function": {"name": 7}}, {}])
def test_a_foreign_call_without_a_name_is_refused(foreign: Any) -> None:
    """A tool call of another LLM of which it is not known what was called is rejected."""
    with pytest.raises(ConfigurationError) as caught:
        messages_to_wire([ChatMessage("", role="assistant", additional_kwargs={"tool_calls": [foreign]})])
    assert str(caught.value) == "a message holds tool calls that do not name their functions."


def test_completion_from_response() -> None:
    """A completion has the text of the chat response, with its reasoning and all other data."""
    response = response_from_completion(COMPLETION)
    assert completion_from_response(response) == CompletionResponse(
        text="It is sunny.",
        raw=response.raw,
        logprobs=response.logprobs,
        additional_kwargs={"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12, "thinking": "Hm."},
    )


def test_a_completion_without_text_is_empty() -> None:
    """An answer that is only a call has an empty text as a completion."""
    response = ChatResponse(message=ChatMessage([CALL], role="assistant"))
    assert completion_from_response(response) == CompletionResponse(text="")


def test_reasoning_within_a_tool_loop() -> None:
    """The reasoning that led to a tool call is sent back, as in LangChain; reasoning from earlier turns is not."""
    thought = assistant(ThinkingBlock(content="Hm."), CALL)
    result = ChatMessage("5", role="tool", additional_kwargs={"tool_call_id": "c1"})
    known = {"role": "tool", "content": "5", "tool_call_id": "c1"}
    user, asked = ChatMessage("Hello"), {"role": "user", "content": "Hello"}
    wire = {"role": "assistant", "content": "", "tool_calls": [WIRE_CALL]}

    reasoning = {"reasoning_content": "Hm.", "reasoning": "Hm."}
    assert messages_to_wire([user, thought, result, user]) == [asked, wire, known, asked]
    assert messages_to_wire([user, thought, result]) == [asked, {**wire, **reasoning}, known]


@pytest.mark.parametrize("value", ["\ud800", object()], ids=["lone surrogate", "no JSON"])
def test_what_cannot_be_json(value: object) -> None:
    """History that cannot be serialized as JSON is rejected with a `ConfigurationError`."""
    with pytest.raises(ConfigurationError, match="cannot be written as JSON"):
        messages_to_wire([assistant(ToolCallBlock(tool_name="f", tool_kwargs={"a": value}))])
