"""`TIREmbedding`: what LlamaIndex's indexes, pipelines, retrievers and events make of it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import Field

from llama_index_tir_qwen import TIREmbedding, TIRQwen
from tests.support.cassette_fixtures import Server
from tests.support.embedding_server import embeds, vector_of
from tests.support.server import Loopback, completion
from tir_qwen import ContextOverflowError

NAMES = ("kettle", "stove", "parcel")


@pytest.fixture
def server_of_vectors() -> Iterator[Loopback]:
    """Run a server of embeddings."""
    with Loopback(embeds) as server:
        yield server


@pytest.fixture
def model(server_of_vectors: Loopback) -> TIREmbedding:
    """Return a model on it."""
    return TIREmbedding(api_base=server_of_vectors.base_url)


@pytest.mark.embeddings
@pytest.mark.cassettes("llama_index")
async def test_vllm(server: Server) -> None:
    """A real vLLM's vectors are the same for texts and queries, sync and async."""
    model = TIREmbedding(**server.settings, dimensions=32)
    (vector,) = model.get_text_embedding_batch(["hello"])
    others = [model.get_text_embedding("hello"), model.get_query_embedding("hello")]
    others += [await model.aget_text_embedding("hello"), await model.aget_query_embedding("hello")]
    assert len(vector) == 32
    for other in others:
        assert other == pytest.approx(vector, abs=1e-6)


@pytest.mark.embeddings
@pytest.mark.cassettes("llama_index")
def test_vllm_refuses_a_text_that_is_too_long(server: Server) -> None:
    """A text that exceeds a real vLLM's context is an error, or is cut."""
    with pytest.raises(ContextOverflowError, match=r"texts\[0\] is too long, with 3000 characters"):
        TIREmbedding(**server.settings).get_text_embedding("word " * 600)
    model = TIREmbedding(**server.settings, truncate_prompt_tokens=-1)
    assert len(model.get_text_embedding("word " * 600)) == 192


async def test_all_methods(server_of_vectors: Loopback) -> None:
    """Texts and queries are sent after their instructions by each of core's methods; batches keep their order."""
    model = TIREmbedding(
        api_base=server_of_vectors.base_url,
        query_instruction="Query: ",
        document_instruction="Text: ",
        embed_batch_size=40,
        batch_size=7,
    )
    texts = [f"{number}" for number in range(100)]
    wanted = [vector_of(f"Text: {text}") for text in texts]
    assert model.get_query_embedding("a") == await model.aget_query_embedding("a") == vector_of("Query: a")
    assert model.get_text_embedding("0") == await model.aget_text_embedding("0") == wanted[0]
    before = len(server_of_vectors.requests)
    assert model.get_text_embedding_batch(texts) == wanted
    assert await model.aget_text_embedding_batch(texts) == wanted
    sizes = [len(request.json()["input"]) for request in server_of_vectors.requests[before:]]
    assert sorted(sizes) == sorted(2 * [7, 7, 7, 7, 7, 5, 7, 7, 7, 7, 7, 5, 7, 7, 6])


async def test_an_index(model: TIREmbedding) -> None:
    """A vector index finds the text that is asked for, sync and async."""
    index = VectorStoreIndex.from_documents([Document(text=name) for name in NAMES], embed_model=model)
    retriever = index.as_retriever(similarity_top_k=1)
    found = [retriever.retrieve("stove"), await retriever.aretrieve("parcel")]
    assert [[one.text for one in each] for each in found] == [["stove"], ["parcel"]]


async def test_a_pipeline(model: TIREmbedding) -> None:
    """An ingestion pipeline gives each node its vector, sync and async."""
    documents = [Document(text=name) for name in NAMES]
    pipeline = IngestionPipeline(transformations=[SentenceSplitter(), model], disable_cache=True)
    for nodes in (pipeline.run(documents=documents), await pipeline.arun(documents=documents)):
        assert [node.embedding for node in nodes] == [vector_of(name) for name in NAMES]


def test_the_settings_of_core(model: TIREmbedding, server_of_vectors: Loopback) -> None:
    """With both models in core's `Settings`, a question is answered from the nearest text."""
    with Loopback(lambda _: [completion("Two years.")]) as server_of_answers:
        Settings.embed_model, Settings.llm = model, TIRQwen(api_base=server_of_answers.base_url)
        try:
            index = VectorStoreIndex([TextNode(text=name) for name in NAMES])
            answer = index.as_query_engine(similarity_top_k=1).query("kettle")
        finally:
            Settings._embed_model = Settings._llm = None
    assert str(answer) == "Two years."
    assert "kettle" in str(server_of_answers.requests[0].json()["messages"])
    assert [request.json()["input"] for request in server_of_vectors.requests] == [[*NAMES], ["kettle"]]


class Ended(BaseEventHandler):
    """Records the ends of embeddings."""

    noted: list[EmbeddingEndEvent] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, EmbeddingEndEvent):
            self.noted.append(event)


async def test_events(server_of_vectors: Loopback) -> None:
    """Callbacks and core's instrumentation learn each batch once, with its vectors."""
    dispatcher, ended, debug = get_dispatcher(), Ended(), LlamaDebugHandler(print_trace_on_end=False)
    model = TIREmbedding(api_base=server_of_vectors.base_url, callback_manager=CallbackManager([debug]))
    dispatcher.add_event_handler(ended)
    try:
        model.get_text_embedding_batch([*NAMES])
        await model.aget_text_embedding_batch([*NAMES])
    finally:
        dispatcher.event_handlers.remove(ended)
    payloads = [pair[-1].payload or {} for pair in debug.get_event_pairs(CBEventType.EMBEDDING)]
    vectors = [vector_of(name) for name in NAMES]
    assert [payload[EventPayload.EMBEDDINGS] for payload in payloads] == [vectors] * 2
    assert [(event.chunks, event.embeddings) for event in ended.noted] == [([*NAMES], vectors)] * 2


def test_the_cache_of_core(server_of_vectors: Loopback) -> None:
    """Texts in core's cache of embeddings are not sent again."""
    model = TIREmbedding(api_base=server_of_vectors.base_url, embeddings_cache=SimpleKVStore())
    for _ in range(2):
        assert model.get_text_embedding_batch([*NAMES]) == [vector_of(name) for name in NAMES]
    assert len(server_of_vectors.requests) == 1


def test_copies_and_dumps(server_of_vectors: Loopback) -> None:
    """A pickled copy has the token and works; a dump has no token, and restores the rest."""
    secret = "t0ken-canary"
    model = TIREmbedding(api_base=server_of_vectors.base_url, api_key=secret, model="m", dimensions=4, batch_size=5)
    twin = pickle.loads(pickle.dumps(model))
    assert twin.get_text_embedding("a") == vector_of("a")
    assert server_of_vectors.requests[0].headers["authorization"] == f"Bearer {secret}"
    assert secret not in f"{model!r} {model} {model.to_dict()} {model.to_json()} {model.to_payload()}"
    restored = TIREmbedding.from_dict(model.to_dict(), api_key="other", api_base=server_of_vectors.base_url)
    assert (restored.model_name, restored.dimensions, restored.batch_size) == ("m", 4, 5)
    assert (type(restored).class_name(), restored.api_key) == ("TIREmbedding", "other")
