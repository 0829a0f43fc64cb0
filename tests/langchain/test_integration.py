"""LangChain's own integration tests for chat models, on recorded servers: one that closely resembles TIR, one newer."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from vcr.cassette import Cassette

from langchain_tir_qwen import ChatTIRQwen
from tests.support.cassette_fixtures import Server

Details = dict[Literal["invoke", "stream"], list[str]]


@pytest.mark.parsers(True)
@pytest.mark.cassettes("standard")
class TestChatTIRQwen(ChatModelIntegrationTests):
    """`ChatTIRQwen` meets LangChain's requirements for a text-only chat model."""

    server: Server | None = None
    """The recorded server, for tests that use one."""

    @pytest.fixture
    def model(self, request: pytest.FixtureRequest, server: Server, monkeypatch: pytest.MonkeyPatch) -> BaseChatModel:
        """Return the model on a recorded server.

        If the call is to override the model's name, the model starts with a name that the server would refuse.
        """
        # The suite's few-shot examples have random ids, which a cassette cannot match.
        monkeypatch.setattr("langchain_core.utils.function_calling.uuid", SimpleNamespace(uuid4=lambda: "call-1"))
        self.server = server
        name = {"model": "nope"} if "model_override" in request.node.name else {}
        params = {**self.standard_chat_model_params, **self.chat_model_params, **name}
        self.asked = self.chat_model_class(**{**params, **(getattr(request, "param", None) or {})})
        return self.asked

    @pytest.fixture
    def benchmark(self) -> Callable[[Callable[[], None]], None]:
        """Run the benchmarked function once, because its cassette can be played only once."""
        return lambda timed: timed()

    @pytest.fixture
    def vcr(self, server: Server) -> Cassette:
        """Provide the cassette under the name that the suite expects."""
        return server.cassette

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatTIRQwen

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # The suite's default of 100 tokens would cut off many answers within the reasoning.
        return {"max_tokens": 2000, **(self.server.settings if self.server else {})}

    @property
    def model_override_value(self) -> str:
        return "qwen3_32b"

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def enable_vcr_tests(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> Details:
        counted = self.server is not None and self.server.name == "new"  # vLLM reports them since 0.28
        known = ["reasoning_output"] if counted else []
        return {"invoke": known, "stream": known}

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        question = "What is 17 * 23?"
        return reduce(add, self.asked.stream(question)) if stream else self.asked.invoke(question)
