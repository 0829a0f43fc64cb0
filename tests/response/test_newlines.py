"""Newlines of the chat template around a streamed text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.response.test_think_tags import CUTS, TEXTS
from tests.support.decode import FIXED, pieces_of
from tir_qwen._response.text.newlines import NewlineTrimmer


def trim(*pieces: str, leading: bool = False) -> tuple[str, str]:
    """What comes of a text in these pieces, and what is still held back at its end."""
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
    """Newlines at the end are held back until it is known whose they are; those within the text are kept."""
    assert trim(text) == trim(*text) == (kept, held)


@pytest.mark.parametrize(
    ("text", "kept", "held"),
    [("\n\na\n", "a", "\n"), ("\n\n", "", ""), (" \na", " \na", ""), ("a\n\nb", "a\n\nb", ""), ("\n \n", " ", "\n")],
)
def test_leading_newlines_are_dropped_where_the_template_puts_them(text: str, kept: str, held: str) -> None:
    """Newlines at the beginning are dropped, up to the first other character."""
    assert trim(text, leading=True) == trim(*text, leading=True) == (kept, held)


@FIXED
@given(TEXTS, CUTS, st.booleans())
def test_any_cut_of_any_text_is_trimmed_as_the_whole(text: str, cuts: list[int], leading: bool) -> None:
    """However a text is cut, nothing but the newlines at its ends is withheld."""
    started = text.lstrip("\n") if leading else text
    kept = started.rstrip("\n")
    assert trim(*pieces_of(text, cuts), leading=leading) == (kept, started[len(kept) :])


@FIXED
@given(TEXTS, TEXTS, CUTS)
def test_newlines_around_a_dropped_seam_are_the_templates(before: str, after: str, cuts: list[int]) -> None:
    """`drop` forgets the newlines before it and those after it, and nothing else."""
    trimmer = NewlineTrimmer(leading=False)
    kept = "".join(trimmer.feed(piece) for piece in pieces_of(before, cuts))
    trimmer.drop()
    kept += "".join(trimmer.feed(piece) for piece in pieces_of(after, cuts)) + trimmer.release()
    assert kept == before.rstrip("\n") + after.lstrip("\n")


def test_released_newlines_come_once() -> None:
    """`release` gives back what was held, and then nothing."""
    trimmer = NewlineTrimmer(leading=False)
    assert [trimmer.feed("a\n"), trimmer.release(), trimmer.release(), trimmer.feed("b")] == ["a", "\n", "", "b"]
