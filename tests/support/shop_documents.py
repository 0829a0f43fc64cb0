"""The rules of a shop as documents, and an embedding that needs no model."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import TextNode

RULES = {
    "warranty": "The kettle has a warranty of two years from the day of purchase. The warranty covers faults of"
    " material and workmanship. It does not cover limescale, drops, or use in a business.",
    "returns": "Goods that were not used can be sent back within 30 days. Write the number of the order on the parcel."
    " The refund is paid within five working days after the parcel has arrived.",
    "delivery": "Orders placed before noon leave the warehouse in Pune on the same day. Delivery takes two days to"
    " large cities and five days to all other places. Above 999 rupees it is free.",
    "care": "Remove limescale once a month: boil half a litre of water with two spoons of citric acid, wait for twenty"
    " minutes, and rinse twice. Never put the base into water.",
    "history": "The shop was founded in Pune in 1987 by Meera Joshi, who repaired stoves before she built her first"
    " kettle. Today it has 41 employees, and her daughter runs it.",
    "help desk": "The help desk answers calls on weekdays from 9 to 18 o'clock, in English, Hindi and Marathi. On"
    " public holidays it is closed.",
}
"""Paragraphs by name; only one of them answers a question."""

_DIMENSIONS = 512
_STOP_WORDS = {
    "a",
    "and",
    "are",
    "can",
    "for",
    "from",
    "has",
    "how",
    "in",
    "is",
    "it",
    "of",
    "on",
    "or",
    "the",
    "to",
    "what",
}


class HashedWords(BaseEmbedding):
    """Embeds texts by the hashes of their words: texts that share words are close."""

    def _embed(self, text: str) -> list[float]:
        vector = [0.0] * _DIMENSIONS
        for word in re.findall(r"\w+", text.lower()):
            if word not in _STOP_WORDS:
                vector[crc32(word.encode()) % _DIMENSIONS] += 1
        length = math.hypot(*vector) or 1
        return [value / length for value in vector]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed(text)


def documents() -> list[Document]:
    """Return a document for each rule."""
    return [Document(text=text) for text in RULES.values()]


def nodes() -> list[TextNode]:
    """Return the rules as nodes."""
    return [TextNode(id_=name, text=text) for name, text in RULES.items()]


def vector_index() -> VectorStoreIndex:
    """Return an index of the rules."""
    return VectorStoreIndex.from_documents(documents(), embed_model=HashedWords())


def rules_in(text: str) -> list[str]:
    """Return the names of the rules that a prompt contains completely, in order."""
    return sorted((name for name, rule in RULES.items() if rule in text), key=lambda name: text.index(RULES[name]))


@dataclass(frozen=True)
class Way:
    """A method of an engine; `cassette` is the form of its response, whole or streamed."""

    name: str
    ask: Callable[..., Awaitable[Any]] = field(repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def streaming(self) -> bool:
        """Whether the answer is streamed."""
        return "stream" in self.name

    @property
    def cassette(self) -> str:
        return "stream" if self.streaming else "whole"

    async def __call__(self, engine: Any, question: str) -> tuple[str, list[str]]:
        """Ask; return the answer and its pieces."""
        return await self.ask(engine, question)


def assert_in_pieces(way: Way, pieces: list[str], answer: str) -> None:
    """Check that the pieces of a stream add up to the answer, and that a whole answer is a single piece."""
    assert "".join(pieces) == answer
    assert (len([piece for piece in pieces if piece]) > 3) is way.streaming


async def _query(engine: Any, question: str) -> tuple[str, list[str]]:
    answer = str(engine.query(question))
    return answer, [answer]


async def _aquery(engine: Any, question: str) -> tuple[str, list[str]]:
    answer = str(await engine.aquery(question))
    return answer, [answer]


async def _stream(engine: Any, question: str) -> tuple[str, list[str]]:
    response = engine.query(question)
    pieces = [*response.response_gen]
    return "".join(pieces), pieces


async def _astream(engine: Any, question: str) -> tuple[str, list[str]]:
    response = await engine.aquery(question)
    pieces = [piece async for piece in response.async_response_gen()]
    return str(response.response_txt), pieces


QUERIES = [Way("query", _query), Way("aquery", _aquery), Way("stream", _stream), Way("astream", _astream)]
"""Of a query engine."""


async def _chat(engine: Any, message: str) -> tuple[str, list[str]]:
    answer = str(engine.chat(message))
    return answer, [answer]


async def _achat(engine: Any, message: str) -> tuple[str, list[str]]:
    answer = str(await engine.achat(message))
    return answer, [answer]


async def _stream_chat(engine: Any, message: str) -> tuple[str, list[str]]:
    response = engine.stream_chat(message)
    pieces = [*response.response_gen]
    return str(response), pieces


async def _astream_chat(engine: Any, message: str) -> tuple[str, list[str]]:
    response = await engine.astream_chat(message)
    pieces = [piece async for piece in response.async_response_gen()]
    return str(response), pieces


CHATS = [
    Way("chat", _chat),
    Way("achat", _achat),
    Way("stream_chat", _stream_chat),
    Way("astream_chat", _astream_chat),
]
"""Of a chat engine."""
