"""Accumulation of deltas into a completion."""

from __future__ import annotations

from ..types import JSON, Choice, Completion, Delta, ToolCall, Usage
from .arguments import REPEATED


class Accumulator:
    """Accumulates the deltas of a response: call `add` with each, and `completion` at any time."""

    __slots__ = ("_choices", "_response", "_usage")

    def __init__(self) -> None:
        self._choices: dict[int, _ChoiceAccumulator] = {}
        self._response: JSON = {}
        self._usage: Usage | None = None

    def add(self, delta: Delta) -> None:
        """Add one delta."""
        if delta.response:
            self._response.update(delta.response)
        if delta.last:
            self._usage = delta.usage
            return
        choice = self._choices.get(delta.index)
        if choice is None:
            choice = self._choices[delta.index] = _ChoiceAccumulator()
        choice.add(delta)

    def tool_calls(self, index: int = 0) -> list[ToolCall]:
        """Return the tool calls of one choice that have arrived so far."""
        choice = self._choices.get(index)
        return choice.tool_calls() if choice else []

    def completion(self) -> Completion:
        """Return everything that has arrived so far."""
        choices = [self._choices[index].choice(index) for index in sorted(self._choices)]
        return Completion(choices, self._usage, dict(self._response))


class _ChoiceAccumulator:
    """The parts of one choice, joined on demand: appending to a string takes quadratic time in the worst case."""

    __slots__ = ("calls", "content", "finish_reason", "logprobs", "reasoning", "stop_reason")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, _ToolCallAccumulator] = {}
        self.logprobs: JSON | None = None
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None

    def add(self, delta: Delta) -> None:
        if delta.replaces:
            self.content.clear()
            self.logprobs = None
        if delta.content:
            self.content.append(delta.content)
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
        for piece in delta.tool_calls:
            call = self.calls.get(piece.index)
            if call is None:
                call = self.calls[piece.index] = _ToolCallAccumulator()
            call.id = call.id or piece.id
            call.name = call.name or piece.name
            call.arguments.append(piece.arguments)
            call.error = piece.error or call.error
        if delta.logprobs:
            self.logprobs = merge_logprobs(self.logprobs, delta.logprobs)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.stop_reason = delta.stop_reason

    def tool_calls(self) -> list[ToolCall]:
        if not self.calls:
            return []
        calls = [self.calls[index].tool_call() for index in sorted(self.calls)]
        return [call for call in calls if call.error != REPEATED] or calls

    def choice(self, index: int) -> Choice:
        return Choice(
            index=index,
            content="".join(self.content),
            reasoning="".join(self.reasoning),
            tool_calls=self.tool_calls(),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            logprobs=self.logprobs and merge_logprobs(None, self.logprobs),
        )


class _ToolCallAccumulator:
    __slots__ = ("arguments", "error", "id", "name")

    def __init__(self) -> None:
        self.id: str | None = None
        self.name: str | None = None
        self.arguments: list[str] = []
        self.error: str | None = None

    def tool_call(self) -> ToolCall:
        return ToolCall(self.id or "", self.name or "", "".join(self.arguments), self.error)


def merge_logprobs(merged: JSON | None, more: JSON) -> JSON:
    """Append the token lists of `more` to those of `merged`, which is changed in place and returned."""
    merged = {} if merged is None else merged
    for key, value in more.items():
        if isinstance(value, list):
            if not isinstance(merged.get(key), list):
                merged[key] = []  # a new list, so that the chunk's own is not modified
            merged[key] += value
        elif value is not None or key not in merged:
            merged[key] = value
    return merged
