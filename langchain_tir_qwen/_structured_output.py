"""Structured output: conversion of schemas to wire format, and of answers to the requested objects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import is_dataclass
from functools import partial
from inspect import getdoc
from operator import itemgetter
from typing import Any, NewType, get_origin

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.output_parsers import BaseTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_function, convert_to_openai_tool
from langchain_core.utils.pydantic import is_pydantic_v1_subclass, is_pydantic_v2_subclass
from pydantic import ConfigDict, PydanticUserError, TypeAdapter
from pydantic_core import from_json, to_json
from typing_extensions import is_typeddict

from tir_qwen._integrations.output_schema import OutputSchema, parse_json

from ._messages import REPLACED_CONTENT, valid_text
from ._tool_calls import read_invalid_call, split_mark


def read_schema(schema: Any) -> OutputSchema:
    """Convert a schema as users give it.

    References within the schema are kept, so it may be recursive: vLLM's grammars support that.

    Args:
        schema: A pydantic class (of either version), a dataclass, a TypedDict, a JSON schema, an OpenAI function, or
            any other type that pydantic supports, such as `list[int]`. For a tool or a function, which is not called,
            the object is its arguments.
    """
    if isinstance(schema, type) and is_pydantic_v2_subclass(schema):
        return OutputSchema(schema.__name__, schema.model_json_schema(), schema.model_validate_json)
    if isinstance(schema, type) and is_pydantic_v1_subclass(schema):
        old: Any = schema
        return OutputSchema(schema.__name__, old.schema(), partial(_parse_v1, old))
    if isinstance(schema, dict):
        return _read_json_schema(schema)
    if is_typeddict(schema):
        return _read_typed_dict(schema)
    if isinstance(schema, BaseTool) or _is_function(schema):  # pydantic would call a function
        return _read_json_schema(convert_to_openai_function(schema))
    adapter = TypeAdapter(schema)
    json = adapter.json_schema()
    # pydantic before 2.13 omits the docstring. For a dataclass without one, it is generated from the signature.
    name = getattr(schema, "__name__", "answer")
    if is_dataclass(schema) and (text := getdoc(schema)) and not text.startswith(f"{name}("):
        json.setdefault("description", text)
    return OutputSchema(name, json, adapter.validate_json)


def _is_function(schema: Any) -> bool:
    is_type = isinstance(schema, (type, NewType)) or get_origin(schema) is not None
    return callable(schema) and not is_type


def any_object() -> OutputSchema:
    """Return the schema of any object; from a server that does not enforce it, any JSON is accepted."""
    return OutputSchema("answer", {"type": "object"}, from_json, is_plain=True)


def _read_json_schema(schema: dict[str, Any]) -> OutputSchema:
    if schema.get("type") in ("function", "json_schema") and isinstance(schema.get(schema["type"]), dict):
        schema = schema[schema["type"]]
    inner = schema.get("parameters") or schema.get("schema") or schema
    described = {"description": schema["description"]} if schema.get("description") else {}
    json = {**described, **inner}
    name = schema.get("name") or schema.get("title") or "answer"
    return OutputSchema(name, json, partial(parse_json, json), is_plain=True)


def _read_typed_dict(schema: Any) -> OutputSchema:
    """Convert a TypedDict; the object is a plain dict of JSON values, as LangChain's other models return it."""
    try:
        adapter = TypeAdapter(schema)
    except PydanticUserError:  # Python 3.11 has TypedDicts that pydantic does not support
        return _read_json_schema(convert_to_openai_function(schema))
    try:
        json_schema = convert_to_openai_function(schema)  # supports LangChain's annotations, but not NotRequired
    except TypeError:
        json_schema = adapter.json_schema()
    plain = _read_json_schema(json_schema)
    return OutputSchema(plain.name, plain.json, partial(_parse_typed_dict, adapter), is_plain=True)


def _parse_typed_dict(adapter: TypeAdapter[Any], text: str) -> Any:
    adapter.validate_json(text, strict=True)
    return from_json(text)


def _parse_v1(schema: Any, text: str) -> Any:
    return schema.parse_obj(from_json(text))


def traced_schema(schema: Any, output_schema: OutputSchema, strict: bool | None) -> dict[str, Any]:
    """Return a schema as LangChain's traces show it, which is a tool."""
    is_model = isinstance(schema, type) and (is_pydantic_v2_subclass(schema) or is_pydantic_v1_subclass(schema))
    if is_model and "properties" in output_schema.json:
        return convert_to_openai_tool(schema)
    return output_schema.as_tool(strict)  # LangChain does not convert all of them


def with_raw(llm: Runnable[LanguageModelInput, AIMessage], schema: OutputSchema) -> Runnable[LanguageModelInput, Any]:
    """Return a runnable whose output contains the raw message, the parsed object, and the error if parsing failed.

    The model is the first step, since only the first step gets the arguments of a call; the branches of a map do not.
    """
    parse = itemgetter("raw") | StructuredOutputParser(answer_schema=schema)
    parsed = RunnablePassthrough.assign(parsed=parse, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return llm | RunnableMap(raw=RunnablePassthrough()) | parsed.with_fallbacks([failed], exception_key="parsing_error")


class StructuredOutputParser(BaseTransformOutputParser[Any]):
    """Parses the object in an answer: its text, or the arguments of its tool call.

    A stream yields the object as it grows, whenever it can be built. The last one is complete; if there is none, an
    `OutputParserException` says what is wrong.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    answer_schema: OutputSchema
    """The schema, which builds the object."""

    def parse(self, text: str) -> Any:
        """Parse a string."""
        return self._parse_complete(text)

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse an answer; if incomplete (`partial`), return the object so far, or None."""
        text, finish_reason, call_error = _json_text(result[0])
        if partial:
            return self.answer_schema.build_partial(self.answer_schema.partial_json().read(text))
        return self._parse_complete(text, finish_reason, call_error)

    def _parse_complete(self, text: str, finish_reason: str | None = None, call_error: str | None = None) -> Any:
        try:
            value = self.answer_schema.parse(text, finish_reason)
        except ValueError as error:
            raise OutputParserException(str(error), llm_output=text) from error.__cause__
        if call_error is not None:
            raise OutputParserException(f"the call of the object is not valid: {call_error}", llm_output=text)
        return value

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
        self._partial_json = parser.answer_schema.partial_json()
        self._value: Any = None
        self._text = ""
        self._has_call = False
        self._call_index: int | None = None
        self._call_error: str | None = None  # if any, the model may have been asked for another call
        self._finish_reason: str | None = None
        self._last: Any = None

    def add(self, chunk: str | BaseMessage) -> Iterator[Any]:
        if isinstance(chunk, str):
            text, finish_reason = chunk, None
        elif self._text and chunk.additional_kwargs.get(REPLACED_CONTENT):
            text, finish_reason = chunk.text.lstrip(), None
            self._text, self._partial_json = "", self._parser.answer_schema.partial_json()
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
                yield from self._if_changed(self._parser.answer_schema.build_partial(value))

    def _read_call(self, parts: list[ToolCallChunk]) -> str:
        """Return what parts of calls add to the arguments of the first valid call."""
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
        return text or valid_text(message), finish_reason, error
    if message.tool_calls:
        return to_json(message.tool_calls[0]["args"]).decode(), finish_reason, None
    if message.invalid_tool_calls:
        text, error = read_invalid_call(message.invalid_tool_calls[0])
        return text, finish_reason, error
    return message.text, finish_reason, None
