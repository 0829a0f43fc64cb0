"""Answers from documents: LlamaIndex's query engines, their handling of long texts, and its settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import PromptHelper, Settings, SummaryIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.chat_prompts import (
    CHAT_REFINE_PROMPT,
    CHAT_TEXT_QA_PROMPT,
    CHAT_TREE_SUMMARIZE_PROMPT,
)
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.utils import get_tokenizer
from llama_index.retrievers.bm25 import BM25Retriever
from pydantic import BaseModel

from llama_index_tir_qwen import TIRQwen
from tests.support.cassette_fixtures import Server
from tests.support.shop_documents import QUERIES, RULES, Way, assert_in_pieces, documents, nodes, rules_in, vector_index

WARRANTY = "How long is the warranty of the kettle?"
LASTS = "The warranty lasts two years from the day of purchase."
RETURNS = "How long can a kettle that was not used be sent back?"
FIRST, BETTER = "Within 30 days.", "Within 30 days. The warranty of two years is another matter."
SUMMARY = "Which rules does the shop have?"
PARTS = [
    "Warranty for two years, returns within 30 days, delivery in two to five days.",
    "Limescale is removed once a month, and help is there on weekdays.",
]
ALL_RULES = "A warranty of two years, returns within 30 days, delivery in two to five days, help on weekdays."
SMALL = {"context_window": 544, "max_tokens": 300}
"""Room for half of the rules at a time."""
SMALL_TO_REFINE = {**SMALL, "context_window": 1016}
"""The same, as core reserves 500 tokens for an answer that it refines."""
HALVES = [["warranty", "returns", "delivery"], ["care", "history", "help desk"]]


def prompt_of(template: BasePromptTemplate, **filled: str) -> list[dict[str, str]]:
    """Return the messages of one of core's templates as they are sent."""
    messages: list[ChatMessage] = template.format_messages(**filled)
    return [{"role": message.role.value, "content": message.content or ""} for message in messages]


def joined(*names: str) -> str:
    """Return rules joined as the context of a prompt."""
    return "\n\n".join(RULES[name] for name in names)


def prompts(server: Server) -> list[list[dict[str, str]]]:
    """Return the messages of all requests."""
    return [body["messages"] for body in server.bodies]


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder."""
    return [*folder.iterdir()]


# Query engines.


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", QUERIES, ids=str)
async def test_a_query_sends_the_nearest_paragraphs(server: Server, way: Way) -> None:
    """A question is sent with the nearest paragraphs in one request, and the answer comes without its reasoning."""
    engine = vector_index().as_query_engine(llm=TIRQwen(**server.settings), similarity_top_k=2, streaming=way.streaming)

    answer, pieces = await way(engine, WARRANTY)

    assert answer == server.says(LASTS)
    assert_in_pieces(way, pieces, answer)
    context = joined("warranty", "history")
    assert prompts(server) == [prompt_of(CHAT_TEXT_QA_PROMPT, context_str=context, query_str=WARRANTY)]
    assert [body["stream"] for body in server.bodies] == [way.streaming]


@pytest.mark.cassettes("rag")
def test_print_response_stream(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """`print_response_stream` prints the answer and nothing else."""
    engine = vector_index().as_query_engine(llm=TIRQwen(**server.settings), similarity_top_k=1, streaming=True)

    response = engine.query(WARRANTY)
    response.print_response_stream()

    assert capsys.readouterr() == (server.says(LASTS), "")
    assert str(response) == server.says(LASTS)
    assert [node.text for node in response.source_nodes] == [RULES["warranty"]]


@pytest.mark.cassettes("rag")
async def test_print_response_stream_async(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The asynchronous version prints the same, followed by a newline."""
    engine = vector_index().as_query_engine(llm=TIRQwen(**server.settings), similarity_top_k=1, streaming=True)

    response = await engine.aquery(WARRANTY)
    await response.print_response_stream()

    assert capsys.readouterr().out.removesuffix("\n") == server.says(LASTS)


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", QUERIES, ids=str)
async def test_refine_sends_the_answer_so_far(server: Server, way: Way) -> None:
    """`refine` asks once per paragraph and sends the answer so far, without its reasoning."""
    engine = vector_index().as_query_engine(
        llm=TIRQwen(**server.settings), response_mode="refine", similarity_top_k=2, streaming=way.streaming
    )

    answer, pieces = await way(engine, RETURNS)

    assert answer == server.says(BETTER)
    assert_in_pieces(way, pieces, answer)
    first, second = prompts(server)
    assert first == prompt_of(CHAT_TEXT_QA_PROMPT, context_str=RULES["returns"], query_str=RETURNS)
    assert second == prompt_of(
        CHAT_REFINE_PROMPT, context_msg=RULES["warranty"], query_str=RETURNS, existing_answer=FIRST
    )


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", QUERIES, ids=str)
async def test_compact_fills_the_context_window(server: Server, way: Way) -> None:
    """`compact` fills the context window except for the answer, and refines the answer with the rest."""
    index = SummaryIndex.from_documents(documents())
    engine = index.as_query_engine(llm=TIRQwen(**server.settings, **SMALL_TO_REFINE), streaming=way.streaming)

    answer, pieces = await way(engine, SUMMARY)

    assert answer == server.says(ALL_RULES)
    assert_in_pieces(way, pieces, answer)
    first, second = prompts(server)
    assert [rules_in(messages[-1]["content"]) for messages in (first, second)] == HALVES
    assert f"\nOriginal Answer: {PARTS[0]}\n" in second[0]["content"]
    assert [body["max_tokens"] for body in server.bodies] == [300, 300]


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("use_async", [False, True])
@pytest.mark.parametrize("way", QUERIES, ids=str)
async def test_tree_summarize(server: Server, way: Way, use_async: bool) -> None:
    """`tree_summarize` summarizes each part and then the summaries; every method sends the same requests."""
    engine = SummaryIndex.from_documents(documents()).as_query_engine(
        llm=TIRQwen(**server.settings, **SMALL),
        response_mode="tree_summarize",
        streaming=way.streaming,
        use_async=use_async,
    )

    answer, pieces = await way(engine, SUMMARY)

    assert answer == server.says(ALL_RULES)
    assert_in_pieces(way, pieces, answer)
    *parts, last = prompts(server)
    assert sorted(rules_in(messages[-1]["content"]) for messages in parts) == sorted(HALVES)
    assert last == prompt_of(CHAT_TREE_SUMMARIZE_PROMPT, context_str="\n\n".join(PARTS), query_str=SUMMARY)


@pytest.mark.cassettes("rag")
def test_tree_summarize_in_a_script(server: Server) -> None:
    """Outside an event loop, `use_async` starts one for each query, and the same model works in all of them."""
    engine = SummaryIndex.from_documents(documents()).as_query_engine(
        llm=TIRQwen(**server.settings, **SMALL), response_mode="tree_summarize", use_async=True
    )

    answers = [str(engine.query(SUMMARY)), str(engine.query(SUMMARY))]

    assert answers == [server.says(ALL_RULES)] * 2
    assert sorted(rules_in(messages[-1]["content"]) for messages in prompts(server)) == sorted([*HALVES, []] * 2)


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", QUERIES, ids=str)
async def test_tree_summarize_at_once(server: Server, way: Way) -> None:
    """With Qwen3-32B's own context window, all rules fit into one request."""
    engine = SummaryIndex.from_documents(documents()).as_query_engine(
        llm=TIRQwen(**server.settings), response_mode="tree_summarize", streaming=way.streaming
    )

    answer, pieces = await way(engine, SUMMARY)

    assert answer == server.says(PARTS[0])
    assert_in_pieces(way, pieces, answer)
    assert prompts(server) == [prompt_of(CHAT_TREE_SUMMARIZE_PROMPT, context_str=joined(*RULES), query_str=SUMMARY)]
    assert "max_tokens" not in server.bodies[0]


# BM25.


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", QUERIES, ids=str)
async def test_bm25_finds_the_paragraph_and_the_answer_streams(
    server: Server, way: Way, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BM25 finds the paragraph by keywords, and the answer is streamed; nothing is printed, and no file is written."""
    monkeypatch.chdir(tmp_path)
    retriever = BM25Retriever.from_defaults(nodes=nodes(), similarity_top_k=1)
    engine = RetrieverQueryEngine.from_args(retriever, llm=TIRQwen(**server.settings), streaming=way.streaming)
    question = "What is paid within five working days?"

    answer, pieces = await way(engine, question)

    assert answer == server.says("The refund, counted from the arrival of the parcel.")
    assert_in_pieces(way, pieces, answer)
    assert prompts(server) == [prompt_of(CHAT_TEXT_QA_PROMPT, context_str=RULES["returns"], query_str=question)]
    assert (capsys.readouterr(), files_in(tmp_path)) == (("", ""), [])


# Settings.


@pytest.fixture
def settings() -> Iterator[Any]:
    """Provide core's settings, and restore them afterwards."""
    before = Settings._llm
    yield Settings
    Settings._llm = before


@pytest.mark.cassettes("rag")
def test_an_engine_uses_the_model_of_settings(server: Server, settings: Any) -> None:
    """An engine without a model of its own uses that of `Settings.llm`."""
    settings.llm = TIRQwen(**server.settings)

    response = vector_index().as_query_engine(similarity_top_k=1).query(WARRANTY)

    assert str(response) == server.says(LASTS)
    assert (len(server.bodies), server.bodies[0]["model"]) == (1, "qwen3_32b")


KNOWN = {"project_id": 1, "api_key": "token"}
QA = {"query_str": WARRANTY}


@pytest.mark.parametrize(
    ("given", "planned"),
    [
        ({}, (32768, 4096)),
        ({"max_tokens": 1000}, (32768, 1000)),
        ({"context_window": 8192, "max_tokens": 2000}, (8192, 2000)),
        ({"context_window": 40960}, (40960, 4096)),
    ],
)
def test_prompt_helper(given: dict[str, int], planned: tuple[int, int]) -> None:
    """Core plans with the context window, and with `max_tokens` or 4096 tokens for the answer."""
    helper = PromptHelper.from_llm_metadata(TIRQwen(**KNOWN, **given).metadata)
    assert (helper.context_window, helper.num_output) == planned


@pytest.mark.parametrize("given", [{}, {"max_tokens": 1000}, {"max_tokens": 20_000}])
def test_repacked_text_fits_the_context_window(given: dict[str, int]) -> None:
    """Text is packed so that prompt and answer fit the context window, with as much in each part as possible."""
    llm = TIRQwen(**KNOWN, **given)
    helper, count = PromptHelper.from_llm_metadata(llm.metadata), get_tokenizer()
    template = CHAT_TEXT_QA_PROMPT.partial_format(**QA)

    packed = helper.repack(template, [" ".join(RULES.values())] * 300, llm=llm)

    full = [template.format(context_str=text) for text in packed]
    sizes = [len(count(text)) + given.get("max_tokens", 4096) for text in full]
    assert len(packed) > 1
    assert max(sizes) <= 32768
    assert min(sizes[:-1]) > 32768 - 200


# Objects.


class Warranty(BaseModel):
    """What a warranty gives."""

    years: int
    exceptions: list[str]


@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", QUERIES[:2], ids=str)
async def test_a_query_engine_returns_an_object(server: Server, way: Way) -> None:
    """A query engine with `output_cls` returns the object."""
    engine = vector_index().as_query_engine(
        llm=TIRQwen(**server.settings), output_cls=Warranty, response_mode="tree_summarize", similarity_top_k=1
    )
    question = "Describe the warranty."

    response = engine.query(question) if way.name == "query" else await engine.aquery(question)

    assert response.response == Warranty(years=2, exceptions=["limescale", "drops", "use in a business"])
    assert [rules_in(messages[-1]["content"]) for messages in prompts(server)] == [["warranty"]]


@pytest.mark.parsers(True)  # core itself requests the verdict with a tool
@pytest.mark.cassettes("rag")
@pytest.mark.parametrize("way", QUERIES, ids=str)
async def test_filtered_answers(server: Server, way: Way) -> None:
    """With `structured_answer_filtering`, a paragraph that does not answer the question is skipped."""
    llm = TIRQwen(**server.settings)
    synthesizer = get_response_synthesizer(
        llm=llm, response_mode="refine", structured_answer_filtering=True, streaming=way.streaming
    )
    index = SummaryIndex(nodes=[node for node in nodes() if node.id_ in ("history", "warranty")][::-1])
    engine = RetrieverQueryEngine(index.as_retriever(), synthesizer)

    answer, _ = await way(engine, "What does the warranty not cover?")

    assert answer == server.says("Limescale, drops, and use in a business.")
    asked = [rules_in(messages[-1]["content"]) for messages in prompts(server)]
    assert asked == [["history"], ["warranty"]]
    # Core does not require the tool in streams, and would treat an answer in words as a missing one.
    assert [body["tool_choice"] for body in server.bodies] == ["required", "required"]
