"""LlamaIndex LLMs, all used in the same way, and LlamaIndex's floor: an LLM with ready-made answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    ContentBlock,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import LLM
from pydantic import PrivateAttr

from .plain import Raw
from .work import TOOL, Seen, Work, usage


class Model:
    """An LLM to measure."""

    def __init__(self, make: Callable[[], LLM]) -> None:
        self._llm = make()

    def llm(self, work: Work) -> LLM:
        """Return the LLM for this work."""
        return self._llm

    def stream(self, work: Work) -> Seen:
        """Consume a stream."""
        read, count, characters = _reader(work.kind), 0, 0
        for response in self.llm(work).stream_chat(_messages(work)):
            if number := read(response):
                count += 1
                characters += number
        return Seen(count, characters)

    async def astream(self, work: Work) -> Seen:
        """Like `stream`, asynchronously."""
        read, count, characters = _reader(work.kind), 0, 0
        async for response in await self.llm(work).astream_chat(_messages(work)):
            if number := read(response):
                count += 1
                characters += number
        return Seen(count, characters)

    def call(self, work: Work) -> Seen:
        """Request a non-streaming answer."""
        return Seen(1, len(self.llm(work).chat(_messages(work)).message.content or ""))

    async def acall(self, work: Work) -> Seen:
        """Like `call`, asynchronously."""
        return Seen(1, len((await self.llm(work).achat(_messages(work))).message.content or ""))


def _reader(kind: str) -> Callable[[ChatResponse], int]:
    """Return a function that counts the new characters in a response."""
    if kind == "text":
        return lambda response: len(response.delta or "")
    if kind == "reasoning":
        return lambda response: len(response.additional_kwargs.get("thinking_delta") or "")
    before = 0

    def arguments(response: ChatResponse) -> int:
        nonlocal before
        block = next((block for block in response.message.blocks if isinstance(block, ToolCallBlock)), None)
        now = len(block.tool_kwargs) if block and isinstance(block.tool_kwargs, str) else before
        new, before = now - before, now
        return new

    return arguments


@lru_cache
def _messages(work: Work) -> list[ChatMessage]:
    return [ChatMessage(role=message["role"], content=message["content"]) for message in work.wire]


class FloorLLM(CustomLLM):
    """Builds only the objects that every integration has to build from an answer."""

    _work: Work = PrivateAttr()
    _engine: Raw | None = PrivateAttr(default=None)
    """If set, non-streaming answers are also requested from it, and discarded."""

    @property
    def metadata(self) -> LLMMetadata:
        """The metadata that core requires."""
        return LLMMetadata(is_chat_model=True, is_function_calling_model=True, model_name="qwen3_32b")

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Yield responses that each contain the message so far."""

        def responses() -> ChatResponseGen:
            so_far = ""
            for text in self._work.texts:
                so_far += text
                yield _response(self._work.kind, so_far, text)

        return responses()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Like `stream_chat`, asynchronously."""

        async def responses() -> ChatResponseAsyncGen:
            so_far = ""
            for text in self._work.texts:
                so_far += text
                yield _response(self._work.kind, so_far, text)

        return responses()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return a non-streaming answer."""
        if self._engine:
            self._engine.call(self._work)
        return self._whole()

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Like `chat`, asynchronously."""
        if self._engine:
            await self._engine.acall(self._work)
        return self._whole()

    def _whole(self) -> ChatResponse:
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[TextBlock(text=self._work.whole)])
        counts = usage(self._work)
        return ChatResponse(message=message, raw={"usage": counts}, additional_kwargs=counts)

    def complete(self, *args: Any, **kwargs: Any) -> CompletionResponse:
        """Not measured."""
        raise NotImplementedError

    def stream_complete(self, *args: Any, **kwargs: Any) -> CompletionResponseGen:
        """Not measured."""
        raise NotImplementedError


def _response(kind: str, so_far: str, text: str) -> ChatResponse:
    block: ContentBlock
    if kind == "text":
        block = TextBlock(text=so_far)
    elif kind == "reasoning":
        block = ThinkingBlock(content=so_far)
    else:
        block = ToolCallBlock(tool_name=TOOL, tool_kwargs=so_far)
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, blocks=[block]),
        delta=text if kind == "text" else "",
        raw=None,
        additional_kwargs={"thinking_delta": text} if kind == "reasoning" else {},
    )


class Floor(Model):
    """The cost of LlamaIndex itself or, with an engine, the lower limit for any integration that uses it."""

    def __init__(self, engine: Raw | None = None) -> None:
        super().__init__(FloorLLM)
        self._engine = engine

    def llm(self, work: Work) -> LLM:
        """See `Model`."""
        assert isinstance(self._llm, FloorLLM)
        self._llm._work, self._llm._engine = work, self._engine
        return self._llm
