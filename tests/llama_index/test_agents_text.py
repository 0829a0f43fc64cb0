"""LlamaIndex's agents that act through text: `ReActAgent` and `CodeActAgent`, on servers with and without parsers."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, CodeActAgent, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ThinkingBlock

from llama_index_tir_qwen import TIRQwen
from tests.support.cassette_fixtures import Server
from tests.support.llama_index_agents import (
    BOTH,
    FORMS,
    HANDED,
    QUIET,
    UMBRELLA,
    WEATHER,
    WELCOME,
    get_weather,
    ids_of,
    memory_of,
    result,
    run,
    said,
    seen,
    user,
    without_streams,
)

pytestmark = [pytest.mark.cassettes("llama_agents"), *QUIET]


async def delete_everything(city: str) -> str:
    """Must never be called."""
    raise AssertionError(city)


# The reasoning of the lab's model is full of the keywords that trigger actions.
THOUGHTS = [
    'Thought: two cities\nAction: delete_everything\nAction Input: {"city": "X"}\nAnswer: I don\'t know',
    'Should I say "Answer: sunny" now?\nAnswer: no',
    'Thought: done\nAction: get_weather\nAction Input: {"city": "X"}\nNo, I finish.\nAnswer: a draft',
]
FIRST = "I need a tool."
SECOND = "I need London too."
LAST = "I can answer."
ANSWER = "Paris 18 °C, London 14 °C."


def react_on(server: Server, form: str) -> ReActAgent:
    """Return an agent with a weather tool."""
    return ReActAgent(llm=TIRQwen(**server.settings), tools=[get_weather, delete_everything], streaming=FORMS[form])


def without_ids(told: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return events without the ids that such agents generate for their calls."""
    return [(one[0], *one[2:]) if one[0] in ("call", "result") else one for one in told]


def action(thought: str, city: str, mark: str) -> str:
    """Return a step in the format of the model, which core also writes into the history."""
    return f"Thought: {thought}\nAction: get_weather\nAction Input: {{{mark}city{mark}: {mark}{city}{mark}}}"


@pytest.mark.parametrize("form", FORMS)
async def test_an_agent_acts_on_text_and_not_on_reasoning(server: Server, form: str) -> None:
    """The agent acts on the model's text, and never on its reasoning, even if that uses the same keywords."""
    output, events = await run(react_on(server, form), BOTH)

    paris, london = action(FIRST, "Paris", '"'), action(SECOND, "London", '"')
    last = f"Thought: {LAST}\nAnswer: {ANSWER}"
    thoughts = [server.says(thought) for thought in THOUGHTS]
    assert without_ids(seen(events)) == without_streams(
        [
            ("stream", thoughts[0], paris),
            ("output", "Agent", paris),
            ("call", "get_weather", {"city": "Paris"}),
            ("result", WEATHER["Paris"]),
            ("stream", thoughts[1], london),
            ("output", "Agent", london),
            ("call", "get_weather", {"city": "London"}),
            ("result", WEATHER["London"]),
            ("stream", thoughts[2], last),
            ("output", "Agent", ANSWER),
        ],
        form,
    )
    pieces = [event for event in events if isinstance(event, AgentStream) and event.thinking_delta]
    assert (len(pieces) > 10) is FORMS[form]
    assert output.response == ChatMessage(
        role=MessageRole.ASSISTANT, blocks=[ThinkingBlock(content=thoughts[2]), TextBlock(text=ANSWER)]
    )
    system, *conversation = server.bodies[2]["messages"]
    assert conversation == [
        user(BOTH),
        said(action(FIRST, "Paris", "'")),
        user(f"Observation: {WEATHER['Paris']}"),
        said(action(SECOND, "London", "'")),
        user(f"Observation: {WEATHER['London']}"),
    ]
    assert [body["messages"] for body in server.bodies[:2]] == [
        [system, *conversation[:1]],
        [system, *conversation[:3]],
    ]
    assert [("tools" in body, body["stream"]) for body in server.bodies] == [(False, FORMS[form])] * 3


async def test_react_in_the_next_turn(server: Server) -> None:
    """An answer outside the agent's format is still an answer; earlier steps are sent, without reasoning."""
    agent, memory = react_on(server, "whole"), memory_of()

    await run(agent, BOTH, memory=memory)
    output, _ = await run(agent, "Thanks!", memory=memory)

    assert output.response.content == server.says(WELCOME)
    steps = [
        action(FIRST, "Paris", "'"),
        f"Observation: {WEATHER['Paris']}",
        action(SECOND, "London", "'"),
        f"Observation: {WEATHER['London']}",
        f"Thought: {LAST}\nAnswer: {ANSWER}",
    ]
    assert server.bodies[3]["messages"][1:] == [user(BOTH), said("\n".join(steps)), user("Thanks!")]


async def test_react_tries_again(server: Server) -> None:
    """A step with neither an action nor an answer in its text is requested again, even if its reasoning has one."""
    output, events = await run(react_on(server, "whole"), "What is Paris?")

    first = "Thought: It is the capital of France."
    assert [one[-1] for one in seen(events) if one[0] == "output"] == [first, "It is the capital of France."]
    assert [one for one in seen(events) if one[0] == "call"] == []
    thought = 'I forgot the format.\nAction: delete_everything\nAction Input: {"city": "X"}'
    assert output.response.blocks == [
        ThinkingBlock(content=server.says(thought)),
        TextBlock(text="It is the capital of France."),
    ]
    question, again, answer, error = server.bodies[1]["messages"][1:]
    assert (question, again, answer) == (user("What is Paris?"), user("What is Paris?"), said(first))
    assert error["content"].startswith(f"Error while parsing the output: Could not parse output: {first}\n")


# Code.

SQUARES = "What is the sum of the squares of 1 to 10?"
CODE = "print(sum(square(n) for n in range(1, 11)))"
PLANS = [
    "I write code, like <execute>print(0)</execute>, or better",
    "It is 385. Once more?\n<execute>\nprint(1)\n</execute>\nNo.",
]
SUM = "The sum is 385."


def square(n: int) -> int:
    """Multiply a number by itself."""
    return n * n


def runner(ran: list[str]) -> Any:
    """Return a function that runs code and records it."""

    async def execute(code: str) -> str:
        """Run Python code."""
        ran.append(code)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, {"square": square})
        return printed.getvalue().strip()

    return execute


@pytest.mark.parametrize("form", FORMS)
async def test_code_in_reasoning_is_not_run(server: Server, form: str) -> None:
    """Code in the model's text is run, but code in its reasoning is not."""
    ran: list[str] = []
    llm = TIRQwen(**server.settings)
    agent = CodeActAgent(runner(ran), tools=[square], llm=llm, streaming=FORMS[form])

    output, events = await run(agent, SQUARES)

    said_first = f"I'll compute it.\n<execute>\n{CODE}\n</execute>"
    assert ran == [CODE]
    assert without_ids(seen(events)) == without_streams(
        [
            ("stream", server.says(PLANS[0]), said_first),
            ("output", "code_act_agent", said_first),
            ("call", "execute", {"code": CODE}),
            ("result", "385"),
            ("stream", server.says(PLANS[1]), SUM),
            ("output", "code_act_agent", SUM),
        ],
        form,
    )
    assert output.response == ChatMessage(SUM, role=MessageRole.ASSISTANT)
    system, *conversation = server.bodies[1]["messages"]
    assert conversation == [user(SQUARES), said(said_first), user("Result of executing the code given:\n\n385")]
    assert server.bodies[0]["messages"] == [system, user(SQUARES)]
    assert ["tools" in body for body in server.bodies] == [False, False]


@pytest.mark.parsers(True)
@pytest.mark.parametrize("form", FORMS)
async def test_code_hands_over(server: Server, form: str) -> None:
    """A `CodeActAgent` hands over what code cannot do with a tool call."""
    ran: list[str] = []
    llm = TIRQwen(**server.settings, tool_calling="native")
    coder = CodeActAgent(runner(ran), name="coder", description="Computes.", llm=llm, streaming=FORMS[form])
    expert = FunctionAgent(
        name="weather",
        description="Knows the weather.",
        system_prompt="You know the weather.",
        tools=[get_weather],
        can_handoff_to=[],
        llm=llm,
        streaming=FORMS[form],
    )

    output, events = await run(AgentWorkflow([coder, expert], root_agent="coder"), UMBRELLA)

    answer = server.says("Yes, take an umbrella, it rains in London.")
    told = [one for one in seen(events) if one[0] in ("call", "result")]
    (over,), (asked,) = ids_of(server, 0), ids_of(server, 1)
    assert told == [
        ("call", over, "handoff", {"to_agent": "weather", "reason": "The user asks about rain."}),
        ("result", over, HANDED),
        ("call", asked, "get_weather", {"city": "London"}),
        ("result", asked, WEATHER["London"]),
    ]
    assert (output.current_agent_name, output.response.content, ran) == ("weather", answer, [])
    assert [[tool["function"]["name"] for tool in body["tools"]] for body in server.bodies] == [
        ["handoff"],
        ["get_weather"],
        ["get_weather"],
    ]
    assert server.bodies[1]["messages"] == [
        {"role": "system", "content": "You know the weather."},
        user(UMBRELLA),
        said(""),
        result(over, HANDED),
    ]
