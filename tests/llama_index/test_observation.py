"""Tracers, token counters and event handlers see everything that happens in LlamaIndex's calls, but no secret."""

from __future__ import annotations

import json
import pickle
import traceback
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from openinference.instrumentation.llama_index import LlamaIndexInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from pydantic import BaseModel, Field, PrivateAttr
from pydantic_core import to_json

from llama_index_tir_qwen import TIRQwen
from tests.support.cassette_fixtures import Server
from tests.support.fake_vllm import PRIVATE, SECRETS, USAGE, Lab, echo
from tests.support.scripted_transport import Reply, Scripted
from tir_qwen import AuthenticationError

pytestmark = [
    pytest.mark.cassettes("llama_observation"),
    pytest.mark.filterwarnings("ignore:The .json. method is deprecated:pydantic.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:The .__fields:pydantic.PydanticDeprecatedSince20"),  # raised by core's agents
    pytest.mark.filterwarnings("ignore:Accessing the .model_:pydantic.warnings.PydanticDeprecatedSince211"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]

WEATHER = {"Paris": "18 °C, sunny", "London": "14 °C, rainy"}
QUESTION = "What is the weather in Paris and London?"
ANSWER = "In Paris it is 18 °C and sunny; in London it is 14 °C and rainy. Paris is the warmer and drier of the two."


async def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return WEATHER[city]


OFFER = FunctionTool.from_defaults(async_fn=get_weather).metadata.to_openai_tool()


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


@dataclass(frozen=True)
class Way:
    """A method, and its arguments for a question."""

    name: str
    arguments: Callable[[str], tuple[Any, ...]] = field(repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def cassette(self) -> str:
        return "stream" if "stream" in self.name else "whole"

    async def __call__(self, llm: TIRQwen, question: str, **kwargs: Any) -> Any:
        """Ask the question, and return the response; for a stream, its last item."""
        found = getattr(llm, self.name)(*self.arguments(question), **kwargs)
        if isawaitable(found):
            found = await found
        if isinstance(found, Generator):
            return [*found][-1]
        return [one async for one in found][-1] if isinstance(found, AsyncGenerator) else found


def ways(arguments: Callable[[str], tuple[Any, ...]], *names: str) -> list[Way]:
    """Return methods that take the same arguments."""
    return [Way(name, arguments) for name in names]


CHATS = ways(lambda question: ([ChatMessage(question)],), "chat", "achat", "stream_chat", "astream_chat")
COMPLETIONS = ways(lambda question: (question,), "complete", "acomplete", "stream_complete", "astream_complete")
STRUCTURED = ways(
    lambda question: (Joke, PromptTemplate(question)),
    "structured_predict",
    "astructured_predict",
    "stream_structured_predict",
    "astream_structured_predict",
)
PREDICTIONS = ways(lambda question: (PromptTemplate(question),), "predict", "apredict")
WAYS = [*CHATS, *COMPLETIONS]
ALL = [*WAYS, *STRUCTURED, *PREDICTIONS]


def agent_of(llm: TIRQwen, streaming: bool) -> FunctionAgent:
    """Return an agent with a weather tool."""
    return FunctionAgent(llm=llm, tools=[get_weather], streaming=streaming)


def private_llm(lab: Lab, **settings: Any) -> TIRQwen:
    """Return an LLM that is configured with all the secrets."""
    return TIRQwen(**PRIVATE, http_client=lab.client(), async_http_client=lab.async_client(), **settings)


def usage_of(server: Server, number: int = -1) -> dict[str, Any]:
    """Return the server's token counts for a response."""
    return [frame["usage"] for frame in server.frames(number) if frame.get("usage")][-1]


def counts(usage: dict[str, Any]) -> dict[str, int]:
    """Return the three counts that core knows."""
    return {name: usage[name] for name in USAGE}


COUNT = "llm.token_count."


def traced_usage(usage: dict[str, Any]) -> dict[str, int]:
    """Return the server's token counts as span attributes; newer servers count the reasoning too."""
    counts = {f"{COUNT}{name.removesuffix('_tokens')}": usage[name] for name in USAGE}
    details = usage.get("completion_tokens_details") or {}
    if "reasoning_tokens" in details:
        counts[f"{COUNT}completion_details.reasoning"] = details["reasoning_tokens"]
    return counts


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Export OpenInference's traces of LlamaIndex into memory."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    instrumentor = LlamaIndexInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield spans
    instrumentor.uninstrument()
    provider.shutdown()


def counts_of(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of a span that are token counts."""
    return {name: count for name, count in (span.attributes or {}).items() if name.startswith(COUNT)}


def calls_of(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """Return the spans of model calls, which are those with token counts."""
    return [span for span in exporter.get_finished_spans() if counts_of(span)]


KNOWN_OF_MODEL = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "qwen3_32b",
    "llm.invocation_parameters": '{"context_window":32768,"num_output":500,"is_chat_model":true,'
    '"is_function_calling_model":true,"model_name":"qwen3_32b"}',
}


@pytest.mark.parsers(True)
@pytest.mark.parametrize("way", CHATS, ids=str)
async def test_span_of_chat(way: Way, server: Server, exporter: InMemorySpanExporter) -> None:
    """A chat is one LLM span with model, parameters, tools, messages, tool calls, finish reason and token counts."""
    given = {"tools": [OFFER], "parallel_tool_calls": True, "temperature": 0.6}
    response = await way(TIRQwen(**server.settings, max_tokens=500), QUESTION, **given)

    (span,) = exporter.get_finished_spans()
    attributes = dict(span.attributes or {})
    asked = json.loads(attributes.pop("input.value"))
    calls = response.message.additional_kwargs["tool_calls"]
    traced = {
        f"llm.output_messages.0.message.tool_calls.{number}.tool_call.{name}": value
        for number, call in enumerate(calls)
        for name, value in {
            "id": call["id"],
            "function.name": "get_weather",
            "function.arguments": call["function"]["arguments"],
        }.items()
    }
    assert (span.name, span.status.status_code) == (f"TIRQwen.{way}", StatusCode.OK)
    assert asked["kwargs"] == given
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"city": "Paris"}, {"city": "London"}]
    assert attributes == {
        **KNOWN_OF_MODEL,
        "input.mime_type": "application/json",
        "llm.tools.0.tool.json_schema": json.dumps(OFFER),
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": QUESTION,
        "llm.output_messages.0.message.role": "assistant",
        **traced,
        "output.value": "assistant: None",
        "llm.finish_reason": "tool_calls",
        **traced_usage(usage_of(server)),
    }


@pytest.mark.parametrize("way", COMPLETIONS, ids=str)
async def test_span_of_completion(way: Way, server: Server, exporter: InMemorySpanExporter) -> None:
    """A completion is one LLM span with model, prompt, text, finish reason and the server's token counts."""
    llm = TIRQwen(**server.settings, max_tokens=500)
    response = await way(llm, "What is the capital of France?", temperature=0.6)

    (span,) = exporter.get_finished_spans()
    assert (span.name, span.status.status_code) == (f"TIRQwen.{way}", StatusCode.OK)
    assert response.text == server.says("The capital of France is **Paris**.")
    assert dict(span.attributes or {}) == {
        **KNOWN_OF_MODEL,
        "input.mime_type": "application/json",
        "input.value": '{"args": ["What is the capital of France?"], "kwargs": {"temperature": 0.6}}',
        "llm.prompts": ("What is the capital of France?",),
        "output.value": response.text,
        "llm.finish_reason": "stop",
        **traced_usage(usage_of(server)),
    }


FORMS = {"stream": True, "whole": False}


@pytest.mark.parsers(True)
@pytest.mark.parametrize("form", FORMS)
async def test_spans_of_agent(form: str, server: Server, exporter: InMemorySpanExporter) -> None:
    """Each model call of an agent is a single LLM span in the trace of its run, with its own token counts."""
    output = await agent_of(TIRQwen(**server.settings), FORMS[form]).run(QUESTION)

    calls = calls_of(exporter)
    name = "TIRQwen.astream_chat" if FORMS[form] else "TIRQwen.achat"
    assert output.response.content == server.says(ANSWER)
    assert [(span.name, span.status.status_code) for span in calls] == [(name, StatusCode.OK)] * 2
    assert [counts_of(span) for span in calls] == [traced_usage(usage_of(server, number)) for number in (0, 1)]
    assert [(span.attributes or {})["llm.finish_reason"] for span in calls] == ["tool_calls", "stop"]
    assert len({span.context.trace_id for span in exporter.get_finished_spans() if span.context}) == 1


JOKE = Joke(setup="Why did the cat sit on the computer?", punchline="To keep an eye on the mouse!")
SETTLED = Reply(content=JOKE.model_dump_json())
CALLING = Reply(calls=(("get_weather", '{"city": "Paris"}'),), finish_reason="tool_calls")


def shown_secrets(spans: Any) -> list[str]:
    """Return the secrets that appear in exported spans."""
    dumped = "".join(span.to_json() for span in spans)
    return [secret for secret in SECRETS if secret in dumped]


@pytest.mark.parametrize("way", ALL, ids=str)
async def test_secrets_in_spans(way: Way, exporter: InMemorySpanExporter) -> None:
    """No span of any call contains a secret, and no tokens are counted by two spans."""
    lab = Scripted(SETTLED)
    await way(private_llm(lab), "Hello")

    spans = exporter.get_finished_spans()
    assert [span.status.status_code for span in spans] == [StatusCode.OK] * len(spans)
    assert [counts_of(span) for span in calls_of(exporter)] == [traced_usage(USAGE)]
    assert shown_secrets(spans) == []


@pytest.mark.parametrize("form", FORMS)
async def test_secrets_in_spans_of_agent(form: str, exporter: InMemorySpanExporter) -> None:
    """No span of an agent's run contains a secret of its model."""
    await agent_of(private_llm(Scripted(CALLING, Reply("Sunny."))), FORMS[form]).run("Hello")

    assert [counts_of(span) for span in calls_of(exporter)] == [traced_usage(USAGE)] * 2
    assert shown_secrets(exporter.get_finished_spans()) == []


def test_secrets_in_spans_of_functions(exporter: InMemorySpanExporter) -> None:
    """The span of a function that takes and returns the model shows the model without its secrets."""
    llm = private_llm(Lab(), temperature=0.5)
    get_dispatcher().span(lambda llm: llm)(llm)

    (span,) = exporter.get_finished_spans()
    attributes = dict(span.attributes or {})
    assert json.loads(str(attributes["input.value"])) == {"llm": repr(llm)}
    assert json.loads(str(attributes["output.value"])) == {"temperature": 0.5, "class_name": "TIRQwen"}
    assert shown_secrets([span]) == []


@pytest.mark.parametrize("way", ALL, ids=str)
async def test_span_of_error(way: Way, exporter: InMemorySpanExporter) -> None:
    """A failing call marks its spans as failed, and they contain no secret even if the server echoes all of them."""
    with pytest.raises(AuthenticationError):
        await way(private_llm(Lab(status=401)), "Hello")

    spans = exporter.get_finished_spans()
    assert {span.status.status_code for span in spans} == {StatusCode.ERROR}
    assert {span.events[-1].name for span in spans} == {"exception"}
    assert shown_secrets(spans) == []


def counting() -> TokenCountingHandler:
    """Return core's token counter with a tokenizer whose counts differ clearly from a server's."""
    return TokenCountingHandler(tokenizer=lambda text: [0] * 1_000_003)


def counted(counter: TokenCountingHandler) -> list[dict[str, int]]:
    """Return the token counts of each call."""
    return [
        {
            "prompt_tokens": event.prompt_token_count,
            "completion_tokens": event.completion_token_count,
            "total_tokens": event.total_token_count,
        }
        for event in counter.llm_token_counts
    ]


@pytest.mark.parsers(True)
@pytest.mark.parametrize("form", FORMS)
async def test_counts_of_agent(form: str, server: Server) -> None:
    """Core's token counter counts each step of an agent once."""
    counter = counting()
    llm = TIRQwen(**server.settings, callback_manager=CallbackManager([counter]))
    await agent_of(llm, FORMS[form]).run(QUESTION)
    assert counted(counter) == [counts(usage_of(server, number)) for number in (0, 1)]


@pytest.mark.parametrize("way", STRUCTURED, ids=str)
async def test_counts_of_structured_prediction(way: Way, server: Server) -> None:
    """Core's token counter counts the single call of a structured prediction."""
    counter = counting()
    joke = await way(
        TIRQwen(**server.settings, callback_manager=CallbackManager([counter])), "Tell me a joke about cats."
    )
    assert isinstance(joke, Joke)
    assert server.live or joke == JOKE
    assert counted(counter) == [counts(usage_of(server))]


async def test_counts_of_abandoned_streams() -> None:
    """An abandoned stream is counted as one call without tokens: nothing is estimated or counted twice."""
    counter = counting()
    llm = private_llm(Lab(), callback_manager=CallbackManager([counter]))

    with closing(llm.stream_chat([ChatMessage("Hello")])) as responses:
        next(responses)
    with closing(llm.stream_complete("Hello")) as completions:
        next(completions)
    async with aclosing(await llm.astream_chat([ChatMessage("Hello")])) as aresponses:
        await anext(aresponses)
    async with aclosing(await llm.astream_complete("Hello")) as acompletions:
        await anext(acompletions)

    assert counted(counter) == [dict.fromkeys(USAGE, 0)] * 4


class Events(BaseEventHandler):
    """Keeps the dispatcher's events."""

    noted: list[Any] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.noted.append(event)


class Spans(SimpleSpanHandler):
    """Keeps the data of the dispatcher's spans."""

    _noted: list[Any] = PrivateAttr(default_factory=list)

    def new_span(self, id_: str, bound_args: Any, instance: Any = None, **kwargs: Any) -> Any:
        self._noted.append((id_, bound_args, instance, kwargs))
        return super().new_span(id_, bound_args, instance, **kwargs)

    def prepare_to_exit_span(self, id_: str, bound_args: Any, instance: Any = None, **kwargs: Any) -> Any:
        self._noted.append((id_, bound_args, instance, kwargs))
        return super().prepare_to_exit_span(id_, bound_args, instance, **kwargs)

    def prepare_to_drop_span(self, id_: str, bound_args: Any, instance: Any = None, **kwargs: Any) -> Any:
        self._noted += [(id_, bound_args, instance, kwargs), *traceback.format_exception(kwargs["err"])]
        return super().prepare_to_drop_span(id_, bound_args, instance, **kwargs)


@pytest.fixture
def told() -> Iterator[tuple[list[Any], list[Any]]]:
    """Record what the root dispatcher reports about events and spans."""
    dispatcher, events, spans = get_dispatcher(), Events(), Spans()
    dispatcher.add_event_handler(events)
    dispatcher.add_span_handler(spans)
    yield events.noted, spans._noted
    dispatcher.event_handlers.remove(events)
    dispatcher.span_handlers.remove(spans)


def written(event: Any) -> Iterator[str]:
    """Return every representation of an event that core can produce."""
    yield from (repr(event), str(event), repr(event.model_dump()), repr(event.dict()))
    yield to_json(event, fallback=repr).decode()
    with suppress(pickle.PicklingError):  # if it belongs to a class that core created dynamically
        yield pickle.dumps(event).decode("latin-1")


def leaks(events: list[Any], spans: list[Any]) -> list[str]:
    """Return the secrets that appear in events and spans."""
    texts = [*(text for event in events for text in written(event)), *(f"{span!r} {span}" for span in spans)]
    return [secret for secret in SECRETS if any(secret in text for text in texts)]


def test_leaks_are_found() -> None:
    """The search for secrets finds those of a request."""
    lab = Lab()
    private_llm(lab).complete("Hello")
    assert leaks([], [echo(lab.requests[0])]) == list(SECRETS)


def kinds(way: Way, *, failed: bool) -> list[str]:
    """Return the event types of a call in order, with those of successive deltas merged."""
    call = "LLMCompletion" if way in COMPLETIONS else "LLMChat"
    outer = "LLMStructuredPredict" if way in STRUCTURED else "LLMPredict" if way in PREDICTIONS else ""
    starts = [f"{outer}StartEvent"] * bool(outer) + [f"{call}StartEvent"]
    if failed:
        return [*starts, "ExceptionEvent" if "stream" in way.name else "SpanDropEvent"]
    pieces = [f"{call}InProgressEvent"] * ("stream" in way.name)
    objects = [f"{outer}InProgressEvent"] * ("stream" in way.name and bool(outer))
    return [*starts, *pieces, *objects, f"{call}EndEvent", *[f"{outer}EndEvent"] * bool(outer)]


@pytest.mark.parametrize("way", ALL, ids=str)
async def test_a_call_is_reported_without_secrets(way: Way, told: tuple[list[Any], list[Any]]) -> None:
    """A call is reported by its own events from start to end, and neither they nor the spans contain a secret."""
    await way(private_llm(Scripted(SETTLED)), "Hello")
    assert [*dict.fromkeys(type(event).__name__ for event in told[0])] == kinds(way, failed=False)
    assert told[1]
    assert leaks(*told) == []


@pytest.mark.parametrize("way", ALL, ids=str)
async def test_events_of_errors(way: Way, told: tuple[list[Any], list[Any]]) -> None:
    """A refused call is reported as such, and without secrets even if the server echoes all of them."""
    with pytest.raises(AuthenticationError):
        await way(private_llm(Lab(status=401)), "Hello")
    assert [*dict.fromkeys(type(event).__name__ for event in told[0])] == kinds(way, failed=True)
    assert told[1]
    assert leaks(*told) == []


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_raw_is_the_response_in_wire_format(way: Way, server: Server) -> None:
    """`raw` is the same plain dict in the wire format for a whole answer and for the last delta of a stream."""
    response = await way(TIRQwen(**server.settings), "What is the capital of Japan?")
    thinking = "It has been Tokyo since 1868."
    raw = response.raw
    assert type(raw) is dict
    assert raw["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": server.says("The capital of Japan is **Tokyo**."),
                "reasoning_content": server.says(thinking),
            },
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    facts = {**server.facts, "choices": []}
    del facts["object"]  # which only distinguishes the two forms
    assert {**raw, "choices": []} == facts
    assert json.loads(json.dumps(raw)) == raw
