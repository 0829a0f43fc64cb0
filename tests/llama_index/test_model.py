"""`TIRQwen` itself: arguments, calls and events."""

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
    """Return an LLM whose server is `lab`."""
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


def test_core_sees_a_custom_function_calling_llm() -> None:
    """Core's type checks recognize it as both a custom LLM and one that calls functions."""
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
def test_metadata_describes_the_model_and_its_settings(settings: dict[str, Any], window: int, output: int) -> None:
    """The metadata that core plans with is correct for Qwen3-32B, and reflects the arguments."""
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
    """A user's httpx or httpx2 client is used for all calls, and stays open."""
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
async def test_parameters_of_a_call_override_the_constructor(
    way: str, settings: dict[str, Any], given: dict[str, Any], sent: dict[str, Any]
) -> None:
    """Parameters of a call override those of the constructor in every method, and unset ones are not sent."""
    lab = Lab()
    await WAYS[way](llm_on(lab, **settings), **given)
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if "stream" in way else {"stream": False}
    messages = [{"role": "user", "content": "Hello"}]
    assert lab.bodies == [{"model": MODEL, "messages": messages, **streamed, **sent}]


@pytest.mark.parametrize("way", [way for way in WAYS if "stream" in way])
@pytest.mark.parametrize(("settings", "given"), [({"n": 2}, {}), ({}, {"n": 2})], ids=["constructor", "call"])
async def test_more_than_one_stream(way: str, settings: dict[str, Any], given: dict[str, Any]) -> None:
    """More than one answer in a stream is rejected before sending, as a response has no place for it."""
    lab = Lab()
    with pytest.raises(ConfigurationError, match=r"^n must be 1 for a stream"):
        await WAYS[way](llm_on(lab, **settings), **given)
    assert lab.requests == []


def test_completion_to_prompt() -> None:
    """A prompt is wrapped with the user's function, unless it is already formatted."""
    lab = Lab()
    llm = llm_on(lab, completion_to_prompt=lambda prompt: f"<{prompt}>")
    llm.complete("Hello")
    llm.complete("Hello", formatted=True)
    assert [body["messages"][0]["content"] for body in lab.bodies] == ["<Hello>", "Hello"]


class Events(BaseCallbackHandler):
    """Records the events of a callback manager."""

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
    """The callback manager receives each call once, and the whole answer at its end."""
    events = Events()
    await WAYS[way](llm_on(Lab(), callback_manager=CallbackManager([events])))

    assert [(moment, kind) for moment, kind, _ in events.noted] == [("start", "llm"), ("end", "llm")]
    payload = events.noted[1][2]
    answer = payload["response"].message.content if "chat" in way else payload["completion"].text
    assert answer == GREETING


class Instrument(BaseEventHandler):
    """Records the names of the dispatcher's events."""

    noted: list[str] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.noted.append(type(event).__name__)


@pytest.fixture
def instrument() -> Iterator[Instrument]:
    """Install a handler on the root dispatcher, as tracers do."""
    dispatcher = get_dispatcher()
    handler = Instrument()
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


@pytest.mark.parametrize("way", WAYS)
async def test_dispatcher_events(way: str, instrument: Instrument) -> None:
    """The dispatcher receives each call and each delta once; a completion does not count as a chat as well."""
    await WAYS[way](llm_on(Lab()))
    kind = "LLMChat" if "chat" in way else "LLMCompletion"
    pieces = [f"{kind}InProgressEvent"] * 6 if "stream" in way else []
    assert instrument.noted == [f"{kind}StartEvent", *pieces, f"{kind}EndEvent"]


@pytest.mark.parametrize("way", WAYS)
async def test_token_counting(way: str) -> None:
    """Core's token counter uses the server's token counts, once per call."""
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
    """Tools are offered with the choice of core or the user, and the caller's history is not modified."""
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


@pytest.mark.parametrize("strict", [True, False])
def test_strict_tools(strict: bool) -> None:
    """`strict`, which OpenAI's LLM takes as well, is sent with each tool, not as a parameter of the call."""
    lab = Lab()
    llm_on(lab).chat_with_tools([TOOL], "Look!", strict=strict)
    (body,) = lab.bodies
    assert body["tools"] == [{**OFFER, "function": {**OFFER["function"], "strict": strict}}]
    assert "strict" not in body


def test_prepare_chat_without_tools() -> None:
    """Without tools no tool fields are sent, because the server rejects an empty list."""
    message = ChatMessage("Look!", role="system")
    prepared = llm_on(Lab())._prepare_chat_with_tools([], user_msg=message, tool_required=True)
    assert prepared == {"messages": [message]}


def answered(*blocks: Any) -> ChatResponse:
    """Return a response with these blocks."""
    return ChatResponse(message=ChatMessage(role="assistant", blocks=list(blocks)))


def test_tool_calls_are_returned_in_order() -> None:
    """The calls of an answer are returned in order; incomplete arguments are parsed as far as possible."""
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
    """An answer without a call is an error or an empty list, as the caller chooses."""
    llm, response = llm_on(Lab()), answered(TextBlock(text="No."))
    with pytest.raises(ValueError, match=r"^Expected at least one tool call"):
        llm.get_tool_calls_from_response(response)
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []


def test_additional_kwargs() -> None:
    """Fields of `additional_kwargs` override all others in the body."""
    lab = Lab()
    llm_on(lab, additional_kwargs={"a": 1, "b": 1, "top_k": 3}, top_k=2).complete("Hello", extra_body={"b": 2})
    messages = [{"role": "user", "content": "Hello"}]
    assert lab.bodies == [{"model": MODEL, "messages": messages, "stream": False, "a": 1, "b": 2, "top_k": 3}]


def test_changed_attribute() -> None:
    """A model name that is changed later is used in requests, metadata and traces."""
    lab = Lab()
    llm = llm_on(lab)
    llm.model = "qwen3_8b"

    llm.complete("Hello")

    assert llm.metadata.model_name == "qwen3_8b"
    assert lab.bodies[0]["model"] == "qwen3_8b"
