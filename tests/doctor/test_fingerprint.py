"""What a token or the bytes of an answer reveal; no content raises an error."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tir_qwen._doctor.fingerprint import extract_deltas, guess_vllm_version, parse_frames, token_expiry


def part(data: bytes) -> str:
    """Encode a part of a JWT."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(claims: Any) -> str:
    """Return an unsigned token with these claims."""
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return ".".join(map(part, (b'{"alg": "none"}', body, b"signature")))


@pytest.mark.parametrize("user", ["", "a", "ab", "abc", "abcd", "आशा", "???>>>"])
def test_the_expiry_of_any_token_is_read(user: str) -> None:
    """The expiry is read from tokens of any length and with any characters."""
    assert token_expiry(jwt({"sub": user, "exp": 1_900_000_000})) == datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)


def test_the_expiry_may_have_decimals() -> None:
    """The expiry may have decimals."""
    assert token_expiry(jwt({"exp": 1_900_000_000.5})) == datetime(2030, 3, 17, 17, 46, 40, 500_000, tzinfo=UTC)


NO_DATE = {
    "nothing": None,
    "empty": "",
    "no JWT": "an-opaque-token",
    "two parts": jwt({"exp": 1_900_000_000}).rpartition(".")[0],
    "four parts": jwt({"exp": 1_900_000_000}) + ".more",
    "dots alone": "..",
    "no base64": "a.*.c",
    "cut base64": "a.A.c",
    "not ASCII": "é.é.é",
    "a surrogate": "a.\ud800.c",
    "no JSON": jwt(b"{"),
    "not UTF-8": jwt(b"\xff\xfe"),
    "deep JSON": jwt(b"[" * 100_000),
    "no object": jwt([1]),
    "a number": jwt(1_900_000_000),
    "null": jwt(None),
    "no date": jwt({"sub": "someone"}),
    "a date of null": jwt({"exp": None}),
    "a date in words": jwt({"exp": "2030-03-17"}),
    "a date that is a list": jwt({"exp": [1_900_000_000]}),
    "milliseconds": jwt({"exp": 1_900_000_000_000}),
    "a huge number": jwt({"exp": 10**400}),
    "infinity": jwt(b'{"exp": Infinity}'),
    "not a number": jwt(b'{"exp": NaN}'),
    "a boolean": jwt({"exp": True}),
}


@pytest.mark.parametrize("token", NO_DATE.values(), ids=NO_DATE.keys())
def test_a_token_without_a_valid_date_has_no_expiry(token: str | None) -> None:
    """A token without a valid expiry has none."""
    assert token_expiry(token) is None


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANY_JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def with_some_of(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Generate objects with some of these keys and any values."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, ANY_JSON))


DELTAS = ANY_JSON | with_some_of("content", "reasoning", "reasoning_content")
CHOICES = ANY_JSON | st.fixed_dictionaries({}, optional={"delta": DELTAS, "message": DELTAS, "token_ids": ANY_JSON})
FRAMES = st.fixed_dictionaries(
    {}, optional={"choices": ANY_JSON | st.lists(CHOICES, max_size=3), "system_fingerprint": ANY_JSON}
)


@given(st.text() | st.binary().map(jwt) | ANY_JSON.map(jwt) | ANY_JSON.map(lambda exp: jwt({"exp": exp})))
def test_any_token_has_an_expiry_or_none(token: str) -> None:
    """Any token has an expiry or none."""
    assert isinstance(token_expiry(token), datetime | None)


EVENTS = st.lists(st.binary() | ANY_JSON.map(lambda value: json.dumps(value).encode()), max_size=3)


@given(st.binary() | EVENTS.map(b"\n\ndata: ".join))
def test_the_frames_of_any_body_are_objects(body: bytes) -> None:
    """The frames of any body are objects."""
    assert all(isinstance(frame, dict) for frame in parse_frames(body))


@given(st.lists(FRAMES, max_size=3))
def test_any_frames_give_a_version_or_none(frames: list[Any]) -> None:
    """Any frames give a vLLM version or none, and their deltas are objects."""
    assert isinstance(guess_vllm_version(frames), str | None)
    assert all(isinstance(delta, dict) for delta in extract_deltas(frames))


def test_an_oversized_event_is_not_a_frame() -> None:
    """An event above the client's size limit is not a frame."""
    assert parse_frames(b"data: " + b"x" * (17 * 1024 * 1024)) == []


def delta(**said: str) -> dict[str, Any]:
    """Return a frame of vLLM's with this delta."""
    return {"choices": [{"index": 0, "delta": said, "logprobs": None}]}


BODIES = {
    "a stream": b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n',
    "a stream that is cut": b'data: {"a": 1}\n\ndata: {"b": 2}',
    "a stream with CRLF": b'data: {"a": 1}\r\n\r\ndata: {"b": 2}\r\n\r\n',
    "a stream with comments": b': ping\n\ndata: {"a": 1}\n\n: ping\n\ndata: {"b": 2}\n\n',
    "a stream with garbage": b'data: {"a": 1}\n\ndata: {"c":\n\ndata: 7\n\ndata: {"b": 2}\n\n',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_the_frames_of_a_stream_are_its_objects(body: bytes) -> None:
    """The frames of a stream are the objects in its events."""
    assert parse_frames(body) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(("body", "frames"), [(b'{"a": 1}', [{"a": 1}]), (b"<html>", []), (b"", []), (b"[1]", [])])
def test_the_frame_of_a_complete_response_is_its_object(body: bytes, frames: list[Any]) -> None:
    """The frame of a complete response is the response itself, if it is an object."""
    assert parse_frames(body) == frames


THINKS = {"reasoning_content": "Hm."}
ERAS = [
    ([], None),
    ([delta(content="Hello")], None),
    ([delta(**THINKS)], "0.9"),
    ([{"choices": [{"delta": THINKS, "logprobs": None, "token_ids": None}]}], "0.10 or 0.11.0"),
    ([delta(**THINKS, reasoning="Hm.")], "0.11.1 to 0.15"),
    ([delta(reasoning="Hm.")], "0.16 or newer"),
    ([{"choices": [{"message": {"reasoning": "Hm.", "reasoning_content": None}, "logprobs": None}]}], "0.16 or newer"),
    ([{"system_fingerprint": "vllm-0.32.0-0123abcd", "choices": [{"delta": THINKS}]}], "0.32.0"),
    ([{"system_fingerprint": "fp_0123abcd"}, delta(**THINKS)], "0.9"),
    ([{"system_fingerprint": None}, {"choices": None}], None),
    ([{"system_fingerprint": "", "choices": [{"delta": THINKS, "index": 0}]}], None),  # transformers
]


@pytest.mark.parametrize(("frames", "era"), ERAS)
def test_the_version_of_vllm_is_guessed(frames: list[Any], era: str | None) -> None:
    """The vLLM version is what the server reports, or is guessed from the fields of its answers."""
    assert guess_vllm_version(frames) == era
