"""Smoke test of an installed package, run by the interpreter of a clean environment with its extras.

    python -I tests/support/wheel_smoke.py [langchain] [llama-index] [ray]

Needs the standard library and the installed package alone, so that nothing hides a dependency that is not declared.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from operator import itemgetter
from pathlib import Path

import tir_qwen
from tir_qwen import AsyncClient, Client
from tir_qwen.testing import FakeEndpoint, Reply, Request

FACES = {"langchain": "langchain_tir_qwen", "llama-index": "llama_index_tir_qwen"}
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
CITY = {"name": "Paris"}
WORDS = ["It", " is", " Paris", "."]


def answer(request: Request) -> Reply:
    """Answer with a tool call if tools are offered, an object if one is requested, else a sentence."""
    asked = request.json()
    if asked.get("tools"):
        return Reply(reasoning="Hm.", tool_calls=[("City", CITY)], usage=USAGE)
    if asked.get("response_format"):
        return Reply(reasoning="Hm.", json=CITY, usage=USAGE)
    return Reply("It is Paris.", reasoning="Hm.", usage=USAGE)


def same(found: object, expected: object) -> None:
    """Fail if the two values differ."""
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")


def installed() -> None:
    """Check that the installed package is used, is typed, and has a consistent version."""
    for package in ("tir_qwen", *FACES.values()):
        place = Path(str(files("tir_qwen"))).parent / package
        same(place.is_relative_to(sys.prefix), True)
        same((place / "py.typed").is_file(), True)
    same(tir_qwen.__version__, version("tir-qwen"))


def command(url: str) -> None:
    """Check that the command `tir-qwen` is installed and that its doctor finds the endpoint usable."""
    program = str(Path(sys.executable).parent / "tir-qwen")
    same(run(program, "--version"), f"{tir_qwen.__version__}\n")
    same("doctor" in run(program, "--help"), True)
    report = json.loads(run(program, "doctor", "--json", "--base-url", url))
    same(report["usable"], True)


def run(*arguments: str) -> str:
    """Run a program that must succeed; return what it prints."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    same((done.returncode, done.stderr), (0, ""))
    return done.stdout


def transport(url: str) -> None:
    """Check both clients, whole and streamed."""

    async def asynchronously() -> None:
        async with AsyncClient(base_url=url) as client:
            same((await client.complete(MESSAGES)).content, "It is Paris.")
            same("".join([delta.content async for delta in client.stream(MESSAGES)]), "It is Paris.")

    with Client(base_url=url) as client:
        completion = client.complete(MESSAGES)
        same((completion.content, completion.reasoning), ("It is Paris.", "Hm."))
        same({**(completion.usage or {}), **USAGE}, completion.usage)
        deltas = list(client.stream(MESSAGES))
        same([delta.content for delta in deltas if delta.content], WORDS)
        same({**(deltas[-1].usage or {}), **USAGE}, deltas[-1].usage)
    asyncio.run(asynchronously())


def absent(face: str) -> None:
    """Check that an integration without its framework says what to install."""
    try:
        import_module(FACES[face])
    except ModuleNotFoundError as error:
        same(str(error).partition(": ")[2], f"pip install {face}-core")
    else:
        raise AssertionError(f"{FACES[face]} can be imported without its extra")


def langchain(url: str) -> None:
    """Check LangChain: answers, streams, tools and objects."""
    from pydantic import BaseModel

    from langchain_tir_qwen import ChatTIRQwen

    class City(BaseModel):
        """A city."""

        name: str

    async def asynchronously() -> None:
        same((await model.ainvoke("?")).content, "It is Paris.")
        same("".join([str(chunk.content) async for chunk in model.astream("?")]), "It is Paris.")

    model = ChatTIRQwen(base_url=url)
    answer = model.invoke("?")
    same((answer.content, answer.additional_kwargs), ("It is Paris.", {"reasoning_content": "Hm."}))
    same(answer.usage_metadata and answer.usage_metadata["total_tokens"], 8)
    same([chunk.content for chunk in model.stream("?") if chunk.content], WORDS)
    asyncio.run(asynchronously())
    calls = model.bind_tools([City]).invoke("?").tool_calls
    same([(call["name"], call["args"]) for call in calls], [("City", CITY)])
    same(model.with_structured_output(City).invoke("?"), City(name="Paris"))
    same(list(model.with_structured_output(City).stream("?"))[-1], City(name="Paris"))


def llama_index(url: str) -> None:
    """Check LlamaIndex: answers, streams, tools and objects."""
    from llama_index.core.llms import ChatMessage
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools import FunctionTool
    from pydantic import BaseModel

    from llama_index_tir_qwen import TIRQwen

    class City(BaseModel):
        """A city."""

        name: str

    async def asynchronously() -> None:
        same((await llm.acomplete("?")).text, "It is Paris.")
        responses = [response async for response in await llm.astream_chat([ChatMessage("?")])]
        same("".join(response.delta or "" for response in responses), "It is Paris.")

    def city(name: str) -> str:
        return name

    llm = TIRQwen(api_base=url)
    same(llm.complete("?").text, "It is Paris.")
    deltas = [response.delta for response in llm.stream_chat([ChatMessage("?")])]
    same([delta for delta in deltas if delta], WORDS)
    asyncio.run(asynchronously())
    tool = FunctionTool.from_defaults(fn=city, name="City")
    selections = llm.get_tool_calls_from_response(llm.chat_with_tools([tool], user_msg="?"))
    same([(selection.tool_name, selection.tool_kwargs) for selection in selections], [("City", CITY)])
    same(llm.structured_predict(City, PromptTemplate("?")), City(name="Paris"))


def ray(url: str) -> None:
    """Check Ray: a chain is sent to a worker of a local Ray and answers a data set there."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DATA_DISABLE_PROGRESS_BARS="1")
    ray = import_module("ray")
    data = import_module("ray.data")
    from langchain_core.runnables import RunnableLambda

    from langchain_tir_qwen import ChatTIRQwen
    from langchain_tir_qwen.batches import AnswerBatch

    chain = RunnableLambda(itemgetter("prompt")) | ChatTIRQwen(base_url=url)
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # where Ray's sockets have names short enough
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH=f"{folder}/token")
    ray.init(num_cpus=2, include_dashboard=False, _temp_dir=folder, log_to_driver=False, logging_level="ERROR")
    try:
        rows = data.from_items([{"prompt": str(number)} for number in range(4)])
        workers = data.ActorPoolStrategy(size=1)
        answered = rows.map_batches(AnswerBatch, fn_constructor_args=(chain,), batch_size=2, compute=workers).take_all()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    said = sorted((row["prompt"], row["response"], row["reasoning"]) for row in answered)
    same(said, [(str(number), "It is Paris.", "Hm.") for number in range(4)])


def main(extras: list[str]) -> None:
    """Check everything that an environment with these extras must be able to do."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)
    with FakeEndpoint(default=answer) as endpoint:
        url = f"{endpoint.base_url}/v1"
        installed()
        command(url)
        transport(url)
        checks: dict[str, Callable[[str], None]] = {"langchain": langchain, "llama-index": llama_index, "ray": ray}
        has = {*extras, "langchain"} if "ray" in extras else set(extras)
        for extra in FACES.keys() - has:
            absent(extra)
        for extra, check in checks.items():
            if extra in has:
                check(url)
        endpoint.check()


if __name__ == "__main__":
    main(sys.argv[1:])
