"""A call whose answer is to be an object, which may take two requests (pure).

vLLM enforces `response_format` by a grammar over the whole answer, so that a model which is offered tools as well
cannot call any of them. Where the model may choose, the first request therefore offers the tools and only describes the
object; if the answer is neither a call nor the object, a second one has it written under the grammar.

Where the server has no grammar, an answer that is not the object is sent back once, to be mended.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from .dialect import of_object, schema_of
from .errors import ConfigurationError, TIRError
from .misfit import misfit
from .objects import description_of, object_text, with_description
from .types import JSON, Completion, Delta, Usage

logger = logging.getLogger("tir_qwen")

_WHEN = "When no further tool is needed, give your final answer"
_REQUEST = "Give this answer as one JSON object that follows the JSON schema."
_FENCE = "```"
_NO_OBJECT = "it is no JSON object"
_OF_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")


def needs_plan(params: Mapping[str, Any]) -> bool:
    """Whether an object is wanted for an answer, and no tool has to be called instead."""
    wanted = params.get("response_format")
    if not isinstance(wanted, dict):
        return False
    if params.get("tools"):
        return wanted.get("type") in ("json_schema", "json_object") and params.get("tool_choice") in (None, "auto")
    return of_object(wanted) and (params.get("n") or 1) == 1


class ObjectPlan:
    """The requests of such a call, and how their deltas make up one answer.

    Ask `first`; pass its deltas through `first_delta`. Then ask what `second` returns and pass its deltas through
    `second_delta`, or say that it has `failed`. What is left is `rest`.
    """

    def __init__(self, messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any], *, stream: bool) -> None:
        self._params = params
        self._tools = bool(params.get("tools"))
        if self._tools and (params.get("n") or 1) > 1:
            raise ConfigurationError("n must be 1 where tools and response_format are given together.")
        self._object = of_object(params["response_format"])
        self._schema = schema_of(params["response_format"])
        self._second = False  # whether the second answer has begun
        described = with_description(messages, description_of(self._schema, _WHEN))
        self._messages = described if self._tools else messages
        self._stream = stream
        self._passing: bool | None = None  # whether all passes at once; None: not yet known
        self._content = ""
        self._held: list[Delta] = []
        self._usage: Usage | None = None

    @property
    def first(self) -> tuple[Sequence[Mapping[str, Any]], JSON]:
        """Messages and parameters of the first request."""
        if not self._tools:
            return self._messages, dict(self._params)
        return self._messages, {name: value for name, value in self._params.items() if name != "response_format"}

    def first_delta(self, delta: Delta) -> Delta | None:
        """What may be passed on of a delta of the first answer: of a stream all, if it begins with the object."""
        if self._passing is None and delta.content:
            delta = self._begin(delta)
        if self._passing:
            return delta
        if delta.last:
            self._held.append(delta)
            return None
        self._content += delta.content
        held = None if delta.reasoning else delta.logprobs  # a draft's do not show either
        if held:
            self._held.append(Delta(logprobs=held))
        if delta.finish_reason:
            self._held.append(Delta(finish_reason=delta.finish_reason, stop_reason=delta.stop_reason))
        passed = replace(delta, content="", finish_reason=None, stop_reason=None)
        if held:
            passed.logprobs = None
        return passed if passed.reasoning or passed.tool_calls or passed.response or passed.logprobs else None

    def second(self, answer: Completion) -> tuple[list[Mapping[str, Any]], JSON] | None:
        """Messages and parameters of the second request, if there is to be one."""
        if self._passing or answer.tool_calls or answer.finish_reason == "length":
            return None
        draft = answer.content
        problem = self._problem(draft)
        if problem is None:
            self._content = object_text(draft) if self._object else draft
        if problem is None or not draft.strip() or self._params.get("stop"):  # which would cut the next one too
            return None
        self._usage = answer.usage
        request = _REQUEST if problem == _NO_OBJECT else f"{_REQUEST} The last one does not: {problem}."
        messages = [*self._messages, {"role": "assistant", "content": draft}, {"role": "user", "content": request}]
        params = {name: value for name, value in self._params.items() if name not in _OF_TOOLS}
        return messages, {**params, "enable_thinking": False}

    def rest(self) -> Iterator[Delta]:
        """The rest of an answer of one request."""
        if self._passing or self._second:
            return
        if self._content:
            yield Delta(content=self._content)
        yield from self._held

    def second_delta(self, delta: Delta) -> Delta:
        """A delta of the second answer, as one of the whole: what the first has said is not said again."""
        self._second = True
        if delta.last:
            delta.usage = _sum(self._usage, delta.usage)
        else:
            delta.response = None
        return delta

    def failed(self, error: TIRError) -> None:
        """Make do with the first answer, if the second one did not come.

        Raises:
            TIRError: `error`, which broke the second answer.
        """
        if self._second:
            raise error
        logger.warning("An answer that is no fitting object could not be asked for again: %s", error)

    def _begin(self, delta: Delta) -> Delta:
        """Find out whether the answer begins with the object, or with a fence around it."""
        begun = (self._content + delta.content).lstrip()
        if begun.startswith(("{", _FENCE)):
            self._passing = self._stream and not self._tools
        elif not _FENCE.startswith(begun):
            self._passing = False
        if self._passing:
            delta, self._content = replace(delta, content=self._content + delta.content), ""
        return delta

    def _problem(self, text: str) -> str | None:
        """Why a text is not the object; what stands around it does not matter."""
        try:
            value = from_json(object_text(text) if self._object else text)
        except ValueError:
            return _NO_OBJECT
        return misfit(value, self._schema or {"type": "object"})


def _sum(first: Usage | None, second: Usage | None) -> Usage | None:
    """The token counts of both requests."""
    if first is None or second is None:
        return first or second
    total: Any = dict(second)
    for name, value in first.items():
        if isinstance(value, int):
            total[name] = value + (total.get(name) or 0)
        elif isinstance(value, dict):
            known = total.get(name) or {}
            total[name] = {**known, **{key: count + (known.get(key) or 0) for key, count in value.items() if count}}
    summed: Usage = total
    return summed
