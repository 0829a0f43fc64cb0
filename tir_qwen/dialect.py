"""How a call is written so that its server takes it, and what the answer then means (pure).

The operator's API reference knows eight fields, and says nothing of tools, schemas or a thinking switch. They are asked
for as vLLM takes them; what a server refuses, or visibly ignores, is asked for in the messages from then on.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .choice import Expected
from .errors import APIStatusError, BadRequestError, ConfigurationError, ContextOverflowError
from .hermes import messages_with_tools, text_of
from .objects import description_of, object_in, with_description
from .types import JSON, Completion

logger = logging.getLogger("tir_qwen")

Messages = Sequence[Mapping[str, Any]]
_FIELDS = {
    "tools": ("tools", "tool_choice"),
    "parallel_switch": ("parallel_tool_calls",),
    "response_format": ("response_format",),
    "template_kwargs": ("chat_template_kwargs", "enable_thinking"),
    "stream_options": ("stream_options", "include_usage"),
    "reasoning_history": ("reasoning_content", "reasoning"),
}
_NEWS = {
    "tools": "does not take tools: they are written into the messages",
    "parallel_switch": "does not take parallel_tool_calls: calls too many are left out",
    "response_format": "does not hold to response_format: the schema is written into the messages",
    "template_kwargs": "does not take chat_template_kwargs: thinking is switched by /think and /no_think",
    "thinking_switch": "ignores enable_thinking: thinking is switched by /think and /no_think",
    "stream_options": "does not take stream_options: streams have no token counts",
    "reasoning_history": "does not take reasoning in the history: it is left out",
}
_NO_TOOL_PARSER = re.compile(r"tool-call-parser|enable-auto-tool-choice")
_REFUSAL = re.compile(
    r"\bnot (?:\w+ )?(?:support|permitted|allowed|available|enabled|recogni[sz]ed|accept)|unsupported"
    r"|unavailable|unknown|unrecogni[sz]ed|unexpected|\bextra\b|additional propert|forbidden|disabled|undocumented",
    re.IGNORECASE,
)
_OF_THIS_CALL = re.compile(
    r"(?<!json_)schema|keyword '|unexpected keyword\b(?! argument)|parameter type|too many"
    r"|\bfunction '|\bfunction \w+ in",
    re.IGNORECASE,
)
"""A refusal of what the user wrote into a field, not of the field."""
_SWITCH_AT_END = re.compile(r"/(no_)?think\s*$")
_SWITCH = re.compile(r"(?<!\S)/(no_)?think\b")


@dataclass(slots=True)
class Abilities:
    """What an endpoint is believed to do: all of it, until it refuses or ignores a field."""

    tools: bool = True
    parallel_switch: bool = True
    response_format: bool = True
    template_kwargs: bool = True
    thinking_switch: bool = True
    stream_options: bool = True
    reasoning_history: bool = True

    def lose(self, name: str) -> None:
        """Note that it does not do this, and say so, once."""
        if getattr(self, name):
            setattr(self, name, False)
            logger.warning("The server %s from now on.", _NEWS[name])


class Dialect:
    """One call, in the words of its server.

    `write` it; if it is `refused`, perhaps write it again; when it is `accepted`, what was given up is given up for all
    calls; `learn` from the answer.
    """

    __slots__ = ("_abilities", "_given_up", "_known", "_messages", "_params", "_prompted", "_schema_in")

    def __init__(self, messages: Messages, params: JSON, abilities: Abilities) -> None:
        """Take a call.

        Args:
            messages: Messages as on the wire.
            params: Its parameters, of which `tool_calling` and `schema_in` (see `Client.complete`) are taken out.
            abilities: What is known of the server.

        Raises:
            ConfigurationError: One of those two is none of its values.
        """
        self._messages = messages
        self._params = params
        self._abilities = abilities
        self._given_up: dict[str, bool] = {}  # what this call does without; whether all others should
        self._known = abilities  # as it was when the call was written: other calls learn meanwhile
        self._prompted = _one_of(params, "tool_calling", "auto", "native", "prompted")
        self._schema_in = _one_of(params, "schema_in", "request", "messages", "both")

    @property
    def writes_tools(self) -> bool:
        """Whether tools stand in the messages."""
        return self._prompted == "prompted" or (self._prompted == "auto" and not self._known.tools)

    @property
    def enforces(self) -> bool:
        """Whether a schema is in the request, where the server makes a grammar of it."""
        wanted = self._params.get("response_format") or {"type": "text"}
        if not of_object(wanted):  # which cannot be said in another way
            return bool(wanted.get("type") != "text")
        return self._known.response_format and self._schema_in != "messages"

    @property
    def expected(self) -> Expected:
        """What the answer is to be read by."""
        params = self._params
        choice = params.get("tool_choice")
        return Expected(
            tools=bool(params.get("tools")) and choice != "none",
            named=choice["function"]["name"] if isinstance(choice, dict) and "function" in choice else None,
            one_call=_field(params, "parallel_tool_calls") is False,
            no_thinking=_thinking(params) is False,
            written=self.writes_tools,
            lag=_lag(params),
        )

    def write(self) -> tuple[Messages, JSON]:
        """The messages and parameters to send."""
        known = self._known = replace(self._abilities, **dict.fromkeys(self._given_up, False))
        params, messages = dict(self._params), list(self._messages)
        thinking = _thinking(params)
        if thinking is not None and not (known.thinking_switch and known.template_kwargs):
            messages = _switched(messages, thinking)
        if not known.template_kwargs:
            params.pop("enable_thinking", None)
        if not known.stream_options:
            params.pop("stream_options", None)
        if not known.parallel_switch:
            params.pop("parallel_tool_calls", None)
        if wanted := params.get("response_format"):
            schema = schema_of(wanted)
            described = not self.enforces or (self._schema_in == "both" and schema is not None)
            if of_object(wanted) and described:
                messages = with_description(messages, description_of(schema))
        if not self.enforces and (of_object(wanted or {}) or not known.response_format):
            params.pop("response_format", None)
        if not known.reasoning_history:
            messages = [_without_reasoning(message) for message in messages]
        if self.writes_tools:
            tools, choice = params.pop("tools", None) or [], params.pop("tool_choice", None)
            params.pop("parallel_tool_calls", None)
            if tools or any(message.get("tool_calls") or message["role"] == "tool" for message in messages):
                return messages_with_tools(messages, tools, choice), params
        return messages, params

    def refused(self, error: APIStatusError) -> bool:
        """Learn from a refusal; True if the call is now to be written in another way."""
        if not isinstance(error, BadRequestError) or isinstance(error, ContextOverflowError):
            return False
        text = str(error)
        refused = [name for name in self._used() if _refuses(text, name)]
        self._given_up |= dict.fromkeys(refused, not _OF_THIS_CALL.search(text))
        return bool(refused)

    def accepted(self) -> None:
        """Note that the call, as it was written last, is taken."""
        for name, for_good in self._given_up.items():
            if for_good:
                self._abilities.lose(name)

    def learn(self, answer: Completion) -> None:
        """Learn from an answer what the server did not hold to."""
        first = answer.first
        if not first.content.strip():
            return
        cut = first.finish_reason == "length" or _field(self._params, "stop")
        if self.enforces and of_object(self._params["response_format"]) and not cut and not object_in(first.content):
            self._abilities.lose("response_format")
        thinking = _thinking(self._params)
        if thinking is None or not self._known.template_kwargs:
            return
        if any(_SWITCH.search(text_of(one)) for one in self._messages if one.get("role") in ("system", "user")):
            return  # the user's own switch
        constrained = self.enforces or self._params.get("tool_choice") not in (None, "auto", "none")
        if bool(first.reasoning.strip()) is not thinking and not (thinking and constrained):
            self._abilities.lose("thinking_switch")

    def _used(self) -> list[str]:
        """What of the request the server might not take, and which can be said in another way."""
        known, params = self._known, self._params
        used = {
            "tools": bool(params.get("tools")) and self._prompted == "auto" and not self.writes_tools,
            "parallel_switch": params.get("parallel_tool_calls") is not None and not self.writes_tools,
            "response_format": _dispensable(params.get("response_format") or {}) and self._schema_in != "messages",
            "template_kwargs": params.get("enable_thinking") is not None and not _field(params, "chat_template_kwargs"),
            "stream_options": params.get("stream_options") == {"include_usage": True},
            "reasoning_history": any("reasoning" in one for one in self._messages),
        }
        return [name for name, uses in used.items() if uses and getattr(known, name)]


def schema_of(response_format: JSON) -> JSON | None:
    """The schema of a `response_format`, if it names one."""
    schema: JSON | None = (response_format.get("json_schema") or {}).get("schema")
    return schema


def of_object(response_format: JSON) -> bool:
    """Whether it wants an object, as far as the schema says so at its root."""
    if response_format.get("type") != "json_schema":
        return bool(response_format.get("type") == "json_object")
    schema = schema_of(response_format) or {}
    other = any(word in schema for word in ("enum", "const", "anyOf", "oneOf"))
    return bool(schema.get("type", None if other else "object") == "object")


def _dispensable(response_format: JSON) -> bool:
    """Whether it can be left out: an object can be asked for in the messages, and text is what comes anyway."""
    return of_object(response_format) or response_format.get("type") == "text"


def _one_of(params: JSON, name: str, default: str, *others: str) -> str:
    value = params.pop(name, None)
    if value is None:
        return default
    if value not in (default, *others):
        raise ConfigurationError(f"{name} must be one of {', '.join((default, *others))}.")
    chosen: str = value
    return chosen


def _field(params: JSON, name: str) -> Any:
    """A field of the body, which the user may have given in `extra_body`."""
    extra = params.get("extra_body") or {}
    return extra.get(name, params.get(name)) if isinstance(extra, Mapping) else params.get(name)


def _thinking(params: JSON) -> Any:
    template = _field(params, "chat_template_kwargs")
    own = template.get("enable_thinking") if isinstance(template, Mapping) else None
    return params.get("enable_thinking") if own is None else own


def _lag(params: JSON) -> int:
    """How far vLLM's text lags behind its tokens, so that no stop string gets out."""
    stop = _field(params, "stop")
    texts = [stop] if isinstance(stop, str) else stop if isinstance(stop, list | tuple) else []
    longest = max([1, *(len(text) for text in texts if isinstance(text, str))])
    return 0 if _field(params, "include_stop_str_in_output") else longest - 1


def _without_reasoning(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in message.items() if name not in _FIELDS["reasoning_history"]}


def _refuses(text: str, name: str) -> bool:
    if name == "tools" and _NO_TOOL_PARSER.search(text):
        return True
    # A place within the field (tools.0.function) is the user's matter; so is what another sentence lists.
    named = re.compile(rf"\b(?:{'|'.join(_FIELDS[name])})\b(?!['\"`]?(?:, |[.\[])\d)")
    return any(
        _REFUSAL.search(clause) is not None and named.search(clause) is not None for clause in re.split(r"[.;]\s", text)
    )


def _last_user(messages: Messages) -> int | None:
    return next((at for at in reversed(range(len(messages))) if messages[at]["role"] == "user"), None)


def _switched(messages: list[Mapping[str, Any]], thinking: bool) -> list[Mapping[str, Any]]:
    """The messages with Qwen3's soft switch at the end of the last one of the user."""
    last = _last_user(messages)
    if last is None or _SWITCH_AT_END.search(text_of(messages[last])):
        return messages
    content, switch = messages[last].get("content") or "", " /think" if thinking else " /no_think"
    content = content + switch if isinstance(content, str) else [*content, {"type": "text", "text": switch}]
    return [*messages[:last], {**messages[last], "content": content}, *messages[last + 1 :]]
