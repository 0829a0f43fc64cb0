"""Adapts a call to what its server supports, and says how to decode the answer.

TIR's API reference documents eight fields, and does not mention tools, schemas or a thinking switch. These are sent in
the form that vLLM accepts. What a server rejects or visibly ignores is requested in the messages from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from .._request.body import Body
from .._request.tool_calls import with_results_in_order
from .._response.choice import REASONING_FIELDS, DecodingOptions
from .._response.server_errors import is_about_function, is_about_grammar, server_text
from .._response.signs import Signs
from ..errors import APIStatusError, ContextOverflowError, ServerStreamError
from ..types import JSON, Completion
from .capabilities import Capabilities
from .continuation import CONTINUE_FIELDS, with_beginning, with_request_to_go_on
from .grammar import SchemaForm, SchemaNegotiation, reduce_schema
from .json_answer import describe_schema, describe_tools, with_description
from .mentioned_tags import keep_mentioned_tags
from .observation import Observation, SentCall
from .prompted_tools import messages_with_tools
from .refusals import STATUSES, is_about_this_call, refuses
from .response_format import expects_json, extract_schema
from .thinking_switch import add_soft_switch

_TRIAL_MARGIN = 16
"""How many tokens a trial of `thinking_token_budget` leaves for the answer, which shows that the reasoning ended."""
_LEAST_TRIED_BUDGET = 3 * _TRIAL_MARGIN
"""The smallest budget whose trial is conclusive."""


class Dialect:
    """One call, adapted to its server.

    Send what `write` returns. Call `request_refused` if the server rejects it, which says whether to write and send the
    call again; otherwise `request_accepted`, and then `observe` with the answer.
    """

    __slots__ = (
        "_body",
        "_capabilities",
        "_given_up",
        "_is_free",
        "_is_limited",
        "_is_stream",
        "_may_repeat",
        "_schema_in",
        "_schemas",
        "_thinking_limit",
        "_tool_calling",
        "_trials",
        "_used",
    )

    def __init__(
        self,
        body: Body,
        capabilities: Capabilities,
        *,
        tool_calling: str = "auto",
        schema_in: str | None = None,
        may_repeat: bool = True,
        is_stream: bool = False,
    ) -> None:
        """Start with one call.

        Args:
            body: What the caller set.
            capabilities: What is known about the server; updated by this call.
            tool_calling: How to send tools; see `Client.complete`.
            schema_in: Where to send a schema; see `Client.complete`.
            may_repeat: Whether the request may be sent again if a stream may have lost a part of a tool call.
            is_stream: Whether the answer is streamed.
        """
        self._body = body
        self._capabilities = capabilities
        self._used = capabilities  # a snapshot from when the call was written; other calls may update the original
        self._given_up: dict[str, bool] = {}  # capabilities that this call avoids; True: all other calls should too
        self._tool_calling = tool_calling
        self._schema_in = schema_in
        self._trials: set[str] | None = None  # what this call tries again; None: not known yet
        self._schemas = SchemaNegotiation(
            _enforced_schemas(body),
            capabilities.schema_forms,
            can_describe=schema_in != "request" if expects_json(body.response_format) else tool_calling == "auto",
        )
        self._is_stream = is_stream
        self._is_limited = False  # whether max_tokens limits the thinking
        self._thinking_limit: int | None = None  # the `thinking_token_budget` that was sent
        self._is_free = bool(body.tools) and body.tool_choice in (None, "auto")  # forced calls are parsed differently
        self._may_repeat = may_repeat and self._is_free and (body.n or 1) == 1

    @property
    def prompts_tools(self) -> bool:
        """Whether tools are offered in the messages."""
        if self._is_limited and self._body.forces_call and self._tool_calling != "native":
            return True  # vLLM 0.9 answers with an error, or not at all, if a forced call is cut off
        is_native = self._used.tools and self._tools_form is not SchemaForm.DESCRIBED
        is_whole = self._used.streamed_calls or not (self._is_stream and self._is_free)
        return self._tool_calling == "prompted" or (self._tool_calling == "auto" and not (is_native and is_whole))

    @property
    def _tools_form(self) -> SchemaForm:
        """The form of the tools, which are whole if the schema of the answer is enforced."""
        return SchemaForm.WHOLE if extract_schema(self._body.response_format) else self._schemas.form

    @property
    def enforces_schema(self) -> bool:
        """Whether `response_format` is sent in the request, where the server enforces it with a grammar."""
        response_format = self._body.response_format or {"type": "text"}
        if not expects_json(response_format):  # it cannot be requested in the messages
            return bool(response_format.get("type") != "text")
        is_supported = self._used.response_format and self._schemas.form is not SchemaForm.DESCRIBED
        return self._schema_in == "request" or (is_supported and self._schema_in != "messages")

    @property
    def is_limited(self) -> bool:
        """Whether the answer may be cut off by the thinking budget, after which another request continues it."""
        return self._is_limited

    @property
    def decoding_options(self) -> DecodingOptions:
        """How to decode the answer."""
        body = self._body
        return DecodingOptions(
            tools=bool(body.tools) and body.tool_choice != "none",
            tool_names=_tool_names(body.tools),
            text_calls=self._text_calls,
            required_tool=body.required_tool,
            single_call=body.parallel_tool_calls is False,
            thinking_off=body.enable_thinking is False,
            stop_lag=_stop_lag(body),
            max_tokens=body.thinking_budget if self._is_limited else body.max_tokens,
            lossy_streams=self._may_repeat,
            tools_with_parameters=_tool_names([tool for tool in body.tools if _has_parameters(tool)]),
            opening_tag=self._used.opening_tag or body.enable_thinking is False,
        )

    @property
    def _text_calls(self) -> Literal["unparsed", "quoted", "plain", "prompted"]:
        if self.prompts_tools:
            return "prompted"
        if self._tool_calling == "native":
            return "plain"
        return "quoted" if self._used.tool_parser else "unparsed"

    def write(self) -> Body:
        """Return the body to send."""
        if self._trials is None:
            names = self._dispensable_capabilities() if (self._body.n or 1) == 1 else ()
            self._trials = self._capabilities.to_try_again(names)
        changes: dict[str, Any] = {**dict.fromkeys(self._trials, True), **dict.fromkeys(self._given_up, False)}
        self._used = replace(self._capabilities, **changes)
        body = replace(self._body)
        messages = with_results_in_order(body.messages)
        body.messages = keep_mentioned_tags(messages, is_continued=bool(body.other.get("continue_final_message")))
        self._write_budget(body)
        self._write_continuation(body)
        self._write_thinking(body)
        self._write_schema(body)
        if not self._used.stream_options:
            body.stream_options = None
        if not self._used.reasoning_history:
            body.messages = [_without(message, *REASONING_FIELDS) for message in body.messages]
        elif self._used.reasoning_field is not None:
            body.messages = [_with_reasoning_once(message, self._used.reasoning_field) for message in body.messages]
        self._write_tools(body)
        return body

    def request_refused(self, error: APIStatusError | ServerStreamError) -> bool:
        """Learn from the server's error; return whether the call can now be written differently.

        Args:
            error: What the server answered with. In a stream, vLLM reports that it refuses a schema within the answer.
        """
        if isinstance(error, ContextOverflowError):
            return False
        if isinstance(error, APIStatusError) and error.status_code not in STATUSES:
            return False
        text = server_text(error)
        is_of_tool = is_about_function(text) and extract_schema(self._body.response_format) is not None
        used = [name for name in self._dispensable_capabilities() if getattr(self._used, name)]
        refused = [name for name in used if refuses(text, name)]
        if not refused and not is_of_tool and is_about_grammar(text) and self._schemas.refused():
            return True
        if isinstance(error, ServerStreamError):
            return False
        self._given_up |= dict.fromkeys(refused, not is_about_this_call(text))
        if not refused and "continuation" in used:  # whatever the error: an answer can be requested without it
            refused = ["continuation"]
            self._given_up["continuation"] = error.status_code < 500  # which may have had nothing to do with it
        trials = self._open_trials  # whatever the error: without them, the call would have been sent differently
        self._given_up |= dict.fromkeys(trials, True)
        return bool(refused or trials)

    def request_accepted(self) -> None:
        """Record for all calls what this one had to avoid: the server accepted the call without it."""
        for name, for_all_calls in self._given_up.items():
            if for_all_calls:
                self._capabilities.give_up(name, is_trial=name in (self._trials or ()))

    def observe(self, completion: Completion, signs: Signs) -> None:
        """Learn from the answer what the server did and what it ignored.

        Args:
            completion: The answer.
            signs: How the server sent it.
        """
        self._schemas.accepted()
        sent = SentCall(
            self._body,
            self._used,
            self._open_trials,
            enforces_schema=self.enforces_schema,
            is_told_schema=self._schema_in is not None,
            thinking_limit=self._thinking_limit,
        )
        Observation(sent, completion, signs, self._capabilities).learn()

    @property
    def _open_trials(self) -> set[str]:
        """What this call tries again, and the server has not refused."""
        return (self._trials or set()) - self._given_up.keys()

    def _write_budget(self, body: Body) -> None:
        """Limit the thinking, by the server's own field if it obeys that, otherwise by `max_tokens`."""
        self._is_limited, self._thinking_limit = False, None
        budget = body.thinking_budget
        if budget is None or not body.limits_thinking:
            return
        is_trial = "thinking_budget" in self._open_trials
        self._is_limited = is_trial or not self._used.thinking_budget
        if self._is_limited:
            body.limit_tokens(budget)
        if self._used.thinking_budget:
            self._thinking_limit = budget - _TRIAL_MARGIN if is_trial else budget
            body.other = {**body.other, "thinking_token_budget": self._thinking_limit}

    def _write_continuation(self, body: Body) -> None:
        if body.continues is None:
            return
        if self._used.continuation:
            body.messages = with_beginning(body.messages, body.continues)
            body.other = {**body.other, **CONTINUE_FIELDS}
        else:
            body.messages = with_request_to_go_on(body.messages, body.continues)

    def _write_thinking(self, body: Body) -> None:
        thinking = body.enable_thinking
        if not self._used.template_kwargs:
            body.enable_thinking = None
        if body.continues is not None and self._used.continuation:  # its reasoning has ended
            return
        if thinking is not None and not (self._used.thinking_switch and self._used.template_kwargs):
            body.messages = add_soft_switch(body.messages, thinking)

    def _write_schema(self, body: Body) -> None:
        response_format = body.response_format
        wants_json = expects_json(response_format)
        if not self.enforces_schema and (wants_json or not self._used.response_format):
            body.response_format = None
        schema = extract_schema(response_format)
        is_reduced = self._schemas.form is SchemaForm.REDUCED
        if body.response_format is not None and schema is not None and is_reduced:
            json_schema = {**body.response_format["json_schema"], "schema": reduce_schema(schema)}
            body.response_format = {**body.response_format, "json_schema": json_schema}
        is_told = self._schema_in == "both" or (is_reduced and self._schema_in != "request")
        is_described = not self.enforces_schema or (schema is not None and is_told)
        if wants_json and is_described:
            body.messages = with_description(body.messages, describe_schema(schema))

    def _write_tools(self, body: Body) -> None:
        if self.prompts_tools or not self._used.parallel_switch:
            body.parallel_tool_calls = None
        if not self.prompts_tools:
            if self._is_limited and body.forces_call:
                body.tool_choice = "auto"
            if self._tools_form is SchemaForm.REDUCED:
                body.messages = with_description(body.messages, describe_tools(body.tools))
                body.tools = [reduce_schema(tool) for tool in body.tools]
            return
        tools, choice, body.tools, body.tool_choice = body.tools, body.tool_choice, (), None
        if self._is_limited and self._tool_calling != "prompted":  # the prompt stays that of the second request
            choice = None
        if tools or any(message.get("tool_calls") or message["role"] == "tool" for message in body.messages):
            body.messages = messages_with_tools(body.messages, tools, choice)

    def _dispensable_capabilities(self) -> list[str]:
        """Return the capabilities that the call could use, and could do without."""
        body = self._body
        is_native = self._tool_calling == "auto" and self._tools_form is not SchemaForm.DESCRIBED
        response_format = body.response_format or {}
        can_be_described = expects_json(response_format) or response_format.get("type") == "text"
        could_use = {
            "tools": bool(body.tools) and is_native,
            "streamed_calls": self._is_free and self._is_stream and is_native,
            "parallel_switch": body.parallel_tool_calls is not None and not self.prompts_tools,
            "response_format": can_be_described and self._schema_in in (None, "both"),
            "template_kwargs": body.enable_thinking is not None and not body.chat_template_kwargs,
            "thinking_switch": body.enable_thinking is False,
            "stream_options": body.stream_options == {"include_usage": True},
            "thinking_budget": body.limits_thinking
            and (self._used.thinking_budget or (body.thinking_budget or 0) >= _LEAST_TRIED_BUDGET),
            "continuation": body.continues is not None,
            "reasoning_history": any(name in message for message in body.messages for name in REASONING_FIELDS),
        }
        return [name for name, is_usable in could_use.items() if is_usable]


def _enforced_schemas(body: Body) -> list[JSON]:
    """Return the schemas that the server may turn into a grammar: that of the answer, or tools.

    vLLM does so for tools that need not be called only if they are strict; llama.cpp always does. Such tools are listed
    in a different form, so that a refusal when a tool must be called does not affect them.
    """
    schema = extract_schema(body.response_format)
    if schema is not None:
        return [schema]
    tools = [dict(tool) for tool in body.tools]
    if body.tool_choice not in (None, "auto", "none"):
        return tools
    strict = [tool for tool in tools if (tool.get("function") or {}).get("strict")]
    return strict or ([{"tools": tools}] if tools and body.tool_choice != "none" else [])


def _tool_names(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Return the names of the tools; none if one has no name, which the server reports."""
    functions = [tool.get("function") for tool in tools]
    names = [function.get("name") if isinstance(function, Mapping) else None for function in functions]
    return frozenset(name for name in names if name) if all(names) else frozenset()


def _has_parameters(tool: Mapping[str, Any]) -> bool:
    parameters = (tool.get("function") or {}).get("parameters")
    return isinstance(parameters, Mapping) and bool(parameters.get("properties"))


def _stop_lag(body: Body) -> int:
    """Return how many characters vLLM holds back in a stream in case they begin a stop string."""
    return 0 if body.include_stop_str_in_output else max([1, *map(len, body.stop)]) - 1


def _with_reasoning_once(message: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the message without the copy of its reasoning that the server does not read."""
    content, reasoning = (message.get(name) for name in REASONING_FIELDS)
    if content is None or content != reasoning:
        return message
    return _without(message, *(name for name in REASONING_FIELDS if name != field))


def _without(message: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return {name: value for name, value in message.items() if name not in names}
