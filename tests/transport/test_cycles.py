"""Errors hold no reference cycles that would keep sockets alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.server import MESSAGES, STREAM_HEAD, Loopback, event, in_turn, response
from tir_qwen import AsyncClient, Client, TIRError
from tir_qwen.testing._server import Answer

FAILURES: dict[str, Callable[[], Answer]] = {
    "refused": lambda: in_turn(response({}, "401 Unauthorized")),
    "breaks off": lambda: in_turn(STREAM_HEAD + event("Hi")),
    "no answer": in_turn,
}
CALLS: dict[str, Callable[[str], Any]] = {
    "complete": lambda url: Client(base_url=url, max_retries=0).complete(MESSAGES),
    "stream": lambda url: list(Client(base_url=url, max_retries=0).stream(MESSAGES)),
    "invoke": lambda url: ChatTIRQwen(base_url=url, max_retries=0).invoke("?"),
    "chain stream": lambda url: list(ChatTIRQwen(base_url=url, max_retries=0).stream("?")),
    "chat": lambda url: TIRQwen(api_base=url, max_retries=0).complete("?"),
    "chat stream": lambda url: list(TIRQwen(api_base=url, max_retries=0).stream_complete("?")),
}
failures = pytest.mark.parametrize("answer", FAILURES.values(), ids=list(FAILURES))


@pytest.fixture(autouse=True)
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@failures
@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_an_error_goes_with_its_last_user(answer: Callable[[], Answer], call: Callable[[str], Any]) -> None:
    """An error, with its frames and sockets, is freed with its last reference, without the garbage collector."""
    with Loopback(answer()) as server:
        try:
            call(server.base_url)
        except TIRError as error:
            known = weakref.ref(error)
    assert known() is None


@failures
async def test_so_it_does_in_a_task(answer: Callable[[], Answer]) -> None:
    """Errors from asynchronous calls are freed without the garbage collector too."""
    with Loopback(answer()) as server:
        client = AsyncClient(base_url=server.base_url, max_retries=0)
        try:
            await client.complete(MESSAGES)
        except TIRError as error:
            known = weakref.ref(error)
        assert known() is None
        await client.aclose()
