"""Agents of both integrations, and tool calls that Qwen3 writes with errors, as real servers pass them on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.tools import FunctionTool

from tests.support.fake_vllm import USAGE, Lab, frame
from tests.support.llama_index_agents import QUIET
from tests.support.paths import DATA
from tests.support.scripted_transport import llm_on, model_on

pytestmark = [*QUIET, pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")]

RECORDED: dict[str, dict[str, Any]] = yaml.load(
    (DATA / "broken_calls.yaml").read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
)
NO_TOOLS = {
    "object": "error",
    "message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}

PATHS = ["0.9.2 native", "0.9.2 prompted", "0.32.0 native", "0.32.0 prompted", "no parsers"]
FORMS = ["whole", "stream"]
RECORDED_AS_LISTS = {"content", "reasoning_content", "reasoning"}
MAX_TOKENS = 27
HI, DEFAULTS, CORRECTED = ("hi", 1), ("default", 1), ("corrected", 1)
EFFECTS = {
    # These leave no doubt about what the model meant.
    "good": [HI],
    "number first": [("hi", 2)],
    "null": [DEFAULTS],
    "string": [HI],
    "missing brace": [HI],
    "raw newline": [("a\nb", 1)],
    "unclosed call": [HI],
    "call in think": [HI],
    # These do not run, and the model corrects them.
    "quotes": [CORRECTED],
    "unclosed call cut": [CORRECTED],
    "missing two braces": [CORRECTED],
    "trailing comma": [CORRECTED],
    "bad escape": [CORRECTED],
    "single quotes": [CORRECTED],
    "single quoted args": [CORRECTED],
    "list": [CORRECTED],
    "number": [CORRECTED],
    "no name": [CORRECTED],
    "unoffered name": [CORRECTED],
    "good and broken": [HI, CORRECTED],
    "broken and good": [HI, CORRECTED],
}
LOST_BY_THE_SERVER = {
    # vLLM 0.9.2 closes the JSON of a call within which the answer ended: only max_tokens and token counts show it.
    "unclosed call cut": [HI],
    # Its streams lose the beginning of these, so they are corrected.
    "string": [CORRECTED],
}
_BROKEN = re.compile("not run|could not be executed|last answer was empty|valid integer|finite number")
"""What an agent says to the model about a broken call."""


def _effects(kind: str, path: str, form: str) -> list[tuple[str, int]]:
    lost = LOST_BY_THE_SERVER if (path, form) == OLD_STREAM else {}
    return lost.get(kind, EFFECTS[kind])


OLD_STREAM = ("0.9.2 native", "stream")
CASES = [(kind, path, form, _effects(kind, path, form)) for kind in EFFECTS for path in PATHS for form in FORMS]
TRUNCATED = [(path, form) for path in PATHS for form in FORMS]


class RecordedServer(Lab):
    """Answers the first request of an agent with a recorded call, and errors with a good call.

    Args:
        kind: The kind of the first call.
        path: Which server it is, and how it gets the tools.
    """

    def __init__(self, kind: str, path: str) -> None:
        super().__init__()
        self.kind, self.path = kind, path

    def answer(self, request: Any, engine: Any = httpx) -> Any:
        """Return the response to a request."""
        self.requests.append(request)
        body = json.loads(request.content)
        if self.path == "no parsers" and "tools" in body:
            return engine.Response(400, json=NO_TOOLS)
        kind = self._kind_of_answer(body["messages"])
        recorded = RECORDED[kind]
        usage = {**USAGE, "completion_tokens": MAX_TOKENS if kind == "truncated" else 5}
        if body["stream"]:
            counted = (body.get("stream_options") or {}).get("include_usage")
            frames = [frame(choices=[choice]) for choice in _choices(recorded[f"{self.path} stream"])]
            frames += [frame(choices=[], usage=usage)] if counted else []
            return engine.Response(200, content=b"".join([*frames, b"data: [DONE]\n\n"]))
        choice = {"index": 0, **recorded[f"{self.path} whole"]}
        return engine.Response(200, json={"id": "chatcmpl-1", "model": "m", "choices": [choice], "usage": usage})

    def _kind_of_answer(self, messages: list[dict[str, Any]]) -> str:
        if all(message["role"] != "assistant" for message in messages):
            return self.kind
        told = json.dumps(messages)
        return "corrected" if _BROKEN.search(told) and "corrected" not in told else "done"


def _choices(deltas: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the choice of each chunk of a recorded stream."""
    for recorded in deltas:
        finish_reason = recorded.get("finish_reason")
        for delta in _expand({name: value for name, value in recorded.items() if name != "finish_reason"}):
            yield {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _expand(recorded: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the deltas for which an item of a recorded stream stands."""
    if "arguments" in recorded:
        parts = [{"index": recorded["index"], "function": {"arguments": part}} for part in recorded["arguments"]]
        return [{"tool_calls": [part]} for part in parts]
    if recorded.keys() & RECORDED_AS_LISTS and isinstance(next(iter(recorded.values())), list):
        return [{name: part} for name, parts in recorded.items() for part in parts]
    return [recorded]


class Notes:
    """A tool that records what it is called with."""

    def __init__(self) -> None:
        self.effects: list[tuple[str, int]] = []

    def save(self, note: str = "default", count: int = 1) -> str:
        """Save a note."""
        self.effects.append((note, count))
        return "saved"


def mode_of(path: str) -> str:
    """Return the setting `tool_calling` for a path."""
    return "prompted" if "prompted" in path else "auto"


def run_langchain(kind: str, path: str, form: str, **settings: Any) -> tuple[list[tuple[str, int]], AIMessage]:
    """Run an agent; return the effects of its tool and its last message."""
    notes = Notes()
    server = RecordedServer(kind, path)
    model = model_on(server, tool_calling=mode_of(path), streaming=form == "stream", **settings)
    state = create_agent(model, [notes.save]).invoke({"messages": [("user", "Save it.")]})
    return notes.effects, state["messages"][-1]


async def run_llama_index(kind: str, path: str, form: str, **settings: Any) -> tuple[list[tuple[str, int]], str]:
    """Run an agent; return the effects of its tool and its answer."""
    notes = Notes()
    llm = llm_on(RecordedServer(kind, path), tool_calling=mode_of(path), **settings)
    agent = FunctionAgent(llm=llm, tools=[FunctionTool.from_defaults(notes.save)], streaming=form == "stream")
    output = await agent.run("Save it.")
    return notes.effects, output.response.content


@pytest.mark.parametrize(("kind", "path", "form", "effects"), CASES)
def test_a_langchain_agent_goes_on(kind: str, path: str, form: str, effects: list[tuple[str, int]]) -> None:
    """What is clear runs once, what is broken runs only after its correction, and the agent gives its final answer."""
    came, last = run_langchain(kind, path, form)

    assert (came, last.text) == (effects, "Done.")


@pytest.mark.parametrize(("kind", "path", "form", "effects"), CASES)
async def test_a_llama_index_agent_goes_on(kind: str, path: str, form: str, effects: list[tuple[str, int]]) -> None:
    """What is clear runs once, what is broken runs only after its correction, and the agent gives its final answer."""
    assert await run_llama_index(kind, path, form) == (effects, "Done.")


@pytest.mark.parametrize("path", PATHS)
def test_a_langchain_tool_rejects_nan(path: str) -> None:
    """NaN, which is no JSON, is an error of the tool, and the model corrects it."""
    effects, last = run_langchain("NaN", path, "stream")

    assert (effects, last.text) == ([CORRECTED], "Done.")


@pytest.mark.parametrize("path", PATHS)
async def test_nan_does_not_end_a_llama_index_agent(path: str) -> None:
    """A tool of LlamaIndex, which does not check its arguments, gets NaN; the call can still be sent back."""
    effects, answer = await run_llama_index("NaN", path, "stream")

    assert (str(effects), answer) == ("[('hi', nan)]", "Done.")


@pytest.mark.parametrize(("path", "form"), TRUNCATED)
def test_a_truncated_call_ends_a_langchain_agent_with_a_warning(
    path: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A call cut by max_tokens does not run and is not asked for again; the log says what to do."""
    effects, last = run_langchain("truncated", path, form, max_tokens=MAX_TOKENS)

    assert (effects, last.tool_calls, [call["name"] for call in last.invalid_tool_calls]) == ([], [], ["save"])
    (warning,) = [record for record in caplog.records if "max_tokens" in record.message]
    assert (warning.levelname, warning.message.endswith("truncated its arguments. Raise max_tokens.")) == (
        "WARNING",
        True,
    )


@pytest.mark.parametrize(("path", "form"), TRUNCATED)
async def test_a_truncated_call_does_not_run_in_a_llama_index_agent(path: str, form: str) -> None:
    """A call cut by max_tokens does not run; the model sees that it was cut, and corrects it."""
    assert await run_llama_index("truncated", path, form, max_tokens=MAX_TOKENS) == ([CORRECTED], "Done.")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["0.9.2 native", "0.32.0 native"])
@pytest.mark.parametrize("kind", ["quotes", "no name"])
def test_asking_again_can_be_switched_off(kind: str, path: str, form: str) -> None:
    """With `retry_tool_calls=False` there is one request, even if a stream lost the call altogether."""
    server = RecordedServer(kind, path)
    model = model_on(server, streaming=form == "stream", retry_tool_calls=False)

    message = model.bind_tools([Notes().save]).invoke("Save it.")

    assert (len(server.requests), message.tool_calls) == (1, [])
