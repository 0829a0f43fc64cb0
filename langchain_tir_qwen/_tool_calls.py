"""Conversion of tool calls to LangChain's, complete or streamed, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call
from pydantic_core import from_json

from tir_qwen import ToolCall, ToolCallDelta
from tir_qwen._integrations import REPEATED

_ERROR_MARK = "// not run:"
_MARKED_ARGUMENTS = rf'(?s)(.*)(?:  | ")[\]}}] {_ERROR_MARK} (.*)'
_STRINGS_AND_BRACKETS = r'(?s)"(?:[^"\\]+|\\.)*(?P<end>"?)|[\[\]{}]'


def read_tool_call(call: ToolCall) -> LangChainToolCall | InvalidToolCall:
    """Convert a complete tool call; an invalid one becomes an `InvalidToolCall` with the reason."""
    if call.error is not None:
        return invalid_tool_call(name=call.name, args=call.arguments, id=call.id or None, error=call.error)
    return tool_call(name=call.name, args=from_json(call.arguments), id=call.id or None)


def read_invalid_call(call: InvalidToolCall) -> tuple[str, str]:
    """Return the arguments of an invalid call as the model wrote them, and why the call was not run."""
    arguments, error = split_mark(call["args"] or "")
    return arguments, error or call.get("error") or "its arguments are not valid JSON"


def unrepeated_invalid_calls(message: AIMessage) -> list[InvalidToolCall]:
    """Return the invalid calls of a message, except for those that were requested again."""
    invalid = [call for call in message.invalid_tool_calls if not read_invalid_call(call)[1].endswith(REPEATED)]
    return invalid if invalid or message.tool_calls else message.invalid_tool_calls


def split_mark(arguments: str) -> tuple[str, str | None]:
    """Return the arguments of a streamed call without the mark of an invalid call, and the reason in that mark."""
    marked = re.fullmatch(_MARKED_ARGUMENTS, arguments) if _ERROR_MARK in arguments else None
    return (marked[1], marked[2]) if marked else (arguments, None)


class ToolCallChunks:
    """Converts the parts of one stream's tool calls.

    When chunks are added up, langchain-core repairs the arguments of each call: `{"city": "Par` becomes a call for the
    city Par, even after the sum has been serialized and loaded again. It does not repair a mismatched closing bracket.
    So the arguments of an invalid call end with such a bracket and the reason.
    """

    __slots__ = ("_arguments", "_marked")

    def __init__(self) -> None:
        self._arguments: dict[int, list[str]] = {}  # so far, of each call
        self._marked: set[int] = set()  # the calls with a reason, to which another one may be added

    def add_to(self, chunk: AIMessageChunk, parts: Iterable[ToolCallDelta]) -> None:
        """Add parts of calls to a chunk.

        Core would parse each part as if it were complete, in quadratic time.
        """
        for part in parts:
            arguments = part.arguments
            texts = self._arguments.setdefault(part.index, [])
            texts.append(arguments)
            if part.error is not None:
                is_marked = part.index in self._marked
                mark = ";" if is_marked else f"{_mismatched_bracket(''.join(texts))} {_ERROR_MARK}"
                arguments += f"{mark} {part.error}"
                self._marked.add(part.index)
            chunk.tool_call_chunks.append(
                ToolCallChunk(type="tool_call_chunk", name=part.name, args=arguments, id=part.id, index=part.index)
            )
            begun = _read_beginning(arguments)
            if begun is None:
                chunk.invalid_tool_calls.append(
                    invalid_tool_call(name=part.name, args=arguments, id=part.id, error=part.error)
                )
            else:
                chunk.tool_calls.append(tool_call(name=part.name or "", args=begun, id=part.id))


def _read_beginning(arguments: str) -> dict[str, object] | None:
    """Parse the beginning of arguments; return None if `arguments` is a later part of them."""
    if not arguments:
        return {}
    if not arguments.startswith("{") or split_mark(arguments)[1] is not None:
        return None
    try:
        value = from_json(arguments, allow_partial="trailing-strings")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _mismatched_bracket(text: str) -> str:
    """Return text that closes a string left open at the end of `text`, and an unmatched closing bracket."""
    open_brackets: list[str] = []
    end_of_string = "  "
    for found in re.finditer(_STRINGS_AND_BRACKETS, text):
        part = found[0]
        if part in "[{":
            open_brackets.append(part)
        elif part in "]}":
            del open_brackets[-1:]
        elif not found["end"]:
            end_of_string = ' "'  # the space may be escaped, the quote must not be
    return end_of_string + ("}" if open_brackets[-1:] == ["["] else "]")
