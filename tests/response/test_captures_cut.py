"""Recorded responses decode the same wherever the network cuts them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from functools import partial

import pytest

from tests.support.captures import CAPTURES, Capture
from tests.support.decode import Outcome, bytewise, decode, pieces_of

ANSWERED = [capture for capture in CAPTURES if 200 <= capture.status < 300]
REFUSED = [capture for capture in CAPTURES if not 200 <= capture.status < 300]
SEGMENT = 512
"""Streams are cut at several places at once, this many bytes apart (two events), so that every position is covered."""


Read = Callable[..., Outcome]


def reader(capture: Capture) -> Read:
    """Return a function that decodes this recording with the options of its request."""
    return partial(decode, expected=capture.expected)


def named(captures: list[Capture]) -> pytest.MarkDecorator:
    """Run a test with the body and the reader of each of these recordings."""
    return pytest.mark.parametrize(
        ("body", "read"), [pytest.param(capture.body, reader(capture), id=capture.id) for capture in captures]
    )


def event_ends(body: bytes) -> list[int]:
    """Return the end positions of all events (vLLM ends its lines with LF)."""
    return [match.end() for match in re.finditer(rb"\n\n", body)]


@named([capture for capture in ANSWERED if not capture.streamed])
def test_a_whole_answer_is_the_same_wherever_it_is_cut(body: bytes, read: Read) -> None:
    """A complete response decodes the same for every cut, and all of it at its end."""
    expected = read(body)
    for cut in range(len(body) + 1):
        outcome = read(body[:cut], body[cut:])
        assert outcome == expected, cut
        assert outcome.arrived == [0, 0], cut


@named([capture for capture in ANSWERED if capture.streamed])
def test_a_stream_is_the_same_wherever_it_is_cut(body: bytes, read: Read) -> None:
    """A stream yields the same deltas for every cut, each as soon as its event is complete."""
    expected = read(body)
    ends = event_ends(body)
    assert len(ends) >= 2
    by_event = read(*pieces_of(body, ends))
    assert by_event == expected
    due = [0, *by_event.arrived]
    for start in range(min(SEGMENT, len(body))):
        cuts = range(start, len(body), SEGMENT)
        outcome = read(*pieces_of(body, cuts))
        assert outcome == expected, start
        for cut, arrived in zip(cuts, outcome.arrived, strict=False):
            assert arrived == due[bisect_right(ends, cut)], cut


@named(ANSWERED)
def test_an_answer_byte_by_byte_is_the_same(body: bytes, read: Read) -> None:
    """The deltas are the same byte by byte, with empty pieces in between."""
    expected = read(body)
    assert read(*bytewise(body)) == expected
    assert read(b"", *(piece for byte in bytewise(body) for piece in (byte, b""))) == expected


@named([capture for capture in ANSWERED if capture.streamed])
def test_a_stream_may_use_other_line_endings(body: bytes, read: Read) -> None:
    """The deltas are the same with CRLF, with CR and with a byte order mark."""
    expected = read(body)
    for end in (b"\r\n", b"\r"):
        other = body.replace(b"\n", end)
        assert read(other) == expected
        assert read(*bytewise(other)) == expected
    assert read(b"\xef\xbb\xbf" + body) == expected


@named([capture for capture in ANSWERED if capture.streamed and capture.body.endswith(b"data: [DONE]\n\n")])
def test_data_after_done_is_ignored(body: bytes, read: Read) -> None:
    """Any data after [DONE] is ignored."""
    expected = read(body)
    for tail in (b"data: [DONE]\n\n", body, b"data: {\n\n", b'data: {"error": "late"}\n\n', b"\xff"):
        assert read(body + tail) == expected
        assert read(body, tail) == expected


@named([capture for capture in ANSWERED if reader(capture)(capture.body).done])
def test_a_truncated_response_is_never_a_shorter_answer(body: bytes, read: Read) -> None:
    """A truncated response raises an error, unless all of its text had arrived."""
    expected = read(body)
    for cut in sorted({*range(0, len(body), 97), *event_ends(body)} - {len(body)}):
        outcome = read(body[:cut])
        if outcome.done:
            assert outcome.said == expected.said, cut
            assert outcome.completion.choices == expected.completion.choices, cut
        else:
            assert outcome.error is not None, cut
            assert outcome.error[0] in {"StreamInterruptedError", "MalformedChunkError"}, cut
            assert expected.completion.content.startswith(outcome.completion.content), cut
            assert expected.completion.reasoning.startswith(outcome.completion.reasoning), cut


@named(REFUSED)
def test_an_error_body_with_status_200_is_an_error(body: bytes, read: Read) -> None:
    """The body of an error is an error even if it comes with status 200."""
    expected = read(body)
    assert expected.error is not None
    assert expected.deltas == []
    assert read(*bytewise(body)) == expected
