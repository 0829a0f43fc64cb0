"""Both integrations on answers of real servers: every method gives the same answer to the same question."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from llama_index.core.base.llms.types import LogProb

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.cassette_fixtures import Server
from tests.support.entry_points import CHATS, SYNC, WAYS, Answer, Way, chat_messages

FRANCE = [("user", "What is the capital of France?")]
PARIS = "The capital of France is **Paris**."
THOUGHT = "Okay, the user is asking for the capital of France. That's Paris."


def counted(server: Server) -> tuple[int, int, int]:
    """Return the token counts in the server's raw response."""
    usage = server.facts["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


def body(turns: Any, way: Way, **fields: Any) -> dict[str, Any]:
    """Return the expected request for a question: no field is sent that was not set."""
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    messages = [{"role": role, "content": content} for role, content in turns]
    return {
        "model": "qwen3_32b",
        "messages": messages,
        **(streamed if way.cassette == "stream" else {"stream": False}),
        **fields,
    }


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_answers_come_with_reasoning_apart_and_token_counts(server: Server, way: Way) -> None:
    """Every method of both integrations returns the answer, separate reasoning and the server's token counts."""
    answer = await way(server.settings, FRANCE)

    assert answer == Answer(server.says(PARIS), server.says(THOUGHT), "stop", counted(server))
    assert server.bodies == [body(FRANCE, way)]
    assert (answer.pieces > 10) is (way.cassette == "stream")


@pytest.mark.parametrize("way", CHATS, ids=str)
async def test_thinking_off(server: Server, way: Way) -> None:
    """`enable_thinking=False` reaches the chat template, and the answer has no reasoning."""
    answer = await way({**server.settings, "enable_thinking": False}, FRANCE)

    assert answer == Answer(server.says(PARIS), "", "stop", counted(server))
    assert server.bodies == [body(FRANCE, way, chat_template_kwargs={"enable_thinking": False})]


@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_cut_within_the_reasoning(server: Server, way: Way) -> None:
    """An answer that `max_tokens` cuts off within the reasoning is empty, marked as such, and keeps the reasoning."""
    answer = await way(server.settings, FRANCE, max_tokens=8)

    assert answer == Answer("", server.says("Okay, the user"), "length", counted(server))
    assert server.bodies == [body(FRANCE, way, max_tokens=8)]


@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_system_prompt(server: Server, way: Way) -> None:
    """A system prompt is sent as such and followed."""
    system = "You are a helpful assistant that translates English to French."
    turns = [("system", system), ("user", "I love programming.")]
    answer = await way(server.settings, turns, enable_thinking=False)

    assert answer == Answer(server.says("J'adore la programmation."), "", "stop", counted(server))
    assert server.bodies == [body(turns, way, chat_template_kwargs={"enable_thinking": False})]


@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_conversation(server: Server, way: Way) -> None:
    """Earlier turns are sent in order, and the answer takes them into account."""
    turns = [
        ("user", "Hello! My name is Asha."),
        ("assistant", "Nice to meet you, Asha! How can I help you today?"),
        ("user", "What is my name?"),
    ]
    answer = await way(server.settings, turns)

    thought = server.says("Earlier in the conversation the user said that her name is Asha.")
    assert answer == Answer(server.says("Your name is Asha."), thought, "stop", counted(server))
    assert server.bodies == [body(turns, way)]


@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_a_stop_string_ends_the_answer(server: Server, way: Way) -> None:
    """A stop string ends the answer, and is not part of it."""
    turns = [("user", "Count from 1 to 20.")]
    answer = await way({**server.settings, "enable_thinking": False}, turns, stop=["5"])

    assert answer == Answer("1, 2, 3, 4, ", "", "stop", counted(server))
    assert server.bodies == [body(turns, way, stop=["5"], chat_template_kwargs={"enable_thinking": False})]
    assert server.frames()[-1 if way.cassette == "whole" else -2]["choices"][0]["stop_reason"] == "5"


SCRIPTS = {"Hindi": "नमस्ते! आप कैसे हैं? मैं आपकी क्या सहायता कर सकता हूँ?", "emoji": "🎉 🚀 👩‍💻"}


@pytest.mark.parametrize("way", SYNC, ids=str)
@pytest.mark.parametrize("script", SCRIPTS)
async def test_text_in_any_script_arrives_intact(server: Server, script: str, way: Way) -> None:
    """Text in any script arrives intact, however its characters are split into tokens."""
    answer = await way(server.settings, [("user", f"Say hello in {script}.")], enable_thinking=False)

    assert answer == Answer(server.says(SCRIPTS[script]), "", "stop", counted(server))


def test_logprobs_in_langchain(server: Server) -> None:
    """LangChain's `response_metadata` has the log-probabilities of all tokens, streamed or not."""
    model = ChatTIRQwen(**server.settings, enable_thinking=False, logprobs=True, top_logprobs=2)

    whole = model.invoke("What is 2 + 2?")
    assert whole.response_metadata["logprobs"] == server.frames(0)[0]["choices"][0]["logprobs"]
    first, *rest = model.stream("What is 2 + 2?")
    assert sum(rest, first).response_metadata["logprobs"]["content"] == tokens(server.frames(1))


def test_logprobs_in_llama_index(server: Server) -> None:
    """LlamaIndex's `response.logprobs` has the candidates of all tokens, and those of its own tokens in each delta."""
    llm = TIRQwen(**server.settings, enable_thinking=False, logprobs=True, top_logprobs=2)
    messages = chat_messages([("user", "What is 2 + 2?")])

    whole, (*pieces, last) = llm.chat(messages), llm.stream_chat(messages)
    assert whole.logprobs == candidates(server.frames(0))
    assert last.logprobs == candidates(server.frames(1))
    assert [one for piece in pieces for one in piece.logprobs or []] == candidates(server.frames(1))


def tokens(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tokens with their log-probabilities from the server's raw response."""
    choices = [choice for frame in frames for choice in frame["choices"]]
    return [token for choice in choices for token in (choice["logprobs"] or {}).get("content", [])]


def candidates(frames: list[dict[str, Any]]) -> list[list[LogProb]]:
    """Return the same candidates in LlamaIndex's format."""
    return [
        [LogProb(token=one["token"], logprob=one["logprob"], bytes=one["bytes"]) for one in token["top_logprobs"]]
        for token in tokens(frames)
    ]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_n_gives_several_answers(server: Server, asynchronous: bool) -> None:
    """With `n=2`, LangChain returns two generations, and LlamaIndex the first answer with both in `raw`."""
    settings = {**server.settings, "n": 2, "enable_thinking": False}
    chat, llm = ChatTIRQwen(**settings), TIRQwen(**settings)

    prompts = [[HumanMessage(FRANCE[0][1])]]
    result = await chat.agenerate(prompts) if asynchronous else chat.generate(prompts)
    assert [one.text for one in result.generations[0]] == [server.says(PARIS)] * 2
    messages = chat_messages(FRANCE)
    response = await llm.achat(messages) if asynchronous else llm.chat(messages)
    assert response.message.content == server.says(PARIS)
    assert [choice["message"]["content"] for choice in response.raw["choices"]] == [server.says(PARIS)] * 2
    fields = {"n": 2, "chat_template_kwargs": {"enable_thinking": False}}
    assert server.bodies == [body(FRANCE, SYNC[0], **fields)] * 2


def test_a_chain_returns_only_the_answer(server: Server) -> None:
    """A chain of prompt, model and parser returns only the text of the answer, whole or streamed."""
    prompt = ChatPromptTemplate.from_messages([("user", "What is the capital of {country}?")])
    chain = prompt | ChatTIRQwen(**server.settings) | StrOutputParser()

    assert chain.invoke({"country": "India"}) == server.says("The capital of India is **New Delhi**.")
    assert "".join(chain.stream({"country": "India"})) == server.says("The capital of India is **New Delhi**.")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_batch_keeps_the_order_of_its_questions(server: Server, asynchronous: bool) -> None:
    """The answers of a batch are in the order of its questions."""
    model = ChatTIRQwen(**server.settings)
    questions = [f"What is the capital of {country}?" for country in ("France", "India", "Germany")]

    answers = await model.abatch(questions) if asynchronous else model.batch(questions)

    cities = ["France is **Paris**", "India is **New Delhi**", "Germany is **Berlin**"]
    assert [answer.content for answer in answers] == [server.says(f"The capital of {city}.") for city in cities]


@pytest.mark.parametrize("way", SYNC[:2], ids=str)
def test_metadata_in_langchain(server: Server, way: Way) -> None:
    """Each value in `response_metadata` appears once, even in the sum of streamed chunks."""
    model = ChatTIRQwen(**server.settings)
    streamed = way.cassette == "stream"
    first, *rest = model.stream("Hello") if streamed else [model.invoke("Hello")]
    message = sum(rest, first)

    facts = {name: value for name, value in server.facts.items() if name not in ("object", "choices", "model", "usage")}
    assert message.response_metadata == {
        **facts,
        "model_name": server.facts["model"],
        "model_provider": "tir_qwen",
        "finish_reason": "stop",
        **({} if streamed else {"token_usage": server.frames()[0]["usage"]}),
    }
    assert message.additional_kwargs == {
        "reasoning_content": server.says("Okay, the user said hello. I should greet them back and offer help.")
    }


@pytest.mark.parametrize("way", SYNC[2:], ids=str)
def test_raw_in_llama_index(server: Server, way: Way) -> None:
    """Each value in `raw`, which token counters and tracers read, appears once, even after a stream."""
    llm, messages = TIRQwen(**server.settings), chat_messages([("user", "Hello")])
    response = [*llm.stream_chat(messages)][-1] if way.cassette == "stream" else llm.chat(messages)

    message = {
        "role": "assistant",
        "content": server.says("Hello! How can I help you today?"),
        "reasoning_content": server.says("Okay, the user said hello. I should greet them back and offer help."),
    }
    choice = {"index": 0, "message": message, "finish_reason": "stop", "stop_reason": None}
    facts = {name: value for name, value in server.facts.items() if name != "object"}
    assert response.raw == {**facts, "choices": [choice]}
    assert response.additional_kwargs == dict(
        zip(("prompt_tokens", "completion_tokens", "total_tokens"), counted(server), strict=True)
    )


@pytest.mark.parametrize("way", [way for way in CHATS if "chat" not in way.name], ids=str)
async def test_hint_in_the_log(server: Server, way: Way, caplog: pytest.LogCaptureFixture) -> None:
    """An answer left empty because `max_tokens` was reached within the reasoning is explained in the log, once."""
    await way(server.settings, FRANCE, max_tokens=8)

    hints = [record.getMessage() for record in caplog.records if record.name == "tir_qwen"]
    assert hints == [
        "The answer is empty: max_tokens (or the context window) was reached during the reasoning. Set a"
        " thinking_budget below max_tokens, raise max_tokens, or set enable_thinking=False."
    ]
