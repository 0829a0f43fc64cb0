"""Payloads to deltas, for every version of the server (pure).

vLLM 0.9 to 0.32 differ in where the reasoning is (`reasoning_content`, `reasoning`, both with the same text, or inline
`<think>` text), in what their chunks carry, and in which chunks they leave out. That ends here: what comes out is the
same for all of them. A whole answer is decoded as a chunk whose delta is called `message`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from .choice import NOTHING, ChoiceDecoder, Expected
from .errors import MalformedChunkError, ServerStreamError, StreamInterruptedError
from .failure import error_from_frame
from .fields import expect, items
from .types import JSON, Delta, Usage

_GAVE_UP = frozenset({"abort", "error"})
"""Finish reasons by which vLLM says that the answer did not end."""
_FIRST_FACTS = ("id", "created", "model")
_ORDINARY = frozenset({*_FIRST_FACTS, "object", "choices", "usage"})


class ChunkDecoder:
    """Decodes the payloads of one response: `feed` each, then `close`."""

    __slots__ = ("_choices", "_expected", "_facts", "_first", "_id", "_secrets", "_usage", "done")

    def __init__(self, secrets: tuple[str, ...] = (), expected: Expected = NOTHING) -> None:
        self.done = False
        """True once the answer is complete: what follows means nothing."""
        self._choices: dict[int, ChoiceDecoder] = {}
        self._first: JSON | None = None  # facts that wait for the first delta
        self._facts: JSON | None = None  # facts that wait for the last delta; None: no chunk has come yet
        self._id: str | None = None
        self._usage: Usage | None = None
        self._secrets = secrets
        self._expected = expected

    @property
    def heard(self) -> int:
        """How many deltas held anything, though it may still be held back."""
        return sum([choice.heard for choice in self._choices.values()])

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
        for position, choice in enumerate(items(chunk, "choices")):
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
            yield from self.broken()
            raise StreamInterruptedError("the answer stopped before its end")
        yield from self._end()

    def broken(self) -> Iterator[Delta]:
        """Yield what was held back of an answer that did not end."""
        for choice in self._choices.values():
            delta = choice.broken()
            if delta.content or delta.reasoning or delta.tool_calls:
                yield delta

    def _end(self) -> Iterator[Delta]:
        if not self._choices:
            raise StreamInterruptedError("the server sent no answer")
        self.done = True
        for choice in self._choices.values():
            delta = choice.close()
            if delta.content or delta.reasoning or delta.tool_calls or delta.finish_reason:
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
            self._id = chunk.get("id")
            self._first = {key: chunk[key] for key in _FIRST_FACTS if chunk.get(key) is not None} or None
        if usage := chunk.get("usage"):
            self._usage = expect(usage, dict, "usage")
        if chunk.keys() <= _ORDINARY:  # nearly every chunk
            return
        for key in chunk.keys() - _ORDINARY:
            if chunk[key] is not None:
                self._facts[key] = chunk[key]

    def _choice(self, choice: Any, position: int) -> ChoiceDecoder:
        index = expect(choice, dict, "choice").get("index")
        if index is None:
            index = position
        decoder = self._choices.get(index) if type(index) is int else None
        if decoder is None:
            decoder = self._choices[index] = ChoiceDecoder(expect(index, int, "index"), self._expected, self._id)
        return decoder


def _is_error(chunk: Any) -> bool:
    """Whether it is an error of vLLM's, or of a gateway that sends its own with status 200."""
    if not isinstance(chunk, dict):
        return False
    said = "message" in chunk or "detail" in chunk
    return bool(chunk.get("error")) or chunk.get("object") == "error" or (said and "choices" not in chunk)
