"""The values that travel through the spine: what a server said, whichever version it is.

`Delta` is the hot one: one object for each choice of each chunk, slotted and never subclassed. Usage and
log-probabilities stay the plain JSON objects of the wire, so that nothing a newer server adds is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

JSON = dict[str, Any]
"""A JSON object, as parsed."""


class Usage(TypedDict, total=False):
    """Token counts of one call, as the server reports them: a dict, with the server's further fields if it has any."""

    prompt_tokens: int
    """Tokens of the prompt, the tools and the chat template's own included."""
    completion_tokens: int
    """Tokens of reasoning and answer together."""
    total_tokens: int
    """Tokens of prompt, reasoning and answer."""
    prompt_tokens_details: JSON | None
    """Of those, `cached_tokens`; None where the server does not say."""
    completion_tokens_details: JSON | None
    """Of those, `reasoning_tokens`; missing where the server does not say, as with vLLM 0.9."""


@dataclass(slots=True)
class ToolCallDelta:
    """A piece of one tool call.

    Attributes:
        index: Which call of the choice, from 0.
        id: The call's id, with its first piece.
        name: The tool's name, with the call's first piece.
        arguments: More of the arguments, JSON text cut anywhere.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Delta:
    """What one chunk adds to one choice; see `Client.stream`.

    Attributes:
        index: Which choice (0 unless `n > 1`).
        content: More of the answer; never holds reasoning.
        reasoning: More of the reasoning, without the newlines that the chat template puts around it.
        tool_calls: More of the tool calls.
        finish_reason: Why the choice ended (`stop`, `length`, `tool_calls`), on its last chunk.
        stop_reason: The stop string or token id that ended it, where there is one.
        logprobs: Log-probabilities of this chunk's tokens, as on the wire:
            `{"content": [{"token": ..., "logprob": ..., "top_logprobs": [...]}, ...]}`.
        usage: Token counts of the whole request; on the last delta only, whatever the server repeats.
        response: Facts about the response as a whole, each once: `id`, `created`, `model` on the first delta,
            the rest (`system_fingerprint`, `prompt_logprobs`, `kv_transfer_params`, ...) on the last.
        last: True for the delta that ends the answer.
    """

    index: int = 0
    content: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: JSON | None = None
    usage: Usage | None = None
    response: JSON | None = None
    last: bool = False


@dataclass(slots=True)
class ToolCall:
    """A whole tool call.

    Attributes:
        id: The call's id, by which the tool's result refers to it (`tool_call_id`).
        name: The tool's name.
        arguments: The model's JSON text, unparsed (`{}` where it wrote none); what `max_tokens` cut is no JSON.
    """

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Choice:
    """One whole answer.

    Attributes:
        index: Which one, from 0 (0 alone unless `n > 1`).
        content: The answer; never holds reasoning.
        reasoning: The reasoning, without the newlines that the chat template puts around it; empty if there was none.
        tool_calls: The tool calls, in the model's order.
        finish_reason: Why it ended: `stop`, `length` (cut by `max_tokens` or by the context window), `tool_calls`; None
            if it never did.
        stop_reason: The stop string or token id that ended it, where there is one.
        logprobs: Log-probabilities of its tokens, as on the wire.
    """

    index: int = 0
    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: JSON | None = None


@dataclass(slots=True)
class Completion:
    """A whole response. The first choice is within reach as `content`, `reasoning`, `tool_calls`, `finish_reason`.

    Attributes:
        choices: The answers: one, or `n`; none if nothing had arrived (of an error's `partial`).
        usage: Token counts; None if the server reported none.
        response: Facts about the response as a whole: `id`, `created` (seconds since 1970), `model`,
            `system_fingerprint`, `prompt_logprobs`, ..., whatever the server says.
    """

    choices: list[Choice] = field(default_factory=list)
    usage: Usage | None = None
    response: JSON = field(default_factory=dict)

    @property
    def first(self) -> Choice:
        """The first choice (an empty one if nothing had arrived)."""
        return self.choices[0] if self.choices else Choice()

    @property
    def content(self) -> str:
        """The answer of the first choice."""
        return self.first.content

    @property
    def reasoning(self) -> str:
        """The reasoning of the first choice."""
        return self.first.reasoning

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The tool calls of the first choice."""
        return self.first.tool_calls

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended: `stop`, `length`, `tool_calls`; None if it never did."""
        return self.first.finish_reason

    @property
    def id(self) -> str | None:
        """The server's id of the response."""
        return self.response.get("id")

    @property
    def model(self) -> str | None:
        """The model that answered, as the server names it."""
        return self.response.get("model")
