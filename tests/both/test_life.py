"""One model used throughout its lifetime: across threads, event loops and copies, and with abandoned streams."""

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

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.fake_vllm import HEADER, PRIVATE, TOKEN, Lab
from tests.support.server import STREAM_HEAD, Loopback, completion, event, stream
from tir_qwen.testing import Request

Model = ChatTIRQwen | TIRQwen
HELLO = [ChatMessage("Hello")]
FACES = [ChatTIRQwen, TIRQwen]


def ask(model: Model) -> str:
    """Return a whole answer."""
    return str(model.invoke("Hello").content) if isinstance(model, ChatTIRQwen) else model.complete("Hello").text


async def aask(model: Model) -> str:
    """Return a whole answer, asynchronously."""
    if isinstance(model, ChatTIRQwen):
        return str((await model.ainvoke("Hello")).content)
    return (await model.acomplete("Hello")).text


def answer(_: Request) -> Iterator[bytes]:
    """Return the same answer to every request."""
    yield completion("Good day!")


def local(face: type[Model], server: Loopback, **settings: Any) -> Model:
    """Return a model of a local server."""
    return face(**{"base_url": server.base_url, "access_token": TOKEN, **settings})


def talkative(_: Request) -> Iterator[bytes]:
    """Return an endless answer."""
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
def test_leaving_a_stream_closes_its_connection(name: str) -> None:
    """Breaking out of a loop over a stream closes the connection, which makes the server stop."""
    face, begin = STREAMS[name]
    with Loopback(talkative) as server:
        for _ in begin(local(face, server)):
            break
        assert server.noticed()


@pytest.mark.parametrize("name", STREAMS)
def test_closed_early(name: str) -> None:
    """Closing a stream closes the connection, even if the stream object is still referenced."""
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
    """Breaking out of a loop over an asynchronous stream closes the connection while the event loop keeps running."""
    face, begin = ASYNC_STREAMS[name]
    with Loopback(talkative) as server:
        model = local(face, server)
        async for _ in begin(model):
            break
        assert await asyncio.to_thread(server.noticed)


@pytest.mark.parametrize("name", ASYNC_STREAMS)
async def test_cancelling_a_task_closes_the_connection(name: str) -> None:
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
    """The event loop keeps running while an asynchronous method waits for the server."""
    face, call = ASYNC[name]
    goes_on = threading.Event()
    seen: list[bool] = []

    async def tick() -> None:
        while len(server.requests) == 0:  # noqa: ASYNC110 - another thread's
            await asyncio.sleep(0.01)
        goes_on.set()

    def answer(request: Request) -> Iterator[bytes]:
        seen.append(goes_on.wait(10))
        yield stream("Good day!") if request.json()["stream"] else completion("Good day!")

    with Loopback(answer) as server:
        ticking = asyncio.create_task(tick())
        await call(local(face, server))
        await ticking
    assert seen == [True]


@pytest.mark.parametrize("face", FACES)
def test_many_threads(face: type[Model]) -> None:
    """One model can be used by many threads at once."""
    with Loopback(answer) as server, ThreadPoolExecutor(8) as pool:
        model = local(face, server)
        assert [*pool.map(lambda _: ask(model), range(24))] == ["Good day!"] * 24


@pytest.mark.parametrize("face", FACES)
def test_one_loop_after_another(face: type[Model]) -> None:
    """One model can be used in several event loops in turn, and synchronously in between."""
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
def test_a_copy_sends_the_same_requests(face: type[Model], made: str) -> None:
    """A copy, including an unpickled one, sends the same token, headers and parameters as the original."""
    with Loopback(answer) as server:
        model = local(face, server, default_headers={"X-Tenant": HEADER}, temperature=0.5, max_retries=0)
        ask(model)
        twin = COPIES[made](model)
        assert ask(twin) == asyncio.run(aask(twin)) == ask(model) == "Good day!"

    first, *others = [(one.target, one.headers, one.json()) for one in server.requests]
    assert first[1]["authorization"] == f"Bearer {TOKEN}"
    assert first[1]["x-tenant"] == HEADER
    assert first[2]["temperature"] == 0.5
    for target, headers, body in others:
        assert (target, body) == (first[0], first[2])
        assert {**headers, "content-length": ""} == {**first[1], "content-length": ""}


@pytest.mark.parametrize("face", FACES)
def test_deepcopy_with_a_client_of_the_user(face: type[Model]) -> None:
    """A deep copy of a model with a custom client uses the same client."""
    lab = Lab()
    twin = copy.deepcopy(face(**PRIVATE, http_client=lab.client()))
    assert ask(twin) == "Good day!"
    assert len(lab.requests) == 1


@pytest.mark.parametrize("face", FACES)
def test_pickle_with_a_client_of_the_user(face: type[Model]) -> None:
    """Pickling a model with a custom client leaves the model itself unchanged, even if it fails."""
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
    """A program that ends right after its last answer leaves no connection to the garbage collector."""
    with Loopback(answer) as server:
        command = [sys.executable, "-X", "dev", "-c", PROGRAM, server.base_url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "Good day! Good day! Good day! Good day!\n"
    assert "ResourceWarning" not in done.stderr
