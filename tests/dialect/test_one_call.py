"""`parallel_tool_calls=False` returns at most one tool call, even though vLLM 0.9 and 0.10 send all of them."""

from __future__ import annotations

import pytest

from tests.support.captures import CAPTURES, Capture
from tests.support.decode import calls_of, decode, native, several, stream, whole, written
from tests.support.server import Driver, Loopback, both_clients, response
from tir_qwen._response.choice import DecodingOptions
from tir_qwen.types import ToolCall

DISABLED = [one for one in CAPTURES if (one.request or {}).get("parallel_tool_calls") is False]


@both_clients
@pytest.mark.parametrize("capture", DISABLED, ids=lambda capture: capture.id)
def test_only_the_first_call_is_returned(driver: Driver, capture: Capture) -> None:
    """Only the first call is returned for every server version, streamed or not."""
    request = dict(capture.request or {})
    messages, streamed = request.pop("messages"), request.pop("stream", False)
    with Loopback(
        lambda _: [response(capture.body, headers={"content-type": capture.headers["content-type"]})]
    ) as server:
        client = driver.make(base_url=server.base_url)
        if streamed:
            *_, last = deltas = [*driver.deltas(client, messages, **request, retry_tool_calls=False)]
            pieces = [piece for delta in deltas for piece in delta.tool_calls]
            assert {piece.index for piece in pieces} == {0}
            assert last.last
            called = [(pieces[0].name, "".join(piece.arguments for piece in pieces))]
        else:
            called = [(call.name, call.arguments) for call in driver.complete(client, messages, **request).tool_calls]
    assert called == [("get_weather", '{"city": "Paris"}')]


def calls(*names: str) -> list[dict[str, object]]:
    """Return tool calls as they appear in a complete message."""
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
def test_calls_are_dropped_only_on_request(driver: Driver, params: dict[str, object], kept: list[str]) -> None:
    """Further calls are dropped only if the request says so, separately for each choice."""
    choices = [
        {"index": number, "message": {"content": "", "tool_calls": calls("a", "b")}, "finish_reason": "tool_calls"}
        for number in range(2)
    ]
    with Loopback(lambda _: [response({"id": "x", "choices": choices})]) as server:
        completion = driver.complete(driver.make(base_url=server.base_url), n=2, **params)
    wanted = [ToolCall(name, name, "{}") for name in kept]
    assert [choice.tool_calls for choice in completion.choices] == [wanted, wanted]


WRITTEN = "\n".join(f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>' for name in "ab")
OFFER = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in "ab"]


@both_clients
@pytest.mark.parametrize("way", ["prompted", "auto"])
@pytest.mark.parametrize(("parallel", "kept"), [(None, ["a", "b"]), (True, ["a", "b"]), (False, ["a"])])
def test_calls_in_the_text_are_limited_too(driver: Driver, way: str, parallel: bool | None, kept: list[str]) -> None:
    """The limit also applies to calls in the text, however the tools were offered."""
    params = {"tools": OFFER, "tool_calling": way, "parallel_tool_calls": parallel}
    with Loopback(lambda _: [response(whole({"role": "assistant", "content": WRITTEN}))]) as server:
        completion = driver.complete(driver.make(base_url=server.base_url), **params)
    assert [(call.name, call.arguments) for call in completion.tool_calls] == [(name, "{}") for name in kept]
    assert completion.content == ""


PARIS, LONDON, BERLIN = (f'{{"city": "{city}"}}' for city in ("Paris", "London", "Berlin"))
TWO = {"content": f"Both.\n{written(PARIS)}\n{written(LONDON)}"}
ONE_CALL = DecodingOptions(tools=True, single_call=True)


@pytest.mark.parametrize("message", [TWO, {**native(PARIS, LONDON), "content": "Both."}], ids=["text", "own"])
def test_text_beside_the_call_is_kept(message: dict[str, object]) -> None:
    """Text beside the call is kept, whether or not the server parsed the calls."""
    choice = decode(whole(message), expected=ONE_CALL).completion.first
    assert (choice.content, calls_of(choice)) == ("Both.", [("get_weather", PARIS)])


@pytest.mark.parametrize("turns", [(0, 1, 2), (1, 0, 2), (1, 2, 0)], ids=["first", "between", "last"])
def test_one_call_is_kept_if_the_server_parsed_only_some(turns: tuple[int, ...]) -> None:
    """Only the first call is kept that the server parsed, whatever is in the text."""
    deltas = [{"content": written(BERLIN)}, native(PARIS, first=0), native(LONDON, first=1)]
    choice = decode(stream(*(deltas[turn] for turn in turns)), expected=ONE_CALL).completion.first
    assert calls_of(choice) == [("get_weather", PARIS)]


def test_each_streamed_choice_keeps_its_first_call() -> None:
    """Each of several streamed choices keeps its own first call."""
    outcome = decode(several((0, TWO), (1, native(LONDON, PARIS, first=0))), expected=ONE_CALL)
    assert [calls_of(choice) for choice in outcome.completion.choices] == [
        [("get_weather", PARIS)],
        [("get_weather", LONDON)],
    ]
