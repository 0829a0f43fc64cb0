"""Any bytes give an answer or a TIRError, and the same one wherever they are cut."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.captures import CAPTURES
from tests.support.decode import BOM, DONE, FIXED, Outcome, bytewise, decode, events, pieces_of
from tir_qwen._response.accumulator import Accumulator
from tir_qwen._response.choice import DEFAULT_OPTIONS, DecodingOptions

OURS = {"StreamInterruptedError", "MalformedChunkError", "ServerStreamError", "ContextOverflowError"}
BODIES = sorted({capture.body for capture in CAPTURES if capture.body and len(capture.body) < 3000})
"""The bodies of all recorded responses, including errors."""
CUTS = st.lists(st.integers(0, 3000), max_size=5)
WORDS = [
    *["choices", "delta", "message", "index", "content", "reasoning", "reasoning_content", "tool_calls", "function"],
    *[
        "id",
        "name",
        "arguments",
        "finish_reason",
        "stop_reason",
        "logprobs",
        "usage",
        "error",
        "object",
        "model",
        "code",
    ],
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "stop", "abort", "error", "<think>", "</think>", "\n", "a", "é\u2028", "{}", "[DONE]"])
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)
PLAIN = st.sampled_from([None, "", "a", "\n", "<think>", "</think>", "<", "é"])
TEXT = PLAIN | VALUES


def almost(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Generate objects with some of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


CALL = almost(
    index=st.integers(0, 1) | VALUES,
    id=st.sampled_from(["i", ""]) | VALUES,
    function=almost(name=st.just("f") | VALUES, arguments=TEXT) | VALUES,
)
SAID = almost(
    content=TEXT,
    reasoning=TEXT,
    reasoning_content=TEXT,
    tool_calls=st.lists(CALL | VALUES, max_size=2) | VALUES,
)
CHOICE = almost(
    index=st.integers(0, 1) | VALUES,
    delta=SAID | VALUES,
    message=SAID | VALUES,
    finish_reason=st.sampled_from([None, "stop", "length", "abort"]) | VALUES,
    stop_reason=VALUES,
    logprobs=st.none() | almost(content=st.lists(VALUES, max_size=2) | VALUES) | VALUES,
)
LIKELY = st.fixed_dictionaries(
    {
        "delta": almost(content=PLAIN, reasoning=PLAIN),
        "logprobs": st.none() | almost(content=st.lists(SCALARS, max_size=2) | SCALARS),
        "finish_reason": st.sampled_from([None, None, None, "stop"]),
    }
)
"""A realistic choice with values of an unexpected type here and there."""
CHUNK = almost(
    id=VALUES,
    created=VALUES,
    model=VALUES,
    object=VALUES,
    choices=st.lists(CHOICE | VALUES, max_size=2) | VALUES,
    usage=st.none() | almost(total_tokens=st.integers()) | VALUES,
    error=st.none() | VALUES,
    system_fingerprint=VALUES,
)
LINES = [b"data: ", b"data:", b"data", b"event: error", b"event: x", b": x", b"\n", b"\n\n", b"\r\n", b"\r", b" "]
PAYLOADS = [
    b"{",
    b"}",
    b"[DONE]",
    b'{"choices":[{"delta":{"content":"a"}}]}',
    b'{"choices":[{"finish_reason":"stop"}]}',
]
OTHERS = [b'{"error":"x"}', b"\xff", b"\xe2\x80\xa8", b"<", b"[", b"null", b"\x00", b"\xef\xbb", BOM]
EXPECTED = st.builds(
    DecodingOptions,
    tools=st.booleans(),
    required_tool=st.sampled_from([None, "f"]),
    tool_names=st.sampled_from([frozenset(), frozenset({"f"})]),
    text_calls=st.sampled_from(["unparsed", "quoted", "plain", "prompted"]),
    max_tokens=st.none() | st.integers(1, 9),
    single_call=st.booleans(),
    thinking_off=st.booleans(),
)
MARKS = ["<tool_call>", "</tool_call>", "<think>", "</think>", "\n", "{", "}", "]", '"', "\\", ": ", ", ", "a", "é"]
FIELDS = ['"name"', '"f"', '"arguments"', '"parameters"', '{"x": 1}', "null", "5", '{"name": "f", "arguments": ', "{}"]
BEGUN = st.sampled_from(["", "", "<tool_call>", '<tool_call>\n{"name": "f", "arguments": '])
SPOKEN = st.builds("{}{}".format, BEGUN, st.lists(st.sampled_from([*MARKS, *FIELDS]), max_size=6).map("".join))
"""Fragments of calls and reasoning in any order."""
NATIVE = st.fixed_dictionaries(
    {
        "function": almost(
            name=st.sampled_from(["f", "g", "", None]), arguments=st.sampled_from(["", "{", "}", "{}", "5"])
        )
    },
    optional={"index": st.integers(0, 2), "id": st.sampled_from(["i", "j", "", None])},
)
SPEECH = almost(content=SPOKEN, reasoning=SPOKEN, tool_calls=st.lists(NATIVE, max_size=2))
ENDING = st.sampled_from([None, None, None, "stop", "length", "tool_calls", "abort"])
RAW = st.sampled_from(
    [
        *["null", "0", "-0", "1", "true", "1e999", "-1e999", "0.1e-400", "NaN", "Infinity", "9" * 40, "9" * 4400, "01"],
        *[
            '""',
            '"a"',
            '"stop"',
            '"\\ud800"',
            '"\\ud83d\\ude00"',
            '"\\udc00\\ud800"',
            '"\\u0000"',
            '"\\u2028"',
            '"\x7f"',
        ],
        *["[]", "[{}]", "{}", '{"a": 1, "a": 2}', '{"": {"": []}}', "[" * 150 + "]" * 150, "[" * 9000 + "]" * 9000],
        *[
            '{"x":' * 150 + "1" + "}" * 150,
            '{"x":' * 9000 + "1" + "}" * 9000,
            "[" * 9000,
            '{"content": "a", "content": 1}',
        ],
    ]
)
"""Raw JSON values, some beyond the limits of parsers."""
PLACES = ["choices", "index", "delta", "content", "reasoning", "tool_calls", "finish_reason", "logprobs", "usage", "id"]
FRAGMENTS = st.sampled_from([*LINES, *PAYLOADS, *OTHERS])


def decode_consistently(body: bytes, cuts: list[int], expected: DecodingOptions = DEFAULT_OPTIONS) -> Outcome:
    """Decode a body, and check that every cut gives the same answer or TIRError."""
    outcome = decode(body, expected=expected)
    repeated = copy.deepcopy(outcome)
    assert_same(decode(*pieces_of(body, cuts), expected=expected), outcome)
    assert_same(decode(*bytewise(body), expected=expected), outcome)
    assert_same(outcome, repeated)
    assert outcome.error is None or outcome.error[0] in OURS
    assert outcome.done == (outcome.error is None)
    assert [delta.last for delta in outcome.deltas if delta.last] == [True] * outcome.done
    folded = Accumulator()
    for delta in outcome.deltas:
        folded.add(delta)
    assert repr(folded.completion()) == repr(outcome.completion)
    for call in (call for choice in outcome.completion.choices for call in choice.tool_calls if outcome.done):
        assert call.error or (call.id and call.name and isinstance(json.loads(call.arguments), dict))
    return outcome


def assert_same(one: Outcome, other: Outcome) -> None:
    """Check that two outcomes are equal, treating NaN as equal."""
    assert repr(one) == repr(replace(other, arrived=one.arrived))


@FIXED
@given(st.binary(max_size=80), CUTS)
def test_any_bytes_give_an_answer_or_a_tir_error(body: bytes, cuts: list[int]) -> None:
    """No bytes raise any other exception, and the result does not depend on the cuts."""
    decode_consistently(body, cuts)


@settings(FIXED, max_examples=600)
@given(st.lists(FRAGMENTS, max_size=14).map(b"".join), st.lists(st.integers(0, 100), max_size=5))
def test_any_stream_fragments_give_an_answer_or_a_tir_error(body: bytes, cuts: list[int]) -> None:
    """Fragments of event streams in any order give an answer or a TIRError."""
    decode_consistently(body, cuts)


@settings(FIXED, max_examples=400)
@given(st.lists(CHUNK | VALUES, max_size=4), st.booleans(), CUTS)
def test_any_chunks_give_an_answer_or_a_tir_error(chunks: list[Any], done: bool, cuts: list[int]) -> None:
    """Streams of any JSON values give an answer or a TIRError."""
    decode_consistently(events(*(json.dumps(one).encode() for one in chunks), *[DONE] * done), cuts)


@settings(FIXED, max_examples=400)
@given(st.lists(LIKELY, min_size=2, max_size=4), CUTS)
def test_choices_that_change_types_give_an_answer_or_a_tir_error(choices: list[Any], cuts: list[int]) -> None:
    """Fields may change their type from chunk to chunk."""
    decode_consistently(events(*(json.dumps({"choices": [choice]}).encode() for choice in choices), DONE), cuts)


@settings(FIXED, max_examples=400)
@given(CHUNK | VALUES, CUTS)
def test_any_json_body_gives_an_answer_or_a_tir_error(value: Any, cuts: list[int]) -> None:
    """Any JSON body gives an answer, if it has choices, or a TIRError."""
    outcome = decode_consistently(json.dumps(value).encode(), cuts)
    if outcome.done:
        assert value["choices"]


@settings(FIXED, max_examples=600)
@given(
    st.sampled_from(BODIES),
    st.lists(
        st.tuples(
            st.integers(0, 3000),
            st.sampled_from(["drop", "insert", "replace", "repeat", "cut"]),
            st.binary(max_size=3) | st.sampled_from([b"\n", b"\r", b'"', b"{", b"}", b"\n\n", b"data: ", b"\\", b","]),
        ),
        min_size=1,
        max_size=4,
    ),
    CUTS,
)
def test_damaged_recordings_give_an_answer_or_a_tir_error(
    body: bytes, damages: list[tuple[int, str, bytes]], cuts: list[int]
) -> None:
    """Recorded bodies with bytes lost, added, changed, repeated or cut off give an answer or a TIRError."""
    for place, kind, some in damages:
        at = place % (len(body) + 1)
        before, after = body[:at], body[at:]
        body = {
            "drop": before + after[len(some) + 1 :],
            "insert": before + some + after,
            "replace": before + some + after[len(some) :],
            "repeat": before + before[-60:] + after,
            "cut": before,
        }[kind]
    decode_consistently(body, cuts)


@settings(FIXED, max_examples=300)
@given(EXPECTED, st.lists(st.tuples(SPEECH, ENDING), min_size=1, max_size=6), st.booleans(), st.booleans(), CUTS)
def test_any_decoding_options_give_an_answer_or_a_tir_error(
    expected: DecodingOptions, said: list[tuple[Any, Any]], streamed: bool, done: bool, cuts: list[int]
) -> None:
    """Any combination of decoding options gives an answer or a TIRError."""
    if streamed:
        chunks = [{"choices": [{"index": 0, "delta": one, "finish_reason": end}]} for one, end in said]
        decode_consistently(events(*chunks, *[DONE] * done), cuts, expected)
    else:
        choices = [{"index": number, "message": one, "finish_reason": end} for number, (one, end) in enumerate(said)]
        decode_consistently(json.dumps({"choices": choices}).encode(), cuts, expected)


@FIXED
@given(EXPECTED, SPOKEN, st.lists(st.integers(0, 60), max_size=6))
def test_an_answer_does_not_depend_on_its_tokens(expected: DecodingOptions, text: str, cuts: list[int]) -> None:
    """Text, reasoning and calls do not depend on where tokens start and end."""
    outcomes = []
    for tokens in ([text], pieces_of(text, cuts), [*text]):
        chunks = [{"choices": [{"index": 0, "delta": {"content": token}}]} for token in tokens]
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        outcome = decode(events(*chunks, end, DONE), expected=expected)
        outcomes.append(repr((outcome.completion, outcome.error)))
    assert outcomes[1:] == outcomes[:1] * 2


@FIXED
@given(st.sampled_from(PLACES), RAW, EXPECTED, st.booleans(), CUTS)
def test_extreme_json_gives_an_answer_or_a_tir_error(
    place: str, raw: str, expected: DecodingOptions, streamed: bool, cuts: list[int]
) -> None:
    """Deep nesting, huge numbers, duplicate keys and lone surrogates give an answer or a TIRError."""
    said = dict.fromkeys(PLACES, "null") | {"index": "0", "content": '"a"', "finish_reason": '"stop"', place: raw}
    inner = ",".join(f'"{name}":{said[name]}' for name in ("content", "reasoning", "tool_calls"))
    said["delta"] = raw if place == "delta" else f"{{{inner}}}"
    choice = ",".join(f'"{name}":{said[name]}' for name in ("index", "delta", "finish_reason", "logprobs"))
    said["choices"] = raw if place == "choices" else f"[{{{choice}}}]"
    body = ("{" + ",".join(f'"{name}":{said[name]}' for name in ("id", "choices", "usage")) + "}").encode()
    outcome = decode(*pieces_of(events(body, DONE) if streamed else body, cuts), expected=expected)
    assert outcome.error is None or outcome.error[0] in OURS
    assert_same(decode(events(body, DONE) if streamed else body, expected=expected), outcome)


@FIXED
@given(st.lists(CHUNK, max_size=2), VALUES | RAW.map(str.encode) | st.binary(max_size=20), st.booleans(), CUTS)
def test_any_error_within_an_answer_gives_a_tir_error(
    chunks: list[Any], said: Any, named: bool, cuts: list[int]
) -> None:
    """Any error event or error chunk, at any position, makes the answer fail."""
    payload = said if isinstance(said, bytes) else json.dumps({"error": said or "x"}).encode()
    payload = payload.replace(b"\r", b"").replace(b"\n", b"")
    named = named or isinstance(said, bytes)
    body = events(*chunks) + b"event: error\n" * named + events(payload) + events(DONE)
    assert decode_consistently(body, cuts).error is not None
