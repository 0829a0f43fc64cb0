"""Decoder of the response to a request for vectors: bytes in, vectors out."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from collections.abc import Sequence
from math import isfinite
from typing import Any

from pydantic_core import from_json

from ..errors import MalformedChunkError
from ..types import JSON, Embeddings
from .reported import read_usage
from .response import MAX_BODY_BYTES, PREFIX
from .server_errors import error_from_frame


class EmbeddingDecoder:
    """Decodes the body of one response: call `feed` with its bytes as they arrive, then `close`."""

    __slots__ = ("_body", "_count", "_dimensions", "_request", "_secrets")

    def __init__(
        self, count: int, dimensions: int | None = None, secrets: tuple[str, ...] = (), request: bytes = b""
    ) -> None:
        """Start without a body.

        Args:
            count: How many vectors there must be.
            dimensions: How many numbers each of them must have; None: any, but all the same.
            secrets: Strings to redact in errors.
            request: The content of the request, which no error repeats.
        """
        self._body = bytearray()
        self._count = count
        self._dimensions = dimensions
        self._secrets = secrets
        self._request = request

    def feed(self, data: bytes) -> None:
        """Add bytes of the body.

        Raises:
            MalformedChunkError: The body is too large.
        """
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            raise MalformedChunkError(f"the answer is larger than {MAX_BODY_BYTES} bytes")

    def close(self) -> Embeddings:
        """Return the vectors, in the order of the texts.

        Raises:
            MalformedChunkError: The body is not an answer, or does not have one vector of finite numbers for each text.
            ServerStreamError: The body is an error.
        """
        answer = self._parse()
        vectors: list[list[float]] = [[]] * self._count
        items = answer["data"]
        if len(items) != self._count:
            raise MalformedChunkError(f"the answer has {len(items)} vectors for {self._count} texts")
        for place, item in zip(_places(items), items, strict=True):
            vectors[place] = _read_vector(item.get("embedding"))
        lengths = {len(vector) for vector in vectors}
        if self._dimensions is not None and lengths != {self._dimensions}:
            raise MalformedChunkError(
                f"the server ignored dimensions: a vector has {max(lengths)} numbers instead of {self._dimensions}"
            )
        if len(lengths) != 1:
            raise MalformedChunkError("the vectors of the answer differ in length")
        model = answer.get("model")
        return Embeddings(vectors, read_usage(answer.get("usage")), model if isinstance(model, str) else None)

    def _parse(self) -> JSON:
        body = bytes(self._body).lstrip(PREFIX)
        self._body.clear()
        if body.startswith(b"<"):
            raise MalformedChunkError("the server sent an HTML or XML page instead of an answer")
        try:
            answer = from_json(body)
        except ValueError:
            raise MalformedChunkError("the answer is not JSON" if body else "the server sent an empty answer") from None
        data = answer.get("data") if isinstance(answer, dict) else None
        if isinstance(data, list) and all(isinstance(item, dict) for item in data):
            return {**answer, "data": data}
        if isinstance(answer, dict) and ("error" in answer or answer.get("object") == "error"):
            raise error_from_frame(answer, self._secrets, self._request, begun=False)
        raise MalformedChunkError("the answer has no list of vectors")


def _places(items: Sequence[JSON]) -> Sequence[int]:
    """Return which text each vector belongs to; servers that do not number vectors send them in order."""
    indexes: list[Any] = [item.get("index") for item in items]
    if all(index is None for index in indexes):
        return range(len(items))
    if not all(type(index) is int for index in indexes) or sorted(indexes) != [*range(len(items))]:
        raise MalformedChunkError("the vectors of the answer are not numbered from 0, each once")
    return indexes


def _read_vector(vector: Any) -> list[float]:
    """Return a vector, which is a list of numbers, or little-endian 32-bit floats in base64."""
    try:
        if isinstance(vector, str):
            numbers = array("f", b64decode(vector, validate=True))
            if sys.byteorder == "big":
                numbers.byteswap()
        else:
            numbers = array("d", vector)
    except (ValueError, TypeError, OverflowError):
        raise MalformedChunkError("a vector of the answer is neither a list of numbers nor base64") from None
    if not numbers:
        raise MalformedChunkError("a vector of the answer is empty")
    if not isfinite(sum(numbers)):
        raise MalformedChunkError("a vector of the answer contains NaN or an infinite number")
    return numbers.tolist()
