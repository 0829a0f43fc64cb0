"""The public methods of both integrations, each as a function that returns an `Answer`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from langchain_core.messages import AIMessage
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, ThinkingBlock, ToolCallBlock

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen

Turns = Sequence[tuple[str, str]]
"""A conversation as LangChain writes it: `[("system", "..."), ("user", "...")]`."""


@dataclass
class Answer:
    """What a user gets, from either integration."""

    content: str
    reasoning: str = ""
    finish_reason: str | None = "stop"
    usage: tuple[int, int, int] | None = None
    """Tokens of the prompt, of the answer, and of both."""
    tool_calls: list[tuple[str, Any]] = field(default_factory=list)
    pieces: int = field(default=1, compare=False)
    call_ids: list[Any] = field(default_factory=list, compare=False)
    details: tuple[int | None, int | None] = field(default=(None, None), compare=False)
    """Cached tokens of the prompt, and tokens of the reasoning, where the server counts them."""


@dataclass(frozen=True)
class Way:
    """One public method; `cassette` is the form of its response, whole or streamed."""

    name: str
    ask: Callable[..., Awaitable[Answer]] = field(repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def cassette(self) -> str:
        return "stream" if "stream" in self.name else "whole"

    async def __call__(self, settings: Mapping[str, Any], turns: Turns, **params: Any) -> Answer:
        """Ask a new model with these settings, passing `params` to the call."""
        return await self.ask(settings, turns, **params)


def from_message(message: AIMessage, pieces: int = 1) -> Answer:
    """Convert a LangChain message."""
    usage = message.usage_metadata
    counted: Any = usage or {}
    cached = counted.get("input_token_details", {}).get("cache_read")
    return Answer(
        content=message.text,
        reasoning=message.additional_kwargs.get("reasoning_content", ""),
        finish_reason=message.response_metadata.get("finish_reason"),
        usage=usage and (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]),
        tool_calls=[(call["name"], call["args"]) for call in message.tool_calls],
        pieces=pieces,
        call_ids=[call["id"] for call in message.tool_calls],
        details=(cached, counted.get("output_token_details", {}).get("reasoning")),
    )


def from_chunks(chunks: Iterable[Any]) -> Answer:
    """Merge LangChain's chunks and convert them."""
    chunks = list(chunks)
    return from_message(reduce(add, chunks), len(chunks))


def from_response(response: ChatResponse, pieces: int = 1) -> Answer:
    """Convert a LlamaIndex response."""
    usage = response.raw["usage"]
    read, written = ((usage or {}).get(f"{part}_tokens_details") or {} for part in ("prompt", "completion"))
    calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    return Answer(
        content=response.message.content or "",
        reasoning="".join(block.content for block in response.message.blocks if isinstance(block, ThinkingBlock)),
        finish_reason=response.raw["choices"][0]["finish_reason"],
        usage=usage and (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]),
        tool_calls=[(block.tool_name, block.tool_kwargs) for block in calls],
        pieces=pieces,
        call_ids=[block.tool_call_id for block in calls],
        details=(read.get("cached_tokens"), written.get("reasoning_tokens")),
    )


def from_responses(responses: Iterable[ChatResponse]) -> Answer:
    """Convert the last LlamaIndex response; check that all deltas add up to it."""
    responses = list(responses)
    answer = from_response(responses[-1], len(responses))
    assert "".join(response.delta or "" for response in responses) == answer.content
    assert "".join(response.additional_kwargs.get("thinking_delta", "") for response in responses) == answer.reasoning
    return answer


def from_completion(response: CompletionResponse, pieces: int = 1) -> Answer:
    """Convert a LlamaIndex completion."""
    usage = response.raw["usage"]
    return Answer(
        content=response.text,
        reasoning=response.additional_kwargs.get("thinking", ""),
        finish_reason=response.raw["choices"][0]["finish_reason"],
        usage=usage and (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]),
        pieces=pieces,
    )


def from_completions(responses: Iterable[CompletionResponse]) -> Answer:
    """Convert the last LlamaIndex completion; check that all deltas add up to it."""
    responses = list(responses)
    answer = from_completion(responses[-1], len(responses))
    assert "".join(response.delta or "" for response in responses) == answer.content
    return answer


def chat_messages(turns: Turns) -> list[ChatMessage]:
    """Convert LangChain's role and content pairs to LlamaIndex's messages."""
    return [ChatMessage(content, role=role) for role, content in turns]


async def _invoke(settings, turns, **params):
    return from_message(ChatTIRQwen(**settings).invoke(turns, **params))


async def _ainvoke(settings, turns, **params):
    return from_message(await ChatTIRQwen(**settings).ainvoke(turns, **params))


async def _stream(settings, turns, **params):
    return from_chunks(ChatTIRQwen(**settings).stream(turns, **params))


async def _astream(settings, turns, **params):
    return from_chunks([chunk async for chunk in ChatTIRQwen(**settings).astream(turns, **params)])


async def _chat(settings, turns, **params):
    return from_response(TIRQwen(**settings).chat(chat_messages(turns), **params))


async def _achat(settings, turns, **params):
    return from_response(await TIRQwen(**settings).achat(chat_messages(turns), **params))


async def _stream_chat(settings, turns, **params):
    return from_responses(TIRQwen(**settings).stream_chat(chat_messages(turns), **params))


async def _astream_chat(settings, turns, **params):
    responses = await TIRQwen(**settings).astream_chat(chat_messages(turns), **params)
    return from_responses([response async for response in responses])


async def _complete(settings, turns, **params):
    return from_completion(TIRQwen(**settings).complete(turns[0][1], **params))


async def _acomplete(settings, turns, **params):
    return from_completion(await TIRQwen(**settings).acomplete(turns[0][1], **params))


async def _stream_complete(settings, turns, **params):
    return from_completions(TIRQwen(**settings).stream_complete(turns[0][1], **params))


async def _astream_complete(settings, turns, **params):
    responses = await TIRQwen(**settings).astream_complete(turns[0][1], **params)
    return from_completions([response async for response in responses])


CHATS = [
    Way(ask.__name__[1:], ask)
    for ask in (_invoke, _ainvoke, _stream, _astream, _chat, _achat, _stream_chat, _astream_chat)
]
"""Both faces, whole and streamed, synchronous and not."""
WAYS = [
    *CHATS,
    *(Way(ask.__name__[1:], ask) for ask in (_complete, _acomplete, _stream_complete, _astream_complete)),
]
"""Those, and LlamaIndex's completions, which take one user's message."""
SYNC = [way for way in CHATS if way.name in ("invoke", "stream", "chat", "stream_chat")]
"""One of each wire form and face, where it is the mapping that is tested."""
