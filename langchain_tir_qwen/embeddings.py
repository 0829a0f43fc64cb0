"""`TIREmbeddings`: an embedding model on E2E Networks' TIR as LangChain embeddings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from pydantic import AliasChoices, ConfigDict, Field

from tir_qwen._integrations import ExtraBody, construct
from tir_qwen._integrations.embeddings import DEFAULT_EMBEDDING_MODEL, EmbeddingSettings

from ._error_conversion import raises_langchain_errors
from ._token import Token, plain_token, secret_from_env


class TIREmbeddings(EmbeddingSettings, Embeddings):
    """An embedding model on E2E Networks' TIR, or on any OpenAI-compatible server.

    Texts are sent as text, never as token ids. One instance can be shared by any number of threads, tasks and event
    loops. A list of texts is divided into requests of `batch_size` texts; `max_concurrency` of them run concurrently.

    ```python
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_tir_qwen import TIREmbeddings

    store = InMemoryVectorStore(TIREmbeddings(project_id=6530, access_token="..."))
    store.add_texts(["Paris is the capital of France.", "Lima is the capital of Peru."])
    print(store.similarity_search("Which city is the capital of France?", k=2)[0].page_content)
    ```

    Raises:
        ConfigurationError: An argument is unknown, missing or malformed; nothing was sent.
        TIRError: (when called) See `tir_qwen.TIRError`. Each is also an exception of `langchain_core.exceptions`.
    """

    model: str = DEFAULT_EMBEDDING_MODEL
    """Name of the embedding model, sent in the path and the body. TIR's dashboard lists the available ones; vectors of
    different models cannot be compared."""
    access_token: Token | None = Field(
        default_factory=lambda: secret_from_env("E2E_TIR_ACCESS_TOKEN"),
        validation_alias=AliasChoices("access_token", "api_key", "tir_access_token"),
        exclude=True,
    )
    """Auth Token of the project, also as `api_key`; environment `E2E_TIR_ACCESS_TOKEN`. Not needed with a complete base
    URL on this machine."""
    base_url: str | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_BASE_URL"),
        validation_alias=AliasChoices("base_url", "api_base"),
        repr=False,
        exclude=True,
    )
    """A complete base URL, including the path (a dedicated endpoint, your own server), or only a host; also as
    `api_base`; environment `E2E_TIR_BASE_URL`, or `MODEL_API_CLIENT_HOST` for a host. Default:
    `https://infer.e2enetworks.net`."""
    batch_size: int = Field(default=32, ge=1, validation_alias=AliasChoices("batch_size", "chunk_size"))
    """Maximum number of texts in one request, also as `chunk_size`. A request that is too large for the server is sent
    again in halves."""
    extra_body: ExtraBody = None
    """Further fields of the request body; they take precedence over all others."""
    http_client: Any = Field(default=None, repr=False, exclude=True)
    """A client of httpx or httpx2 for synchronous calls, with its own connection pool; never closed or pickled."""
    http_async_client: Any = Field(default=None, repr=False, exclude=True)
    """An `AsyncClient` of httpx or httpx2 for asynchronous calls."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True, defer_build=False)

    if not TYPE_CHECKING:  # type checkers derive the signature from the fields

        def __init__(self, **kwargs: Any) -> None:
            construct(self, super().__init__, kwargs)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of texts, in the same order; an empty text is embedded as a space."""
        with raises_langchain_errors():
            return self._embed(texts, self.document_instruction)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        with raises_langchain_errors():
            return self._embed([text], self.query_instruction)[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of texts, asynchronously; see `embed_documents`."""
        with raises_langchain_errors():
            return await self._aembed(texts, self.document_instruction)

    async def aembed_query(self, text: str) -> list[float]:
        """Return the vector of a query, asynchronously."""
        with raises_langchain_errors():
            return (await self._aembed([text], self.query_instruction))[0]

    def _client_settings(self) -> dict[str, Any]:
        return {
            **super()._client_settings(),
            "model": self.model,
            "access_token": plain_token(self.access_token),
            "base_url": self.base_url,
        }

    def _own_http_clients(self) -> tuple[Any, Any]:
        return self.http_client, self.http_async_client

    def _embedding_params(self) -> dict[str, Any]:
        return {**super()._embedding_params(), "model": self.model, "extra_body": self.extra_body}
