"""Thinking budgets on real servers: reasoning ends at the budget, and the answer is that of a call without one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.cassette_fixtures import Server
from tests.support.entry_points import SYNC, Way
from tir_qwen import Client, Completion
from tir_qwen._dialect.thinking_budget import LAST_SENTENCE
from tir_qwen._response.accumulator import Accumulator

VARIANTS = ("", "-no-parsers", "-no-reasoning-parser", "-no-tool-parser")
pytestmark = [
    pytest.mark.every_setup,
    pytest.mark.sets(*(f"{version}{variant}" for version in ("old", "new") for variant in VARIANTS)),
    pytest.mark.cassettes("budgets"),
]

PRODUCT = [("user", "What is 17 * 23?")]
ANSWER = "17 \N{MULTIPLICATION SIGN} 23 = **391**"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
WEATHER = "What is the weather in Paris?"
CALL = [("get_weather", '{"city": "Paris"}')]
FORCED: dict[str, Any] = {
    "auto": "auto",
    "required": "required",
    "named": {"type": "function", "function": {"name": "get_weather"}},
}
whole_and_streamed = pytest.mark.parametrize("form", ["whole", "stream"])


def ask(server: Server, form: str, question: str, **params: Any) -> Completion:
    """Return the answer to a question, whole or streamed."""
    messages = [{"role": "user", "content": question}]
    with Client(**server.settings) as client:
        if form == "whole":
            return client.complete(messages, **params)
        accumulator = Accumulator()
        for delta in client.stream(messages, **params):
            accumulator.add(delta)
        return accumulator.completion()


@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_the_answer_follows_the_budget(server: Server, way: Way) -> None:
    """Both integrations return the reasoning up to the budget, the sentence that ends it, and the whole answer."""
    answer = await way({**server.settings, "thinking_budget": 6}, PRODUCT)

    thought = f"I need to multiply\n\n{LAST_SENTENCE}"
    assert (answer.content, answer.reasoning, answer.finish_reason) == (ANSWER, thought, "stop")
    assert answer.usage is not None
    assert answer.usage[1] == 6 + server.facts["usage"]["completion_tokens"]
    first, second = server.bodies
    assert first["max_tokens"] == 6
    assert second["messages"][-1]["content"] == f"<think>\n{thought}\n</think>\n\n"


@whole_and_streamed
@pytest.mark.parametrize("choice", FORCED)
def test_calls_of_tools(server: Server, choice: str, form: str) -> None:
    """Calls come whole after the budget, free and forced, parsed by the server and from the text."""
    params = {"tools": [TOOL], "tool_choice": FORCED[choice]}

    completion = ask(server, form, WEATHER, thinking_budget=6, **params)

    assert [(call.name, call.arguments, call.error) for call in completion.tool_calls] == [(*CALL[0], None)]
    assert (completion.content, completion.reasoning) == ("", f"Okay,\n\n{LAST_SENTENCE}")


@whole_and_streamed
def test_objects(server: Server, form: str) -> None:
    """An object is enforced by the server after the budget, just as without one."""
    question = "Alice is 30 years old."

    completion = ask(server, form, question, thinking_budget=6, response_format=FORMAT)

    assert completion.content == '{"name": "Alice", "age": 30}'
    thinks = "no-parsers" not in server.name and "no-reasoning" not in server.name
    assert completion.reasoning == (f"The name is Alice\n\n{LAST_SENTENCE}" if thinks else "")


@whole_and_streamed
def test_a_budget_that_is_not_reached(server: Server, form: str) -> None:
    """One request is enough, and its answer is that of a call without a budget."""
    completion = ask(server, form, PRODUCT[0][1], thinking_budget=3000)

    thought = "I need to multiply 17 by 23.\n17 * 20 = 340\n17 * 3 = 51\n340 + 51 = 391"
    assert (completion.content, completion.reasoning) == (ANSWER, thought)
    assert [body["max_tokens"] for body in server.bodies] == [3000]
