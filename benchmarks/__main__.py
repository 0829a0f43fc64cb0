"""What each layer adds to a streamed chunk, in CPU time, as ratios to the HTTP engine and a JSON parser alone.

Runs are taken in turn and the median counts, so that a noisy machine disturbs all layers alike.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import httpx2
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from llama_index.core.llms import ChatMessage
from pydantic_core import from_json

from demo.replay import ReplayServer
from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tir_qwen import Client

CHUNKS = 2000
ROUNDS = 7
QUESTION = [{"role": "user", "content": "Count."}]
HEAD = '{"id":"chatcmpl-fac93c60-a0c4-4fc8-9b75-bb41d8838e90","object":"chat.completion.chunk","created":1770613777,'
HEAD += '"model":"qwen3_32b","choices":[{"index":0,"delta":'


def response() -> bytes:
    """A stream of vLLM's shape: events of about 220 bytes, each its own HTTP chunk."""
    deltas = ['{"role":"assistant","content":""}', *['{"content":" token"}'] * CHUNKS]
    events = [f'data: {HEAD}{delta},"logprobs":null,"finish_reason":null}}]}}\n\n' for delta in deltas]
    events += [f'data: {HEAD}{{}},"logprobs":null,"finish_reason":"stop"}}]}}\n\n', "data: [DONE]\n\n"]
    body = b"".join(b"%x\r\n%b\r\n" % (len(event), event.encode()) for event in events)
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        + body
        + b"0\r\n\r\n"
    )


class Floor(BaseChatModel):
    """What LangChain itself costs: a model whose chunks are at hand."""

    def _stream(self, *args: object, **kwargs: object) -> Iterator[ChatGenerationChunk]:
        for _ in range(CHUNKS):
            yield ChatGenerationChunk(message=AIMessageChunk(content=" token"))

    def _generate(self, *args: object, **kwargs: object) -> ChatResult:
        raise NotImplementedError

    @property
    def _llm_type(self) -> str:
        return "floor"


def raw(url: str) -> Callable[[], int]:
    """The HTTP engine and a JSON parser, with the bytes split by hand."""
    client = httpx2.Client()

    def run() -> int:
        count, rest = 0, b""
        with client.stream("POST", url, json={}) as answer:
            for data in answer.iter_raw():
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    if event != b"data: [DONE]":
                        from_json(event[6:])
                        count += 1
        return count

    return run


def layers(url: str) -> dict[str, Callable[[], int]]:
    """The things to measure, by name."""
    client = Client(base_url=f"{url}/v1")
    model = ChatTIRQwen(base_url=f"{url}/v1")
    llm = TIRQwen(api_base=f"{url}/v1")
    floor = Floor()
    return {
        "httpx2 + JSON": raw(f"{url}/v1"),
        "tir_qwen.Client.stream": lambda: sum(1 for _ in client.stream(QUESTION)),
        "LangChain's floor": lambda: sum(1 for _ in floor.stream("Count.")),
        "ChatTIRQwen.stream": lambda: sum(1 for _ in model.stream("Count.")),
        "TIRQwen.stream_chat": lambda: sum(1 for _ in llm.stream_chat([ChatMessage("Count.")])),
    }


def measure(run: Callable[[], int]) -> float:
    """CPU microseconds of this process per chunk."""
    gc.collect()
    start = time.process_time()
    run()
    return (time.process_time() - start) / CHUNKS * 1e6


def main() -> None:
    """Start a server of its own process, and print the medians."""
    if sys.argv[1:] == ["serve"]:
        raw_response = response()
        with ReplayServer(lambda _: [raw_response]) as server:
            print(server.url, flush=True)
            sys.stdin.read()
        return
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server_process:
        assert server_process.stdout is not None
        runs = layers(server_process.stdout.readline().strip())
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(ROUNDS + 1):
            for name, run in runs.items():
                if number:  # the first round warms up
                    taken[name].append(measure(run))
                else:
                    run()
        server_process.terminate()
    base = statistics.median(taken["httpx2 + JSON"])
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {CHUNKS} chunks, median of {ROUNDS} runs\n")
    print(f"{'':24}{'us/chunk':>9}{'ratio':>8}   {'min':>6} to {'max':>6}")
    for name, values in taken.items():
        median = statistics.median(values)
        print(f"{name:24}{median:9.1f}{median / base:8.2f}   {min(values):6.1f} to {max(values):6.1f}")


if __name__ == "__main__":
    main()
