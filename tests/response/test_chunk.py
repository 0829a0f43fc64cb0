"""Decoding chunks to deltas, independent of the server version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.decode import DONE, FIXED, chunk, decode, events, pieces_of, stream, whole
from tir_qwen._response.chunk import ChunkDecoder
from tir_qwen.errors import StreamInterruptedError
from tir_qwen.types import Delta

FIELDS = ["reasoning_content", "reasoning"]
TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "\n", "\n\n", " ", "a", "words "]), max_size=12
).map("".join)
CUTS = st.lists(st.integers(0, 50), max_size=6)


def expected_parts(text: str) -> tuple[str, str]:
    """Return the reasoning and the content of text with inline thinking, without the template's newlines."""
    if not text.lstrip().startswith("<think>"):
        return "", text
    reasoning, _, content = text.lstrip().removeprefix("<think>").partition("</think>")
    return reasoning.strip("\n"), content.lstrip("\n")


@pytest.mark.parametrize("field", FIELDS)
def test_reasoning_is_read_under_either_name(field: str) -> None:
    """Reasoning is recognized under either field name, streamed and complete."""
    deltas = [{field: "\nFirst"}, {field: ", then.\n"}, {"content": "\n\nHello"}, {"content": "!\n"}]
    said = ("First, then.", "Hello!\n", [], "stop")
    assert decode(stream({"role": "assistant", "content": ""}, *deltas)).said == said
    assert decode(whole({field: "\nFirst, then.\n", "content": "\n\nHello!\n"})).said == said


def test_reasoning_under_both_names_is_read_once() -> None:
    """Reasoning under both names, as vLLM 0.11.1 to 0.15.1 send it, is read once; null is none."""
    both = [{"reasoning": text, "reasoning_content": text} for text in ("\nOne", " two\n")]
    none = [{"reasoning": None, "reasoning_content": None, "content": text} for text in ("\n\nA", "nswer")]
    assert decode(stream(*both, *none)).said == ("One two", "Answer", [], "stop")
    assert decode(whole({**both[0], "content": "A"})).said == ("One", "A", [], "stop")


@pytest.mark.parametrize("nothing", [None, ""], ids=["null", "empty"])
def test_empty_reasoning_leaves_the_content_unchanged(nothing: Any) -> None:
    """With null or empty reasoning, leading newlines belong to the content."""
    deltas = [dict.fromkeys(FIELDS, nothing) | {"content": text} for text in ("\n\n", "a")]
    assert decode(stream(*deltas)).said == ("", "\n\na", [], "stop")
    assert decode(whole(deltas[0] | {"content": "\n\na"})).said == ("", "\n\na", [], "stop")


def test_an_answer_may_consist_of_reasoning_only() -> None:
    """An answer that is all reasoning has no content."""
    assert decode(stream({"reasoning": "\n\n"}, {"reasoning": "r\n"})).said == ("r", "", [], "stop")
    assert decode(whole({"reasoning": "\nr\n", "content": None}, "length")).said == ("r", "", [], "length")


@FIXED
@given(TEXTS, CUTS)
def test_inline_thinking_is_separated_wherever_it_is_cut(text: str, cuts: list[int]) -> None:
    """Only the tags and the template's newlines are removed, wherever the text is cut."""
    said = (*expected_parts(text), [], "length")
    pieces = [{"content": piece} for piece in pieces_of(text, cuts)]
    assert decode(stream(*pieces, finish_reason="length")).said == said
    assert decode(events(*map(chunk, pieces), DONE)).said == (*said[:3], None)
    assert decode(whole({"content": text}, "length")).said == said


@FIXED
@given(TEXTS, TEXTS, CUTS, st.sampled_from(FIELDS))
def test_content_beside_a_reasoning_field_is_all_answer(
    reasoning: str, content: str, cuts: list[int], field: str
) -> None:
    """If the server parses the reasoning, tags in the text belong to the model."""
    deltas = [{field: piece} for piece in pieces_of(reasoning, cuts)]
    deltas += [{"content": piece} for piece in pieces_of(content, cuts)]
    kept = (reasoning.strip("\n"), content.lstrip("\n"), [], "stop")
    expected = kept if reasoning else (*expected_parts(content), [], "stop")
    assert decode(stream(*deltas)).said == expected
    assert decode(whole({field: reasoning, "content": content})).said == expected


def test_later_reasoning_removes_no_newlines_from_the_answer() -> None:
    """Only the content right after the first reasoning loses its leading newlines."""
    deltas = [{"reasoning": "r\n"}, {"content": "\n\na"}, {"reasoning": "s\n"}, {"content": "\nb"}]
    assert decode(stream(*deltas)).said == ("r\ns", "a\nb", [], "stop")


def test_a_quoted_tag_stays_in_the_answer() -> None:
    """An answer that quotes thinking tags is kept in full."""
    quoted = "Use\n<think>\nreasons\n</think>\n\nthus.\n"
    for before in ({}, {"reasoning": "r"}, {"content": "<think>r</think>"}):
        reasoning = "r" if before else ""
        assert decode(stream(before, *({"content": letter} for letter in quoted))).said[:2] == (reasoning, quoted)


def test_text_streams_as_soon_as_it_is_classified() -> None:
    """Each chunk yields a delta immediately; newlines wait for the next text."""
    deltas = [{"content": text} for text in ("<think>", "\n", "r", " s\n", "</think>", "\n\n", "a", "\n", "b")]
    outcome = decode(stream(*deltas))
    assert [(delta.reasoning, delta.content) for delta in outcome.deltas] == [
        ("", ""),
        ("r", ""),
        (" s", ""),
        ("", "a"),
        ("", "\nb"),
        ("", ""),
        ("", ""),
    ]


def test_newlines_of_the_template_around_tool_calls_are_dropped() -> None:
    """Newlines around tool calls are dropped; those within the content are kept."""
    calls = [{"tool_calls": [{"index": at, "id": f"id{at}", "function": {"name": f"t{at}"}}]} for at in (0, 1)]
    texts = [{"content": text} for text in ("Let me\n\nsee.", "\n", "\n")]
    outcome = decode(
        stream(*texts, calls[0], {"content": "\n"}, calls[1], {"content": "\n"}, finish_reason="tool_calls")
    )
    assert outcome.said == ("", "Let me\n\nsee.", [("t0", "{}"), ("t1", "{}")], "tool_calls")
    after = decode(stream({"content": "\n\n"}, calls[0], {"content": "\nDone.\n"}))
    assert after.said == ("", "Done.\n", [("t0", "{}")], "stop")


def test_choices_may_interleave() -> None:
    """Each choice has its own state, in whatever order the chunks come."""
    both = {"choices": [chunk({"content": "</think>\n"}, None, 1)["choices"][0], chunk({"content": "A"})["choices"][0]]}
    body = events(
        chunk({"content": "<think>x"}, None, 1),
        chunk({"reasoning": "\nr"}, None, 0),
        both,
        chunk({"content": "B\n"}, "stop", 1),
        chunk({"content": "\n"}, "length", 0),
        DONE,
    )
    choices = decode(body).completion.choices
    assert [(one.index, one.reasoning, one.content, one.finish_reason) for one in choices] == [
        (0, "r", "A\n", "length"),
        (1, "x", "B\n", "stop"),
    ]


def test_the_metadata_of_the_response_comes_once() -> None:
    """Id, time and model come with the first delta, other metadata with the last; nulls and repeats are dropped."""
    body = events(
        chunk({"role": "assistant"}, system_fingerprint=None, service_tier="a", prompt_token_ids=[1]),
        chunk({"content": "a"}, system_fingerprint=None, service_tier=None),
        chunk({}, "stop", system_fingerprint="f", kv_transfer_params={}),
        DONE,
    )
    first, *others, last = decode(body).deltas
    assert first.response == {"id": "chatcmpl-1", "created": 1770613777, "model": "qwen3_32b"}
    assert [delta.response for delta in others] == [None, None]
    facts = {"service_tier": "a", "prompt_token_ids": [1], "system_fingerprint": "f", "kv_transfer_params": {}}
    assert last == Delta(response=facts, last=True)


@pytest.mark.parametrize("again", [0, 1, 3], ids=["never", "once", "with each chunk"])
def test_usage_is_reported_once_and_last(again: int) -> None:
    """The usage comes on the last delta only, even if the server sends it with every chunk."""
    counts = [{"prompt_tokens": 9, "completion_tokens": n, "total_tokens": 9 + n} for n in range(4)]
    bodies = [chunk({"content": "a"}, usage=count) for count in counts[:again]]
    body = events(*bodies, chunk({}, "stop", usage=None), chunk() | {"choices": [], "usage": counts[3]}, DONE)
    outcome = decode(body)
    assert outcome.completion.usage == counts[3]
    assert [delta.usage for delta in outcome.deltas] == [None] * (len(outcome.deltas) - 1) + [counts[3]]


def test_usage_may_come_early_or_not_at_all() -> None:
    """The usage may come with the last chunk or after it; if it is missing, it is None."""
    counts = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert decode(events(chunk({"content": "a"}, "stop", usage=counts), DONE)).completion.usage == counts
    assert decode(whole({"content": "a"}, usage=counts)).completion.usage == counts
    for nothing in ({}, {"usage": None}, {"usage": {}}):
        assert decode(events(chunk({"content": "a"}, "stop", **nothing), DONE)).completion.usage is None


def test_empty_chunks_make_no_deltas() -> None:
    """A chunk without new content yields no delta."""
    nothing = [{}, {"content": ""}, {"content": None, "tool_calls": []}, {"role": "assistant", "refusal": None}]
    outcome = decode(stream({"content": "a"}, *nothing, {"content": "b"}))
    assert [delta.content for delta in outcome.deltas] == ["a", "b", "", ""]


def test_payloads_after_the_end_are_ignored() -> None:
    """After [DONE] nothing is decoded and nothing raised, and closing twice is harmless."""
    decoder = ChunkDecoder()
    assert not decoder.done
    first = list(decoder.feed(b'{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}'))
    assert not decoder.done
    assert [*first, *decoder.feed(b" [DONE] ")] == [Delta(content="a", finish_reason="stop"), Delta(last=True)]
    assert decoder.done
    assert [*decoder.feed(b"{"), *decoder.feed(b"", b"error"), *decoder.feed(DONE), *decoder.close()] == []


def test_empty_payloads_are_ignored() -> None:
    """Events without data, sent by proxies as keep-alive, are not chunks."""
    decoder = ChunkDecoder()
    assert [*decoder.feed(b""), *decoder.feed(b" \n"), *decoder.feed(b"", b"ping")] == []
    with pytest.raises(StreamInterruptedError, match=r"^the server sent no answer$"):
        list(decoder.close())


def test_usage_and_metadata_need_no_other_fields() -> None:
    """Usage and metadata are kept even if a gateway omits id, object, created and model."""
    facts = {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, "system_fingerprint": "f"}
    answer = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], **facts}
    for body in (json.dumps(answer).encode(), events(chunk({"content": "a"}, "stop"), {"choices": [], **facts}, DONE)):
        outcome = decode(body)
        assert outcome.completion.usage == facts["usage"]
        assert outcome.completion.response["system_fingerprint"] == "f"


def test_text_held_back_is_content_if_reasoning_follows() -> None:
    """Text held back as a possible tag is content if the next chunk is reasoning."""
    assert decode(stream({"content": "<"}, {"reasoning": "r"}, {"content": "b>"})).said == ("r", "<b>", [], "stop")


def test_an_empty_finish_reason_is_ignored() -> None:
    """An empty finish reason, sent by some gateways with every chunk, does not end the answer."""
    outcome = decode(events(chunk({"content": "<thi"}, ""), chunk({"content": "nk>r"}, "")))
    assert outcome.failed == ("StreamInterruptedError", "the answer stopped before its end")
    assert decode(events(chunk({"content": "<thi"}, ""), chunk({"content": "nk>r"}, "stop"), DONE)).said[0] == "r"


def test_newlines_before_the_reasoning_are_dropped() -> None:
    """Newlines before a reasoning field or an inline block belong to the template."""
    for first in ({"content": "\n\n"}, {"content": "\n"}):
        assert decode(stream(first, {"reasoning": "\nr\n"}, {"content": "\n\na"})).said == ("r", "a", [], "stop")
        assert decode(stream(first, {"content": "<think>\nr\n</think>\n\na"})).said == ("r", "a", [], "stop")


def test_an_incomplete_closing_tag_is_reasoning_if_a_reasoning_field_follows() -> None:
    """An incomplete closing tag in inline reasoning is reasoning if a reasoning field follows."""
    assert decode(stream({"content": "<think>r</"}, {"reasoning": "s"}, {"content": "a"})).said == (
        "r</s",
        "a",
        [],
        "stop",
    )
