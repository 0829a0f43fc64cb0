"""Ten tasks with `ChatOpenAI(base_url=...)` and with `ChatTIRQwen` on the same server: what does each get wrong?

python -m benchmarks.side_by_side_langchain old=http://127.0.0.1:8400 new=http://127.0.0.1:8410

The servers are the lab's, started with `--script tests/data/cassettes/lab.yaml` (see the README there); the other
model is `pip install langchain-openai`. CI does not run this.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.exceptions import ContextOverflowError, OutputParserException
from langchain_core.messages import AIMessage, BaseMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_tir_qwen import ChatTIRQwen

PROJECT, TOKEN, MODEL = "1234", "lab-token", "qwen3_32b"
Make = Callable[..., Any]


class Relative(BaseModel):
    """A person and the children."""

    name: str
    children: list[Relative] = []


class Comparison(BaseModel):
    """Which of two cities is warmer, and by how many degrees."""

    warmer: str
    degrees: int


def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return {"Paris": "18 °C, sunny", "London": "14 °C, rainy"}.get(city, "unknown")


def reasoning_of(message: BaseMessage) -> str:
    """Return all reasoning in a message's content blocks."""
    return "".join(block.get("reasoning", "") for block in message.content_blocks if block["type"] == "reasoning")


def expect(found: Any, wanted: Any) -> None:
    """Fail with the value that was found if it is not the expected one."""
    assert found == wanted, f"{found!r:.60}"


def reasoning(make: Make) -> None:
    """The reasoning is there, whole and streamed."""
    question = "What is 2 + 2?"
    expect(
        [reasoning_of(make().invoke(question)), reasoning_of(reduce(add, make().stream(question)))], ["2 + 2 = 4."] * 2
    )


def clean_text(make: Make) -> None:
    """The text has no newlines of the template around it."""
    expect(make().invoke("What is 2 + 2?").text, "2 + 2 = 4")


def thinking_off(make: Make) -> None:
    """`enable_thinking=False` in the call switches the thinking off."""
    message = make().invoke("What is 2 + 2?", enable_thinking=False)
    expect(message.usage_metadata["output_tokens"] < 15, True)


def usage_streamed(make: Make) -> None:
    """A stream's tokens are counted without being asked for."""
    expect(bool(reduce(add, make().stream("Hello")).usage_metadata), True)


def blocks_streamed(make: Make) -> None:
    """`output_version="v1"` streamed: reasoning, and two calls."""
    model = make(output_version="v1").bind_tools([get_weather])
    message = reduce(add, model.stream("What is the weather in Paris and London?"))
    expect([block["type"] for block in message.content_blocks], ["reasoning", "tool_call", "tool_call"])


def broken_call(make: Make) -> None:
    """A streamed call with broken arguments is no valid call."""
    message = reduce(add, make().bind_tools([get_weather]).stream("Make a broken tool call."))
    expect([call["args"] for call in message.tool_calls if call["args"]], [])
    expect(isinstance(message, AIMessage), True)


def recursive_by_tool(make: Make) -> None:
    """An object with a recursive schema, by `function_calling`."""
    chain = make().with_structured_output(Relative, method="function_calling")
    expect(chain.invoke("Describe the family of Asha.").children[0].children[0].name, "मीरा")


def cut_object(make: Make) -> None:
    """An object that max_tokens cuts, streamed, is an error that says so."""
    try:
        last = [*make(max_tokens=64).with_structured_output(Relative).stream("Describe the family of Asha.")]
    except OutputParserException as error:
        expect("max_tokens" in str(error), True)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}, which no chain handles") from error
    else:
        raise AssertionError(f"no error, {len(last)} objects")


def agent_with_object(make: Make) -> None:
    """`create_agent` with a tool and ProviderStrategy: two calls, then the object."""
    agent = create_agent(make(), [get_weather], response_format=ProviderStrategy(Comparison))
    state = agent.invoke({"messages": [("user", "Compare the weather in Paris and London.")]}, {"recursion_limit": 8})
    expect([message.name for message in state["messages"] if message.type == "tool"], ["get_weather"] * 2)
    expect(state["structured_response"], Comparison(warmer="Paris", degrees=4))


def overflow(make: Make) -> None:
    """A prompt that is too long is LangChain's ContextOverflowError, and the middleware does not try it again."""
    agent = create_agent(make(), middleware=[ModelRetryMiddleware(max_retries=1, initial_delay=0, on_failure="error")])
    try:
        agent.invoke({"messages": [("user", "word " * 40000)]})
    except ContextOverflowError:
        return
    except Exception as error:
        raise AssertionError(type(error).__name__) from error
    raise AssertionError("no error")


TASKS = (
    reasoning,
    clean_text,
    thinking_off,
    usage_streamed,
    blocks_streamed,
    broken_call,
    recursive_by_tool,
    cut_object,
    agent_with_object,
    overflow,
)


def attempt(task: Callable[[Make], None], make: Make) -> str:
    """Run a task and return its outcome."""
    try:
        task(make)
    except AssertionError as error:
        return f"lost: {error}"
    except Exception as error:  # noqa: BLE001 - from another library
        return f"{type(error).__name__}: {error}"[:70].replace("\n", " ")
    return "ok"


def makers(url: str) -> dict[str, Make]:
    """Return functions that create each model for a server."""
    complete = f"{url}/project/p-{PROJECT}/genai/{MODEL}/v1"

    def openai(**params: Any) -> ChatOpenAI:
        query = {"project_id": PROJECT}
        return ChatOpenAI(model=MODEL, base_url=complete, api_key=TOKEN, default_query=query, **params)

    def ours(**params: Any) -> ChatTIRQwen:
        return ChatTIRQwen(project_id=PROJECT, access_token=TOKEN, base_url=url, **params)

    return {"ChatOpenAI": openai, "ChatTIRQwen": ours}


def main(servers: list[str]) -> None:
    """Print the table in Markdown."""
    warnings.simplefilter("ignore")
    print("| server | task | ChatOpenAI | ChatTIRQwen |\n|---|---|---|---|")
    for server in servers:
        name, _, url = server.partition("=")
        for task in TASKS:
            results = [attempt(task, make).replace("|", "/") for make in makers(url).values()]
            print(f"| {name} | {(task.__doc__ or '').rstrip('.')} | {' | '.join(results)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
