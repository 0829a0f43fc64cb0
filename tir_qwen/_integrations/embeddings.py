"""The constructor parameters of both embedding models, as pydantic fields, and their calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction
from typing import Any

from pydantic import Field, field_validator

from .._client.embeddings.arguments import check_texts
from ..types import Embeddings, Usage
from .connection import ConnectionSettings

DEFAULT_EMBEDDING_MODEL = "e5-mistral-7b-instruct"
"""The embedding model that TIR's user guides name."""


class EmbeddingSettings(ConnectionSettings):
    """The settings of an embedding model. Unset parameters are not sent, so the server's defaults apply."""

    dimensions: int | None = Field(default=None, ge=1)
    """Length of the vectors, for models that support several; unset: the model's, 4,096 for e5-mistral-7b-instruct."""
    query_instruction: str = ""
    """Text to put before each query, for models that are trained with one, such as e5-mistral-7b-instruct:
    `Instruct: Given a web search query, retrieve relevant passages that answer the query\\nQuery: `."""
    document_instruction: str = ""
    """Text to put before each document; e5-mistral-7b-instruct needs none."""
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1)
    """Keep only this many tokens of each text; -1: as many as the model allows. A parameter of vLLM that TIR does not
    document. Unset: a text that is too long for the model is an error."""
    batch_size: int = Field(default=32, ge=1)
    """Maximum number of texts in one request. A request that is too large for the server is sent again in halves."""
    max_concurrency: int = Field(default=8, ge=1)
    """Maximum number of concurrent requests of one call."""
    on_usage: Callable[[Usage], object] | None = Field(default=None, repr=False, exclude=True)
    """Called with the token counts of each call, such as `{"prompt_tokens": 12, "total_tokens": 12}`, if the server
    reports them; by the thread or in the event loop that made the call."""

    @field_validator("on_usage")
    @classmethod
    def _is_called_without_await(cls, value: Any) -> Any:
        if iscoroutinefunction(value):
            raise ValueError("must be a function that is not asynchronous")
        return value

    def _embed(self, texts: Sequence[str], instruction: str) -> list[list[float]]:
        return self._vectors(self._client.embed(_with(instruction, texts), **self._embedding_params()))

    async def _aembed(self, texts: Sequence[str], instruction: str) -> list[list[float]]:
        return self._vectors(await self._async_client.embed(_with(instruction, texts), **self._embedding_params()))

    def _embedding_params(self) -> dict[str, Any]:
        """Return the parameters of a call; subclasses add those that their framework names differently."""
        return {
            "dimensions": self.dimensions,
            "truncate_prompt_tokens": self.truncate_prompt_tokens,
            "batch_size": self.batch_size,
            "max_concurrency": self.max_concurrency,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
        }

    def _vectors(self, answer: Embeddings) -> list[list[float]]:
        if self.on_usage is not None and answer.usage is not None:
            self.on_usage(answer.usage)
        return answer.vectors


def _with(instruction: str, texts: Sequence[str]) -> Sequence[str]:
    check_texts(texts)  # a string would become a list of its letters
    return [instruction + text for text in texts] if instruction else texts
