"""Known pitfalls for a LlamaIndex LLM: each test fails with the obvious, naive implementation."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from llama_index.core.agent.react.output_parser import ReActOutputParser
from llama_index.core.agent.react.types import ResponseReasoningStep
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field
from pydantic_core import from_json

from llama_index_tir_qwen import TIRQwen
from tests.support.cassette_fixtures import Server
from tests.support.fake_vllm import PRIVATE, TOKEN, USAGE, delta
from tests.support.scripted_transport import KNOWN, Reply, Scripted, llm_on, llm_saying
from tests.support.server import STREAM_HEAD, Loopback, event
from tir_qwen.testing import Request

HELLO = [ChatMessage("Hello")]
PROMPT = PromptTemplate("{question}")


class Person(BaseModel):
    """A person."""

    name: str
    age: int


SAID, RAVI = '{"name": "Ravi Kumar", "age": 34}', Person(name="Ravi Kumar", age=34)
CALLING = Reply(calls=(("Person", SAID),), finish_reason="tool_calls")


def program_on(llm: TIRQwen, prompt: Any = PROMPT, **settings: Any) -> FunctionCallingProgram[Person]:
    """Return core's own program."""
    return FunctionCallingProgram.from_defaults(output_cls=Person, llm=llm, prompt=prompt, **settings)


async def _collected(values: Any) -> list[Any]:
    return [value async for value in await values]


async def _called(program: Any, way: str, question: str = "Who?") -> list[Any]:
    """Return the result of a program in one of its four forms."""
    if way == "call":
        return [program(question=question)]
    if way == "acall":
        return [await program.acall(question=question)]
    if way == "stream_call":
        return [*program.stream_call(question=question)]
    return await _collected(program.astream_call(question=question))


PROGRAM_WAYS = ["call", "acall", "stream_call", "astream_call"]


# 1. Streamed structured output looks for calls in `additional_kwargs`.


@pytest.mark.parametrize("way", PROGRAM_WAYS)
async def test_calls_in_additional_kwargs(way: str) -> None:
    """Core's own program returns the object in all forms; with `ToolCallBlock`s alone, its streams yield None."""
    objects = await _called(program_on(llm_saying(CALLING)), way)

    assert objects[-1] == RAVI
    names = [one.name for one in objects if one.name is not None]
    assert [name for name in names if not "Ravi Kumar".startswith(name)] == []
    assert (len(names) > 1) is ("stream" in way)


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_calls_in_every_response(way: str) -> None:
    """Each response of a stream has its calls in both places, and they agree."""
    llm = llm_saying(Reply("Let me look.", (("look", '{"where": "here"}'), ("look", '{"where": "there"}'))))
    responses = [*llm.stream_chat(HELLO)] if way == "stream" else await _collected(llm.astream_chat(HELLO))

    for response in responses:
        written = response.message.additional_kwargs.get("tool_calls", [])
        blocks = [block for block in response.message.blocks if block.block_type == "tool_call"]
        assert [(call["id"], call["function"]["name"]) for call in written] == [
            (block.tool_call_id or "", block.tool_name) for block in blocks
        ]
    assert [call["function"]["arguments"] for call in written] == ['{"where": "here"}', '{"where": "there"}']
    assert [block.tool_kwargs for block in blocks] == [{"where": "here"}, {"where": "there"}]


# 2. Core's programs do not require the tool in streams.


@pytest.mark.parametrize("form", ["stream_structured_predict", "astream_structured_predict"])
async def test_tool_is_required_in_streams(form: str) -> None:
    """A streamed prediction with a tool requires it, because a model with a choice could answer in words."""
    lab = Scripted(CALLING)
    stream = getattr(llm_on(lab, pydantic_program_mode="function"), form)(Person, PROMPT, question="Who?")

    objects = [*stream] if inspect.isgenerator(stream) else await _collected(stream)

    assert objects[-1] == RAVI
    assert lab.bodies[0]["tool_choice"] == "required"


@pytest.mark.parametrize("way", PROGRAM_WAYS)
async def test_tool_of_a_program_is_required(way: str) -> None:
    """Core's own program requires the tool in all forms, unless the user chose otherwise."""
    lab = Scripted(*[CALLING] * 3)
    llm = llm_on(lab)

    for choice in (None, "any", "auto"):
        await _called(program_on(llm, tool_choice=choice), way)

    assert [body["tool_choice"] for body in lab.bodies] == ["required", "required", "auto"]


@pytest.mark.parametrize("way", ["call", "acall"])
async def test_tool_of_a_program_that_need_not_be_called(way: str) -> None:
    """A program with `tool_required=False` leaves the choice to the model."""
    lab = Scripted(CALLING)

    await _called(program_on(llm_on(lab), tool_required=False), way)

    assert lab.bodies[0]["tool_choice"] == "auto"


# 3. The asynchronous program omits the system prompt.


@pytest.mark.parametrize("way", PROGRAM_WAYS)
async def test_system_prompt_of_a_program(way: str) -> None:
    """Core's own program sends the model's `system_prompt` once in all forms."""
    lab = Scripted(CALLING)

    await _called(program_on(llm_on(lab, system_prompt="Be brief.")), way)

    assert lab.bodies[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
    ]


@pytest.mark.parametrize("way", PROGRAM_WAYS)
async def test_system_prompt_before_that_of_a_template(way: str) -> None:
    """The system prompt precedes a system message of the prompt, and all forms send the same request."""
    lab = Scripted(CALLING)
    prompt = ChatPromptTemplate.from_messages([("system", "Extract."), ("user", "{question}")])

    await _called(program_on(llm_on(lab, system_prompt="Be brief."), prompt), way)

    assert [message["content"] for message in lab.bodies[0]["messages"]] == ["Be brief.", "Extract.", "Who?"]


@pytest.mark.parametrize("mode", ["default", "function", "llm"])
async def test_system_prompt_of_astructured_predict(mode: str) -> None:
    """`astructured_predict` sends the same request as `structured_predict`, including the system prompt."""
    lab = Scripted(*[CALLING if mode == "function" else Reply(SAID)] * 2)
    llm = llm_on(lab, system_prompt="Be brief.", pydantic_program_mode=mode)

    assert await llm.astructured_predict(Person, PROMPT, question="Who?") == RAVI
    assert llm.structured_predict(Person, PROMPT, question="Who?") == RAVI

    assert lab.bodies[0] == lab.bodies[1]
    assert lab.bodies[0]["messages"][0]["content"].split("\n")[0] == "Be brief."


# 4. A custom decorator, for example for retries, turns off all events.


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


CALLS: dict[str, Callable[[TIRQwen], Any]] = {
    "chat": lambda llm: llm.chat(HELLO),
    "achat": lambda llm: llm.achat(HELLO),
    "complete": lambda llm: llm.complete("Hello"),
    "acomplete": lambda llm: llm.acomplete("Hello"),
    "stream_chat": lambda llm: llm.stream_chat(HELLO),
    "astream_chat": lambda llm: llm.astream_chat(HELLO),
    "stream_complete": lambda llm: llm.stream_complete("Hello"),
    "astream_complete": lambda llm: llm.astream_complete("Hello"),
}
STREAMS = [name for name in CALLS if "stream" in name]


async def responses_of(llm: TIRQwen, name: str) -> list[Any]:
    """Return all responses of a call."""
    value = CALLS[name](llm)
    value = await value if inspect.isawaitable(value) else value
    if inspect.isasyncgen(value):
        return [response async for response in value]
    return [*value] if inspect.isgenerator(value) else [value]


@pytest.mark.parametrize("name", CALLS)
async def test_events_around_retries(name: str, instrument: Instrument) -> None:
    """Tracers see a call with three attempts as a single call, with its start and its end."""
    lab = Scripted(*[Reply(status=503, error={"message": "busy"})] * 2, Reply("Good day!"))

    responses = await responses_of(llm_on(lab, max_retries=2), name)

    kind = "LLMChat" if "chat" in name else "LLMCompletion"
    pieces = [f"{kind}InProgressEvent"] * len(responses) if name in STREAMS else []
    assert len(lab.requests) == 3
    assert instrument.noted == [f"{kind}StartEvent", *pieces, f"{kind}EndEvent"]


# 5. Core only instruments generators.


@pytest.mark.parametrize("name", STREAMS)
async def test_streams_are_generators(name: str, instrument: Instrument) -> None:
    """A stream is a generator; for any other iterator, core reports neither the deltas nor the answer."""
    counter = TokenCountingHandler(tokenizer=str.split)
    value = CALLS[name](llm_saying(Reply("Good day!"), callback_manager=CallbackManager([counter])))
    value = await value if inspect.isawaitable(value) else value

    assert (inspect.isgenerator(value), inspect.isasyncgen(value)) == (name[0] == "s", name[0] == "a")
    assert len(instrument.noted) == 1
    last = (await _collected(_now(value)) if name[0] == "a" else [*value])[-1]
    assert (last.text if "complete" in name else last.message.content) == "Good day!"
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (11, 5)


async def _now(value: Any) -> Any:
    return value


# 6. Copies, pickles and serialized forms: connections are not included, and the token only where necessary.


COPIES: dict[str, Callable[[TIRQwen], TIRQwen]] = {
    "deepcopy": copy.deepcopy,
    "model_copy": lambda llm: llm.model_copy(deep=True),
    "pickle": lambda llm: pickle.loads(pickle.dumps(llm)),
}


@pytest.mark.parametrize("made", COPIES)
def test_copies_keep_the_token(made: str) -> None:
    """A copy made after the model has connected uses the same token."""
    with Loopback(lambda received: [_whole("Good day!")]) as server:
        llm = TIRQwen(api_base=server.base_url, api_key=TOKEN)
        llm.complete("Hello")
        assert COPIES[made](llm).complete("Hello").text == "Good day!"
    assert [one.headers["authorization"] for one in server.requests] == [f"Bearer {TOKEN}"] * 2


def _whole(content: str) -> bytes:
    body = json.dumps({"choices": [{"index": 0, "message": {"content": content}, "finish_reason": "stop"}]}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


WRITTEN: dict[str, Callable[[Any], Any]] = {
    "to_dict": lambda llm: llm.to_dict(),
    "to_json": lambda llm: json.loads(llm.to_json()),
    "to_payload": lambda llm: {"temperature": 0.5, **llm.to_payload()},  # which holds no parameters
    "model_dump": lambda llm: llm.model_dump(),
    "dict": lambda llm: json.loads(llm.model_dump_json()),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_token_is_not_written(form: str) -> None:
    """Serialized forms of a model and data for tracers contain the parameters, but no secret."""
    settings = {**PRIVATE, "api_key": PRIVATE["access_token"]}
    del settings["access_token"]
    written = WRITTEN[form](TIRQwen(**settings, temperature=0.5))

    assert written["temperature"] == 0.5
    assert TOKEN not in repr(written)
    assert {"api_key", "access_token", "default_headers", "apikey", "http_client"} & written.keys() == set()


# 7. Leaving an asynchronous stream closes only its outermost generator.


class Endless(httpx.AsyncByteStream):
    """An endless body that records when it is closed."""

    def __init__(self, piece: str) -> None:
        self.piece = piece
        self.closed = False

    async def __aiter__(self) -> Any:
        while True:
            await asyncio.sleep(0)
            yield delta(content=self.piece)

    async def aclose(self) -> None:
        self.closed = True


ASYNC_STREAMS: dict[str, tuple[Callable[[TIRQwen], Any], int]] = {
    "astream_chat": (CALLS["astream_chat"], 1),
    "astream_complete": (CALLS["astream_complete"], 1),
    "astream_structured_predict": (lambda llm: llm.astream_structured_predict(Person, PROMPT, question="Who?"), 2),
}


OURS = ("llama_index_tir_qwen", "tir_qwen", "llama_index")


@pytest.mark.parametrize("name", ASYNC_STREAMS)
async def test_closed_at_once(name: str) -> None:
    """Closing an asynchronous stream closes the connection; only what core's wrappers drop is left to the loop."""
    begin, dropped = ASYNC_STREAMS[name]
    body, left, hooks = Endless('{"name": "Ravi'), [], sys.get_asyncgen_hooks()
    head = {"content-type": "text/event-stream"}
    client = httpx.AsyncClient(
        transport=httpx.MockTransport(lambda request: httpx.Response(200, stream=body, headers=head))
    )

    def finalizer(generator: Any) -> None:
        left.append(generator.ag_frame.f_globals["__name__"].partition(".")[0])
        hooks.finalizer(generator)

    sys.set_asyncgen_hooks(firstiter=hooks.firstiter, finalizer=finalizer)
    try:
        stream = await begin(TIRQwen(**KNOWN, async_http_client=client))
        await anext(stream)
        await stream.aclose()
        for _ in range(10):
            await asyncio.sleep(0)
    finally:
        sys.set_asyncgen_hooks(*hooks)

    assert body.closed
    assert len([package for package in left if package in OURS]) <= dropped


def talkative(_: Request) -> Iterator[bytes]:
    """Return an endless object."""
    yield STREAM_HEAD + event('{"name": "')
    while True:
        yield event("More")
        time.sleep(0.01)


OBJECTS: dict[str, Callable[[TIRQwen], Any]] = {
    "stream_structured_predict": lambda llm: llm.stream_structured_predict(Person, PROMPT, question="Who?"),
    "stream_chat": lambda llm: llm.as_structured_llm(Person).stream_chat(HELLO),
    "astream_structured_predict": lambda llm: llm.astream_structured_predict(Person, PROMPT, question="Who?"),
    "astream_chat": lambda llm: llm.as_structured_llm(Person).astream_chat(HELLO),
}


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # raised by core's StructuredLLM
@pytest.mark.parametrize("how", ["left", "closed"])
@pytest.mark.parametrize("name", OBJECTS)
async def test_object_is_left_early(name: str, how: str) -> None:
    """Leaving or closing the stream of an object closes the connection, which makes the server stop."""
    with Loopback(talkative) as server:
        stream = OBJECTS[name](TIRQwen(api_base=server.base_url))
        if inspect.isgenerator(stream):
            next(stream)
            stream.close() if how == "closed" else None
        else:
            stream = await stream
            await anext(stream)
            await stream.aclose() if how == "closed" else None
        if how == "left":
            del stream
        assert await asyncio.to_thread(server.noticed)


# 8. ReAct parses the text, where reasoning tags would break it.


@pytest.mark.parametrize("name", [name for name in CALLS if "chat" in name])
@pytest.mark.parametrize("draft", ["A product.", "A draft. Answer: 390?", "Thought: 390. Action: multiply"])
async def test_react_parser_and_inline_reasoning(draft: str, name: str) -> None:
    """If the server leaves the reasoning in the text, ReAct's parser still finds only the answer and does not fail."""
    reply = Reply(f"<think>\n{draft}\n</think>\n\nIt is 391.", reasoning="")

    last = (await responses_of(llm_saying(reply), name))[-1]

    implicit = "(Implicit) I can answer without any more tools!"
    step = ReActOutputParser().parse(last.message.content)
    assert step == ResponseReasoningStep(thought=implicit, response="It is 391.", is_streaming=False)


# 9. Counters and tracers read the last response's `raw`.


@pytest.mark.parametrize("name", CALLS)
async def test_raw_of_the_last_response(name: str) -> None:
    """The last `raw` is a plain dict of the whole answer, with its finish reason and usage."""
    counter = TokenCountingHandler(tokenizer=str.split)
    llm = llm_saying(Reply("Good day!", reasoning="Hm."), callback_manager=CallbackManager([counter]))

    last = (await responses_of(llm, name))[-1]

    message = {"role": "assistant", "content": "Good day!", "reasoning_content": "Hm."}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "stop_reason": None}
    assert type(last.raw) is dict
    assert {key: last.raw.get(key) for key in ("id", "model", "choices", "usage")} == {
        "id": "chatcmpl-1",
        "model": "qwen3_32b",
        "choices": [choice],
        "usage": USAGE,
    }
    counts = [(one.prompt_token_count, one.completion_token_count) for one in counter.llm_token_counts]
    assert counts == [(11, 5)]


# 10. Core plans with the metadata.


def test_metadata_that_core_plans_by() -> None:
    """Answers have Qwen3-32B's room instead of core's 256 tokens, and memories use its window instead of 3,900."""
    llm = llm_saying()
    helper = PromptHelper.from_llm_metadata(llm.metadata)

    assert (helper.context_window, helper.num_output) == (32_768, 4_096)
    assert ChatMemoryBuffer.from_defaults(llm=llm).token_limit == 24_576


# 11. Work per chunk adds up.


@pytest.mark.parametrize("name", STREAMS)
async def test_raw_of_each_response(name: str) -> None:
    """The `raw` of each response is a plain dict in the wire format with only that chunk."""
    responses = await responses_of(llm_saying(Reply("Good day!", reasoning="")), name)

    assert {type(response.raw) for response in responses} == {dict}
    said = [response.raw["choices"][0].get("delta", {}).get("content") for response in responses]
    assert "".join(filter(None, said)) == "Good day!"


def arguments_of(llm: TIRQwen, responses: Any) -> list[list[ToolSelection]]:
    """Return the calls as a user of each response sees them."""
    return [llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) for response in responses]


@pytest.mark.parametrize("name", ["stream_chat", "astream_chat"])
async def test_long_arguments_are_not_parsed_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the calls of each response parses a small multiple of long arguments, so the cost is not quadratic."""
    parsed: list[int] = []

    def counting(text: str, **kwargs: Any) -> Any:
        parsed.append(len(text))
        return from_json(text, **kwargs)

    monkeypatch.setattr("tir_qwen._integrations.partial_json.from_json", counting)
    text = json.dumps({"text": "x" * 40_000})
    llm = llm_saying(Reply(calls=(("write", text),), cut=8))

    calls = arguments_of(llm, await responses_of(llm, name))

    assert calls[-1][0].tool_kwargs == json.loads(text)
    sizes = [len(one[0].tool_kwargs.get("text", "")) for one in calls if one]
    assert len(sizes) > 5000
    assert sizes == sorted(sizes)
    assert 0 < len(parsed) < 1000
    assert sum(parsed) < 100 * len(text)


# Incomplete and malformed arguments.


@pytest.mark.parametrize("name", ["stream_chat", "astream_chat"])
async def test_arguments_as_they_grow(name: str) -> None:
    """Each response of a stream has the calls so far: texts as they grow, numbers once complete."""
    llm = llm_saying(Reply(calls=(("look", '{"where": "here", "depth": 12}'), ("look", '{"depth": 3}')), cut=9))

    calls = arguments_of(llm, await responses_of(llm, name))

    states = [[one.tool_kwargs for one in state] for state in calls]
    first = {"where": "here", "depth": 12}
    assert [state for number, state in enumerate(states) if state and state != states[number - 1]] == [
        [{}],
        [{"where": "here"}],
        [first],
        [first, {}],
        [first, {"depth": 3}],
    ]
    assert {one.tool_id for one in calls[-1]} == {"c0", "c1"}


@pytest.mark.parametrize("name", ["chat", "achat", "stream_chat", "astream_chat"])
@pytest.mark.parametrize("arguments", ['{"where": "he', '{"where": ', "where=here", "[1]", '"here"', "12"])
async def test_malformed_arguments(arguments: str, name: str) -> None:
    """A call whose arguments are not a JSON object raises an error once the answer is complete."""
    llm = llm_saying(Reply(calls=(("look", arguments),), finish_reason="tool_calls"))
    responses = await responses_of(llm, name)

    with pytest.raises(ValueError, match=r"^The call of 'look' cannot be run: its arguments are not "):
        llm.get_tool_calls_from_response(responses[-1])


def test_malformed_arguments_run_nothing() -> None:
    """`predict_and_call` reports such a call, and does not run the tool."""
    ran: list[str] = []
    tool = FunctionTool.from_defaults(lambda where="everywhere": ran.append(where), name="look")

    with pytest.raises(ValueError, match=r"^The call of 'look' cannot be run: its arguments are not "):
        llm_saying(Reply(calls=(("look", '{"where": "he'),))).predict_and_call([tool], "Look!")
    assert ran == []


# Core's own program on recorded servers.

QUESTIONS = {
    "one": ("Extract one person: Ravi Kumar is 34.", False, Person(name="Ravi Kumar", age=34)),
    "several": (
        "Extract both persons: Ravi Kumar is 34, Zoë is 28.",
        True,
        [Person(name="Ravi Kumar", age=34), Person(name="Zoë 👩‍💻", age=28)],
    ),
}


@pytest.mark.parsers(True)
@pytest.mark.cassettes("llama_structured")
@pytest.mark.parametrize("form", ["whole", "stream"])
@pytest.mark.parametrize("case", QUESTIONS)
async def test_programs_of_core_return_objects(server: Server, case: str, form: str) -> None:
    """Core's own program returns the object, or all of them with `allow_parallel_tool_calls`, in sync and async."""
    question, parallel, expected = QUESTIONS[case]
    program = program_on(TIRQwen(**server.settings), allow_parallel_tool_calls=parallel)

    given = [await _called(program, way, question) for way in PROGRAM_WAYS if ("stream" in way) is (form == "stream")]

    assert [objects[-1] for objects in given] == [expected, expected]
    assert repr(given[0]) == repr(given[1])  # as core creates an equal class for each
    assert server.bodies[0] == server.bodies[1]
    wanted = [(body["tool_choice"], body["parallel_tool_calls"]) for body in server.bodies]
    assert wanted == [("required", parallel)] * 2
