"""LlamaIndex's agents with tool calls: `FunctionAgent`, hand-offs in an `AgentWorkflow`, contexts and memories."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from itertools import groupby
from typing import Any

import pytest
from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ThinkingBlock
from llama_index.core.memory import Memory
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

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
    called,
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

pytestmark = [pytest.mark.parsers(True), pytest.mark.cassettes("llama_agents"), *QUIET]


async def get_time(city: str) -> str:
    """Get the current time of a city."""
    return f"12:00 in {city}"


async def check_job(job: str) -> str:
    """Check whether a job is done."""
    return f"Job {job} is running."


class Comparison(BaseModel):
    """Which of two cities is warmer, and by how many degrees."""

    warmer: str
    degrees: int


PROMPT = "You are a weather agent."


def agent_on(server: Server, form: str, *, tool_calling: str = "auto", **settings: Any) -> FunctionAgent:
    """Return an agent with a weather tool."""
    given = {"tools": [get_weather], "system_prompt": PROMPT, **settings}
    llm = TIRQwen(**server.settings, tool_calling=tool_calling)
    return FunctionAgent(llm=llm, streaming=FORMS[form], **given)


SYSTEM = {"role": "system", "content": PROMPT}
OSLO = "What is the weather in Oslo and Rome?"
TWO_CALLS = "I need the weather of two cities, so I make two calls, one for Paris and one for London."
RESULTS = "Both results are here. Paris has 18 °C and sun, London 14 °C and rain."
ANSWER = "In Paris it is 18 °C and sunny; in London it is 14 °C and rainy. Paris is the warmer and drier of the two."


def loop(ids: Sequence[str], thought: dict[str, str]) -> list[dict[str, Any]]:
    """Return the two calls, with the reasoning in these fields, and their results in the wire format."""
    paris, london = ids
    return [
        user(BOTH),
        called(thought, (paris, "get_weather", '{"city":"Paris"}'), (london, "get_weather", '{"city":"London"}')),
        result(paris, WEATHER["Paris"]),
        result(london, WEATHER["London"]),
    ]


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "get_weather(city: 'str') -> 'str'\nGet the current weather of a city.",
        "parameters": {
            "properties": {"city": {"title": "City", "type": "string"}},
            "required": ["city"],
            "type": "object",
        },
    },
}


# A single agent.


@pytest.mark.parametrize("form", FORMS)
async def test_reasoning_calls_results_and_answer_come_in_order(server: Server, form: str) -> None:
    """The caller sees reasoning, calls, results and answer in order; the model gets its reasoning and calls back."""
    output, events = await run(agent_on(server, form, tool_calling="native"), BOTH)

    paris, london = ids_of(server)
    assert seen(events) == without_streams(
        [
            ("stream", server.says(TWO_CALLS), ""),
            ("output", "Agent", None),
            ("call", paris, "get_weather", {"city": "Paris"}),
            ("result", paris, WEATHER["Paris"]),
            ("call", london, "get_weather", {"city": "London"}),
            ("result", london, WEATHER["London"]),
            ("stream", server.says(RESULTS), server.says(ANSWER)),
            ("output", "Agent", server.says(ANSWER)),
        ],
        form,
    )
    assert output.response == ChatMessage(
        role=MessageRole.ASSISTANT,
        blocks=[ThinkingBlock(content=server.says(RESULTS)), TextBlock(text=server.says(ANSWER))],
    )
    assert [(call.tool_id, call.tool_name, call.tool_kwargs) for call in output.tool_calls] == [
        (paris, "get_weather", {"city": "Paris"}),
        (london, "get_weather", {"city": "London"}),
    ]
    offered = {"model": "qwen3_32b", "tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True}
    if FORMS[form]:
        offered |= {"stream": True, "stream_options": {"include_usage": True}}
    else:
        offered |= {"stream": False}
    assert server.bodies == [
        {**offered, "messages": [SYSTEM, user(BOTH)]},
        {**offered, "messages": [SYSTEM, *loop((paris, london), {server.reasoning_field: server.says(TWO_CALLS)})]},
    ]


async def test_streamed_calls(server: Server) -> None:
    """Calls appear in the stream as soon as they are named, and their arguments only grow until complete."""
    _, events = await run(agent_on(server, "stream"), OSLO)

    first_step = events[: next(at for at, event in enumerate(events) if isinstance(event, AgentOutput))]
    shown = [event.tool_calls for event in first_step if isinstance(event, AgentStream) and event.tool_calls]
    oslo, rome = ids_of(server)
    assert [id_ for id_, _ in groupby(tuple(call.tool_id for call in calls) for calls in shown)] == [
        (oslo,),
        (oslo, rome),
    ]
    assert [call.tool_kwargs for call in shown[-1]] == [{"city": "Oslo"}, {"city": "Rome"}]
    cities = [[call.tool_kwargs.get("city", "") for call in calls] for calls in shown]
    assert all(city == whole[: len(city)] for so_far in cities for city, whole in zip(so_far, cities[-1], strict=False))


@pytest.fixture
async def engine() -> AsyncIterator[AsyncEngine]:
    """Return an engine for an empty database."""
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("kind", ["buffer", "database"])
async def test_a_memory_keeps_reasoning_that_is_not_sent_again(server: Server, engine: AsyncEngine, kind: str) -> None:
    """A memory keeps the conversation with its reasoning, which is not sent in the next turn."""
    kept = memory_of() if kind == "buffer" else Memory.from_defaults(token_limit=8000, async_engine=engine)
    agent = agent_on(server, "whole")

    await run(agent, BOTH, memory=kept)
    ids = ids_of(server)
    output, _ = await run(agent, "Thanks!", memory=kept)

    assert output.response.content == server.says(WELCOME)
    assert server.bodies[-1]["messages"] == [SYSTEM, *loop(ids, {}), said(server.says(ANSWER)), user("Thanks!")]
    thoughts = [
        [block.content for block in message.blocks if isinstance(block, ThinkingBlock)]
        for message in await kept.aget_all()
    ]
    assert thoughts[1:5] == [[server.says(TWO_CALLS)], [], [], [server.says(RESULTS)]]
    assert len(thoughts) == 7


async def test_context_on_disk(server: Server) -> None:
    """A context that was saved as JSON and restored continues with the whole conversation and its state."""
    agent = agent_on(server, "whole", initial_state={"units": "°C"})
    context = Context(agent)
    await run(agent, BOTH, ctx=context)
    stored = json.dumps(context.to_dict())
    other = agent_on(server, "whole")
    read = Context.from_dict(other, json.loads(stored))
    output, _ = await run(other, "Which of the two was warmer?", ctx=read)

    assert output.response.content == server.says("Paris was the warmer one.")
    question, *answered = loop(ids_of(server), {})
    assert server.bodies[-1]["messages"] == [
        SYSTEM,
        user(in_state(question["content"])),
        *answered,
        said(server.says(ANSWER)),
        user(in_state("Which of the two was warmer?")),
    ]


def in_state(question: str) -> str:
    """Return a question as core sends it to an agent with a state."""
    return f"Current state:\n{{'units': '°C'}}\n\nCurrent message:\n{question}\n"


# Settings of an agent.


@pytest.mark.parametrize("form", FORMS)
async def test_one_call_at_a_time(server: Server, form: str) -> None:
    """Without parallel calls an agent makes one call per step, even if the server may answer with two."""
    output, events = await run(agent_on(server, form, tool_calling="native", allow_parallel_tool_calls=False), OSLO)

    step = ["stream", "output"] if FORMS[form] else ["output"]
    assert [one[0] for one in seen(events)] == [*step, "call", "result", *step, "call", "result", *step]
    assert [call.tool_kwargs for call in output.tool_calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert output.response.content == server.says("In Oslo it is 3 °C, in Rome 21 °C.")
    assert [body["parallel_tool_calls"] for body in server.bodies] == [False] * 3
    (oslo, *_), (rome,) = ids_of(server, 0), ids_of(server, 1)
    first = {server.reasoning_field: server.says("Two cities, two calls.")}
    second = {server.reasoning_field: server.says("That is Oslo. Rome is still missing.")}
    assert server.bodies[2]["messages"] == [
        SYSTEM,
        user(OSLO),
        called(first, (oslo, "get_weather", '{"city":"Oslo"}')),
        result(oslo, WEATHER["Oslo"]),
        called(second, (rome, "get_weather", '{"city":"Rome"}')),
        result(rome, WEATHER["Rome"]),
    ]


@pytest.mark.parametrize("form", FORMS)
async def test_initial_tool_choice(server: Server, form: str) -> None:
    """The first request names the tool that must be called, and the next leaves the choice to the model."""
    agent = agent_on(server, form, tools=[get_time, get_weather], initial_tool_choice="get_weather")

    output, _ = await run(agent, "What is the weather in Paris?")

    assert output.response.content == server.says("The weather in Paris is currently sunny, at 18 °C.")
    assert [(call.tool_name, call.tool_kwargs) for call in output.tool_calls] == [("get_weather", {"city": "Paris"})]
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert [body["tool_choice"] for body in server.bodies] == [named, "auto"]


async def test_output_cls_returns_the_object(server: Server) -> None:
    """With `output_cls`, the answer is returned as text and then as the object."""
    output, events = await run(agent_on(server, "whole", output_cls=Comparison), OSLO)

    assert output.structured_response == {"warmer": "Rome", "degrees": 18}
    assert output.get_pydantic_model(Comparison) == Comparison(warmer="Rome", degrees=18)
    assert output.response.content == server.says("In Oslo it is 3 °C, in Rome 21 °C.")
    assert seen(events)[-2:] == [
        ("output", "Agent", server.says("In Oslo it is 3 °C, in Rome 21 °C.")),
        ("object", {"warmer": "Rome", "degrees": 18}),
    ]
    asked = [("tools" in body, "response_format" in body) for body in server.bodies]
    assert asked == [(True, False), (True, False), (False, True)]


@pytest.mark.parametrize("form", FORMS)
async def test_an_agent_at_its_step_limit_summarizes(server: Server, form: str) -> None:
    """An agent that reaches its step limit summarizes what it knows, and its memory can be used for the next run."""
    agent = agent_on(server, form, tool_calling="native", tools=[check_job], early_stopping_method="generate")
    memory = memory_of()
    question = "Check job 7 until it is done."

    output, events = await run(agent, question, memory=memory, max_iterations=2)
    after, _ = await run(agent, "Thanks!", memory=memory)

    first, second = ids_of(server, 0), ids_of(server, 1)
    assert seen(events) == without_streams(
        [
            ("stream", server.says("I check job 7."), ""),
            ("output", "Agent", None),
            ("call", *first, "check_job", {"job": "7"}),
            ("result", *first, "Job 7 is running."),
            ("stream", server.says("It is not done yet, so I check again."), ""),
            ("output", "Agent", None),
            ("stream", server.says("I may not use the tool any more."), server.says("Job 7 is still running.")),
            ("output", "Agent", server.says("Job 7 is still running.")),
        ],
        form,
    )
    assert len(second) == 1
    assert output.response.content == server.says("Job 7 is still running.")
    assert ["tools" in body for body in server.bodies] == [True, True, False, True]
    assert [message["role"] for message in server.bodies[2]["messages"]] == ["system", "user", "system"]
    assert after.response.content == server.says(WELCOME)
    assert server.bodies[3]["messages"] == [SYSTEM, user(question), said(output.response.content), user("Thanks!")]


# Failing tools and broken calls.


async def test_tool_that_raises(server: Server) -> None:
    """The model receives the text of a tool's error, and answers."""
    output, events = await run(agent_on(server, "whole"), "What is the weather in Atlantis?")

    assert output.response.content == server.says("I could not find a city of the name Atlantis.")
    (id_,) = ids_of(server)
    failed = [event.tool_output.is_error for event in events if isinstance(event, ToolCallResult)]
    assert (failed, server.bodies[1]["messages"][-1]) == ([True], result(id_, "no such city"))


def noting(calls: list[dict[str, Any]]) -> FunctionTool:
    """Return a weather tool that only records its calls."""

    async def note(**kwargs: Any) -> str:
        calls.append(kwargs)
        return "called"

    return FunctionTool.from_defaults(
        async_fn=note, tool_metadata=FunctionTool.from_defaults(async_fn=get_weather).metadata
    )


BROKEN = "Make a broken tool call."


async def test_broken_call(server: Server) -> None:
    """A call that the server leaves in the text, since it is malformed, is not run; the agent goes on."""
    await assert_goes_on(server, "whole")


async def test_broken_call_in_a_stream(server: Server) -> None:
    """The same goes for a malformed call in a stream, of which vLLM 0.9 loses the arguments."""
    await assert_goes_on(server, "stream")


async def assert_goes_on(server: Server, form: str) -> None:
    """Check that the agent tells the model what is wrong with its call, and goes on."""
    calls: list[dict[str, Any]] = []

    output, events = await run(agent_on(server, form, tools=[noting(calls)]), BROKEN)

    assert calls == []
    assert output.response.content == server.says("I did not name the city.")
    id_ = server.bodies[-1]["messages"][-1]["tool_call_id"]
    (name,) = (event[2] for event in seen(events) if event[0] == "call")
    reason = "its arguments are not valid JSON: EOF while parsing a value at line 1 column "
    assert name.removesuffix("8)").removesuffix("9)") == f"get_weather (not run: {reason}"
    assert [event for event in seen(events) if event[0] in ("call", "result")] == [
        ("call", id_, name, {}),
        ("result", id_, f"Tool {name} not found. Please select a tool that is available."),
    ]


async def test_tool_that_returns_directly(server: Server) -> None:
    """The result of such a tool is the answer, without another request; the next run has both in its history."""
    agent = agent_on(server, "whole", tools=[FunctionTool.from_defaults(async_fn=get_weather, return_direct=True)])
    memory = memory_of()

    output, events = await run(agent, "What is the weather in Paris?", memory=memory)
    (id_,) = ids_of(server)
    await run(agent, "Thanks!", memory=memory)

    assert output.response == ChatMessage(WEATHER["Paris"], role=MessageRole.ASSISTANT)
    assert seen(events)[-2:] == [
        ("call", id_, "get_weather", {"city": "Paris"}),
        ("result", id_, WEATHER["Paris"]),
    ]
    assert server.bodies[1]["messages"] == [
        SYSTEM,
        user("What is the weather in Paris?"),
        called({}, (id_, "get_weather", '{"city":"Paris"}')),
        result(id_, WEATHER["Paris"]),
        said(WEATHER["Paris"]),
        user("Thanks!"),
    ]
    assert len(server.bodies) == 2


# Several agents.


@pytest.mark.parametrize("form", FORMS)
async def test_an_agent_hands_over_a_question(server: Server, form: str) -> None:
    """An agent hands over a question; the other continues the conversation, and its answer is the result."""
    prompt = "You know the weather."
    desk = agent_on(server, form, tool_calling="native", name="desk", description="Talks to guests.", tools=None)
    expert = agent_on(
        server,
        form,
        tool_calling="native",
        name="weather",
        description="Knows the weather.",
        system_prompt=prompt,
        can_handoff_to=[],
    )

    output, events = await run(AgentWorkflow([desk, expert], root_agent="desk"), UMBRELLA)

    (over,), (asked,) = ids_of(server, 0), ids_of(server, 1)
    thought = server.says("I don't know the weather, but an agent does.")
    answer = server.says("Yes, take an umbrella, it rains in London.")
    reason = {"to_agent": "weather", "reason": "The user asks about rain."}
    assert seen(events) == without_streams(
        [
            ("stream", thought, ""),
            ("output", "desk", None),
            ("call", over, "handoff", reason),
            ("result", over, HANDED),
            ("stream", server.says("The desk gave me this. I look the weather up."), ""),
            ("output", "weather", None),
            ("call", asked, "get_weather", {"city": "London"}),
            ("result", asked, WEATHER["London"]),
            ("stream", server.says("London has rain."), answer),
            ("output", "weather", answer),
        ],
        form,
    )
    assert (output.current_agent_name, output.response.content) == ("weather", answer)
    both = {"reasoning_content": thought, "reasoning": thought}  # the expert's LLM has not seen an answer yet
    second = server.bodies[1]
    assert second["messages"] == [
        {"role": "system", "content": prompt},
        user(UMBRELLA),
        called(both, (over, "handoff", json.dumps(reason, separators=(",", ":")))),
        result(over, HANDED),
    ]
    assert [[tool["function"]["name"] for tool in body["tools"]] for body in server.bodies] == [
        ["handoff"],
        ["get_weather"],
        ["get_weather"],
    ]
