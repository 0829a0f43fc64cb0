"""`show` shows the answers of both integrations, whole and streamed: in notebooks with the reasoning folded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.base.response.schema import StreamingResponse

from tests.support.llama_index_agents import QUIET
from tests.support.scripted_transport import Reply, Scripted, llm_saying, model_saying
from tir_qwen import AsyncClient, Client, Delta, ToolCall
from tir_qwen import notebook as module
from tir_qwen.notebook import ashow, show

pytestmark = QUIET
REPLY = Reply("It is **391**.", reasoning="17 * 20 < 350.")
CALL = Reply(reasoning="", calls=(("weather", '{"city": "Paris"}'),))
ASKED = [{"role": "user", "content": "What is 17 * 23?"}]
PRINTED = "Reasoning:\n17 * 20 < 350.\n\nAnswer:\nIt is **391**.\n"
SHOWN = (
    '<details><summary>Reasoning</summary><div style="white-space: pre-wrap">17 * 20 &lt; 350.</div></details>\n\n'
    "It is **391**."
)


def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"22 °C in {city}"


def client() -> Client:
    """Return a client that gets the reply."""
    return Client(1, "token", http_client=Scripted(REPLY).client())


ANSWERS: dict[str, Callable[[], Any]] = {
    "completion": lambda: client().complete(ASKED),
    "deltas": lambda: client().stream(ASKED),
    "message": lambda: model_saying(REPLY).invoke("Hi"),
    "message chunks": lambda: model_saying(REPLY).stream("Hi"),
    "an agent's result": lambda: {"messages": ["Hi", model_saying(REPLY).invoke("Hi")]},
    "LangGraph's messages": lambda: ((chunk, {}) for chunk in model_saying(REPLY).stream("Hi")),
    "chat response": lambda: llm_saying(REPLY).chat([ChatMessage("Hi")]),
    "chat message": lambda: llm_saying(REPLY).chat([ChatMessage("Hi")]).message,
    "chat responses": lambda: llm_saying(REPLY).stream_chat([ChatMessage("Hi")]),
    "completion response": lambda: llm_saying(REPLY).complete("Hi"),
    "completion responses": lambda: llm_saying(REPLY).stream_complete("Hi"),
}


class Output:
    """The output of a notebook's cell."""

    def __init__(self) -> None:
        self.states: list[dict[str, str]] = []

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        """Replace what is shown."""
        assert raw
        self.states.append(data)


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    """Return the output of the only cell."""
    output = Output()
    monkeypatch.setattr(module, "_start_display", lambda: output)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_UPDATES", 0)
    return output


@pytest.mark.parametrize("kind", ANSWERS)
def test_printed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a notebook, reasoning and answer are printed under their titles, as they arrive."""
    show(ANSWERS[kind]())
    assert capsys.readouterr().out == PRINTED


@pytest.mark.parametrize("kind", ANSWERS)
def test_shown_in_a_notebook(kind: str, output: Output) -> None:
    """In a notebook, the reasoning is folded once the answer begins, and cannot contain markup."""
    show(ANSWERS[kind]())
    assert output.states[-1] == {"text/markdown": SHOWN, "text/plain": PRINTED.rstrip("\n")}
    folded = [state["text/markdown"] for state in output.states if "Reasoning" in state["text/markdown"]]
    opened = [state.startswith("<details open>") for state in folded]
    assert opened == sorted(opened, reverse=True)
    assert any(opened) is (len(output.states) > 2)


@pytest.mark.parametrize("mode", ["messages", "events", "result"])
async def test_agents(mode: str, output: Output) -> None:
    """Of an agent, only what the model says is shown, without prompts and the results of tools."""
    if mode == "messages":
        agent: Any = create_agent(model_saying(CALL, REPLY), [weather])
        show(agent.stream({"messages": [("user", "Hi")]}, stream_mode="messages"))
    else:
        run = FunctionAgent(tools=[weather], llm=llm_saying(CALL, REPLY)).run("Hi")
        if mode == "events":
            await ashow(run.stream_events())
        else:
            show(await run)
    assert output.states[-1]["text/markdown"] == SHOWN


def test_reasoning_with_empty_lines(output: Output) -> None:
    """Reasoning stays one block of HTML, which an empty line and indented code would end and leave open."""
    show(AIMessage("391", additional_kwargs={"reasoning_content": "Code:\n\n    a = 17\n"}))
    assert output.states[-1]["text/markdown"] == (
        '<details><summary>Reasoning</summary><div style="white-space: pre-wrap">Code:&#10;&#10;    a = 17&#10;</div>'
        "</details>\n\n391"
    )


async def test_asynchronous_streams(output: Output) -> None:
    """`ashow` shows an asynchronous stream in the same way."""
    await ashow(AsyncClient(1, "token", http_client=Scripted(REPLY).async_client()).stream(ASKED))
    assert output.states[-1]["text/markdown"] == SHOWN


def test_only_the_answer_is_shown_if_there_is_no_reasoning(output: Output) -> None:
    """An answer without reasoning is shown as it is."""
    show(AIMessage("It is **391**."))
    assert output.states[-1] == {"text/markdown": "It is **391**.", "text/plain": "It is **391**."}


def test_corrected_content_replaces_what_was_shown(output: Output) -> None:
    """Content that was not valid disappears when the corrected one arrives."""
    show(iter([Delta(content="{}"), Delta(content='{"a": 1}', replaces=2)]))
    assert output.states[-1]["text/plain"] == '{"a": 1}'


def test_streams_of_texts_and_events(output: Output) -> None:
    """A query engine's stream and an agent's events are shown as well."""

    def texts() -> Iterator[str]:
        yield from ("It is ", "**391**.")

    show(StreamingResponse(texts()))
    assert output.states[-1]["text/plain"] == "It is **391**."
    show(iter([ChatResponse(message=ChatMessage("Hi"), delta="Hi")]))
    assert output.states[-1]["text/plain"] == "Hi"
    show(iter([AIMessageChunk("Hi")]))
    assert output.states[-1]["text/plain"] == "Hi"


def test_lists_of_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """The answers of a batch are shown one after the other."""
    show(model_saying(REPLY, REPLY).batch(["Hi", "Hi"]))
    assert capsys.readouterr().out == PRINTED + PRINTED


def test_objects(capsys: pytest.CaptureFixture[str]) -> None:
    """Objects, as of structured output, are shown as they are."""
    show([{"a": 1}, ToolCall("1", "f", "{}")])
    assert capsys.readouterr().out == (
        "Answer:\n{'a': 1}\nAnswer:\nToolCall(id='1', name='f', arguments='{}', error=None)\n"
    )


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_without_their_reasoning(kind: str, output: Output) -> None:
    """The reasoning can be left out, of whole answers and of streams."""
    show(ANSWERS[kind](), reasoning=False)
    assert output.states[-1] == {"text/markdown": "It is **391**.", "text/plain": "It is **391**."}


async def test_asynchronous_streams_without_their_reasoning(output: Output) -> None:
    """`ashow` can leave it out, too."""
    await ashow(model_saying(REPLY).astream("Hi"), reasoning=False)
    assert output.states[-1] == {"text/markdown": "It is **391**.", "text/plain": "It is **391**."}


async def test_what_show_cannot_wait_for(output: Output) -> None:
    """An answer that is still to be awaited is an error that says how to show it; nothing is shown."""
    for answer, advice in (
        (model_saying(REPLY).astream("Hi"), "await ashow(...)"),
        (model_saying(REPLY).ainvoke("Hi"), "show(await ...)"),
    ):
        with pytest.raises(TypeError) as caught:
            show(answer)
        assert str(caught.value) == f"show cannot wait for an asynchronous answer: use {advice}."
    assert output.states == []
