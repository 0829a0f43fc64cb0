"""Deltas to a completion: what a stream said, as a whole (pure)."""

from __future__ import annotations

from .types import JSON, Choice, Completion, Delta, ToolCall, Usage


class Fold:
    """Gathers deltas: `add` each; `completion` may be asked at any time."""

    __slots__ = ("_choices", "_response", "_usage")

    def __init__(self) -> None:
        self._choices: dict[int, _Gathered] = {}
        self._response: JSON = {}
        self._usage: Usage | None = None

    def add(self, delta: Delta) -> None:
        """Add what one delta says."""
        if delta.response:
            self._response.update(delta.response)
        if delta.last:
            self._usage = delta.usage
            return
        gathered = self._choices.get(delta.index)
        if gathered is None:
            gathered = self._choices[delta.index] = _Gathered()
        gathered.add(delta)

    def tool_calls(self, index: int = 0) -> list[ToolCall]:
        """The tool calls of one choice as far as they have come."""
        gathered = self._choices.get(index)
        return gathered.tool_calls() if gathered else []

    def completion(self) -> Completion:
        """What has been said so far."""
        choices = [self._choices[index].choice(index) for index in sorted(self._choices)]
        return Completion(choices, self._usage, dict(self._response))


class _Gathered:
    """One choice's pieces, joined only when asked for: appending to a string is quadratic in the worst case."""

    __slots__ = ("calls", "content", "finish_reason", "logprobs", "reasoning", "stop_reason")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, _Call] = {}
        self.logprobs: JSON | None = None
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None

    def add(self, delta: Delta) -> None:
        if delta.content:
            self.content.append(delta.content)
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
        for call in delta.tool_calls:
            known = self.calls.get(call.index)
            if known is None:
                known = self.calls[call.index] = _Call()
            known.id = known.id or call.id
            known.name = known.name or call.name
            known.arguments.append(call.arguments)
        if delta.logprobs:
            self.logprobs = merge_logprobs(self.logprobs, delta.logprobs)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.stop_reason = delta.stop_reason

    def tool_calls(self) -> list[ToolCall]:
        return [self.calls[number].whole() for number in sorted(self.calls)] if self.calls else []

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


class _Call:
    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id: str | None = None
        self.name: str | None = None
        self.arguments: list[str] = []

    def whole(self) -> ToolCall:
        # vLLM 0.9 to 0.11 sends no arguments at all for a tool that takes none.
        return ToolCall(self.id or "", self.name or "", "".join(self.arguments) or "{}")


def merge_logprobs(known: JSON | None, more: JSON) -> JSON:
    """Join the token lists of two chunks; `known` is extended in place."""
    known = {} if known is None else known
    for key, value in more.items():
        if isinstance(value, list):
            if not isinstance(known.get(key), list):
                known[key] = []  # not the chunk's own list, which would grow with ours
            known[key] += value
        elif value is not None or key not in known:
            known[key] = value
    return known
