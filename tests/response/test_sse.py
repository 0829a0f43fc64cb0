"""The event stream: events out of bytes, by the standard, however the bytes are cut."""

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
    """The events of a stream that comes in these pieces."""
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def read_or_refuse(*pieces: bytes) -> list[Event] | str:
    """The events of a stream that comes in these pieces, or why it is refused."""
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
def test_events_are_read_by_the_standard(body: bytes, events: list[Event]) -> None:
    """Every form of line, field and event is read as the standard says, at once and byte by byte."""
    assert by_the_standard(body) == events
    assert read(body) == events
    assert read(*bytewise(body)) == events


@pytest.mark.parametrize("separator", SEPARATORS, ids=ascii)
def test_unicode_line_separators_are_text(separator: str) -> None:
    """Characters that `str.splitlines` takes for line ends stay within the data: JSON strings hold them unescaped."""
    body = f'data: {{"content": "one{separator}two"}}\n\n'.encode()
    assert read(body) == [(b"", body[6:-2])]
    assert read(*bytewise(body)) == [(b"", body[6:-2])]


@pytest.mark.parametrize("gap", [(), (b"",), (b"", b"")], ids=["at once", "one empty read", "two"])
def test_a_crlf_cut_in_the_middle_is_one_line_end(gap: tuple[bytes, ...]) -> None:
    """CR at the end of one read and LF at the beginning of the next end one line, not two."""
    assert read(b"data: a\r", *gap, b"\ndata: b\r", *gap, b"\n\r", *gap, b"\n") == [(b"", b"a\nb")]


def test_an_event_comes_with_the_byte_that_ends_it() -> None:
    """No event waits for the next one, nor for the LF of a CRLF."""
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
def test_any_cut_of_any_lines_gives_the_events_of_the_standard(body: bytes, cuts: list[int]) -> None:
    """Any lines with any ends, cut anywhere, give the events that the standard gives for the whole."""
    events = by_the_standard(body)
    assert read(body) == events
    assert read(*pieces_of(body, cuts)) == events
    assert read(*bytewise(body)) == events


@FIXED
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_any_cut_of_any_bytes_gives_the_events_of_the_standard(body: bytes, cuts: list[int]) -> None:
    """Arbitrary bytes raise nothing and give the same events for any cut."""
    assert read(*pieces_of(body, cuts)) == by_the_standard(body)


@pytest.mark.parametrize("size", [64 * 1024, 1000, 17 * MB])
def test_an_event_of_a_megabyte_is_read(size: int) -> None:
    """A large event is read whole, from pieces of any size."""
    data = bytes(range(32, 127)) * (MB // 95)
    body = b"data: " + data + b"\n\ndata: next\n\n"
    assert read(*pieces_of(body, range(0, len(body), size))) == [(b"", data), (b"", b"next")]


def test_the_largest_event_is_read_and_one_byte_more_is_refused() -> None:
    """An event of 16 MB, line ends and all, is read; with one byte more it is an error that says so, for any cut."""
    line = b"data: " + b"x" * (MAX_EVENT_BYTES - 7)
    assert read(line + b"\n\n") == [(b"", line[6:])]
    assert read(line, b"\n", b"\n") == [(b"", line[6:])]
    refused = f"an event is larger than {MAX_EVENT_BYTES} bytes"
    for pieces in ([line + b"x\n\n"], [line, b"x", b"\n\n"], [line + b"\ndata:\n\n"], [line, b"\n", b"data:", b"\n\n"]):
        assert read_or_refuse(*pieces) == refused


@pytest.mark.parametrize(
    "line", [b"x" * 4096, b"data: " + b"x" * 90 + b"\n", b"data:\n"], ids=["no line end", "short lines", "empty lines"]
)
def test_an_endless_event_is_refused_with_bounded_memory(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that never ends is refused at the limit, and the memory it takes until then has a bound."""
    monkeypatch.setattr("tir_qwen._response.sse.MAX_EVENT_BYTES", MB // 8)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedChunkError):
            read(b"data: ", *[line * (8192 // len(line))] * 32)
        assert tracemalloc.get_traced_memory()[1] < 2 * MB
    finally:
        tracemalloc.stop()


def test_events_before_one_that_is_too_large_are_read() -> None:
    """The events before a refused one come first."""
    decoder = SSEDecoder()
    events = decoder.feed(b"data: a\n\ndata: " + b"x" * MAX_EVENT_BYTES + b"\n\n")
    assert next(events) == (b"", b"a")
    with pytest.raises(MalformedChunkError):
        next(events)


def test_the_limit_is_for_one_event_and_not_for_the_stream() -> None:
    """Events of any number pass, and comments between them, though together they are larger than the limit."""
    body = b"data: " + b"x" * MB + b"\n: " + b"y" * MB + b"\n\n"
    assert sum(len(data) for _, data in read(*[body] * 20)) == 20 * MB


def test_an_event_in_small_pieces_takes_linear_time() -> None:
    """Eight megabytes in pieces of 256 bytes are joined once: joining at each piece would copy 128 gigabytes."""
    body = b"data: " + b"x" * (8 * MB) + b"\n\n"
    pieces = pieces_of(body, range(0, len(body), 256))
    start = time.process_time()
    assert read(*pieces) == [(b"", body[6:-2])]
    assert time.process_time() - start < 3


def test_lines_without_a_colon_count_towards_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of nothing but `data` lines is refused at the limit like any other: each of them takes memory."""
    monkeypatch.setattr("tir_qwen._response.sse.MAX_EVENT_BYTES", MB // 8)
    with pytest.raises(MalformedChunkError):
        read(*[b"data\n" * 1024] * 128)


def test_a_large_comment_leads_to_the_same_however_it_is_cut() -> None:
    """A comment larger than the limit leads to the same whether it comes in one piece or in two."""
    comment = b": " + b"x" * MAX_EVENT_BYTES
    assert read_or_refuse(comment, b"\n") == read_or_refuse(comment + b"\n")
