"""What an answer shows about its server: what it did of what was requested, and what it ignored."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from .._json import parse_object
from .._request.body import Body
from .._response.signs import Signs
from .._response.text.think_tags import lacks_opening_tag
from ..types import Completion
from .capabilities import Capabilities, reasoning_field_read
from .json_answer import contains_json, has_description
from .response_format import expects_json, expects_object, extract_schema
from .thinking_switch import has_soft_switch
from .usage import count_reasoning

_SHOWN_BY_ANSWERS = frozenset(
    ("tools", "response_format", "thinking_switch", "streamed_calls", "thinking_budget", "continuation")
)
"""The capabilities that a server may accept and ignore, so that only the content of answers shows them."""
_COUNT_TOLERANCE = 4
"""By how many tokens a server may miss a thinking budget, since it may or may not count the tags."""


class SentCall(NamedTuple):
    """A call as it was sent.

    Attributes:
        body: What the caller set.
        used: What the server was assumed to support.
        trials: The capabilities that it tried again.
        enforces_schema: Whether `response_format` was sent.
        is_told_schema: Whether the caller chose where to send the schema.
        thinking_limit: The `thinking_token_budget` that was sent.
    """

    body: Body
    used: Capabilities
    trials: Set[str]
    enforces_schema: bool
    is_told_schema: bool
    thinking_limit: int | None


class Observation:
    """Learns from one answer."""

    __slots__ = ("_body", "_capabilities", "_completion", "_sent", "_signs")

    def __init__(self, sent: SentCall, completion: Completion, signs: Signs, capabilities: Capabilities) -> None:
        self._sent = sent
        self._body = sent.body
        self._completion = completion
        self._signs = signs
        self._capabilities = capabilities

    def learn(self) -> None:
        """Update the capabilities."""
        completion, signs = self._completion, self._signs
        if signs.reasoning_fields and completion.usage:
            self._capabilities.reasoning_field = reasoning_field_read(signs.reasoning_fields, completion.usage)
        for name in self._sent.trials - _SHOWN_BY_ANSWERS:
            self._capabilities.confirm(name, is_trial=True)
        if signs.has_parsed_calls and self._body.tool_choice in (None, "auto"):  # forced calls need no parser
            self._learn_from_calls()
        self._learn_from_token_counts()
        has_text = bool(completion.content.strip())
        if has_text:
            self._learn_from_schema()
        if self._body.continues is not None:
            self._learn_from_continuation()
            return  # its reasoning had ended before
        self._learn_from_tags()
        if has_text or completion.finish_reason == "length":
            self._learn_from_thinking()

    def _learn_from_calls(self) -> None:
        self._capabilities.tool_parser = True
        calls = self._completion.tool_calls  # without arguments they prove nothing about how these are cut
        if "tools" in self._sent.trials:
            self._capabilities.confirm("tools", is_trial=True)
        if self._signs.is_lossy:
            self._capabilities.give_up("streamed_calls", is_trial="streamed_calls" in self._sent.trials)
        elif "streamed_calls" in self._sent.trials and any(parse_object(call.arguments) for call in calls):
            self._capabilities.confirm("streamed_calls", is_trial=True)

    def _learn_from_token_counts(self) -> None:
        count, limit = count_reasoning(self._completion.usage), self._sent.thinking_limit
        is_trial = "thinking_budget" in self._sent.trials
        if count is None:
            return
        if limit is None:
            self._capabilities.propose("thinking_budget")
        elif count > limit + _COUNT_TOLERANCE:
            self._capabilities.give_up("thinking_budget", is_trial=is_trial)
        elif is_trial and count >= limit - _COUNT_TOLERANCE and self._completion.finish_reason == "length":
            self._capabilities.confirm("thinking_budget", is_trial=True)
        elif is_trial:  # the model ended its reasoning itself
            self._capabilities.propose("thinking_budget", again=True)

    def _learn_from_schema(self) -> None:
        response_format = self._body.response_format
        if not expects_json(response_format) or not self._sent.enforces_schema:
            return
        is_obeyed = contains_json(self._completion.content, is_object=expects_object(response_format))
        if not is_obeyed and (self._completion.finish_reason == "length" or self._body.stop):  # it may have been cut
            return
        schema = extract_schema(response_format)
        is_described = schema is not None and has_description(self._body.messages, schema)
        is_correction = not self._sent.is_told_schema and is_described
        if not (is_obeyed and is_correction):  # the model may have followed the messages
            self._record("response_format", is_obeyed)

    def _learn_from_continuation(self) -> None:
        completion = self._completion
        if self._sent.used.continuation and completion.content.strip() and completion.finish_reason != "length":
            self._record("continuation", not completion.reasoning.strip())

    def _learn_from_tags(self) -> None:
        is_lacking, completion = self._signs.lacks_opening_tag, self._completion
        if is_lacking is None and completion.content and self._body.enable_thinking is not False:
            is_lacking = not completion.reasoning and lacks_opening_tag(completion.content)
        if is_lacking:
            self._capabilities.doubt("opening_tag")
        elif is_lacking is False:
            self._capabilities.confirm("opening_tag", is_trial=True)

    def _learn_from_thinking(self) -> None:
        thinking = self._body.enable_thinking
        is_sent = self._sent.used.template_kwargs and self._sent.used.thinking_switch
        if thinking is None or not is_sent or has_soft_switch(self._body.messages):
            return
        is_constrained = self._sent.enforces_schema or self._body.tool_choice not in (None, "auto", "none")
        has_reasoning = bool(self._completion.reasoning.strip())
        has_text = bool(self._completion.content.strip())
        if not thinking and (has_reasoning or has_text):
            self._record("thinking_switch", not has_reasoning)
        elif thinking and not has_reasoning and not is_constrained and has_text:
            self._record("thinking_switch", False)  # reasoning proves nothing, since it is the default

    def _record(self, name: str, is_obeyed: bool) -> None:
        record = self._capabilities.confirm if is_obeyed else self._capabilities.doubt
        record(name, is_trial=name in self._sent.trials)
