"""Validation of the messages and the parameters of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from ..errors import ConfigurationError

_PARAMETER_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "tools": ((list, tuple, NoneType), "a list of tools"),
    "tool_choice": ((str, Mapping, NoneType), "a string or a dict"),
    "response_format": ((Mapping, NoneType), "a dict"),
    "n": ((int, NoneType), "a whole number"),
    "extra_body": ((Mapping, NoneType), "a dict"),
    "chat_template_kwargs": ((Mapping, NoneType), "a dict"),
    "model": ((str, NoneType), "the name of a model, such as qwen3_32b"),
}


def validate_call(messages: Any, params: Mapping[str, Any]) -> None:
    """Check the types of the messages and parameters of a call.

    Raises:
        ConfigurationError: Something has a wrong type; the message says what it must be.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise ConfigurationError("messages must be a list of messages.")
    for position, message in enumerate(messages):
        if not (isinstance(message, Mapping) and isinstance(message.get("role"), str)):
            raise ConfigurationError(f"message {position} must be a dict with a role.")
        _check_message(message, f"message {position}")
    for name, (kinds, words) in _PARAMETER_TYPES.items():
        if not isinstance(params.get(name), kinds):
            raise ConfigurationError(f"{name} must be {words}.")
    if not all(isinstance(tool, Mapping) for tool in params.get("tools") or ()):
        raise ConfigurationError("tools must be a list of tools.")
    choice = params.get("tool_choice")
    if isinstance(choice, Mapping) and "function" in choice and not _is_named(choice["function"]):
        raise ConfigurationError("tool_choice must name its function.")
    json_schema = (params.get("response_format") or {}).get("json_schema")
    if not isinstance(json_schema, (Mapping, NoneType)) or not isinstance(
        (json_schema or {}).get("schema"), (Mapping, NoneType)
    ):
        raise ConfigurationError("the json_schema of response_format, and its schema, must be dicts.")


def _check_message(message: Mapping[str, Any], which: str) -> None:
    content = message.get("content")
    if not isinstance(content, (str, list, tuple, NoneType)):
        raise ConfigurationError(f"the content of {which} must be a string or a list of parts.")
    if not isinstance(content, str):
        for part in content or ():
            if not (isinstance(part, Mapping) and isinstance(part.get("text", ""), str)):
                raise ConfigurationError(f"{which} contains a part that is not a dict with a text.")
    calls = message.get("tool_calls")
    if not isinstance(calls, (list, tuple, NoneType)) or not all(
        isinstance(call, Mapping) and _is_named(call.get("function")) for call in calls or ()
    ):
        raise ConfigurationError(f"{which} contains tool calls that do not name their functions.")


def _is_named(function: Any) -> bool:
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)
