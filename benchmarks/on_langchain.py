"""LangChain models, all used in the same way, and LangChain's floor: a model with ready-made answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from .plain import Raw
from .work import TOOL, Seen, Work, usage


class Model:
    """A chat model; `make` is passed an `output_version` if it is not the default."""

    def __init__(self, make: Callable[..., BaseChatModel]) -> None:
        self._make = lru_cache(make)

    def model(self, work: Work) -> BaseChatModel:
        """Return the model for this work."""
        return self._make(output_version="v1") if work.form == "v1" else self._make()

    def stream(self, work: Work) -> Seen:
        """Consume a stream in the way given by `work.form`."""
        if work.form == "v3":
            return self._events(work)
        chunks = self.model(work).stream(_messages(work))
        if work.form in ("fold", "sum"):
            return _added(_added_up(work.form, [*chunks]), work)
        read, count, characters = _READ[work.form, work.kind], 0, 0
        for chunk in chunks:
            if text := read(chunk):
                count += 1
                characters += len(text)
        return Seen(count, characters)

    async def astream(self, work: Work) -> Seen:
        """Like `stream`, asynchronously."""
        if work.form == "v3":
            return await self._aevents(work)
        chunks = self.model(work).astream(_messages(work))
        if work.form in ("fold", "sum"):
            return _added(_added_up(work.form, [chunk async for chunk in chunks]), work)
        read, count, characters = _READ[work.form, work.kind], 0, 0
        async for chunk in chunks:
            if text := read(chunk):
                count += 1
                characters += len(text)
        return Seen(count, characters)

    def call(self, work: Work) -> Seen:
        """Request a non-streaming answer."""
        return Seen(1, len(str(self.model(work).invoke(_messages(work)).content)))

    async def acall(self, work: Work) -> Seen:
        """Like `call`, asynchronously."""
        return Seen(1, len(str((await self.model(work).ainvoke(_messages(work))).content)))

    def _events(self, work: Work) -> Seen:
        stream = self.model(work).stream_events(_messages(work), version="v3")
        count = characters = 0
        for piece in getattr(stream, _PROJECTIONS[work.kind]):
            if text := piece["args"] if work.kind == "tool" else piece:
                count += 1
                characters += len(text)
        assert isinstance(stream.output, AIMessage)
        return Seen(count, characters)

    async def _aevents(self, work: Work) -> Seen:
        stream = await self.model(work).astream_events(_messages(work), version="v3")
        count = characters = 0
        async for piece in getattr(stream, _PROJECTIONS[work.kind]):
            if text := piece["args"] if work.kind == "tool" else piece:
                count += 1
                characters += len(text)
        assert isinstance(await stream, AIMessage)
        return Seen(count, characters)


_PROJECTIONS = {"text": "text", "reasoning": "reasoning", "tool": "tool_calls"}


def _arguments(chunk: AIMessageChunk) -> str | None:
    return chunk.tool_call_chunks[0]["args"] if chunk.tool_call_chunks else None


def _block(kind: str) -> Callable[[AIMessageChunk], Any]:
    name = {"reasoning": "reasoning", "tool": "args"}.get(kind, "text")

    def read(chunk: AIMessageChunk) -> Any:
        return next((text for block in chunk.content if isinstance(block, dict) and (text := block.get(name))), None)

    return read


_READ: dict[tuple[str, str], Callable[[AIMessageChunk], Any]] = {
    ("v0", "text"): lambda chunk: chunk.content,
    ("v0", "reasoning"): lambda chunk: chunk.additional_kwargs.get("reasoning_content"),
    ("v0", "tool"): _arguments,
    **{("v1", kind): _block(kind) for kind in ("text", "reasoning", "tool")},
}
"""How to read the text of a chunk, by form and kind."""


def _added_up(form: str, chunks: list[AIMessageChunk]) -> AIMessageChunk:
    full, *rest = chunks
    if form == "sum":
        return full + rest  # all at once
    for chunk in rest:  # one by one, as in LangChain's documentation; each step copies everything so far
        full = full + chunk
    return full


def _added(message: AIMessageChunk, work: Work) -> Seen:
    return Seen(work.chunks, len(str(message.content)))


@lru_cache
def _messages(work: Work) -> list[BaseMessage]:
    kinds = {"user": HumanMessage, "assistant": AIMessage}
    return [kinds[message["role"]](content=message["content"]) for message in work.wire]


class FloorModel(BaseChatModel):
    """Builds only the objects that every integration has to build from an answer."""

    _work: Work = PrivateAttr()
    _engine: Raw | None = PrivateAttr(default=None)
    """If set, non-streaming answers are also requested from it, and discarded."""

    def _stream(self, *args: object, **kwargs: object) -> Iterator[ChatGenerationChunk]:
        for text in self._work.texts:
            yield ChatGenerationChunk(message=_chunk(self._work.kind, text))
        yield ChatGenerationChunk(message=_last(self._work))

    async def _astream(self, *args: object, **kwargs: object) -> AsyncIterator[ChatGenerationChunk]:
        for text in self._work.texts:
            yield ChatGenerationChunk(message=_chunk(self._work.kind, text))
        yield ChatGenerationChunk(message=_last(self._work))

    def _generate(self, *args: object, **kwargs: object) -> ChatResult:
        if self._engine:
            self._engine.call(self._work)
        return self._result()

    def _result(self) -> ChatResult:
        message = AIMessage(
            content=self._work.whole,
            usage_metadata=_usage(self._work),
            response_metadata={"model_name": "qwen3_32b", "finish_reason": "stop"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, *args: object, **kwargs: object) -> ChatResult:
        if self._engine:
            await self._engine.acall(self._work)
        return self._result()

    @property
    def _llm_type(self) -> str:
        return "floor"


def _chunk(kind: str, text: str) -> AIMessageChunk:
    if kind == "text":
        return AIMessageChunk(content=text)
    if kind == "reasoning":
        return AIMessageChunk(content="", additional_kwargs={"reasoning_content": text})
    call = ToolCallChunk(name=TOOL if text[:1] == "{" else None, args=text, id=None, index=0, type="tool_call_chunk")
    return AIMessageChunk(content="", tool_call_chunks=[call])


def _last(work: Work) -> AIMessageChunk:
    facts = {"model_name": "qwen3_32b", "finish_reason": "stop"}
    return AIMessageChunk(content="", usage_metadata=_usage(work), response_metadata=facts, chunk_position="last")


def _usage(work: Work) -> UsageMetadata:
    counts = usage(work)
    return UsageMetadata(
        input_tokens=counts["prompt_tokens"],
        output_tokens=counts["completion_tokens"],
        total_tokens=counts["total_tokens"],
    )


class Floor(Model):
    """The cost of LangChain itself or, with an engine, the lower limit for any integration that uses it."""

    def __init__(self, engine: Raw | None = None) -> None:
        super().__init__(FloorModel)
        self._engine = engine

    def model(self, work: Work) -> BaseChatModel:
        """See `Model`."""
        model = super().model(work)
        assert isinstance(model, FloorModel)
        model._work, model._engine = work, self._engine
        return model
