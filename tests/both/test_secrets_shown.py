"""No output of either integration, or of anything built from it, reveals a credential."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps
from langchain_core.tracers import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.secrets import (
    CREDENTIALS,
    HEADER,
    KEY,
    PROJECT,
    SERVERS,
    SETTINGS,
    TOKEN,
    engines_frames,
    hunted,
    in_frames,
    leaked,
    logged,
    shown,
    written,
)
from tests.support.server import QUESTION, Loopback, echo, record_waits, response
from tir_qwen import APIStatusError, ConfigurationError, TIRError

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .__fields:pydantic.PydanticDeprecatedSince20"),  # raised by core's agents
    pytest.mark.filterwarnings("ignore:Accessing the .model_:pydantic.warnings.PydanticDeprecatedSince211"),
]

FACES: tuple[Any, ...] = (ChatTIRQwen, TIRQwen)
faces = pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
HOST = {**SETTINGS, "base_url": "https://host.invalid"}

OF_BOTH: dict[str, Callable[[Any], Any]] = {
    "itself": lambda model: model,
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "model_copy": lambda model: model.model_copy(update={"temperature": 0.5}),
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "model_dump": lambda model: model.model_dump(),
    "model_dump_json": lambda model: model.model_dump_json(),
    "model_fields": lambda model: type(model).model_fields,
    "half made": lambda model: type(model).__new__(type(model)),
}
OF_LANGCHAIN: dict[str, Callable[[Any], Any]] = {
    "to_json": lambda model: model.to_json(),
    "lc_attributes": lambda model: model.lc_attributes,
    "asdict": lambda model: model.asdict(),
    "graph": lambda model: model.get_graph(),
    "retrying": lambda model: (model.with_retry(), dumps(model.with_retry())),
    "falling back": lambda model: (model.with_fallbacks([model]), dumps(model.with_fallbacks([model]))),
    "in a chain": lambda model: (model | str, dumps(model.bind(stop=["x"]))),
    "with tools": lambda model: dumps(model.bind_tools([{"name": "x", "description": "x", "parameters": {}}])),
}
OF_LLAMA_INDEX: dict[str, Callable[[Any], Any]] = {
    "to_dict": lambda llm: llm.to_dict(),
    "to_json": lambda llm: llm.to_json(),
    "agent": lambda llm: FunctionAgent(llm=llm),
    "dumped agent": lambda llm: FunctionAgent(llm=llm).model_dump(),
}
SHOWN = [
    *((face, name, show) for face in FACES for name, show in OF_BOTH.items()),
    *((ChatTIRQwen, name, show) for name, show in OF_LANGCHAIN.items()),
    *((TIRQwen, name, show) for name, show in OF_LLAMA_INDEX.items()),
]


def label(value: Any) -> str:
    """Return a parameter's name for the test id."""
    return value if isinstance(value, str) else value.__name__.replace("<lambda>", "shown")


@pytest.mark.parametrize("given", ["by arguments", "by the environment"])
@pytest.mark.parametrize(("face", "name", "show"), SHOWN, ids=label)
def test_what_it_writes(
    monkeypatch: pytest.MonkeyPatch, face: Any, name: str, show: Callable[[Any], Any], given: str
) -> None:
    """A model, a copy, a dump or a component of a program never reveals a credential, wherever it came from."""
    settings = HOST
    if given == "by the environment":
        for variable, value in (("ACCESS_TOKEN", TOKEN), ("PROJECT_ID", PROJECT), ("API_KEY", KEY)):
            monkeypatch.setenv(f"E2E_TIR_{variable}", value)
        settings = {"base_url": HOST["base_url"], "default_headers": HOST["default_headers"]}
    assert leaked(written(show(face(**settings)))) == []


async def _astream(model: ChatTIRQwen) -> None:
    async for _ in model.astream(QUESTION):
        pass


async def _astream_chat(llm: TIRQwen) -> None:
    async for _ in await llm.astream_chat([ChatMessage(QUESTION)]):
        pass


WAYS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "invoke": (ChatTIRQwen, lambda model: model.invoke(QUESTION)),
    "stream": (ChatTIRQwen, lambda model: list(model.stream(QUESTION))),
    "ainvoke": (ChatTIRQwen, lambda model: asyncio.run(model.ainvoke(QUESTION))),
    "astream": (ChatTIRQwen, lambda model: asyncio.run(_astream(model))),
    "chat": (TIRQwen, lambda llm: llm.chat([ChatMessage(QUESTION)])),
    "stream_chat": (TIRQwen, lambda llm: list(llm.stream_chat([ChatMessage(QUESTION)]))),
    "achat": (TIRQwen, lambda llm: asyncio.run(llm.achat([ChatMessage(QUESTION)]))),
    "astream_chat": (TIRQwen, lambda llm: asyncio.run(_astream_chat(llm))),
}
ways = pytest.mark.parametrize("way", WAYS)


@pytest.mark.parametrize("does", [does for does in SERVERS if does != "answers"])
@ways
def test_errors_of_calls_reveal_no_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: str, does: str
) -> None:
    """Errors and logs of a call reveal neither credential nor question, and their frames hold no credential."""
    record_waits(monkeypatch)
    caplog.set_level(logging.DEBUG)
    face, ask = WAYS[way]
    with Loopback(SERVERS[does]) as server, pytest.raises(TIRError) as caught:
        ask(face(**SETTINGS, base_url=server.url))
    assert leaked(shown(caught.value) + logged(caplog)) == []
    assert in_frames(caught.value) == []
    assert engines_frames(caught.value) == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@ways
def test_a_redirect_is_an_error_and_not_followed(way: str, status: int) -> None:
    """A redirect raises an error, and neither token nor question is sent to its target."""
    face, ask = WAYS[way]
    with Loopback(echo) as elsewhere:
        moved = response(b"", f"{status} Moved", location=f"{elsewhere.url}/v1/chat/completions")
        with Loopback(lambda _: [moved]) as server, pytest.raises(APIStatusError) as caught:
            ask(face(**SETTINGS, base_url=server.url))
    assert caught.value.status_code == status
    assert (len(server.requests), elsewhere.connections) == (1, 0)


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda engine: engine.__name__)
@ways
def test_redirects_of_a_client_of_the_users(way: str, engine: Any) -> None:
    """The same holds for a custom client that otherwise follows redirects."""
    face, ask = WAYS[way]
    asked = []

    def moved(request: Any) -> Any:
        asked.append(request.url.host)
        return engine.Response(308, headers={"location": "https://elsewhere.invalid/v1"})

    async def moved_later(request: Any) -> Any:
        return moved(request)

    client = engine.Client(transport=engine.MockTransport(moved), follow_redirects=True)
    later = engine.AsyncClient(transport=engine.MockTransport(moved_later), follow_redirects=True)
    name = "http_async_client" if face is ChatTIRQwen else "async_http_client"
    with pytest.raises(APIStatusError, match="308 Permanent Redirect"):
        ask(face(**HOST, http_client=client, **{name: later}))
    assert asked == ["host.invalid"]


INSIDE = ("\r\nx-evil: 1", "\n", "\0", "\x1b", "\x7f", "é", "\u2028")
TAKES: dict[str, Callable[[str], Any]] = {
    "access_token": lambda bad: f"{TOKEN}{bad}1",
    "apikey": lambda bad: f"{KEY}{bad}1",
    "project_id": lambda bad: f"{PROJECT}{bad}1",
    "base_url": lambda bad: f"https://host.invalid/canary{bad}/v1",
    "default_headers": lambda bad: {"X-Team": f"{HEADER}{bad}1"},
}


@pytest.mark.parametrize("bad", INSIDE, ids=ascii)
@pytest.mark.parametrize("setting", [*TAKES, "a header's name"])
@faces
def test_injected_headers(face: Any, setting: str, bad: str) -> None:
    """A setting that could inject a header is rejected at once, and its value is not reported."""
    wrong = {setting: TAKES[setting](bad)} if setting in TAKES else {"default_headers": {f"X-Te{bad}am": HEADER}}
    with pytest.raises(ConfigurationError, match=next(iter(wrong))) as caught:
        face(**{**HOST, **wrong})
    assert leaked(shown(caught.value), [*CREDENTIALS, "canary", "evil"]) == []
    assert hunted(caught.value) == []


@pytest.mark.parametrize("wrong", [{"max_retries": -1}, {"temperature": "warm"}, {"unknown": 1}], ids=str)
@faces
def test_refused_settings(face: Any, wrong: dict[str, Any]) -> None:
    """Any other rejected setting leaves no credential in an error report with local variables."""
    with pytest.raises(ConfigurationError) as caught:
        face(**HOST, **wrong)
    assert hunted(caught.value) == []


@faces
def test_settings_spoilt_by_assignment(face: Any) -> None:
    """The same holds for a setting that was made invalid by assignment and is rejected on the next call."""
    model = face(**HOST)
    model.default_headers = {"X-Team": f"{HEADER}\n"}
    with pytest.raises(ConfigurationError) as caught:
        model.invoke("Hello") if face is ChatTIRQwen else model.complete("Hello")
    assert hunted(caught.value) == []


class Tracer(BaseTracer):
    """Keeps all runs, in the form that tracers send them."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.runs.append(run)


class Cache(InMemoryCache):
    """Records its keys."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[Any] = []

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        self.keys.append((prompt, llm_string))


def all_runs(run: Run) -> Iterator[Run]:
    """Return a run and all runs nested in it."""
    yield run
    for child in run.child_runs:
        yield from all_runs(child)


@pytest.mark.parametrize("does", ["answers", "refuses", "gives up"])
async def test_langchain_tells(monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """Traced runs, events, cache keys and the checkpoints of a graph contain no credential."""
    record_waits(monkeypatch)
    tracer, cache, saver, told = Tracer(), Cache(), InMemorySaver(), []
    with Loopback(SERVERS[does]) as server:
        model = ChatTIRQwen(**SETTINGS, base_url=server.url, cache=cache)
        builder = StateGraph(MessagesState)
        builder.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
        graph = builder.add_edge(START, "model").compile(checkpointer=saver)
        config: Any = {"callbacks": [tracer], "configurable": {"thread_id": "1"}}
        try:
            graph.invoke({"messages": [("user", QUESTION)]}, config)
            told += [event async for event in model.astream_events(QUESTION, config, version="v2")]
        except TIRError as error:
            told.append(error)
    runs = [run for root in tracer.runs for run in all_runs(root)]
    assert {run.run_type for run in runs} >= {"chain", "llm"}
    assert bool(cache.keys) is (does == "answers")
    states = list(saver.list(config))
    assert states
    seen = [*told, *states, *cache.keys, *(json.dumps(run.model_dump(), default=repr) for run in runs)]
    assert leaked("\n".join(map(written, seen)), CREDENTIALS) == []


@pytest.mark.parametrize("does", ["answers", "refuses", "gives up"])
@pytest.mark.parametrize("way", ["chat", "stream_chat", "achat", "astream_chat"])
def test_llama_index_tells(monkeypatch: pytest.MonkeyPatch, way: str, does: str) -> None:
    """Instrumentation spans contain no credential."""
    record_waits(monkeypatch)
    dispatcher, spans = get_dispatcher(), SimpleSpanHandler()
    dispatcher.add_span_handler(spans)
    with Loopback(SERVERS[does]) as server:
        try:
            WAYS[way][1](TIRQwen(**SETTINGS, base_url=server.url))
        except TIRError:
            assert does != "answers"
        finally:
            dispatcher.span_handlers.remove(spans)
    seen = [*spans.completed_spans, *spans.dropped_spans, *spans.open_spans.values()]
    assert seen
    dumps_ = [f"{span.model_dump(exclude={'duration'})}" for span in seen]
    assert leaked("\n".join([*map(written, seen), *dumps_]), CREDENTIALS) == []
