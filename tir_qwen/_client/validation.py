"""Validation of the messages and the parameters of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import iscoroutinefunction
from math import isfinite
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal

from ..errors import ConfigurationError
from ..types import Validate
from .parameters import CallParameters, OnRetry, TimeoutLike

_CONSTRUCTOR_ARGUMENTS = {
    "access_token",
    "allow_http",
    "api_base",
    "api_key",
    "apikey",
    "async_http_client",
    "base_url",
    "context_window",
    "default_headers",
    "http_async_client",
    "http_client",
    "project_id",
    "system_prompt",
    "tir_access_token",
    "tokenizer_file",
}
_REPLACEMENTS = {
    "additional_kwargs": "extra_body",
    "function_call": "tool_choice",
    "functions": "tools",
    "model_kwargs": "extra_body",
    "model_name": "model",
    "request_timeout": "timeout",
    "stop_sequences": "stop",
}
"""Arguments of other integrations, which would have no effect as fields of the body."""
_HEADER_ARGUMENTS = {"headers", "extra_headers"}
_NOT_BODY_FIELDS = {
    "extra_body": "put its fields there directly",
    "extra_headers": "pass default_headers to the constructor",
    "extra_query": "add it to base_url, as in https://host/v1?key=value",
}
"""Arguments of OpenAI's SDK that its integrations accept among the fields of the body, and what to do instead."""


def _is_number(value: Any) -> bool:
    return _is_whole_number(value) or (isinstance(value, Real) and not isinstance(value, bool) and isfinite(value))


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: _is_list(value) and all(isinstance(item, kind) for item in value)


def _is_one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}"


def _is_any(value: Any) -> bool:
    return True  # validated where it is used


_Check = tuple[Callable[[Any], bool], str]
_DICT: _Check = (lambda value: isinstance(value, Mapping), "a dict")
_CHECKS: dict[Any, _Check] = {
    bool | None: (lambda value: isinstance(value, bool), "True or False"),
    int | None: (_is_whole_number, "a whole number"),
    float | None: (_is_number, "a finite number"),
    str | None: (lambda value: isinstance(value, str), "a string"),
    str | Sequence[str] | None: (
        lambda value: isinstance(value, str) or _is_list_of(str)(value),
        "a string or a list of strings",
    ),
    str | Mapping[str, Any] | None: (lambda value: isinstance(value, (str, Mapping)), "a string or a dict"),
    Mapping[str, Any] | None: _DICT,
    Mapping[str, float] | None: _DICT,
    Sequence[Any] | None: (_is_list, "a list"),
    Sequence[int] | None: (_is_list_of(int), "a list of whole numbers"),
    Sequence[str] | None: (_is_list_of(str), "a list of strings"),
    Sequence[Mapping[str, Any]] | None: (_is_list_of(Mapping), "a list of dicts"),
    Sequence[Mapping[str, str]] | None: (_is_list_of(Mapping), "a list of dicts"),
    Literal["auto", "native", "prompted"] | None: _is_one_of("auto", "native", "prompted"),
    Literal["request", "messages", "both"] | None: _is_one_of("request", "messages", "both"),
    Literal["left", "right"] | None: _is_one_of("left", "right"),
    OnRetry: (callable, "a function"),
    Validate | None: (
        lambda value: callable(value) and not iscoroutinefunction(value),
        "a function that is not asynchronous",
    ),
    TimeoutLike: (_is_any, ""),
}
"""How to check a value of each type, and what to call the type in an error. None is valid for all of them."""


def checks_of(parameters: type) -> Mapping[str, _Check]:
    """Return how to check each of the parameters in a TypedDict."""
    return {name: _CHECKS[type_] for name, type_ in parameters.__annotations__.items()}


PARAMETER_CHECKS = {
    **checks_of(CallParameters),
    "thinking_budget": (lambda value: _is_whole_number(value) and value >= 0, "a whole number of tokens, 0 or higher"),
}


def check_parameters(params: Mapping[str, Any], checks: Mapping[str, _Check] = PARAMETER_CHECKS) -> None:
    """Check the names and the types of a call's parameters.

    Args:
        params: The parameters.
        checks: How to check each of those that exist.

    Raises:
        ConfigurationError: A parameter is unknown, or its value has a wrong type.
    """
    for name, value in params.items():
        check = checks.get(name)
        if check is None:
            raise ConfigurationError(_explain_unknown(name, checks))
        if value is not None:
            check_value(name, value, check)


def check_body_fields(fields: Mapping[str, Any]) -> None:
    """Check the types of those body fields that are parameters too.

    Raises:
        ConfigurationError: A field has a wrong type, or is not a field but an argument of OpenAI's SDK.
    """
    for name, value in fields.items():
        if name in _NOT_BODY_FIELDS:
            raise ConfigurationError(f"{name} is not a field of the request body: {_NOT_BODY_FIELDS[name]}.")
        check = PARAMETER_CHECKS.get(name)
        if check is not None and value is not None:
            check_value(name, value, check)


def check_value(name: str, value: Any, check: _Check) -> None:
    """Check the type of one value."""
    is_valid, words = check
    if not is_valid(value):
        kind = ", not a string" if isinstance(value, str) and ("number" in words or "True" in words) else ""
        raise ConfigurationError(f"{name} must be {words}{kind}.")


def check_tool_choice(choice: Any) -> None:
    """Check that a dict names the function to call.

    Raises:
        ConfigurationError: It does not.
    """
    if isinstance(choice, Mapping) and "function" in choice and not _is_named(choice["function"]):
        raise ConfigurationError("tool_choice must name its function.")


def check_response_format(response_format: Mapping[str, Any] | None) -> None:
    """Check that a schema is a dict.

    Raises:
        ConfigurationError: It is not.
    """
    json_schema = (response_format or {}).get("json_schema")
    if not isinstance(json_schema, (Mapping, NoneType)) or not isinstance(
        (json_schema or {}).get("schema"), (Mapping, NoneType)
    ):
        raise ConfigurationError("the json_schema of response_format, and its schema, must be dicts.")


def check_messages(messages: Any) -> None:
    """Check that messages are in wire format.

    Raises:
        ConfigurationError: There are none, or one is malformed; the error gives its position, from 0.
    """
    if not _is_list(messages):
        raise ConfigurationError("messages must be a list of messages.")
    if not messages:
        raise ConfigurationError("messages is empty: there is nothing to answer.")
    for position, message in enumerate(messages):
        if not (isinstance(message, (dict, Mapping)) and isinstance(message.get("role"), str)):
            raise ConfigurationError(f"message {position} must be a dict with a role.")
        _check_message(message, position)


def _check_message(message: Mapping[str, Any], position: int) -> None:
    content = message.get("content")
    if not isinstance(content, str):
        if not isinstance(content, (list, tuple, NoneType)):
            raise ConfigurationError(f"the content of message {position} must be a string or a list of parts.")
        for part in content or ():
            if not (isinstance(part, Mapping) and isinstance(part.get("text", ""), str)):
                raise ConfigurationError(f"message {position} contains a part that is not a dict with a text.")
    calls = message.get("tool_calls")
    if calls is not None and not (
        isinstance(calls, (list, tuple))
        and all(isinstance(call, Mapping) and _is_named(call.get("function")) for call in calls)
    ):
        raise ConfigurationError(f"message {position} contains tool calls that do not name their functions.")


def _is_named(function: Any) -> bool:
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _explain_unknown(name: str, checks: Mapping[str, _Check]) -> str:
    if name in _CONSTRUCTOR_ARGUMENTS:
        return f"{name} is an argument of the constructor, not of a call."
    if name in _REPLACEMENTS:
        return f"a call takes no argument {name!r} (use {_REPLACEMENTS[name]})."
    if name in _HEADER_ARGUMENTS:
        return f"a call takes no {name}: pass default_headers to the constructor."
    if name == "extra_query":
        return f"a call takes no {name}: {_NOT_BODY_FIELDS[name]}."
    if name in ("stream", "streaming"):
        return f"a call takes no {name}: whether to stream is decided by the method that is called."
    nearest = get_close_matches(name, checks, n=1, cutoff=0.75)
    suggestion = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    return (
        f"a call takes no argument {name!r}{suggestion}. Further fields of the request body go through extra_body:"
        f" extra_body={{{name!r}: ...}}."
    )
