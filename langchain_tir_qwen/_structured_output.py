"""Structured output: conversion of schemas to wire format, and of answers to the requested objects."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, is_dataclass
from inspect import getdoc
from operator import itemgetter
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.output_parsers import BaseTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_openai_function
from langchain_core.utils.pydantic import is_pydantic_v1_subclass, is_pydantic_v2_subclass
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from tir_qwen._integrations import PartialJSON, explain_failure, extract_object

from ._tool_calls import read_invalid_call, split_mark


@dataclass(frozen=True)
class Schema:
    """The JSON schema of an answer, and how to build the user's object from JSON.

    Attributes:
        name: Name of the schema in the request.
        json: The JSON schema.
        build: Builds the user's object from parsed JSON.
        core: The class, if LangChain itself can convert it: a pydantic class or a TypedDict.
    """

    name: str
    json: dict[str, Any]
    build: Callable[[Any], Any]
    core: Any = None

    @property
    def has_definitions(self) -> bool:
        """Whether the schema contains shared definitions (`$defs`)."""
        return not self.json.keys().isdisjoint(("$defs", "definitions"))

    def as_response_format(self, strict: bool | None) -> dict[str, Any]:
        """Return the `response_format` of the request."""
        json_schema: dict[str, Any] = {"name": self.name, "schema": self.json}
        if strict is not None:
            json_schema["strict"] = strict
        return {"type": "json_schema", "json_schema": json_schema}

    def as_tool(self, strict: bool | None) -> dict[str, Any]:
        """Return a tool whose arguments are the object."""
        function = {"name": self.name, "description": self.json.get("description", ""), "parameters": self.json}
        if strict is not None:
            function["strict"] = strict
        return {"type": "function", "function": function}


def read_schema(schema: Any) -> Schema:
    """Convert a pydantic class (of either version), a dataclass, a TypedDict, a JSON schema or an OpenAI function.

    References within the schema are kept, so it may be recursive: vLLM's grammars support that.
    """
    if isinstance(schema, type) and is_pydantic_v2_subclass(schema):
        return _schema(schema.__name__, schema.model_json_schema(), schema.model_validate, schema)
    if isinstance(schema, type) and is_pydantic_v1_subclass(schema):
        old: Any = schema
        return _schema(schema.__name__, old.schema(), old.parse_obj, schema)
    if isinstance(schema, type) and is_dataclass(schema):
        adapter = TypeAdapter(schema)
        json = adapter.json_schema()
        # pydantic before 2.13 omits the docstring. For a dataclass without one, it is generated from the signature.
        if (text := getdoc(schema)) and not text.startswith(f"{schema.__name__}("):
            json.setdefault("description", text)
        return _schema(schema.__name__, json, adapter.validate_python)
    if isinstance(schema, dict):
        if schema.get("type") in ("function", "json_schema") and isinstance(schema.get(schema["type"]), dict):
            schema = schema[schema["type"]]
        inner = schema.get("parameters") or schema.get("schema") or schema
        described = {"description": schema["description"]} if "description" in schema else {}
        return _schema(schema.get("name") or schema.get("title") or "answer", {**described, **inner}, _require_object)
    function = convert_to_openai_function(schema)  # supports LangChain's annotations of a TypedDict
    described = {"description": function["description"]} if function.get("description") else {}
    return _schema(function["name"], {**described, **function["parameters"]}, _require_object, schema)


def any_object() -> Schema:
    """Return the schema of any JSON object."""
    return _schema("answer", {"type": "object"}, _require_object)


def _schema(name: str, json: dict[str, Any], build: Callable[[Any], Any], core: Any = None) -> Schema:
    return Schema(re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64], json, build, core)


def _require_object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"the answer is not a JSON object but a {type(value).__name__}")  # noqa: TRY004 - of data
    return value


def with_raw(llm: Runnable[LanguageModelInput, AIMessage], schema: Schema) -> Runnable[LanguageModelInput, Any]:
    """Return a runnable whose output contains the raw message, the parsed object, and the error if parsing failed."""
    parse = itemgetter("raw") | StructuredOutputParser(build=schema.build)
    parsed = RunnablePassthrough.assign(parsed=parse, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


class StructuredOutputParser(BaseTransformOutputParser[Any]):
    """Parses the object in an answer: its text, or the arguments of its tool call.

    A stream yields the object as it grows, whenever it can be built. The last one is complete; if there is none, an
    `OutputParserException` says what is wrong.
    """

    build: Callable[[Any], Any]
    """Builds the object from parsed JSON; raises ValueError if that does not match."""

    def parse(self, text: str) -> Any:
        """Parse a text."""
        return self._parse_complete(text)

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse an answer; if incomplete (`partial`), return the object so far, or None."""
        text, finish_reason, call_error = _json_text(result[0])
        if partial:
            return self._build_partial(PartialJSON().read(text))
        return self._parse_complete(text, finish_reason, call_error)

    def _build_partial(self, value: dict[str, Any] | None) -> Any:
        try:
            return None if value is None else self.build(value)
        except (ValueError, TypeError):
            return None

    def _parse_complete(self, text: str, finish_reason: str | None = None, call_error: str | None = None) -> Any:
        try:
            value = self.build(from_json(extract_object(text)))
        except (ValueError, TypeError) as error:
            problem = explain_failure(text, finish_reason, error)
        else:
            if call_error is None:
                return value
            problem = f"the call of the object is not valid: {call_error}"
        raise OutputParserException(problem, llm_output=text)

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:  # noqa: A002 - core's name
        growing = _GrowingObject(self)
        for chunk in input:
            yield from growing.add(chunk)
        yield from growing.end()

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:  # noqa: A002
        growing = _GrowingObject(self)
        async for chunk in input:
            for value in growing.add(chunk):
                yield value
        for value in growing.end():
            yield value

    @property
    def _type(self) -> str:
        return "tir_qwen_structured_output"


class _GrowingObject:
    """An object that streams in; yields each new state once."""

    def __init__(self, parser: StructuredOutputParser) -> None:
        self._parser = parser
        self._partial_json = PartialJSON()
        self._value: dict[str, Any] | None = None
        self._text = ""
        self._has_call = False
        self._call_index: int | None = None
        self._call_error: str | None = None  # if any, the model may have been asked for another call
        self._finish_reason: str | None = None
        self._last: Any = None

    def add(self, chunk: str | BaseMessage) -> Iterator[Any]:
        if isinstance(chunk, str):
            text, finish_reason = chunk, None
        elif isinstance(chunk, AIMessageChunk) and chunk.tool_call_chunks:
            text = self._read_call(chunk.tool_call_chunks)
            finish_reason = chunk.response_metadata.get("finish_reason")
        else:
            text, finish_reason, _ = _json_text(ChatGeneration(message=chunk))
            text = "" if self._has_call else text
        self._finish_reason = finish_reason or self._finish_reason
        if text:
            self._text += text
            value = self._partial_json.read(self._text)
            if value is not self._value:
                self._value = value
                yield from self._if_changed(self._parser._build_partial(value))

    def _read_call(self, parts: list[ToolCallChunk]) -> str:
        """Return what parts of calls add to the arguments of the first call that is not invalid."""
        text = ""
        for part in parts:
            if part["index"] != self._call_index:
                if self._has_call and self._call_error is None:
                    continue
                self._has_call, self._call_index, self._text = True, part["index"], ""
            arguments, self._call_error = split_mark(part["args"] or "")
            text += arguments
        return text

    def end(self) -> Iterator[Any]:
        text = self._text or ("{}" if self._has_call else "")  # a call without arguments: an empty object
        yield from self._if_changed(self._parser._parse_complete(text, self._finish_reason, self._call_error))

    def _if_changed(self, value: Any) -> Iterator[Any]:
        if value is not None and value != self._last:
            self._last = value
            yield value


def _json_text(generation: Generation) -> tuple[str, str | None, str | None]:
    """Return the JSON text of an answer or a chunk, its finish reason, and the error of the call that contains it.

    If the model had to call a tool, some versions of the server return the arguments as text.
    """
    message = generation.message if isinstance(generation, ChatGeneration) else None
    if not isinstance(message, AIMessage):
        return generation.text, None, None
    finish_reason = message.response_metadata.get("finish_reason")
    if isinstance(message, AIMessageChunk):
        arguments: dict[int | None, str] = {}
        for call in message.tool_call_chunks:
            arguments[call["index"]] = arguments.get(call["index"], "") + (call["args"] or "")
        calls = sorted(map(split_mark, arguments.values()), key=lambda call: call[1] is not None)  # valid ones first
        text, error = calls[0] if calls else ("", None)
        return text or message.text, finish_reason, error
    if message.tool_calls:
        return to_json(message.tool_calls[0]["args"]).decode(), finish_reason, None
    if message.invalid_tool_calls:
        text, error = read_invalid_call(message.invalid_tool_calls[0])
        return text, finish_reason, error
    return message.text, finish_reason, None
