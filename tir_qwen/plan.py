"""Tools and a schema for the answer in one call, which the server cannot do in one request (pure).

vLLM enforces `response_format` by a grammar over the whole answer, so that a model which is offered tools as well
cannot call any of them. Where the model may choose, the first request therefore offers the tools and only describes the
object; if the answer is neither a call nor the object, a second one has it written under the grammar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from .errors import ConfigurationError
from .objects import description_of, object_text
from .types import JSON, Completion, Delta, Usage

_WHEN = "When no further tool is needed, give your final answer"
_REQUEST = "Give this answer as one JSON object that follows the JSON schema."
_OF_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")


def needs_plan(params: Mapping[str, Any]) -> bool:
    """Whether a call offers tools, leaves the choice to the model, and wants an object for an answer."""
    wanted = params.get("response_format")
    return (
        bool(params.get("tools"))
        and isinstance(wanted, dict)
        and wanted.get("type") in ("json_schema", "json_object")
        and params.get("tool_choice") in (None, "auto")
    )


class ToolsOrObject:
    """The two requests of such a call, and how their deltas make up one answer.

    Ask `first`; pass its deltas through `first_delta`, which lets all pass but the text. Then ask what `second` returns
    and pass its deltas through `second_delta`; if that is None, the rest of the answer is `rest`.
    """

    def __init__(self, messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> None:
        if (params.get("n") or 1) > 1:
            raise ConfigurationError("n must be 1 where tools and response_format are given together.")
        self._params = params
        self._schema = _schema(params["response_format"])
        self._messages = _instructed(messages, description_of(self._schema, _WHEN))
        self._content = ""
        self._held: list[Delta] = []
        self._usage: Usage | None = None

    @property
    def first(self) -> tuple[list[Mapping[str, Any]], JSON]:
        """Messages and parameters of the first request."""
        params = {name: value for name, value in self._params.items() if name != "response_format"}
        return self._messages, params

    def first_delta(self, delta: Delta) -> Delta | None:
        """What may be passed on of a delta of the first answer."""
        if delta.last:
            self._held.append(delta)
            return None
        self._content += delta.content
        if delta.finish_reason:
            self._held.append(Delta(finish_reason=delta.finish_reason, stop_reason=delta.stop_reason))
        passed = replace(delta, content="", finish_reason=None, stop_reason=None)
        return passed if passed.reasoning or passed.tool_calls or passed.response or passed.logprobs else None

    def second(self, answer: Completion) -> tuple[list[Mapping[str, Any]], JSON] | None:
        """Messages and parameters of the second request, if there is to be one."""
        draft = answer.content
        found = find_object(draft, self._schema.get("required", ()))
        if found is not None:
            self._content = found
        if found is not None or answer.tool_calls or answer.finish_reason == "length" or not draft.strip():
            return None
        self._usage = answer.usage
        messages = [
            *self._messages,
            {"role": "assistant", "content": draft},
            {"role": "user", "content": _REQUEST},
        ]
        params = {name: value for name, value in self._params.items() if name not in _OF_TOOLS}
        return messages, {**params, "enable_thinking": False}

    def rest(self) -> Iterator[Delta]:
        """The rest of an answer of one request."""
        if self._content:
            yield Delta(content=self._content)
        yield from self._held

    def second_delta(self, delta: Delta) -> Delta:
        """A delta of the second answer, as one of the whole: what the first has said is not said again."""
        if delta.last:
            delta.usage = _sum(self._usage, delta.usage)
        else:
            delta.response = None
        return delta


def find_object(text: str, required: Sequence[str] = ()) -> str | None:
    """The JSON object within a text (a fence or a sentence may stand around it), if it has the required keys."""
    found = object_text(text)
    try:
        value = from_json(found)
    except ValueError:
        return None
    return found if isinstance(value, dict) and value.keys() >= set(required) else None


def _schema(response_format: JSON) -> JSON:
    schema: JSON = (response_format.get("json_schema") or {}).get("schema") or {"type": "object"}
    return schema


def _instructed(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """The messages with `text` at the end of the system message."""
    if not messages:
        return []  # which is refused as such
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    known = first["content"]
    parts = [*known, {"type": "text", "text": text}] if isinstance(known, list) else f"{known}\n\n{text}"
    return [{**first, "content": parts}, *messages[1:]]


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
