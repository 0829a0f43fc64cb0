"""The pytest plugin of `tir_qwen.testing`: its fixtures, and the check of their endpoint when a test ends.

It is a separate module, and imports `tir_qwen` and the frameworks within the fixtures, since pytest loads it in every
project of an environment, even if the project does not use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from langchain_tir_qwen import ChatTIRQwen
    from llama_index_tir_qwen import TIRQwen
    from tir_qwen.testing import FakeEndpoint

_ENDPOINT = pytest.StashKey["FakeEndpoint"]()


# Not a wrapper, which would need pluggy 1.2: with an earlier one, pytest would fail in every project.
@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a test that has passed if the check of its endpoint fails."""
    if problems := _problems(item):
        pytest.fail(problems, pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Add the problems of a test's endpoint as a note to the exception that ended the test."""
    problems = _problems(item) if call.when == "call" and call.excinfo else ""
    if problems and call.excinfo and problems != str(call.excinfo.value):
        call.excinfo.value.add_note(f"tir_endpoint: {problems}")


def _problems(item: pytest.Item) -> str:
    if endpoint := item.stash.get(_ENDPOINT, None):
        try:
            endpoint.check()
        except AssertionError as error:
            return str(error)
    return ""


@pytest.fixture
def tir_endpoint(request: pytest.FixtureRequest) -> Iterator[FakeEndpoint]:
    """A `tir_qwen.testing.FakeEndpoint` that answers with what the test adds to it, whole or streamed.

    Environment variables point to it, so code that creates its own models uses it too, and nothing calls a live
    endpoint. When the test ends, it fails if a request got no answer, or if an answer is left. If it has already
    failed, its exception gets a note with these problems.
    """
    from tir_qwen.testing import FakeEndpoint

    with FakeEndpoint() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name in ("MODEL_API_CLIENT_HOST", "E2E_TIR_API_KEY"):
            patch.delenv(name, raising=False)
        for name, value in endpoint.environment.items():
            patch.setenv(name, value)
        request.node.stash[_ENDPOINT] = endpoint
        yield endpoint


@pytest.fixture
def chat_tir_qwen(tir_endpoint: FakeEndpoint) -> ChatTIRQwen:
    """A `ChatTIRQwen` for LangChain that uses `tir_endpoint`."""
    from langchain_tir_qwen import ChatTIRQwen

    return ChatTIRQwen(**tir_endpoint.settings)


@pytest.fixture
def tir_qwen_llm(tir_endpoint: FakeEndpoint) -> TIRQwen:
    """A `TIRQwen` for LlamaIndex that uses `tir_endpoint`."""
    from llama_index_tir_qwen import TIRQwen

    return TIRQwen(**tir_endpoint.settings)
