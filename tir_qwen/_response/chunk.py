"""Decoder of a response's chunks, for every version of vLLM.

vLLM 0.9 to 0.32 differ in where they put the reasoning (`reasoning_content`, `reasoning`, both with the same text, or
inline `<think>` text), in what their chunks contain, and in which chunks they leave out. The decoder returns the same
deltas for all of them. A non-streaming response is decoded as a chunk whose delta is called `message`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from typing import Any

from pydantic_core import from_json

from ..errors import MalformedChunkError, ServerStreamError, StreamInterruptedError
from ..types import JSON, Delta
from .choice import DEFAULT_OPTIONS, ChoiceDecoder, DecodingOptions
from .fields import expect, items, read_index
from .reported import read_usage
from .server_errors import error_from_frame
from .signs import Signs

_FAILURE_REASONS = frozenset({"abort", "error"})
"""Finish reasons by which vLLM reports that it could not complete the answer."""
_FACT_TYPES: dict[str, Any] = {"id": str, "created": (int, float), "model": str}
"""What identifies a response: these facts come with its first delta."""
_ORDINARY_FIELDS = frozenset({*_FACT_TYPES, "object", "choices", "usage"})
_NOTHING = (b"", b"null")
_ANSWER_EVENTS = (b"", b"message")
"""The types of the events that may contain a chunk; proxies send pings of another type."""


class ChunkDecoder:
    """Decodes the payloads of one response: call `feed` with each, then `close`.

    Attributes:
        done: Whether the answer is complete; payloads that follow are ignored.
    """

    __slots__ = (
        "_choices",
        "_first_facts",
        "_last_facts",
        "_options",
        "_request",
        "_response_id",
        "_secrets",
        "_unknown_facts",
        "_usage",
        "done",
    )

    def __init__(
        self, secrets: tuple[str, ...] = (), options: DecodingOptions = DEFAULT_OPTIONS, request: bytes = b""
    ) -> None:
        self.done = False
        self._choices: dict[int, ChoiceDecoder] = {}
        self._unknown_facts = set(_FACT_TYPES)
        self._first_facts: JSON = {}  # for the next delta
        self._last_facts: JSON = {}  # for the last delta
        self._response_id: str | None = None
        self._usage: Any = None  # as the server sent it
        self._secrets = secrets
        self._request = request
        self._options = options

    @property
    def heard(self) -> int:
        """Number of non-empty deltas received, including those whose text is still held back."""
        return sum([choice.heard for choice in self._choices.values()])

    @property
    def signs(self) -> Signs:
        """How the server sent the answer."""
        choices = [*self._choices.values()]
        return Signs(
            has_parsed_calls=any(choice.has_parsed_calls for choice in choices),
            reasoning_fields=frozenset().union(*[choice.reasoning_fields for choice in choices]),
            lacks_opening_tag=choices[0].lacks_opening_tag if len(choices) == 1 else None,
            is_lossy=any(choice.is_lossy for choice in choices),
        )

    def feed(self, data: bytes, event: bytes = b"") -> Iterator[Delta]:
        """Decode one payload and yield its deltas.

        Args:
            data: The data of an event, or the body of a non-streaming response.
            event: The type of the event, if any.

        Raises:
            ServerStreamError: The payload reports an error, or an incomplete answer.
            ContextOverflowError: The payload reports that the prompt was too long.
            MalformedChunkError: The payload is not a chunk.
            StreamInterruptedError: The stream ends before there is an answer.
        """
        if self.done:
            return
        if not data.startswith(b"{"):
            data = data.strip()
            if data == b"[DONE]":
                yield from self._end()
                return
            if event != b"error" and (data in _NOTHING or event not in _ANSWER_EVENTS):
                return
        chunk = self._parse(data, event)
        self._collect_facts(chunk)
        for position, choice in enumerate(items(chunk, "choices")):
            delta = self._choice_decoder(choice, position).feed(choice)
            if self._first_facts:
                delta.response, self._first_facts = self._first_facts, {}
            if (
                delta.content
                or delta.reasoning
                or delta.tool_calls
                or delta.finish_reason
                or delta.logprobs
                or delta.response
            ):
                yield delta
            if delta.finish_reason is not None:
                if delta.finish_reason in _FAILURE_REASONS:
                    raise ServerStreamError(f"the server gave up on the answer (finish_reason: {delta.finish_reason})")
                if usage := choice.get("usage"):  # of Moonshot
                    self._usage = chunk.get("usage") or usage

    def close(self) -> Iterator[Delta]:
        """Yield the remaining deltas at the end of the payloads.

        Raises:
            StreamInterruptedError: The answer is incomplete.
        """
        if self.done:
            return
        if not all(choice.finished for choice in self._choices.values()):
            yield from self.interrupt()
            raise StreamInterruptedError("the answer stopped before its end")
        yield from self._end()

    def interrupt(self) -> Iterator[Delta]:
        """Yield what was held back, for an answer whose stream broke."""
        for choice in self._choices.values():
            delta = choice.interrupt()
            if delta.content or delta.reasoning or delta.tool_calls:
                yield delta

    def _end(self) -> Iterator[Delta]:
        if not self._choices:
            raise StreamInterruptedError("the server sent no answer")
        self.done = True
        usage = read_usage(self._usage)
        for choice in self._choices.values():
            delta = choice.close(usage if len(self._choices) == 1 else None)
            if delta.content or delta.reasoning or delta.tool_calls or delta.finish_reason:
                yield delta
        facts = {**self._first_facts, **self._last_facts}
        yield Delta(usage=usage, response=facts or None, last=True)

    def _parse(self, data: bytes, event: bytes) -> JSON:
        chunk, problem = None, "not a JSON object"
        try:
            chunk = from_json(data)
        except ValueError as error:
            problem = f"not valid JSON ({error})"  # gives the position and quotes nothing
        if event == b"error" or _is_error(chunk):
            frame = data.decode("utf-8", "replace") if chunk is None else chunk
            raise error_from_frame(frame, self._secrets, self._request, begun=self.heard > 0)
        if not isinstance(chunk, dict):
            raise MalformedChunkError(f"a chunk of the answer is {problem}")
        return chunk

    def _collect_facts(self, chunk: JSON) -> None:
        """Keep the metadata of the response. Usage that is sent repeatedly is cumulative, so the last one counts."""
        if self._unknown_facts and "choices" in chunk:
            self._collect_first_facts(chunk)
        if usage := chunk.get("usage"):
            self._usage = usage
        if not chunk.keys() <= _ORDINARY_FIELDS:
            self._collect_last_facts(chunk)

    def _collect_first_facts(self, chunk: JSON) -> None:
        """Keep what identifies the response; Azure's first chunk, which reports its filter results, lacks it."""
        for name, kinds in _FACT_TYPES.items():
            if name in self._unknown_facts and chunk.get(name) and isinstance(chunk[name], kinds):
                self._unknown_facts.remove(name)
                self._first_facts[name] = chunk[name]
        self._response_id = self._first_facts.get("id", self._response_id)

    def _collect_last_facts(self, chunk: JSON) -> None:
        groq = chunk.get("x_groq")
        if isinstance(groq, dict) and groq.get("usage") and not chunk.get("usage"):
            self._usage = groq["usage"]
        if "choices" not in chunk:  # an event of another kind, such as a ping
            return
        for key in chunk.keys() - _ORDINARY_FIELDS:
            if chunk[key] is not None:
                self._last_facts[key] = chunk[key]

    def _choice_decoder(self, choice: Any, position: int) -> ChoiceDecoder:
        index = expect(choice, dict, "choice").get("index")
        if index is None:
            index = position
        decoder = self._choices.get(index) if type(index) is int else None
        if decoder is None:
            index = read_index(index)
            decoder = self._choices.get(index)
        if decoder is None:
            decoder = self._choices[index] = ChoiceDecoder(index, self._options, partial(self._new_id, index))
        return decoder

    def _new_id(self, choice_index: int, call_index: int) -> str:
        """Return an id for a call that has none, unique within its conversation: each request is different."""
        name = f"{self._response_id} {choice_index} {call_index} ".encode()
        return f"call-{blake2b(name + self._request, digest_size=12).hexdigest()}"


def _is_error(chunk: Any) -> bool:
    """Whether the chunk is an error of vLLM, or one that a gateway sends with status 200."""
    if not isinstance(chunk, dict):
        return False
    has_text = "message" in chunk or "detail" in chunk
    return bool(chunk.get("error")) or chunk.get("object") == "error" or (has_text and "choices" not in chunk)
