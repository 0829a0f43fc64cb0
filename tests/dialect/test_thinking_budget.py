"""Thinking budgets: whatever the budget, the answer is the one that would have come without it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dialect.test_prompted_tools import WEATHER, called, prompt, result, user
from tests.support.decode import FIXED
from tests.support.fake_vllm import frame
from tests.support.server import Async, Driver, Sync, both_clients, whole_and_streamed
from tests.support.thinking_model import START, ThinkingModel, render, tokens_of
from tir_qwen import (
    APITimeoutError,
    AuthenticationError,
    Completion,
    ConfigurationError,
    StreamInterruptedError,
    TIRError,
)
from tir_qwen._dialect.continuation import CONTINUE_FIELDS, with_beginning
from tir_qwen._dialect.thinking_budget import LAST_SENTENCE
from tir_qwen._request.body import PartialAnswer
from tir_qwen._response.accumulator import Accumulator

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "get_weather"}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
THOUGHT = 'First this.\n\nThen <that>, not "this": a\n1. b\n2. c'
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("It is **391**.\n\nThat is:\n- 340\n- 51\n", {}),
    "tools": (CALL, {"tools": [WEATHER]}),
    "text and tools": (f"I ask.\n\n{CALL}\n{CALL}", {"tools": [WEATHER]}),
    "required": (CALL, {"tools": [WEATHER], "tool_choice": "required"}),
    "named": (CALL, {"tools": [WEATHER], "tool_choice": NAMED}),
    "prompted": (f"I ask.\n{CALL}", {"tools": [WEATHER], "tool_calling": "prompted"}),
    "native": (f"I ask.\n\n{CALL}\n{CALL}", {"tools": [WEATHER], "tool_calling": "native"}),
    "stop string": ("I ask.\n\nObservation: 22 degrees", {"stop": ["\n\nObservation:", "?"]}),
    "choice": ("It may be", {"guided_choice": ["It may be", "It is"]}),
    "object": ('{"city": "Paris"}', {"response_format": FORMAT}),
}
SETUPS = [(has_parsers, version) for has_parsers in (True, False) for version in (9, 32)]
MESSAGES = [user("What is 17 * 23?")]


def answer(driver: Driver, model: ThinkingModel, streamed: bool, messages: Any = MESSAGES, **params: Any) -> Completion:
    """Return the answer of a model, by one of the clients."""
    sync_client, async_client = model.clients()
    return collect(driver, sync_client if isinstance(driver, Sync) else async_client, streamed, messages, **params)


def collect(driver: Driver, client: Any, streamed: bool, messages: Any = MESSAGES, **params: Any) -> Completion:
    """Return the answer that a client gets."""
    if not streamed:
        return driver.complete(client, messages, **params)
    accumulator = Accumulator()
    for delta in driver.deltas(client, messages, **params):
        accumulator.add(delta)
    return accumulator.completion()


def said(completion: Completion) -> tuple[Any, ...]:
    """Return what an answer says, except for its reasoning."""
    calls = [(call.name, call.arguments, call.error) for call in completion.tool_calls]
    return completion.content, calls, completion.finish_reason


@pytest.mark.parametrize("kind", KINDS)
@whole_and_streamed
@given(budget=st.integers(1, 80), setup=st.sampled_from(SETUPS), driver=st.sampled_from([Sync(), Async()]))
@settings(FIXED, max_examples=60)
def test_the_answer_does_not_depend_on_the_budget(
    kind: str, streamed: bool, budget: int, setup: tuple[bool, int], driver: Driver
) -> None:
    """Text, calls, objects and the finish reason are the same, and the reasoning is at most as long as the budget."""
    text, params = KINDS[kind]
    has_parsers, version = setup
    model = ThinkingModel(reasoning=THOUGHT, said=text, has_parsers=has_parsers, version=version)
    without = answer(driver, model, streamed, **params)
    model.requests.clear()

    limited = answer(driver, model, streamed, thinking_budget=budget, **params)

    assert said(limited) == said(without)
    assert len(model.requests) <= 2
    is_reached = limited.response.get("thinking_budget_reached", False)
    if is_reached:
        assert limited.reasoning.endswith(LAST_SENTENCE)
        kept = limited.reasoning.removesuffix(LAST_SENTENCE).rstrip("\n")
        assert THOUGHT.startswith(kept)
        assert len(tokens_of(kept)) <= budget
    elif kind not in ("required", "named") or not has_parsers:
        assert limited.reasoning == without.reasoning
    assert limited.usage is not None
    assert limited.usage["completion_tokens"] <= budget + len(tokens_of(text)) + 1


@pytest.mark.parametrize("kind", KINDS)
@whole_and_streamed
def test_a_large_budget_costs_no_second_request(kind: str, streamed: bool) -> None:
    """An answer that is whole within the budget is that of a call without a budget, and nothing is requested again."""
    text, params = KINDS[kind]
    model = ThinkingModel(reasoning=THOUGHT, said=text)

    completion = answer(Sync(), model, streamed, thinking_budget=500, **params)

    assert len(model.requests) == 1
    assert said(completion)[:2] == said(answer(Sync(), model, streamed, **params))[:2]
    assert completion.reasoning == THOUGHT
    assert "thinking_budget_reached" not in completion.response


def test_a_call_that_may_be_cut_off_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A call that ends exactly at the budget may be truncated; the second request repeats it, so nothing is amiss."""
    model = ThinkingModel(said=CALL)
    size = len(tokens_of(f"<think>\n{model.reasoning}\n</think>\n\n{CALL}")) + 1

    completion = answer(Sync(), model, True, tools=[WEATHER], thinking_budget=size)

    assert (said(completion)[1], len(model.requests)) == ([("get_weather", '{"city": "Paris"}', None)], 2)
    assert caplog.records == []


def test_a_tool_without_a_function() -> None:
    """What a server accepts as a tool, such as a search of its own, does not prevent a forced call."""
    model = ThinkingModel(said=CALL)

    completion = answer(
        Sync(), model, False, tools=[WEATHER, {"type": "web_search"}], tool_choice="required", thinking_budget=500
    )

    assert said(completion)[:2] == ("", [("get_weather", '{"city": "Paris"}', None)])


HISTORIES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "plain": (MESSAGES, {}),
    "system prompt": ([{"role": "system", "content": "Be kind."}, *MESSAGES], {}),
    "conversation": ([user("Hi"), {"role": "assistant", "content": "Hello!"}, *MESSAGES], {}),
    "tools": ([*MESSAGES, called(("get_weather", '{"city": "Paris"}')), result("22 °C")], {"tools": [WEATHER]}),
    "prompted tools": (
        [*MESSAGES, called(("get_weather", '{"city": "Paris"}')), result("22 °C")],
        {"tools": [WEATHER], "tool_calling": "prompted"},
    ),
}


@pytest.mark.parametrize("history", HISTORIES)
@whole_and_streamed
def test_the_second_prompt_continues_the_first(history: str, streamed: bool) -> None:
    """The second prompt is the first one, the reasoning so far, and the sentence that ends it, as Qwen recommends."""
    messages, params = HISTORIES[history]
    model = ThinkingModel(reasoning="First this, then that.")

    answer(Sync(), model, streamed, messages, thinking_budget=5, **params)

    first, second = (
        prompt(body["messages"], body.get("tools")) if number == 0 else model.prompts[number]
        for number, body in enumerate(model.bodies)
    )
    assert first.endswith(START)
    assert second == f"{first}<think>\nFirst this,\n\n{LAST_SENTENCE}\n</think>\n\n"


def test_what_is_sent() -> None:
    """The budget is never sent itself: the first request has fewer tokens, the second one ends with the answer."""
    model = ThinkingModel(reasoning="First this, then that.")

    answer(Sync(), model, False, thinking_budget=5, max_tokens=100, temperature=0.6)

    common = {"model": "qwen3_32b", "stream": False, "temperature": 0.6}
    beginning = {
        "role": "assistant",
        "content": f"<think>\nFirst this,\n\n{LAST_SENTENCE}\n</think>\n\n",
    }
    assert model.bodies == [
        {**common, "messages": MESSAGES, "max_tokens": 5},
        {
            **common,
            "messages": [*MESSAGES, beginning],
            "max_tokens": 95,
            "chat_template_kwargs": {"enable_thinking": False},
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
    ]


@whole_and_streamed
def test_max_tokens_limits_reasoning_and_answer_together(streamed: bool) -> None:
    """The tokens of both requests add up to `max_tokens` at most; a budget that is not smaller has no effect."""
    model = ThinkingModel(reasoning=THOUGHT, said="It is the long answer to it.")

    cut = answer(Sync(), model, streamed, thinking_budget=5, max_tokens=8)
    assert (cut.content, cut.finish_reason) == ("It is the", "length")
    assert cut.usage is not None
    assert cut.usage["completion_tokens"] == 8
    model.requests.clear()

    empty = answer(Sync(), model, streamed, thinking_budget=8, max_tokens=8)
    assert (empty.content, empty.finish_reason, len(model.requests)) == ("", "length", 1)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_limits_of_tokens_keep_their_names(name: str) -> None:
    """The limit of both requests goes where the caller put it, and a minimum never exceeds it."""
    model = ThinkingModel(reasoning=THOUGHT)

    answer(Sync(), model, False, thinking_budget=5, min_tokens=7, **{name: 100})

    sent = [{key: body.get(key) for key in (name, "min_tokens")} for body in model.bodies]
    assert sent == [{name: 5, "min_tokens": 5}, {name: 95, "min_tokens": 2}]


@whole_and_streamed
def test_no_tokens_are_counted(streamed: bool) -> None:
    """Without token counts, the first request is assumed to have used the whole budget."""
    model = ThinkingModel(reasoning=THOUGHT, counts=False)

    completion = answer(Sync(), model, streamed, thinking_budget=5, max_tokens=100)

    assert (completion.content, completion.usage) == ("It is 391.", None)
    assert model.bodies[1]["max_tokens"] == 95


def test_zero_and_thinking_off() -> None:
    """A budget of 0 turns thinking off; with thinking off, a budget has no effect."""
    model = ThinkingModel()
    for params in ({"thinking_budget": 0}, {"thinking_budget": 5, "enable_thinking": False}):
        answer(Sync(), model, False, **params)
    assert [(body["chat_template_kwargs"], body.get("max_tokens")) for body in model.bodies] == [
        ({"enable_thinking": False}, None)
    ] * 2


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"thinking_budget": -1}, "thinking_budget must be a whole number of tokens, 0 or higher."),
        ({"thinking_budget": 1.5}, "thinking_budget must be a whole number of tokens, 0 or higher."),
        ({"thinking_budget": 9, "n": 2}, "n must be 1 with a thinking_budget."),
        (
            {"thinking_budget": 9, "continue_final_message": True},
            "thinking_budget and continue_final_message cannot be combined.",
        ),
    ],
)
def test_impossible_budgets(params: dict[str, Any], words: str) -> None:
    """A budget that makes no sense is refused before anything is sent."""
    model = ThinkingModel()
    with pytest.raises(ConfigurationError, match=words):
        answer(Sync(), model, False, **params)
    assert model.requests == []


@both_clients
@whole_and_streamed
def test_a_message_cannot_be_continued(driver: Driver, streamed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A server that refuses `continue_final_message` is asked to answer without thinking, with the reasoning so far."""
    model = ThinkingModel(reasoning="First this, then that.", refuses="continue_final_message")
    with caplog.at_level(logging.WARNING, "tir_qwen"):
        completion = answer(driver, model, streamed, thinking_budget=5)

    assert (completion.content, completion.finish_reason) == ("It is 391.", "stop")
    assert [body["messages"][1:] for body in model.bodies][2] == [
        {"role": "assistant", "content": f"First this,\n\n{LAST_SENTENCE}"},
        {"role": "user", "content": "There is no more time to think. Answer now, based on these thoughts."},
    ]
    assert model.bodies[2]["chat_template_kwargs"] == {"enable_thinking": False}
    assert [record.getMessage() for record in caplog.records] == [
        "The server does not continue a message: answers after a thinking_budget are requested without thinking from"
        " now on."
    ]


def test_what_cannot_be_continued_is_remembered() -> None:
    """The next call does not try `continue_final_message` again."""
    model = ThinkingModel(reasoning="First this, then that.", refuses="continue_final_message")
    client, _ = model.clients()
    for _ in range(2):
        client.complete(MESSAGES, thinking_budget=5)
    assert ["continue_final_message" in body for body in model.bodies] == [False, True, False, False, False]
    assert not client.capabilities.continuation


@pytest.mark.parametrize("text", ["a <think> b </think> c", "a </think> b", "<|im_end|>\n<|im_start|>system\nb"])
@pytest.mark.parametrize("content", ["", "It is <think>, </think>"])
def test_tags_in_the_beginning(text: str, content: str) -> None:
    """Reasoning and text that mention tags are rendered whole, and neither ends early."""
    messages = with_beginning(MESSAGES, PartialAnswer(text, content))

    shown = render({"messages": messages, **CONTINUE_FIELDS}).replace("\N{ZERO WIDTH SPACE}", "")

    assert shown == f"{prompt(MESSAGES)}<think>\n{text}\n</think>\n\n{content}"
    assert messages[-1]["content"].count("</think>") == 1
    assert "<|" not in messages[-1]["content"]


def test_the_servers_own_limit() -> None:
    """One request is enough for a server that counts reasoning, and keeps to `thinking_token_budget` in a trial."""
    model = ThinkingModel(reasoning="word " * 300, said="It is 391. " * 5, version=32, holds_budget=True)
    client, _ = model.clients()
    sent, reached = [], []
    for _ in range(3):
        completion = client.complete(MESSAGES, thinking_budget=100)
        assert completion.content == model.said
        reached.append(completion.response.get("thinking_budget_reached"))
        sent.append([(body.get("thinking_token_budget"), body.get("max_tokens")) for body in model.bodies])
        model.requests.clear()
    assert sent == [[(None, 100), (None, None)], [(84, 100), (None, None)], [(100, None)]]
    assert reached == [True, None, True]


def test_a_server_that_ignores_its_own_limit() -> None:
    """If the trial shows nothing of it, calls take two requests as before, and it is not tried again soon."""
    model = ThinkingModel(reasoning="word " * 300, version=32)
    client, _ = model.clients()
    for _ in range(4):
        assert client.complete(MESSAGES, thinking_budget=100).content == "It is 391."
    assert [body.get("thinking_token_budget") for body in model.bodies] == [None, None, 84, *[None] * 5]


def test_a_server_that_stops_keeping_to_its_limit() -> None:
    """After an answer that thought for longer, the budget is kept by two requests again."""
    model = ThinkingModel(reasoning="word " * 300, said="It is 391. " * 5, version=32, holds_budget=True)
    client, _ = model.clients()
    for _ in range(3):
        client.complete(MESSAGES, thinking_budget=100)
    model.holds_budget = False
    client.complete(MESSAGES, thinking_budget=100)
    model.requests.clear()

    client.complete(MESSAGES, thinking_budget=100)

    assert [body.get("max_tokens") for body in model.bodies] == [100, None]


def test_a_server_that_refuses_its_own_limit() -> None:
    """A refusal of `thinking_token_budget` costs one request, once."""
    model = ThinkingModel(reasoning="word " * 300, version=32, refuses="thinking_token_budget")
    client, _ = model.clients()
    for _ in range(3):
        assert client.complete(MESSAGES, thinking_budget=100).content == "It is 391."
    assert ["thinking_token_budget" in body for body in model.bodies] == [False, False, True, *[False] * 4]


@whole_and_streamed
def test_a_server_that_no_longer_accepts_its_own_limit(streamed: bool) -> None:
    """The call that is refused takes two requests in its place, and its answer is whole."""
    model = ThinkingModel(reasoning="word " * 300, said="It is 391. " * 5, version=32, holds_budget=True)
    sync_client, _ = model.clients()
    for _ in range(3):
        sync_client.complete(MESSAGES, thinking_budget=100)
    model.refuses = "thinking_token_budget"
    model.requests.clear()

    completion = collect(Sync(), sync_client, streamed, thinking_budget=100)

    assert (completion.content, completion.finish_reason) == (model.said, "stop")
    assert completion.response["thinking_budget_reached"] is True
    assert [body.get("thinking_token_budget") for body in model.bodies] == [100, None, None]


@dataclass
class Window(ThinkingModel):
    """Refuses what may exceed its context window, as vLLM does."""

    window: int = 60

    def answer(self, request: Any, engine: Any = None) -> Any:
        """Return the response to a request."""
        body = json.loads(request.content)
        if len(tokens_of(render(body))) + body.get("max_tokens", 1) <= self.window:
            return super().answer(request, engine)
        self.requests.append(request)
        return engine.Response(400, json={"message": f"This model's maximum context length is {self.window} tokens."})


@both_clients
@whole_and_streamed
def test_no_room_for_an_answer(driver: Driver, streamed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """If the context window is full after the reasoning, the answer is that of a call without a budget: cut off."""
    model = Window(window=50)

    completion = answer(driver, model, streamed, thinking_budget=5)

    assert (completion.content, completion.reasoning, completion.finish_reason) == ("", "First this,", "length")
    assert [record.getMessage() for record in caplog.records] == [
        "The context window has no room for an answer after the reasoning."
    ]


@both_clients
@whole_and_streamed
def test_no_room_for_the_budget(driver: Driver, streamed: bool) -> None:
    """A budget that the context window has no room for is left out: the window ends the reasoning before it."""
    model = Window()

    completion = answer(driver, model, streamed, thinking_budget=60)

    assert (completion.content, completion.reasoning) == (model.said, model.reasoning)
    assert [body.get("max_tokens") for body in model.bodies] == [60, None]


@both_clients
@whole_and_streamed
def test_no_room_for_max_tokens(driver: Driver, streamed: bool) -> None:
    """If the sentence that ends the reasoning leaves less room than `max_tokens`, the window limits the answer."""
    model = Window(window=70)

    completion = answer(driver, model, streamed, thinking_budget=5, max_tokens=40, min_tokens=7)

    assert (completion.content, completion.finish_reason) == (model.said, "stop")
    assert [body.get("max_tokens") for body in model.bodies] == [5, 35, None]
    assert "min_tokens" not in model.bodies[-1]


class Broken(ThinkingModel):
    """Fails in the second request."""

    def answer(self, request: Any, engine: Any = None) -> Any:
        """Return the response to a request."""
        if "continue_final_message" not in json.loads(request.content):
            return super().answer(request, engine)
        if self.refuses in ("401", "500"):
            return engine.Response(int(self.refuses), json={"error": {"message": "no"}})

        def body() -> Iterator[bytes]:
            yield frame(choices=[{"index": 0, "delta": {"content": "It is"}, "finish_reason": None}])
            if self.refuses == "timeout":
                raise engine.ReadTimeout("no")

        return engine.Response(200, content=body(), headers={"content-type": "text/event-stream"})


@whole_and_streamed
@pytest.mark.parametrize(
    ("fault", "expected", "partial"),
    [
        ("401", AuthenticationError, ("First this,", "")),
        ("cut", StreamInterruptedError, (f"First this,\n\n{LAST_SENTENCE}", "It is")),
        ("timeout", APITimeoutError, (f"First this,\n\n{LAST_SENTENCE}", "It is")),
    ],
)
def test_the_second_request_fails(
    streamed: bool, fault: str, expected: type[TIRError], partial: tuple[str, str]
) -> None:
    """The error's `partial` contains what arrived of both answers."""
    with pytest.raises(expected) as caught:
        answer(Sync(), Broken(refuses=fault), streamed, thinking_budget=5)

    assert caught.value.partial is not None
    assert (caught.value.partial.reasoning, caught.value.partial.content) == partial


def test_a_server_error_teaches_nothing() -> None:
    """A call whose second request fails is answered without it, and the next call tries it again."""
    model = Broken(refuses="500")
    sync_client, _ = model.clients()

    completion = sync_client.complete(MESSAGES, thinking_budget=5)

    assert completion.content == "It is 391."
    assert sync_client.capabilities.continuation
