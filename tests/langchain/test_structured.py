"""`with_structured_output`: every method and every kind of schema, whole and streamed."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Annotated, Any, Literal, TypedDict

import pydantic.v1
import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.tools import tool
from pydantic import BaseModel, Field, field_validator

from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen._messages import chunk_from_delta, message_to_wire
from langchain_tir_qwen._structured_output import StructuredOutputParser, any_object, read_schema
from langchain_tir_qwen._tool_calls import ToolCallChunks
from tests.support.cassette_fixtures import Server
from tests.support.scripted_transport import Reply, Scripted, model_on, model_saying
from tir_qwen import ConfigurationError, Delta, ToolCallDelta

METHODS = ["json_schema", "function_calling", "json_mode"]


class Person(BaseModel):
    """A person."""

    name: str = Field(description="The full name.")
    age: int


class OldPerson(pydantic.v1.BaseModel):
    """A person."""

    name: str = pydantic.v1.Field(description="The full name.")
    age: int


class PersonDict(TypedDict):
    """A person."""

    name: Annotated[str, ..., "The full name."]
    age: int


@dataclass
class PersonData:
    """A person."""

    name: Annotated[str, Field(description="The full name.")]
    age: int


SCHEMA = {
    "title": "Person",
    "description": "A person.",
    "type": "object",
    "properties": {"name": {"type": "string", "description": "The full name."}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
FUNCTION = {"name": "Person", "description": "A person.", "parameters": SCHEMA}
SAID = {"name": "Zoë राव 👩‍💻", "age": 34}
KINDS: dict[str, tuple[Any, Any]] = {
    "pydantic": (Person, Person(**SAID)),
    "pydantic v1": (OldPerson, OldPerson(**SAID)),
    "TypedDict": (PersonDict, SAID),
    "dataclass": (PersonData, PersonData(**SAID)),
    "JSON schema": (SCHEMA, SAID),
    "function": (FUNCTION, SAID),
    "tool": ({"type": "function", "function": FUNCTION}, SAID),
    "response_format": ({"type": "json_schema", "json_schema": {"name": "Person", "schema": SCHEMA}}, SAID),
}


async def _last(values: Any) -> Any:
    return [value async for value in values][-1]


async def _now(value: Any) -> Any:
    return value


WAYS: dict[str, Callable[[Any, str], Awaitable[Any]]] = {
    "invoke": lambda chain, question: _now(chain.invoke(question)),
    "ainvoke": lambda chain, question: chain.ainvoke(question),
    "stream": lambda chain, question: _now([*chain.stream(question)][-1]),
    "astream": lambda chain, question: _last(chain.astream(question)),
}


def reply_of(method: str, text: str, **facts: Any) -> Reply:
    """Return an answer with `text` where the method expects it."""
    calls = method == "function_calling" and "{" in text
    return Reply(calls=(("", text),), **facts) if calls else Reply(text, **facts)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
async def test_the_answer_is_an_object_of_the_schema(method: str, kind: str, way: str) -> None:
    """The answer is an instance of the user's schema, whatever kind of schema and whichever method is used."""
    schema, expected = KINDS[kind]
    model = model_saying(reply_of(method, json.dumps(SAID, ensure_ascii=False)))

    assert await WAYS[way](model.with_structured_output(schema, method=method), "Who?") == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", METHODS)
async def test_object_of_blocks(method: str, way: str) -> None:
    """A model that answers in blocks (`output_version="v1"`) returns the same object."""
    model = model_saying(reply_of(method, json.dumps(SAID)), output_version="v1")

    assert await WAYS[way](model.with_structured_output(Person, method=method), "Who?") == Person(**SAID)


def bare(schema: Any) -> Any:
    """Return a schema without the titles that pydantic adds."""
    if isinstance(schema, dict):
        return {name: bare(value) for name, value in schema.items() if name != "title" or isinstance(value, dict)}
    return [bare(value) for value in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strict", [None, True, False])
def test_every_kind_of_schema_is_sent_alike(strict: bool | None, kind: str) -> None:
    """Every kind of schema is sent identically, with all descriptions; `strict` is only sent if the user sets it."""
    schema, _ = KINDS[kind]
    lab = Scripted(*(reply_of(method, json.dumps(SAID)) for method in METHODS))
    for method in METHODS:
        model_on(lab).with_structured_output(schema, method=method, strict=strict).invoke("Who?")

    by_schema, by_tool, by_mode = lab.bodies
    said = {} if strict is None else {"strict": strict}
    asked = {"model": "qwen3_32b", "messages": [{"role": "user", "content": "Who?"}], "stream": False}
    described_to_the_model, question = by_schema.pop("messages")
    instruction, _, shown = described_to_the_model.pop("content").partition(":\n")
    assert described_to_the_model == {"role": "system"}
    assert instruction == "Give your answer as one JSON object that follows this JSON schema, and nothing else"
    assert bare(json.loads(shown)) == bare(by_schema["response_format"]["json_schema"]["schema"])
    by_schema["messages"] = [question]
    name = "PersonDict" if kind == "TypedDict" else KINDS[kind][1].__class__.__name__
    name = "Person" if name == "dict" else name
    described = bare(SCHEMA)
    assert bare(by_schema) == {
        **asked,
        "response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": described, **said}},
    }
    tool = {"type": "function", "function": {"name": name, "description": "A person.", "parameters": described, **said}}
    assert bare(by_tool) == {**asked, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    assert by_mode == {**asked, "response_format": {"type": "json_object"}}


@pytest.mark.parametrize("inner", [{}, {"description": "Within."}], ids=["outer", "both"])
@pytest.mark.parametrize("key", ["parameters", "schema"])
def test_the_description_of_a_dict_is_sent(key: str, inner: dict[str, Any]) -> None:
    """The description beside the schema in a dict is sent within the schema, unless that has its own."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, **inner}
    given = {"name": "Person", "description": "A person.", key: schema}
    lab = Scripted(Reply('{"name": "Ravi"}'))
    said = model_on(lab).with_structured_output(given, method="json_schema").invoke("Who?")

    assert said == {"name": "Ravi"}
    assert lab.bodies[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "Person", "schema": {"description": "A person.", **schema}},
    }


@pytest.mark.parametrize(
    ("text", "so_far"),
    [
        ("", None),
        ("{", {}),
        ('{"name": "Ra', {"name": "Ra"}),
        ('{"name": "Ravi", "age": 3', {"name": "Ravi"}),
        ('{"name": "Ravi", "age": 34}', {"name": "Ravi", "age": 34}),
    ],
)
def test_partial_result_is_the_object_so_far(text: str, so_far: Any) -> None:
    """A partial result is the object so far, if there is one, where a complete result raises an error."""
    parser = StructuredOutputParser(answer_schema=read_schema(SCHEMA))
    generations: list[Any] = [ChatGeneration(message=AIMessage(text))]

    assert parser.parse_result(generations, partial=True) == so_far
    if text.endswith("}"):
        assert parser.parse_result(generations) == so_far
    else:
        with pytest.raises(OutputParserException):
            parser.parse_result(generations)


def test_a_sum_of_chunks_is_parsed_like_a_whole_answer() -> None:
    """The object is in the first call that can be run of a sum of chunks, or in its text, or in a text alone."""
    said = '{"name": "Ravi", "age": 34}'
    wrong = ToolCallDelta(0, "a", "Person", '{"name": 7}', error="it is wrong")
    right = [
        ToolCallDelta(1, "b", "Person"),
        ToolCallDelta(1, arguments=said[:9]),
        ToolCallDelta(1, arguments=said[9:]),
    ]
    calls = ToolCallChunks()
    parts: list[Any] = [chunk_from_delta(Delta(tool_calls=[part]), calls) for part in (wrong, *right)]
    parts[1].message.tool_call_chunks[0]["args"] = None  # as a part without arguments may be
    texts = [chunk_from_delta(Delta(content=part), calls) for part in (said[:9], said[9:])]
    parser = StructuredOutputParser(answer_schema=read_schema(SCHEMA))

    beside = AIMessageChunk(content=said, tool_call_chunks=[tool_call_chunk(name="Person", args=None)])
    generations = (reduce(add, parts), reduce(add, texts), ChatGeneration(message=beside), Generation(text=said))
    for generation in generations:
        assert parser.parse_result([generation]) == {"name": "Ravi", "age": 34}
    with pytest.raises(OutputParserException, match=r"^the call of the object is not valid: it is wrong\n"):
        StructuredOutputParser(answer_schema=any_object()).parse_result(parts[:1])


def test_the_first_of_several_calls_is_the_object() -> None:
    """Of several valid calls the first one is the object, in a whole answer and in a stream."""
    said = [{"name": "Ravi", "age": 34}, {"name": "Ada", "age": 36}]
    message = AIMessage("", tool_calls=[tool_call(name="Person", args=one, id="c") for one in said])
    parser = StructuredOutputParser(answer_schema=read_schema(SCHEMA))
    assert parser.invoke(message) == said[0]
    parts = [tool_call_chunk(name="Person", id=f"c{at}", index=at) for at in range(2)]
    parts += [tool_call_chunk(args=json.dumps(one), index=at) for at, one in enumerate(said)]
    chunks = [AIMessageChunk(content="", tool_call_chunks=[part]) for part in (*parts, parts[1])]
    assert [*parser.transform(iter(chunks))][-1] == said[0]


@dataclass
class Undocumented:  # noqa: D101 - that it has no docstring is the point
    name: str


@pytest.mark.parametrize(
    ("schema", "sent"),
    [
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (
            Undocumented,
            {
                "title": "Undocumented",
                "type": "object",
                "properties": {"name": {"title": "Name", "type": "string"}},
                "required": ["name"],
            },
        ),
    ],
    ids=["list", "dataclass"],
)
def test_a_type_without_a_docstring_has_no_description(schema: Any, sent: dict[str, Any]) -> None:
    """Neither a generated docstring nor that of a built-in type describes the object."""
    assert read_schema(schema).json == sent


def test_the_object_of_a_tool_is_its_arguments() -> None:
    """Of a tool that is given as a schema, the object is the arguments, and it is not called."""

    @tool
    def find_city(city: str) -> str:
        """Find a city."""
        raise AssertionError

    schema = read_schema(find_city)
    assert (schema.name, schema.json) == (
        "find_city",
        {
            "description": "Find a city.",
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    )


def test_a_stream_of_text_is_parsed_as_it_grows() -> None:
    """The parser also takes the text alone, as from a chain that has already read the messages."""
    parser = StructuredOutputParser(answer_schema=read_schema(SCHEMA))
    growing = [*parser.transform(iter(['{"name": "Ra', 'vi", "age"', ": 34}"]))]
    assert growing == [{"name": "Ra"}, {"name": "Ravi"}, {"name": "Ravi", "age": 34}]


def test_json_mode_without_a_schema_accepts_any_object() -> None:
    """`json_mode` needs no schema and then accepts any object."""
    assert model_saying(Reply('{"a": [1]}')).with_structured_output(method="json_mode").invoke("?") == {"a": [1]}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"method": "json_schema"}, "schema is required with method='json_schema'."),
        (
            {"schema": Person, "method": "grammar"},
            "method must be json_schema, function_calling or json_mode, not 'grammar'.",
        ),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], problem: str) -> None:
    """Meaningless arguments are rejected before anything is sent."""
    with pytest.raises(ValueError) as caught:
        model_saying().with_structured_output(**arguments)
    assert str(caught.value) == problem


class Options(BaseModel):
    """Nothing is required."""

    size: int = 7


@pytest.mark.parametrize("way", WAYS)
async def test_call_without_arguments(way: str) -> None:
    """A call without arguments, as old servers send it, results in an object of defaults, whole or streamed."""
    chain = model_saying(Reply(calls=(("Options", ""),))).with_structured_output(Options, method="function_calling")

    assert await WAYS[way](chain, "?") == Options(size=7)


@pytest.mark.parametrize("way", WAYS)
async def test_call_that_must_not_be_run(way: str) -> None:
    """The arguments of a call that must not be run are not the object, even if they match its schema."""
    wrong = Reply(calls=(("other", '{"name": "Ada", "age": 36}'),), finish_reason="tool_calls")
    chain = model_saying(wrong, wrong).with_structured_output(Person, method="function_calling")

    with pytest.raises(OutputParserException, match=r"^the call of the object is not valid: there is no tool of this"):
        await WAYS[way](chain, "?")


def test_call_that_old_servers_complete() -> None:
    """A stream of vLLM 0.9 has complete arguments where max_tokens truncated them; they are not the object."""
    call = {"index": 0, "id": "a", "function": {"name": "Person", "arguments": '{"name": "A", "age": 3}'}}
    cut = Reply(frames=[{"tool_calls": [call]}], finish_reason="tool_calls")
    chain = model_saying(cut, max_tokens=5).with_structured_output(Person, method="function_calling")

    with pytest.raises(OutputParserException, match=r"^the call of the object is not valid: max_tokens"):
        list(chain.stream("?"))


def test_text_after_the_call() -> None:
    """Text that follows the call is no part of the object."""
    call = {"index": 0, "id": "a", "function": {"name": "Person", "arguments": '{"name": "Ada", "age": 36}'}}
    reply = Reply(frames=[{"tool_calls": [call]}, {"content": "That is {her}."}], finish_reason="tool_calls")
    chain = model_saying(reply).with_structured_output(Person, method="function_calling")

    assert [*chain.stream("?")] == [Person(name="Ada", age=36)]


def test_schema_without_a_title() -> None:
    """A JSON schema does not need a title."""
    lab = Scripted(Reply('{"a": 1}'))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}

    assert model_on(lab).with_structured_output(schema).invoke("?") == {"a": 1}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert lab.bodies[0]["response_format"] == wanted


class State(Enum):
    """What a ticket is."""

    OPEN = "open"
    DONE = "done"


class Ticket(BaseModel):
    """A ticket."""

    state: State
    assignee: str | None = None
    priority: Literal[1, 2, 3]


class Relative(BaseModel):
    """A person and the children."""

    name: str
    children: list[Relative] = Field(default_factory=list)


@dataclass
class RelativeData:
    """A person and the children."""

    name: str
    children: list[RelativeData] = field(default_factory=list)


FAMILY = {"name": "आशा", "children": [{"name": "रवि", "children": [{"name": "मीरा", "children": []}]}]}
DEEP: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "optional and enum": (Ticket, {"state": "open", "priority": 3}, Ticket(state=State.OPEN, priority=3)),
    "null": (Ticket, {"state": "done", "assignee": None, "priority": 1}, Ticket(state=State.DONE, priority=1)),
    "recursive": (Relative, FAMILY, Relative.model_validate(FAMILY)),
    "recursive JSON schema": (Relative.model_json_schema(), FAMILY, FAMILY),
    "recursive dataclass": (
        RelativeData,
        FAMILY,
        RelativeData("आशा", [RelativeData("रवि", [RelativeData("मीरा")])]),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", DEEP)
@pytest.mark.parametrize("method", METHODS)
async def test_nested_objects_keep_their_types(method: str, case: str, way: str) -> None:
    """Optional fields, enums and recursive schemas are parsed into their proper types."""
    schema, said, expected = DEEP[case]
    model = model_saying(reply_of(method, json.dumps(said)))

    assert await WAYS[way](model.with_structured_output(schema, method=method), "?") == expected


def test_recursive_schema_sent() -> None:
    """A recursive schema is sent with its references, which the server's grammar supports."""
    lab = Scripted(Reply(json.dumps(FAMILY)))
    model_on(lab).with_structured_output(Relative).invoke("?")

    sent = lab.bodies[0]["response_format"]["json_schema"]["schema"]
    assert sent == Relative.model_json_schema()
    assert sent["$defs"]["Relative"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Relative"}


@pytest.mark.parametrize("method", METHODS)
def test_growing_object(method: str) -> None:
    """A stream yields each new state of the object, and a number only once it is complete."""
    text = '{"name": "Ravi", "age": 34, "tags": ["a", "b"], "size": 1.5}'
    model = model_saying(reply_of(method, text, cut=6))

    assert [*model.with_structured_output(SCHEMA, method=method).stream("?")] == [
        {},
        {"name": "Ra"},
        {"name": "Ravi"},
        {"name": "Ravi", "age": 34},
        {"name": "Ravi", "age": 34, "tags": ["a"]},
        {"name": "Ravi", "age": 34, "tags": ["a", "b"]},
        {"name": "Ravi", "age": 34, "tags": ["a", "b"], "size": 1.5},
    ]


NUMBERS = [0, 34, -7, 1.5, -0.25, 1e22, 1.5e-9, True, None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_no_number_is_cut(number: float | bool | None, method: str) -> None:
    """However the stream is split, no state of the object contains a number that later changes."""
    text = json.dumps({"one": number, "many": [number, {"deep": number}], "end": number})
    model = model_saying(reply_of(method, text, cut=1))

    states = [*model.with_structured_output({"title": "Person", "type": "object"}, method=method).stream("?")]

    assert states[-1] == json.loads(text)
    found = [value for state in states for value in (state.get("one", number), state.get("end", number))]
    found += [value for state in states for value in state.get("many", [])[:1]]
    assert found == [number] * len(found)


def test_no_text_shrinks() -> None:
    """A text only grows from one state to the next, even if it looks like the end of a number."""
    text = json.dumps({"said": 'At 3: 12, or "[14, -2", \\: 5'})
    chain = model_saying(Reply(text, cut=1)).with_structured_output({"title": "Said", "type": "object"})

    said = [state["said"] for state in chain.stream("?") if "said" in state]

    assert said[-1] == json.loads(text)["said"]
    assert [longer[: len(shorter)] for shorter, longer in pairwise(said)] == said[:-1]


CUT = "max_tokens (or the context window) truncated the answer before its object was complete"
BAD: dict[str, tuple[str, str, str]] = {
    "cut": ('{"name": "Ra', "length", CUT),
    "cut before it": ("", "length", CUT),
    "words": ("I cannot tell.", "stop", "the answer contains no JSON"),
    "nothing": ("", "stop", "the answer contains no JSON"),
    "another object": ('{"name": "Ravi"}', "stop", "the answer is not the requested object: "),
    "broken": ('{"name": "Ravi", }}', "stop", "the answer is not the requested object: "),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("method", METHODS)
async def test_answer_without_the_object(method: str, case: str, way: str) -> None:
    """An answer that is not the object raises an error with the reason and the answer's text."""
    text, finish_reason, problem = BAD[case]
    reply = reply_of(method, text, finish_reason=finish_reason)
    model = model_saying(*[reply] * 3)  # the answer is requested again, once; a lost call, too

    with pytest.raises(OutputParserException) as caught:
        await WAYS[way](model.with_structured_output(Person, method=method), "Who?")

    assert str(caught.value).startswith(problem)
    # Without thinking, as in the second request, an answer that consists of reasoning is the answer.
    said = "Hm." if case == "nothing" and method != "function_calling" else text
    assert caught.value.llm_output.replace('":"', '": "') == said


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("method", METHODS)
async def test_raw_without_the_object(method: str, case: str, way: str) -> None:
    """With `include_raw`, the same error is returned with the message instead of being raised."""
    text, finish_reason, problem = BAD[case]
    reply = reply_of(method, text, finish_reason=finish_reason)
    model = model_saying(reply, reply)  # text that is not an object is requested again, once

    answer = await WAYS[way](model.with_structured_output(Person, method=method, include_raw=True), "Who?")

    assert answer.keys() == {"raw", "parsed", "parsing_error"}
    assert isinstance(answer["raw"], AIMessage)
    assert answer["raw"].response_metadata["finish_reason"] == finish_reason
    assert answer["parsed"] is None
    assert isinstance(answer["parsing_error"], OutputParserException)
    assert str(answer["parsing_error"]).startswith(problem)


@pytest.mark.parametrize("method", METHODS)
def test_include_raw_returns_message_and_object(method: str) -> None:
    """With `include_raw`, the message and its reasoning are returned with the object, whole or streamed."""
    reply = reply_of(method, json.dumps(SAID))
    chain = model_saying(reply, reply).with_structured_output(Person, method=method, include_raw=True)

    whole = chain.invoke("Who?")
    streamed: dict[str, Any] = {}
    for state in chain.stream("Who?"):
        for name, value in state.items():
            streamed[name] = streamed[name] + value if name == "raw" and name in streamed else value

    for answer in (whole, streamed):
        assert (answer["parsed"], answer["parsing_error"]) == (Person(**SAID), None)
        assert answer["raw"].additional_kwargs == {"reasoning_content": "Hm."}


@pytest.mark.parametrize("way", WAYS)
async def test_include_raw_passes_the_arguments_of_a_call(way: str) -> None:
    """With `include_raw`, the arguments of a call reach the model, and unknown ones are refused."""
    lab = Scripted(*[reply_of("json_schema", json.dumps(SAID))] * 2)
    chain = model_on(lab).with_structured_output(Person, include_raw=True)

    await WAYS[way](chain.bind(temperature=0.25), "Who?")
    assert lab.bodies[0]["temperature"] == 0.25
    with pytest.raises(ConfigurationError, match="nonsense"):
        await WAYS[way](chain.bind(nonsense=1), "Who?")


def send(to: str, times: int = 1) -> str:
    """Send a message."""
    raise AssertionError("a schema is not called")


@pytest.mark.parametrize("method", METHODS)
def test_a_function_is_not_called(method: str) -> None:
    """The object of a function is its arguments."""
    lab = Scripted(*[reply_of(method, '{"to": "Ada", "times": 2}')] * 2)
    chain = model_on(lab).with_structured_output(send, method=method)

    assert [chain.invoke("?"), [*chain.stream("?")][-1]] == [{"to": "Ada", "times": 2}] * 2
    if method == "function_calling":
        assert lab.bodies[0]["tools"][0]["function"]["description"] == "Send a message."


class Endless(BaseModel):
    """A default that JSON does not have."""

    limit: float = float("inf")


@pytest.mark.parametrize("method", METHODS)
def test_a_default_that_json_does_not_have(method: str) -> None:
    """A schema with such a default can be sent."""
    chain = model_saying(reply_of(method, "{}")).with_structured_output(Endless, method=method)

    assert chain.invoke("?") == Endless()


class Faulty(BaseModel):
    """A validator with a mistake."""

    name: str

    @field_validator("name")
    @classmethod
    def _check(cls, value: str) -> str:
        return value + {}["suffix"]


@pytest.mark.parametrize("method", METHODS)
def test_mistakes_of_validators(method: str) -> None:
    """A mistake in a validator is not sent to the model; it is raised, or returned with the raw message."""
    lab = Scripted(*[reply_of(method, '{"name": "Ada"}')] * 2)

    with pytest.raises(KeyError):
        model_on(lab).with_structured_output(Faulty, method=method).invoke("?")
    answer = model_on(lab).with_structured_output(Faulty, method=method, include_raw=True).invoke("?")

    assert isinstance(answer["raw"], AIMessage)
    assert isinstance(answer["parsing_error"], KeyError)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda chain: pickle.loads(pickle.dumps(chain))])
@pytest.mark.parametrize("method", METHODS)
def test_copies(method: str, duplicate: Callable[[Any], Any]) -> None:
    """A chain can be copied and pickled."""
    chain = duplicate(ChatTIRQwen(project_id=1, access_token="t").with_structured_output(Person, method=method))

    assert chain.last.parse(json.dumps(SAID)) == Person(**SAID)
    chain.first.kwargs["validate"](json.dumps(SAID))
    with pytest.raises(ValueError, match="Field required"):
        chain.first.kwargs["validate"]("{}")


@pytest.mark.parametrize("method", METHODS)
def test_several_answers(method: str) -> None:
    """With `n` above 1, nothing is sent back; the object is that of the first answer."""
    model = model_saying(reply_of(method, json.dumps(SAID)), n=2)

    assert model.with_structured_output(Person, method=method).invoke("?") == Person(**SAID)


DRAFTS = ['{"name": "Ada", "age": 36,}', "{'name': 'Ada'}", '{"name": "Ada"', '{"name": "Ada"}', "```json\n{}\n```"]


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_corrected_stream(draft: str) -> None:
    """The states of a corrected object follow those of the first one, and its text takes the place of the other."""
    replies = [Reply(draft, cut=6), Reply('{"name": "Ravi", "age": 34}', cut=9)]
    states = [*model_saying(*replies).with_structured_output(SCHEMA).stream("?")]
    raw = [*model_saying(*replies).with_structured_output(SCHEMA, include_raw=True).stream("?")]
    message = reduce(add, (state["raw"] for state in raw if "raw" in state))

    assert states[-3:] == [{}, {"name": "Ravi"}, {"name": "Ravi", "age": 34}]
    assert [state["parsed"] for state in raw if "parsed" in state] == [{"name": "Ravi", "age": 34}]
    assert message.text == draft + '\n{"name": "Ravi", "age": 34}'
    assert message_to_wire(message)["content"] == '{"name": "Ravi", "age": 34}'


def test_around_the_object() -> None:
    """A Markdown fence or a sentence around the object is ignored."""
    model = model_saying(Reply('Here it is:\n```json\n{"name": "Ravi", "age": 34}\n```\nAnything else?'))

    assert model.with_structured_output(Person).invoke("Who?") == Person(name="Ravi", age=34)


# On real servers.

FORMS = ["invoke", "stream"]
PERSON = "Extract the person: Ravi Kumar, 34, is an engineer in Bengaluru who speaks Hindi and English."


@pytest.mark.parsers(True)
@pytest.mark.cassettes("structured")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
async def test_each_method_returns_the_object(server: Server, method: str, form: str) -> None:
    """Each method returns the object on a real server."""
    question = f"{PERSON} Answer with a JSON object with the keys name and age."
    chain = ChatTIRQwen(**server.settings).with_structured_output(Person, method=method)

    assert await WAYS[form](chain, question) == Person(name="Ravi Kumar", age=34)


QUESTIONS: dict[str, tuple[str, Any, Any]] = {
    "recursive": (
        "Describe the family of Asha.",
        Relative,
        Relative.model_validate({**FAMILY, "children": [*FAMILY["children"], {"name": "Zoë 👩‍💻"}]}),
    ),
    "optional": ("What is the state of the ticket?", Ticket, Ticket(state=State.OPEN, priority=3)),
}


@pytest.mark.parsers(True)
@pytest.mark.cassettes("structured")
@pytest.mark.parametrize("form", FORMS)
async def test_schema_without_thinking(server: Server, form: str) -> None:
    """Structured output works without thinking too, where old servers stream the tool's arguments as text."""
    question, schema, expected = QUESTIONS["recursive"]
    model = ChatTIRQwen(**server.settings, enable_thinking=False)
    chain = model.with_structured_output(schema, method="function_calling")

    assert await WAYS[form](chain, question) == expected


@pytest.mark.parsers(True)
@pytest.mark.cassettes("structured")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("case", QUESTIONS)
async def test_recursive_schemas_enums_and_optional_fields_are_accepted(
    server: Server, case: str, method: str, form: str
) -> None:
    """The server accepts recursive schemas, enums and optional fields, and its answers match them."""
    question, schema, expected = QUESTIONS[case]
    chain = ChatTIRQwen(**server.settings).with_structured_output(schema, method=method)

    assert await WAYS[form](chain, question) == expected


@pytest.mark.parsers(True)
@pytest.mark.cassettes("structured")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", ["3", "64"])
async def test_a_truncated_answer_raises_an_error_that_says_so(server: Server, tokens: str, form: str) -> None:
    """An answer that `max_tokens` cuts off, in its reasoning or in its object, raises an error that says so."""
    chain = ChatTIRQwen(**server.settings, max_tokens=int(tokens)).with_structured_output(Relative)

    with pytest.raises(OutputParserException) as caught:
        await WAYS[form](chain, "Describe the family of Asha.")

    assert str(caught.value).startswith(CUT)
