"""Embeddings without a model: texts that share words have similar vectors."""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

DIMENSIONS = 256
Embed = Callable[[str], list[float]]
"""Returns the vector of a text."""


def embed_words(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Return a vector of length 1, computed from the words of `text` and parts of them.

    The same text has the same vector in each run. The more words two texts share, the more similar their vectors are,
    so retrieval finds the passage that contains the words of a question. Synonyms are not similar.
    """
    vector = [0.0] * dimensions
    for feature, weight in _features(text):
        place = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest(), "little")
        vector[place // 2 % dimensions] += weight if place % 2 else -weight
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector] if length else [1.0, *vector[1:]]


def _features(text: str) -> Iterator[tuple[str, float]]:
    for word in re.findall(r"\w+", text.lower()):
        yield word, 1.0
        yield from ((word[start : start + 4], 0.25) for start in range(len(word) - 3))  # similar: refund, refunds


def embeddings(body: dict[str, Any], embed: Embed | None) -> dict[str, Any]:
    """Return the answer to a request for embeddings, in the shape of vLLM and OpenAI."""
    texts = [str(text) for text in (body["input"] if isinstance(body["input"], list) else [body["input"]])]
    dimensions = body.get("dimensions") or DIMENSIONS
    data = []
    for index, text in enumerate(texts):
        vector: Any = embed(text) if embed else embed_words(text, dimensions)
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    count = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": body.get("model"), "usage": usage}
