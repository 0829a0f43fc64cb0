"""LlamaIndex's structured prediction: every form, mode and kind of class, whole and streamed."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any, Literal

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, ConfigDict, Field, RootModel

from llama_index_tir_qwen import TIRQwen
from tests.support.cassette_fixtures import Server
from tests.support.fake_vllm import MODEL
from tests.support.scripted_transport import Reply, Scripted, llm_on, llm_saying

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # raised by core's StructuredLLM

MODES = [PydanticProgramMode.DEFAULT.value, PydanticProgramMode.FUNCTION.value, PydanticProgramMode.LLM.value]
PROMPT = PromptTemplate("{question}")


class Person(BaseModel):
    """A person."""

    name: str = Field(description="The full name.")
    age: int = Field(description="In years.")


class State(Enum):
    """What a ticket is."""

    OPEN = "open"
    DONE = "done"


class Ticket(BaseModel):
    """A ticket."""

    state: State
    assignee: str | None = None
    priority: Literal[1, 2, 3]


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str | None = None


class Badge(BaseModel):
    """A badge."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="fullName")
    number: int = Field(alias="badge-no")


class Relative(BaseModel):
    """A person and the children."""

    name: str
    children: list[Relative] = Field(default_factory=list)


class Family(BaseModel):
    """The head of a family, and who belongs to it."""

    name: str
    children: list[Relative]


FAMILY = {
    "name": "आशा",
    "children": [
        {"name": "रवि", "children": [{"name": "मीरा", "children": []}]},
        {"name": "Zoë 👩‍💻", "children": []},
    ],
}
CASES: dict[str, tuple[str, Any]] = {
    "flat": ("Extract the person: Ravi Kumar, 34, is an engineer.", Person(name="Ravi Kumar", age=34)),
    "enum": ("What is the state of the ticket?", Ticket(state=State.OPEN, priority=3)),
    "optional": ("A joke about cats with no punchline.", Joke(setup="Why did the cat sit on the computer?")),
    "alias": ("Read the badge of Ravi.", Badge(name="Ravi Kumar", number=17)),
    "nested": ("Describe the family of Asha.", Family.model_validate(FAMILY)),
    "recursive": ("Describe the family of Asha.", Relative.model_validate(FAMILY)),
}


@dataclass(frozen=True)
class Way:
    """A public form of prediction; `cassette` distinguishes the two forms on the wire."""

    name: str
    predict: Callable[..., Any] = field(repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def streams(self) -> bool:
        return "stream" in self.name

    @property
    def cassette(self) -> str:
        return "stream" if self.streams else "whole"

    async def __call__(self, llm: TIRQwen, cls: Any, question: str, into: Any = None, **kwargs: Any) -> list[Any]:
        """Return all objects, also appended to `into` as they arrive; `kwargs` are settings of this call."""
        objects = [] if into is None else into
        async for one in _each(self.predict(llm, cls, question, kwargs)):
            objects.append(_object(one) if isinstance(one, (ChatResponse, CompletionResponse)) else one)
        return objects


async def _each(value: Any) -> AsyncIterator[Any]:
    value = await value if inspect.isawaitable(value) else value
    if inspect.isasyncgen(value):
        async for one in value:
            yield one
    else:
        for one in value if inspect.isgenerator(value) else [value]:
            yield one


def _object(response: Any) -> Any:
    """Return the object of a `StructuredLLM`'s response, which must also be its text."""
    text = response.text if isinstance(response, CompletionResponse) else response.message.content
    assert json.loads(text) == response.raw.model_dump(mode="json")
    return response.raw


def _predicting(name: str) -> Way:
    def predict(llm: TIRQwen, cls: Any, question: str, kwargs: dict[str, Any]) -> Any:
        return getattr(llm, name)(cls, PROMPT, llm_kwargs=kwargs, question=question)

    return Way(name, predict)


def _asking(name: str) -> Way:
    def predict(llm: TIRQwen, cls: Any, question: str, kwargs: dict[str, Any]) -> Any:
        prompt = [ChatMessage(question)] if "chat" in name else question
        return getattr(llm.as_structured_llm(cls), name)(prompt, **kwargs)

    return Way(name, predict)


PREDICTIONS = ("structured_predict", "astructured_predict", "stream_structured_predict", "astream_structured_predict")
WAYS = [
    *map(_predicting, PREDICTIONS),
    *map(_asking, ("complete", "acomplete", "chat", "achat", "stream_chat", "astream_chat")),
]
"""The methods of the LLM itself, and those of `as_structured_llm`."""
STREAMS = [way for way in WAYS if way.streams]


def holds(later: Any, earlier: Any) -> bool:
    """Return whether a later state of an object contains everything in an earlier one."""
    if earlier is None:
        return True
    if isinstance(earlier, dict):
        return all(key in later and holds(later[key], value) for key, value in earlier.items())
    if isinstance(earlier, list):
        return len(earlier) <= len(later) and all(map(holds, later, earlier))
    return later.startswith(earlier) if isinstance(earlier, str) else later == earlier


def assert_grown(objects: list[Any], expected: Any, streams: bool) -> None:
    """Check that the last object is the expected one, and that those before it lead up to it."""
    assert (type(objects[-1]), objects[-1]) == (type(expected), expected)
    assert (len(objects) > 1) is streams
    states = [one.model_dump(mode="json") for one in objects]
    assert [state for state in states if not any(value is not None for value in state.values())] == []
    assert [pair for pair in pairwise(states) if not holds(pair[1], pair[0])] == []
    assert [one for one, later in pairwise(objects) if one == later] == []


# On recorded servers.


async def check(server: Server, mode: str, case: str, way: Way) -> None:
    """Run the checks that all cases share."""
    question, expected = CASES[case]
    llm = TIRQwen(**server.settings, pydantic_program_mode=mode)

    assert_grown(await way(llm, type(expected), question), expected, way.streams)


@pytest.mark.cassettes("llama_structured")
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["default", "llm"])
async def test_the_whole_answer_is_the_object(server: Server, mode: str, case: str, way: Way) -> None:
    """The whole answer is the object, in every form and on every server, with an enforced or a described schema."""
    await check(server, mode, case, way)


@pytest.mark.parsers(True)
@pytest.mark.cassettes("llama_structured")
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("case", CASES)
async def test_object_by_a_tool(server: Server, case: str, way: Way) -> None:
    """In the mode `FUNCTION`, every form returns the object from the arguments of a tool."""
    await check(server, "function", case, way)


@pytest.mark.parsers(True)
@pytest.mark.cassettes("llama_structured")
@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_object_by_a_tool_without_thinking(server: Server, way: Way) -> None:
    """This works without thinking too, where old servers stream the arguments of a named tool as text."""
    question, expected = CASES["nested"]
    llm = TIRQwen(**server.settings, pydantic_program_mode="function", enable_thinking=False)

    assert_grown(await way(llm, Family, question), expected, way.streams)


@pytest.mark.cassettes("llama_structured")
@pytest.mark.parametrize("way", [way for way in WAYS if "predict" in way.name], ids=str)
@pytest.mark.parametrize("tokens", ["3", "64"])
async def test_cut_on_a_server(server: Server, tokens: str, way: Way) -> None:
    """An answer that `max_tokens` cuts off, in its reasoning or in its object, raises an error that says so."""
    with pytest.raises(ValueError, match=rf"^There is no Relative: {CUT}"):
        await way(TIRQwen(**server.settings, max_tokens=int(tokens)), Relative, CASES["recursive"][0])


# On scripted replies.

SAID = '{"name": "Ravi Kumar", "age": 34}'
RAVI = Person(name="Ravi Kumar", age=34)
CUT = r"max_tokens \(or the context window\) truncated the answer before its object was complete$"


def reply_of(mode: str, text: str = SAID, name: str = "Person", **facts: Any) -> Reply:
    """Return an answer with `text` where the mode expects it."""
    calls = mode == "function" and "{" in text
    return Reply(calls=((name, text),), **facts) if calls else Reply(text, **facts)


DESCRIPTION = "Give your answer as one JSON object that follows this JSON schema, and nothing else:\n"
OWN_SYSTEM = {"role": "system", "content": "Be brief."}


def body_of(mode: str, cls: Any, way: Way, question: str = "Who?", system: str = "", **params: Any) -> dict[str, Any]:
    """Return the expected request for an object."""
    schema = cls.model_json_schema()
    described = DESCRIPTION + json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
    text = {"function": system}.get(mode, f"{system}\n\n{described}" if system else described)
    body = {
        "model": MODEL,
        "messages": [*([{"role": "system", "content": text}] if text else []), {"role": "user", "content": question}],
        **({"stream": True, "stream_options": {"include_usage": True}} if way.streams else {"stream": False}),
        **params,
    }
    if mode == "default":
        wanted = {"name": cls.__name__, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": wanted}
    if mode == "function":
        parts = {name: schema[name] for name in ("$defs", "properties", "required", "type", "$ref") if name in schema}
        function = {"name": cls.__name__, "description": cls.__doc__, "parameters": parts}
        named = {"type": "function", "function": {"name": cls.__name__}}
        body["tools"] = [{"type": "function", "function": function}]
        body["tool_choice"] = named if "$defs" in schema else "required"
        body["parallel_tool_calls"] = False
    return body


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", MODES)
async def test_every_form_sends_the_same_request(mode: str, case: str, way: Way) -> None:
    """Every form sends the same request, which shows the model the whole schema and has the server enforce it.

    A tool with a recursive schema is requested by name, because vLLM 0.9 rejects it otherwise.
    """
    cls = type(CASES[case][1])
    lab = Scripted(reply_of(mode, CASES[case][1].model_dump_json(by_alias=True), cls.__name__))

    await way(llm_on(lab, pydantic_program_mode=mode), cls, "Who?")

    assert lab.bodies == [body_of(mode, cls, way)]


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_call_that_must_not_be_run(way: Way) -> None:
    """The arguments of a call that must not be run are not the object, even if they match its schema."""
    llm = llm_saying(*[reply_of("function", name="other")] * 2, pydantic_program_mode="function")

    with pytest.raises(ValueError, match=r"^There is no Person: its call is not valid: there is no tool of this name$"):
        await way(llm, Person, "Who?")


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("mode", MODES)
async def test_system_prompt(mode: str, way: Way) -> None:
    """The model's `system_prompt` is sent once in all forms."""
    lab = Scripted(reply_of(mode))

    await way(llm_on(lab, pydantic_program_mode=mode, system_prompt="Be brief."), Person, "Who?")

    assert lab.bodies == [body_of(mode, Person, way, system="Be brief.")]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("mode", MODES)
async def test_settings_of_a_call(mode: str, way: Way) -> None:
    """Settings of a call override those of the constructor."""
    lab = Scripted(reply_of(mode))
    llm = llm_on(lab, pydantic_program_mode=mode, temperature=0.1, top_p=0.5, enable_thinking=True)

    assert (await way(llm, Person, "Who?", temperature=0.7, enable_thinking=False))[-1] == RAVI

    kwargs = {"enable_thinking": False}
    assert lab.bodies == [body_of(mode, Person, way, temperature=0.7, top_p=0.5, chat_template_kwargs=kwargs)]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("mode", MODES)
async def test_settings_of_a_program(mode: str, way: Way) -> None:
    """Arguments that only core's own programs use have no effect."""
    lab = Scripted(reply_of(mode))
    given = {"tool_required": False, "tool_choice": "none", "allow_parallel_tool_calls": True}

    await way(llm_on(lab, pydantic_program_mode=mode), Person, "Who?", **given)

    assert lab.bodies == [body_of(mode, Person, way)]


@pytest.mark.parametrize("mode", MODES)
def test_own_system_message(mode: str) -> None:
    """A prompt with its own system message keeps it, and its template is not modified."""
    lab = Scripted(*[reply_of(mode)] * 2)
    llm, prompt = (
        llm_on(lab, pydantic_program_mode=mode),
        ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")]),
    )

    assert [llm.structured_predict(Person, prompt, question="Who?") for _ in range(2)] == [RAVI, RAVI]
    first, second = lab.bodies
    assert first == second
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert first["messages"][0]["content"].startswith("Be brief.")


class Numbers(RootModel[list[int]]):
    """Some numbers."""


@pytest.mark.parametrize("way", STREAMS, ids=str)
async def test_growing_list(way: Way) -> None:
    """A class whose root is a list grows like an object, number by number."""
    objects = await way(llm_saying(Reply("[1, 23, 4]", cut=3)), Numbers, "Which?")

    assert objects == [Numbers([1]), Numbers([1, 23]), Numbers([1, 23, 4])]


def test_the_error_of_several_answers_is_that_of_the_first() -> None:
    """Whether the object is cut off is said by the finish reason of the answer that should contain it."""
    program: Any = llm_saying()._program(Person, ChatPromptTemplate.from_messages([("user", "Who?")]))
    choices: list[Any] = [{"message": {}, "finish_reason": reason} for reason in ("length", "stop")]
    response = ChatResponse(message=ChatMessage('{"name": "Ra', role="assistant"), raw={"choices": choices})
    with pytest.raises(ValueError, match=rf"^There is no Person: {CUT}"):
        program._build(response)


@pytest.mark.parametrize("way", STREAMS, ids=str)
@pytest.mark.parametrize("mode", MODES)
async def test_growing_object(mode: str, way: Way) -> None:
    """A stream yields each new state of the object once: texts as they grow, numbers once complete."""
    objects = await way(llm_saying(reply_of(mode, cut=6), pydantic_program_mode=mode), Person, "Who?")

    assert [one.model_dump() for one in objects] == [
        {"name": "Ra", "age": None},
        {"name": "Ravi Kum", "age": None},
        {"name": "Ravi Kumar", "age": None},
        {"name": "Ravi Kumar", "age": 34},
    ]
    assert [type(one) is Person for one in objects] == [False, False, False, True]


@pytest.mark.parametrize("way", STREAMS, ids=str)
async def test_growing_object_of_aliases(way: Way) -> None:
    """The states of an object use its field names, whatever the names on the wire."""
    text = '{"fullName": "Ravi Kumar", "badge-no": 17}'

    objects = await way(llm_saying(Reply(text, cut=16)), Badge, "Who?")

    expected = [("Ra", None), ("Ravi Kumar", None), ("Ravi Kumar", 17)]
    assert [(one.name, one.number) for one in objects] == expected
    assert type(objects[-1]) is Badge


class Reached(BaseModel):
    """How to reach someone."""

    phone: str | None
    email: str | None
    name: str


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", STREAMS, ids=str)
async def test_growing_object_without_a_value_yet(way: Way, mode: str) -> None:
    """A stream yields no object as long as none of its fields has a value."""
    reply = reply_of(mode, '{"phone": null, "email": null, "name": "Ravi"}', "Reached", cut=6)

    objects = await way(llm_saying(reply, pydantic_program_mode=mode), Reached, "Who?")

    assert [one.model_dump() for one in objects] == [
        {"phone": None, "email": None, "name": "Ra"},
        {"phone": None, "email": None, "name": "Ravi"},
    ]


class Named(BaseModel):
    """Who it is."""

    name: str = Field(validation_alias="fullName")
    age: int


@pytest.mark.parametrize("way", STREAMS[:1], ids=str)
async def test_growing_object_of_validation_aliases(way: Way) -> None:
    """The same holds for validation aliases."""
    objects = await way(llm_saying(Reply('{"fullName": "Ravi", "age": 34}', cut=16)), Named, "Who?")

    assert [one.name for one in objects] == ["Ra", "Ravi"]


class Order(BaseModel):
    """An order."""

    item: str
    size: str = "medium"


@pytest.mark.parametrize("way", STREAMS, ids=str)
async def test_growing_object_with_a_default(way: Way) -> None:
    """No default value appears where the answer goes on to give another one."""
    objects = await way(llm_saying(Reply('{"item": "tea", "size": "large"}', cut=9)), Order, "Who?")

    assert_grown(objects, Order(item="tea", size="large"), streams=True)


AROUND = {
    "fence": f"```json\n{SAID}\n```",
    "plain fence": f"```\n{SAID}\n```\n",
    "sentences": f"Here it is:\n```json\n{SAID}\n```\nAnything else?",
    "white space": f"\n\n  {SAID}\n",
}


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("case", AROUND)
async def test_around_the_object(case: str, way: Way) -> None:
    """A Markdown fence or sentence around the object is ignored; after a sentence the object is not streamed."""
    llm = llm_saying(Reply(AROUND[case]), pydantic_program_mode="llm")

    assert_grown(await way(llm, Person, "Who?"), RAVI, way.streams and case != "sentences")


MISFIT = "the answer is not the requested object: "
BAD: dict[str, tuple[str, str, str, list[dict[str, Any]]]] = {
    "cut": ('{"name": "Ra', "length", CUT, [{"name": "Ra", "age": None}]),
    "cut before it": ("", "length", CUT, []),
    "words": ("I cannot tell.", "stop", r"the answer contains no JSON$", []),
    "nothing": ("", "stop", r"the answer contains no JSON$", []),
    "another object": ('{"name": "Ra"}', "stop", MISFIT, [{"name": "Ra", "age": None}]),
    "another type": ('{"name": "Ra", "age": "old"}', "stop", MISFIT, [{"name": "Ra", "age": None}] * 2),
    "broken": ('{"name": "Ra", }}', "stop", MISFIT, [{"name": "Ra", "age": None}]),
}


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("mode", MODES)
async def test_answer_without_the_object(mode: str, case: str, way: Way) -> None:
    """An answer that is not the object raises a `ValueError` with the reason; a stream yields its partial object first.

    Before that it is requested once more, unless it was truncated. A stream without an answer may have lost a call, so
    a whole answer is requested first.
    """
    text, finish_reason, problem, before = BAD[case]
    reply = reply_of(mode, text, finish_reason=finish_reason, cut=12)
    lab = Scripted(reply, reply, reply)
    objects: list[Any] = []

    with pytest.raises(ValueError, match=rf"^There is no Person: {problem}"):
        await way(llm_on(lab, pydantic_program_mode=mode), Person, "Who?", objects)

    is_lost = mode == "function" and case == "nothing" and way.streams
    assert len(lab.requests) == (1 if finish_reason == "length" else 3 if is_lost else 2)
    given = [one.model_dump(include={"name", "age"}) for one in objects]
    assert [state for state in given if state["age"] is None] == (before if way.streams else [])


REQUEST = "Give this answer as one JSON object that follows the JSON schema."
DRAFTS = {
    "words": ("I cannot tell.", REQUEST),
    "another object": (
        'So: {"name": "Ra"}',
        "This answer is not valid: age: Field required. Give it again as one JSON object that follows the JSON schema.",
    ),
}


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("mode", ["default", "llm"])
async def test_an_invalid_answer_is_sent_back_once(mode: str, draft: str, way: Way) -> None:
    """An answer that is not the object is sent back once with the error; the object is then streamed as usual."""
    text, request = DRAFTS[draft]
    lab = Scripted(Reply(text), Reply(SAID))

    assert_grown(await way(llm_on(lab, pydantic_program_mode=mode), Person, "Who?"), RAVI, way.streams)

    first = body_of(mode, Person, way)
    second = dict(first)
    second["messages"] = [
        *first["messages"],
        {"role": "assistant", "content": text},
        {"role": "user", "content": request},
    ]
    assert lab.bodies == [first, {**second, "chat_template_kwargs": {"enable_thinking": False}}]


# Events.


class Instrument(BaseEventHandler):
    """Records the names of the dispatcher's events, and what had been predicted by then."""

    noted: list[tuple[str, Any]] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.noted.append((type(event).__name__, getattr(event, "output", None)))


@pytest.fixture
def instrument() -> Iterator[Instrument]:
    """Install a handler on the root dispatcher, as tracers do."""
    dispatcher = get_dispatcher()
    handler = Instrument()
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


@pytest.mark.parametrize("way", WAYS[:4], ids=str)
@pytest.mark.parametrize("mode", MODES)
async def test_each_prediction_is_reported_once(mode: str, way: Way, instrument: Instrument) -> None:
    """The dispatcher receives each prediction, each state of its object and the underlying chat once."""
    objects = await way(llm_saying(reply_of(mode), pydantic_program_mode=mode), Person, "Who?")

    predicted = [(name, output) for name, output in instrument.noted if "Structured" in name]
    states = [("LLMStructuredPredictInProgressEvent", one) for one in objects] if way.streams else []
    end = ("LLMStructuredPredictEndEvent", RAVI)
    assert predicted == [("LLMStructuredPredictStartEvent", None), *states, end]
    chat = [name for name, _ in instrument.noted if "Chat" in name and "InProgress" not in name]
    assert chat == ["LLMChatStartEvent", "LLMChatEndEvent"]
    assert [instrument.noted[0][0], instrument.noted[-1][0]] == [predicted[0][0], predicted[-1][0]]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("mode", MODES)
async def test_token_counting(mode: str, way: Way) -> None:
    """Core's token counter counts each prediction once."""
    counter = TokenCountingHandler(tokenizer=str.split)
    llm = llm_saying(reply_of(mode), pydantic_program_mode=mode, callback_manager=CallbackManager([counter]))

    await way(llm, Person, "Who?")

    counts = [(one.prompt_token_count, one.completion_token_count) for one in counter.llm_token_counts]
    assert counts == [(11, 5)]
