"""The decoder of chunked bodies, fed with arbitrary pieces and compared with h11."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from typing import Any, NamedTuple

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.decode import FIXED, bytewise, pieces_of
from tir_qwen._transport.body.chunked import MAX_HEAD, ChunkedDecoder

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
EXTENSIONS = [b"", b"", b" ", b"\t ", b";", b";a=b", b';a="b;c" \t', b";\r", b";\xff\x00", b" ;a"]
TRAILERS = [b"", b"", b"x-sum: 1\r\n", b"a: b\nc: d\r\n", b"a: b\r\n c\r\n"]
TAILS = [b"", b"", b"\n", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"0\r\n\r\n"]


class Verdict(NamedTuple):
    """The state of the decoder after some bytes."""

    body: bytes
    state: str
    """`ended`, `broken`, or `open` while more is expected."""
    rest: bytes = b""
    """The bytes after the end of the body."""


def read(*pieces: bytes) -> Verdict:
    """Feed the decoder a body in these pieces."""
    decoder = ChunkedDecoder()
    body = b"".join(map(decoder.feed, pieces))
    assert not (decoder.ended and decoder.broken)
    if decoder.ended:
        return Verdict(body, "ended", decoder.rest)
    return Verdict(body, "broken" if decoder.broken else "open")


def by_h11(raw: bytes) -> Verdict:
    """Decode with h11; if it rejects a trailer, which our decoder ignores, the body counts as ended."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**30)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(HEAD + raw)
    body, state = b"", ""
    while not state:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            state = "broken" if str(error).startswith(("illegal chunk header", "malformed chunk footer")) else "ended"
        else:
            if isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.Response):
                state = "open" if event is h11.NEED_DATA else "ended"
    return Verdict(body, state, connection.trailing_data[0] if state == "ended" else b"")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Generate bodies with chunk sizes in any form, extensions and trailers, possibly followed by more bytes."""
    raw = b""
    for data in (*draw(st.lists(st.binary(min_size=1, max_size=20), max_size=6)), b""):
        form = draw(st.sampled_from(["{:x}", "{:X}", "{:04x}", "{:020X}"]))
        raw += form.format(len(data)).encode() + draw(st.sampled_from(EXTENSIONS)) + b"\r\n"
        raw += data + b"\r\n" if data else b""
    return (
        raw + draw(st.sampled_from(TRAILERS)) + draw(st.sampled_from([b"\r\n", b"\n"])) + draw(st.sampled_from(TAILS))
    )


CUTS = st.lists(st.integers(0, 200), max_size=8)
SLIPS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 1), st.sampled_from(b"\r\n\r\n 0aF;x-")), max_size=3)


@FIXED
@given(bodies(), CUTS)
def test_any_cut_of_any_body_gives_what_h11_gives(raw: bytes, cuts: list[int]) -> None:
    """Valid bodies decode as in h11, wherever the network splits them."""
    expected = by_h11(raw)
    assert [read(raw), read(*pieces_of(raw, cuts)), read(*bytewise(raw))] == [expected] * 3


@FIXED
@given(bodies(), SLIPS, CUTS)
def test_any_cut_of_what_is_nearly_a_body_gives_what_h11_gives(
    raw: bytes, slips: list[tuple[int, int, int]], cuts: list[int]
) -> None:
    """Malformed bodies decode as far as in h11 and fail where it fails, wherever the network splits them."""
    for place, length, byte in slips:
        raw = raw[:place] + bytes([byte]) + raw[place + length :]
    expected = by_h11(raw)
    assert [read(raw), read(*pieces_of(raw, cuts)), read(*bytewise(raw))] == [expected] * 3


@FIXED
@given(st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b"0", b"1", b";", b" ", b"x"]), max_size=14).map(b"".join))
def test_any_line_ends_give_what_h11_gives(raw: bytes) -> None:
    """Line ends of any kind, in any place, mean the same as in h11."""
    assert [read(raw), read(*bytewise(raw))] == [by_h11(raw)] * 2


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        pytest.param(b"0\r\n\r\n", Verdict(b"", "ended"), id="nothing"),
        pytest.param(b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", Verdict(b"abc", "ended"), id="two chunks"),
        pytest.param(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", Verdict(b"0123456789" * 2, "ended"), id="hex"),
        pytest.param(b"00000000000000000001\r\na\r\n000\r\n\r\n", Verdict(b"a", "ended"), id="leading zeros"),
        pytest.param(b"1 \t\r\na\r\n0 \r\n\r\n", Verdict(b"a", "ended"), id="white space"),
        pytest.param(b'1;n="v;w";x\r\na\r\n0;y\r\n\r\n', Verdict(b"a", "ended"), id="extensions"),
        pytest.param(b"1\r\na\r\n0\r\nx: y\r\nz: 0\r\n\r\n", Verdict(b"a", "ended"), id="trailers"),
        pytest.param(
            b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", Verdict(b"\r\n0\r\n\r\n", "ended"), id="an end within the body"
        ),
        pytest.param(b"1\r\na\r\n0\r\n\r\n0\r\n\r\n", Verdict(b"a", "ended", b"0\r\n\r\n"), id="more than a body"),
        pytest.param(b"1\r\na\r\n0\r\n", Verdict(b"a", "open"), id="no blank line"),
        pytest.param(b"1\r\na\r\n0\r\nx: y\r\n", Verdict(b"a", "open"), id="trailers go on"),
        pytest.param(b"5\r\nab", Verdict(b"ab", "open"), id="within a chunk"),
        pytest.param(b"1\r\na\r\nzz\r\n", Verdict(b"a", "broken"), id="no size"),
        pytest.param(b"1\r\na\r\n-1\r\n", Verdict(b"a", "broken"), id="a sign"),
        pytest.param(b"1\r\na\r\n0x1\r\n", Verdict(b"a", "broken"), id="0x"),
        pytest.param(b"1\r\na\r\n\r\n", Verdict(b"a", "broken"), id="an empty head"),
        pytest.param(b"1\r\na\r\n 1\r\n", Verdict(b"a", "broken"), id="white space before the size"),
        pytest.param(b"1\r\na\r\n1 2\r\n", Verdict(b"a", "broken"), id="two sizes"),
        pytest.param(b"1\r\na\r\n" + b"0" * 20 + b"1\r\n", Verdict(b"a", "broken"), id="21 digits"),
        pytest.param(b"1\r\nab", Verdict(b"a", "broken"), id="a chunk too long"),
        pytest.param(b"1\r\na\n1\r\n", Verdict(b"a", "broken"), id="a bare newline after a chunk"),
        pytest.param(b"1\r\na\r\r", Verdict(b"a", "broken"), id="half a line end after a chunk"),
        pytest.param(b"1\r\na\r\n1\nb\r\n", Verdict(b"a", "broken"), id="a bare newline after a size"),
        pytest.param(b"1\r\na\r\n1;x\ny\r\n", Verdict(b"a", "broken"), id="a bare newline in an extension"),
        pytest.param(b"<html>\r\n", Verdict(b"", "broken"), id="a page"),
    ],
)
def test_forms_of_a_body(raw: bytes, verdict: Verdict) -> None:
    """Every valid form of a chunk is read; an invalid one breaks the body but keeps the data before it."""
    assert by_h11(raw) == verdict
    assert read(raw) == verdict
    assert read(*bytewise(raw)) == verdict
    assert read(raw, b"", b"") == read(b"", raw) == verdict


@pytest.mark.parametrize("trailer", [b"no field", b": x", b"a b: c", b" continued", b"\x00: x", b"content-length: x"])
def test_trailers_are_not_judged(trailer: bytes) -> None:
    """Unlike in h11, a malformed trailer does not discard an answer that arrived in full."""
    raw = b"1\r\na\r\n0\r\n" + trailer + b"\r\n\r\n"
    assert read(raw) == read(*bytewise(raw)) == Verdict(b"a", "ended")


def test_nothing_after_a_broken_chunk_is_read() -> None:
    """Bytes after a broken chunk are never decoded as chunks."""
    more = b"1\r\nb\r\n0\r\n\r\n"
    assert read(b"1\r\na\r\nzz\r\n" + more) == read(b"1\r\na\r\nzz\r\n", more) == Verdict(b"a", "broken")


def test_bytes_wait_for_nothing() -> None:
    """The data of a partial chunk is returned at once, and the body ends with its last byte."""
    decoder = ChunkedDecoder()
    fed = [decoder.feed(piece) for piece in (b"5\r\nhe", b"l", b"lo", b"\r\n1\r", b"\n!\r\n2\r\n?", b"?\r\n0\r\n\r")]
    assert fed == [b"he", b"l", b"lo", b"", b"!?", b"?"]
    assert not decoder.ended
    assert decoder.feed(b"\n") == b""
    assert decoder.ended


def cut(raw: bytes, size: int) -> Iterable[bytes]:
    """Split the data into pieces of this size."""
    return (raw[at : at + size] for at in range(0, len(raw), size))


ENDLESS = pytest.mark.parametrize(
    "begin", [b"", b"1\r\na\r\n1;", b"1\r\na\r\n0\r\n"], ids=["size", "extension", "trailer"]
)
SIZES = pytest.mark.parametrize("size", [7, 1000, 10**6])


@ENDLESS
@SIZES
def test_what_does_not_end_is_broken(begin: bytes, size: int) -> None:
    """An unterminated chunk head or trailer is rejected at a size limit, however it is split."""
    body = b"a" if begin else b""
    assert read(*cut(begin + b"x" * (MAX_HEAD - 100), size)) == Verdict(body, "open")
    assert read(*cut(begin + b"x" * (MAX_HEAD + 100), size)) == Verdict(body, "broken")


@pytest.mark.parametrize("begin", [b"1\r\na\r\n1;", b"1\r\na\r\n0\r\n"], ids=["extension", "trailer"])
@SIZES
def test_what_ends_too_late_is_broken(begin: bytes, size: int) -> None:
    """A chunk head or trailer over the limit is rejected even if it ends in the same piece; one below it never is."""
    end = b"\r\nb\r\n0\r\n\r\n" if b";" in begin else b"\r\n\r\n"
    body = b"ab" if b";" in begin else b"a"
    assert read(*cut(begin + b"x" * (MAX_HEAD - 100) + end, size)) == Verdict(body, "ended")
    assert read(*cut(begin + b"x" * (MAX_HEAD + 100) + end, size)) == Verdict(b"a", "broken")


@pytest.mark.parametrize("size", [b"7fffffff", b"8000000000000000", b"f" * 20])
def test_a_huge_size_is_no_memory(size: bytes) -> None:
    """A chunk that claims a size beyond all memory uses only as much as has arrived."""
    tracemalloc.start()
    try:
        assert read(size + b"\r\nab", b"c", b"") == Verdict(b"abc", "open")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


class Piece(bytes):
    """Bytes that count how many of them are copied."""

    copied = 0

    def __getitem__(self, place: Any) -> Any:
        got = super().__getitem__(place)
        if isinstance(got, int):
            return got
        Piece.copied += len(got)
        return Piece(got)

    def __add__(self, more: Any) -> Any:
        Piece.copied += len(self) + len(more)
        return Piece(super().__add__(more))

    def __radd__(self, before: bytes) -> Any:
        Piece.copied += len(self) + len(before)
        return Piece(before.__add__(self))


def copied(pieces: Iterable[bytes]) -> int:
    """Return how many bytes the decoder copies while reading these pieces."""
    Piece.copied = 0
    decoder = ChunkedDecoder()
    for piece in pieces:
        decoder.feed(Piece(piece))
    assert not decoder.broken
    return Piece.copied


@pytest.mark.parametrize(
    ("head", "unit", "size"),
    [
        (b"", b"1\r\nx\r\n", 2**30),
        (b"", b"1\r\nx\r\n", 7),
        (b"", b"1;" + b"a=b;" * 50 + b"\r\nx\r\n", 2**30),
        (b"", b"1;" + b"a=b;" * 500 + b"\r\nx\r\n", 64),
        (b"f" * 8 + b"\r\n", b"x" * 100, 8),
    ],
    ids=["one read", "small reads", "extensions", "extensions in small reads", "one chunk"],
)
def test_work_is_linear(head: bytes, unit: bytes, size: int) -> None:
    """Decoding eight times as many chunks or bytes copies about eight times as much."""
    few, many = (copied(cut(head + unit * number, size)) for number in (100, 800))
    assert len(unit) * 100 <= few
    assert many <= 8 * few
