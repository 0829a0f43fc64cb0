"""The CPU cost of embedding texts, beside raw httpx2 with JSON and beside OpenAI's integrations.

python -m benchmarks.embeddings [TEXTS]

A server in a process of its own answers with recorded vectors of 1,024 numbers, in base64 or as numbers, whichever is
requested. Printed are microseconds of CPU per text, and their ratio to raw httpx2; the smallest of five rounds.
OpenAI's: `pip install langchain-openai llama-index-embeddings-openai`; what is not installed is left out.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from array import array
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection

import httpx2

from langchain_tir_qwen import TIREmbeddings
from llama_index_tir_qwen import TIREmbedding
from tir_qwen import AsyncClient, Client
from tir_qwen.testing import Request
from tir_qwen.testing._server import LoopbackServer

LENGTH, BATCH, ROUNDS = 1024, 32, 5
MODEL = "e5-mistral-7b-instruct"
Embed = Callable[[list[str]], list[list[float]]]


@cache
def _answer(count: int, is_base64: bool) -> bytes:
    numbers = array("f", (0.01 * number - 5 for number in range(LENGTH)))
    vector = b64encode(numbers.tobytes()).decode() if is_base64 else numbers.tolist()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
    usage = {"prompt_tokens": count, "total_tokens": count}
    body = json.dumps({"object": "list", "model": MODEL, "data": data, "usage": usage}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def _reply(request: Request) -> list[bytes]:
    body = request.json()
    return [_answer(len(body["input"]), body.get("encoding_format") == "base64")]


def _serve(connection: Connection) -> None:
    with LoopbackServer(_reply) as server:
        connection.send(f"{server.url}/v1")
        connection.recv()


def _raw(base_url: str) -> Embed:
    client = httpx2.Client()

    def embed(texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for at in range(0, len(texts), BATCH):
            body = {"model": MODEL, "input": texts[at : at + BATCH]}
            answer = client.post(f"{base_url}/embeddings", json=body).json()
            vectors += [item["embedding"] for item in answer["data"]]
        return vectors

    return embed


def subjects(base_url: str) -> dict[str, Embed]:
    """Return what is measured, by name: everything sends requests of 32 texts."""
    client, aclient = Client(base_url=base_url), AsyncClient(base_url=base_url)
    langchain, llama_index = TIREmbeddings(base_url=base_url), TIREmbedding(api_base=base_url)
    found: dict[str, Embed] = {
        "httpx2 + json": _raw(base_url),
        "Client, one request at a time": lambda texts: client.embed(texts, model=MODEL, max_concurrency=1).vectors,
        "Client": lambda texts: client.embed(texts, model=MODEL).vectors,
        "AsyncClient": lambda texts: asyncio.run(aclient.embed(texts, model=MODEL)).vectors,
        "TIREmbeddings": langchain.embed_documents,
        "TIREmbedding": llama_index.get_text_embedding_batch,
    }
    with suppress(ImportError):
        openai = import_module("langchain_openai").OpenAIEmbeddings(
            api_key="token", base_url=base_url, model=MODEL, chunk_size=BATCH, check_embedding_ctx_length=False
        )
        found["OpenAIEmbeddings"] = openai.embed_documents
    with suppress(ImportError):
        openai = import_module("llama_index.embeddings.openai").OpenAIEmbedding(
            api_key="token", api_base=base_url, model_name=MODEL, embed_batch_size=BATCH
        )
        found["OpenAIEmbedding"] = openai.get_text_embedding_batch
    return found


def _cost(embed: Embed, texts: list[str]) -> float:
    began = time.process_time()
    assert len(embed(texts)) == len(texts)
    return (time.process_time() - began) * 1e6 / len(texts)


def main(count: int) -> None:
    """Measure, and print a table."""
    texts = [f"text number {number} about kettles and their warranty" for number in range(count)]
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    measured = subjects(ours.recv())
    costs: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(1 + ROUNDS):  # the first one warms up
        for name, embed in measured.items():
            costs[name].append(_cost(embed, texts))
    raw = min(costs["httpx2 + json"][1:])
    for name, rounds in costs.items():
        print(f"{name:32} {min(rounds[1:]):7.1f} us of CPU per text  x {min(rounds[1:]) / raw:.2f}")
    ours.send(None)
    process.join()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024)
