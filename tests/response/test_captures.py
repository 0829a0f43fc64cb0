"""Every recorded exchange is decoded to what a person would read in it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import yaml

from tests.support.captures import CAPTURES, FOLDER, Capture
from tests.support.decode import Outcome, decode
from tests.support.paths import DATA
from tir_qwen._response.server_errors import error_from_response
from tir_qwen.errors import APIStatusError

EXPECTED: dict[str, dict[str, Any]] = yaml.load(
    (DATA / "expected.yaml").read_text("utf-8"),
    Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
)
SETUPS = {
    "vllm-0.10.2": 149,
    "vllm-0.10.2/faults": 13,
    "vllm-0.32.0": 149,
    "vllm-0.32.0-faults": 25,
    "vllm-0.32.0-no-parsers": 19,
    "vllm-0.9.2": 177,
    "vllm-0.9.2-no-reasoning-parser": 14,
    "vllm-0.9.2-no-tool-parser": 8,
    "vllm-0.9.2/faults": 13,
}
"""The number of exchanges recorded with each server."""
COUNTS_REASONING = {"vllm-0.32.0", "vllm-0.32.0-faults"}
"""Servers that count the reasoning tokens: recent ones with a reasoning parser."""
ANSWERED = [capture for capture in CAPTURES if 200 <= capture.status < 300]
REFUSED = [capture for capture in CAPTURES if not 200 <= capture.status < 300]
FIRST_FACTS = ("id", "created", "model")


def every(captures: list[Capture]) -> pytest.MarkDecorator:
    """Run a test for each of these recordings."""
    return pytest.mark.parametrize("capture", captures, ids=lambda capture: capture.id)


def expectation(capture: Capture) -> dict[str, Any]:
    """Return the entry of expected.yaml for this recording, with defaults filled in."""
    common = EXPECTED[capture.name]
    said = next((other for other in common.get("but", ()) if capture.setup in other["servers"]), common)
    content = said.get("content", "") + "<|im_end|>" * said.get("ends", 0)
    return {"finish": None if "error" in said else "stop", **said, "content": content}


def payloads(capture: Capture) -> list[dict[str, Any]]:
    """Return the JSON objects in the body, parsed in the simplest way."""
    if not capture.streamed:
        return [json.loads(capture.body)]
    lines = [line for line in capture.body.decode().split("\n") if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def metadata_on_the_wire(capture: Capture) -> dict[str, Any]:
    """Return the metadata of the response in the payloads."""
    facts: dict[str, Any] = {}
    for payload in payloads(capture):
        facts.update({key: value for key, value in payload.items() if value is not None})
    return {key: value for key, value in facts.items() if key not in {"object", "choices", "usage"}}


def error_on_the_wire(capture: Capture) -> dict[str, Any] | None:
    """Return the error frame of a stream, if there is one."""
    frames = [payload["error"] for payload in payloads(capture) if "error" in payload] if capture.streamed else []
    kept = [{key: frame[key] for key in ("message", "type", "code")} for frame in frames]
    return {**kept[0], "message": kept[0]["message"].strip()} if kept else None


def logprobs_on_the_wire(capture: Capture) -> list[Any]:
    """Return the log probabilities of all tokens."""
    choices = [choice for payload in payloads(capture) for choice in payload["choices"]]
    return [token for choice in choices if choice.get("logprobs") for token in choice["logprobs"]["content"]]


def expected_usage(capture: Capture, expected: dict[str, Any]) -> dict[str, Any] | None:
    """Return the expected usage, with null where this server version sends null."""
    if "usage" not in expected:
        return None
    prompt, completion = (int(count) for count in expected["usage"].split(" + "))
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    if "cached" in expected:
        read, written = (int(part.split()[0]) for part in expected["cached"].split(", "))
        details = {"cached_tokens": read, "created_cache_tokens": written, "multimodal_tokens": None}
        usage["prompt_tokens_details"] = without_nulls(details) if capture.streamed else details
    if capture.setup in COUNTS_REASONING and "asks" not in EXPECTED[capture.name]:
        usage["completion_tokens_details"] = {"reasoning_tokens": expected.get("reasoning_tokens", 0)}
    if capture.streamed:
        return without_nulls(usage)
    if "0.32.0" not in capture.setup:
        del usage["completion_tokens_details"]
    return usage


def without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    """Return the dict without null values, which streams omit."""
    return {key: item for key, item in value.items() if item is not None}


def assert_choices(outcome: Outcome, expected: dict[str, Any]) -> None:
    """Check that all choices are as expected and that their tool calls have unique ids."""
    choices = outcome.completion.choices
    if "error" in expected and not expected["content"]:
        assert choices == []
        return
    assert [choice.index for choice in choices] == list(range(expected.get("n", 1)))
    for choice in choices:
        assert choice.content == expected["content"]
        assert choice.reasoning == expected.get("reasoning", "")
        calls = [{"name": call.name, "arguments": call.arguments} for call in choice.tool_calls]
        assert calls == expected.get("calls", [])
        assert choice.finish_reason == expected["finish"]
        assert choice.stop_reason == expected.get("stop")
    ids = [call.id for choice in choices for call in choice.tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)


def test_each_capture_has_an_expectation_and_each_expectation_a_capture() -> None:
    """No recording lacks an expectation, and no expectation lacks its recording."""
    assert Counter(capture.setup for capture in CAPTURES) == SETUPS
    assert {capture.name for capture in CAPTURES} == set(EXPECTED)
    asked = {capture.id for capture in CAPTURES}
    overrides = [(name, other) for name, said in EXPECTED.items() for other in said.get("but", ())]
    listed = [f"{setup}/{name}" for name, other in overrides for setup in other["servers"]]
    assert set(listed) <= asked
    assert len(set(listed)) == len(listed)
    for name, other in overrides:
        assert other["because"]
        common = {key: value for key, value in EXPECTED[name].items() if key not in {"asks", "but"}}
        assert common != {key: value for key, value in other.items() if key not in {"servers", "because"}}, name


def test_requests_other_than_chat_completions_are_marked() -> None:
    """Requests with other paths or methods are marked as such."""
    for capture in CAPTURES:
        asked = (
            (FOLDER / capture.setup / f"{capture.name}.request.http").read_bytes().split(b" HTTP/1.1", 1)[0].decode()
        )
        assert asked == EXPECTED[capture.name].get("asks", "POST /v1/chat/completions"), capture.id


@every(ANSWERED)
def test_an_answer_is_decoded_as_a_person_reads_it(capture: Capture) -> None:
    """Text, reasoning, tool calls, finish reason, usage and metadata match the recording, or the error does."""
    expected = expectation(capture)
    outcome = decode(capture.body, expected=capture.expected)
    error = (expected["error"], expected["message"]) if "error" in expected else None
    assert outcome.failed == error
    assert_choices(outcome, expected)
    assert outcome.completion.usage == expected_usage(capture, expected)
    if error:
        assert set(outcome.completion.response) == (set(FIRST_FACTS) if outcome.completion.choices else set())
        assert not outcome.done
        assert outcome.error is not None
        assert outcome.error[2] == error_on_the_wire(capture)
        return
    assert outcome.done
    assert outcome.completion.response == metadata_on_the_wire(capture)
    further = set(outcome.completion.response) - {*FIRST_FACTS, "system_fingerprint"}
    assert {fact: len(outcome.completion.response[fact]) for fact in further} == expected.get("facts", {})
    logprobs = outcome.completion.first.logprobs
    assert (logprobs and logprobs["content"]) == (logprobs_on_the_wire(capture) or None)
    assert logprobs is None or [token["token"] for token in logprobs["content"]] == expected["logprobs"]
    assert (logprobs is None) == ("logprobs" not in expected)


@every(ANSWERED)
def test_deltas_report_metadata_once_and_usage_last(capture: Capture) -> None:
    """Usage comes on the last delta only; ids, names and metadata come once."""
    outcome = decode(capture.body, expected=capture.expected)
    deltas, usage = outcome.deltas, outcome.completion.usage
    assert [delta.last for delta in deltas] == [False] * (len(deltas) - 1) + [outcome.done] * bool(deltas)
    assert [delta.usage for delta in deltas if delta.usage] == [usage] * bool(usage)
    assert all(delta.last for delta in deltas if delta.usage)
    facts = [fact for delta in deltas for fact in delta.response or ()]
    assert sorted(facts) == sorted(outcome.completion.response)
    assert not deltas or set(deltas[0].response or ()) == set(FIRST_FACTS)
    named = Counter((delta.index, call.index) for delta in deltas for call in delta.tool_calls if call.id or call.name)
    assert set(named.values()) <= {1}
    says_nothing = [d for d in deltas[:-1] if not (d.content or d.reasoning or d.tool_calls or d.finish_reason)]
    assert len([delta for delta in says_nothing if not (delta.response or delta.logprobs)]) == 0


@every(REFUSED)
def test_an_error_response_is_decoded_as_a_person_reads_it(capture: Capture) -> None:
    """An error response gives the expected class and message, without any part of the request."""
    expected = expectation(capture)
    error = error_from_response(capture.status, capture.headers, capture.body)
    assert isinstance(error, APIStatusError)
    assert (type(error).__name__, str(error)) == (expected["error"], expected["message"])
    assert error.status_code == capture.status
    assert error.request_id == capture.headers.get("x-request-id")
    assert error.retry_after is None
    assert error.is_retryable == (capture.status >= 500)
    assert "What is the capital of France?" not in f"{error} {error.body}"
