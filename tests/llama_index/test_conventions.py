"""`TIRQwen` follows the conventions of LlamaIndex's other LLMs: argument names, prompts, retries and serialization."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Generator
from inspect import isawaitable
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.extractors import DocumentContextExtractor, TitleExtractor
from llama_index.core.llms import LLM
from llama_index.core.llms.utils import resolve_llm
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.schema import Document, NodeRelationship, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import FunctionTool
from llama_index.core.types import BaseOutputParser
from pydantic import BaseModel, SerializeAsAny, ValidationError

from llama_index_tir_qwen import TIRQwen
from tests.support.fake_vllm import HEADER, MODEL, PRIVATE, PROJECT, SECRETS, TOKEN, Lab
from tests.support.scripted_transport import KNOWN, Reply, Scripted
from tir_qwen import ConfigurationError, InternalServerError

GREETING = "Good day!"


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


def look(where: str) -> str:
    """Look there."""
    return f"Nothing is {where}."


TOOL = FunctionTool.from_defaults(look)
JOKE = Joke(setup="Why?", punchline="Because.")
OBJECT = Reply(content=JOKE.model_dump_json())
CALL = Reply(calls=(("look", '{"where": "here"}'),), finish_reason="tool_calls")
TEMPLATE = PromptTemplate("Tell me a {thing}.")
ASKED = {"role": "user", "content": "Tell me a joke."}


def llm_on(lab: Lab, **settings: Any) -> TIRQwen:
    """Return an LLM whose server is `lab`."""
    return TIRQwen(**{**KNOWN, "http_client": lab.client(), "async_http_client": lab.async_client(), **settings})


async def end_of(found: Any) -> Any:
    """Return the result of a method of any kind; for a stream, its last item."""
    if isawaitable(found):
        found = await found
    if isinstance(found, Generator):
        return [*found][-1]
    return [one async for one in found][-1] if isinstance(found, AsyncGenerator) else found


CHATS = ("chat", "achat", "stream_chat", "astream_chat")
COMPLETIONS = ("complete", "acomplete", "stream_complete", "astream_complete")
WITH_TOOLS = ("chat_with_tools", "achat_with_tools", "stream_chat_with_tools", "astream_chat_with_tools")
AND_CALL = ("predict_and_call", "apredict_and_call")
PREDICTIONS = ("predict", "apredict", "stream", "astream")
STRUCTURED = ("structured_predict", "astructured_predict", "stream_structured_predict", "astream_structured_predict")


async def call(llm: TIRQwen, name: str, **kwargs: Any) -> Any:
    """Call the named method with suitable arguments; `kwargs` are passed on to the model."""
    method = getattr(llm, name)
    if name in CHATS:
        return await end_of(method([ChatMessage("Tell me a joke.")], **kwargs))
    if name in COMPLETIONS:
        return await end_of(method("Tell me a joke.", **kwargs))
    if name in PREDICTIONS:
        return await end_of(method(TEMPLATE, thing="joke"))
    if name in STRUCTURED:
        return await end_of(method(Joke, TEMPLATE, llm_kwargs=kwargs, thing="joke"))
    return await end_of(method([TOOL], user_msg="Tell me a joke.", **kwargs))


# Arguments.


async def test_names_of_arguments() -> None:
    """The LLM accepts every argument name that LlamaIndex's other LLMs use."""
    lab, manager = Lab(), CallbackManager()
    llm = TIRQwen(
        model="qwen3_8b",
        api_key=TOKEN,
        api_base="https://host.invalid/v1",
        temperature=0.5,
        max_tokens=7,
        timeout=42,
        max_retries=1,
        additional_kwargs={"top_k": 3},
        default_headers={"X-Tenant": HEADER},
        context_window=40_960,
        http_client=lab.client(),
        async_http_client=lab.async_client(),
        callback_manager=manager,
    )

    for name in ("complete", "acomplete"):
        await call(llm, name)

    assert llm.metadata.context_window == 40_960
    assert llm.callback_manager is manager
    assert [str(request.url) for request in lab.requests] == ["https://host.invalid/v1/chat/completions"] * 2
    assert [request.headers["authorization"] for request in lab.requests] == [f"Bearer {TOKEN}"] * 2
    assert [request.headers["x-tenant"] for request in lab.requests] == [HEADER] * 2
    assert [request.extensions["timeout"]["read"] for request in lab.requests] == [42] * 2
    body = {"model": "qwen3_8b", "messages": [ASKED], "stream": False, "temperature": 0.5, "max_tokens": 7, "top_k": 3}
    assert lab.bodies == [body] * 2


SET = {"temperature": 0.1, "max_tokens": 5, "enable_thinking": True, "stop": ["a"], "seed": 1, "model": "qwen3_8b"}
GIVEN = {"temperature": 0.9, "max_tokens": 9, "enable_thinking": False, "stop": ["b"], "seed": 2, "model": MODEL}
SENT = {
    "temperature": 0.9,
    "max_tokens": 9,
    "chat_template_kwargs": {"enable_thinking": False},
    "stop": ["b"],
    "seed": 2,
    "model": MODEL,
}


@pytest.mark.parametrize("name", [*WITH_TOOLS, *AND_CALL])
async def test_arguments_of_a_call_override_the_constructor(name: str) -> None:
    """Arguments of a call override those of the constructor, even if core makes the call."""
    lab = Scripted(CALL)
    await call(llm_on(lab, **SET), name, **GIVEN)
    (body,) = lab.bodies
    assert {field: body[field] for field in SENT} == SENT


@pytest.mark.parametrize("name", PREDICTIONS)
async def test_constructor_counts(name: str) -> None:
    """Constructor arguments are sent by methods that take no model parameters."""
    lab = Lab()
    await call(llm_on(lab, **SET), name)
    (body,) = lab.bodies
    expected = {**SET, "chat_template_kwargs": {"enable_thinking": True}}
    del expected["enable_thinking"]
    assert {field: body[field] for field in expected} == expected


# Retries.

BUSY = Reply(status=503, error={"error": {"message": "busy"}})


def counting() -> TokenCountingHandler:
    """Return core's token counter."""
    return TokenCountingHandler(tokenizer=str.split)


@pytest.mark.parametrize("name", [*CHATS, *COMPLETIONS])
async def test_retry_is_one_call(name: str) -> None:
    """Callbacks see a retried request as a single call, which is counted once."""
    lab, counter = Scripted(BUSY, Reply(GREETING)), counting()
    response = await call(llm_on(lab, callback_manager=CallbackManager([counter])), name)
    assert (response.message.content if name in CHATS else response.text) == GREETING
    assert lab.bodies == [lab.bodies[0]] * 2
    assert [event.total_token_count for event in counter.llm_token_counts] == [16]


@pytest.mark.parametrize("name", [*CHATS, *COMPLETIONS, *WITH_TOOLS, *AND_CALL, *STRUCTURED])
@pytest.mark.parametrize(
    ("settings", "given"), [({"max_retries": 3}, {}), ({}, {"max_retries": 3})], ids=["set", "given"]
)
async def test_retries_do_not_multiply(name: str, settings: dict[str, Any], given: dict[str, Any]) -> None:
    """Three retries result in four requests and one failed call."""
    lab, counter = Scripted(*[BUSY] * 13), counting()
    with pytest.raises(InternalServerError):
        await call(llm_on(lab, callback_manager=CallbackManager([counter]), **settings), name, **given)
    assert len(lab.requests) == 4
    assert [event.total_token_count for event in counter.llm_token_counts] == [0]


# Prompts.

SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize("name", [*CHATS, *COMPLETIONS, *WITH_TOOLS])
async def test_system_prompt_is_not_for_chats(name: str) -> None:
    """The system prompt is only used for core's predictions: chats and completions are sent as the user wrote them."""
    lab = Scripted(CALL)
    await call(llm_on(lab, system_prompt="Be kind."), name)
    assert [body["messages"] for body in lab.bodies] == [[ASKED]]


@pytest.mark.parametrize("name", [*PREDICTIONS, *AND_CALL])
async def test_system_prompt(name: str) -> None:
    """The system prompt comes first in every prediction, once."""
    lab = Scripted(CALL)
    await call(llm_on(lab, system_prompt="Be kind."), name)
    assert [body["messages"] for body in lab.bodies] == [[SYSTEM, ASKED]]


@pytest.mark.parametrize("name", AND_CALL)
async def test_history_with_a_system_message(name: str) -> None:
    """The system prompt precedes a system message in the history, as in core's other predictions."""
    lab = Scripted(CALL)
    history = [ChatMessage("Be brief.", role="system"), ChatMessage("Hello")]
    await end_of(getattr(llm_on(lab, system_prompt="Be kind."), name)([TOOL], chat_history=history))
    expected = [SYSTEM, {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert [body["messages"] for body in lab.bodies] == [expected]


@pytest.mark.parametrize("name", COMPLETIONS)
async def test_completion_to_prompt(name: str) -> None:
    """Every completion method wraps its prompt with the user's function, unless it is already formatted."""
    lab = Lab()
    llm = llm_on(lab, completion_to_prompt=lambda prompt: f"<{prompt}>")
    await call(llm, name)
    await call(llm, name, formatted=True)
    assert [body["messages"][0]["content"] for body in lab.bodies] == ["<Tell me a joke.>", "Tell me a joke."]


def test_messages_to_prompt() -> None:
    """If core writes a conversation as text, it uses the user's function."""
    template = ChatPromptTemplate([ChatMessage("Be kind.", role="system"), ChatMessage("Tell me a {thing}.")])
    llm = llm_on(Lab(), messages_to_prompt=lambda messages: "|".join(str(message.content) for message in messages))
    assert llm._get_prompt(template, thing="joke") == "Be kind.|Tell me a joke."


class Shouting(BaseOutputParser):
    """Asks for a word, and converts it to upper case."""

    def format(self, query: str) -> str:
        return f"{query} One word."

    def parse(self, output: str) -> str:
        return output.upper()


@pytest.mark.parametrize("name", ["predict", "apredict"])
async def test_output_parser(name: str) -> None:
    """An output parser is applied before and after a prediction."""
    lab = Lab()
    assert await call(llm_on(lab, output_parser=Shouting()), name) == "GOOD DAY!"
    assert [body["messages"] for body in lab.bodies] == [[{"role": "user", "content": "Tell me a joke. One word."}]]


STEP = [
    ChatMessage("Look!"),
    ChatMessage(
        role="assistant",
        blocks=[
            ThinkingBlock(content="I look."),
            ToolCallBlock(tool_call_id="c0", tool_name="look", tool_kwargs={"where": "here"}),
        ],
    ),
    ChatMessage("Nothing.", role="tool", additional_kwargs={"tool_call_id": "c0"}),
]


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize(("later", "kept"), [([], True), ([ChatMessage("Again!")], False)], ids=["loop", "next turn"])
async def test_reasoning_in_a_loop(name: str, later: list[ChatMessage], kept: bool) -> None:
    """The model gets its reasoning back while it is calling tools, but not after the user's next message."""
    lab = Lab()
    await end_of(getattr(llm_on(lab), name)([*STEP, *later]))
    (body,) = lab.bodies
    assert [message.get("reasoning_content") for message in body["messages"]][1] == ("I look." if kept else None)


# Integration with other objects.


def test_the_llm_can_be_the_default_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """LlamaIndex accepts the LLM as its default and as an argument, and returns the same object."""
    monkeypatch.setattr(Settings, "_llm", None)
    llm = llm_on(Lab())
    Settings.llm = llm
    assert Settings.llm is llm
    assert resolve_llm(llm) is llm


READ: dict[str, Callable[[TIRQwen, dict[str, Any]], TIRQwen]] = {
    "dict": lambda llm, more: TIRQwen.from_dict(llm.to_dict(), **more),
    "json": lambda llm, more: TIRQwen.from_json(llm.to_json(), **more),
}


@pytest.mark.parametrize("form", READ)
def test_written_and_read(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A serialized LLM is restored with its parameters; project and token are read from the environment."""
    monkeypatch.setenv("E2E_TIR_PROJECT_ID", "6530")
    monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "token-of-environment")
    llm = TIRQwen(**PRIVATE, temperature=0.5, stop=["a"], additional_kwargs={"top_k": 3}, system_prompt="Be kind.")
    lab = Lab()
    twin = READ[form](llm, {"http_client": lab.client()})

    twin.complete("Tell me a joke.")

    assert twin.to_dict() == llm.to_dict()
    (request,) = lab.requests
    host = "https://infer.e2enetworks.net"
    assert str(request.url) == f"{host}/project/p-6530/genai/{MODEL}/v1/chat/completions?project_id=6530"
    assert request.headers["authorization"] == "Bearer token-of-environment"
    body = {"model": MODEL, "messages": [ASKED], "stream": False, "temperature": 0.5, "stop": ["a"], "top_k": 3}
    assert lab.bodies == [body]


@pytest.mark.parametrize("form", READ)
def test_read_with_credentials(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Project and token can be passed when an LLM is restored."""
    monkeypatch.delenv("E2E_TIR_PROJECT_ID", raising=False)
    monkeypatch.delenv("E2E_TIR_ACCESS_TOKEN", raising=False)
    lab = Lab()
    given = {"http_client": lab.client(), "project_id": PROJECT, "api_key": TOKEN}
    READ[form](TIRQwen(**PRIVATE), given).complete("Hello")
    assert [request.headers["authorization"] for request in lab.requests] == [f"Bearer {TOKEN}"]
    assert [request.url.params["project_id"] for request in lab.requests] == [PROJECT]


async def test_the_context_of_a_document() -> None:
    """Core's `DocumentContextExtractor` works, although it passes headers for Anthropic to every LLM."""
    document = Document(text="A story.")
    documents = SimpleDocumentStore()
    documents.add_documents([document])
    node = TextNode(text="A part.", relationships={NodeRelationship.SOURCE: document.as_related_node_info()})
    llm = llm_on(Scripted(Reply(content="The whole.", reasoning="")))
    extractor = DocumentContextExtractor(docstore=documents, llm=llm, max_context_length=100, key="context")
    assert await extractor.aextract([node]) == [{"context": "The whole."}]


async def test_other_headers_of_a_call_are_rejected() -> None:
    """Headers of a call that are not core's own are not dropped without a word."""
    for headers in ({"X-Tenant": "a"}, {"anthropic-beta": "a", "X-Tenant": "a"}, {}):
        with pytest.raises(ConfigurationError, match=r"^a call takes no extra_headers"):
            await llm_on(Lab()).achat([ChatMessage("Hello")], extra_headers=headers)  # type: ignore[call-arg]


class Holder(BaseModel):
    """A model of the user that has an LLM."""

    llm: LLM
    whole: SerializeAsAny[LLM]
    number: int = 0


class Owner(BaseModel):
    """A model of the user that has an LLM of this kind."""

    llm: TIRQwen


def holder(llm: TIRQwen) -> Holder:
    """Return a user's model with an LLM."""
    return Holder(llm=llm, whole=llm)


OUTER: dict[str, Callable[[TIRQwen], Any]] = {
    "holder": holder,
    "structured": lambda llm: llm.as_structured_llm(Joke),
    "extractor": lambda llm: TitleExtractor(llm=llm),
    "agent": lambda llm: FunctionAgent(llm=llm, tools=[]),
}


@pytest.mark.parametrize("name", OUTER)
@pytest.mark.filterwarnings("ignore:The .__fields:pydantic.PydanticDeprecatedSince20")  # raised by core's agents
@pytest.mark.filterwarnings("ignore:Accessing the .model_:pydantic.warnings.PydanticDeprecatedSince211")
def test_secrets_of_an_inner_llm(name: str) -> None:
    """An object with an LLM can be displayed and serialized with the LLM, but without its secrets."""
    outer = OUTER[name](TIRQwen(**PRIVATE))
    texts = [repr(outer), str(outer), repr(outer.model_dump()), outer.model_dump_json()]
    if hasattr(outer, "to_dict"):
        texts += [repr(outer.to_dict()), outer.to_json()]
    assert ["TIRQwen" in text for text in texts] == [True] * len(texts)
    assert [secret for secret in SECRETS if any(secret in text for text in texts)] == []


def test_secrets_of_a_refused_llm() -> None:
    """A pydantic validation error for another argument does not reveal the LLM's secrets."""
    llm = TIRQwen(**PRIVATE)
    with pytest.raises(ValidationError) as caught:
        Holder(llm=llm, whole=[llm], number="many")
    told = f"{caught.value} {caught.value!r} {caught.value.errors()} {caught.value.json()}"
    assert "TIRQwen" in told
    assert [secret for secret in SECRETS if secret in told] == []


def test_a_json_schema_reveals_no_environment_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's model with an LLM has a JSON schema without secrets from the environment."""
    monkeypatch.setenv("E2E_TIR_PROJECT_ID", PROJECT)
    monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", TOKEN)
    schema = Owner.model_json_schema()
    assert schema["properties"]["llm"] == {"$ref": "#/$defs/TIRQwen"}
    assert [secret for secret in (PROJECT, TOKEN) if secret in json.dumps(schema)] == []


def test_dump_and_validate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's model with an LLM can be dumped and validated again, like any pydantic model."""
    monkeypatch.setenv("E2E_TIR_PROJECT_ID", "6530")
    monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "token-of-environment")
    owner = Owner(llm=TIRQwen(**KNOWN, temperature=0.5, stop=["a"]))
    twins = [Owner.model_validate(owner.model_dump()), Owner.model_validate_json(owner.model_dump_json())]
    assert [twin.model_dump() for twin in twins] == [owner.model_dump()] * 2
