"""`TIREmbedding`: an embedding model on E2E Networks' TIR as a LlamaIndex embedding model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import AliasChoices, ConfigDict, Field

from tir_qwen._integrations import ExtraBody, construct
from tir_qwen._integrations.embeddings import DEFAULT_EMBEDDING_MODEL, EmbeddingSettings


class TIREmbedding(BaseEmbedding, EmbeddingSettings):
    """An embedding model on E2E Networks' TIR, or on any OpenAI-compatible server.

    Texts are sent as text, never as token ids. One instance can be shared by any number of threads, tasks and event
    loops.

    ```python
    from llama_index.core import Document, Settings, VectorStoreIndex
    from llama_index_tir_qwen import TIREmbedding

    Settings.embed_model = TIREmbedding(project_id=6530, api_key="...")
    texts = ["Paris is the capital of France.", "Lima is the capital of Peru."]
    index = VectorStoreIndex.from_documents([Document(text=text) for text in texts])
    for found in index.as_retriever(similarity_top_k=2).retrieve("Which city is the capital of France?"):
        print(found.score, found.text)
    ```

    Core passes `embed_batch_size` texts at a time, which are divided into requests of `batch_size` texts.

    Raises:
        ConfigurationError: An argument is unknown, missing or malformed; nothing was sent.
        TIRError: (when called) See `tir_qwen.TIRError`.
    """

    model_name: str = Field(default=DEFAULT_EMBEDDING_MODEL, validation_alias=AliasChoices("model_name", "model"))
    """Name of the embedding model, also as `model`, sent in the path and the body. TIR's dashboard lists the available
    ones; vectors of different models cannot be compared."""
    # A plain string: core's `to_json` cannot serialize a SecretStr, and pickling one would lose the token.
    api_key: str | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_ACCESS_TOKEN"),
        validation_alias=AliasChoices("api_key", "access_token"),
        repr=False,
        exclude=True,
    )
    """Auth Token of the project, also as `access_token`; environment `E2E_TIR_ACCESS_TOKEN`. Not needed with a complete
    base URL on this machine."""
    api_base: str | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_BASE_URL"),
        validation_alias=AliasChoices("api_base", "base_url"),
        repr=False,
        exclude=True,
    )
    """A complete base URL, including the path (a dedicated endpoint, your own server), or only a host; also as
    `base_url`; environment `E2E_TIR_BASE_URL`, or `MODEL_API_CLIENT_HOST` for a host. Default:
    `https://infer.e2enetworks.net`."""
    embed_batch_size: int = Field(default=256, gt=0, le=2048)
    """Number of texts that core passes at a time, with one event for all of them."""
    num_workers: int | None = 4
    """Number of batches of `embed_batch_size` texts that core's asynchronous methods pass concurrently."""
    additional_kwargs: ExtraBody = None
    """Further fields of the request body; they take precedence over all others."""
    http_client: Any = Field(default=None, repr=False, exclude=True)
    """A client of httpx or httpx2 for synchronous calls, with its own connection pool; never closed or pickled."""
    async_http_client: Any = Field(default=None, repr=False, exclude=True)
    """An `AsyncClient` of httpx or httpx2 for asynchronous calls."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True, defer_build=False)

    if not TYPE_CHECKING:  # type checkers derive the signature from the fields

        def __init__(self, **kwargs: Any) -> None:
            kwargs.pop("class_name", None)  # core adds it to every dump
            construct(self, super().__init__, kwargs)

    @classmethod
    def class_name(cls) -> str:
        """The name under which core serializes the class."""
        return "TIREmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed([query], self.query_instruction)[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._aembed([query], self.query_instruction))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed([text], self.document_instruction)[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aembed([text], self.document_instruction))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, self.document_instruction)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._aembed(texts, self.document_instruction)

    def _client_settings(self) -> dict[str, Any]:
        return {
            **super()._client_settings(),
            "model": self.model_name,
            "access_token": self.api_key,
            "base_url": self.api_base,
        }

    def _own_http_clients(self) -> tuple[Any, Any]:
        return self.http_client, self.async_http_client

    def _embedding_params(self) -> dict[str, Any]:
        return {**super()._embedding_params(), "model": self.model_name, "extra_body": self.additional_kwargs}
