"""Work and memory grow linearly with the input, counted in function calls and bytes instead of seconds."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from time import process_time
from typing import Any

import pytest

from tests.support.decode import DONE, bytewise, chunk, events, native, whole
from tir_qwen._dialect.json_schema import find_mismatch
from tir_qwen._response.arguments import ArgumentsDecoder
from tir_qwen._response.choice import DecodingOptions
from tir_qwen._response.response import MAX_BODY_BYTES, ResponseDecoder
from tir_qwen._response.server_errors import error_from_frame, error_from_response
from tir_qwen._response.sse import MAX_EVENT_BYTES, SSEDecoder
from tir_qwen._response.text.newlines import NewlineTrimmer
from tir_qwen._response.text.think_tags import ThinkSplitter
from tir_qwen._response.text.tool_calls import ToolCallParser
from tir_qwen.errors import MalformedChunkError, ServerStreamError
from tir_qwen.types import Delta

MB = 1024 * 1024
FEW, MANY = 100, 800
MOST = 9.0
"""The ratio of work for eight times as much, with a little for what is done once."""
TOOLS = DecodingOptions(tools=True)


def steps(work: Callable[[], Any]) -> int:
    """Count the functions that are called, including those written in C."""
    count = 0

    def called(*_: Any) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def peak(work: Callable[[], Any]) -> int:
    """Return the peak memory use in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check_growth(few: Callable[[], Any], many: Callable[[], Any]) -> None:
    """Check that eight times the input takes at most eight times the steps and the memory."""
    few()  # what is made only once
    assert steps(many) < MOST * steps(few)
    assert peak(many) < MOST * peak(few) + 128 * 1024


def answered(pieces: Iterable[bytes], expected: DecodingOptions = DecodingOptions()) -> ResponseDecoder:  # noqa: B008 - frozen
    """Decode a complete answer and build its completion, as a client does."""
    decoder = ResponseDecoder((), expected)
    consume(decoder, pieces)
    for _ in decoder.close():
        pass
    assert decoder.done
    decoder.completion()
    return decoder


def consume(decoder: Any, pieces: Iterable[bytes]) -> None:
    """Feed a decoder and discard its deltas."""
    for piece in pieces:
        for _ in decoder.feed(piece):
            pass


def frames(deltas: Iterable[dict[str, Any]]) -> list[bytes]:
    """Return a stream with one event per piece."""
    return [events(delta if "choices" in delta else chunk(delta)) for delta in deltas]


END = events(chunk({}, "stop"), DONE)


def arguments(number: int) -> Iterator[dict[str, Any]]:
    """Return a stream of the arguments of a call that the server has parsed."""
    yield native('{"x": "', first=0)
    for _ in range(number):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": "word "}}]}
    yield {"tool_calls": [{"index": 0, "function": {"arguments": '"}'}}]}


def written(number: int) -> Iterator[dict[str, Any]]:
    """Return a stream of a call within the text."""
    yield {"content": '<tool_call>\n{"name": "f", "arguments": {"x": "'}
    yield from ({"content": "word "} for _ in range(number))
    yield {"content": '"}}\n</tool_call>'}


STREAMS: dict[str, Callable[[int], Iterable[dict[str, Any]]]] = {
    "text": lambda number: [{"content": " word"}] * number,
    "reasoning": lambda number: [{"reasoning": " word"}] * number,
    "torn reasoning": lambda number: [{"reasoning_content": "<think>\n"}, *[{"reasoning_content": " word"}] * number],
    "torn content": lambda number: [{"reasoning_content": "<think>\n"}, *[{"content": " word"}] * number],
    "inline thinking": lambda number: [{"content": "<think>"}, *[{"content": " a < b"}] * number],
    "white space before the answer": lambda number: [{"content": "  "}] * number,
    "held-back newlines": lambda number: [{"content": "a"}, *[{"content": "\n"}] * number],
    "held-back newlines of the reasoning": lambda number: [{"reasoning": "a"}, *[{"reasoning": "\n"}] * number],
    "arguments": arguments,
    "written arguments": written,
    "calls": lambda number: (delta for at in range(number) for delta in [native("{}", first=at)]),
    "written calls": lambda number: [{"content": '<tool_call>{"name": "f", "arguments": {}}</tool_call>'}] * number,
    "choices": lambda number: (chunk({"content": "a"}, "stop", at) for at in range(number)),
    "log-probabilities": lambda number: [chunk_with_logprobs()] * number,
}


def chunk_with_logprobs() -> dict[str, Any]:
    """Return a chunk with the log-probability of its token."""
    made = chunk({"content": "a"})
    made["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}]}
    return made


@pytest.mark.parametrize(
    "expected",
    [
        DecodingOptions(),
        TOOLS,
        DecodingOptions(tools=True, required_tool="f", thinking_off=True),
        DecodingOptions(stop_lag=100_000),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_takes_steps_and_memory_by_its_length(kind: str, expected: DecodingOptions) -> None:
    """A stream of eight times as many chunks takes at most eight times the steps and the memory."""
    few, many = ([*frames(STREAMS[kind](number)), END] for number in (FEW, MANY))
    check_growth(lambda: answered(few, expected), lambda: answered(many, expected))


@pytest.mark.parametrize("kind", ["text", "written arguments", "calls"])
def test_a_stream_byte_by_byte_takes_steps_by_its_length(kind: str) -> None:
    """The same holds if every byte arrives separately."""
    few, many = (b"".join([*frames(STREAMS[kind](number)), END]) for number in (FEW // 10, MANY // 10))
    ratio = len(many) / len(few)
    assert steps(lambda: answered(bytewise(many), TOOLS)) < 1.2 * ratio * steps(lambda: answered(bytewise(few), TOOLS))


WHOLE: dict[str, Callable[[int], str]] = {
    "a text": lambda number: "word\n" * number,
    "marks": lambda number: "<tool_call> is <to " * number,
    "one call": lambda number: (
        '<tool_call>\n{"name": "f", "arguments": {"x": "' + "word " * number + '"}}\n</tool_call>'
    ),
    "calls": lambda number: '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n' * number,
    "calls without an end": lambda number: '<tool_call>\n{"name": "f", "arguments": {\n' * number,
    "braces too many": lambda number: '<tool_call>\n{"name": "f"}' + "}" * number,
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_answer_takes_steps_and_memory_by_its_length(kind: str) -> None:
    """A whole answer of eight times the length takes at most eight times the steps and the memory."""
    few, many = ([whole({"content": WHOLE[kind](number)})] for number in (FEW, MANY))
    check_growth(lambda: answered(few, TOOLS), lambda: answered(many, TOOLS))


def test_the_calls_of_a_whole_answer_are_gathered_in_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of a whole answer are added to one list, which is not rebuilt for every call."""
    made = 0

    class Watched(Delta):
        def __setattr__(self, name: str, value: Any) -> None:
            nonlocal made
            made += name == "tool_calls"
            super().__setattr__(name, value)

    monkeypatch.setattr("tir_qwen._response.choice.Delta", Watched)
    assert len(answered([whole(native(*["{}"] * MANY))]).completion().tool_calls) == MANY
    assert 1 < made < FEW


class Pieces(str):
    """A string that counts the characters copied from it and to it."""

    copied = 0

    def __getitem__(self, place: Any) -> Any:
        got = super().__getitem__(place)
        Pieces.copied += len(got)
        return Pieces(got)

    def __add__(self, more: str) -> Any:
        Pieces.copied += len(self) + len(more)
        return Pieces(super().__add__(more))

    def __radd__(self, before: str) -> Any:
        Pieces.copied += len(self) + len(before)
        return Pieces(before.__add__(self))


def copied(texts: Iterable[str]) -> int:
    """Count the characters that a splitter copies."""
    Pieces.copied = 0
    splitter = ToolCallParser()
    for text in texts:
        splitter.feed(Pieces(text))
    splitter.close()
    return Pieces.copied


def test_written_arguments_are_not_copied_anew_with_every_piece() -> None:
    """The arguments of a call in the text are collected, not joined again for every token."""
    few, many = ([delta["content"] for delta in written(number)] for number in (FEW * 10, MANY * 10))
    assert copied(many) < MOST * copied(few)


@pytest.mark.parametrize("first", ["{", '"', " ", "x"])
def test_arguments_of_many_pieces_take_linear_time(first: str) -> None:
    """Whatever arguments begin with, they are joined once; a join for every piece would take a minute here."""
    started = process_time()
    decoder = ArgumentsDecoder()
    decoder.feed(first)
    for _ in range(100_000):
        decoder.feed("  " if first == " " else "ab")
    decoder.close()
    assert process_time() - started < 5


def test_an_answer_of_many_calls_is_not_copied_anew_with_every_call() -> None:
    """Calls that arrive in one piece are removed from its front one by one, without copying the rest."""
    assert copied([WHOLE["calls"](MANY)]) < MOST * copied([WHOLE["calls"](FEW)])


@pytest.mark.parametrize(
    "make",
    [lambda: ThinkSplitter().feed, lambda: NewlineTrimmer(leading=False).feed, lambda: ToolCallParser().feed],
    ids=["thinking", "newlines", "calls"],
)
@pytest.mark.parametrize("text", ["a", "\n", " ", "<", "<think>", "<tool_call>\n", "{"])
def test_a_splitter_holds_little_back(make: Callable[[], Callable[[str], Any]], text: str) -> None:
    """Splitters hold back only what they cannot decide yet, never more than has arrived."""
    feed = make()
    assert peak(lambda: [feed(text) for _ in range(10_000)]) < 40 * 10_000 * len(text) + MB


def test_a_frame_beyond_the_limit_is_refused_in_bounded_memory() -> None:
    """An event of a gigabyte is rejected at 16 MB, using at most three times that in memory."""
    piece = b"x" * (64 * 1024)
    decoder = SSEDecoder()

    def feed() -> None:
        list(decoder.feed(b"data: "))
        with pytest.raises(MalformedChunkError, match="larger than"):
            consume(decoder, [piece] * 16 * 1024)

    assert peak(feed) < 3 * MAX_EVENT_BYTES


def test_a_whole_body_beyond_the_limit_is_refused_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole answer without an end is rejected at a limit far above any real answer."""
    assert MAX_BODY_BYTES == 256 * MB
    limit = 4 * MB
    monkeypatch.setattr("tir_qwen._response.response.MAX_BODY_BYTES", limit)
    decoder, piece = ResponseDecoder(), b'{"x": "' + b"x" * (64 * 1024)

    def feed() -> None:
        with pytest.raises(MalformedChunkError, match="larger than"):
            consume(decoder, [piece] * 1024)

    assert peak(feed) < 3 * limit


@pytest.mark.parametrize(
    "noise",
    [b": ping\n\n", b": ping\n", b"\n", b"id: 1\nretry: 1\n\n", b"data: \n\n", b"event: ping\n\n", b"event: x\n"],
    ids=ascii,
)
def test_a_flood_of_nothing_takes_no_memory(noise: bytes) -> None:
    """Endless comments and empty events use no memory, before an answer and within one."""
    flood = noise * (64 * 1024 // len(noise))
    for beginning in (b"", events(chunk({"content": "a"}))):
        decoder = ResponseDecoder()
        consume(decoder, [beginning, flood])
        short, long = (peak(lambda used=decoder, times=times: consume(used, [flood] * times)) for times in (2, 16))
        assert long < short + 16 * 1024


def test_a_stream_that_is_not_kept_takes_little_memory_beyond_its_words() -> None:
    """The events of a stream are not kept: of a megabyte of them, only the text of the answer remains."""
    frame = events(chunk({"content": "word "}))
    pieces = [frame] * (MB // len(frame))
    decoder = ResponseDecoder()
    list(decoder.feed(frame))
    assert peak(lambda: consume(decoder, pieces)) < MB / 2


def test_an_object_is_compared_with_a_schema_in_steps_by_its_depth() -> None:
    """Nested alternatives of a schema are compared once each, not once for each path that leads to them."""
    kinds = [{"$ref": "#/$defs/sum"}, {"$ref": "#/$defs/product"}, {"type": "integer"}]
    pair = {"type": "object", "required": ["left"], "properties": {"left": {"anyOf": kinds}}}
    schema = {"$defs": {"sum": pair, "product": pair}, "anyOf": kinds}

    def tree(depth: int, leaf: Any) -> Any:
        return {"left": tree(depth - 1, leaf)} if depth else leaf

    for leaf in (1, "no number"):
        few, many = tree(2, leaf), tree(10, leaf)
        assert steps(lambda few=few: find_mismatch(few, schema)) * MOST > steps(
            lambda many=many: find_mismatch(many, schema)
        )


def test_equal_items_are_found_in_steps_by_their_number() -> None:
    """The items of an array are not compared with each other."""
    few, many = ([*range(number)] for number in (100, 800))
    schema = {"uniqueItems": True}
    assert steps(lambda: find_mismatch(few, schema)) * MOST > steps(lambda: find_mismatch(many, schema))


REFUSALS = {
    "titles": "<html" + "<title>" * 9000,
    "titles without an end": "<html" + "<title" * 9000,
    "places": "'loc': (" * 8000,
    "messages": "'loc': 'a', 'msg': '" * 3000,
    "backslashes": "'loc': 'a', 'msg': '" + "\\a" * 30000,
    "spaces": "a" + " " * 64000,
    "commas": ", " * 32000,
    "echoes": ", 'input" * 8000,
    "types": " [type=" + "a" * 64000,
    "wrappers": "'loc': ('" + "function-wrap[" * 60 + "'), 'msg': 'x'",
    "overflows": "is too large: " * 4500,
    "lists": "validation error for list[" * 2400,
    "brackets": "[" * 64000,
}


@pytest.mark.parametrize("form", ["text", "JSON", "frame"])
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_made_to_take_long_does_not(kind: str, form: str) -> None:
    """No error body takes long to read, whether of the maximum size or megabytes within an answer."""
    text = REFUSALS[kind]
    began = process_time()
    if form == "frame":
        body = json.dumps({"error": {"message": text * (1 if len(text) < 10_000 or "<" in text else 32)}}).encode()
        with pytest.raises(ServerStreamError):
            answered([body])
    else:
        error_from_response(400, {}, text.encode() if form == "text" else json.dumps({"message": text}).encode())
    assert process_time() - began < 5  # it takes hundredths; what looks again from each place takes minutes


@pytest.mark.parametrize("body", [b" " * 2_000_000, b"'loc': (" * 100_000, b"x " * 500_000 + b"'input': "])
def test_refusals_take_linear_time(body: bytes) -> None:
    """An error body crafted to be slow to parse is read in linear time; a quadratic pattern would take minutes here."""
    assert str(error_from_response(400, {}, body)).startswith("400 Bad Request")
    assert str(error_from_frame({"error": body.decode()})).startswith("the server reported an error")
