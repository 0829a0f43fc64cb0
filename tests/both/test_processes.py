"""Models in processes that are spawned, forked, interrupted, or ended at any time."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.client.test_processes import as_asked, forking
from tests.support.server import HangUpError, Loopback, echo
from tests.support.stopping_servers import open_sockets
from tests.support.subprograms import run, run_and_interrupt
from tir_qwen.testing import Request

Model = ChatTIRQwen | TIRQwen
FACES = [ChatTIRQwen, TIRQwen]


def ask(model: Model, question: str) -> str:
    """Return a streamed answer, in whichever process this runs."""
    if isinstance(model, ChatTIRQwen):
        return "".join(chunk.text for chunk in model.stream(question))
    return "".join(response.delta or "" for response in model.stream_complete(question))


async def aask(model: Model, question: str) -> str:
    """Return a streamed answer, asynchronously."""
    if isinstance(model, ChatTIRQwen):
        return "".join([chunk.text async for chunk in model.astream(question)])
    return "".join([response.delta or "" async for response in await model.astream_complete(question)])


def ask_both(model: Model, question: str) -> tuple[str, str]:
    """Return the answers of a synchronous call and of one in an event loop."""
    return ask(model, question), asyncio.run(aask(model, question))


@forking
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("face", FACES)
def test_process_pools(face: type[Model], context: str) -> None:
    """A model that is already in use works in the processes of a pool, forked or spawned, and in the parent."""
    with Loopback(echo) as server:
        model = face(base_url=server.base_url)
        assert ask_both(model, "before") == ("before", "before")
        with ProcessPoolExecutor(1, multiprocessing.get_context(context)) as processes:
            answer = processes.submit(ask_both, model, "child")
            assert ask_both(model, "during") == ("during", "during")
            assert answer.result(30) == ("child", "child")


@pytest.mark.parametrize("face", FACES)
async def test_synchronous_calls_within_an_event_loop(face: type[Model]) -> None:
    """Synchronous methods work inside a running event loop, as in a notebook, and next to asynchronous ones."""
    with Loopback(echo) as server:
        model = face(base_url=server.base_url)
        assert [ask(model, "One"), await aask(model, "Two"), ask(model, "Three")] == ["One", "Two", "Three"]
        del model
        gc.collect()
        assert await asyncio.to_thread(server.noticed, server.connections)


@pytest.mark.parametrize("face", FACES)
async def test_many_cancelled_at_once(face: type[Model]) -> None:
    """Cancelling many calls at once closes each connection, and the next call is answered."""

    def silent(_: Request) -> Iterator[bytes]:
        server.left_within(10)
        raise HangUpError
        yield b""

    with Loopback(echo) as server:
        server.answer = silent
        model = face(base_url=server.base_url, max_retries=0)
        if isinstance(model, ChatTIRQwen):
            calls: Any = asyncio.ensure_future(model.abatch([str(number) for number in range(20)]))
        else:
            calls = asyncio.gather(*(model.acomplete(str(number)) for number in range(20)))
        while len(server.requests) < 20:  # noqa: ASYNC110 - another thread's
            await asyncio.sleep(0.01)
        calls.cancel()
        with suppress(asyncio.CancelledError):
            await calls
        assert await asyncio.to_thread(server.noticed, 20)
        assert open_sockets(server) == 0
        server.answer = echo
        assert await aask(model, "Hello") == "Hello"


LANGCHAIN = """
from langchain_tir_qwen import ChatTIRQwen
model = ChatTIRQwen(base_url=base_url)
def begin(question): return model.stream(question)
def abegin(question): return model.astream(question)
"""
LLAMA_INDEX = """
from llama_index_tir_qwen import TIRQwen
model = TIRQwen(base_url=base_url)
def begin(question): return model.stream_complete(question)
async def abegin(question):
    async for response in await model.astream_complete(question): yield response
"""
both_faces = pytest.mark.parametrize("face", [LANGCHAIN, LLAMA_INDEX], ids=["langchain", "llama_index"])
JUST_ENDS = """
stream = begin("endless")
next(stream)
held = []
async def main():
    for _ in range(3):
        held.append(abegin("endless"))
        await anext(held[-1])
asyncio.run(main())
"""
IS_INTERRUPTED = """
async def main():
    async for _ in abegin("endless"): pass
try:
    if how == "async": asyncio.run(main())
    for _ in begin("endless"): pass
except KeyboardInterrupt:
    print("stopped")
"""


@both_faces
def test_programs_that_just_end(face: str) -> None:
    """A program may exit with open streams of both kinds: its exit status is 0, and it prints nothing."""
    with Loopback(echo) as server:
        as_asked(server)
        assert run(face + JUST_ENDS, server.base_url, strict=False) == (0, "", "")
        assert server.noticed(server.connections)


@pytest.mark.parametrize("how", ["sync", "async"])
@both_faces
def test_ctrl_c_interrupts_a_stream_at_once(face: str, how: str) -> None:
    """Ctrl-C during a stream raises `KeyboardInterrupt` at once, prints nothing else, and closes the connection."""
    with Loopback(echo) as server:
        asked = as_asked(server)
        program = f"how = {how!r}\n{face}{IS_INTERRUPTED}"
        # LlamaIndex's dispatcher of events swallows a KeyboardInterrupt that is raised within a handler.
        presses = 3 if face == LLAMA_INDEX else 1
        stopped = run_and_interrupt(program, server.base_url, asked, strict=False, presses=presses)
        assert stopped == (0, "stopped\n", "")
        assert server.noticed(server.connections)
