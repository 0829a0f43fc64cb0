"""The chunked coding: the body out of bytes, however these are cut, and as h11 reads them."""

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
    """What is known once some bytes have come."""

    body: bytes
    state: str
    """`ended`, `broken`, or `open` as long as more has to come."""
    rest: bytes = b""
    """What came after the end."""


def read(*pieces: bytes) -> Verdict:
    """What the decoder makes of a body that comes in these pieces."""
    decoder = ChunkedDecoder()
    body = b"".join(map(decoder.feed, pieces))
    assert not (decoder.ended and decoder.broken)
    if decoder.ended:
        return Verdict(body, "ended", decoder.rest)
    return Verdict(body, "broken" if decoder.broken else "open")


def by_h11(raw: bytes) -> Verdict:
    """What h11 makes of it; to its refusal of a trailer, which nobody reads here, we prefer the body's end."""
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
    """Chunks with sizes in any form, extensions, and trailers; perhaps more than a body."""
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
    """A body with any sizes, extensions and trailers is the same as before, wherever the network cuts it."""
    expected = by_h11(raw)
    assert [read(raw), read(*pieces_of(raw, cuts)), read(*bytewise(raw))] == [expected] * 3


@FIXED
@given(bodies(), SLIPS, CUTS)
def test_any_cut_of_what_is_nearly_a_body_gives_what_h11_gives(
    raw: bytes, slips: list[tuple[int, int, int]], cuts: list[int]
) -> None:
    """A body with faults is read as far as before, and given up where it was before, wherever it is cut."""
    for place, length, byte in slips:
        raw = raw[:place] + bytes([byte]) + raw[place + length :]
    expected = by_h11(raw)
    assert [read(raw), read(*pieces_of(raw, cuts)), read(*bytewise(raw))] == [expected] * 3


@FIXED
@given(st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b"0", b"1", b";", b" ", b"x"]), max_size=14).map(b"".join))
def test_any_line_ends_give_what_h11_gives(raw: bytes) -> None:
    """Line ends of every kind, wherever they come, mean what they meant before."""
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
    """Every form of a chunk is read, what is none breaks the body, and what had come before that is not lost."""
    assert by_h11(raw) == verdict
    assert read(raw) == verdict
    assert read(*bytewise(raw)) == verdict
    assert read(raw, b"", b"") == read(b"", raw) == verdict


@pytest.mark.parametrize("trailer", [b"no field", b": x", b"a b: c", b" continued", b"\x00: x", b"content-length: x"])
def test_trailers_are_not_judged(trailer: bytes) -> None:
    """An answer that has come whole is not lost for a malformed trailer; h11 refuses it, and is not followed here."""
    raw = b"1\r\na\r\n0\r\n" + trailer + b"\r\n\r\n"
    assert read(raw) == read(*bytewise(raw)) == Verdict(b"a", "ended")


def test_nothing_after_a_broken_chunk_is_read() -> None:
    """What looks like chunks after a broken one is not taken for the answer."""
    more = b"1\r\nb\r\n0\r\n\r\n"
    assert read(b"1\r\na\r\nzz\r\n" + more) == read(b"1\r\na\r\nzz\r\n", more) == Verdict(b"a", "broken")


def test_bytes_wait_for_nothing() -> None:
    """What has come of a chunk comes out at once, and the body ends with the byte that ends it."""
    decoder = ChunkedDecoder()
    fed = [decoder.feed(piece) for piece in (b"5\r\nhe", b"l", b"lo", b"\r\n1\r", b"\n!\r\n2\r\n?", b"?\r\n0\r\n\r")]
    assert fed == [b"he", b"l", b"lo", b"", b"!?", b"?"]
    assert not decoder.ended
    assert decoder.feed(b"\n") == b""
    assert decoder.ended


def cut(raw: bytes, size: int) -> Iterable[bytes]:
    """Pieces of this size."""
    return (raw[at : at + size] for at in range(0, len(raw), size))


ENDLESS = pytest.mark.parametrize(
    "begin", [b"", b"1\r\na\r\n1;", b"1\r\na\r\n0\r\n"], ids=["size", "extension", "trailer"]
)
SIZES = pytest.mark.parametrize("size", [7, 1000, 10**6])


@ENDLESS
@SIZES
def test_what_does_not_end_is_broken(begin: bytes, size: int) -> None:
    """A head or a trailer without an end is waited for up to a limit, whatever the pieces in which it comes."""
    body = b"a" if begin else b""
    assert read(*cut(begin + b"x" * (MAX_HEAD - 100), size)) == Verdict(body, "open")
    assert read(*cut(begin + b"x" * (MAX_HEAD + 100), size)) == Verdict(body, "broken")


@pytest.mark.parametrize("begin", [b"1\r\na\r\n1;", b"1\r\na\r\n0\r\n"], ids=["extension", "trailer"])
@SIZES
def test_what_ends_too_late_is_broken(begin: bytes, size: int) -> None:
    """A head or a trailer over the limit is refused also if its end comes in the same piece, and one below it never."""
    end = b"\r\nb\r\n0\r\n\r\n" if b";" in begin else b"\r\n\r\n"
    body = b"ab" if b";" in begin else b"a"
    assert read(*cut(begin + b"x" * (MAX_HEAD - 100) + end, size)) == Verdict(body, "ended")
    assert read(*cut(begin + b"x" * (MAX_HEAD + 100) + end, size)) == Verdict(b"a", "broken")


@pytest.mark.parametrize("size", [b"7fffffff", b"8000000000000000", b"f" * 20])
def test_a_huge_size_is_no_memory(size: bytes) -> None:
    """A chunk that is said to be larger than all memory takes as much as has come of it."""
    tracemalloc.start()
    try:
        assert read(size + b"\r\nab", b"c", b"") == Verdict(b"abc", "open")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


class Piece(bytes):
    """Bytes that count what is copied out of them and onto them."""

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
    """How many bytes a decoder copies about while it reads these."""
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
    """A body of eight times as many chunks, or bytes, is copied about eight times as much, and not more."""
    few, many = (copied(cut(head + unit * number, size)) for number in (100, 800))
    assert len(unit) * 100 <= few
    assert many <= 8 * few
