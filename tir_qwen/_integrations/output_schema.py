"""Structured output: the schema of an answer, and the user's object that it describes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Self

from pydantic_core import from_json, to_json

from .._dialect.json_answer import explain_failure, extract_json
from .._dialect.json_schema import describes_objects, find_mismatch
from ..types import JSON
from .partial_json import PartialJSON

_WRAPPER = "value"
"""The argument of a tool whose object is not a JSON object."""


class OutputSchema:
    """The JSON schema of an answer, and how to build the user's object from JSON."""

    def __init__(
        self,
        name: str,
        json: JSON,
        build: Callable[[str], Any],
        *,
        is_plain: bool = False,
        description: str | None = None,
    ) -> None:
        """Name a schema.

        Args:
            name: Name of the schema; characters that a server may not accept are replaced.
            json: The JSON schema.
            build: Builds the object from the text of a JSON value; raises ValueError if that is not valid.
            is_plain: Whether the object is the JSON value itself, so that any part of it is an object so far.
            description: What the object is; default: the description of the JSON schema.
        """
        self.name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]
        self.json = json
        self._description: str = json.get("description", "") if description is None else description
        self._build = build
        self._is_plain = is_plain
        self._is_object = describes_objects(json)
        self._is_wrapped = False

    @property
    def validator(self) -> Validator:
        """The schema's `validate` parameter of a call."""
        return Validator(self)

    def build(self, text: str) -> Any:
        """Build the object from the text of a JSON value.

        Raises:
            ValueError: The value is not valid.
        """
        return self._build(to_json(_unwrap(from_json(text))).decode() if self._is_wrapped else text)

    def parse(self, text: str, finish_reason: str | None = None) -> Any:
        """Build the object from an answer.

        Raises:
            ValueError: The answer contains no such object; the message says if max_tokens truncated it.
        """
        try:
            return self.build(extract_json(text, is_object=self._is_object))
        except (ValueError, TypeError) as error:
            raise ValueError(explain_failure(text, finish_reason, error)) from error

    def partial_json(self) -> PartialJSON:
        """Return a parser of an answer that streams in."""
        return PartialJSON(is_object=self._is_object)

    def build_partial(self, value: Any) -> Any:
        """Return the object so far, from what has been parsed; None if it cannot be built yet."""
        try:
            part = _unwrap(value) if self._is_wrapped else value
            return part if part is None or self._is_plain else self._build(to_json(part).decode())
        except (ValueError, TypeError):
            return None

    def as_response_format(self, strict: bool | None = None) -> JSON:
        """Return the `response_format` with which the server enforces the schema."""
        return {"type": "json_schema", "json_schema": {"name": self.name, "schema": self.json, **_strict(strict)}}

    def as_json_mode(self) -> JSON:
        """Return the `response_format` with which the server enforces JSON of the schema's kind, but not the schema."""
        if self._is_object:
            return {"type": "json_object"}
        kind = {"type": self.json["type"]} if "type" in self.json else {}
        return {"type": "json_schema", "json_schema": {"name": self.name, "schema": kind}}

    def as_tool(self, strict: bool | None = None) -> JSON:
        """Return a tool whose arguments are the object; see `wrapped`."""
        described: JSON = {"name": self.name, "description": self._description, "parameters": self.json}
        return {"type": "function", "function": {**described, **_strict(strict)}}

    def as_tool_choice(self) -> str | JSON:
        """Return the `tool_choice` that makes the model call the tool."""
        # vLLM 0.9 streams the arguments of a named tool as text, but with `required` it loses the definitions that a
        # schema refers to.
        if self.json.keys().isdisjoint(("$defs", "definitions")):
            return "required"
        return {"type": "function", "function": {"name": self.name}}

    def wrapped(self) -> OutputSchema:
        """Return the schema of a tool's arguments, which are an object: anything else becomes the value of a key."""
        if self._is_object and self.json.keys().isdisjoint(("anyOf", "oneOf")):
            return self
        shared: JSON = {key: self.json[key] for key in ("$defs", "definitions", "description") if key in self.json}
        inner = {key: value for key, value in self.json.items() if key not in shared}
        json: JSON = {"type": "object", "properties": {_WRAPPER: inner}, "required": [_WRAPPER], **shared}
        schema = OutputSchema(self.name, json, self._build, is_plain=self._is_plain, description=self._description)
        schema._is_wrapped = True
        return schema


class Validator(str):
    """Validates JSON against a schema.

    It is a string, the name of the schema, because tracers and caches write the parameters of a call down.
    """

    __slots__ = ("_schema",)
    _schema: OutputSchema

    def __new__(cls, schema: OutputSchema) -> Self:
        """Take the name of a schema."""
        validator = super().__new__(cls, schema.name)
        validator._schema = schema
        return validator

    def __call__(self, text: str) -> None:
        """Validate the text of a JSON value.

        Raises:
            ValueError: It is not valid.
        """
        self._schema.build(text)


def parse_json(schema: JSON | None, text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: It does not follow the schema (None: it is not JSON).
    """
    value = from_json(text)
    if problem := find_mismatch(value, schema):
        raise ValueError(problem)
    return value


def _strict(strict: bool | None) -> JSON:
    return {} if strict is None else {"strict": strict}


def _unwrap(value: Any) -> Any:
    """Return the value of the wrapper's key; without one, the value itself, as a model without tools writes it."""
    return value[_WRAPPER] if isinstance(value, dict) and value.keys() == {_WRAPPER} else value or None
