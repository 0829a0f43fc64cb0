"""What an endpoint supports, detected from what it rejects and ignores, and tried again from time to time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from .._record import Record
from ..types import Usage
from .grammar import KnownSchema
from .lesson import Lesson

logger = logging.getLogger("tir_qwen")

_FIELDS = {
    "tools": "tools",
    "parallel_switch": "parallel_tool_calls",
    "response_format": "response_format",
    "template_kwargs": "chat_template_kwargs",
    "thinking_switch": "enable_thinking",
    "stream_options": "stream_options",
    "reasoning_history": "reasoning in the history",
    "opening_tag": "reasoning between two tags",
    "streamed_calls": "complete tool calls in streams",
    "thinking_budget": "thinking_token_budget",
    "continuation": "continue_final_message",
    "base64_vectors": "vectors in base64",
}
"""The name of each capability in log messages."""
_CONSEQUENCES = {
    "tools": "does not accept tools: they are written into the messages",
    "parallel_switch": "does not accept parallel_tool_calls: surplus calls are dropped",
    "response_format": "does not enforce response_format: the schema is written into the messages",
    "template_kwargs": "does not accept chat_template_kwargs: thinking is switched by /think and /no_think",
    "thinking_switch": "ignores enable_thinking: thinking is switched by /think and /no_think",
    "stream_options": "does not accept stream_options: streams have no token counts",
    "reasoning_history": "does not accept reasoning in the history: it is left out",
    "opening_tag": "writes reasoning without an opening tag: text before </think> is reasoning",
    "streamed_calls": "loses parts of tool calls in streams: tools are written into the messages there",
    "thinking_budget": "does not obey thinking_token_budget: a second request continues the answer once it is reached",
    "continuation": "does not continue a message: answers after a thinking_budget are requested without thinking",
    "base64_vectors": "does not accept vectors in base64: they come as lists of numbers",
}
_HARMLESS = frozenset({"streamed_calls", "thinking_budget", "base64_vectors"})
"""The capabilities whose lack needs no warning: the same answers arrive in another way."""
_NOT_ASSUMED = frozenset({"thinking_budget"})
"""The capabilities that few servers have, so that their lack is not reported."""
_ENOUGH_DOUBTS = 2
"""Number of answers in a row that must ignore a capability before it is given up."""


@dataclass(slots=True, eq=False, repr=False)
class Capabilities(Record):
    """What an endpoint is assumed to support: nearly everything, until it rejects or ignores something.

    What has been given up is tried again after 100 calls or ten minutes, whichever comes first. Each failure doubles
    these numbers. Printed, it lists what has been given up.

    Attributes:
        tools: `tools` and `tool_choice`.
        parallel_switch: `parallel_tool_calls`.
        response_format: `response_format`, and that the answer conforms to it.
        template_kwargs: `chat_template_kwargs`.
        thinking_switch: `enable_thinking` in `chat_template_kwargs`.
        stream_options: `stream_options`.
        reasoning_history: Reasoning in earlier messages.
        opening_tag: A `<think>` before reasoning that comes in the text. Some chat templates put it into the prompt.
        reasoning_field: The field in which it reads that reasoning; None: not known, so it is sent in both.
        streamed_calls: Streams that lose nothing of a tool call. The parser of vLLM 0.9 and 0.10 loses closing braces.
        thinking_budget: `thinking_token_budget`, which ends the reasoning; assumed only when a trial has shown it.
        continuation: `continue_final_message`: the answer continues the last message.
        base64_vectors: `encoding_format: base64`, for embeddings.
        tool_parser: Parsing of the model's tool calls; assumed only when an answer has contained a parsed one.
        schema_forms: By the fingerprint of a schema that the server's grammar did not support: what to send instead.
    """

    tools: bool = True
    parallel_switch: bool = True
    response_format: bool = True
    template_kwargs: bool = True
    thinking_switch: bool = True
    stream_options: bool = True
    reasoning_history: bool = True
    opening_tag: bool = True
    streamed_calls: bool = True
    thinking_budget: bool = False
    continuation: bool = True
    base64_vectors: bool = True
    reasoning_field: str | None = None
    tool_parser: bool = False
    schema_forms: dict[bytes, KnownSchema] = field(default_factory=dict)
    _lessons: dict[str, Lesson] = field(default_factory=dict, init=False, repr=False, compare=False)
    _doubts: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __str__(self) -> str:
        """List what has been given up, one sentence per line."""
        lacks = [name for name in _CONSEQUENCES if not getattr(self, name) and name not in _NOT_ASSUMED]
        limits = [f"The server {_CONSEQUENCES[name]}." for name in lacks]
        return "\n".join(limits) or "The server has not rejected or ignored anything."

    def to_try_again(self, names: Iterable[str]) -> set[str]:
        """Return which of the capabilities that a call could use have been given up, but should be tried again."""
        return {name for name in names if (lesson := self._lessons.get(name)) and lesson.is_due()}

    def propose(self, name: str, *, again: bool = False) -> None:
        """Have the next call that could use a capability try it, unless that has been tried before.

        Args:
            name: A capability that is not assumed.
            again: Whether to try it anyway, because a trial was inconclusive.
        """
        if not getattr(self, name) and (again or name not in self._lessons):
            self._lessons[name] = Lesson(is_due=True)

    def give_up(self, name: str, *, is_trial: bool = False) -> None:
        """Remember that the server does not support a capability, and log the consequence.

        Args:
            name: The capability.
            is_trial: Whether it had been given up, and this call tried it again.
        """
        lesson = self._lessons.get(name)
        if lesson is not None and is_trial:
            lesson.repeat()
        if getattr(self, name):
            setattr(self, name, False)
            self._lessons[name] = Lesson()
            level = logging.INFO if name in _HARMLESS else logging.WARNING
            logger.log(level, "The server %s from now on.", _CONSEQUENCES[name])

    def doubt(self, name: str, *, is_trial: bool = False) -> None:
        """Record that an answer ignored a capability; it is given up when the next one does so too."""
        self._doubts[name] = self._doubts.get(name, 0) + 1
        if is_trial or self._doubts[name] >= _ENOUGH_DOUBTS:
            self.give_up(name, is_trial=is_trial)

    def confirm(self, name: str, *, is_trial: bool = False) -> None:
        """Record that an answer shows that a capability is supported."""
        self._doubts.pop(name, None)
        if is_trial and self._lessons.pop(name, None) is not None:
            setattr(self, name, True)
            level = logging.INFO if name in _HARMLESS else logging.WARNING
            logger.log(level, "The server now supports %s.", _FIELDS[name])


def describe_limit(name: str) -> str:
    """Return what a server without a capability does, and the consequence, to follow the subject "the server"."""
    return _CONSEQUENCES[name]


def reasoning_field_read(answered_in: frozenset[str], usage: Usage) -> str | None:
    """Return the field in which a server reads earlier reasoning, judged by an answer; None if that is not conclusive.

    vLLM reads `reasoning_content` up to 0.19, and `reasoning` from 0.20. Up to 0.15 it answers in the former (in both
    from 0.11.1), from 0.16 only in the latter; and from 0.28 it counts the tokens of the reasoning.

    Args:
        answered_in: The fields of the answer's reasoning; not empty.
        usage: The answer's token counts.
    """
    is_old = "reasoning_content" in answered_in
    details = usage.get("completion_tokens_details")
    is_new = isinstance(details, dict) and "reasoning_tokens" in details
    if is_old is is_new:  # 0.16 to 0.27, or a gateway that renames fields
        return None
    return "reasoning_content" if is_old else "reasoning"
