"""The splitters of text: reasoning, answer and template newlines are told apart wherever the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.decode import FIXED, pieces_of
from tir_qwen._response.text.think_tags import ThinkSplitter

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
CUTS = st.lists(st.integers(0, 70), max_size=8)


def split(*pieces: str) -> tuple[str | None, str]:
    """Reasoning (None: no think block) and answer of a text that comes in these pieces."""
    splitter = ThinkSplitter()
    said = [*(splitter.feed(piece) for piece in pieces), splitter.close()]
    reasonings = [reasoning for reasoning, _ in said if reasoning is not None]
    return "".join(reasonings) if reasonings else None, "".join(answer for _, answer in said)


def as_a_person_splits(text: str) -> tuple[str | None, str]:
    """Reasoning and answer of a whole text."""
    started = text.lstrip()
    if not started.startswith("<think>"):
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
    ],
)
def test_reasoning_is_what_stands_in_the_block_that_opens_the_text(
    text: str, reasoning: str | None, answer: str
) -> None:
    """Only a block at the very start is reasoning, and all else is answer, at once and letter by letter."""
    assert as_a_person_splits(text) == (reasoning, answer)
    assert split(text) == (reasoning, answer)
    assert split(*text) == (reasoning, answer)


@FIXED
@given(TEXTS, CUTS)
def test_any_cut_of_any_text_is_split_as_the_whole(text: str, cuts: list[int]) -> None:
    """However a text is cut, reasoning and answer are those of the whole, and nothing but tags is lost."""
    assert split(*pieces_of(text, cuts)) == as_a_person_splits(text)
    assert split(*text) == as_a_person_splits(text)


@FIXED
@given(TEXTS)
def test_no_more_is_held_back_than_could_be_a_tag(text: str) -> None:
    """What the splitter keeps is white space before the first word, or what may yet become a tag."""
    splitter = ThinkSplitter()
    out = ""
    for at, letter in enumerate(text, 1):
        reasoning, answer = splitter.feed(letter)
        out += (reasoning or "") + answer
        whole = split(text[:at])
        held = len((whole[0] or "") + whole[1]) - len(out)
        opening = text[:at].strip()
        assert held <= (at if "<think>".startswith(opening) else len("</think>") - 1)
        if splitter.settled:
            assert held == 0


@FIXED
@given(TEXTS, TEXTS)
def test_once_settled_all_text_is_answer(text: str, more: str) -> None:
    """`settled` says that no text to come can be reasoning, and then feeding changes nothing."""
    splitter = ThinkSplitter()
    splitter.feed(text)
    started = text.lstrip()
    opened = started.startswith("<think>")
    undecided = "<think>".startswith(started) or (opened and "</think>" not in started)
    assert splitter.settled == (not undecided)
    if splitter.settled:
        assert splitter.feed(more) == (None, more)
        assert splitter.close() == (None, "")


def test_a_closed_splitter_goes_on_where_it_was() -> None:
    """A text that is taken up again after its end stays on the same side."""
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
