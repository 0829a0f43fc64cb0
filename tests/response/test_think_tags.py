"""Separating inline reasoning from the answer, wherever the text is cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.decode import FIXED, pieces_of
from tir_qwen._response.text.think_tags import ThinkSplitter, lacks_opening_tag

WORDS = [
    "<think>",
    "</think>",
    "<",
    ">",
    "</",
    "/think>",
    "<thin",
    "think",
    "\n",
    "\n\n",
    " ",
    "a",
    "word ",
    "\u3000",
    "é",
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=14).map("".join)
UNDECIDED = re.compile(r"<think>(?: +[a-z]{0,8}|\.)?")
CUTS = st.lists(st.integers(0, 70), max_size=8)


def split(*pieces: str) -> tuple[str | None, str]:
    """Return the reasoning (None without a think block) and the answer of text in these pieces."""
    splitter = ThinkSplitter()
    said = [*(splitter.feed(piece) for piece in pieces), splitter.close()]
    reasonings = [reasoning for reasoning, _ in said if reasoning is not None]
    return "".join(reasonings) if reasonings else None, "".join(answer for _, answer in said)


def is_sentence(started: str) -> bool:
    """Whether the tag at the start is the first word of a sentence."""
    rest = started.removeprefix("<think>")
    words = rest.lstrip(" ")
    is_about_it = words != rest and (words.startswith("(") or words.replace(".", " ").split(" ")[0] in ("is", "and"))
    return is_about_it or (rest[:1] in [*".,:;!?"] and not rest.startswith(".."))


def expected_split(text: str) -> tuple[str | None, str]:
    """Return the expected reasoning and answer of a complete text."""
    started = text.lstrip()
    if not started.startswith("<think>") or is_sentence(started):
        return None, text
    reasoning, _, answer = started.removeprefix("<think>").partition("</think>")
    return reasoning, answer


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        pytest.param("<think>\nr\n</think>\n\na", "\nr\n", "\n\na", id="Qwen3's form"),
        pytest.param("<think>r</think>a", "r", "a", id="without newlines"),
        pytest.param("\n \t<think>r</think>a", "r", "a", id="white space before the tag"),
        pytest.param("<think>\n\n</think>\n\na", "\n\n", "\n\na", id="an empty block"),
        pytest.param("<think></think>", "", "", id="nothing at all"),
        pytest.param("<think>\nr", "\nr", "", id="cut off within the reasoning"),
        pytest.param("<think>\nr</thi", "\nr</thi", "", id="cut off within the closing tag"),
        pytest.param("<think>", "", "", id="cut off after the tag"),
        pytest.param("<thin", None, "<thin", id="cut off within the tag"),
        pytest.param(" \n", None, " \n", id="nothing but white space"),
        pytest.param("", None, "", id="nothing"),
        pytest.param("a", None, "a", id="an answer"),
        pytest.param("\n a", None, "\n a", id="an answer after white space"),
        pytest.param("a <think>b</think> c", None, "a <think>b</think> c", id="a quoted block"),
        pytest.param("</think>a", None, "</think>a", id="a closing tag alone"),
        pytest.param("<thinking>a", None, "<thinking>a", id="another tag"),
        pytest.param("<THINK>a", None, "<THINK>a", id="capital letters"),
        pytest.param("<think>a<think>b</think>c", "a<think>b", "c", id="a tag within the reasoning"),
        pytest.param("<think>a</think>b</think>c", "a", "b</think>c", id="a second closing tag"),
        pytest.param("<think>a</think><think>b</think>", "a", "<think>b</think>", id="a second block"),
        pytest.param("<think>a</</think>b", "a</", "b", id="a torn tag before the tag"),
        pytest.param("<think><</think>b", "<", "b", id="a bracket before the tag"),
        pytest.param("<think> is a tag.", None, "<think> is a tag.", id="a sentence that begins with the tag"),
        pytest.param("<think>: it opens.", None, "<think>: it opens.", id="a tag and a colon"),
        pytest.param("<think> and </think> are", None, "<think> and </think> are", id="a sentence with both tags"),
        pytest.param("\n<think>  (the tag)", None, "\n<think>  (the tag)", id="a tag and a bracket"),
        pytest.param("<think> Okay</think>a", " Okay", "a", id="a space before the reasoning"),
        pytest.param("<think> okay, so</think>a", " okay, so", "a", id="a space before reasoning in lower case"),
        pytest.param("<think>...hm</think>a", "...hm", "a", id="reasoning that begins with dots"),
        pytest.param("<think>okay</think>a", "okay", "a", id="reasoning in lower case"),
        pytest.param("<think>  ", "  ", "", id="cut off after spaces"),
        pytest.param("<think> \nr</think>a", " \nr", "a", id="a space after the tag"),
    ],
)
def test_only_a_block_at_the_start_is_reasoning(text: str, reasoning: str | None, answer: str) -> None:
    """Only a block at the very start is reasoning; everything else is answer."""
    assert expected_split(text) == (reasoning, answer)
    assert split(text) == (reasoning, answer)
    assert split(*text) == (reasoning, answer)


@FIXED
@given(TEXTS, CUTS)
def test_text_is_split_the_same_wherever_it_is_cut(text: str, cuts: list[int]) -> None:
    """Any text is split the same wherever it is cut, and only the tags are removed."""
    assert split(*pieces_of(text, cuts)) == expected_split(text)
    assert split(*text) == expected_split(text)


@FIXED
@given(TEXTS)
def test_only_a_possible_tag_is_held_back(text: str) -> None:
    """Only leading whitespace and text that may become a tag is held back."""
    splitter = ThinkSplitter()
    out = ""
    for at, letter in enumerate(text, 1):
        reasoning, answer = splitter.feed(letter)
        out += (reasoning or "") + answer
        whole = split(text[:at])
        held = len((whole[0] or "") + whole[1]) - len(out)
        opening = text[:at].strip()
        is_undecided = "<think>".startswith(opening) or UNDECIDED.fullmatch(text[:at].lstrip())
        assert held <= (at if is_undecided else len("</think>") - 1)
        if splitter.settled:
            assert held == 0


@FIXED
@given(TEXTS, TEXTS)
def test_once_settled_all_text_is_answer(text: str, more: str) -> None:
    """Once `settled` is true, all further text is answer."""
    splitter = ThinkSplitter()
    splitter.feed(text)
    started = text.lstrip()
    opened = started.startswith("<think>") and not is_sentence(started)
    undecided = "<think>".startswith(started) or UNDECIDED.fullmatch(started) is not None
    undecided = undecided or (opened and "</think>" not in started)
    assert splitter.settled == (not undecided)
    if splitter.settled:
        assert splitter.feed(more) == (None, more)
        assert splitter.close() == (None, "")


def test_a_closed_splitter_can_be_continued() -> None:
    """After `close`, further text continues the same part."""
    thinking, answering = ThinkSplitter(), ThinkSplitter()
    assert [thinking.feed("<think>a</"), thinking.close(), thinking.feed("b</think>c")] == [
        ("a", ""),
        ("</", ""),
        ("b", "c"),
    ]
    assert [answering.feed("<thi"), answering.close(), answering.feed("nk>")] == [
        (None, ""),
        (None, "<thi"),
        (None, "nk>"),
    ]


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        pytest.param("Hm.\n</think>\n\nParis.", True, id="the form of Qwen3-Thinking-2507"),
        pytest.param("Hm.\n\n</think> \nParis.", True, id="a space after the tag"),
        pytest.param("Hm.\n</think>", True, id="no answer"),
        pytest.param("The tag is </think>.", False, id="a tag in a sentence"),
        pytest.param("It ends with\n</think>, the tag.", False, id="a tag at the start of a line"),
        pytest.param("It is:\n```\nHm.\n</think>\n```", False, id="a tag in code"),
        pytest.param("Write <think>\nHm.\n</think>\nfirst.", False, id="a quoted block"),
        pytest.param("\n</think>\n\nParis.", False, id="nothing before the tag"),
        pytest.param("Paris.", False, id="no tag"),
    ],
)
def test_reasoning_without_an_opening_tag(text: str, lacks: bool) -> None:
    """Only a closing tag on a line of its own, which nothing opens, ends reasoning."""
    assert lacks_opening_tag(text) is lacks


@FIXED
@given(TEXTS, CUTS)
def test_text_that_starts_within_the_reasoning(text: str, cuts: list[int]) -> None:
    """If the prompt contains the opening tag, all text before the closing tag is reasoning, unless it has its own."""
    splitter = ThinkSplitter(is_open=True)
    said = [*(splitter.feed(piece) for piece in pieces_of(text, cuts)), splitter.close()]
    if splitter.has_opening_tag:
        text = text.lstrip().removeprefix("<think>")
    reasoning, _, answer = text.partition("</think>")
    assert "".join(part or "" for part, _ in said) == reasoning
    assert "".join(part for _, part in said) == answer
