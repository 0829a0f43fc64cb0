"""Decoding of vectors: numbers and base64, in any order, cut anywhere; what is malformed is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.embedding_server import answer_for, vector_of
from tir_qwen import ContextOverflowError, Embeddings, MalformedChunkError, ServerStreamError, TIRError
from tir_qwen._response.embeddings import EmbeddingDecoder

TEXTS = ["one", "two words", "नमस्ते"]
VECTORS = [vector_of(text) for text in TEXTS]


def decode(body: Any, count: int = 1, dimensions: int | None = None) -> Embeddings:
    """Decode a whole body."""
    decoder = EmbeddingDecoder(count, dimensions)
    decoder.feed(body if isinstance(body, bytes) else json.dumps(body).encode())
    return decoder.close()


@given(st.lists(st.integers(1, 40), max_size=30), st.sampled_from(["base64", "float"]))
def test_any_cut(sizes: list[int], encoding: str) -> None:
    """Vectors are the same in base64 and as numbers, in the order of the texts, however the body is cut."""
    body = json.dumps(answer_for({"input": TEXTS, "model": "m", "encoding_format": encoding})).encode()
    decoder = EmbeddingDecoder(len(TEXTS))
    for size in [*sizes, len(body)]:
        decoder.feed(body[:size])
        body = body[size:]
    assert decoder.close() == Embeddings(VECTORS, {"prompt_tokens": 4, "total_tokens": 4}, "m")


def item(embedding: Any, **facts: Any) -> dict[str, Any]:
    """Return an answer with one vector."""
    return {"data": [{"index": 0, "embedding": embedding}], **facts}


@pytest.mark.parametrize(
    ("body", "vectors"),
    [
        (item([1, 2.5]), [[1.0, 2.5]]),
        (item("AACAPwAAIEA="), [[1.0, 2.5]]),
        ({"data": [{"embedding": [1.0]}, {"embedding": [2.0]}]}, [[1.0], [2.0]]),
        (b"\xef\xbb\xbf\r\n" + json.dumps(item([1.0])).encode(), [[1.0]]),
    ],
    ids=["integers", "base64", "without numbers", "byte order mark"],
)
def test_shapes(body: Any, vectors: list[list[float]]) -> None:
    """Whole numbers become floats, and servers that do not number vectors are taken to send them in order."""
    found = decode(body, len(vectors))
    assert found == Embeddings(vectors, None, None)
    assert {type(number) for vector in found.vectors for number in vector} == {float}


@pytest.mark.parametrize(
    ("body", "count", "words"),
    [
        (b"", 1, "the server sent an empty answer"),
        (b'{"data": [', 1, "the answer is not JSON"),
        (b"<html>", 1, "the server sent an HTML or XML page instead of an answer"),
        ([], 1, "the answer has no list of vectors"),
        ({"data": [1]}, 1, "the answer has no list of vectors"),
        ({"choices": []}, 1, "the answer has no list of vectors"),
        (item([1.0]), 2, "the answer has 1 vectors for 2 texts"),
        ({"data": []}, 1, "the answer has 0 vectors for 1 texts"),
        (item([]), 1, "a vector of the answer is empty"),
        (item(""), 1, "a vector of the answer is empty"),
        (item(None), 1, "a vector of the answer is neither a list of numbers nor base64"),
        (item(["1"]), 1, "a vector of the answer is neither a list of numbers nor base64"),
        (item("AACA"), 1, "a vector of the answer is neither a list of numbers nor base64"),
        (item("AAC*PwAAIEA="), 1, "a vector of the answer is neither a list of numbers nor base64"),
        (b'{"data": [{"index": 0, "embedding": [1.0, NaN]}]}', 1, "a vector of the answer contains NaN or an infinite"),
        (item("AACAfwAAgH8="), 1, "a vector of the answer contains NaN or an infinite"),
        ({"data": [{"index": 0, "embedding": [1]}] * 2}, 2, "the vectors of the answer are not numbered from 0"),
        ({"data": [{"index": 1, "embedding": [1]}]}, 1, "the vectors of the answer are not numbered from 0"),
        ({"data": [{"index": 0, "embedding": [1]}, {"embedding": [1]}]}, 2, "the vectors of the answer are not numb"),
        ({"data": [{"embedding": [1, 2]}, {"embedding": [1]}]}, 2, "the vectors of the answer differ in length"),
    ],
)
def test_malformed(body: Any, count: int, words: str) -> None:
    """A body without one vector of finite numbers for each text is an error, never a guess."""
    with pytest.raises(MalformedChunkError) as caught:
        decode(body, count)
    assert str(caught.value).startswith(words)
    assert not caught.value.is_retryable


def test_ignored_dimensions() -> None:
    """Vectors of another length than requested are an error, since a store would refuse or mix them."""
    with pytest.raises(MalformedChunkError, match="the server ignored dimensions: a vector has 3 numbers instead of 2"):
        decode(item([1, 2, 3]), dimensions=2)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"message": "engine died", "code": 500}}, ServerStreamError),
        ({"object": "error", "message": "engine died"}, ServerStreamError),
        ({"error": "This model's maximum context length is 512 tokens."}, ContextOverflowError),
    ],
)
def test_errors_with_status_200(body: Any, kind: type[TIRError]) -> None:
    """An error that comes with status 200 is raised as such."""
    with pytest.raises(kind):
        decode(body)


def test_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not end does not fill the memory."""
    monkeypatch.setattr("tir_qwen._response.embeddings.MAX_BODY_BYTES", 100)
    with pytest.raises(MalformedChunkError, match="the answer is larger than 100 bytes"):
        decode(b" " * 101)
