"""Payloads to deltas: the same words from every version of the server."""

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


def as_a_person_reads(text: str) -> tuple[str, str]:
    """Reasoning and content of an answer with its thinking inline, without the template's newlines."""
    if not text.lstrip().startswith("<think>"):
        return "", text
    reasoning, _, content = text.lstrip().removeprefix("<think>").partition("</think>")
    return reasoning.strip("\n"), content.lstrip("\n")


@pytest.mark.parametrize("field", FIELDS)
def test_reasoning_is_read_under_each_name(field: str) -> None:
    """Reasoning comes out as such whatever the server's version calls it, streamed and whole."""
    deltas = [{field: "\nFirst"}, {field: ", then.\n"}, {"content": "\n\nHello"}, {"content": "!\n"}]
    said = ("First, then.", "Hello!\n", [], "stop")
    assert decode(stream({"role": "assistant", "content": ""}, *deltas)).said == said
    assert decode(whole({field: "\nFirst, then.\n", "content": "\n\nHello!\n"})).said == said


def test_reasoning_under_both_names_is_not_doubled() -> None:
    """The same reasoning under two names, as 0.11.1 to 0.15.1 send it, is read once; null under both is none."""
    both = [{"reasoning": text, "reasoning_content": text} for text in ("\nOne", " two\n")]
    none = [{"reasoning": None, "reasoning_content": None, "content": text} for text in ("\n\nA", "nswer")]
    assert decode(stream(*both, *none)).said == ("One two", "Answer", [], "stop")
    assert decode(whole({**both[0], "content": "A"})).said == ("One", "A", [], "stop")


@pytest.mark.parametrize("nothing", [None, ""], ids=["null", "empty"])
def test_reasoning_that_is_not_there_leaves_the_content_alone(nothing: Any) -> None:
    """Null or empty reasoning is no reasoning: newlines at the beginning are then the model's own."""
    deltas = [dict.fromkeys(FIELDS, nothing) | {"content": text} for text in ("\n\n", "a")]
    assert decode(stream(*deltas)).said == ("", "\n\na", [], "stop")
    assert decode(whole(deltas[0] | {"content": "\n\na"})).said == ("", "\n\na", [], "stop")


def test_all_of_the_answer_may_be_reasoning() -> None:
    """An answer that is all in the reasoning field has no content, streamed and whole."""
    assert decode(stream({"reasoning": "\n\n"}, {"reasoning": "r\n"})).said == ("r", "", [], "stop")
    assert decode(whole({"reasoning": "\nr\n", "content": None}, "length")).said == ("r", "", [], "length")


@FIXED
@given(TEXTS, CUTS)
def test_inline_thinking_is_told_apart_wherever_chunks_end(text: str, cuts: list[int]) -> None:
    """Without a reasoning parser, any cut of any text loses nothing but tags and the newlines of the template."""
    said = (*as_a_person_reads(text), [], "length")
    pieces = [{"content": piece} for piece in pieces_of(text, cuts)]
    assert decode(stream(*pieces, finish_reason="length")).said == said
    assert decode(events(*map(chunk, pieces), DONE)).said == (*said[:3], None)
    assert decode(whole({"content": text}, "length")).said == said


@FIXED
@given(TEXTS, TEXTS, CUTS, st.sampled_from(FIELDS))
def test_with_a_reasoning_field_all_content_is_answer(
    reasoning: str, content: str, cuts: list[int], field: str
) -> None:
    """Where the server parses the reasoning, tags in either are the model's words, however chunks end."""
    deltas = [{field: piece} for piece in pieces_of(reasoning, cuts)]
    deltas += [{"content": piece} for piece in pieces_of(content, cuts)]
    kept = (reasoning.strip("\n"), content.lstrip("\n"), [], "stop")
    expected = kept if reasoning else (*as_a_person_reads(content), [], "stop")
    assert decode(stream(*deltas)).said == expected
    assert decode(whole({field: reasoning, "content": content})).said == expected


def test_reasoning_that_goes_on_later_takes_no_newlines_from_the_answer() -> None:
    """Only the content that first follows the reasoning begins with newlines of the template."""
    deltas = [{"reasoning": "r\n"}, {"content": "\n\na"}, {"reasoning": "s\n"}, {"content": "\nb"}]
    assert decode(stream(*deltas)).said == ("r\ns", "a\nb", [], "stop")


def test_a_quoted_tag_stays_in_the_answer() -> None:
    """A model that explains thinking tags is quoted in full, with its line breaks."""
    quoted = "Use\n<think>\nreasons\n</think>\n\nthus.\n"
    for before in ({}, {"reasoning": "r"}, {"content": "<think>r</think>"}):
        reasoning = "r" if before else ""
        assert decode(stream(before, *({"content": letter} for letter in quoted))).said[:2] == (reasoning, quoted)


def test_text_comes_as_soon_as_it_is_known_what_it_is() -> None:
    """Words are not withheld: each chunk of answer or reasoning is a delta at once, newlines with the next word."""
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
    """Newlines before, between and after tool calls are the template's; those within the content are not."""
    calls = [{"tool_calls": [{"index": at, "id": f"id{at}", "function": {"name": f"t{at}"}}]} for at in (0, 1)]
    texts = [{"content": text} for text in ("Let me\n\nsee.", "\n", "\n")]
    outcome = decode(
        stream(*texts, calls[0], {"content": "\n"}, calls[1], {"content": "\n"}, finish_reason="tool_calls")
    )
    assert outcome.said == ("", "Let me\n\nsee.", [("t0", "{}"), ("t1", "{}")], "tool_calls")
    after = decode(stream({"content": "\n\n"}, calls[0], {"content": "\nDone.\n"}))
    assert after.said == ("", "Done.\n", [("t0", "{}")], "stop")


def test_choices_may_interleave() -> None:
    """Each choice has its own reasoning, newlines, calls and end, whatever order their chunks come in."""
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


def test_the_facts_of_the_response_come_once() -> None:
    """Id, time and model come with the first delta, all other facts with the last, nulls and repeats not at all."""
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
    """The final count comes on the last delta alone, though a server may send counts with every chunk."""
    counts = [{"prompt_tokens": 9, "completion_tokens": n, "total_tokens": 9 + n} for n in range(4)]
    bodies = [chunk({"content": "a"}, usage=count) for count in counts[:again]]
    body = events(*bodies, chunk({}, "stop", usage=None), chunk() | {"choices": [], "usage": counts[3]}, DONE)
    outcome = decode(body)
    assert outcome.completion.usage == counts[3]
    assert [delta.usage for delta in outcome.deltas] == [None] * (len(outcome.deltas) - 1) + [counts[3]]


def test_usage_may_come_before_the_end_and_need_not_come_at_all() -> None:
    """A count on the last chunk of the answer is as good as one after it; where none comes, none is made up."""
    counts = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert decode(events(chunk({"content": "a"}, "stop", usage=counts), DONE)).completion.usage == counts
    assert decode(whole({"content": "a"}, usage=counts)).completion.usage == counts
    for nothing in ({}, {"usage": None}, {"usage": {}}):
        assert decode(events(chunk({"content": "a"}, "stop", **nothing), DONE)).completion.usage is None


def test_empty_chunks_make_no_deltas() -> None:
    """A chunk that says nothing new is no delta, so that a caller's loop runs for words only."""
    nothing = [{}, {"content": ""}, {"content": None, "tool_calls": []}, {"role": "assistant", "refusal": None}]
    outcome = decode(stream({"content": "a"}, *nothing, {"content": "b"}))
    assert [delta.content for delta in outcome.deltas] == ["a", "b", "", ""]


def test_payloads_after_the_end_mean_nothing() -> None:
    """After [DONE] nothing is decoded and nothing raised, and closing twice is harmless."""
    decoder = ChunkDecoder()
    assert not decoder.done
    first = list(decoder.feed(b'{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}'))
    assert not decoder.done
    assert [*first, *decoder.feed(b" [DONE] ")] == [Delta(content="a", finish_reason="stop"), Delta(last=True)]
    assert decoder.done
    assert [*decoder.feed(b"{"), *decoder.feed(b"", b"error"), *decoder.feed(DONE), *decoder.close()] == []


def test_an_empty_payload_is_nothing_unless_it_is_an_error() -> None:
    """Events without data, as proxies send them to keep a connection alive, are no chunks."""
    decoder = ChunkDecoder()
    assert [*decoder.feed(b""), *decoder.feed(b" \n"), *decoder.feed(b"", b"ping")] == []
    with pytest.raises(StreamInterruptedError, match=r"^the server sent no answer$"):
        list(decoder.close())


def test_usage_and_facts_count_where_a_chunk_says_little_else() -> None:
    """Usage and other facts are kept though a gateway leaves out id, object, created or model."""
    facts = {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, "system_fingerprint": "f"}
    answer = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], **facts}
    for body in (json.dumps(answer).encode(), events(chunk({"content": "a"}, "stop"), {"choices": [], **facts}, DONE)):
        outcome = decode(body)
        assert outcome.completion.usage == facts["usage"]
        assert outcome.completion.response["system_fingerprint"] == "f"


def test_text_held_back_comes_out_when_reasoning_follows() -> None:
    """Content that might have become a tag is content after all when the next chunk is reasoning."""
    assert decode(stream({"content": "<"}, {"reasoning": "r"}, {"content": "b>"})).said == ("r", "<b>", [], "stop")


def test_an_empty_finish_reason_is_none() -> None:
    """An empty finish_reason, which some gateways send with every chunk, is none: a cut stream is still cut."""
    outcome = decode(events(chunk({"content": "<thi"}, ""), chunk({"content": "nk>r"}, "")))
    assert outcome.failed == ("StreamInterruptedError", "the answer stopped before its end")
    assert decode(events(chunk({"content": "<thi"}, ""), chunk({"content": "nk>r"}, "stop"), DONE)).said[0] == "r"


def test_newlines_before_the_reasoning_are_dropped() -> None:
    """Newlines before a reasoning field are the template's, as they are before an inline block."""
    for first in ({"content": "\n\n"}, {"content": "\n"}):
        assert decode(stream(first, {"reasoning": "\nr\n"}, {"content": "\n\na"})).said == ("r", "a", [], "stop")
        assert decode(stream(first, {"content": "<think>\nr\n</think>\n\na"})).said == ("r", "a", [], "stop")


def test_a_torn_tag_within_inline_reasoning_comes_out_when_a_reasoning_field_follows() -> None:
    """Reasoning that might have become a closing tag is reasoning after all when more comes in a field."""
    assert decode(stream({"content": "<think>r</"}, {"reasoning": "s"}, {"content": "a"})).said == (
        "r</s",
        "a",
        [],
        "stop",
    )
