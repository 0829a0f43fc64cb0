"""Every captured body, cut at every byte: the network's cuts change nothing of what is said, nor when."""

from __future__ import annotations

import re
from bisect import bisect_right

import pytest

from .captured import CAPTURES, Capture
from .decoding import bytewise, decode, pieces_of

ANSWERED = [capture for capture in CAPTURES if 200 <= capture.status < 300]
REFUSED = [capture for capture in CAPTURES if not 200 <= capture.status < 300]
SEGMENT = 2048
"""Longer streams are cut so many bytes apart, from each byte of the first segment on: each byte is cut at once."""


def named(captures: list[Capture]) -> pytest.MarkDecorator:
    """Run a test for the body of each of these captures."""
    return pytest.mark.parametrize("body", [capture.body for capture in captures], ids=[one.id for one in captures])


def event_ends(body: bytes) -> list[int]:
    """The places after each event of a stream (vLLM ends its lines with LF)."""
    return [match.end() for match in re.finditer(rb"\n\n", body)]


@named([capture for capture in ANSWERED if not capture.streamed])
def test_a_whole_answer_is_the_same_wherever_it_is_cut(body: bytes) -> None:
    """A whole answer says the same, and all of it at its end, whichever byte it is cut in two at."""
    expected = decode(body)
    for cut in range(len(body) + 1):
        outcome = decode(body[:cut], body[cut:])
        assert outcome == expected, cut
        assert outcome.arrived == [0, 0], cut


@named([capture for capture in ANSWERED if capture.streamed])
def test_a_stream_is_the_same_wherever_it_is_cut(body: bytes) -> None:
    """The very same deltas come whichever byte a stream is cut at, each as soon as its event has come whole."""
    expected = decode(body)
    ends = event_ends(body)
    assert len(ends) >= 2
    by_event = decode(*pieces_of(body, ends))
    assert by_event == expected
    due = [0, *by_event.arrived]
    for start in range(min(SEGMENT, len(body))):
        cuts = range(start, len(body), SEGMENT)
        outcome = decode(*pieces_of(body, cuts))
        assert outcome == expected, start
        for cut, arrived in zip(cuts, outcome.arrived, strict=False):
            assert arrived == due[bisect_right(ends, cut)], cut


@named(ANSWERED)
def test_an_answer_byte_by_byte_is_the_same(body: bytes) -> None:
    """The very same deltas come from single bytes, with empty pieces between them."""
    expected = decode(body)
    assert decode(*bytewise(body)) == expected
    assert decode(b"", *(piece for byte in bytewise(body) for piece in (byte, b""))) == expected


@named([capture for capture in ANSWERED if capture.streamed])
def test_a_stream_may_end_its_lines_otherwise(body: bytes) -> None:
    """The very same deltas come from CRLF and from CR, byte by byte and at once, and with a byte order mark."""
    expected = decode(body)
    for end in (b"\r\n", b"\r"):
        other = body.replace(b"\n", end)
        assert decode(other) == expected
        assert decode(*bytewise(other)) == expected
    assert decode(b"\xef\xbb\xbf" + body) == expected


@named([capture for capture in ANSWERED if capture.streamed and capture.body.endswith(b"data: [DONE]\n\n")])
def test_what_follows_done_means_nothing(body: bytes) -> None:
    """A second [DONE], another chunk, rubbish or an error after [DONE] changes nothing."""
    expected = decode(body)
    for tail in (b"data: [DONE]\n\n", body, b"data: {\n\n", b'data: {"error": "late"}\n\n', b"\xff"):
        assert decode(body + tail) == expected
        assert decode(body, tail) == expected


@named([capture for capture in ANSWERED if decode(capture.body).done])
def test_an_answer_that_is_cut_off_is_never_a_shorter_answer(body: bytes) -> None:
    """An answer whose end is missing is an error, or all that was said had come already."""
    expected = decode(body)
    for cut in sorted({*range(0, len(body), 97), *event_ends(body)} - {len(body)}):
        outcome = decode(body[:cut])
        if outcome.done:
            assert outcome.said == expected.said, cut
            assert outcome.completion.choices == expected.completion.choices, cut
        else:
            assert outcome.error is not None, cut
            assert outcome.error[0] in {"StreamInterruptedError", "MalformedChunkError"}, cut
            assert expected.completion.content.startswith(outcome.completion.content), cut
            assert expected.completion.reasoning.startswith(outcome.completion.reasoning), cut


@named(REFUSED)
def test_a_refusal_read_as_an_answer_is_an_error(body: bytes) -> None:
    """The body of an error is an error even if a gateway sends it with status 200, and the same for every cut."""
    expected = decode(body)
    assert expected.error is not None
    assert expected.deltas == []
    assert decode(*bytewise(body)) == expected
