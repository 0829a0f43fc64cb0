"""Requests for embeddings are recorded and played like those for answers, and vectors stay whole."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Loopback, completion, response
from tir_qwen import APIStatusError, Client
from tir_qwen.testing import FakeEndpoint, Recording, Request, play, record
from tir_qwen.testing._folding import compact, fold

HELLO = [{"role": "user", "content": "Hello"}]


def base64_of(*vector: float) -> str:
    """Return a vector as servers send it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def test_embeddings(tmp_path: Path) -> None:
    """Embeddings are forwarded to their own address, stored in base64 as they came, and played beside answers."""

    def answer(request: Request) -> list[bytes]:
        if "input" not in request.json():
            return [completion("Hi!")]
        items = [{"object": "embedding", "index": i, "embedding": base64_of(i, 0.5)} for i in range(2)]
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        return [response(compact({"object": "list", "data": items, "usage": usage}).encode())]

    def ask(endpoint: FakeEndpoint) -> tuple[list[list[float]], dict[str, Any], str]:
        with Client(**endpoint.settings) as client:
            embedded = client.embed(["tea", "I am canary-token."], model="minilm")
            return (
                [[*vector] for vector in embedded.vectors],
                dict(embedded.usage or {}),
                client.complete(HELLO).content,
            )

    path = tmp_path / "kept.json"
    with (
        Loopback(answer) as server,
        record(path, base_url=server.url, access_token="canary-token", project_id=77771) as endpoint,
    ):
        asked = ask(endpoint)
        targets = [request.path for request in server.requests]

    assert asked == ([[0.0, 0.5], [1.0, 0.5]], {"prompt_tokens": 3, "total_tokens": 3}, "Hi!")
    assert targets == [
        "/project/p-77771/genai/minilm/v1/embeddings",
        "/project/p-77771/genai/qwen3_32b/v1/chat/completions",
    ]
    kept = Recording.load(path).exchanges[0]
    assert kept["request"] == {"model": "minilm", "input": ["tea", "I am ***."], "encoding_format": "base64"}
    assert [item["embedding"] for item in kept["json"]["data"]] == [base64_of(0, 0.5), base64_of(1, 0.5)]
    with play(path) as endpoint, Client(**endpoint.settings) as client:
        assert [[*vector] for vector in client.embed(["tea", "I am ***."], model="minilm").vectors] == asked[0]
        assert client.complete(HELLO).content == "Hi!"


def test_vectors_are_not_made_up(tmp_path: Path) -> None:
    """A request for embeddings that is not recorded is an error, as for answers."""
    unknown = r"410 Gone: Request 1 got no answer: LookupError: it is not recorded. The nearest of 1 differs in .*input"
    Recording(exchanges=[{"request": {"model": "minilm", "input": ["coffee"]}}]).save(tmp_path / "kept.json")
    with (
        pytest.raises(AssertionError, match=r"\+ input\[0\]: \"tea\""),
        play(tmp_path / "kept.json") as endpoint,
        Client(**endpoint.settings) as client,
        pytest.raises(APIStatusError, match=unknown),
    ):
        client.embed(["tea"], model="minilm")


def test_a_vector_contains_no_secret() -> None:
    """What looks like a secret in the base64 of a vector is left alone, so that the vector stays whole."""
    item = {"object": "embedding", "index": 0, "embedding": "AA/77771+AAA"}
    body = compact({"data": [item], "model": "of 77771"})
    assert fold(body, ["77771"]) == {"json": {"data": [item], "model": "of ***"}}
