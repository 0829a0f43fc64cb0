"""Asynchronous streams that are abandoned, and garbage-collected, in any way: nothing is written to stderr."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle

import pytest

from tests.support.server import DONE, END, STREAM_HEAD, HangUpError, Loopback, event, said
from tir_qwen.testing import Request

OBJECT = '{"city": "Paris", "country": "France"}'
UNCHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def chunked() -> Iterator[bytes]:
    """Stream an object in a chunked body, which is read directly from the connection."""
    yield STREAM_HEAD
    yield from map(event, OBJECT)
    yield event("", "stop") + DONE + END


def unchunked() -> Iterator[bytes]:
    """Stream an object in a body without a length, which is read through the engine."""
    yield UNCHUNKED_HEAD
    yield from map(said, OBJECT)
    yield said("", "stop") + b"data: [DONE]\n\n"
    raise HangUpError


WAYS = """
import asyncio, gc, sys
from contextlib import suppress

gc.disable()  # so that what is in a reference cycle is collected at once, by `main`
base_url = sys.argv[1]

async def leave(stream):
    async for _ in stream:
        break

async def leave_in_a_cycle(stream):
    cycle = [stream]
    cycle.append(cycle)
    await leave(stream)

async def fail(stream):
    try:
        async for _ in stream:
            raise KeyError
    except KeyError as error:
        kept = error  # a reference cycle, with the frames in the traceback
        raise

async def be_cancelled(stream):
    async def read():
        try:
            async for _ in stream:
                started.set()
                await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            kept = error
            raise

    started = asyncio.Event()
    task = asyncio.ensure_future(read())
    await started.wait()
    task.cancel()
    await task

async def outlive_the_loop(stream):
    await anext(stream)
    left.append(stream)

left = []

async def main(begin, way):
    for _ in range(2):  # one response is chunked, the other is not
        with suppress(KeyError, asyncio.CancelledError):
            await way(await begin())
        gc.collect()
        await asyncio.sleep(0.02)

def run(*streams):
    for begin in streams:
        for way in (leave, leave_in_a_cycle, fail, be_cancelled, outlive_the_loop):
            asyncio.run(main(begin, way))
"""
CLIENT = """
from tir_qwen import AsyncClient

question = [{"role": "user", "content": "Hello"}]

async def stream():
    return AsyncClient(base_url=base_url).stream(question)

async def structured_stream():
    schema = {"type": "json_schema", "json_schema": {"name": "Place", "schema": {"type": "object"}}}
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    return AsyncClient(base_url=base_url).stream(question, response_format=schema, tools=[tool])

run(stream, structured_stream)
"""
LANGCHAIN = """
from langchain_tir_qwen import ChatTIRQwen

async def astream():
    return ChatTIRQwen(base_url=base_url).astream("Hello")

async def chain_astream():
    return (ChatTIRQwen(base_url=base_url) | (lambda message: message)).astream("Hello")

run(astream, chain_astream)
"""
LLAMA_INDEX = """
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from llama_index_tir_qwen import TIRQwen

class Place(BaseModel):
    city: str
    country: str

llm = TIRQwen(api_base=base_url)
run(
    lambda: llm.astream_chat([ChatMessage("Hello")]),
    lambda: llm.astream_complete("Hello"),
    lambda: llm.astream_structured_predict(Place, PromptTemplate("Hello")),
)
"""
AGENT = """
from llama_index.core.agent.workflow import FunctionAgent

from llama_index_tir_qwen import TIRQwen

class Failing(TIRQwen):
    def get_tool_calls_from_response(self, response, **kwargs):
        if response.message.content:
            raise KeyError
        return super().get_tool_calls_from_response(response, **kwargs)

def look_up(city: str) -> str:
    "Look up a city."
    return city

async def run_agents():
    for _ in range(4):
        with suppress(KeyError):
            await FunctionAgent(llm=Failing(api_base=base_url), tools=[look_up]).run("Hello")
        gc.collect()
        await asyncio.sleep(0.02)

asyncio.run(run_agents())
"""


@pytest.mark.parametrize(
    "program", [CLIENT, LANGCHAIN, LLAMA_INDEX, AGENT], ids=["client", "langchain", "llama_index", "agent"]
)
def test_an_abandoned_stream_is_closed_without_complaints(program: str) -> None:
    """However a stream is abandoned, asyncio reports nothing on stderr."""
    framings = cycle([chunked, unchunked])

    def answer(_: Request) -> Iterator[bytes]:
        return next(framings)()

    with Loopback(answer) as server:
        command = [sys.executable, "-c", WAYS + program, server.base_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
