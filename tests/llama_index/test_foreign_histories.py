"""Histories with blocks that the model cannot see, as LlamaIndex's other LLMs, tools and readers leave them behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.llms import ChatMessage

from llama_index_tir_qwen._messages import messages_to_wire
from tests.support.scripted_transport import Reply, Scripted, llm_on
from tir_qwen import ConfigurationError
from tir_qwen._integrations import placeholder

TEXT = TextBlock(text="Here:")
IMAGE = ImageBlock(image=b"\x89PNG", image_mimetype="image/png")
CITED: dict[str, Any] = {"title": "A page", "source": "a.txt"}
TABLE = DocumentBlock(data="city,°C\nParis,22".encode(), document_mimetype="text/csv")


@pytest.fixture(autouse=True)
def _nothing_logged_yet() -> Iterator[None]:
    """Forget which placeholders have been logged."""
    placeholder.cache_clear()
    yield
    placeholder.cache_clear()


SENT: dict[str, tuple[str, list[ContentBlock], str]] = {
    "image of a tool": ("tool", [TEXT, IMAGE], "Here:\n[image, not shown to this model]"),
    "image by URL of a function": (
        "function",
        [ImageBlock(url="https://a.in/a.png")],
        "[image, not shown to this model]",
    ),
    "audio of a tool": (
        "tool",
        [AudioBlock(audio=b"x", format="wav"), TEXT],
        "[audio, not shown to this model]\nHere:",
    ),
    "video of a tool": ("tool", [VideoBlock(url="https://a.in/a.mp4")], "[video, not shown to this model]"),
    "PDF of a tool": (
        "tool",
        [DocumentBlock(data=b"%PDF-1.7", document_mimetype="application/pdf", title="Secret")],
        "[document, not shown to this model]",
    ),
    "document by URL of a tool": (
        "tool",
        [DocumentBlock(url="https://a.in/a.txt", document_mimetype="text/plain")],
        "[document, not shown to this model]",
    ),
    "text file of a tool": ("tool", [TEXT, TABLE], "Here:\ncity,°C\nParis,22"),
    "text file of a user": ("user", [TEXT, TABLE], "Here:\ncity,°C\nParis,22"),
    "text file in another encoding": (
        "tool",
        [DocumentBlock(data=b"\xff\xfe\xe4", document_mimetype="text/plain")],
        "[document, not shown to this model]",
    ),
    "image in an answer": ("assistant", [TEXT, IMAGE], "Here:\n[image, not shown to this model]"),
    "audio answer": ("model", [AudioBlock(audio=b"x")], "[audio, not shown to this model]"),
    "citable image of a tool": (
        "tool",
        [CitableBlock(content=[TEXT, IMAGE, TABLE], **CITED)],
        "Here:\n[image, not shown to this model]\ncity,°C\nParis,22",
    ),
    "cited image": (
        "assistant",
        [CitationBlock(cited_content=IMAGE, additional_location_info={}, **CITED), TEXT],
        "[image, not shown to this model]\nHere:",
    ),
    "thinking and calls": (
        "assistant",
        [ThinkingBlock(content="Hm."), TEXT, IMAGE, ToolCallBlock(tool_call_id="c1", tool_name="f")],
        "Here:\n[image, not shown to this model]",
    ),
}


@pytest.mark.parametrize("name", SENT)
def test_history_is_sent(name: str) -> None:
    """A history is sent with all its text, in order, and placeholders for results and answers that cannot be seen."""
    role, blocks, expected = SENT[name]
    lab = Scripted(Reply("Good day!"))

    answer = llm_on(lab).chat([ChatMessage("Hello"), ChatMessage(blocks, role=role), ChatMessage("And?")])

    assert answer.message.content == "Good day!"
    assert lab.bodies[0]["messages"][1]["content"] == expected


@pytest.mark.parametrize(
    "block",
    [
        DocumentBlock(data=b"%PDF-1.7", document_mimetype="application/pdf"),
        DocumentBlock(url="https://a.in/a.txt", document_mimetype="text/plain"),
        DocumentBlock(path=Path(__file__), document_mimetype="text/plain"),
        DocumentBlock(data=b"\xff\xfe\xe4", document_mimetype="text/plain"),
        CitableBlock(content=[TABLE, DocumentBlock(url="https://a.in/a.pdf")], **CITED),
    ],
    ids=["PDF", "URL", "path", "encoding", "citable"],
)
def test_document_of_a_user_is_refused(block: ContentBlock) -> None:
    """A user's document whose text is not in the message is refused before anything is sent."""
    lab = Scripted()
    with pytest.raises(ConfigurationError) as caught:
        llm_on(lab).chat([ChatMessage([TEXT, block])])
    words = "message 0 (user) contains a block of type 'document': Qwen3-32B accepts text only."
    assert (str(caught.value), lab.requests) == (words, [])


def test_placeholders_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each kind of placeholder is logged once per process, without any content."""
    history = [ChatMessage([IMAGE, IMAGE], role="tool"), ChatMessage([TABLE, AudioBlock(audio=b"x")], role="assistant")]
    with caplog.at_level(logging.DEBUG, "tir_qwen"):
        for _ in range(2):
            messages_to_wire(history)

    said = "The model accepts text only: a part of the conversation is sent as '[%s, not shown to this model]'."
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", said % "image"),
        ("WARNING", said % "audio"),
    ]
