"""Conversion of a stream's deltas to LlamaIndex responses, each with the message so far."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from pydantic import PrivateAttr

from tir_qwen import Delta, ToolCall
from tir_qwen._integrations import Accumulator
from tir_qwen._integrations.partial_json import PartialJSON

from ._messages import logprobs_from_wire, message_from_answer, response_from_completion


class CallingResponse(ChatResponse):
    """A streamed response with tool calls, whose arguments are parsed incrementally."""

    _partial_arguments: tuple[PartialJSON, ...] = PrivateAttr(default=())  # pydantic takes 0.1 ms to call a factory

    def arguments(self, number: int, text: str) -> dict[str, Any]:
        """Return the arguments of call `number` that have arrived so far as `text`."""
        return self._partial_arguments[number].read(text) or {}


class ResponseStream:
    """Creates the responses of one stream: call `add` with each delta. The last one has the complete `raw`."""

    def __init__(self) -> None:
        self._accumulator = Accumulator()
        self._content = ""
        self._reasoning = ""
        self._calls: dict[int, ToolCall] = {}
        self._partial_arguments: list[PartialJSON] = []

    def add(self, delta: Delta) -> ChatResponse:
        """Add a delta and return the next response."""
        self._accumulator.add(delta)
        if delta.last:
            response = response_from_completion(self._accumulator.completion())
            response.delta = ""
            return response
        self._content = delta.content if delta.replaces else self._content + delta.content
        self._reasoning += delta.reasoning
        for piece in delta.tool_calls:
            call = self._calls.get(piece.index)
            if call is None:
                call = self._calls[piece.index] = ToolCall("", "", "")
                self._partial_arguments.append(PartialJSON())
            call.id = call.id or piece.id or ""
            call.name = call.name or piece.name or ""
            call.arguments += piece.arguments
            call.error = piece.error or call.error
        return self._response(delta)

    def _response(self, delta: Delta) -> ChatResponse:
        wire_delta: dict[str, Any] = {"content": delta.content}
        if delta.reasoning:
            wire_delta["reasoning_content"] = delta.reasoning
        calls = [self._calls[index] for index in sorted(self._calls)] if self._calls else []
        response = (CallingResponse if calls else ChatResponse)(
            message=message_from_answer(self._content, self._reasoning, calls, complete=False),
            delta=delta.content,
            raw={"choices": [{"index": delta.index, "delta": wire_delta, "finish_reason": delta.finish_reason}]},
            logprobs=logprobs_from_wire(delta.logprobs),
            additional_kwargs={"thinking_delta": delta.reasoning} if delta.reasoning else {},
        )
        if isinstance(response, CallingResponse):
            response._partial_arguments = tuple(self._partial_arguments)
        return response
