"""Embedding models of both frameworks: no credential shows, copies keep them, and what is passed is checked."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from typing import Any

import pytest

from langchain_tir_qwen import TIREmbeddings
from llama_index_tir_qwen import TIREmbedding
from tests.support.embedding_server import embeds, vector_of
from tests.support.secrets import HEADER, KEY, PROJECT, SETTINGS, TOKEN, hunted, leaked, logged, shown, written
from tests.support.server import Loopback, record_waits, response
from tir_qwen import ConfigurationError, TIRError, Usage

FACES: tuple[Any, ...] = (TIREmbeddings, TIREmbedding)
faces = pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
ways = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def query(model: Any, asynchronous: bool) -> list[float]:
    """Embed a query by the framework's method."""
    name = "embed_query" if isinstance(model, TIREmbeddings) else "get_query_embedding"
    return asyncio.run(getattr(model, f"a{name}")("a")) if asynchronous else getattr(model, name)("a")


async def anote(usage: Usage) -> None:
    """Note token counts, asynchronously."""


@faces
def test_what_a_model_shows(face: Any) -> None:
    """The reprs, dumps and copies of a model show no credential, in whichever way they were set."""
    model = face(**SETTINGS, base_url="https://host.invalid")
    model.max_retries = 0
    twins = [model, copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    told = [written(twin) for twin in twins]
    told += [f"{twin.model_dump()} {twin.model_dump_json()} {twin._client} {twin._async_client}" for twin in twins]
    assert leaked("\n".join(told)) == []


@faces
@ways
def test_copies_keep_the_credentials(face: Any, asynchronous: bool) -> None:
    """A copy, also through pickle, sends the same credentials."""
    with Loopback(embeds) as server:
        model = face(**SETTINGS, base_url=server.url)
        for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert query(twin, asynchronous) == vector_of("a")
    for request in server.requests:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert request.headers["x-team"] == HEADER
        assert f"/project/p-{PROJECT}/genai/e5-mistral-7b-instruct/v1/embeddings?" in request.target
        assert f"apikey={KEY}" in request.target


@faces
@ways
@pytest.mark.parametrize("status", ["401 Unauthorized", "400 Bad Request", "503 Service Unavailable", "200 OK"])
def test_errors_and_logs(
    face: Any, asynchronous: bool, status: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors, the locals of their frames, and logs hold no credential, whatever the server repeats."""
    record_waits(monkeypatch)

    def gossip(request: Any) -> list[bytes]:
        return [response({"error": f"no {request.headers} {request.target}"}, status)]

    with Loopback(gossip) as server, caplog.at_level(logging.DEBUG), pytest.raises(TIRError) as caught:
        query(face(**SETTINGS, base_url=server.url), asynchronous)
    assert hunted(caught.value) == []
    assert leaked(shown(caught.value)) == []
    assert leaked(logged(caplog)) == []


@faces
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"dimension": 3}, "there is no argument 'dimension' (did you mean 'dimensions'?)."),
        ({"batch_size": 0}, "batch_size: input should be greater than or equal to 1."),
        ({"text_instruction": "passage: "}, "there is no argument 'text_instruction' (use document_instruction)."),
        ({"stop_sequences": ["x"]}, "there is no argument 'stop_sequences'."),
        ({"dimensions": True}, "dimensions: must be a number, not True."),
        ({"openai_api_key": TOKEN}, "there is no argument 'openai_api_key' (use api_key)."),
        (
            {"check_embedding_ctx_length": False},
            "there is no argument 'check_embedding_ctx_length' (delete it: text is sent as it is, never as token ids).",
        ),
        ({"temperature": 0.5}, "there is no argument 'temperature'."),
        ({"on_usage": anote}, "on_usage: must be a function that is not asynchronous."),
    ],
)
def test_malformed_arguments(face: Any, argument: dict[str, Any], words: str) -> None:
    """A malformed argument is named, without its value, with a hint where there is one."""
    with pytest.raises(ConfigurationError) as caught:
        face(project_id=1, api_key="token", **argument)
    assert str(caught.value) == f"{face.__name__}: {words}"
    assert hunted(caught.value) == []


def embedded(model: Any, name: str, value: Any) -> Any:
    """Call a method of a model, synchronous or not."""
    found = getattr(model, name)(value)
    return asyncio.run(found) if asyncio.iscoroutine(found) else found


@pytest.mark.parametrize("instruction", ["", "passage: "], ids=["plain", "instruction"])
@pytest.mark.parametrize(
    ("face", "method", "value", "words"),
    [
        (TIREmbeddings, "embed_documents", "text", "texts must be a list of strings."),
        (TIREmbeddings, "aembed_documents", iter(["a"]), "texts must be a list of strings."),
        (TIREmbeddings, "embed_documents", None, "texts must be a list of strings."),
        (TIREmbeddings, "embed_documents", ["a", None], "texts[1] must be a string, not NoneType."),
        (TIREmbeddings, "aembed_query", 5, "texts[0] must be a string, not int."),
        (TIREmbedding, "get_text_embedding_batch", ["a", b"b"], "texts[1] must be a string, not bytes."),
        (TIREmbedding, "aget_query_embedding", ["a"], "texts[0] must be a string, not list."),
    ],
)
def test_malformed_texts(face: Any, method: str, value: Any, words: str, instruction: str) -> None:
    """Texts are checked before an instruction is put before them: a string is not taken for a list of its letters."""
    with Loopback(embeds) as server:
        model = face(base_url=server.base_url, query_instruction=instruction, document_instruction=instruction)
        with pytest.raises(ConfigurationError) as caught:
            embedded(model, method, value)
    assert (str(caught.value), server.requests) == (words, [])
