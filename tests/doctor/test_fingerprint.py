"""What a token, or the bytes of an answer, tell of themselves; nothing in them is an error."""

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
    """A part of a JWT."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(claims: Any) -> str:
    """A token with these claims, which nobody has signed."""
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return ".".join(map(part, (b'{"alg": "none"}', body, b"signature")))


@pytest.mark.parametrize("user", ["", "a", "ab", "abc", "abcd", "आशा", "???>>>"])
def test_the_expiry_of_any_token_is_read(user: str) -> None:
    """The date of expiry is read whatever the length of the token, and whichever characters it is made of."""
    assert token_expiry(jwt({"sub": user, "exp": 1_900_000_000})) == datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)


def test_expiry_within_a_second() -> None:
    """A date of expiry may have decimals."""
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
    """A token that names no date of expiry, or nonsense for one, has none."""
    assert token_expiry(token) is None


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANY_JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def likely(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with these keys, or some of them, and anything for values."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, ANY_JSON))


DELTAS = ANY_JSON | likely("content", "reasoning", "reasoning_content")
CHOICES = ANY_JSON | st.fixed_dictionaries({}, optional={"delta": DELTAS, "message": DELTAS, "token_ids": ANY_JSON})
FRAMES = st.fixed_dictionaries(
    {}, optional={"choices": ANY_JSON | st.lists(CHOICES, max_size=3), "system_fingerprint": ANY_JSON}
)


@given(st.text() | st.binary().map(jwt) | ANY_JSON.map(jwt) | ANY_JSON.map(lambda exp: jwt({"exp": exp})))
def test_expiry_of_anything(token: str) -> None:
    """Whatever a token is, it has a date of expiry or none."""
    assert isinstance(token_expiry(token), datetime | None)


EVENTS = st.lists(st.binary() | ANY_JSON.map(lambda value: json.dumps(value).encode()), max_size=3)


@given(st.binary() | EVENTS.map(b"\n\ndata: ".join))
def test_frames_of_anything(body: bytes) -> None:
    """Whatever a body is, its frames are objects."""
    assert all(isinstance(frame, dict) for frame in parse_frames(body))


@given(st.lists(FRAMES, max_size=3))
def test_era_of_anything(frames: list[Any]) -> None:
    """Whatever frames hold, they tell a version of vLLM or none, and all that is said are objects."""
    assert isinstance(guess_vllm_version(frames), str | None)
    assert all(isinstance(delta, dict) for delta in extract_deltas(frames))


def test_frames_of_a_huge_event() -> None:
    """An event that is larger than any that a client takes is no frame."""
    assert parse_frames(b"data: " + b"x" * (17 * 1024 * 1024)) == []


def delta(**said: str) -> dict[str, Any]:
    """A frame that says something."""
    return {"choices": [{"index": 0, "delta": said}]}


BODIES = {
    "a stream": b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n',
    "a stream that is cut": b'data: {"a": 1}\n\ndata: {"b": 2}',
    "a stream with CRLF": b'data: {"a": 1}\r\n\r\ndata: {"b": 2}\r\n\r\n',
    "a stream with comments": b': ping\n\ndata: {"a": 1}\n\n: ping\n\ndata: {"b": 2}\n\n',
    "a stream with garbage": b'data: {"a": 1}\n\ndata: {"c":\n\ndata: 7\n\ndata: {"b": 2}\n\n',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_frames_of_streams(body: bytes) -> None:
    """The frames of a stream are the objects in its events."""
    assert parse_frames(body) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(("body", "frames"), [(b'{"a": 1}', [{"a": 1}]), (b"<html>", []), (b"", []), (b"[1]", [])])
def test_frames_of_whole_answers(body: bytes, frames: list[Any]) -> None:
    """The frame of a whole answer is that answer, if it is an object."""
    assert parse_frames(body) == frames


THINKS = {"reasoning_content": "Hm."}
ERAS = [
    ([], None),
    ([delta(content="Hello")], None),
    ([delta(**THINKS)], "0.9"),
    ([{"choices": [{"delta": THINKS, "token_ids": None}]}], "0.10 or 0.11.0"),
    ([delta(**THINKS, reasoning="Hm.")], "0.11.1 to 0.15"),
    ([delta(reasoning="Hm.")], "0.16 or newer"),
    ([{"choices": [{"message": {"reasoning": "Hm.", "reasoning_content": None}}]}], "0.16 or newer"),
    ([{"system_fingerprint": "vllm-0.32.0-0123abcd", "choices": [{"delta": THINKS}]}], "0.32.0"),
    ([{"system_fingerprint": "fp_0123abcd"}, delta(**THINKS)], "0.9"),
    ([{"system_fingerprint": None}, {"choices": None}], None),
]


@pytest.mark.parametrize(("frames", "era"), ERAS)
def test_the_version_of_vllm_is_guessed(frames: list[Any], era: str | None) -> None:
    """The version of vLLM is what it says itself, or else is read off the fields of its answers."""
    assert guess_vllm_version(frames) == era
