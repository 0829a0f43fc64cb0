"""A thinking budget: reasoning of a limited number of tokens, which is followed by an answer.

`max_tokens` limits reasoning and answer together, so an answer whose reasoning is long may be cut off before it begins.
If the server does not limit the reasoning itself, the first request may generate only as many tokens as the budget has,
and a second one continues the answer that was cut off: after its reasoning, if that has not ended yet, and a sentence
that ends it. Qwen's documentation of Qwen3 recommends the same, for completions of a prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

from .._json import parse_object
from .._request.body import Body, PartialAnswer
from .._response.accumulator import Accumulator
from .._response.arguments import TRUNCATED
from .._response.text.tool_calls import OPEN
from ..errors import ConfigurationError, ContextOverflowError, TIRError
from ..types import Choice, Completion, Delta, ToolCall, ToolCallDelta
from .capabilities import Capabilities
from .flow import Flow
from .json_schema import find_mismatch
from .response_format import is_constrained
from .usage import add_usage, count_reasoning

logger = logging.getLogger("tir_qwen")

LAST_SENTENCE = (
    "Considering the limited time by the user, I have to give the solution based on the thinking directly now."
)
"""Ends reasoning that was cut off. Qwen3 was trained with this sentence (Qwen3 Technical Report, section 4.3)."""
REACHED = "thinking_budget_reached"
"""The field of a response's metadata that says that the budget cut the reasoning off."""


class ThinkingBudgetFlow:
    """The requests of a call with a thinking budget, and how their deltas form a single answer; see `flow.Flow`.

    Each request of another flow may become two. Reasoning and text are passed on as they arrive. What the second
    request would have to begin again is held back until the first answer is known to be whole: tool calls, and the text
    of an answer whose form the server enforces.
    """

    def __init__(self, body: Body, flow: Flow | None, capabilities: Capabilities) -> None:
        """Start a call.

        Args:
            body: The request.
            flow: The flow of the call without a budget; None if it takes one request.
            capabilities: What is known about the server.

        Raises:
            ConfigurationError: The request asks for several answers, or continues one itself.
        """
        if (body.n or 1) > 1:
            raise ConfigurationError("n must be 1 with a thinking_budget.")
        if body.other.get("continue_final_message"):
            raise ConfigurationError("thinking_budget and continue_final_message cannot be combined.")
        self._flow = flow
        self._capabilities = capabilities
        self.first_request = self._start(flow.first_request if flow else body)

    def _start(self, request: Body) -> Body:
        """Start one request of the other flow, and return it."""
        self._request = self._sent = request
        self._repeated: Body | None = None  # what was sent, without the `max_tokens` for which there was no room
        self._is_limited = request.limits_thinking and not self._capabilities.thinking_budget
        self._holds_content = self._is_limited and is_constrained(request)
        self._first = Accumulator()  # what the limited request answers
        self._first_end: Delta | None = None
        self._answer = Accumulator()  # all that was passed on
        self._is_continued = self._has_begun = self._has_thought_again = False
        self._tail = ""  # of the text, which may belong to what follows
        self._last_sentence = ""  # to add to the reasoning
        self._kept = ""  # the content of the first answer that the second one continues
        self._is_reached = False
        self._end: list[Delta] = []
        return request

    @property
    def asks_whole(self) -> bool:
        """Whether the next request is for a whole answer, even if the call is a stream."""
        return self._flow is not None and self._flow.asks_whole

    def feed(self, delta: Delta) -> Delta | None:
        """Return the part of a delta to pass on now."""
        if self._is_continued:
            return self._pass_on(self._continue(delta))
        if not self._request.limits_thinking:
            return self._pass_on(delta)
        self._first.add(delta)
        if delta.last:
            self._first_end = delta
            return None if self._must_continue() else self._pass_on(self._held_back())
        visible = replace(delta, finish_reason=None, stop_reason=None)
        if self._is_limited:
            visible.tool_calls = ()
        if self._holds_content:
            visible.content, visible.logprobs = "", None
        visible.content = self._without_tail(visible.content)
        is_visible = visible.content or visible.reasoning or visible.tool_calls or visible.logprobs or visible.response
        return self._pass_on(visible) if is_visible else None

    def next_request(self, completion: Completion) -> Body | None:
        """Return the body of the request that must follow this answer; None if the call is complete."""
        if self._repeated is not None:
            self._sent, self._repeated = self._repeated, None
            return self._sent
        if self._first_end is not None and not self._is_continued:
            if self._must_continue():
                return self._continuation()
            self._pass_on_later(self._with_notice(self._first_end))
        request = self._flow.next_request(self._answer.completion()) if self._flow else None
        return self._start(request) if request else None

    def request_failed(self, error: TIRError) -> None:
        """Fall back to the answer before this request.

        Raises:
            TIRError: `error`, if there is nothing to fall back to, or its answer had begun.
        """
        has_no_room = isinstance(error, ContextOverflowError) and not self._has_begun
        if has_no_room and self._can_do_without_limit():
            return
        if has_no_room and self._is_continued and self._first_end:
            logger.warning("The context window has no room for an answer after the reasoning.")
            self._pass_on_later(self._held_back())
            self._pass_on_later(self._first_end)
            return
        if self._is_continued:
            error.partial = self._joined(error.partial or Completion())
        if self._flow is None:
            raise error
        self._flow.request_failed(error)

    def remaining(self) -> Iterator[Delta]:
        """Yield what was held back, unless a later answer took its place."""
        if self._flow:
            yield from self._flow.remaining()
        yield from self._end

    def _can_do_without_limit(self) -> bool:
        """Whether the request can be repeated without `max_tokens`: the context window then ends the answer earlier."""
        if self._is_continued and self._sent.max_tokens is not None:
            self._repeated = self._sent.without_token_limits()
        elif self._is_limited and not self._is_continued and self._request.max_tokens is None:
            self._repeated = self._start(replace(self._request, thinking_budget=None))
        return self._repeated is not None

    def _without_tail(self, text: str) -> str:
        """Return a text and what was held back before it, but not what may belong to what follows.

        That is a call or stop string that has begun, and newlines, which are the template's if a call follows.
        """
        text = self._tail + text
        kept = self._without_begun(text).rstrip("\n")
        self._tail = text[len(kept) :]
        return kept

    def _without_begun(self, text: str) -> str:
        """Return a text without a call or stop string at its end that is not whole.

        A server finds only one of which it generates all.
        """
        wholes = [*self._request.stop]
        if self._request.tools:
            text = text.partition(OPEN)[0]
            wholes.append(OPEN)
        beginnings = [whole[:size] for whole in wholes for size in range(1, len(whole))]
        return text.removesuffix(max(filter(text.endswith, beginnings), key=len, default=""))

    def _pass_on(self, delta: Delta) -> Delta | None:
        self._answer.add(delta)
        return self._flow.feed(delta) if self._flow else delta

    def _pass_on_later(self, delta: Delta) -> None:
        if visible := self._pass_on(delta):
            self._end.append(visible)

    def _held_back(self) -> Delta:
        """Return what was held back of the first answer, except for its last delta."""
        choice = self._first.completion().first
        calls = [
            ToolCallDelta(index, call.id, call.name, call.arguments, call.error)
            for index, call in enumerate(choice.tool_calls if self._is_limited else ())
        ]
        delta = Delta(0, self._tail, "", calls, choice.finish_reason, choice.stop_reason)
        if self._holds_content:
            delta.content, delta.logprobs = choice.content, choice.logprobs
        return delta

    def _must_continue(self) -> bool:
        """Whether the first answer was cut off by the budget, or lacks the call that was asked for."""
        completion = self._first.completion()
        is_passed_on = completion.tool_calls or (completion.content and is_constrained(self._request))
        if _is_cut(completion.first) and (self._is_limited or not is_passed_on):
            limit = self._request.max_tokens
            return limit is None or self._used_tokens(completion) < limit
        return self._is_limited and self._request.forces_call and not self._has_forced_call(completion.first)

    def _has_forced_call(self, answer: Choice) -> bool:
        """Whether an answer contains valid calls of the tools that must be called, although nothing enforced that."""
        wanted = self._request.required_tool
        functions = [tool.get("function") or {} for tool in self._request.tools]  # the server reports one without it
        schemas = {
            function["name"]: function.get("parameters")
            for function in functions
            if "name" in function and wanted in (None, function["name"])
        }
        return bool(answer.tool_calls) and all(
            call.error is None and call.name in schemas and _follows(call, schemas[call.name])
            for call in answer.tool_calls
        )

    def _used_tokens(self, completion: Completion) -> int:
        """Return how many tokens the first answer has; the budget if the server did not count them."""
        count = (completion.usage or {}).get("completion_tokens")
        return count if isinstance(count, int) else self._request.thinking_budget or 0

    def _continuation(self) -> Body:
        """Return the request that continues the first answer."""
        completion = self._first.completion()
        answer = completion.first
        self._kept = "" if self._holds_content else self._without_begun(answer.content)
        self._tail = self._without_begun(self._tail)
        self._is_reached = _is_cut(answer) and not answer.content.strip() and not answer.tool_calls
        if self._is_reached:
            self._last_sentence = f"\n\n{LAST_SENTENCE}" if answer.reasoning else LAST_SENTENCE
        self._is_continued = True
        request = replace(
            self._request,
            continues=PartialAnswer(answer.reasoning + self._last_sentence, self._kept),
            enable_thinking=False,
            thinking_budget=None,
        )
        request.spend_tokens(self._used_tokens(completion))
        self._sent = request
        return request

    def _continue(self, delta: Delta) -> Delta:
        """Return a delta of the second answer as a delta of the whole one."""
        if not delta.last:
            delta = replace(delta, response=None)  # the first answer has reported it already
            if delta.reasoning and not self._has_thought_again:  # the server has ignored that its reasoning had ended
                self._has_thought_again, delta.reasoning = True, f"\n\n{delta.reasoning}"
            if not self._has_begun:
                self._has_begun, delta.reasoning = True, self._last_sentence + delta.reasoning
            self._tail = "" if delta.tool_calls else self._tail
            if delta.content or delta.finish_reason:
                delta.content, self._tail = self._tail + delta.content, ""
            return delta
        return self._with_notice(replace(delta, usage=add_usage(self._first.completion().usage, delta.usage)))

    def _with_notice(self, last: Delta) -> Delta:
        """Return the last delta, with a notice if the budget was reached, here or by the server's own count."""
        budget, count = self._request.thinking_budget, count_reasoning(last.usage)
        is_counted = not self._is_continued and (count or 0) >= (budget or 0)
        is_reached = self._is_reached or is_counted
        return replace(last, response={**(last.response or {}), REACHED: True}) if is_reached else last

    def _joined(self, second: Completion) -> Completion:
        """Return both answers as one."""
        first = self._first.completion()
        choice = replace(
            second.first,
            content=self._kept + second.content,
            reasoning=first.reasoning + (self._last_sentence if self._has_begun else "") + second.reasoning,
        )
        return Completion([choice], add_usage(first.usage, second.usage), first.response)


def _is_cut(answer: Choice) -> bool:
    return answer.finish_reason == "length" or any(call.error == TRUNCATED for call in answer.tool_calls)


def _follows(call: ToolCall, schema: object) -> bool:
    return not isinstance(schema, dict) or find_mismatch(parse_object(call.arguments), schema) is None
