"""Conversations with LlamaIndex's chat engines, and prompt templates."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import BasePromptTemplate, ChatPromptTemplate, PromptTemplate
from llama_index.core.types import BaseOutputParser

from llama_index_tir_qwen import TIRQwen
from tests.support.cassette_fixtures import Server
from tests.support.fake_vllm import Lab
from tests.support.shop_documents import CHATS, RULES, Way, assert_in_pieces, rules_in, vector_index

Turn = tuple[str, str]

NAME, ASHA = "My name is Asha.", "Nice to meet you, Asha! How can I help you today?"
WHICH, YOURS = "What is my name?", "Your name is Asha."
GREETED = "The user introduces herself as Asha. I'll greet her by name."
REMEMBERED = "Earlier in the conversation the user said that her name is Asha."

LONG, TWO_YEARS = "How long is the warranty of the kettle?", "It lasts two years."
NOT_COVERED, EXCLUDED = "And what does it not cover?", "And what is excluded?"
EXCEPTIONS = "It does not cover limescale, drops, or use in a business."
CONDENSED = "What does the warranty of the kettle not cover?"
SYSTEM = "Be brief."


def model_and_memory(server: Server) -> dict[str, Any]:
    """Return arguments of an engine; core's default memory would leave connections to SQLite open."""
    llm = TIRQwen(**server.settings)
    return {"llm": llm, "memory": ChatMemoryBuffer.from_defaults(llm=llm)}


def turns(messages: list[dict[str, Any]]) -> list[Turn]:
    """Return roles and texts of a request, which must have nothing else."""
    assert [set(message) for message in messages] == [{"role", "content"}] * len(messages)
    return [(message["role"], message["content"]) for message in messages]


def history(engine: Any) -> list[Turn]:
    """Return the roles and texts in an engine's memory."""
    return [(message.role.value, message.content or "") for message in engine.chat_history]


def thoughts(engine: Any) -> list[str | None]:
    """Return the reasoning in an engine's memory."""
    blocks = [block for message in engine.chat_history for block in message.blocks]
    return [block.content for block in blocks if isinstance(block, ThinkingBlock)]


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", CHATS, ids=str)
async def test_simple_engine(server: Server, way: Way) -> None:
    """A simple chat remembers the conversation, but sends no reasoning, which core keeps of whole answers."""
    engine = SimpleChatEngine.from_defaults(**model_and_memory(server), system_prompt=SYSTEM)

    first, pieces = await way(engine, NAME)
    second, _ = await way(engine, WHICH)

    assert (first, second) == (server.says(ASHA), server.says(YOURS))
    assert_in_pieces(way, pieces, first)
    said = [("user", NAME), ("assistant", first), ("user", WHICH)]
    assert [turns(body["messages"]) for body in server.bodies] == [
        [("system", SYSTEM), *said[:1]],
        [("system", SYSTEM), *said],
    ]
    assert history(engine) == [*said, ("assistant", second)]
    assert thoughts(engine) == ([] if way.streaming else [server.says(GREETED), server.says(REMEMBERED)])


@pytest.mark.cassettes("rag")
async def test_reset_empties_the_history(server: Server) -> None:
    """After `reset` the history is empty, and a call can be given another one."""
    engine = SimpleChatEngine.from_defaults(**model_and_memory(server))

    engine.chat("Hello!")
    engine.reset()
    forgot = history(engine)
    answer = engine.chat(WHICH, chat_history=[ChatMessage(NAME), ChatMessage(ASHA, role="assistant")])

    assert forgot == []
    assert str(answer) == server.says(YOURS)
    assert turns(server.bodies[1]["messages"]) == [("user", NAME), ("assistant", ASHA), ("user", WHICH)]


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", CHATS, ids=str)
async def test_context_engine(server: Server, way: Way) -> None:
    """A chat over documents sends the paragraph for each question, and the second time also the conversation so far."""
    engine = vector_index().as_chat_engine(
        chat_mode="context", **model_and_memory(server), similarity_top_k=1, system_prompt=SYSTEM
    )

    first, pieces = await way(engine, LONG)
    second, _ = await way(engine, NOT_COVERED)

    assert (first, second) == (server.says(TWO_YEARS), server.says(EXCEPTIONS))
    assert_in_pieces(way, pieces, first)
    said = [("user", LONG), ("assistant", first), ("user", NOT_COVERED)]
    requests = [turns(body["messages"]) for body in server.bodies]
    assert [rest for _, *rest in requests] == [said[:1], said]
    systems = [system for system, *_ in requests]
    assert [(role, rules_in(text), text.count(SYSTEM)) for role, text in systems] == [("system", ["warranty"], 1)] * 2
    assert history(engine) == [*said, ("assistant", second)]


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", CHATS, ids=str)
async def test_condense_plus_context_engine(server: Server, way: Way) -> None:
    """The model rephrases a question that needs its history, without reasoning, and the paragraph is found by that."""
    engine = vector_index().as_chat_engine(
        chat_mode="condense_plus_context", **model_and_memory(server), similarity_top_k=1
    )

    first, pieces = await way(engine, LONG)
    second, _ = await way(engine, EXCLUDED)

    assert (first, second) == (server.says(TWO_YEARS), server.says(EXCEPTIONS))
    assert_in_pieces(way, pieces, first)
    _, condense, last = [turns(body["messages"]) for body in server.bodies]
    assert [role for role, _ in condense] == ["user"]
    asked = f"user: {LONG}\nassistant: {first}\n  Follow Up Input: {EXCLUDED}\n  Standalone question:"
    assert condense[0][1].endswith(asked)
    said = [("user", LONG), ("assistant", first), ("user", EXCLUDED)]
    assert (last[1:], rules_in(last[0][1])) == (said, ["warranty"])
    assert history(engine) == [*said, ("assistant", second)]


@pytest.mark.cassettes("rag")
def test_condensed_question(server: Server) -> None:
    """The documents are searched with the rephrased question and nothing else."""
    engine = vector_index().as_chat_engine(
        chat_mode="condense_plus_context", **model_and_memory(server), similarity_top_k=1
    )
    said = [ChatMessage(LONG), ChatMessage(TWO_YEARS, role="assistant")]

    response = engine.chat(EXCLUDED, chat_history=said)

    assert [source.raw_input for source in response.sources] == [{"message": server.says(CONDENSED)}]
    assert [node.text for node in response.source_nodes] == [RULES["warranty"]]


# Prompt templates.

TEMPLATES: dict[str, BasePromptTemplate] = {
    "text": PromptTemplate("What is the capital of {country}?"),
    "chat": ChatPromptTemplate.from_messages(
        [("system", "You know {subject}."), ("user", "What is the capital of {country}?")]
    ),
}
FILLED: dict[str, list[Turn]] = {
    "text": [("user", "What is the capital of Japan?")],
    "chat": [("system", "You know geography."), ("user", "What is the capital of Japan?")],
}
WORDS: dict[str, dict[str, str]] = {"text": {}, "chat": {"subject": "geography"}}


async def _predict(llm: TIRQwen, prompt: BasePromptTemplate, **words: str) -> list[str]:
    return [llm.predict(prompt, **words)]


async def _apredict(llm: TIRQwen, prompt: BasePromptTemplate, **words: str) -> list[str]:
    return [await llm.apredict(prompt, **words)]


async def _stream(llm: TIRQwen, prompt: BasePromptTemplate, **words: str) -> list[str]:
    return [*llm.stream(prompt, **words)]


async def _astream(llm: TIRQwen, prompt: BasePromptTemplate, **words: str) -> list[str]:
    return [piece async for piece in await llm.astream(prompt, **words)]


PREDICTIONS = [Way(ask.__name__[1:], ask) for ask in (_predict, _apredict, _stream, _astream)]


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("way", PREDICTIONS, ids=str)
async def test_a_template_is_answered_without_reasoning(server: Server, way: Way, kind: str) -> None:
    """A template is filled, sent as its messages, and answered with text without reasoning."""
    llm = TIRQwen(**server.settings)

    pieces = await way.ask(llm, TEMPLATES[kind], country="Japan", **WORDS[kind])

    assert_in_pieces(way, pieces, server.says("The capital of Japan is **Tokyo**."))
    assert [turns(body["messages"]) for body in server.bodies] == [FILLED[kind]]


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("way", PREDICTIONS, ids=str)
async def test_predict_with_prompts_of_the_model(server: Server, way: Way, kind: str) -> None:
    """The model's system prompt comes first; core does not apply completion wrappers to a chat model's prompts."""
    llm = TIRQwen(
        **server.settings,
        system_prompt=SYSTEM,
        query_wrapper_prompt=PromptTemplate("Query: {query_str}"),
        completion_to_prompt=lambda prompt: f"Prompt: {prompt}",
    )

    pieces = await way.ask(llm, TEMPLATES[kind], country="Japan", **WORDS[kind])

    assert_in_pieces(way, pieces, server.says("The capital of Japan is **Tokyo**."))
    assert [turns(body["messages"]) for body in server.bodies] == [[("system", SYSTEM), *FILLED[kind]]]


@pytest.mark.cassettes("rag")
async def test_completion_to_prompt(server: Server) -> None:
    """`completion_to_prompt` wraps the prompt of a completion once, unless it is already formatted."""
    llm = TIRQwen(**server.settings, completion_to_prompt=lambda prompt: f"{prompt} Answer in one word.")

    wrapped = llm.complete("What is the capital of Japan?")
    formatted = await llm.acomplete("What is the capital of Japan?", formatted=True)

    assert (str(wrapped), str(formatted)) == (
        server.says("**Tokyo**"),
        server.says("The capital of Japan is **Tokyo**."),
    )
    assert [turns(body["messages"]) for body in server.bodies] == [
        [("user", "What is the capital of Japan? Answer in one word.")],
        [("user", "What is the capital of Japan?")],
    ]


class OneWord(BaseOutputParser):
    """Asks for one word, and strips asterisks from it."""

    def format(self, query: str) -> str:
        return f"{query} Answer in one word."

    def parse(self, output: str) -> str:
        return output.strip("*").upper()


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", PREDICTIONS[:2], ids=str)
async def test_output_parser(server: Server, way: Way) -> None:
    """An output parser extends the prompt, and parses the answer without its reasoning."""
    llm = TIRQwen(**server.settings, output_parser=OneWord())

    (parsed,) = await way.ask(llm, TEMPLATES["text"], country="Japan")

    assert parsed == server.says("TOKYO")
    assert [turns(body["messages"]) for body in server.bodies] == [
        [("user", "What is the capital of Japan? Answer in one word.")]
    ]


@pytest.mark.parametrize("way", PREDICTIONS[2:], ids=str)
async def test_output_parser_of_a_stream(way: Way) -> None:
    """Core cannot parse streams: it raises an error, and nothing is sent."""
    lab = Lab()
    clients = {"http_client": lab.client(), "async_http_client": lab.async_client()}
    llm = TIRQwen(project_id=1, api_key="token", **clients, output_parser=OneWord())

    with pytest.raises(NotImplementedError, match="not supported for streaming"):
        await way.ask(llm, TEMPLATES["text"], country="Japan")
    assert lab.requests == []
