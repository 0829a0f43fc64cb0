"""The body of a request, as the caller set it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..types import JSON, Messages

_TOKEN_LIMITS = ("max_completion_tokens", "max_tokens")
"""Names of the maximum number of tokens of the answer; the first takes precedence."""


class PartialAnswer(NamedTuple):
    """The beginning of an answer, for the model to continue after the end of its reasoning.

    Attributes:
        reasoning: All of the reasoning; empty if there was none.
        content: The answer so far.
    """

    reasoning: str
    content: str


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Body:
    """The fields of a request body that the caller set; None or empty means unset.

    The fields that a call may have to send differently, or not at all, are attributes. All others are in `other`.

    Attributes:
        messages: The conversation in wire format.
        tools: The tools in wire format.
        tool_choice: `auto`, `none`, `required`, or the function to call.
        parallel_tool_calls: Whether one answer may contain several tool calls.
        response_format: The format of the answer, such as a JSON schema.
        n: Number of answers.
        stop: Strings that end the answer.
        include_stop_str_in_output: Whether the answer includes the stop string that ended it.
        stream_options: Options of a stream.
        enable_thinking: The `enable_thinking` of `chat_template_kwargs`, which vLLM reads there.
        thinking_budget: Maximum number of tokens of the reasoning; requests have no field of this name.
        continues: The beginning of the answer, which is requested as its continuation.
        chat_template_kwargs: All other arguments of the chat template.
        other: All other fields, by name.
    """

    messages: Messages
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: Mapping[str, Any] | None = None
    n: int | None = None
    stop: Sequence[str] = ()
    include_stop_str_in_output: bool | None = None
    stream_options: Mapping[str, Any] | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    continues: PartialAnswer | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    other: JSON = field(default_factory=dict)

    @property
    def required_tool(self) -> str | None:
        """Name of the tool that the model must call, if `tool_choice` names one."""
        if isinstance(self.tool_choice, Mapping) and "function" in self.tool_choice:
            return str(self.tool_choice["function"]["name"])
        return None

    @property
    def forces_call(self) -> bool:
        """Whether the model must call a tool."""
        return bool(self.tools) and self.tool_choice not in (None, "auto", "none")

    @property
    def limits_thinking(self) -> bool:
        """Whether the model may think for fewer tokens than the answer may have."""
        budget, limit = self.thinking_budget, self.max_tokens
        return budget is not None and self.enable_thinking is not False and (limit is None or budget < limit)

    @property
    def max_tokens(self) -> int | None:
        """Maximum number of tokens of the answer, under either name."""
        limits = [self.other.get(name) for name in _TOKEN_LIMITS]
        return next((limit for limit in limits if isinstance(limit, int)), None)

    def limit_tokens(self, limit: int) -> None:
        """Set the maximum number of tokens of the answer, under the name that the caller used."""
        given = self.other.keys() & set(_TOKEN_LIMITS)
        self.other = {**self.other, **dict.fromkeys(given or ("max_tokens",), limit)}
        if isinstance(least := self.other.get("min_tokens"), int):
            self.other["min_tokens"] = min(least, limit)

    def spend_tokens(self, count: int) -> None:
        """Subtract tokens that have been generated from the limits of the answer."""
        left = {
            name: max(limit - count, 0)
            for name in (*_TOKEN_LIMITS, "min_tokens")
            if isinstance(limit := self.other.get(name), int)
        }
        self.other = {**self.other, **left}

    def without_token_limits(self) -> Body:
        """Return the body for an answer that is as long as the context window allows."""
        limits = (*_TOKEN_LIMITS, "min_tokens")
        return replace(self, other={name: value for name, value in self.other.items() if name not in limits})

    def fields(self) -> JSON:
        """Return the fields to send, except for the messages."""
        template = self.chat_template_kwargs
        if self.enable_thinking is not None:
            template = {"enable_thinking": self.enable_thinking, **template}
        named = {
            "tools": self.tools or None,
            "tool_choice": self.tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": self.response_format,
            "n": self.n,
            "stop": self.stop or None,
            "include_stop_str_in_output": self.include_stop_str_in_output,
            "stream_options": self.stream_options,
            "chat_template_kwargs": template or None,
        }
        return {**{name: value for name, value in named.items() if value is not None}, **self.other}
