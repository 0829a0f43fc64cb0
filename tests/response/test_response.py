"""Decoding a response body: where an answer starts and ends, and what is not an answer."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from tests.support.decode import BOM, DONE, bytewise, chunk, decode, events, pieces_of, stream, whole
from tir_qwen._response.response import ResponseDecoder
from tir_qwen.errors import MalformedChunkError
from tir_qwen.types import Delta

HELLO = [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo\n"}]
STREAM = stream(*HELLO)
UNENDED = events(*map(chunk, HELLO))
FINISHED = UNENDED + events(chunk({}, "stop"))
WHOLE = whole({"role": "assistant", "content": "Hello\n"})
SAID = ("", "Hello\n", [], "stop")
CUT = ("StreamInterruptedError", "the answer stopped before its end")
NOTHING = ("StreamInterruptedError", "the server sent no answer")
PAGE = ("MalformedChunkError", "the server sent an HTML or XML page instead of an answer")
SPACES = [b"", b" ", b"\n", b"\r\n\r\n", b" \t\n", BOM, BOM + b"\n", b"\n" + BOM, BOM + b" \r\n"]
MB = 1024 * 1024


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(STREAM, id="as vLLM sends it"),
        pytest.param(FINISHED, id="without [DONE]"),
        pytest.param(events(chunk({"content": "Hello\n"}, "stop")), id="the finish with the last word, no [DONE]"),
        pytest.param(STREAM + events(DONE), id="[DONE] twice"),
        pytest.param(STREAM + events({"error": "x"}, b"{"), id="more after [DONE]"),
        pytest.param(STREAM + b"data: {", id="a torn event after [DONE]"),
        pytest.param(FINISHED + b"data: {", id="a torn event after the finish"),
        pytest.param(STREAM.replace(b"data: ", b"data:"), id="no space"),
        pytest.param(STREAM.replace(b"data: ", b"data:  \t"), id="more space"),
        pytest.param(STREAM.replace(b"[DONE]", b" [DONE]\t"), id="space around [DONE]"),
        pytest.param(STREAM.replace(b"data: ", b"event: message\nid: 1\ndata: "), id="events with a type"),
        pytest.param(STREAM.replace(b"data: ", b": keep-alive\n\n: \n:\ndata: "), id="comments"),
        pytest.param(STREAM.replace(b'{"id"', b'{\ndata: "id"'), id="data on two lines"),
        pytest.param(STREAM.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(STREAM.replace(b"\n", b"\r"), id="CR"),
        pytest.param(WHOLE, id="whole"),
        pytest.param(json.dumps(json.loads(WHOLE), indent=2).encode(), id="whole, indented"),
        pytest.param(WHOLE.replace(b'"stop"', b'"stop", "stop_reason": null'), id="whole, with more fields"),
    ],
)
@pytest.mark.parametrize("before", SPACES, ids=repr)
def test_an_answer_is_decoded_in_every_notation(before: bytes, body: bytes) -> None:
    """An answer decodes the same with or without a byte order mark, whitespace, [DONE] and additions by proxies."""
    dressed = before + body
    outcome = decode(dressed)
    assert (outcome.said, outcome.failed, outcome.done) == (SAID, None, True)
    assert decode(*bytewise(dressed)) == outcome
    for cut in range(len(before) + 4):
        assert decode(dressed[:cut], dressed[cut:]) == outcome


@pytest.mark.parametrize(
    ("body", "error", "content"),
    [
        pytest.param(UNENDED, CUT, "Hello", id="neither finish nor [DONE]"),
        pytest.param(events(chunk(HELLO[0])), CUT, "", id="the first chunk alone"),
        pytest.param(FINISHED[:-1], CUT, "Hello", id="the finish is not terminated"),
        pytest.param(UNENDED + b"data: [DONE]", CUT, "Hello", id="[DONE] is not terminated"),
        pytest.param(events(DONE), NOTHING, "", id="only [DONE]"),
        pytest.param(events({"choices": []}, DONE), NOTHING, "", id="no choice, then [DONE]"),
        pytest.param(events({"choices": [], "usage": {"total_tokens": 1}}), NOTHING, "", id="only usage"),
        pytest.param(b": keep-alive\n\n" * 3, NOTHING, "", id="only comments"),
        pytest.param(b"", NOTHING, "", id="nothing"),
        pytest.param(b" \r\n", NOTHING, "", id="white space"),
        pytest.param(BOM, NOTHING, "", id="a byte order mark"),
        pytest.param(BOM[:2], NOTHING, "", id="a torn byte order mark"),
        pytest.param(b"upstream connect error", NOTHING, "", id="a gateway's text"),
        pytest.param(b"{}", NOTHING, "", id="an empty object"),
        pytest.param(b'{"choices": []}', NOTHING, "", id="a whole answer without choices"),
        pytest.param(b'{"choices": null}', NOTHING, "", id="a whole answer with null choices"),
        pytest.param(b'{"version": "0.9.2"}', NOTHING, "", id="another object"),
        pytest.param(b"[DONE]", NOTHING, "", id="a bare [DONE]"),
        pytest.param(b"<!DOCTYPE html><html><title>502</title></html>", PAGE, "", id="a page"),
        pytest.param(b"\n<?xml version='1.0'?><Error/>", PAGE, "", id="XML"),
        pytest.param(b"<html>\n" + events(chunk({"content": "a"}, "stop"), DONE), PAGE, "", id="a page with events"),
        pytest.param(BOM + b"<html>", PAGE, "", id="a page with a byte order mark"),
        pytest.param(b"[]", ("MalformedChunkError", "a chunk of the answer is not a JSON object"), "", id="a list"),
        pytest.param(
            b'{"error": {"message": "No."}}',
            ("ServerStreamError", "the server reported an error in its answer: No."),
            "",
            id="an error with status 200",
        ),
        pytest.param(
            b'{"object": "error", "message": "No.", "code": 404}',
            ("ServerStreamError", "the server reported an error in its answer: No."),
            "",
            id="a flat error with status 200",
        ),
    ],
)
def test_anything_but_a_complete_answer_is_an_error(body: bytes, error: tuple[str, str], content: str) -> None:
    """An incomplete, empty or invalid response raises an error that carries the partial answer."""
    outcome = decode(body)
    assert outcome.failed == error
    assert outcome.completion.content == content
    assert not outcome.done
    assert decode(*bytewise(body)) == outcome


@pytest.mark.parametrize("at", [1, len(WHOLE) // 2, len(WHOLE) - 1])
def test_a_truncated_complete_response_is_malformed(at: int) -> None:
    """A truncated JSON response raises an error that does not quote it, and yields no deltas."""
    outcome = decode(WHOLE[:at])
    assert outcome.failed is not None
    assert outcome.failed[0] == "MalformedChunkError"
    assert outcome.failed[1].startswith("a chunk of the answer is not valid JSON (EOF while parsing ")
    assert (outcome.deltas, outcome.completion.choices) == ([], [])


@pytest.mark.parametrize("finish_reason", ["stop", "length", "tool_calls", None, "something new"])
def test_a_complete_response_may_have_any_finish_reason(finish_reason: str | None) -> None:
    """A JSON response has arrived in full, so a missing finish reason is not an error."""
    outcome = decode(whole({"content": "a"}, finish_reason))
    assert (outcome.said, outcome.failed, outcome.done) == (("", "a", [], finish_reason), None, True)


def test_a_complete_response_yields_a_delta_per_choice_and_a_last_one() -> None:
    """A complete response yields a delta per choice, and a last one with usage and metadata."""
    body = whole(
        {"content": "a", "reasoning": "r"}, usage={"total_tokens": 3}, prompt_logprobs=None, system_fingerprint="f"
    )
    facts = {"id": "chatcmpl-1", "created": 1770613777, "model": "qwen3_32b"}
    assert decode(body).deltas == [
        Delta(content="a", reasoning="r", finish_reason="stop", response=facts),
        Delta(usage={"total_tokens": 3}, response={"system_fingerprint": "f"}, last=True),
    ]


def test_one_unfinished_choice_breaks_the_answer() -> None:
    """Without [DONE], every choice must have finished."""
    both = events(chunk({"content": "a"}, "stop", 0), chunk({"content": "b"}, None, 1))
    outcome = decode(both)
    assert outcome.failed == CUT
    assert [choice.content for choice in outcome.completion.choices] == ["a", "b"]
    assert decode(both + events(DONE)).failed is None
    assert decode(both + events(chunk({}, "stop", 1))).failed is None


def test_the_partial_completion_is_available_at_any_time() -> None:
    """The completion grows with every event, and `done` becomes true with the last one."""
    decoder = ResponseDecoder()
    states: list[Any] = []
    for piece in (b" ", UNENDED[:-3], UNENDED[-3:], b"data: [DO", b"NE]\n\n"):
        came = [delta.content for delta in decoder.feed(piece)]
        states.append((came, decoder.completion().content, decoder.done))
    assert states == [
        ([], "", False),
        (["", "Hel"], "Hel", False),
        (["lo"], "Hello", False),
        ([], "Hello", False),
        (["\n", ""], "Hello\n", True),
    ]
    assert list(decoder.close()) == []


@pytest.mark.parametrize(
    "text", ["one\u2028two\u2029three\u0085four", "\x0b\x0c\x1c\x1d\x1e", "😀🏽\u200d", "\ufeff", "\x00"]
)
def test_any_characters_are_passed_on(text: str) -> None:
    """Line separators, control characters and the like stay part of the text."""
    for ascii_only in (True, False):
        streamed = json.dumps(chunk({"content": f"a{text}b"}, "stop"), ensure_ascii=ascii_only)
        body = b"data: " + streamed.encode() + b"\n\n"
        assert decode(body).said[1] == decode(*bytewise(body)).said[1] == f"a{text}b"
        body = streamed.replace('"delta"', '"message"').encode()
        assert decode(body).said[1] == decode(*bytewise(body)).said[1] == f"a{text}b"


@pytest.mark.parametrize("size", [4096, 65536, 9_999_999])
def test_a_large_answer_is_decoded_from_pieces_of_any_size(size: int) -> None:
    """Responses of several megabytes are decoded in full."""
    text = "नमस्ते " * 100_000
    for body in (stream({"content": text}), whole({"content": text})):
        assert decode(*pieces_of(body, range(0, len(body), size))).said == ("", text, [], "stop")


def test_an_endless_response_is_refused_with_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that never ends raises an error at the size limit, and memory stays bounded."""
    monkeypatch.setattr("tir_qwen._response.response.MAX_BODY_BYTES", MB)
    decoder = ResponseDecoder()
    assert list(decoder.feed(b"{" + b" " * (MB - 1))) == []
    with pytest.raises(MalformedChunkError, match=rf"^the answer is larger than {MB} bytes$"):
        list(decoder.feed(b" "))
    tracemalloc.start()
    try:
        outcome = decode(b"[", *[b" " * 4096] * 10_000)
        assert outcome.failed == ("MalformedChunkError", f"the answer is larger than {MB} bytes")
        assert tracemalloc.get_traced_memory()[1] < 4 * MB
    finally:
        tracemalloc.stop()


def test_whitespace_takes_no_memory() -> None:
    """Whitespace that a server sends as keep-alive is not buffered."""
    tracemalloc.start()
    try:
        outcome = decode(*[b" \r\n" * 1000] * 2000, WHOLE)
        assert outcome.said == SAID
        assert tracemalloc.get_traced_memory()[1] < MB
    finally:
        tracemalloc.stop()


def test_byte_order_marks_are_handled_the_same_wherever_they_are_cut() -> None:
    """Two byte order marks give the same result in one piece or in two."""
    assert decode(BOM, BOM + STREAM) == decode(BOM + BOM + STREAM)
