"""Embeds 10,000 texts on a server that kills connections: is any vector lost, doubled or swapped?

python -m stress.embeddings [TEXTS]

Every seventh request loses its connection: before the answer, within it, or by a TCP reset. Both clients and both
integrations embed the same texts, and each vector shows which text it belongs to.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator

from langchain_tir_qwen import TIREmbeddings
from llama_index_tir_qwen import TIREmbedding
from tests.support.embedding_server import MODEL, answer_for, vector_of
from tests.support.server import HangUpError, Loopback, response
from tir_qwen import AsyncClient, Client
from tir_qwen.testing import Request

Embed = Callable[[list[str]], list[list[float]]]


class Killer(Loopback):
    """A server that kills every seventh connection, in one of three ways."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.killed = 0
        super().__init__(self._answer)

    def _answer(self, request: Request) -> Iterator[bytes]:
        number = next(self._numbers)
        whole = response(answer_for(request.json()))
        if number % 7 != 6:
            yield whole
            return
        self.killed += 1
        if number % 3 == 1:
            self.reset_connection()
        if number % 3 == 2:
            yield whole[: len(whole) // 2]
        raise HangUpError


def subjects(base_url: str) -> dict[str, Embed]:
    """Return what embeds, by name."""
    client, aclient = Client(base_url=base_url, max_retries=6), AsyncClient(base_url=base_url, max_retries=6)
    langchain = TIREmbeddings(base_url=base_url, model=MODEL, max_retries=6)
    llama_index = TIREmbedding(api_base=base_url, model=MODEL, max_retries=6)
    return {
        "Client": lambda texts: client.embed(texts, model=MODEL).vectors,
        "AsyncClient": lambda texts: asyncio.run(aclient.embed(texts, model=MODEL)).vectors,
        "TIREmbeddings": langchain.embed_documents,
        "TIREmbeddings, async": lambda texts: asyncio.run(langchain.aembed_documents(texts)),
        "TIREmbedding": llama_index.get_text_embedding_batch,
        "TIREmbedding, async": lambda texts: asyncio.run(llama_index.aget_text_embedding_batch(texts)),
    }


def main(count: int) -> int:
    """Embed with each; print what came back, and return the number of those that failed."""
    logging.getLogger("tir_qwen").setLevel(logging.ERROR)
    texts = [f"text number {number}" for number in range(count)]
    wanted = [vector_of(text) for text in texts]
    failures = 0
    for name in subjects("http://127.0.0.1:9/v1"):
        with Killer() as server:
            began = time.monotonic()
            found = subjects(server.base_url)[name](texts)
            seconds = time.monotonic() - began
        wrong = sum(one != other for one, other in zip(found, wanted, strict=True))
        failures += bool(wrong)
        print(
            f"{name:22} {len(found)} vectors, {wrong} wrong; {len(server.requests)} requests,"
            f" {server.killed} connections killed; {seconds:.1f} s"
        )
    return failures


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
