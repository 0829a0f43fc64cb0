"""Deltas of a stream to LlamaIndex's responses, each of which holds the message as far as it has come (pure)."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from pydantic import PrivateAttr

from tir_qwen import Delta, ToolCall
from tir_qwen._integrations import Accumulator, PartialJSON

from ._messages import logprobs_from_wire, message_from_answer, response_from_completion


class CallingResponse(ChatResponse):
    """A response within a tool call: it knows the arguments as far as they have come without parsing them anew."""

    _growing: tuple[PartialJSON, ...] = PrivateAttr(default=())  # a factory would take pydantic 0.1 ms to call

    def arguments(self, number: int, text: str) -> dict[str, Any]:
        """What there is by now of the arguments of call `number`, whose text is `text`."""
        return self._growing[number].read(text) or {}


class ResponseStream:
    """The responses of one stream: `add` each delta. The last one holds the aggregated `raw`."""

    def __init__(self) -> None:
        self._fold = Accumulator()
        self._content = ""
        self._reasoning = ""
        self._calls: dict[int, ToolCall] = {}
        self._growing: list[PartialJSON] = []

    def add(self, delta: Delta) -> ChatResponse:
        """The response after one more delta."""
        self._fold.add(delta)
        if delta.last:
            response = response_from_completion(self._fold.completion())
            response.delta = ""
            return response
        self._content += delta.content
        self._reasoning += delta.reasoning
        for call in delta.tool_calls:
            known = self._calls.get(call.index)
            if known is None:
                known = self._calls[call.index] = ToolCall("", "", "")
                self._growing.append(PartialJSON())
            known.id = known.id or call.id or ""
            known.name = known.name or call.name or ""
            known.arguments += call.arguments
        return self._response(delta)

    def _response(self, delta: Delta) -> ChatResponse:
        said: dict[str, Any] = {"content": delta.content}
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        calls = [self._calls[index] for index in sorted(self._calls)] if self._calls else []
        response = (CallingResponse if calls else ChatResponse)(
            message=message_from_answer(self._content, self._reasoning, calls, whole=False),
            delta=delta.content,
            raw={"choices": [{"index": delta.index, "delta": said, "finish_reason": delta.finish_reason}]},
            logprobs=logprobs_from_wire(delta.logprobs),
            additional_kwargs={"thinking_delta": delta.reasoning} if delta.reasoning else {},
        )
        if isinstance(response, CallingResponse):
            response._growing = tuple(self._growing)
        return response
