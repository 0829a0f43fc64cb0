"""The pytest plugin of `tir_qwen.testing`: its fixtures.

It is a module of its own, and imports `tir_qwen` and the frameworks within the fixtures, since pytest loads it in every
project of an environment, also in those that have nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from langchain_tir_qwen import ChatTIRQwen
    from llama_index_tir_qwen import TIRQwen
    from tir_qwen.testing import FakeEndpoint


@pytest.fixture
def tir_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    """A `tir_qwen.testing.FakeEndpoint` that answers with what the test adds to it, whole or streamed.

    The environment variables name it, so code that creates its own models asks it too, and nothing asks a live
    endpoint. The test fails at its end if a request got no answer, or if nobody asked for an answer.
    """
    from tir_qwen.testing import FakeEndpoint

    with FakeEndpoint() as endpoint:
        for name in ("MODEL_API_CLIENT_HOST", "E2E_TIR_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in endpoint.environment.items():
            monkeypatch.setenv(name, value)
        yield endpoint
        endpoint.check()


@pytest.fixture
def chat_tir_qwen(tir_endpoint: FakeEndpoint) -> ChatTIRQwen:
    """A `ChatTIRQwen` for LangChain that asks `tir_endpoint`."""
    from langchain_tir_qwen import ChatTIRQwen

    return ChatTIRQwen(**tir_endpoint.settings)


@pytest.fixture
def tir_qwen_llm(tir_endpoint: FakeEndpoint) -> TIRQwen:
    """A `TIRQwen` for LlamaIndex that asks `tir_endpoint`."""
    from llama_index_tir_qwen import TIRQwen

    return TIRQwen(**tir_endpoint.settings)
