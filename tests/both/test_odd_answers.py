"""Odd values in answers never cost an answer, and raise nothing but a TIRError."""

from __future__ import annotations

import json
from contextlib import suppress
from types import ModuleType
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.llms import ChatMessage

from tests.support.decode import DONE, FIXED, events
from tests.support.fake_vllm import Lab
from tests.support.scripted_transport import llm_on, model_on
from tir_qwen import TIRError
from tir_qwen._dialect.usage import add_usage
from tir_qwen._response.reported import read_usage

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a", "1", 0.5, -1, 10**40])
)
NAMES = ["prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens", "token", "logprob"]
NAMES += ["bytes", "top_logprobs", "content", "index", "id", "function", "name", "arguments", "type", "text"]
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=6,
)
COUNTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(NAMES[:3], SCALARS),
        "prompt_tokens_details": st.fixed_dictionaries({}, optional={"cached_tokens": VALUES}) | VALUES,
        "completion_tokens_details": st.fixed_dictionaries({}, optional={"reasoning_tokens": VALUES}) | VALUES,
    },
)
TOKEN = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["token", "logprob", "bytes", "top_logprobs", "index"], VALUES)
)
LOGPROBS = st.fixed_dictionaries({}, optional={"content": st.lists(TOKEN | VALUES, max_size=2) | VALUES, "x": VALUES})
ODD = settings(FIXED, max_examples=40)


class Odd(Lab):
    """Sends choices with these messages, and these log-probabilities and token counts."""

    def __init__(self, said: list[Any], logprobs: list[Any], usage: Any, facts: Any = "a") -> None:
        super().__init__()
        self.said, self.logprobs, self.usage, self.facts = said, logprobs, usage, {"id": facts, "model": facts}

    def answer(self, request: Any, engine: ModuleType = httpx) -> Any:
        """Return the response to a request."""
        if not json.loads(request.content)["stream"]:
            choice = {"message": self.said[0], "logprobs": self.logprobs[0], "finish_reason": "stop"}
            content = json.dumps({**self.facts, "choices": [choice], "usage": self.usage}).encode()
            return engine.Response(200, content=content)
        pairs = zip(self.said, self.logprobs, strict=True)
        choices = [{"index": 0, "delta": one, "logprobs": logprobs} for one, logprobs in pairs]
        choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        chunks = [{**self.facts, "choices": [choice], "usage": self.usage} for choice in choices]
        return engine.Response(200, content=events(*chunks, DONE), headers={"content-type": "text/event-stream"})


def ask(*odd: Any) -> list[str]:
    """Ask for the answer in every way; return the texts."""
    model, llm = model_on(Odd(*odd), max_retries=0), llm_on(Odd(*odd), max_retries=0)
    streamed = None
    for part in model.stream("?"):
        streamed = part if streamed is None else streamed + part
    assert streamed is not None
    *_, last = llm.stream_chat([ChatMessage("?")])
    whole = llm.chat([ChatMessage("?")])
    return [model.invoke("?").text, whole.message.content or "", streamed.text, last.message.content or ""]


@ODD
@given(st.lists(LOGPROBS | VALUES, min_size=2, max_size=2), COUNTS | VALUES, VALUES)
def test_odd_statistics_cost_no_answer(logprobs: list[Any], usage: Any, facts: Any) -> None:
    """Counts, log-probabilities, ids and models of any type cost no answer."""
    assert ask([{"content": "a"}, {"content": "b"}], logprobs, usage, facts) == ["a", "a", "ab", "ab"]


@ODD
@given(st.lists(st.fixed_dictionaries({}, optional={"content": VALUES, "tool_calls": VALUES}), min_size=2, max_size=2))
def test_odd_messages_raise_a_tir_error_at_most(said: list[Any]) -> None:
    """Content and tool calls of any type give an answer or a TIRError."""
    with suppress(TIRError):
        ask(said, [None, None], None)


def test_two_finish_reasons_are_not_added_up() -> None:
    """OpenRouter may send the finish reason twice: https://github.com/langchain-ai/langchain/pull/38349."""

    class Twice(Odd):
        def answer(self, request: Any, engine: ModuleType = httpx) -> Any:
            ends = [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop", **more} for more in ({}, {"x": 1})]
            body = events(*({"id": "a", "model": "m", "choices": [end]} for end in ends), DONE)
            return engine.Response(200, content=body, headers={"content-type": "text/event-stream"})

    first, *others = model_on(Twice([], [], None)).stream("?")
    for other in others:
        first += other
    assert first.response_metadata["finish_reason"] == "stop"


@ODD
@given(COUNTS | VALUES, COUNTS | VALUES)
def test_odd_counts_can_be_added(first: Any, second: Any) -> None:
    """The counts of several requests are added whatever their servers report besides."""
    counts = [read_usage(usage) for usage in (first, second)]
    total = add_usage(*counts) or {}
    for name in NAMES[:3]:
        known = [usage[name] for usage in counts if usage and name in usage]
        assert total.get(name) == (sum(known) if known else None)
