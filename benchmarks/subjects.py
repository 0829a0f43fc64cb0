"""The subjects to measure, by name. Each is created in its own process and imports there what it needs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from .work import Seen, Work


class Subject(Protocol):
    """A client or model to measure."""

    def stream(self, work: Work) -> Seen:
        """Consume a stream."""

    async def astream(self, work: Work) -> Seen:
        """Consume a stream, asynchronously."""

    def call(self, work: Work) -> Seen:
        """Request a non-streaming answer."""

    async def acall(self, work: Work) -> Seen:
        """Request a non-streaming answer, asynchronously."""


_PEER = {"model": "qwen3_32b", "api_key": "token"}


def make_openai(base_url: str, **more: Any) -> Any:
    """`ChatOpenAI`."""
    return import_module("langchain_openai").ChatOpenAI(base_url=base_url, stream_usage=True, **_PEER, **more)


def make_mistral(base_url: str, **more: Any) -> Any:
    """`ChatMistralAI`."""
    return import_module("langchain_mistralai").ChatMistralAI(base_url=base_url, **_PEER, **more)


def make_openai_like(base_url: str) -> Any:
    """`OpenAILike`."""
    like = import_module("llama_index.llms.openai_like").OpenAILike
    return like(api_base=base_url, is_chat_model=True, is_function_calling_model=True, **_PEER)


def make_chat_tir_qwen(base_url: str, **more: Any) -> Any:
    """`ChatTIRQwen`."""
    return import_module("langchain_tir_qwen").ChatTIRQwen(base_url=base_url, **more)


def make_tir_qwen(base_url: str) -> Any:
    """`TIRQwen`."""
    return import_module("llama_index_tir_qwen").TIRQwen(api_base=base_url)


def _raw(engine: str) -> Callable[[str], Subject]:
    def make(base_url: str) -> Subject:
        subject: Subject = import_module(".plain", __package__).Raw(base_url, engine)
        return subject

    return make


def _ours(base_url: str) -> Subject:
    subject: Subject = import_module(".plain", __package__).Ours(base_url)
    return subject


def _floor(framework: str, *, on_engine: bool = False) -> Callable[[str], Subject]:
    def make(base_url: str) -> Subject:
        engine = _raw("httpx2")(base_url) if on_engine else None
        subject: Subject = import_module(f".on_{framework}", __package__).Floor(engine)
        return subject

    return make


def _langchain(make_model: Callable[..., Any]) -> Callable[[str], Subject]:
    def make(base_url: str) -> Subject:
        subject: Subject = import_module(".on_langchain", __package__).Model(
            lambda **more: make_model(base_url, **more)
        )
        return subject

    return make


def _llama_index(make_llm: Callable[[str], Any]) -> Callable[[str], Subject]:
    def make(base_url: str) -> Subject:
        subject: Subject = import_module(".on_llama_index", __package__).Model(lambda: make_llm(base_url))
        return subject

    return make


RAW, RAW_HTTPX = "httpx2 + JSON", "httpx + JSON"
CLIENT = "tir_qwen client"
LANGCHAIN_FLOOR, LANGCHAIN = "LangChain's floor", "ChatTIRQwen"
LLAMA_INDEX_FLOOR, LLAMA_INDEX = "LlamaIndex's floor", "TIRQwen"
LANGCHAIN_LEAST, LLAMA_INDEX_LEAST = "httpx2 in LangChain", "httpx2 in LlamaIndex"
OPENAI, MISTRAL, LIKE = "ChatOpenAI", "ChatMistralAI", "OpenAILike"
ON_HTTPX = " on httpx"
"""Suffix for the names of our own subjects on the other engine."""

SUBJECTS: dict[str, Callable[[str], Subject]] = {
    RAW: _raw("httpx2"),
    RAW_HTTPX: _raw("httpx"),
    CLIENT: _ours,
    LANGCHAIN_FLOOR: _floor("langchain"),
    LANGCHAIN_LEAST: _floor("langchain", on_engine=True),
    LANGCHAIN: _langchain(make_chat_tir_qwen),
    OPENAI: _langchain(make_openai),
    MISTRAL: _langchain(make_mistral),
    LLAMA_INDEX_FLOOR: _floor("llama_index"),
    LLAMA_INDEX_LEAST: _floor("llama_index", on_engine=True),
    LLAMA_INDEX: _llama_index(make_tir_qwen),
    LIKE: _llama_index(make_openai_like),
}
"""By name: functions that create a subject for the server's base URL."""
