"""Removing the template's newlines around streamed text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.response.test_think_tags import CUTS, TEXTS
from tests.support.decode import FIXED, pieces_of
from tir_qwen._response.text.newlines import NewlineTrimmer


def trim(*pieces: str, leading: bool = False) -> tuple[str, str]:
    """Return the trimmed text and the newlines still held back."""
    trimmer = NewlineTrimmer(leading=leading)
    return "".join(trimmer.feed(piece) for piece in pieces), trimmer.release()


@pytest.mark.parametrize(
    ("text", "kept", "held"),
    [
        ("a", "a", ""),
        ("a\n", "a", "\n"),
        ("a\n\nb\n\n", "a\n\nb", "\n\n"),
        ("a \n", "a ", "\n"),
        ("a\r\n", "a\r", "\n"),
        ("\n\n", "", "\n\n"),
        ("\n a", "\n a", ""),
        ("", "", ""),
    ],
)
def test_trailing_newlines_wait_for_more_text(text: str, kept: str, held: str) -> None:
    """Trailing newlines are held back until more text follows; inner newlines are kept."""
    assert trim(text) == trim(*text) == (kept, held)


@pytest.mark.parametrize(
    ("text", "kept", "held"),
    [("\n\na\n", "a", "\n"), ("\n\n", "", ""), (" \na", " \na", ""), ("a\n\nb", "a\n\nb", ""), ("\n \n", " ", "\n")],
)
def test_leading_newlines_are_dropped(text: str, kept: str, held: str) -> None:
    """Leading newlines are dropped up to the first other character."""
    assert trim(text, leading=True) == trim(*text, leading=True) == (kept, held)


@FIXED
@given(TEXTS, CUTS, st.booleans())
def test_text_is_trimmed_the_same_wherever_it_is_cut(text: str, cuts: list[int], leading: bool) -> None:
    """Only leading and trailing newlines are withheld, wherever the text is cut."""
    started = text.lstrip("\n") if leading else text
    kept = started.rstrip("\n")
    assert trim(*pieces_of(text, cuts), leading=leading) == (kept, started[len(kept) :])


@FIXED
@given(TEXTS, TEXTS, CUTS)
def test_drop_removes_only_the_newlines_around_it(before: str, after: str, cuts: list[int]) -> None:
    """`drop` removes the newlines before and after it, and nothing else."""
    trimmer = NewlineTrimmer(leading=False)
    kept = "".join(trimmer.feed(piece) for piece in pieces_of(before, cuts))
    trimmer.drop()
    kept += "".join(trimmer.feed(piece) for piece in pieces_of(after, cuts)) + trimmer.release()
    assert kept == before.rstrip("\n") + after.lstrip("\n")


def test_release_returns_newlines_once() -> None:
    """`release` returns the held newlines once."""
    trimmer = NewlineTrimmer(leading=False)
    assert [trimmer.feed("a\n"), trimmer.release(), trimmer.release(), trimmer.feed("b")] == ["a", "\n", "", "b"]
