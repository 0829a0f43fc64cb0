"""Adapts a call to what its server supports, and says how to decode the answer.

TIR's API reference documents eight fields, and does not mention tools, schemas or a thinking switch. These are sent in
the form that vLLM accepts. What a server rejects or visibly ignores is requested in the messages from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._response.choice import DecodingOptions
from .._response.server_errors import server_text
from ..errors import APIStatusError, BadRequestError, ConfigurationError, ContextOverflowError
from ..types import JSON, Completion, Messages
from .capabilities import Capabilities, is_about_value, refuses
from .json_answer import contains_object, describe_schema, with_description
from .json_schema import expects_object, extract_schema, is_dispensable
from .prompted_tools import messages_with_tools
from .thinking_switch import add_soft_switch, has_soft_switch


class Dialect:
    """One call, adapted to its server.

    Send what `write` returns. Call `request_refused` if the server rejects it, which says whether to write and send the
    call again; otherwise `request_accepted`, and then `observe` with the answer.
    """

    __slots__ = ("_capabilities", "_given_up", "_messages", "_params", "_schema_in", "_tool_calling", "_used")

    def __init__(self, messages: Messages, params: JSON, capabilities: Capabilities) -> None:
        """Start with one call.

        Args:
            messages: Messages in wire format.
            params: The call's parameters. `tool_calling` and `schema_in` (see `Client.complete`) are removed.
            capabilities: What is known about the server; updated by this call.

        Raises:
            ConfigurationError: `tool_calling` or `schema_in` has an unknown value.
        """
        self._messages = messages
        self._params = params
        self._capabilities = capabilities
        self._used = capabilities  # a snapshot from when the call was written; other calls may update the original
        self._given_up: dict[str, bool] = {}  # capabilities that this call avoids; True: all other calls should too
        self._tool_calling = _pop_option(params, "tool_calling", ("auto", "native", "prompted"))
        self._schema_in = _pop_option(params, "schema_in", ("request", "messages", "both"))

    @property
    def prompts_tools(self) -> bool:
        """Whether tools are offered in the messages."""
        return self._tool_calling == "prompted" or (self._tool_calling == "auto" and not self._used.tools)

    @property
    def enforces_schema(self) -> bool:
        """Whether `response_format` is sent in the request, where the server enforces it with a grammar."""
        response_format = self._params.get("response_format") or {"type": "text"}
        if not expects_object(response_format):  # it cannot be requested in the messages
            return bool(response_format.get("type") != "text")
        return self._used.response_format and self._schema_in != "messages"

    @property
    def decoding_options(self) -> DecodingOptions:
        """How to decode the answer."""
        params = self._params
        choice = params.get("tool_choice")
        return DecodingOptions(
            tools=bool(params.get("tools")) and choice != "none",
            required_tool=choice["function"]["name"] if isinstance(choice, dict) and "function" in choice else None,
            prompted_tools=self.prompts_tools,
            single_call=_body_field(params, "parallel_tool_calls") is False,
            thinking_off=_requested_thinking(params) is False,
            stop_lag=_stop_lag(params),
        )

    def write(self) -> tuple[Messages, JSON]:
        """Return the messages and the parameters to send."""
        self._used = replace(self._capabilities, **dict.fromkeys(self._given_up, False))
        params = dict(self._params)
        messages = self._write_thinking(list(self._messages), params)
        messages = self._write_schema(messages, params)
        if not self._used.stream_options:
            params.pop("stream_options", None)
        if not self._used.reasoning_history:
            messages = [_without_reasoning(message) for message in messages]
        return self._write_tools(messages, params), params

    def request_refused(self, error: APIStatusError) -> bool:
        """Learn from the server's error; return whether the call can now be written differently."""
        if not isinstance(error, BadRequestError) or isinstance(error, ContextOverflowError):
            return False
        text = server_text(error)
        refused = [name for name in self._dispensable_capabilities() if refuses(text, name)]
        self._given_up |= dict.fromkeys(refused, not is_about_value(text))
        return bool(refused)

    def request_accepted(self) -> None:
        """Record for all calls what this one had to avoid: the server accepted the call without it."""
        for name, for_all_calls in self._given_up.items():
            if for_all_calls:
                self._capabilities.mark_unsupported(name)

    def observe(self, completion: Completion) -> None:
        """Learn from the answer what the server ignored."""
        first = completion.first
        if not first.content.strip():
            return
        is_cut = first.finish_reason == "length" or _body_field(self._params, "stop")
        wants_object = self.enforces_schema and expects_object(self._params["response_format"])
        if wants_object and not is_cut and not contains_object(first.content):
            self._capabilities.mark_unsupported("response_format")
        thinking = _requested_thinking(self._params)
        if thinking is None or not self._used.template_kwargs or has_soft_switch(self._messages):
            return
        is_constrained = self.enforces_schema or self._params.get("tool_choice") not in (None, "auto", "none")
        if bool(first.reasoning.strip()) is not thinking and not (thinking and is_constrained):
            self._capabilities.mark_unsupported("thinking_switch")

    def _write_thinking(self, messages: list[Mapping[str, Any]], params: JSON) -> list[Mapping[str, Any]]:
        thinking = _requested_thinking(params)
        if not self._used.template_kwargs:
            params.pop("enable_thinking", None)
        if thinking is None or (self._used.thinking_switch and self._used.template_kwargs):
            return messages
        return add_soft_switch(messages, thinking)

    def _write_schema(self, messages: list[Mapping[str, Any]], params: JSON) -> list[Mapping[str, Any]]:
        response_format = params.get("response_format") or {}
        wants_object = expects_object(response_format)
        if not self.enforces_schema and (wants_object or not self._used.response_format):
            params.pop("response_format", None)
        schema = extract_schema(response_format)
        is_described = not self.enforces_schema or (self._schema_in == "both" and schema is not None)
        return with_description(messages, describe_schema(schema)) if wants_object and is_described else messages

    def _write_tools(self, messages: list[Mapping[str, Any]], params: JSON) -> Messages:
        if self.prompts_tools or not self._used.parallel_switch:
            params.pop("parallel_tool_calls", None)
        if not self.prompts_tools:
            return messages
        tools, choice = params.pop("tools", None) or [], params.pop("tool_choice", None)
        if tools or any(message.get("tool_calls") or message["role"] == "tool" for message in messages):
            return messages_with_tools(messages, tools, choice)
        return messages

    def _dispensable_capabilities(self) -> list[str]:
        """Return the capabilities that the request uses but could do without."""
        params = self._params
        response_format = params.get("response_format") or {}
        is_used = {
            "tools": bool(params.get("tools")) and self._tool_calling == "auto" and not self.prompts_tools,
            "parallel_switch": params.get("parallel_tool_calls") is not None and not self.prompts_tools,
            "response_format": is_dispensable(response_format) and self._schema_in != "messages",
            "template_kwargs": params.get("enable_thinking") is not None
            and not _body_field(params, "chat_template_kwargs"),
            "stream_options": params.get("stream_options") == {"include_usage": True},
            "reasoning_history": any("reasoning" in message for message in self._messages),
        }
        return [name for name, used in is_used.items() if used and getattr(self._used, name)]


def _pop_option(params: JSON, name: str, values: tuple[str, ...]) -> str:
    """Remove an option from the parameters and return it; the first of `values` is the default."""
    value = params.pop(name, None)
    if value is None:
        return values[0]
    if value not in values:
        raise ConfigurationError(f"{name} must be one of {', '.join(values)}.")
    option: str = value
    return option


def _body_field(params: JSON, name: str) -> Any:
    """Return a field of the body; `extra_body` takes precedence."""
    extra = params.get("extra_body") or {}
    return extra.get(name, params.get(name)) if isinstance(extra, Mapping) else params.get(name)


def _requested_thinking(params: JSON) -> Any:
    template_kwargs = _body_field(params, "chat_template_kwargs")
    own = template_kwargs.get("enable_thinking") if isinstance(template_kwargs, Mapping) else None
    return params.get("enable_thinking") if own is None else own


def _stop_lag(params: JSON) -> int:
    """Return how many characters vLLM holds back in a stream in case they begin a stop string."""
    stop = _body_field(params, "stop")
    texts = [stop] if isinstance(stop, str) else stop if isinstance(stop, list | tuple) else []
    longest = max([1, *(len(text) for text in texts if isinstance(text, str))])
    return 0 if _body_field(params, "include_stop_str_in_output") else longest - 1


def _without_reasoning(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in message.items() if name not in ("reasoning_content", "reasoning")}
