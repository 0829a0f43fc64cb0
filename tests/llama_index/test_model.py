"""`TIRQwen` as an object: its arguments, its calls, its events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import httpx2
import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import LLM, CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import FunctionTool
from pydantic import Field

from llama_index_tir_qwen import TIRQwen
from tests.support.fake_vllm import MODEL, Lab
from tir_qwen import ConfigurationError

GREETING = "Good day!"
HELLO = [ChatMessage("Hello")]
KNOWN = {"project_id": 1, "api_key": "token"}


def llm_on(lab: Lab, **settings: Any) -> TIRQwen:
    """An LLM whose server is `lab`."""
    return TIRQwen(**{**KNOWN, "http_client": lab.client(), "async_http_client": lab.async_client(), **settings})


async def _now(value: Any) -> Any:
    return value


async def _all(responses: Awaitable[Any]) -> list[Any]:
    return [response async for response in await responses]


WAYS: dict[str, Callable[..., Awaitable[Any]]] = {
    "chat": lambda llm, **kwargs: _now(llm.chat(HELLO, **kwargs)),
    "achat": lambda llm, **kwargs: llm.achat(HELLO, **kwargs),
    "complete": lambda llm, **kwargs: _now(llm.complete("Hello", **kwargs)),
    "acomplete": lambda llm, **kwargs: llm.acomplete("Hello", **kwargs),
    "stream_chat": lambda llm, **kwargs: _now([*llm.stream_chat(HELLO, **kwargs)]),
    "astream_chat": lambda llm, **kwargs: _all(llm.astream_chat(HELLO, **kwargs)),
    "stream_complete": lambda llm, **kwargs: _now([*llm.stream_complete("Hello", **kwargs)]),
    "astream_complete": lambda llm, **kwargs: _all(llm.astream_complete("Hello", **kwargs)),
}


def test_kind() -> None:
    """Core's switches on the kind of an LLM find it to be both: its own, and one that calls functions."""
    names = [cls.__name__ for cls in TIRQwen.__mro__]
    assert names.index("CustomLLM") < names.index("FunctionCallingLLM") < names.index("LLM") < names.index("BaseLLM")
    llm = llm_on(Lab())
    assert isinstance(llm, CustomLLM)
    assert isinstance(llm, FunctionCallingLLM)
    assert isinstance(llm, LLM)
    assert TIRQwen.class_name() == "TIRQwen"


@pytest.mark.parametrize(
    ("settings", "window", "output"),
    [({}, 32_768, 4_096), ({"max_tokens": 100}, 32_768, 100), ({"context_window": 40_960}, 40_960, 4_096)],
)
def test_metadata(settings: dict[str, Any], window: int, output: int) -> None:
    """What core plans prompts and agents by is true of Qwen3-32B, and follows the arguments."""
    assert llm_on(Lab(), **settings).metadata == LLMMetadata(
        context_window=window,
        num_output=output,
        is_chat_model=True,
        is_function_calling_model=True,
        model_name="qwen3_32b",
        system_role=MessageRole.SYSTEM,
    )


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda engine: engine.__name__)
async def test_client_of_the_user(engine: Any) -> None:
    """A client of httpx or of httpx2 that the user made is used for all calls, and stays open."""
    lab = Lab()
    client, async_client = lab.client(engine), lab.async_client(engine)
    llm = TIRQwen(**KNOWN, http_client=client, async_http_client=async_client)

    for ask in WAYS.values():
        await ask(llm)

    assert len(lab.requests) == len(WAYS)
    assert not client.is_closed
    assert not async_client.is_closed


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("settings", "given", "sent"),
    [
        ({}, {}, {}),
        ({"temperature": 0.1, "max_tokens": 5}, {"max_tokens": 7}, {"temperature": 0.1, "max_tokens": 7}),
        ({"temperature": 0.1}, {"temperature": None}, {}),
        ({"stop": ["a"]}, {"stop": []}, {}),
        ({"enable_thinking": True}, {"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({}, {"model": "qwen3_8b"}, {"model": "qwen3_8b"}),
    ],
    ids=["nothing", "call wins", "unset", "no stop", "thinking", "model"],
)
async def test_parameters(way: str, settings: dict[str, Any], given: dict[str, Any], sent: dict[str, Any]) -> None:
    """What the call says wins over what the constructor said, in every method; what nobody set is not sent."""
    lab = Lab()
    await WAYS[way](llm_on(lab, **settings), **given)
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if "stream" in way else {"stream": False}
    messages = [{"role": "user", "content": "Hello"}]
    assert lab.bodies == [{"model": MODEL, "messages": messages, **streamed, **sent}]


@pytest.mark.parametrize("way", [way for way in WAYS if "stream" in way])
@pytest.mark.parametrize(("settings", "given"), [({"n": 2}, {}), ({}, {"n": 2})], ids=["constructor", "call"])
async def test_more_than_one_stream(way: str, settings: dict[str, Any], given: dict[str, Any]) -> None:
    """Two answers in one stream have no place in a response: that is refused, and nothing is sent."""
    lab = Lab()
    with pytest.raises(ConfigurationError, match=r"^n must be 1 for a stream"):
        await WAYS[way](llm_on(lab, **settings), **given)
    assert lab.requests == []


def test_completion_to_prompt() -> None:
    """A prompt is wrapped as the user wants it, unless it comes formatted."""
    lab = Lab()
    llm = llm_on(lab, completion_to_prompt=lambda prompt: f"<{prompt}>")
    llm.complete("Hello")
    llm.complete("Hello", formatted=True)
    assert [body["messages"][0]["content"] for body in lab.bodies] == ["<Hello>", "Hello"]


class Events(BaseCallbackHandler):
    """Notes the events of a callback manager."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.noted: list[tuple[str, str, dict[str, Any]]] = []

    def on_event_start(self, event_type: CBEventType, payload: Any = None, *args: Any, **kwargs: Any) -> str:
        self.noted.append(("start", event_type.value, payload))
        return ""

    def on_event_end(self, event_type: CBEventType, payload: Any = None, *args: Any, **kwargs: Any) -> None:
        self.noted.append(("end", event_type.value, payload))

    def start_trace(self, trace_id: str | None = None) -> None:
        pass

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None:
        pass


@pytest.mark.parametrize("way", WAYS)
async def test_callback_events(way: str) -> None:
    """The callback manager hears of each call once, with the whole answer at its end."""
    events = Events()
    await WAYS[way](llm_on(Lab(), callback_manager=CallbackManager([events])))

    assert [(moment, kind) for moment, kind, _ in events.noted] == [("start", "llm"), ("end", "llm")]
    payload = events.noted[1][2]
    answer = payload["response"].message.content if "chat" in way else payload["completion"].text
    assert answer == GREETING


class Instrument(BaseEventHandler):
    """Notes the names of the dispatcher's events."""

    noted: list[str] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.noted.append(type(event).__name__)


@pytest.fixture
def instrument() -> Iterator[Instrument]:
    """A handler of the root dispatcher, as tracers install one."""
    dispatcher = get_dispatcher()
    handler = Instrument()
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


@pytest.mark.parametrize("way", WAYS)
async def test_dispatcher_events(way: str, instrument: Instrument) -> None:
    """The dispatcher hears of each call once, and of each piece of a stream once; a completion is no chat besides."""
    await WAYS[way](llm_on(Lab()))
    kind = "LLMChat" if "chat" in way else "LLMCompletion"
    pieces = [f"{kind}InProgressEvent"] * 6 if "stream" in way else []
    assert instrument.noted == [f"{kind}StartEvent", *pieces, f"{kind}EndEvent"]


@pytest.mark.parametrize("way", WAYS)
async def test_token_counting(way: str) -> None:
    """Core's token counter counts what the server has counted, once per call."""
    counter = TokenCountingHandler(tokenizer=str.split)
    await WAYS[way](llm_on(Lab(), callback_manager=CallbackManager([counter])))
    counts = (counter.prompt_llm_token_count, counter.completion_llm_token_count, counter.total_llm_token_count)
    assert counts == (11, 5, 16)


def look(where: str) -> str:
    """Look there."""
    return where


TOOL = FunctionTool.from_defaults(look)
OFFER = {"type": "function", "function": TOOL.metadata.to_openai_tool()["function"]}


@pytest.mark.parametrize(
    ("given", "choice", "parallel"),
    [
        ({}, "auto", False),
        ({"tool_required": True}, "required", False),
        ({"tool_required": True, "tool_choice": "auto"}, "auto", False),
        ({"tool_choice": "any"}, "required", False),
        ({"tool_choice": "none"}, "none", False),
        ({"tool_choice": "look"}, {"type": "function", "function": {"name": "look"}}, False),
        ({"tool_choice": {"type": "function"}}, {"type": "function"}, False),
        ({"allow_parallel_tool_calls": True}, "auto", True),
    ],
    ids=str,
)
def test_prepare_chat_with_tools(given: dict[str, Any], choice: Any, parallel: bool) -> None:
    """Tools are offered with the choice that core or the user makes, and the caller's history is left alone."""
    history = [ChatMessage("Hello")]
    prepared = llm_on(Lab())._prepare_chat_with_tools([TOOL], user_msg="Look!", chat_history=history, seed=1, **given)
    assert prepared == {
        "messages": [ChatMessage("Hello"), ChatMessage("Look!")],
        "tools": [OFFER],
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
        "seed": 1,
    }
    assert history == [ChatMessage("Hello")]


def test_prepare_chat_without_tools() -> None:
    """Without tools nothing about tools is sent: the server refuses an empty list."""
    message = ChatMessage("Look!", role="system")
    prepared = llm_on(Lab())._prepare_chat_with_tools([], user_msg=message, tool_required=True)
    assert prepared == {"messages": [message]}


def answered(*blocks: Any) -> ChatResponse:
    """A response of blocks."""
    return ChatResponse(message=ChatMessage(role="assistant", blocks=list(blocks)))


def test_tool_calls() -> None:
    """The calls of an answer are found in their order; arguments that are still to come are there as far as they go."""
    response = answered(
        ThinkingBlock(content="Hm."),
        TextBlock(text="Let me see."),
        ToolCallBlock(tool_call_id="c1", tool_name="look", tool_kwargs={"where": "here"}),
        ToolCallBlock(tool_call_id=None, tool_name="look", tool_kwargs='{"where": "th'),
    )
    assert llm_on(Lab()).get_tool_calls_from_response(response) == [
        ToolSelection(tool_id="c1", tool_name="look", tool_kwargs={"where": "here"}),
        ToolSelection(tool_id="", tool_name="look", tool_kwargs={"where": "th"}),
    ]


def test_no_tool_calls() -> None:
    """An answer without a call is an error, or no call, as the caller wants it."""
    llm, response = llm_on(Lab()), answered(TextBlock(text="No."))
    with pytest.raises(ValueError, match=r"^Expected at least one tool call"):
        llm.get_tool_calls_from_response(response)
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []


def test_additional_kwargs() -> None:
    """The fields of `additional_kwargs` stand in the body over all others."""
    lab = Lab()
    llm_on(lab, additional_kwargs={"a": 1, "b": 1, "top_k": 3}, top_k=2).complete("Hello", extra_body={"b": 2})
    messages = [{"role": "user", "content": "Hello"}]
    assert lab.bodies == [{"model": MODEL, "messages": messages, "stream": False, "a": 1, "b": 2, "top_k": 3}]


def test_changed_attribute() -> None:
    """A model's name that is changed later is the one that is asked, as metadata and traces say."""
    lab = Lab()
    llm = llm_on(lab)
    llm.model = "qwen3_8b"

    llm.complete("Hello")

    assert llm.metadata.model_name == "qwen3_8b"
    assert lab.bodies[0]["model"] == "qwen3_8b"
