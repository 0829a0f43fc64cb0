"""Thirteen tasks with `OpenAILike(api_base=...)` and with `TIRQwen` on the same server: what does each get wrong?

python -m benchmarks.side_by_side_llama_index old=http://127.0.0.1:8080 old-no-parsers=http://127.0.0.1:8100

The servers are the lab's, started with the scripts `tests/data/cassettes/lab*.yaml` (see the README there); the other
model is `pip install llama-index-llms-openai-like`. `NAME-no-parsers` is used for the one task of `NAME` that needs it.
CI does not run this.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import httpx
from llama_index.core.agent.workflow import AgentStream, BaseWorkflowAgent, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ThinkingBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from llama_index_tir_qwen import TIRQwen

PROJECT, TOKEN, MODEL = "1234", "lab-token", "qwen3_32b"
SUM = [ChatMessage("What is 2 + 2?")]
FAMILY = PromptTemplate("Describe the family of {name}.")
CHILDREN = [{"name": "रवि"}, {"name": "Zoë 👩‍💻"}]
CITIES = "What is the weather in Paris and London?"
BOTH = "I need the weather of two cities, so I make two calls, one for Paris and one for London."
NO_PARSERS = "-no-parsers"
Make = Callable[..., Any]


class Child(BaseModel):
    """A child."""

    name: str


class Family(BaseModel):
    """A person and the children."""

    name: str
    children: list[Child]


def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return {"Paris": "18 °C, sunny", "London": "14 °C, rainy"}.get(city, "unknown")


def expect(found: Any, wanted: Any) -> None:
    """Fail with the value that was found if it is not the expected one."""
    assert found == wanted, f"{found!r:.60}"


def reasoning_of(response: ChatResponse) -> str:
    """Return all reasoning in a response's blocks."""
    return "".join(block.content or "" for block in response.message.blocks if isinstance(block, ThinkingBlock))


def counts_of(response: ChatResponse) -> dict[str, Any]:
    """Return the token counts of a response."""
    usage = dict(response.raw or {}).get("usage") or {}
    return usage if isinstance(usage, dict) else usage.model_dump()


def run(agent: BaseWorkflowAgent, question: str) -> tuple[str, list[AgentStream]]:
    """Return an agent's answer, and the events that it streamed."""

    async def stream() -> tuple[str, list[AgentStream]]:
        handler = agent.run(question, max_iterations=6)
        events = [event async for event in handler.stream_events() if isinstance(event, AgentStream)]
        return str(await handler), events

    return asyncio.run(stream())


def reasoning(make: Make) -> None:
    """The reasoning is there, whole and streamed."""
    expect(
        [reasoning_of(make().chat(SUM)).strip(), reasoning_of([*make().stream_chat(SUM)][-1]).strip()],
        ["2 + 2 = 4."] * 2,
    )


def clean_text(make: Make) -> None:
    """The text has no newlines of the template around it."""
    expect([make().chat(SUM).message.content, make().complete("What is 2 + 2?").text], ["2 + 2 = 4"] * 2)


def thinking_off(make: Make) -> None:
    """`enable_thinking=False` in the call switches the thinking off."""
    expect(counts_of(make().chat(SUM, enable_thinking=False))["completion_tokens"] < 15, True)


def usage_streamed(make: Make) -> None:
    """A stream's tokens are counted in its last response without being asked for."""
    expect("completion_tokens" in counts_of([*make().stream_chat(SUM)][-1]), True)


def call_wins(make: Make) -> None:
    """`max_tokens` of the call wins over the constructor's."""
    expect(counts_of(make(max_tokens=400).chat(SUM, max_tokens=5))["completion_tokens"], 5)


def agent_streamed(make: Make) -> None:
    """FunctionAgent streamed: two calls at once, and the reasoning as `thinking_delta`."""
    answer, events = run(FunctionAgent(llm=make(), tools=[get_weather], streaming=True), CITIES)
    expect(answer.strip()[:22], "In Paris it is 18 °C a")
    expect(max(len(event.tool_calls) for event in events), 2)
    expect("".join(event.thinking_delta or "" for event in events).strip()[: len(BOTH)], BOTH)


def agent_reasons_on(make: Make) -> None:
    """FunctionAgent: the request with the results carries the reasoning that led to the calls."""
    bodies: list[dict[str, Any]] = []

    async def remember(request: httpx.Request) -> None:
        bodies.append(json.loads(request.content))

    client = httpx.AsyncClient(event_hooks={"request": [remember]})
    run(FunctionAgent(llm=make(async_http_client=client), tools=[get_weather], streaming=True), CITIES)
    asked = next(message for message in bodies[1]["messages"] if message.get("tool_calls"))
    expect((asked.get("reasoning") or asked.get("reasoning_content") or "").strip(), BOTH)


def objects_streamed(make: Make) -> None:
    """`stream_structured_predict` yields no object full of None, and the whole one last."""
    objects = [one.model_dump() for one in make().stream_structured_predict(Family, FAMILY, name="Asha")]
    empty = [one for one in objects if all(value is None for value in one.values())]
    assert not empty, f"{len(empty)} of {len(objects)}"
    expect(objects[-1], {"name": "आशा", "children": CHILDREN})


def nested_object(make: Make) -> None:
    """`structured_predict` with a nested class."""
    found = make().structured_predict(Family, FAMILY, name="Asha")
    expect(found.model_dump(), {"name": "आशा", "children": CHILDREN})


def react(make: Make) -> None:
    """ReActAgent on a server without reasoning parser, of a model that thinks in the agent's key words."""
    answer, _ = run(ReActAgent(llm=make(), tools=[get_weather], streaming=True), CITIES)
    expect(answer, "Paris has 18 °C and sun, London 14 °C and rain.")


def tokens_counted(make: Make) -> None:
    """TokenCountingHandler counts of a stream what it counts of a whole answer."""
    handler = TokenCountingHandler()
    llm = make(callback_manager=CallbackManager([handler]))
    llm.chat(SUM)
    list(llm.stream_chat(SUM))
    whole, stream = ((one.prompt_token_count, one.completion_token_count) for one in handler.llm_token_counts)
    assert stream == whole, f"{stream} of {whole}"


def no_key(make: Make) -> None:
    """`to_dict` does not hold the key."""
    expect(TOKEN in str(make().to_dict()), False)


def context_window(make: Make) -> None:
    """Prompts are planned for the 32,768 tokens of the endpoint without being told."""
    expect(make().metadata.context_window, 32_768)


TASKS = (
    reasoning,
    clean_text,
    thinking_off,
    usage_streamed,
    call_wins,
    agent_streamed,
    agent_reasons_on,
    objects_streamed,
    nested_object,
    react,
    tokens_counted,
    no_key,
    context_window,
)


def attempt(task: Callable[[Make], None], make: Make) -> str:
    """Run a task and return its outcome."""
    try:
        task(make)
    except AssertionError as error:
        return f"lost: {error}"
    except Exception as error:  # noqa: BLE001 - from another library
        return f"{type(error).__name__}: {error}"[:120].replace("\n", " ")
    return "ok"


def makers(url: str) -> dict[str, Make]:
    """Return functions that create each model for a server."""
    complete = f"{url}/project/p-{PROJECT}/genai/{MODEL}/v1"

    def openai(**params: Any) -> OpenAILike:
        return OpenAILike(
            model=MODEL,
            api_base=complete,
            api_key=TOKEN,
            is_chat_model=True,
            is_function_calling_model=True,
            additional_kwargs={"extra_query": {"project_id": PROJECT}},
            **params,
        )

    def ours(**params: Any) -> TIRQwen:
        return TIRQwen(project_id=PROJECT, api_key=TOKEN, api_base=url, **params)

    return {"OpenAILike": openai, "TIRQwen": ours}


def main(arguments: list[str]) -> None:
    """Print a Markdown table for each server."""
    warnings.simplefilter("ignore")
    logging.disable()
    servers = dict(argument.split("=", 1) for argument in arguments)
    for name in [name for name in servers if not name.endswith(NO_PARSERS)]:
        print(f"\n| {name}: task | OpenAILike | TIRQwen |\n|---|---|---|")
        for task in TASKS:
            url = servers.get(name + NO_PARSERS) if task is react else servers[name]
            done = [attempt(task, make).replace("|", "/") for make in makers(url).values()] if url else ["-", "-"]
            print(f"| {(task.__doc__ or '').rstrip('.')} | {' | '.join(done)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
