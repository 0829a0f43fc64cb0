"""The model tells the results of parallel calls apart only by their order, since its template writes no ids."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent

from tests.support.llama_index_agents import QUIET
from tests.support.scripted_transport import Reply, Scripted, llm_on
from tir_qwen._request.tool_calls import with_results_in_order

pytestmark = QUIET

USER = {"role": "user", "content": "Hi."}


def calls(*ids: str) -> dict[str, Any]:
    """Return a message with calls."""
    return {"role": "assistant", "content": "", "tool_calls": [{"id": id_, "function": {}} for id_ in ids]}


def result(id_: str) -> dict[str, Any]:
    """Return the result of a call."""
    return {"role": "tool", "tool_call_id": id_, "content": f"of {id_}"}


A, B, C = map(result, "abc")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([USER, calls("a", "b", "c"), C, A, B], [USER, calls("a", "b", "c"), A, B, C]),
        ([calls("a", "b", "c"), C, A, USER], [calls("a", "b", "c"), A, C, USER]),
        ([calls("a", "b"), B, A, calls("b", "a"), A, B], [calls("a", "b"), A, B, calls("b", "a"), B, A]),
        ([calls("a", "b"), C, B, A], [calls("a", "b"), C, B, A]),
        ([calls("a", "b"), B, A, A], [calls("a", "b"), B, A, A]),
        ([{**USER, "tool_calls": None}, B, A], [{**USER, "tool_calls": None}, B, A]),
        ([B, A], [B, A]),
    ],
    ids=["all", "some", "two turns", "unknown", "twice", "no calls", "nothing before"],
)
def test_results_follow_the_order_of_their_calls(messages: list[Any], expected: list[Any]) -> None:
    """Only results that can be told apart, and whose calls are known, are moved."""
    assert with_results_in_order(messages) == expected


async def test_the_tool_that_ends_first_does_not_come_first() -> None:
    """An agent of LlamaIndex adds results as the tools end; the model reads them in the order of its calls."""

    async def wait(seconds: float) -> str:
        """Wait for some seconds."""
        await asyncio.sleep(seconds)
        return f"waited {seconds}"

    two = Reply(calls=(("wait", '{"seconds": 0.05}'), ("wait", '{"seconds": 0}')), finish_reason="tool_calls")
    lab = Scripted(two, Reply("Done."))
    await FunctionAgent(tools=[wait], llm=llm_on(lab)).run("Wait.")
    assert [message["content"] for message in lab.bodies[1]["messages"][-2:]] == ["waited 0.05", "waited 0"]
