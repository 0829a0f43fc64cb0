"""The same code works on every server set-up: with or without parsers, with fields honored, rejected or dropped."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.cassette_fixtures import Server
from tir_qwen import Client
from tir_qwen._doctor.cli import print_report
from tir_qwen._doctor.examination import Examination

pytestmark = [pytest.mark.every_setup, pytest.mark.cassettes("setups")]

QUESTION = "What is the weather in Paris and London?"
WEATHER = {"Paris": "18 °C, sunny", "London": "14 °C, rain"}


@dataclass
class Told:
    """What a user sees of an agent's run."""

    calls: list[tuple[str, str]]
    answer: str
    reasoning: list[str]
    """The reasoning of each step."""


TOLD = Told(
    calls=[("Paris", "18 °C, sunny"), ("London", "14 °C, rain")],
    answer="In Paris it is 18 °C and sunny; in London it is 14 °C and rainy. Paris is the warmer and drier of the two.",
    reasoning=[
        "I need the weather of two cities, so I make two calls, one for Paris and one for London.",
        "Both results are here. Paris has 18 °C and sun, London 14 °C and rain.",
    ],
)


def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return WEATHER[city]


async def aget_weather(city: str) -> str:
    """Get the current weather of a city."""
    return WEATHER[city]


async def langchain_agent(settings: dict[str, Any]) -> Told:
    """Run LangChain's agent with streaming."""
    agent = create_agent(ChatTIRQwen(**settings), [get_weather])
    reasoning: dict[str, str] = {}
    final: list[Any] = []
    asked = {"messages": [("user", QUESTION)]}
    async for mode, data in agent.astream(asked, stream_mode=["messages", "values"]):
        if mode == "values":
            final = data["messages"]
        elif data[0].type == "AIMessageChunk":
            said = data[0].additional_kwargs.get("reasoning_content", "")
            reasoning[data[0].id] = reasoning.get(data[0].id, "") + said
    calls = {
        call["id"]: call["args"]["city"] for message in final if message.type == "ai" for call in message.tool_calls
    }
    results = [(calls[message.tool_call_id], message.text) for message in final if message.type == "tool"]
    return Told(results, final[-1].text, [*reasoning.values()])


async def llama_index_agent(settings: dict[str, Any]) -> Told:
    """Run LlamaIndex's agent with streaming."""
    agent = FunctionAgent(tools=[named("get_weather", aget_weather)], llm=TIRQwen(**settings))
    handler = agent.run(QUESTION)
    reasoning, calls, within = [""], [], True
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            calls.append((event.tool_kwargs["city"], event.tool_output.content))
            within = False
        elif isinstance(event, AgentStream):
            if not within:
                reasoning.append("")
                within = True
            reasoning[-1] += event.thinking_delta or ""
    output = await handler
    return Told(calls, output.response.content or "", reasoning)


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function under another name."""
    function.__name__ = name
    return function


AGENTS = {"langchain": langchain_agent, "llama_index": llama_index_agent}


@pytest.mark.filterwarnings(
    "ignore::pydantic.PydanticDeprecatedSince20", "ignore::pydantic.warnings.PydanticDeprecatedSince211"
)
@pytest.mark.parametrize("calling", ["auto", "prompted"])
@pytest.mark.parametrize("face", AGENTS)
async def test_an_agent_behaves_the_same_on_every_server(server: Server, face: str, calling: str) -> None:
    """An agent makes the same calls with the same reasoning and answer on every server."""
    if calling == "auto" and server.name.endswith("-dropping"):
        calling = "prompted"  # dropped tools cannot be detected, so the user has to choose this
    assert await AGENTS[face]({**server.settings, "tool_calling": calling}) == TOLD


class Child(BaseModel):
    """A child, with children of its own."""

    name: str
    children: list[Child] = []


class Family(BaseModel):
    """A family."""

    name: str = Field(description="Name of the eldest.")
    children: list[Child]


ASHA = Family(
    name="आशा",
    children=[Child(name="रवि", children=[Child(name="मीरा")]), Child(name="Zoë 👩‍💻")],
)
DESCRIBE = "Describe the family of Asha."
OBJECTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "langchain": lambda settings: ChatTIRQwen(**settings).with_structured_output(Family).invoke(DESCRIBE),
    "langchain_stream": lambda settings: [
        *ChatTIRQwen(**settings).with_structured_output(Family).stream(DESCRIBE),
    ][-1],
    "llama_index": lambda settings: TIRQwen(**settings).structured_predict(Family, PromptTemplate(DESCRIBE)),
    "llama_index_stream": lambda settings: [
        *TIRQwen(**settings).stream_structured_predict(Family, PromptTemplate(DESCRIBE))
    ][-1],
}


@pytest.mark.parametrize("way", OBJECTS)
def test_structured_output(server: Server, way: str) -> None:
    """The object is the same whether the server enforces a schema, rejects it or drops it."""
    assert OBJECTS[way](server.settings) == ASHA


def test_thinking_off(server: Server) -> None:
    """With thinking off there is no reasoning; if the server drops the switch, from the third call on."""
    model = ChatTIRQwen(**server.settings, enable_thinking=False)
    expected = [True, True, False] if server.name.endswith("-dropping") else [False, False]
    messages = [model.invoke("What is the capital of France?") for _ in expected]
    assert {message.text for message in messages} == {"The capital of France is **Paris**."}
    assert ["reasoning_content" in message.additional_kwargs for message in messages] == expected


def test_the_doctor_describes_each_set_up(server: Server) -> None:
    """The `doctor` describes each set-up correctly."""
    settings = {**server.settings}
    doctor = Examination(
        Client(settings.pop("project_id"), settings.pop("access_token"), max_retries=0, **settings), "opaque"
    )
    printed = io.StringIO()
    with redirect_stdout(printed):
        print_report(doctor)
    findings = {finding.name: (finding.status, finding.found) for finding in doctor.report.results}
    findings.pop("speed")
    assert findings == {**FINDINGS, **BUT[server.name]}
    assert json.loads(json.dumps(doctor.report.as_json()))["usable"] is True
    for finding in doctor.report.results:
        assert finding.found in printed.getvalue()


_OK = "ok"
FINDINGS = {
    "token": ("ok", "it is set, and contains no expiry date"),
    "answers": (_OK, 'as qwen3_32b: "17 \u00d7 23 = **391**"'),
    "reasoning": (_OK, "comes in the field reasoning_content"),
    "token counts": (_OK, "come with streams"),
    "server": (_OK, "answers like vLLM 0.9"),
    "thinking off": (_OK, "enable_thinking=False is obeyed"),
    "thinking budget": (_OK, "thinking_budget is kept; a second request continues the answer"),
    "native tools": (_OK, "a call came back, parsed"),
    "structured output": (_OK, "response_format is obeyed"),
    "context window": (_OK, "32768 tokens of prompt and answer together"),
}
NEW = {"reasoning": (_OK, "comes in the field reasoning"), "server": (_OK, "answers like vLLM 0.32.0")}
INLINE = {"reasoning": (_OK, "comes in the text, between <think> tags, and is extracted here")}
NO_TOOLS = {
    "native tools": (
        "limited",
        "does not accept tools: they are written into the messages",
    )
}
UNTOLD = {"server": ("unknown", "its answers do not show which version of vLLM it is")}
GATEWAY = {
    "token counts": ("limited", "do not come with streams"),
    "structured output": ("limited", "does not enforce response_format: the schema is written into the messages"),
}
BUT: dict[str, dict[str, tuple[str, str]]] = {
    "old": {},
    "new": NEW,
    "old-no-reasoning-parser": {**INLINE, **UNTOLD},
    "new-no-reasoning-parser": {**NEW, **INLINE},
    "old-no-tool-parser": NO_TOOLS,
    "new-no-tool-parser": {**NEW, **NO_TOOLS},
    "old-no-parsers": {**INLINE, **UNTOLD, **NO_TOOLS},
    "new-no-parsers": {**NEW, **INLINE, **NO_TOOLS},
    "old-strict": {
        **GATEWAY,
        "thinking off": (
            "limited",
            "does not accept chat_template_kwargs: thinking is switched by /think and /no_think",
        ),
        "thinking budget": (
            "limited",
            "does not continue a message: answers after a thinking_budget are requested without thinking",
        ),
        "native tools": ("limited", "does not accept tools: they are written into the messages"),
    },
    "old-dropping": {
        **GATEWAY,
        "thinking off": ("limited", "ignores enable_thinking: thinking is switched by /think and /no_think"),
        "thinking budget": ("limited", "continue_final_message is ignored: the model thinks again"),
        "native tools": ("limited", "`tools` is ignored: the prompt is as long without them"),
    },
}
