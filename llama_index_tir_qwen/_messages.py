"""Conversion of LlamaIndex messages to and from wire format."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    ContentBlock,
    DocumentBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from pydantic import BaseModel
from pydantic_core import from_json

from tir_qwen import Choice, Completion, ConfigurationError, ToolCall, Usage
from tir_qwen._integrations import add_reasoning, placeholder, tool_call_to_wire

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def messages_to_wire(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Convert a conversation to wire format.

    Raises:
        ConfigurationError: A user's message contains something that Qwen3-32B does not accept, such as an image.
    """
    wire = [message_to_wire(message, position) for position, message in enumerate(messages)]
    add_reasoning(wire, messages, _reasoning)
    return wire


def message_to_wire(message: ChatMessage, position: int = 0) -> dict[str, Any]:
    """Convert one message, without its reasoning, to wire format; errors give its `position`."""
    role = _ROLES[message.role]
    blocks = message.blocks
    if len(blocks) == 1 and isinstance(blocks[0], TextBlock):
        content = blocks[0].text
    else:
        texts = (text for block in blocks for text in _texts(block, role, f"message {position} ({role})"))
        content = "\n".join(texts)
    wire: dict[str, Any] = {"role": role, "content": content}
    if name := message.additional_kwargs.get("name"):
        wire["name"] = name
    if role == "assistant" and (calls := [*_calls_to_wire(message)]):
        wire["tool_calls"] = calls
    if role == "tool":
        wire["tool_call_id"] = message.additional_kwargs.get("tool_call_id", "")
    return wire


def _reasoning(message: ChatMessage) -> str:
    return "".join(block.content or "" for block in message.blocks if isinstance(block, ThinkingBlock))


def _texts(block: ContentBlock, role: str, where: str) -> Iterable[str]:
    if isinstance(block, TextBlock):
        yield block.text
    elif isinstance(block, CitableBlock):
        for part in block.content:
            yield from _texts(part, role, where)
    elif isinstance(block, CitationBlock):
        yield from _texts(block.cited_content, role, where)
    elif isinstance(block, DocumentBlock) and (text := _text_of_document(block)) is not None:
        yield text
    elif not isinstance(block, (ThinkingBlock, ToolCallBlock, CachePoint)):
        if role not in ("assistant", "tool"):
            raise ConfigurationError(
                f"{where} contains a block of type {block.block_type!r}: Qwen3-32B accepts text only."
            )
        yield placeholder(block.block_type)


def _text_of_document(block: DocumentBlock) -> str | None:
    """Return the text of a text file that is contained in the block; core encodes it in base64."""
    if not (isinstance(block.data, bytes) and (block.document_mimetype or "").startswith("text/")):
        return None
    try:
        return b64decode(block.data).decode()
    except ValueError:
        return None


def _calls_to_wire(message: ChatMessage) -> Iterable[dict[str, Any]]:
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    for block in blocks:
        yield tool_call_to_wire(block.tool_call_id, block.tool_name, block.tool_kwargs)
    if not blocks:  # from another LLM; these may be its provider's own objects
        calls = message.additional_kwargs.get("tool_calls") or []
        for call in calls if isinstance(calls, (list, tuple)) else [calls]:
            known = call.model_dump() if isinstance(call, BaseModel) else call
            function = known.get("function") if isinstance(known, dict) else None
            if not (isinstance(function, dict) and isinstance(function.get("name"), str)):
                raise ConfigurationError("a message holds tool calls that do not name their functions.")
            yield tool_call_to_wire(known.get("id"), function["name"], function.get("arguments"))


def tool_choice_to_wire(
    choice: str | dict[str, Any] | None, offered: Sequence[dict[str, Any]], *, required: bool
) -> str | dict[str, Any]:
    """Convert a `tool_choice` to wire format: `auto`, `none`, `any`, `required`, the name of a tool, or a dict."""
    if choice is None:
        choice = "required" if required else "auto"
    if isinstance(choice, dict) or choice in ("auto", "none"):
        return choice
    if choice in ("any", "required"):
        if len(offered) > 1 or "$defs" not in offered[0]["function"]["parameters"]:
            return "required"
        choice = offered[0]["function"]["name"]  # vLLM 0.9 rejects `required` if a schema has definitions
    return {"type": "function", "function": {"name": choice}}


def message_from_answer(content: str, reasoning: str, calls: Sequence[ToolCall], *, complete: bool) -> ChatMessage:
    """Convert an answer; the arguments of incomplete and invalid calls remain text."""
    blocks: list[ContentBlock] = []
    if reasoning:
        blocks.append(ThinkingBlock(content=reasoning))
    if content or not calls:
        blocks.append(TextBlock(text=content))
    for call in calls:
        arguments = from_json(call.arguments) if complete and call.error is None else call.arguments
        blocks.append(ToolCallBlock(tool_call_id=call.id or None, tool_name=call.name, tool_kwargs=arguments))
    # Core's streaming of structured output looks for the calls here, not among the blocks.
    additional = {"tool_calls": [{**_call(call), **_error(call)} for call in calls]} if calls else {}
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=additional)


def response_from_completion(completion: Completion) -> ChatResponse:
    """Convert the first choice of a completion; the others are in `raw`."""
    choice = completion.first
    return ChatResponse(
        message=message_from_answer(choice.content, choice.reasoning, choice.tool_calls, complete=True),
        raw=_raw(completion),
        logprobs=logprobs_from_wire(choice.logprobs),
        additional_kwargs=_counts(completion.usage),
    )


def is_complete(response: ChatResponse) -> bool:
    """Whether this is a complete answer, or the last response of a stream."""
    choices = response.raw.get("choices") if isinstance(response.raw, dict) else None
    return "message" in choices[0] if choices else False


def with_first_call(response: ChatResponse) -> ChatResponse:
    """Remove all tool calls but the first from the response."""
    message = response.message
    later = [block for block in message.blocks if isinstance(block, ToolCallBlock)][1:]
    if later:
        message.blocks = [block for block in message.blocks if not any(block is one for one in later)]
        message.additional_kwargs["tool_calls"] = message.additional_kwargs["tool_calls"][:1]
    return response


def completion_from_response(response: ChatResponse) -> CompletionResponse:
    """Convert a chat response to a completion response, with the reasoning in `additional_kwargs["thinking"]`."""
    reasoning = [block.content for block in response.message.blocks if isinstance(block, ThinkingBlock)]
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        logprobs=response.logprobs,
        additional_kwargs={**response.additional_kwargs, **({"thinking": reasoning[0]} if reasoning else {})},
    )


def _raw(completion: Completion) -> dict[str, Any]:
    """Return the response in wire format, for token counters and tracers."""
    return {
        **completion.response,
        "choices": [_raw_choice(choice) for choice in completion.choices],
        "usage": completion.usage,
    }


def _raw_choice(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.content}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [_call(call) for call in choice.tool_calls]
    return {
        "index": choice.index,
        "message": message,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _error(call: ToolCall) -> dict[str, Any]:
    return {"error": call.error} if call.error is not None else {}


def _counts(usage: Usage | None) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: count for name, count in (usage or {}).items() if name in names}


def logprobs_from_wire(logprobs: dict[str, Any] | None) -> list[list[LogProb]] | None:
    """Convert the candidate tokens at each position, or only the chosen token if there are no others."""
    if not logprobs:
        return None
    return [
        [
            LogProb(token=one["token"], logprob=one["logprob"], bytes=one.get("bytes") or [])
            for one in token.get("top_logprobs") or [token]
        ]
        for token in logprobs.get("content") or []
    ]
