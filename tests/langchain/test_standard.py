"""LangChain's own unit tests for chat models."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_tir_qwen import ChatTIRQwen


@pytest.fixture
def benchmark() -> Callable[[Callable[[], None]], None]:
    """Run the benchmarked function, which creates ten models, and check that it is not noticeably slow."""

    def run(timed: Callable[[], None]) -> None:
        timed()  # the first call creates the SSL context
        start = perf_counter()
        timed()
        assert perf_counter() - start < 1

    return run


class TestChatTIRQwen(ChatModelUnitTests):
    """`ChatTIRQwen` meets LangChain's requirements for a chat model."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatTIRQwen

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"project_id": 1234, "api_key": "token"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return (
            {"E2E_TIR_ACCESS_TOKEN": "token", "E2E_TIR_PROJECT_ID": "1234", "E2E_TIR_BASE_URL": "https://tir.invalid"},
            {},
            {"access_token": "token", "project_id": "1234", "base_url": "https://tir.invalid"},
        )
