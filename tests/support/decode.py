"""Helpers for decoder tests: they feed bodies in and compare the outcomes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings

from tir_qwen import TIRError
from tir_qwen._response.choice import DEFAULT_OPTIONS, DecodingOptions
from tir_qwen._response.response import ResponseDecoder
from tir_qwen.types import Choice, Completion, Delta

FIXED = settings(derandomize=True, deadline=None, database=None, max_examples=200)
"""Property tests try the same examples each time, however slow the machine."""
DONE = b"[DONE]"
BOM = b"\xef\xbb\xbf"


@dataclass
class Outcome:
    """Everything that a caller sees of one answer."""

    deltas: list[Delta]
    error: tuple[str, str, Any] | None
    """Class, message and body of the error that ended it."""
    completion: Completion
    done: bool
    arrived: list[int] = field(default_factory=list, compare=False)
    """How many deltas had come after each piece: a matter of the cuts, all else is not."""

    @property
    def said(self) -> tuple[str, str, list[tuple[str, str]], str | None]:
        """Return reasoning, content, tool calls and finish reason of the first choice."""
        first = self.completion.first
        calls = [(call.name, call.arguments) for call in first.tool_calls]
        return first.reasoning, first.content, calls, first.finish_reason

    @property
    def failed(self) -> tuple[str, str] | None:
        """Return the class and the message of the error."""
        return self.error and self.error[:2]


def decode(*pieces: bytes, secrets: tuple[str, ...] = (), expected: DecodingOptions = DEFAULT_OPTIONS) -> Outcome:
    """Decode a body that arrives in these pieces; any exception but a `TIRError` fails the test."""
    decoder = ResponseDecoder(secrets, expected)
    deltas: list[Delta] = []
    arrived: list[int] = []
    error = None
    try:
        for piece in pieces:
            deltas.extend(decoder.feed(piece))
            arrived.append(len(deltas))
        deltas.extend(decoder.close())
    except TIRError as caught:
        error = (type(caught).__name__, str(caught), getattr(caught, "body", None))
    return Outcome(deltas, error, decoder.completion(), decoder.done, arrived)


def bytewise(body: bytes) -> Iterator[bytes]:
    """Cut `body` into single bytes."""
    return (body[at : at + 1] for at in range(len(body)))


def pieces_of(body: Any, cuts: Iterable[int]) -> list[Any]:
    """Cut `body` (bytes or text) at these positions, which may be repeated or out of range."""
    places = [0, *sorted(max(0, min(cut, len(body))) for cut in cuts), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(places)]


def chunk(delta: Any = None, finish_reason: Any = None, index: int = 0, /, **more: Any) -> dict[str, Any]:
    """Return a chunk with one choice, as vLLM sends it."""
    choice = {"index": index, "delta": {} if delta is None else delta, "logprobs": None, "finish_reason": finish_reason}
    facts = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1770613777, "model": "qwen3_32b"}
    return {**facts, "choices": [choice], **more}


def whole(message: Any, finish_reason: Any = "stop", /, **more: Any) -> bytes:
    """Return a whole answer with one choice, as vLLM sends it."""
    body = chunk(None, finish_reason, **more)
    body["object"] = "chat.completion"
    body["choices"][0]["message"] = message
    del body["choices"][0]["delta"]
    return json.dumps(body, ensure_ascii=False).encode()


def events(*payloads: Any, end: bytes = b"\n") -> bytes:
    """Return an event stream of these payloads: bytes unchanged, anything else as JSON."""
    stream = b""
    for payload in payloads:
        data = payload if isinstance(payload, bytes) else json.dumps(payload, ensure_ascii=False).encode()
        stream += b"data: " + data + end + end
    return stream


def stream(*deltas: Any, finish_reason: str = "stop") -> bytes:
    """Return a complete stream of these deltas of one choice."""
    return events(*(chunk(delta) for delta in deltas), chunk({}, finish_reason), DONE)


def written(arguments: str, name: str = "get_weather") -> str:
    """Return a tool call as the model writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def native(*arguments: str, first: int | None = None) -> dict[str, Any]:
    """Return a message or, given the index of its first call, a delta, with tool calls parsed by the server."""
    calls: list[dict[str, Any]] = [
        {"id": f"server-{number}", "type": "function", "function": {"name": "get_weather", "arguments": text}}
        for number, text in enumerate(arguments, first or 0)
    ]
    if first is not None:
        calls = [{"index": number, **call} for number, call in enumerate(calls, first)]
    return {"content": None, "tool_calls": calls}


def several(*deltas: tuple[int, dict[str, Any]], number: int = 2) -> bytes:
    """Return a stream of deltas of these choices."""
    ends = [chunk({}, "stop", index) for index in range(number)]
    return events(*(chunk(delta, None, index) for index, delta in deltas), *ends, DONE)


def calls_of(choice: Choice) -> list[tuple[str, str]]:
    """Return names and arguments of the calls; check that each has its own id."""
    ids = [call.id for call in choice.tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    return [(call.name, call.arguments) for call in choice.tool_calls]
