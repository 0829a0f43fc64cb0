"""One model through its life: many threads and loops, copies, streams that are left early, a loop that must go on."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage

from demo.replay import Received
from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.fake_vllm import HEADER, PRIVATE, TOKEN, Lab
from tests.support.server import STREAM_HEAD, Loopback, completion, event, stream

Model = ChatTIRQwen | TIRQwen
HELLO = [ChatMessage("Hello")]
FACES = [ChatTIRQwen, TIRQwen]


def ask(model: Model) -> str:
    """A whole answer."""
    return str(model.invoke("Hello").content) if isinstance(model, ChatTIRQwen) else model.complete("Hello").text


async def aask(model: Model) -> str:
    """As `ask`."""
    if isinstance(model, ChatTIRQwen):
        return str((await model.ainvoke("Hello")).content)
    return (await model.acomplete("Hello")).text


def answer(_: Received) -> Iterator[bytes]:
    """Always the same."""
    yield completion("Good day!")


def local(face: type[Model], server: Loopback, **settings: Any) -> Model:
    """A model of a server on this machine."""
    return face(**{"base_url": server.base_url, "access_token": TOKEN, **settings})


def talkative(_: Received) -> Iterator[bytes]:
    """An answer without an end."""
    yield STREAM_HEAD
    while True:
        yield event("More")
        time.sleep(0.01)


STREAMS: dict[str, tuple[type[Model], Callable[[Any], Iterator[Any]]]] = {
    "stream": (ChatTIRQwen, lambda model: model.stream("Hello")),
    "stream_chat": (TIRQwen, lambda llm: llm.stream_chat(HELLO)),
    "stream_complete": (TIRQwen, lambda llm: llm.stream_complete("Hello")),
}


@pytest.mark.parametrize("name", STREAMS)
def test_left_early(name: str) -> None:
    """Leaving the loop over a stream closes the connection, which makes the server stop."""
    face, begin = STREAMS[name]
    with Loopback(talkative) as server:
        for _ in begin(local(face, server)):
            break
        assert server.noticed()


@pytest.mark.parametrize("name", STREAMS)
def test_closed_early(name: str) -> None:
    """Closing a stream closes the connection, though the stream itself is still held."""
    face, begin = STREAMS[name]
    with Loopback(talkative) as server:
        chunks: Any = begin(local(face, server))
        next(chunks)
        chunks.close()
        assert server.noticed()


async def _responses(responses: Awaitable[Any]) -> Any:
    async for response in await responses:
        yield response


ASYNC_STREAMS: dict[str, tuple[type[Model], Callable[[Any], Any]]] = {
    "astream": (ChatTIRQwen, lambda model: model.astream("Hello")),
    "astream_chat": (TIRQwen, lambda llm: _responses(llm.astream_chat(HELLO))),
    "astream_complete": (TIRQwen, lambda llm: _responses(llm.astream_complete("Hello"))),
}


@pytest.mark.parametrize("name", ASYNC_STREAMS)
async def test_left_early_async(name: str) -> None:
    """Leaving the loop over an asynchronous stream closes the connection while the event loop goes on."""
    face, begin = ASYNC_STREAMS[name]
    with Loopback(talkative) as server:
        model = local(face, server)
        async for _ in begin(model):
            break
        assert await asyncio.to_thread(server.noticed)


@pytest.mark.parametrize("name", ASYNC_STREAMS)
async def test_cancelled(name: str) -> None:
    """Cancelling the task that reads a stream closes the connection."""
    face, begin = ASYNC_STREAMS[name]

    async def read(model: Model) -> None:
        async for _ in begin(model):
            started.set()

    with Loopback(talkative) as server:
        started = asyncio.Event()
        model = local(face, server)
        task = asyncio.create_task(read(model))
        await started.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert await asyncio.to_thread(server.noticed)


async def _drain(chunks: Any) -> None:
    async for _ in chunks:
        pass


ASYNC: dict[str, tuple[type[Model], Callable[[Any], Awaitable[Any]]]] = {
    "ainvoke": (ChatTIRQwen, lambda model: model.ainvoke("Hello")),
    "astream": (ChatTIRQwen, lambda model: _drain(model.astream("Hello"))),
    "achat": (TIRQwen, lambda llm: llm.achat(HELLO)),
    "acomplete": (TIRQwen, lambda llm: llm.acomplete("Hello")),
    "astream_chat": (TIRQwen, lambda llm: _drain(_responses(llm.astream_chat(HELLO)))),
    "astream_complete": (TIRQwen, lambda llm: _drain(_responses(llm.astream_complete("Hello")))),
}


@pytest.mark.parametrize("name", ASYNC)
async def test_loop_goes_on(name: str) -> None:
    """While an asynchronous method waits for the server, the event loop goes on."""
    face, call = ASYNC[name]
    goes_on = threading.Event()
    seen: list[bool] = []

    async def tick() -> None:
        while len(server.received) == 0:  # noqa: ASYNC110 - another thread's
            await asyncio.sleep(0.01)
        goes_on.set()

    def answer(request: Received) -> Iterator[bytes]:
        seen.append(goes_on.wait(10))
        yield stream("Good day!") if request.json()["stream"] else completion("Good day!")

    with Loopback(answer) as server:
        ticking = asyncio.create_task(tick())
        await call(local(face, server))
        await ticking
    assert seen == [True]


@pytest.mark.parametrize("face", FACES)
def test_many_threads(face: type[Model]) -> None:
    """One model answers many threads at once."""
    with Loopback(answer) as server, ThreadPoolExecutor(8) as pool:
        model = local(face, server)
        assert [*pool.map(lambda _: ask(model), range(24))] == ["Good day!"] * 24


@pytest.mark.parametrize("face", FACES)
def test_one_loop_after_another(face: type[Model]) -> None:
    """One model answers in several event loops one after another, and synchronously between them."""
    with Loopback(answer) as server:
        model = local(face, server)
        said = [asyncio.run(aask(model)), ask(model), asyncio.run(aask(model))]
    assert said == ["Good day!"] * 3


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "model_copy": lambda model: model.model_copy(),
}


@pytest.mark.parametrize("made", COPIES)
@pytest.mark.parametrize("face", FACES)
def test_copies(face: type[Model], made: str) -> None:
    """A copy, also one that went through a pickle, asks as the original does, with token, headers and parameters."""
    with Loopback(answer) as server:
        model = local(face, server, default_headers={"X-Tenant": HEADER}, temperature=0.5, max_retries=0)
        ask(model)
        twin = COPIES[made](model)
        assert ask(twin) == asyncio.run(aask(twin)) == ask(model) == "Good day!"

    first, *others = [(one.target, one.headers, one.json()) for one in server.received]
    assert first[1]["authorization"] == f"Bearer {TOKEN}"
    assert first[1]["x-tenant"] == HEADER
    assert first[2]["temperature"] == 0.5
    for target, headers, body in others:
        assert (target, body) == (first[0], first[2])
        assert {**headers, "content-length": ""} == {**first[1], "content-length": ""}


@pytest.mark.parametrize("face", FACES)
def test_deepcopy_with_a_client_of_the_user(face: type[Model]) -> None:
    """A deep copy of a model with a client of the user uses that client too."""
    lab = Lab()
    twin = copy.deepcopy(face(**PRIVATE, http_client=lab.client()))
    assert ask(twin) == "Good day!"
    assert len(lab.requests) == 1


@pytest.mark.parametrize("face", FACES)
def test_pickle_with_a_client_of_the_user(face: type[Model]) -> None:
    """Pickling a model with a client of the user, which may fail, leaves the model itself as it was."""
    client = Lab().client()
    model = face(**PRIVATE, http_client=client)
    with suppress(TypeError, pickle.PicklingError):
        pickle.dumps(model)
    assert model.http_client is client


PROGRAM = """
import asyncio, sys
from langchain_tir_qwen import ChatTIRQwen
async def main():
    model = ChatTIRQwen(base_url=sys.argv[1])
    return await model.abatch(["Hello"] * 4)
print(*(answer.content for answer in asyncio.run(main())))
"""


def test_nothing_is_left_open() -> None:
    """A program that ends as soon as its answers are there leaves no connection to the garbage collector."""
    with Loopback(answer) as server:
        command = [sys.executable, "-X", "dev", "-c", PROGRAM, server.base_url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "Good day! Good day! Good day! Good day!\n"
    assert "ResourceWarning" not in done.stderr
