"""`TIREmbeddings`: LangChain's own tests, on a recorded vLLM, and what they do not cover."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.exceptions import ContextOverflowError, ModelNotFoundError
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_tir_qwen import TIREmbeddings
from tests.support.cassette_fixtures import Server
from tests.support.embedding_server import MODEL, embeds, vector_of
from tests.support.server import Loopback
from tir_qwen import Usage


class TestUnit(EmbeddingsUnitTests):
    """`TIREmbeddings` meets LangChain's requirements without a server."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return TIREmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"project_id": 1234, "api_key": "token"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return (
            {"E2E_TIR_ACCESS_TOKEN": "token", "E2E_TIR_PROJECT_ID": "1234", "E2E_TIR_BASE_URL": "https://tir.invalid"},
            {},
            {"access_token": "token", "project_id": "1234", "base_url": "https://tir.invalid"},
        )


@pytest.mark.embeddings
@pytest.mark.cassettes("standard")
class TestIntegration(EmbeddingsIntegrationTests):
    """`TIREmbeddings` meets LangChain's requirements on a recorded server."""

    @pytest.fixture
    def model(self, server: Server) -> Embeddings:
        return TIREmbeddings(**server.settings)

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return TIREmbeddings


@pytest.mark.embeddings
@pytest.mark.cassettes("langchain")
async def test_vllm(server: Server) -> None:
    """A real vLLM's vectors are the same for documents and queries, in base64, cut to the dimensions asked for."""
    counted: list[Usage] = []
    model = TIREmbeddings(**server.settings, dimensions=32, on_usage=counted.append)
    vectors = model.embed_documents(["hello", "", "नमस्ते 🎉"])
    assert [len(vector) for vector in vectors] == [32] * 3
    assert await model.aembed_query("hello") == pytest.approx(vectors[0], abs=1e-6)
    assert sum(number**2 for number in vectors[0]) == pytest.approx(1, abs=1e-6)
    assert [body["encoding_format"] for body in server.bodies] == ["base64"] * 2
    assert counted == [server.frames(number)[0]["usage"] for number in (0, 1)]


@pytest.mark.embeddings
@pytest.mark.cassettes("langchain")
def test_vllm_refuses_a_text_that_is_too_long(server: Server) -> None:
    """A text that exceeds a real vLLM's context is named by its position, as LangChain's exception too; or is cut."""
    texts = ["short", "word " * 600]
    with pytest.raises(ContextOverflowError, match=r"texts\[1\] is too long, with 3000 characters"):
        TIREmbeddings(**server.settings).embed_documents(texts)
    model = TIREmbeddings(**server.settings, truncate_prompt_tokens=-1)
    assert [len(vector) for vector in model.embed_documents(texts)] == [192, 192]


@pytest.mark.embeddings
@pytest.mark.cassettes("langchain")
def test_vllm_does_not_know_the_model(server: Server) -> None:
    """A model that the endpoint does not have is a NotFoundError, LangChain's too."""
    with pytest.raises(ModelNotFoundError, match="404 Not Found"):
        TIREmbeddings(**server.settings, model="nope").embed_query("hello")


async def test_instructions_and_settings_are_sent() -> None:
    """Queries and documents are sent after their instructions, with all other settings, sync and async."""
    settings = {"dimensions": 4, "truncate_prompt_tokens": 9, "extra_body": {"user": "u"}, "chunk_size": 2}
    with Loopback(embeds) as server:
        model = TIREmbeddings(
            model="m",
            base_url=server.base_url,
            query_instruction="Query: ",
            document_instruction="Document: ",
            **settings,
        )
        queries = [model.embed_query("a"), await model.aembed_query("a")]
        documents = [model.embed_documents(["a", "b", "c"]), await model.aembed_documents(["a", "b", "c"])]
    assert queries == [vector_of("Query: a")] * 2
    assert documents == [[vector_of(f"Document: {text}") for text in "abc"]] * 2
    bodies = [request.json() for request in server.requests]
    sent = {"model": "m", "encoding_format": "base64", "dimensions": 4, "truncate_prompt_tokens": 9, "user": "u"}
    assert [{name: body[name] for name in body if name != "input"} for body in bodies] == [sent] * 6
    assert sorted(len(body["input"]) for body in bodies) == [1, 1, 1, 1, 2, 2]


async def test_a_vector_store() -> None:
    """LangChain's vector stores find the text that is asked for, sync and async."""
    documents = [Document(name) for name in ("kettle", "stove", "parcel")]
    with Loopback(embeds) as server:
        store = InMemoryVectorStore(TIREmbeddings(model=MODEL, base_url=server.base_url))
        store.add_documents(documents[:2])
        await store.aadd_documents(documents[2:])
        retriever = store.as_retriever(search_kwargs={"k": 1})
        found = [retriever.invoke("stove"), await retriever.ainvoke("parcel")]
    assert [[document.page_content for document in each] for each in found] == [["stove"], ["parcel"]]
