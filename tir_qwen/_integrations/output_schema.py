"""Structured output: the schema of an answer, and the user's object that it describes."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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
            is_plain: Whether the object is the JSON value itself, so that an incomplete value is a valid object, too.
            description: What the object is; default: the description of the JSON schema.
        """
        self.name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]
        self.json: JSON = from_json(to_json(json, inf_nan_mode="strings"))  # a default may be infinite
        self._description: str = self.json.get("description", "") if description is None else description
        self._build = build
        self._is_plain = is_plain
        self._is_object = describes_objects(json)
        required = self.json.get("required")
        self._required = {key for key in required if isinstance(key, str)} if isinstance(required, list) else set()

    @property
    def validator(self) -> Validator:
        """The schema's `validate` parameter of a call."""
        return Validator(self)

    def build(self, text: str) -> Any:
        """Build the object from the text of a JSON value.

        Raises:
            ValueError: The value is not valid.
            Exception: Whatever else a validator raises.
        """
        return self._build(text)

    def parse(self, text: str, finish_reason: str | None = None) -> Any:
        """Build the object from an answer.

        Raises:
            ValueError: The answer contains no such object; the message says if max_tokens truncated it.
        """
        try:
            return self.build(text)  # an answer is usually nothing but JSON
        except (ValueError, TypeError):
            pass
        try:
            return self.build(extract_json(text, is_object=self._is_object))
        except (ValueError, TypeError) as error:
            raise ValueError(explain_failure(text, finish_reason, error)) from error

    def partial_json(self) -> PartialJSON:
        """Return a parser of an answer that streams in."""
        return PartialJSON(is_object=self._is_object)

    def build_partial(self, value: Any) -> Any:
        """Return the object so far, from what has been parsed; None if it cannot be built yet."""
        if value is None or self._is_plain:
            return value
        if isinstance(value, dict) and not self._required <= value.keys():  # faster than to let pydantic find out
            return None
        with suppress(Exception):  # validators may not expect parts
            return self.build(to_json(value).decode())
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
        return OutputSchema(self.name, json, partial(_build_unwrapped, self._build), description=self._description)


class Validator(str):
    """Validates JSON against a schema.

    It is a `str`, the name of the schema, so that tracers and caches can serialize the parameters of a call.
    """

    __slots__ = ("_schema",)
    _schema: OutputSchema

    def __new__(cls, schema: OutputSchema) -> Self:
        """Take the name of a schema."""
        validator = super().__new__(cls, schema.name)
        validator._schema = schema
        return validator

    def __getnewargs__(self) -> tuple[OutputSchema]:  # type: ignore[override]
        return (self._schema,)

    def __call__(self, text: str) -> None:
        """Validate the text of a JSON value.

        Other errors are mistakes of a validator, which the model could not correct; `OutputSchema.parse` raises them.

        Raises:
            ValueError: It is not valid.
        """
        try:
            self._schema.build(text)
        except ValueError:
            raise
        except Exception:  # noqa: BLE001
            return


def parse_json(schema: JSON, text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: It is not JSON, or does not follow the schema.
    """
    value = from_json(text)
    if problem := find_mismatch(value, schema):
        raise ValueError(problem)
    return value


def _strict(strict: bool | None) -> JSON:
    return {} if strict is None else {"strict": strict}


def _build_unwrapped(build: Callable[[str], Any], text: str) -> Any:
    """Build an object from the value of the wrapper's key, or from the text, as a model without tools writes it."""
    value = from_json(text)
    is_wrapped = isinstance(value, dict) and value.keys() == {_WRAPPER}
    return build(to_json(value[_WRAPPER]).decode() if is_wrapped else text)
