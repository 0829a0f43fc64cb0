"""Payloads to deltas, for every version of the server (pure).

vLLM 0.9 to 0.32 differ in where the reasoning is (`reasoning_content`, `reasoning`, both with the same text, or inline
`<think>` text), in what their chunks carry, and in which chunks they leave out. That ends here: what comes out is the
same for all of them. A whole answer is decoded as a chunk whose delta is called `message`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json, to_json

from .errors import MalformedChunkError, ServerStreamError, StreamInterruptedError
from .failure import error_from_frame
from .tags import NewlineTrimmer, ThinkSplitter
from .types import JSON, Delta, ToolCallDelta, Usage

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}
_GAVE_UP = frozenset({"abort", "error"})
"""Finish reasons by which vLLM says that the answer did not end."""
_FIRST_FACTS = ("id", "created", "model")
_ORDINARY = frozenset({*_FIRST_FACTS, "object", "choices", "usage"})


class ChunkDecoder:
    """Decodes the payloads of one response: `feed` each, then `close`."""

    __slots__ = ("_choices", "_facts", "_first", "_one_call", "_secrets", "_usage", "done")

    def __init__(self, secrets: tuple[str, ...] = (), *, one_call: bool = False) -> None:
        """Begin a response.

        Args:
            secrets: What errors must not quote.
            one_call: Let a choice's first tool call pass alone, as newer servers do for `parallel_tool_calls: false`.
        """
        self.done = False
        """True once the answer is complete: what follows means nothing."""
        self._choices: dict[int, _ChoiceDecoder] = {}
        self._first: JSON | None = None  # facts that wait for the first delta
        self._facts: JSON | None = None  # facts that wait for the last delta; None: no chunk has come yet
        self._usage: Usage | None = None
        self._secrets = secrets
        self._one_call = one_call

    def feed(self, data: bytes, event: bytes = b"") -> Iterator[Delta]:
        """Yield what one payload says.

        Args:
            data: The data of an event, or a whole body.
            event: The event's type, if it has one.

        Raises:
            ServerStreamError: The payload reports an error, or that the answer was given up.
            MalformedChunkError: The payload is not a chunk.
            StreamInterruptedError: The answer ends before it began.
        """
        if self.done:
            return
        if not data.startswith(b"{"):
            data = data.strip()
            if data == b"[DONE]":
                yield from self._end()
                return
            if not data and event != b"error":
                return
        chunk = self._parse(data, event)
        self._learn(chunk)
        for position, choice in enumerate(_items(chunk, "choices")):
            delta = self._choice(choice, position).feed(choice)
            if self._first is not None:
                delta.response, self._first = self._first, None
            if (
                delta.content
                or delta.reasoning
                or delta.tool_calls
                or delta.finish_reason
                or delta.logprobs
                or delta.response
            ):
                yield delta
            if delta.finish_reason in _GAVE_UP:
                raise ServerStreamError(f"the server gave the answer up (finish_reason: {delta.finish_reason})")

    def close(self) -> Iterator[Delta]:
        """Yield what is left to say: no further payload comes.

        Raises:
            StreamInterruptedError: The answer did not end.
        """
        if self.done:
            return
        if not all(choice.finished for choice in self._choices.values()):
            raise StreamInterruptedError("the answer stopped before its end")
        yield from self._end()

    def _end(self) -> Iterator[Delta]:
        if not self._choices:
            raise StreamInterruptedError("the server sent no answer")
        self.done = True
        for choice in self._choices.values():
            delta = choice.close()
            if delta.content or delta.reasoning:
                yield delta
        facts = {**(self._first or {}), **(self._facts or {})}
        yield Delta(usage=self._usage, response=facts or None, last=True)

    def _parse(self, data: bytes, event: bytes) -> JSON:
        chunk, problem = None, "not a JSON object"
        try:
            chunk = from_json(data)
        except ValueError as error:
            problem = f"not valid JSON ({error})"  # names the place, quotes nothing
        if event == b"error" or _is_error(chunk):
            raise error_from_frame(data.decode("utf-8", "replace") if chunk is None else chunk, self._secrets)
        if not isinstance(chunk, dict):
            raise MalformedChunkError(f"a chunk of the answer is {problem}")
        return chunk

    def _learn(self, chunk: JSON) -> None:
        """Keep what the chunk says of the response as a whole; usage is cumulative where it is repeated."""
        if self._facts is None:
            self._facts = {}
            self._first = {key: chunk[key] for key in _FIRST_FACTS if chunk.get(key) is not None} or None
        if usage := chunk.get("usage"):
            self._usage = _expect(usage, dict, "usage")
        if chunk.keys() <= _ORDINARY:  # nearly every chunk
            return
        for key in chunk.keys() - _ORDINARY:
            if chunk[key] is not None:
                self._facts[key] = chunk[key]

    def _choice(self, choice: Any, position: int) -> _ChoiceDecoder:
        index = _expect(choice, dict, "choice").get("index")
        if index is None:
            index = position
        decoder = self._choices.get(index) if type(index) is int else None
        if decoder is None:
            decoder = self._choices[index] = _ChoiceDecoder(_expect(index, int, "index"), self._one_call)
        return decoder


class _ChoiceDecoder:
    """Decodes the deltas of one choice."""

    __slots__ = ("_calls", "_content", "_index", "_one_call", "_reasoned", "_reasoning", "_think", "finished")

    def __init__(self, index: int, one_call: bool) -> None:
        self.finished = False
        self._index = index
        self._one_call = one_call
        self._think: ThinkSplitter | None = ThinkSplitter()  # None: all further content is answer
        self._reasoned = False
        self._reasoning = NewlineTrimmer(leading=True)
        self._content = NewlineTrimmer(leading=False)
        self._calls: dict[int, ToolCallDelta] = {}  # what each tool call has named so far

    def feed(self, choice: JSON) -> Delta:
        said = choice.get("delta")
        if said is None:
            said = choice.get("message") or {}
        delta = Delta(self._index)
        _expect(said, dict, "delta")
        if reasoning := said.get("reasoning_content") or said.get("reasoning"):
            if self._think is not None:  # the server parses the reasoning: a tag in the content is a quotation
                held, rest = self._think.close()
                self._think = None
                self._add_reasoning(delta, held or "")
                delta.content += self._content.feed(rest)
            self._add_reasoning(delta, _expect(reasoning, str, "reasoning"))
        if content := said.get("content"):
            self._add_content(delta, _expect(content, str, "content"))
        if said.get("tool_calls"):
            self._content.drop()
            calls = [self._call(position, call) for position, call in enumerate(_items(said, "tool_calls"))]
            if self._one_call:
                first = next(iter(self._calls), None)
                calls = [call for call in calls if call.index == first]
            delta.tool_calls = calls
        if (logprobs := choice.get("logprobs")) is not None:
            delta.logprobs = _expect(logprobs, dict, "logprobs")
        if finish_reason := choice.get("finish_reason"):
            delta.finish_reason = _expect(finish_reason, str, "finish_reason")
            delta.stop_reason = choice.get("stop_reason")
            self.finished = True
            self._flush(delta)
        return delta

    def close(self) -> Delta:
        """What was held back, where no finish reason has brought it out."""
        delta = Delta(self._index)
        self._flush(delta)
        return delta

    def _add_reasoning(self, delta: Delta, reasoning: str) -> None:
        if not self._reasoned:
            self._reasoned = True
            self._content.leading = True
        delta.reasoning += self._reasoning.feed(reasoning)

    def _add_content(self, delta: Delta, content: str) -> None:
        if self._think is not None:
            reasoning, content = self._think.feed(content)
            if reasoning is not None:
                self._add_reasoning(delta, reasoning)
            if self._think.settled:
                self._think = None
        delta.content += self._content.feed(content)

    def _flush(self, delta: Delta) -> None:
        if self._think is not None:
            reasoning, content = self._think.close()
            if reasoning is not None:
                self._add_reasoning(delta, reasoning)
            delta.content += self._content.feed(content)
        delta.content += self._content.release()

    def _call(self, position: int, call: Any) -> ToolCallDelta:
        """One tool call's delta; its id and its name come out once, though some versions repeat them or send null."""
        index = _expect(call, dict, "tool call").get("index")
        if index is None:  # a whole answer numbers by position
            index = position
        function = _expect(call.get("function") or {}, dict, "function")
        arguments = function.get("arguments") or ""
        if isinstance(arguments, dict):
            arguments = to_json(arguments).decode()
        known = self._calls.setdefault(_expect(index, int, "index"), ToolCallDelta(index))
        delta = ToolCallDelta(index, arguments=_expect(arguments, str, "arguments"))
        if known.id is None and call.get("id"):
            delta.id = known.id = _expect(call["id"], str, "id")
        if known.name is None and function.get("name"):
            delta.name = known.name = _expect(function["name"], str, "name")
        return delta


def _is_error(chunk: Any) -> bool:
    """Whether it is an error of vLLM's, or of a gateway that sends its own with status 200."""
    if not isinstance(chunk, dict):
        return False
    said = "message" in chunk or "detail" in chunk
    return bool(chunk.get("error")) or chunk.get("object") == "error" or (said and "choices" not in chunk)


def _expect(value: Any, kind: type, name: str) -> Any:
    """Return `value`, which must be of `kind`."""
    if type(value) is not kind:
        raise MalformedChunkError(f"a chunk of the answer has something else than {_NAMES[kind]} for its {name}")
    return value


def _items(parent: JSON, name: str) -> list[Any]:
    """The list `name` of `parent`, which may be null or missing."""
    items = parent.get(name)
    if items is None:
        return []
    found: list[Any] = _expect(items, list, name)
    return found
