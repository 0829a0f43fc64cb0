"""Conversion of LangChain messages to and from wire format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from tir_qwen import Choice, Completion, ConfigurationError, Delta, Usage
from tir_qwen._integrations import add_reasoning, error_result, tool_call_to_wire

from ._content_blocks import PROVIDER
from ._foreign_blocks import text_of_blocks
from ._tool_calls import ToolCallChunks, read_invalid_call, read_tool_call, unrepeated_invalid_calls

_ROLES = {"human": "user", "ai": "assistant", "developer": "system", "function": "tool"}
_ROLE_OF_CLASS: dict[type[BaseMessage], str] = {
    AIMessage: "assistant",
    HumanMessage: "user",
    SystemMessage: "system",
    ToolMessage: "tool",
}
REPLACED_CONTENT = "replaced_content"
"""The key in `additional_kwargs` for the number of characters at the start of a streamed text that were not valid."""
_KNOWN_ROLES = frozenset({"system", "user", "assistant", "tool"})


def messages_to_wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Convert a conversation to wire format.

    Raises:
        ConfigurationError: A user's message contains something that Qwen3-32B does not accept, such as an image, or a
            message has an unknown role.
    """
    wire = [message_to_wire(message, position) for position, message in enumerate(messages)]
    add_reasoning(wire, messages, _reasoning)
    if any(isinstance(message, AIMessage) and message.invalid_tool_calls for message in messages):
        return _with_error_results(wire, messages)
    return wire


def _with_error_results(wire: Sequence[dict[str, Any]], messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return the conversation with a result for each invalid call: LangChain's agents run only the valid ones."""
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    not_sent: set[str | None] = set()  # ids of calls that were requested again
    complete = []
    for message, original in zip(wire, messages, strict=True):
        if not (isinstance(original, ToolMessage) and original.tool_call_id in not_sent):
            complete.append(message)
        if not isinstance(original, AIMessage):
            continue
        invalid = unrepeated_invalid_calls(original)
        not_sent |= {call["id"] for call in original.invalid_tool_calls if call not in invalid}
        unanswered = [call for call in invalid if call["id"] not in answered]
        complete += [error_result(call["id"], read_invalid_call(call)[1]) for call in unanswered]
    return complete


def message_to_wire(message: BaseMessage, position: int = 0) -> dict[str, Any]:
    """Convert one message, without its reasoning, to wire format; errors give its `position`."""
    role = _ROLE_OF_CLASS.get(type(message)) or _role(message, position)
    content = message.content
    if not isinstance(content, str):
        content = text_of_blocks(content, role, f"message {position} ({message.type})")
    wire: dict[str, Any] = {"role": role, "content": content}
    if message.name:
        wire["name"] = message.name
    if isinstance(message, AIMessage):
        if replaced := message.additional_kwargs.get(REPLACED_CONTENT):
            wire["content"] = content[replaced:].lstrip("\n")
        if calls := [*_calls_to_wire(message)]:
            wire["tool_calls"] = calls
    elif isinstance(message, ToolMessage):
        wire["tool_call_id"] = message.tool_call_id
    elif isinstance(message, FunctionMessage):
        wire["tool_call_id"] = message.name  # the id that `_calls_to_wire` gives to the call
    return wire


def _role(message: BaseMessage, position: int) -> str:
    role = message.role if isinstance(message, ChatMessage) else message.type
    if isinstance(message, (AIMessage, HumanMessage, SystemMessage)):
        role = role.removesuffix("MessageChunk").lower()
    elif isinstance(message, (ToolMessage, FunctionMessage)):
        role = "tool"
    role = _ROLES.get(role, role)
    if role not in _KNOWN_ROLES:  # the server would silently ignore such a message
        raise ConfigurationError(f"message {position} has the role {role!r}, which Qwen3-32B does not support.")
    return role


def _reasoning(message: BaseMessage) -> str:
    if reasoning := message.additional_kwargs.get("reasoning_content"):
        return str(reasoning)
    blocks = message.content if isinstance(message.content, list) else []
    return "".join(
        str(block.get("reasoning") or "")
        for block in blocks
        if isinstance(block, dict) and block.get("type") == "reasoning"
    )


def _calls_to_wire(message: AIMessage) -> Iterable[dict[str, Any]]:
    for call in message.tool_calls:
        yield tool_call_to_wire(call["id"], call["name"], call["args"])
    for invalid in unrepeated_invalid_calls(message):
        yield tool_call_to_wire(invalid["id"], invalid["name"], read_invalid_call(invalid)[0])
    function = message.additional_kwargs.get("function_call")
    if function and not message.tool_calls:
        if not (isinstance(function, dict) and isinstance(function.get("name"), str)):
            raise ConfigurationError("a message contains a function_call that does not name its function.")
        yield tool_call_to_wire(function["name"], function["name"], function.get("arguments"))


def tool_choice_to_wire(choice: str | bool | dict[str, Any], tools: Sequence[dict[str, Any]]) -> str | dict[str, Any]:
    """Convert a `tool_choice`: `auto`, `none`, `any`, `required`, True, the name of one of `tools`, or a dict."""
    if isinstance(choice, dict):
        return choice
    if choice is True or choice in ("any", "required"):
        return "required"
    if choice in ("auto", "none"):
        return choice
    names = [tool["function"]["name"] for tool in tools]
    if choice not in names:
        raise ConfigurationError(f"tool_choice is {choice!r}, but the tools are {', '.join(map(repr, names))}.")
    return {"type": "function", "function": {"name": choice}}


def result_from_completion(completion: Completion) -> ChatResult:
    """Convert a completion, with all its choices, to a `ChatResult`."""
    generations = []
    for choice in completion.choices:
        message = message_from_choice(choice, completion)
        facts = message.response_metadata
        info = {key: facts[key] for key in ("finish_reason", "logprobs") if key in facts}
        generations.append(ChatGeneration(message=message, generation_info=info))
    return ChatResult(
        generations=generations,
        llm_output={"token_usage": completion.usage, "model_name": completion.model},
    )


def message_from_choice(choice: Choice, completion: Completion) -> AIMessage:
    """Convert one complete answer to an `AIMessage`."""
    calls = [read_tool_call(call) for call in choice.tool_calls]
    return AIMessage(
        content=choice.content,
        additional_kwargs={"reasoning_content": choice.reasoning} if choice.reasoning else {},
        tool_calls=[call for call in calls if call["type"] == "tool_call"],
        invalid_tool_calls=[call for call in calls if call["type"] == "invalid_tool_call"],
        usage_metadata=usage_metadata(completion.usage),
        response_metadata={
            "model_provider": PROVIDER,
            **response_metadata(completion.response),
            **_metadata(choice.finish_reason, choice.stop_reason, choice.logprobs),
        },
    )


def chunk_from_delta(delta: Delta, tool_calls: ToolCallChunks) -> ChatGenerationChunk:
    """Convert one delta to a chunk; `tool_calls` converts the tool calls of its stream.

    When LangChain merges chunks, it concatenates the strings in their metadata, so each field must be in only one of
    them, as it is in deltas. The exception is the provider: core expects it in every chunk and does not concatenate it.
    Content that was not valid stays in the sum, followed by the corrected content.
    """
    facts = response_metadata(delta.response) if delta.response else {}
    if delta.finish_reason or delta.logprobs:
        facts |= _metadata(delta.finish_reason, delta.stop_reason, delta.logprobs)
    content = delta.content
    fields: dict[str, Any] = {}  # only fields that are set, since pydantic validates empty ones too
    if delta.reasoning:
        fields["additional_kwargs"] = {"reasoning_content": delta.reasoning}
    if delta.replaces:
        content = f"\n{content}"
        fields.setdefault("additional_kwargs", {})[REPLACED_CONTENT] = delta.replaces
    if delta.last:
        fields |= {"usage_metadata": usage_metadata(delta.usage), "chunk_position": "last"}
    metadata = {"model_provider": PROVIDER, **facts}
    message = AIMessageChunk(content=content, response_metadata=metadata, **fields)
    if delta.tool_calls:
        tool_calls.add_to(message, delta.tool_calls)
    return ChatGenerationChunk(message=message, generation_info=facts or None)


def valid_text(message: BaseMessage) -> str:
    """Return the text of a message; for a sum of chunks, without content that was not valid."""
    replaced = message.additional_kwargs.get(REPLACED_CONTENT)
    return message.text[replaced:].lstrip() if replaced else message.text


def response_metadata(response: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a response under LangChain's names."""
    return {"model_name" if name == "model" else name: value for name, value in response.items()}


def _metadata(
    finish_reason: str | None, stop_reason: str | int | None, logprobs: dict[str, Any] | None
) -> dict[str, Any]:
    facts = {"finish_reason": finish_reason, "stop_reason": stop_reason, "logprobs": logprobs}
    return {name: value for name, value in facts.items() if value is not None}


def usage_metadata(usage: Usage | None) -> UsageMetadata | None:
    """Return the token counts under LangChain's names, with cached and reasoning tokens if the server reports them."""
    if not usage:
        return None
    read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    total = usage.get("total_tokens")
    counts = UsageMetadata(
        input_tokens=read, output_tokens=written, total_tokens=read + written if total is None else total
    )
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if cached is not None:
        counts["input_token_details"] = {"cache_read": cached}
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if reasoning is not None:
        counts["output_token_details"] = {"reasoning": reasoning}
    return counts
