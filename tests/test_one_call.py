"""`parallel_tool_calls=False`: one tool call at most, though vLLM 0.9 and 0.10 send all that the model wrote."""

from __future__ import annotations

import pytest

from tir_qwen.types import ToolCall

from .captured import CAPTURES, Capture
from .loopback import Driver, Loopback, both_clients, response

DISABLED = [one for one in CAPTURES if (one.request or {}).get("parallel_tool_calls") is False]


@both_clients
@pytest.mark.parametrize("capture", DISABLED, ids=lambda capture: capture.id)
def test_one_call(driver: Driver, capture: Capture) -> None:
    """The first call alone comes out of every version's answer, whole or streamed, where the request allows no more."""
    request = dict(capture.request or {})
    messages, streamed = request.pop("messages"), request.pop("stream", False)
    with Loopback(
        lambda _: [response(capture.body, headers={"content-type": capture.headers["content-type"]})]
    ) as server:
        client = driver.make(base_url=server.base_url)
        if streamed:
            *_, last = deltas = [*driver.deltas(client, messages, **request)]
            pieces = [piece for delta in deltas for piece in delta.tool_calls]
            assert {piece.index for piece in pieces} == {0}
            assert last.last
            called = [(pieces[0].name, "".join(piece.arguments for piece in pieces))]
        else:
            called = [(call.name, call.arguments) for call in driver.complete(client, messages, **request).tool_calls]
    assert called == [("get_weather", '{"city": "Paris"}')]


def calls(*names: str) -> list[dict[str, object]]:
    """Tool calls of a whole message."""
    return [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in names]


@both_clients
@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, ["a", "b"]),
        ({"parallel_tool_calls": True}, ["a", "b"]),
        ({"parallel_tool_calls": None}, ["a", "b"]),
        ({"parallel_tool_calls": False}, ["a"]),
        ({"extra_body": {"parallel_tool_calls": False}}, ["a"]),
    ],
    ids=str,
)
def test_who_asked(driver: Driver, params: dict[str, object], kept: list[str]) -> None:
    """Calls are only left out where the request says so; of several answers each keeps its own first."""
    choices = [
        {"index": number, "message": {"content": "", "tool_calls": calls("a", "b")}, "finish_reason": "tool_calls"}
        for number in range(2)
    ]
    with Loopback(lambda _: [response({"id": "x", "choices": choices})]) as server:
        completion = driver.complete(driver.make(base_url=server.base_url), n=2, **params)
    wanted = [ToolCall(name, name, "{}") for name in kept]
    assert [choice.tool_calls for choice in completion.choices] == [wanted, wanted]
