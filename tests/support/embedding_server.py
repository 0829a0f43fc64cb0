"""Answers of a server of embeddings: a vector for each text that shows which text it belongs to."""

from __future__ import annotations

from array import array
from base64 import b64encode
from typing import Any
from zlib import crc32

from tests.support.server import response
from tir_qwen.testing import Request

MODEL = "e5-mistral-7b-instruct"
LENGTH = 4


def vector_of(text: str) -> list[float]:
    """Return the vector of a text, whose numbers 32-bit floats can hold."""
    return [float(crc32(f"{number}{text}".encode()) >> 12) for number in range(LENGTH)]


def answer_for(body: dict[str, Any], length: int = LENGTH) -> dict[str, Any]:
    """Return the answer to a request, as numbers or in base64, in an order of its own."""
    is_base64 = body.get("encoding_format") == "base64"
    items = [
        {"object": "embedding", "index": index, "embedding": _written(vector_of(text)[:length], is_base64)}
        for index, text in enumerate(body["input"])
    ]
    count = sum(len(text.split()) for text in body["input"])
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"id": "embd-1", "object": "list", "model": body["model"], "data": items[::-1], "usage": usage}


def embeds(request: Request) -> list[bytes]:
    """Answer a request."""
    return [response(answer_for(request.json()))]


def _written(vector: list[float], is_base64: bool) -> Any:
    return b64encode(array("f", vector).tobytes()).decode() if is_base64 else vector
