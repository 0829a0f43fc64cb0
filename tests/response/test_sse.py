"""Decoding server-sent events according to the standard, wherever the bytes are cut."""

from __future__ import annotations

import re
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.decode import FIXED, bytewise, pieces_of
from tir_qwen._response.sse import MAX_EVENT_BYTES, Event, SSEDecoder
from tir_qwen.errors import MalformedChunkError

MB = 1024 * 1024
LINES = [
    b"data: {}",
    b"data:x",
    b"data",
    b"data:",
    b"data:  y",
    b"event: error",
    b"event:ping",
    b": hi",
    b"id: 1",
    b"zz",
    b"",
]
ENDS = [b"\n", b"\r\n", b"\r"]
SEPARATORS = ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]


def read(*pieces: bytes) -> list[Event]:
    """Return the events of a stream that arrives in these pieces."""
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def read_or_error(*pieces: bytes) -> list[Event] | str:
    """Return the events of a stream, or the message of the error it raises."""
    try:
        return read(*pieces)
    except MalformedChunkError as error:
        return str(error)


def by_the_standard(body: bytes) -> list[Event]:
    """The events of a whole stream, as https://html.spec.whatwg.org/#event-stream-interpretation puts it.

    One thing more: an event with a type and no data is one (`event: error` alone says enough).
    """
    events, event, data = [], b"", None
    for line in re.split(rb"\r\n|\r|\n", body)[:-1]:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if event or data is not None:
                events.append((event, data or b""))
            event, data = b"", None
        elif name == b"data":
            data = value if data is None else data + b"\n" + value
        elif name == b"event":
            event = value.strip()
    return events


@pytest.mark.parametrize(
    ("body", "events"),
    [
        pytest.param(b"data: a\n\n", [(b"", b"a")], id="LF"),
        pytest.param(b"data: a\r\n\r\n", [(b"", b"a")], id="CRLF"),
        pytest.param(b"data: a\r\r", [(b"", b"a")], id="CR"),
        pytest.param(b"data: a\r\n\ndata: b\r\r\n", [(b"", b"a"), (b"", b"b")], id="mixed"),
        pytest.param(b"data: a\r\n\r\n\r\r\n\n\ndata: b\n\n", [(b"", b"a"), (b"", b"b")], id="empty lines between"),
        pytest.param(b"data:a\n\n", [(b"", b"a")], id="no space"),
        pytest.param(b"data:  a \n\n", [(b"", b" a ")], id="one space is dropped, no more"),
        pytest.param(b"data: a: b\n\n", [(b"", b"a: b")], id="a colon in the data"),
        pytest.param(b"data: {\ndata: }\n\n", [(b"", b"{\n}")], id="two data lines"),
        pytest.param(b"data\n\n", [(b"", b"")], id="a field without a colon"),
        pytest.param(b"data:\ndata\ndata: \n\n", [(b"", b"\n\n")], id="empty data lines"),
        pytest.param(b": keep-alive\n\ndata: a\n:\n: b\n\n:\n\n", [(b"", b"a")], id="comments"),
        pytest.param(b"id: 7\nretry: 10\nfoo: 1\nfoo\ndata: a\n\n", [(b"", b"a")], id="other fields"),
        pytest.param(b"Data: a\n data: b\ndatax: c\n\n", [], id="names that only look like it"),
        pytest.param(
            b"event: error\ndata: a\n\ndata: b\n\n", [(b"error", b"a"), (b"", b"b")], id="a type for one event"
        ),
        pytest.param(b"data: a\nevent:error \n\n", [(b"error", b"a")], id="a type after the data"),
        pytest.param(b"event: error\n\n", [(b"error", b"")], id="a type without data"),
        pytest.param(b"event: a\nevent: b\ndata: x\n\n", [(b"b", b"x")], id="two types"),
        pytest.param(b"data: a\n\ndata: b\n", [(b"", b"a")], id="the last event is not terminated"),
        pytest.param(b"data: a\n\ndata: b", [(b"", b"a")], id="the last line is not terminated"),
        pytest.param(b"data: \x00\xff\n\n", [(b"", b"\x00\xff")], id="any bytes"),
        pytest.param(b"", [], id="nothing"),
    ],
)
def test_events_follow_the_standard(body: bytes, events: list[Event]) -> None:
    """Every form of line, field and event is decoded as the standard says, at once and byte by byte."""
    assert by_the_standard(body) == events
    assert read(body) == events
    assert read(*bytewise(body)) == events


@pytest.mark.parametrize("separator", SEPARATORS, ids=ascii)
def test_unicode_line_separators_are_text(separator: str) -> None:
    """Characters that `str.splitlines` splits at stay in the data, because JSON strings may contain them."""
    body = f'data: {{"content": "one{separator}two"}}\n\n'.encode()
    assert read(body) == [(b"", body[6:-2])]
    assert read(*bytewise(body)) == [(b"", body[6:-2])]


@pytest.mark.parametrize("gap", [(), (b"",), (b"", b"")], ids=["at once", "one empty read", "two"])
def test_a_crlf_split_between_reads_is_one_line_ending(gap: tuple[bytes, ...]) -> None:
    """CR at the end of a read and LF at the start of the next end one line."""
    assert read(b"data: a\r", *gap, b"\ndata: b\r", *gap, b"\n\r", *gap, b"\n") == [(b"", b"a\nb")]


def test_an_event_is_emitted_with_its_last_byte() -> None:
    """No event waits for the next one or for the LF of a CRLF."""
    decoder = SSEDecoder()
    assert list(decoder.feed(b"data: a\n")) == []
    assert list(decoder.feed(b"\n")) == [(b"", b"a")]
    assert list(decoder.feed(b"data: b\r\n\r")) == [(b"", b"b")]
    assert list(decoder.feed(b"\ndata: c\n\n")) == [(b"", b"c")]


@FIXED
@given(
    st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(ENDS)).map(b"".join), max_size=12).map(b"".join),
    st.lists(st.integers(0, 120), max_size=6),
)
def test_any_lines_follow_the_standard_wherever_they_are_cut(body: bytes, cuts: list[int]) -> None:
    """Any lines with any line endings give the standard's events, wherever they are cut."""
    events = by_the_standard(body)
    assert read(body) == events
    assert read(*pieces_of(body, cuts)) == events
    assert read(*bytewise(body)) == events


@FIXED
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_any_bytes_follow_the_standard_wherever_they_are_cut(body: bytes, cuts: list[int]) -> None:
    """Any bytes give the standard's events and raise nothing, wherever they are cut."""
    assert read(*pieces_of(body, cuts)) == by_the_standard(body)


@pytest.mark.parametrize("size", [64 * 1024, 1000, 17 * MB])
def test_a_large_event_is_decoded_from_pieces_of_any_size(size: int) -> None:
    """A large event is decoded in full from pieces of any size."""
    data = bytes(range(32, 127)) * (MB // 95)
    body = b"data: " + data + b"\n\ndata: next\n\n"
    assert read(*pieces_of(body, range(0, len(body), size))) == [(b"", data), (b"", b"next")]


def test_the_size_limit_is_exact() -> None:
    """An event of exactly 16 MB is decoded, and one more byte raises an error, wherever it is cut."""
    line = b"data: " + b"x" * (MAX_EVENT_BYTES - 7)
    assert read(line + b"\n\n") == [(b"", line[6:])]
    assert read(line, b"\n", b"\n") == [(b"", line[6:])]
    refused = f"an event is larger than {MAX_EVENT_BYTES} bytes"
    for pieces in ([line + b"x\n\n"], [line, b"x", b"\n\n"], [line + b"\ndata:\n\n"], [line, b"\n", b"data:", b"\n\n"]):
        assert read_or_error(*pieces) == refused


@pytest.mark.parametrize(
    "line", [b"x" * 4096, b"data: " + b"x" * 90 + b"\n", b"data:\n"], ids=["no line end", "short lines", "empty lines"]
)
def test_an_endless_event_is_refused_with_bounded_memory(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that never ends raises an error at the size limit, and memory stays bounded."""
    monkeypatch.setattr("tir_qwen._response.sse.MAX_EVENT_BYTES", MB // 8)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedChunkError):
            read(b"data: ", *[line * (8192 // len(line))] * 32)
        assert tracemalloc.get_traced_memory()[1] < 2 * MB
    finally:
        tracemalloc.stop()


def test_events_before_an_oversized_one_are_emitted() -> None:
    """Events before an oversized one are emitted first."""
    decoder = SSEDecoder()
    events = decoder.feed(b"data: a\n\ndata: " + b"x" * MAX_EVENT_BYTES + b"\n\n")
    assert next(events) == (b"", b"a")
    with pytest.raises(MalformedChunkError):
        next(events)


def test_the_limit_applies_to_each_event() -> None:
    """The limit applies to each event, not to the stream."""
    body = b"data: " + b"x" * MB + b"\n: " + b"y" * MB + b"\n\n"
    assert sum(len(data) for _, data in read(*[body] * 20)) == 20 * MB


def test_an_event_in_small_pieces_takes_linear_time() -> None:
    """Joining 8 MB at every piece of 256 bytes would copy 128 GB."""
    body = b"data: " + b"x" * (8 * MB) + b"\n\n"
    pieces = pieces_of(body, range(0, len(body), 256))
    start = time.process_time()
    assert read(*pieces) == [(b"", body[6:-2])]
    assert time.process_time() - start < 3


def test_lines_without_a_colon_count_towards_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare `data` lines count towards the limit, because each takes memory."""
    monkeypatch.setattr("tir_qwen._response.sse.MAX_EVENT_BYTES", MB // 8)
    with pytest.raises(MalformedChunkError):
        read(*[b"data\n" * 1024] * 128)


def test_an_oversized_comment_is_handled_the_same_wherever_it_is_cut() -> None:
    """An oversized comment gives the same result in one piece or in two."""
    comment = b": " + b"x" * MAX_EVENT_BYTES
    assert read_or_error(comment, b"\n") == read_or_error(comment + b"\n")
