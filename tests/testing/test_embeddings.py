"""The vectors of the fake endpoint: made of words, the same in each run, in the shape of vLLM."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tir_qwen.testing import FakeEndpoint, embed_words


def near(one: str, other: str) -> float:
    """Return the cosine of two texts' vectors."""
    return math.fsum(a * b for a, b in zip(embed_words(one), embed_words(other), strict=True))


def test_texts_with_words_in_common_are_near() -> None:
    """The passage with the words of a question is the nearest; the same words are one and the same vector."""
    question = "How long do refunds take?"
    passages = ["A refund takes 30 days.", "We ship tea to Pune.", "The office is closed on Sunday."]
    found = sorted(passages, key=lambda passage: near(question, passage), reverse=True)
    assert found[0] == passages[0]
    assert near(question, "how LONG do refunds take") == pytest.approx(1)
    assert near("", "") == 1


def test_vectors_are_the_same_in_each_run() -> None:
    """A vector depends on nothing but its text, so that stored ones stay valid."""
    vector = embed_words("green tea", 4)
    assert vector == pytest.approx([-0.196116, -0.588348, -0.784465, 0.0], abs=1e-6)
    assert math.fsum(value * value for value in vector) == pytest.approx(1)


def post(endpoint: FakeEndpoint, **body: Any) -> Any:
    """Return the answer to a request for embeddings."""
    content = json.dumps({"model": "embedder", **body}).encode()
    with urlopen(Request(f"{endpoint.base_url}/v1/embeddings", content, method="POST")) as response:
        return json.load(response)


def test_the_answer() -> None:
    """Texts are answered in order, in the shape of vLLM; a request for embeddings takes no answer of the script."""
    with FakeEndpoint() as endpoint:
        answer = post(endpoint, input=["a tea", "b"], dimensions=8)
        assert answer == {
            "object": "list",
            "data": [
                {"object": "embedding", "index": 0, "embedding": embed_words("a tea", 8)},
                {"object": "embedding", "index": 1, "embedding": embed_words("b", 8)},
            ],
            "model": "embedder",
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        }
        assert len(post(endpoint, input="a")["data"][0]["embedding"]) == 256
        assert len(endpoint.requests) == 2
        endpoint.check()


def test_base64_and_vectors_of_ones_own() -> None:
    """Base64 holds little-endian floats; a function replaces the built-in vectors."""
    with FakeEndpoint(embed=lambda text: [float(len(text)), 0.5]) as endpoint:
        (one,) = post(endpoint, input="tea", encoding_format="base64")["data"]
    assert struct.unpack("<2f", base64.b64decode(one["embedding"])) == (3.0, 0.5)
