"""Agents and graphs: `create_agent`, middleware, LangGraph, and tools combined with structured output."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware, SummarizationMiddleware
from langchain.agents.middleware._retry import default_retry_on, should_retry_exception
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import RetryPolicy
from pydantic import BaseModel

from langchain_tir_qwen import ChatTIRQwen, errors
from langchain_tir_qwen._error_conversion import LANGCHAIN_CLASSES
from tests.support.cassette_fixtures import Server
from tests.support.scripted_transport import BODY_OF_OVERFLOW, Reply, Scripted, model_on
from tir_qwen import BadRequestError, TIRError

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")


def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return {"Paris": "18 °C, sunny", "London": "14 °C, rainy"}[city]


class Comparison(BaseModel):
    """Which of two cities is warmer, and by how many degrees."""

    warmer: str
    degrees: int


COMPARE = "Compare the weather in Paris and London."
START_OF = {"messages": [HumanMessage(COMPARE)]}
FOUND = Comparison(warmer="Paris", degrees=4)
WEATHER = ["18 °C, sunny", "14 °C, rainy"]
BOTH = "I need the weather of both cities, so I make two calls."
KNOWN_NOW = "Paris has 18 °C and London 14 °C, so Paris is warmer by 4."
STRATEGIES: dict[str, Any] = {
    "automatic": Comparison,
    "provider": ProviderStrategy(Comparison),
    "tool": ToolStrategy(Comparison),
}


def thought_of(message: AnyMessage) -> str:
    """Return the reasoning of a message."""
    return message.additional_kwargs.get("reasoning_content", "")


def loop_of(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Summarize an agent's loop as sent in a request: role, reasoning by its field, and requested cities."""
    told = []
    for message in messages:
        calls = [json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", ())]
        thought = {name: text for name, text in message.items() if "reasoning" in name}
        told.append((message["role"], thought, calls))
    return told


def loop_with(reasoning_field: str) -> list[tuple[Any, ...]]:
    """Return that summary for a server that reads the reasoning in this field."""
    return [
        ("user", {}, []),
        ("assistant", {reasoning_field: BOTH}, [{"city": "Paris"}, {"city": "London"}]),
        ("tool", {}, []),
        ("tool", {}, []),
    ]


@pytest.mark.parsers(True)
@pytest.mark.cassettes("agents")
@pytest.mark.parametrize("strategy", ["automatic", "provider"])
def test_an_agent_calls_tools_in_parallel_and_returns_an_object(server: Server, strategy: str) -> None:
    """An agent makes two parallel calls, reasons about the results and returns the user's object."""
    agent = create_agent(ChatTIRQwen(**server.settings), [get_weather], response_format=STRATEGIES[strategy])

    state = agent.invoke(START_OF)

    assert state["structured_response"] == FOUND
    _, asked, *results, last = state["messages"]
    assert (thought_of(asked), [call["args"]["city"] for call in asked.tool_calls]) == (BOTH, ["Paris", "London"])
    assert [result.content for result in results] == WEATHER
    assert (json.loads(last.content), thought_of(last)) == (FOUND.model_dump(), KNOWN_NOW)
    assert loop_of(server.bodies[1]["messages"][1:]) == loop_with(server.reasoning_field)
    assert [("response_format" in body, "tools" in body) for body in server.bodies] == [
        (False, True),
        (False, True),
        (True, False),
    ]


@pytest.mark.parsers(True)
@pytest.mark.sets("new")  # when a tool call is required, the old lab server only ever calls the first tool
@pytest.mark.cassettes("agents")
@pytest.mark.parametrize("form", ["whole", "stream"])
def test_agent_with_a_tool_for_the_object(server: Server, form: str) -> None:
    """With `ToolStrategy` a tool call is required, and the object is taken from the arguments of the last call."""
    model = ChatTIRQwen(**server.settings, streaming=form == "stream")
    agent = create_agent(model, [get_weather], response_format=STRATEGIES["tool"])

    state = agent.invoke(START_OF)

    assert state["structured_response"] == FOUND
    _, asked, *results, last, _ = state["messages"]
    assert [call["args"]["city"] for call in asked.tool_calls] == ["Paris", "London"]
    assert [result.content for result in results] == WEATHER
    assert [(call["name"], call["args"]) for call in last.tool_calls] == [("Comparison", FOUND.model_dump())]
    assert [body["tool_choice"] for body in server.bodies] == ["required", "required"]
    assert [message["role"] for message in server.bodies[1]["messages"]] == ["user", "assistant", "tool", "tool"]
    assert server.bodies[1]["messages"][1].get("reasoning", "") == thought_of(asked)


TWO_CALLS = (("get_weather", '{"city": "Paris"}'), ("get_weather", '{"city": "London"}'))
BY_TOOL = (
    Reply("", TWO_CALLS, BOTH, "stop"),
    Reply("", (("Comparison", FOUND.model_dump_json()),), KNOWN_NOW, "stop"),
)


@pytest.mark.parametrize("streaming", [False, True])
def test_finish_reason_does_not_end_the_loop(streaming: bool) -> None:
    """Tools run whenever there are tool calls, even though old servers report `stop` for a required call."""
    lab = Scripted(*BY_TOOL)
    agent = create_agent(model_on(lab, streaming=streaming), [get_weather], response_format=STRATEGIES["tool"])

    assert agent.invoke(START_OF)["structured_response"] == FOUND
    assert loop_of(lab.bodies[1]["messages"]) == loop_with("reasoning_content")


async def _sync_items(agent: Any) -> list[Any]:
    return [*agent.stream(START_OF, stream_mode=["messages", "updates"])]


async def _async_items(agent: Any) -> list[Any]:
    return [item async for item in agent.astream(START_OF, stream_mode=["messages", "updates"])]


ITEMS = {"stream": _sync_items, "astream": _async_items}


def shown_by(came: list[Any]) -> tuple[list[AIMessage], list[Any]]:
    """Return the answers that the streamed chunks add up to, and the tool results."""
    answers: list[Any] = []
    results = []
    for message in (item[0] for mode, item in came if mode == "messages"):
        if not isinstance(message, AIMessageChunk):
            results.append(message.content)
        elif answers and answers[-1].id == message.id:
            answers[-1] += message
        else:
            answers.append(message)
    return answers, results


@pytest.mark.parsers(True)
@pytest.mark.cassettes("agents")
@pytest.mark.parametrize("way", ITEMS)
async def test_streamed_agent(server: Server, way: str) -> None:
    """Reasoning, calls, results and the object are streamed as they arrive; the draft answer is not shown."""
    agent = create_agent(ChatTIRQwen(**server.settings), [get_weather], response_format=Comparison)

    came = await ITEMS[way](agent)

    (asked, last), results = shown_by(came)
    assert (thought_of(asked), thought_of(last)) == (BOTH, KNOWN_NOW)
    assert [call["args"] for call in asked.tool_calls] == [{"city": "Paris"}, {"city": "London"}]
    assert sorted(results) == sorted(WEATHER)
    assert (json.loads(last.content), last.response_metadata["finish_reason"]) == (FOUND.model_dump(), "stop")
    thoughts = [thought_of(item[0]) for mode, item in came if mode == "messages"]
    assert len([thought for thought in thoughts if thought]) > 10
    updates = [update for mode, item in came if mode == "updates" for update in item.items()]
    assert [name for name, _ in updates] == ["model", "tools", "tools", "model"]
    assert updates[-1][1]["structured_response"] == FOUND


@pytest.mark.parametrize("way", ITEMS)
async def test_streamed_agent_with_a_tool_for_the_object(way: str) -> None:
    """The same holds when the object is taken from the arguments of a tool call."""
    agent = create_agent(model_on(Scripted(*BY_TOOL)), [get_weather], response_format=STRATEGIES["tool"])

    came = await ITEMS[way](agent)

    (asked, last), results = shown_by(came)
    assert (thought_of(asked), thought_of(last)) == (BOTH, KNOWN_NOW)
    assert [call["args"] for call in (*asked.tool_calls, *last.tool_calls)] == [
        {"city": "Paris"},
        {"city": "London"},
        FOUND.model_dump(),
    ]
    assert sorted(results[:2]) == sorted(WEATHER)
    assert [item for mode, item in came if mode == "updates"][-1]["model"]["structured_response"] == FOUND


BOTH_CITIES = "What is the weather in Paris and London?"


def graph_of(model: ChatTIRQwen, saver: InMemorySaver) -> Any:
    """Build a graph that is interrupted before it runs tools."""
    bound = model.bind_tools([get_weather])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([get_weather]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=saver, interrupt_before=["tools"])


@pytest.mark.parsers(True)
@pytest.mark.cassettes("agents")
@pytest.mark.parametrize("form", ["whole", "stream"])
def test_graph_resumes(server: Server, form: str) -> None:
    """An interrupted graph resumes in a new instance: its messages, including reasoning, come from the checkpoint."""
    model, saver = ChatTIRQwen(**server.settings, streaming=form == "stream"), InMemorySaver()
    config = {"configurable": {"thread_id": "1"}}

    graph_of(model, saver).invoke({"messages": [HumanMessage(BOTH_CITIES)]}, config)
    stopped = graph_of(model, saver).get_state(config)
    state = graph_of(ChatTIRQwen(**server.settings, streaming=form == "stream"), saver).invoke(None, config)

    assert stopped.next == ("tools",)
    thought = server.says("I need the weather of two cities, so I make two calls, one for Paris and one for London.")
    asked = stopped.values["messages"][-1]
    assert (type(asked), thought_of(asked)) == (AIMessage, thought)
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "tool", "ai"]
    assert state["messages"][1] == asked
    assert state["messages"][-1].content.startswith("In Paris it is 18 °C and sunny")
    assert [message.get("reasoning") for message in server.bodies[1]["messages"]] == [None, thought, None, None]


@pytest.mark.parsers(True)
@pytest.mark.cassettes("agents")
def test_reasoning_of_an_earlier_turn_is_not_sent_again(server: Server) -> None:
    """Reasoning from an earlier turn of the conversation is not sent again."""
    agent = create_agent(ChatTIRQwen(**server.settings), [get_weather], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}

    agent.invoke({"messages": [HumanMessage(BOTH_CITIES)]}, config)
    state = agent.invoke({"messages": [HumanMessage("Thanks!")]}, config)

    assert state["messages"][-1].content == server.says(
        "You're welcome! Let me know if there is anything else you need."
    )
    assert [message["role"] for message in server.bodies[-1]["messages"]] == [
        *("user", "assistant", "tool", "tool", "assistant"),
        "user",
    ]
    assert not any("reasoning" in message for message in server.bodies[-1]["messages"])


# Tools and structured output in one call.

FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "Comparison", "schema": Comparison.model_json_schema()},
}
OBJECT = '{"warmer": "Paris", "degrees": 4}'


async def _invoke(model: Any) -> tuple[AIMessage, list[str]]:
    message = model.invoke(COMPARE)
    return message, [message.text]


async def _ainvoke(model: Any) -> tuple[AIMessage, list[str]]:
    message = await model.ainvoke(COMPARE)
    return message, [message.text]


async def _stream(model: Any) -> tuple[AIMessage, list[str]]:
    chunks = [*model.stream(COMPARE)]
    return reduce(add, chunks), [chunk.text for chunk in chunks]


async def _astream(model: Any) -> tuple[AIMessage, list[str]]:
    chunks = [chunk async for chunk in model.astream(COMPARE)]
    return reduce(add, chunks), [chunk.text for chunk in chunks]


WAYS = {"invoke": _invoke, "ainvoke": _ainvoke, "stream": _stream, "astream": _astream}


def usage(requests: int) -> dict[str, int]:
    """Return the expected token usage of a number of requests."""
    return {"input_tokens": 11 * requests, "output_tokens": 5 * requests, "total_tokens": 16 * requests}


@pytest.mark.parametrize("way", WAYS)
async def test_a_text_answer_is_turned_into_the_object(way: str) -> None:
    """A second request turns a text answer into the object: one answer, one id, usage of both, no draft."""
    lab = Scripted(Reply("Paris, by 4 °C.", reasoning="Hm."), Reply(OBJECT, reasoning="", cut=7))
    model = model_on(lab).bind_tools([get_weather], response_format=FORMAT)

    message, pieces = await WAYS[way](model)

    assert message.content == OBJECT
    assert [piece for piece in pieces if piece] == (
        [OBJECT] if "invoke" in way else [OBJECT[at : at + 7] for at in range(0, len(OBJECT), 7)]
    )
    assert thought_of(message) == "Hm."
    assert message.usage_metadata == usage(2)
    facts = message.response_metadata
    assert (facts["id"], facts["model_name"], facts["finish_reason"]) == ("chatcmpl-1", "qwen3_32b", "stop")
    first, second = lab.bodies
    assert ("tools" in first, "response_format" in first) == (True, False)
    assert ("tools" in second, second["response_format"]) == (False, FORMAT)
    assert second["chat_template_kwargs"] == {"enable_thinking": False}
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][2] == {"role": "assistant", "content": "Paris, by 4 °C."}


ONE_STEP: dict[str, tuple[Reply, str, list[str]]] = {
    "calls": (Reply("", (("get_weather", '{"city": "Paris"}'),), finish_reason="tool_calls"), "", ["get_weather"]),
    "object": (Reply(OBJECT), OBJECT, []),
    "object in a fence": (Reply(f"Here:\n```json\n{OBJECT}\n```"), OBJECT, []),
    "cut": (Reply("Paris is", finish_reason="length"), "Paris is", []),
    "text and calls": (
        Reply("Let me look.", (("get_weather", '{"city": "Paris"}'),), finish_reason="tool_calls"),
        "Let me look.",
        ["get_weather"],
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", ONE_STEP)
async def test_no_second_request_is_made_if_none_is_needed(case: str, way: str) -> None:
    """Tool calls, an answer that already is the object, and a truncated answer need no second request."""
    reply, content, called = ONE_STEP[case]
    lab = Scripted(reply)

    message, pieces = await WAYS[way](model_on(lab).bind_tools([get_weather], response_format=FORMAT))

    assert (message.content, "".join(pieces)) == (content, content)
    assert [call["name"] for call in message.tool_calls] == called
    assert message.usage_metadata == usage(1)
    assert message.response_metadata["finish_reason"] == reply.finish_reason
    assert (len(lab.bodies), thought_of(message)) == (1, "Hm.")


@pytest.mark.parametrize("choice", ["any", "get_weather", "none"])
def test_a_fixed_tool_choice_needs_a_single_request(choice: str) -> None:
    """If the model cannot choose between a tool and the object, a single request is made."""
    lab = Scripted(Reply(OBJECT))
    model_on(lab).bind_tools([get_weather], tool_choice=choice, response_format=FORMAT).invoke(COMPARE)

    assert lab.bodies[0]["response_format"] == FORMAT
    assert len(lab.bodies[0]["tools"]) == 1


# Middleware and errors.


def test_summary_of_too_much() -> None:
    """If the conversation to summarize overflows the context, the summary is requested again for a shorter part."""
    lab = Scripted(Reply(status=400, error=BODY_OF_OVERFLOW), Reply("They met."), Reply("Good day!"))
    model = model_on(lab)
    middleware = SummarizationMiddleware(model, trigger=("messages", 3), keep=("messages", 1))
    agent = create_agent(model, middleware=[middleware])
    history = [HumanMessage("word " * 2000), AIMessage("word " * 1000), HumanMessage("Hello")]

    state = agent.invoke({"messages": history})

    assert [message.content for message in state["messages"][1:]] == ["Hello", "Good day!"]
    assert state["messages"][0].content.endswith("They met.")
    long, short, last = (len(json.dumps(body["messages"])) for body in lab.bodies)
    assert long > short > last


REFUSALS: dict[int, tuple[Any, int]] = {
    400: ({"error": {"message": "no"}}, 1),
    401: ({"error": "Unauthorized"}, 1),
    403: ({"error": {"message": "no"}}, 1),
    404: ({"error": {"message": "no"}}, 1),
    408: ({"error": {"message": "no"}}, 2),
    413: ({"error": {"message": "no"}}, 1),
    429: ({"error": {"message": "no"}}, 2),
    500: ({"error": {"message": "no"}}, 2),
    503: ({"error": {"message": "no"}}, 2),
}


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("kind", ["middleware", "graph"])
def test_only_transient_failures_are_retried(kind: str, status: int) -> None:
    """LangChain's middleware and LangGraph's policy retry transient failures, and nothing else."""
    error, requests = REFUSALS[status]
    lab = Scripted(Reply(status=status, error=error), Reply("Good day!"))
    model = model_on(lab, max_retries=0)
    if kind == "middleware":
        retry = ModelRetryMiddleware(max_retries=1, initial_delay=0, jitter=False, on_failure="error")
        graph = create_agent(model, middleware=[retry])
    else:
        policy = RetryPolicy(initial_interval=0, max_attempts=2, jitter=False)
        builder = StateGraph(MessagesState)
        node: Callable[[MessagesState], Any] = lambda state: {"messages": [model.invoke(state["messages"])]}  # noqa: E731
        graph = builder.add_node("model", node, retry_policy=policy).add_edge(START, "model").compile()

    if requests == 2:
        assert graph.invoke({"messages": [HumanMessage("Hello")]})["messages"][-1].content == "Good day!"
    else:
        with pytest.raises(TIRError) as caught:
            graph.invoke({"messages": [HumanMessage("Hello")]})
        assert caught.value.status_code == status
    assert len(lab.requests) == requests


HOPELESS = {
    *("BadRequestError", "ContextOverflowError", "AuthenticationError", "PermissionDeniedError", "NotFoundError"),
    *("MalformedChunkError", "ConfigurationError", "RefusedError"),
}
LEAVES = [*LANGCHAIN_CLASSES.values(), errors.RefusedError]


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_retry_policies(error: type[TIRError]) -> None:
    """Both retry policies agree with each error's own view of whether it can be retried."""
    raised = error("x", status_code=408) if error is errors.APIStatusError else error("x")
    expected = error.__name__ not in HOPELESS

    assert raised.is_retryable is expected
    assert should_retry_exception(raised, default_retry_on) is expected
    assert RetryPolicy().retry_on(raised) is expected


def test_error_of_an_agent() -> None:
    """An error that no middleware handles is raised from the agent unchanged."""
    agent = create_agent(model_on(Scripted(Reply(status=400, error={"error": {"message": "no"}}))))
    with pytest.raises(BadRequestError) as caught:
        agent.invoke({"messages": [HumanMessage("Hello")]})
    assert type(caught.value) is errors.BadRequestError
