"""The types that calls take and return, the same for every version of the server.

A `Delta` is created for each choice of each chunk, so it has slots and is never subclassed. Usage and log-probabilities
stay the plain JSON objects that the server sent, so that fields of newer servers are not lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from ._record import Record

JSON = dict[str, Any]
"""A JSON object."""

Messages = Sequence[Mapping[str, Any]]
"""A conversation in wire format: dicts with a `role` and a `content`, oldest first."""

Validate = Callable[[str], object]
"""Raises ValueError if the JSON text in its argument is not valid."""


class Usage(TypedDict, total=False):
    """Token counts of one call, as the server reports them, including any further fields."""

    prompt_tokens: int
    """Tokens of the prompt, including the tools and the chat template."""
    completion_tokens: int
    """Tokens of the reasoning and the answer."""
    total_tokens: int
    """Tokens of the prompt, the reasoning and the answer."""
    prompt_tokens_details: JSON | None
    """Contains `cached_tokens`; None if the server does not report them."""
    completion_tokens_details: JSON | None
    """Contains `reasoning_tokens`; missing if the server does not report them, as with vLLM 0.9."""


@dataclass(slots=True, eq=False, repr=False)
class ToolCallDelta(Record):
    """A part of one tool call.

    Attributes:
        index: Position of the call in the choice, from 0.
        id: Id of the call, in its first part only.
        name: Name of the tool, in the call's first part only.
        arguments: The next part of the arguments, as JSON text that may be split anywhere.
        error: Why the call is invalid, in its last part only; None if it is valid.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    error: str | None = None


@dataclass(slots=True, eq=False, repr=False)
class Delta(Record):
    """What one chunk adds to one choice. `Client.stream` yields these.

    Attributes:
        index: Position of the choice (0 unless `n > 1`).
        content: The next part of the answer, without reasoning.
        reasoning: The next part of the reasoning, without the newlines that the chat template adds around it.
        tool_calls: The next parts of tool calls.
        finish_reason: Why the choice ended (`stop`, `length`, `tool_calls`), in its last chunk.
        stop_reason: The stop string or token id that ended it, if any.
        logprobs: Log-probabilities of this chunk's tokens, as sent by the server:
            `{"content": [{"token": ..., "logprob": ..., "top_logprobs": [...]}, ...]}`.
        usage: Token counts of the whole request, in the last delta only.
        response: Metadata of the whole response, each field once: `id`, `created` and `model` in the first delta, all
            others (`system_fingerprint`, `prompt_logprobs`, `kv_transfer_params`, ...) in the last.
        last: Whether this is the last delta of the answer.
        replaces: Number of characters to discard: all of the content so far, because it was not valid. The content
            from here on replaces it (only with `validate`).
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
    replaces: int = 0


@dataclass(slots=True, eq=False, repr=False)
class ToolCall(Record):
    """A complete tool call.

    Attributes:
        id: Id of the call; the tool's result refers to it as `tool_call_id`.
        name: Name of the tool.
        arguments: The text of a JSON object, `{}` if the model wrote none. If there is an `error`, it may be anything.
        error: Why the call is invalid and must not be run: its arguments are truncated or not a JSON object, or there
            is no such tool. None if it is valid.
    """

    id: str
    name: str
    arguments: str
    error: str | None = None


@dataclass(slots=True, eq=False, repr=False)
class Choice(Record):
    """One complete answer.

    Attributes:
        index: Position of the choice, from 0 (always 0 unless `n > 1`).
        content: The answer, without reasoning.
        reasoning: The reasoning, without the newlines that the chat template adds around it; empty if there was none.
        tool_calls: The tool calls, in the model's order.
        finish_reason: Why the answer ended: `stop`, `length` (truncated by `max_tokens` or the context window),
            `tool_calls`; None if it is incomplete.
        stop_reason: The stop string or token id that ended it, if any.
        logprobs: Log-probabilities of its tokens, as sent by the server.
    """

    index: int = 0
    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: JSON | None = None


@dataclass(slots=True, eq=False, repr=False)
class Completion(Record):
    """A complete response. `content`, `reasoning`, `tool_calls` and `finish_reason` are those of its first choice.

    Attributes:
        choices: The answers: one, or `n`. Empty if nothing had arrived (in the `partial` of an error).
        usage: Token counts; None if the server reported none.
        response: Metadata of the whole response: `id`, `created` (Unix time in seconds), `model`,
            `system_fingerprint`, `prompt_logprobs` and whatever else the server reports.
    """

    choices: list[Choice] = field(default_factory=list)
    usage: Usage | None = None
    response: JSON = field(default_factory=dict)

    @property
    def first(self) -> Choice:
        """The first choice, or an empty one if nothing had arrived."""
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
        """Why the first choice ended: `stop`, `length`, `tool_calls`; None if it is incomplete."""
        return self.first.finish_reason

    @property
    def id(self) -> str | None:
        """The server's id of the response."""
        return self.response.get("id")

    @property
    def model(self) -> str | None:
        """Name of the model that answered, as the server reports it."""
        return self.response.get("model")


@dataclass(slots=True, eq=False, repr=False)
class Embeddings(Record):
    """The vectors of texts. `Client.embed` returns it. Its repr shows only their number and length.

    Attributes:
        vectors: One vector for each text, in the same order: a list of floats.
        usage: Token counts of all requests together; None if the server reported none.
        model: Name of the model that computed the vectors, as the server reports it; None if there were no texts.
    """

    vectors: list[list[float]] = field(default_factory=list)
    usage: Usage | None = None
    model: str | None = None

    def __repr__(self) -> str:
        # `asyncio.run` builds the repr of its result, which would take longer than the requests.
        length = len(self.vectors[0]) if self.vectors else 0
        return (
            f"<Embeddings: {len(self.vectors)} vectors of {length} numbers, usage={self.usage}, model={self.model!r}>"
        )
