"""Errors that the server reports within an answer, and malformed chunks."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.decode import DONE, Outcome, bytewise, chunk, decode, events, whole
from tir_qwen._response.chunk import ChunkDecoder
from tir_qwen.errors import ServerStreamError

NO_JSON = r"not valid JSON \(.+ at line \d+ column \d+\)"
REPORTED = "the server reported an error in its answer"
NESTED = {"error": {"message": "No.", "type": "BadRequestError", "param": None, "code": 400}}


def failed(body: bytes) -> Outcome:
    """Decode an answer that fails, and check that it fails the same byte by byte."""
    outcome = decode(body)
    assert outcome.error is not None
    assert not outcome.done
    assert decode(*bytewise(body)) == outcome
    return outcome


@pytest.mark.parametrize(
    ("frame", "said", "kept"),
    [
        pytest.param(NESTED, "No.", {"message": "No.", "type": "BadRequestError", "code": 400}, id="nested"),
        pytest.param(
            {"object": "error", "message": "No.", "type": "T", "param": "p", "code": 500},
            "No.",
            {"message": "No.", "type": "T", "param": "p", "code": 500},
            id="flat",
        ),
        pytest.param(
            {"error": {"object": "error", "message": "No.", "code": 400}},
            "No.",
            {"message": "No.", "code": 400},
            id="both",
        ),
        pytest.param({"error": "No."}, "No.", {"message": "No."}, id="string"),
        pytest.param({"error": {"error": {"message": "No."}}}, "No.", {"message": "No."}, id="twice nested"),
        pytest.param({"error": {"detail": "No."}}, "No.", {"message": "No."}, id="detail"),
        pytest.param({"detail": "No."}, "No.", {"message": "No."}, id="detail only"),
        pytest.param(
            {"detail": [{"loc": ["body", "n"], "msg": "No."}]},
            "['body', 'n']: No.",
            {"message": "['body', 'n']: No."},
            id="list of details",
        ),
        pytest.param({"message": "No.", "code": 7}, "No.", {"message": "No.", "code": 7}, id="message only"),
        pytest.param({"error": True}, "", {"message": ""}, id="no words"),
        pytest.param({"object": "error"}, "", {"message": ""}, id="no words, flat"),
        pytest.param({"error": {"code": 7}}, "", {"message": "", "code": 7}, id="a code only"),
    ],
)
def test_error_frames_of_every_shape_are_recognized(frame: Any, said: str, kept: Any) -> None:
    """An error frame of any version ends the answer with the server's message."""
    error = ("ServerStreamError", f"{REPORTED}: {said}" if said else REPORTED, kept)
    before = chunk({"content": "a"})
    for body in (events(frame), events(frame, DONE), events(before, frame, DONE), json.dumps(frame).encode()):
        assert failed(body).error == error
    assert failed(events(before, frame)).said == ("", "a", [], None)


@pytest.mark.parametrize(
    ("data", "said", "kept"),
    [
        (b'{"message": "No."}', "No.", {"message": "No."}),
        (b'"No."', "No.", "No."),
        (b"No.", "No.", "No."),
        (b"<html><title>502 Bad\nGateway</title></html>", "502 Bad Gateway", "502 Bad Gateway"),
        (b"[]", "", None),
        (b"", "", None),
        (b"\xff", "\ufffd", "\ufffd"),
        (json.dumps(chunk({"content": "a"})).encode(), "", {"message": ""}),
    ],
)
def test_an_error_event_is_an_error(data: bytes, said: str, kept: Any) -> None:
    """`event: error` is an error whatever its data contain."""
    error = ("ServerStreamError", f"{REPORTED}: {said}" if said else REPORTED, kept)
    for line in (b"event: error\ndata: " + data, b"data: " + data + b"\nevent:error"):
        lines = line.replace(b"Bad\n", b"Bad\ndata: ")
        assert failed(lines + b"\n\n").error == error
        assert failed(lines + b"\n\ndata: [DONE]\n\n").error == error


def test_an_error_after_the_finish_reason_is_an_error() -> None:
    """An error between the finish reason and [DONE] is not overlooked."""
    outcome = failed(events(chunk({"content": "a"}, "stop"), NESTED, DONE))
    assert outcome.failed == ("ServerStreamError", f"{REPORTED}: No.")
    assert outcome.said == ("", "a", [], "stop")


@pytest.mark.parametrize("nothing", [None, False, "", {}, []])
def test_an_empty_error_field_is_ignored(nothing: Any) -> None:
    """A null or empty `error` field is not an error."""
    assert decode(events(chunk({"content": "a"}, "stop", error=nothing), DONE)).said == ("", "a", [], "stop")


@pytest.mark.parametrize("field", ["message", "detail"])
def test_a_message_beside_choices_is_no_error(field: str) -> None:
    """A message of a gateway beside the answer's choices is not an error."""
    for body in (
        events(chunk({"content": "a"}, **{field: "OK"}), chunk({}, "stop", **{field: "OK"}), DONE),
        whole({"content": "a"}, **{field: "OK"}),
    ):
        outcome = decode(body)
        assert (outcome.failed, outcome.said) == (None, ("", "a", [], "stop"))


def test_a_long_message_is_truncated() -> None:
    """Of a long message, the first 500 characters are kept, in the error's text and in its body."""
    words = " ".join(f"word{number}" for number in range(200))
    error = ("ServerStreamError", f"{REPORTED}: {words[:500]}", {"message": words[:500]})
    assert failed(events({"error": {"message": words}})).error == error
    assert failed(json.dumps({"detail": words}).encode()).error == error


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_aborted_answer_is_an_error(reason: str) -> None:
    """The finish reasons `abort` and `error` raise an error that carries the partial answer."""
    error = ("ServerStreamError", f"the server gave up on the answer (finish_reason: {reason})", None)
    streamed = failed(events(chunk({"content": "a"}), chunk({"content": "b\n"}, reason), DONE))
    assert (streamed.error, streamed.said) == (error, ("", "ab\n", [], reason))
    answered = failed(whole({"content": "ab\n", "reasoning": "r"}, reason))
    assert (answered.error, answered.said) == (error, ("r", "ab\n", [], reason))


def test_secrets_in_error_frames_are_masked() -> None:
    """A token that the server repeats is masked in the message and in the body."""
    outcome = decode(events({"error": {"message": "bad token s3cret"}}), secrets=("s3cret",))
    assert outcome.error == ("ServerStreamError", f"{REPORTED}: bad token ***", {"message": "bad token ***"})
    with pytest.raises(ServerStreamError) as caught:
        list(ChunkDecoder(("s3cret",)).feed(b"s3cret", b"error"))
    assert "s3cret" not in f"{caught.value!r} {caught.value.body}"


def with_choice(**fields: Any) -> dict[str, Any]:
    """Return a chunk whose only choice has these fields."""
    return {**chunk(), "choices": [{"index": 0, "delta": {}, **fields}]}


SHAPES = [
    (chunk() | {"choices": "x"}, "choices", "a list"),
    (chunk() | {"choices": [None]}, "choice", "an object"),
    (chunk() | {"choices": [[]]}, "choice", "an object"),
    (with_choice(index="first"), "index", "an integer"),
    (with_choice(index=True), "index", "an integer"),
    (with_choice(index=0.5), "index", "an integer"),
    (with_choice(delta="secret words"), "delta", "an object"),
    (with_choice(delta=[]), "delta", "an object"),
    (with_choice(delta=0), "delta", "an object"),
    (with_choice(delta=None, message="secret words"), "delta", "an object"),
    (chunk({"content": [["secret words"]]}), "content part", "an object"),
    (chunk({"content": [{"type": "text", "text": 1}]}), "content", "a string"),
    (chunk({"content": 1}), "content", "a string"),
    (chunk({"reasoning": {"secret": "words"}}), "reasoning", "a string"),
    (chunk({"reasoning_content": 1}), "reasoning", "a string"),
    (chunk({"tool_calls": "secret words"}), "tool_calls", "a list"),
    (chunk({"tool_calls": ["secret words"]}), "tool call", "an object"),
    (chunk({"tool_calls": [{"index": "first"}]}), "index", "an integer"),
    (chunk({"tool_calls": [{"index": 0, "function": "f"}]}), "function", "an object"),
    (chunk({"tool_calls": [{"index": 0, "id": ["secret words"]}]}), "id", "a string"),
    (chunk({"tool_calls": [{"index": 0, "function": {"name": 7}}]}), "name", "a string"),
    (with_choice(finish_reason=1), "finish_reason", "a string"),
]


@pytest.mark.parametrize(("shape", "field", "kind"), SHAPES)
def test_a_field_of_the_wrong_type_is_malformed(shape: dict[str, Any], field: str, kind: str) -> None:
    """A field of the wrong type raises an error that names the field but does not quote it."""
    outcome = failed(events(chunk({"content": "a"}), shape, DONE))
    assert outcome.error == (
        "MalformedChunkError",
        f"a chunk of the answer does not have {kind} for its {field}",
        None,
    )
    assert outcome.said[1] == "a"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"choices": [{"delta": {"content": "secret words', NO_JSON),
        (b'{"choices": secret}', NO_JSON),
        (b'{"a": "\xffsecret"}', NO_JSON),
        (b'{"a": "\\ud800secret"}', NO_JSON),
        (b'{"a": "secret\nwords"}', NO_JSON),
        (b'{"a": 1} {"b": 2}', NO_JSON),
        (b'{"a": ' * 2000, NO_JSON),
        (b'{"a": ' + b"9" * 5000 + b"}", NO_JSON),
        (b"secret words", NO_JSON),
        (b"[DONE] or not", NO_JSON),
        (b'["secret words"]', "not a JSON object"),
        (b'"secret words"', "not a JSON object"),
        (b"17", "not a JSON object"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
def test_a_payload_that_is_not_a_json_object_is_malformed(data: bytes, problem: str) -> None:
    """Invalid JSON, invalid UTF-8 and other values raise an error that does not quote them."""
    outcome = failed(events(chunk({"content": "a"}), data.replace(b"\n", b"\ndata: "), DONE))
    assert outcome.error is not None
    assert outcome.error[0] == "MalformedChunkError"
    assert re.fullmatch(f"a chunk of the answer is {problem}", outcome.error[1])
    assert "secret" not in outcome.error[1]
    assert outcome.said == ("", "a", [], None)


NOTHINGS = [
    {"choices": None},
    {"choices": []},
    {},
    {"choices": [{}]},
    {"choices": [{"index": 0, "delta": None}]},
    {"choices": [{"index": 0, "delta": None, "message": None}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": None, "content": None}, "logprobs": None}]},
]


@pytest.mark.parametrize("nothing", NOTHINGS, ids=json.dumps)
def test_an_empty_chunk_is_ignored(nothing: dict[str, Any]) -> None:
    """Null, empty or missing choices and deltas are not errors."""
    body = events(nothing, chunk({"content": "a"}), nothing, chunk({"content": "b"}, "stop"), nothing, DONE)
    assert decode(body).said == ("", "ab", [], "stop")
    assert decode(body).failed is None


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ([1], "an object for its choice"),
        ("x", "a list for its choices"),
        ([{"delta": 1}], "an object for its delta"),
        ([{"index": "a"}], "an integer for its index"),
        ([{"index": []}], "an integer for its index"),
        ([{"delta": {"content": 1}}], "a string for its content"),
        ([{"delta": {}, "finish_reason": 1}], "a string for its finish_reason"),
        ([{"delta": {"tool_calls": [1]}}], "an object for its tool call"),
        ([{"delta": {"tool_calls": [{"function": 1}]}}], "an object for its function"),
    ],
)
def test_a_malformed_chunk_is_named_by_the_field(choices: Any, problem: str) -> None:
    """The error says which field of a chunk has the wrong type, and quotes nothing."""
    error = ("MalformedChunkError", f"a chunk of the answer does not have {problem}")
    assert failed(events({"choices": choices})).failed == error
