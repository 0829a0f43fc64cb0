"""Token, header values, key and project id are part of the request, and appear nowhere else."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, dumps
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.base_handler import BaseCallbackHandler as LlamaIndexHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from pydantic import Field

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.fake_vllm import HEADER, KEY, PRIVATE, PROJECT, SECRETS, TOKEN, Lab
from tir_qwen import APIConnectionError, AuthenticationError, Client

COMPLETE = {
    "access_token": TOKEN,
    "default_headers": {"X-Tenant": HEADER},
    "base_url": f"https://host.invalid/project/p-{PROJECT}/genai/qwen3_32b/v1",
    "apikey": KEY,
}
"""The same settings as `PRIVATE`, with a complete address."""
KEYED = {**COMPLETE, "apikey": None, "base_url": f"{COMPLETE['base_url']}?apikey={KEY}"}
"""The same settings with the key in the address."""
SETTINGS = {"host": PRIVATE, "complete": COMPLETE}


def leaks(*shown: Any) -> list[str]:
    """Return the secrets that appear in an output."""
    return [secret for secret in SECRETS if any(secret in f"{one!r} {one}" for one in shown)]


def test_requests_hold_them() -> None:
    """The secrets that the other tests look for are actually sent."""
    for settings in SETTINGS.values():
        lab = Lab()
        ChatTIRQwen(**settings, http_client=lab.client()).invoke("Hello")
        (request,) = lab.requests
        assert leaks(str(request.url), dict(request.headers).items()) == list(SECRETS)


LANGCHAIN: dict[str, Callable[[ChatTIRQwen], Any]] = {
    "repr": repr,
    "str": str,
    "dumpd": dumpd,
    "dumps": dumps,
    "_serialized": lambda model: model._serialized,
    "_identifying_params": lambda model: model._identifying_params,
    "_get_ls_params": lambda model: model._get_ls_params(stop=["x"]),
    "_get_invocation_params": lambda model: model._get_invocation_params(stop=["x"]),
    "_get_llm_string": lambda model: model._get_llm_string(stop=["x"]),
    "bound": lambda model: repr(model.bind(stop=["x"])),
    "lc_secrets": lambda model: model.lc_secrets,
    "clients": lambda model: (model._client, model._async_client),
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("shown", LANGCHAIN)
def test_langchain_shows(shown: str, settings: str) -> None:
    """Nothing that LangChain displays, traces or uses as a cache key contains a secret."""
    assert leaks(LANGCHAIN[shown](ChatTIRQwen(**SETTINGS[settings]))) == []


LLAMA_INDEX: dict[str, Callable[[TIRQwen], Any]] = {
    "repr": repr,
    "str": str,
    "to_payload": lambda llm: llm.to_payload(),
    "metadata": lambda llm: llm.metadata,
    "clients": lambda llm: (llm._client, llm._async_client),
}
WRITTEN: dict[str, Callable[[Any], Any]] = {
    "model_dump": lambda llm: llm.model_dump(),
    "model_dump_json": lambda llm: llm.model_dump_json(),
    "to_dict": lambda llm: llm.to_dict(),
    "to_json": lambda llm: llm.to_json(),
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("shown", LLAMA_INDEX)
def test_llama_index_shows(shown: str, settings: str) -> None:
    """Nothing that LlamaIndex displays or traces contains a secret."""
    assert leaks(LLAMA_INDEX[shown](TIRQwen(**SETTINGS[settings]))) == []


@pytest.mark.parametrize("shown", WRITTEN)
def test_llama_index_writes(shown: str) -> None:
    """Nothing that LlamaIndex serializes contains a secret."""
    assert leaks(WRITTEN[shown](TIRQwen(**PRIVATE))) == []


class Everything(BaseCallbackHandler):
    """Records everything that LangChain passes to its callbacks."""

    def __init__(self) -> None:
        self.noted: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *args, **kwargs: self.noted.append((name, args, kwargs))
        return super().__getattribute__(name)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Set all loggers to their most verbose level; the HTTP engine is already in use, see the last test."""
    with Client(base_url="http://127.0.0.1:1/v1", max_retries=0) as client, pytest.raises(APIConnectionError):
        client.complete([{"role": "user", "content": "Hello"}])
    with caplog.at_level(logging.DEBUG):
        yield caplog


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("status", [200, 401])
def test_langchain_tells(status: int, streamed: bool, settings: str, log: pytest.LogCaptureFixture) -> None:
    """Callbacks, errors and logs contain no secret, even if the server echoes the whole request."""
    model = ChatTIRQwen(**SETTINGS[settings], http_client=Lab(status=status).client())
    everything, told = Everything(), []

    try:
        told += [model.invoke("Hello", {"callbacks": [everything]}, stream=streamed)]
    except AuthenticationError as error:
        told += [error, error.body, error.__cause__, error.__context__, *traceback.format_exception(error)]

    assert told
    last = "on_llm_end" if status == 200 else "on_llm_error"
    assert (everything.noted[0][0], everything.noted[-1][0]) == ("on_chat_model_start", last)
    assert leaks(*told, *everything.noted, log.text) == []


class Events(LlamaIndexHandler):
    """Records everything that LlamaIndex passes to its callbacks."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.noted: list[Any] = []

    def on_event_start(self, *args: Any, **kwargs: Any) -> str:
        self.noted.append((args, kwargs))
        return ""

    def on_event_end(self, *args: Any, **kwargs: Any) -> None:
        self.noted.append((args, kwargs))

    def start_trace(self, trace_id: str | None = None) -> None:
        pass

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None:
        pass


class Instrument(BaseEventHandler):
    """Records everything that LlamaIndex passes to its dispatcher."""

    noted: list[Any] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.noted.append(event.model_dump() if "exception" not in type(event).model_fields else event)


@pytest.fixture
def instrument() -> Iterator[Instrument]:
    """Install a handler on the root dispatcher, as tracers do."""
    dispatcher, handler = get_dispatcher(), Instrument()
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("status", [200, 401])
def test_llama_index_tells(
    status: int, streamed: bool, settings: str, instrument: Instrument, log: pytest.LogCaptureFixture
) -> None:
    """Callbacks, tracing events, errors and logs contain no secret, even if the server echoes the whole request."""
    events, told = Events(), []
    llm = TIRQwen(
        **SETTINGS[settings], http_client=Lab(status=status).client(), callback_manager=CallbackManager([events])
    )

    try:
        told += [*llm.stream_complete("Hello")] if streamed else [llm.complete("Hello")]
    except AuthenticationError as error:
        told += [error, error.body, error.__cause__, error.__context__, *traceback.format_exception(error)]

    assert told
    assert len(events.noted) >= 2
    assert len(instrument.noted) >= 2
    assert leaks(*told, *events.noted, *instrument.noted, log.text) == []


FIRST_CALL = """
import logging, httpx
from tests.support.fake_vllm import PRIVATE, Lab
from langchain_tir_qwen import ChatTIRQwen
logging.basicConfig(level=logging.INFO)
print(ChatTIRQwen(**PRIVATE, http_client=Lab().client()).invoke("Hello").content)
"""


def test_log_of_a_client_of_the_user() -> None:
    """The HTTP engine's request log omits project and key from the first call on, even with a custom client."""
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True)
    assert done.stdout == "Good day!\n"
    assert "HTTP Request: POST https://host.invalid" in done.stderr
    assert leaks(done.stderr) == []


@pytest.mark.parametrize("settings", [COMPLETE, KEYED], ids=["project", "key"])
@pytest.mark.parametrize("face", [ChatTIRQwen, TIRQwen])
def test_dump_with_a_complete_address(face: type[ChatTIRQwen] | type[TIRQwen], settings: dict[str, Any]) -> None:
    """A dump contains no secret even if the address is complete and includes the project or a key."""
    assert leaks(face(**settings).model_dump()) == []


def test_echo_of_a_key_in_the_address() -> None:
    """A key in the address stays hidden even if the server echoes it."""
    with pytest.raises(AuthenticationError) as caught:
        ChatTIRQwen(**KEYED, http_client=Lab(status=401).client()).invoke("Hello")
    assert leaks(caught.value, caught.value.body) == []
