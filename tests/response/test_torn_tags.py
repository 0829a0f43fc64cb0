"""Repairing streams of vLLM 0.9 with stop strings, whose parser leaves fragments of think tags."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.captures import CAPTURES
from tests.support.decode import DONE, FIXED, bytewise, chunk, decode, events, native, pieces_of, stream, whole
from tir_qwen._response.choice import DecodingOptions
from tir_qwen._response.response import ResponseDecoder

OPEN, CLOSE = "<think>", "</think>"
WORDS = ["Well, ", "a", "b ", " > ", ">", "k>", "think", "/think>", "hi", "\n", "\n\n", "> ", "< ", "thin", "é", "391"]
THINKING = st.lists(st.sampled_from(WORDS), max_size=8).map(
    lambda words: ["\n", "So ", *words, ".", "\n"] if words else ["\n\n"]
)
ANSWER = st.lists(st.sampled_from(WORDS), max_size=8).map(lambda words: ["\n\n", *words])


SAID = {
    "What is 17 times 23?": ("\n17 * 20 = 340 and 17 * 3 = 51, so it is 391.\n", "\n\n17 \u00d7 23 = **391**"),
    "Give me a quotation.": ("\nOne line will do.\n", "\n\n> Less is more."),
}
"""The reasoning and the answer in the recordings."""


class Server:
    """A model of vLLM 0.9.2: its detokenizer and Qwen3 reasoning parser, with one token per delta."""

    def __init__(self, thinking: list[str], answer: list[str], *stops: str) -> None:
        self.tokens = [OPEN, *thinking, CLOSE, *answer, ""]
        self.lag = max(map(len, stops)) - 1
        self.deltas: list[dict[str, str]] = []
        self.text = ""
        told, seen = 0, 0
        for at, token in enumerate(self.tokens):
            self.text += token
            found = [self.text.find(stop, max(0, seen + 1 - len(stop))) for stop in stops] if token else []
            stopped = min((place for place in found if place >= 0), default=None)
            seen = len(self.text)
            self.text = self.text[:stopped]
            ended = stopped is not None or at + 1 == len(self.tokens)
            until = max(told, len(self.text) - (0 if ended else self.lag))
            piece, told = self.text[told:until], until
            if token not in (OPEN, CLOSE):
                self.deltas.append({"content" if CLOSE in self.tokens[:at] else "reasoning_content": piece})
            if ended:
                break
        self.read = self.tokens[: at + 1]

    @property
    def says(self) -> tuple[str, str]:
        """The reasoning and the answer, without the characters that this server version loses."""
        reasoning, closed, answer = self.text.removeprefix(OPEN).partition(CLOSE)
        end = len(OPEN) + len(reasoning)
        lost = [max(0, place - self.lag - len(OPEN)) for place in (end, end + len(CLOSE))] if closed else [0, 0]
        return (reasoning[: lost[0]] + reasoning[lost[1] :]).strip("\n"), answer.lstrip("\n")


TORN = {
    one.name: one for one in CAPTURES if one.name.startswith("stream_stop_of_") and "tools" not in (one.request or {})
}


@pytest.mark.parametrize("name", TORN)
def test_the_model_of_the_server_matches_the_recordings(name: str) -> None:
    """The modelled server produces the same fields as the recorded streams."""
    asked = TORN[name].request or {}
    question = asked["messages"][0]["content"]
    thinking, answer = SAID[question.removesuffix(" /no_think")]
    if question.endswith("/no_think"):
        thinking = "\n\n"
    if "chat_template_kwargs" in asked:  # thinking is off: the model writes no tags
        deltas = [{"content": answer.lstrip()}]
    else:
        deltas = Server([*thinking], [*answer], *asked["stop"]).deltas
    frames = [line[6:] for line in TORN[name].body.decode().split("\n") if line.startswith("data: {")]
    captured = [choice["delta"] for frame in frames for choice in json.loads(frame)["choices"]]
    for field in ("reasoning_content", "content"):
        assert "".join(one.get(field, "") for one in deltas) == "".join(one.get(field, "") for one in captured)


def read(deltas: list[dict[str, Any]], lag: int) -> tuple[str, str]:
    """Return the reasoning and the answer of a stream."""
    outcome = decode(stream(*deltas), expected=DecodingOptions(stop_lag=lag))
    assert outcome.error is None
    return outcome.said[:2]


@FIXED
@given(THINKING, ANSWER, st.integers(2, 40))
def test_the_answer_is_complete_for_any_stop_string(thinking: list[str], answer: list[str], length: int) -> None:
    """A stop string that does not occur only costs some reasoning, which the server itself loses."""
    server = Server(thinking, answer, "¤" * length)
    assert read(server.deltas, server.lag) == server.says
    assert server.says[1] == "".join(answer).lstrip("\n")
    if server.lag == 1:
        assert server.says[0] == "".join(thinking).strip("\n")


@FIXED
@given(THINKING, ANSWER, st.data())
def test_the_answer_ends_at_the_stop_string(thinking: list[str], answer: list[str], data: st.DataObject) -> None:
    """A stop string ends the reasoning or the answer, and no tag fragment is left in either."""
    text = "".join(data.draw(st.sampled_from([thinking, answer])))
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.sampled_from([text[start:end] for end in range(start + 2, len(text) + 1)] or ["¤¤"]))
    server = Server(thinking, answer, stop, "¤" * data.draw(st.integers(2, 20)))
    assume(all(tag in server.text for tag in (OPEN, CLOSE) if tag in server.read))  # it was not found in a tag
    assert read(server.deltas, server.lag) == server.says


@FIXED
@given(THINKING, ANSWER, st.integers(2, 20), st.lists(st.integers(0, 40), max_size=8))
def test_a_stream_is_read_the_same_wherever_it_is_cut(
    thinking: list[str], answer: list[str], length: int, cuts: list[int]
) -> None:
    """The result does not depend on how a gateway or the network cuts the stream."""
    server = Server(thinking, answer, "¤" * length)
    again = [
        {name: piece} for delta in server.deltas for name, text in delta.items() for piece in pieces_of(text, cuts)
    ]
    assert read(again, server.lag) == server.says
    body = stream(*server.deltas)
    assert decode(*bytewise(body), expected=DecodingOptions(stop_lag=server.lag)).said[:2] == server.says


@pytest.mark.parametrize("thinking", [["\n\n"], ["\n", "Hm.", "\n"], ["\n", "So ", "I ", "count.", "\n"]], ids=len)
def test_a_broken_stream_contains_no_tag_fragment(thinking: list[str]) -> None:
    """The partial answer of a broken stream is a prefix of the full answer."""
    for length in range(2, len(OPEN + "".join(thinking) + CLOSE) + 1):  # a longer one tears no tags
        server = Server(thinking, [*"\n\n> Less is more."], "¤" * length)
        reasoning, content = server.says
        chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in server.deltas]
        for number in range(1, len(chunks)):
            outcome = decode(events(*chunks[:number]), expected=DecodingOptions(stop_lag=server.lag))
            assert outcome.failed == ("StreamInterruptedError", "the answer stopped before its end")
            assert reasoning.startswith(outcome.said[0]), (length, number)
            assert content.startswith(outcome.said[1]), (length, number)


def say(reasoning: str | None, content: str) -> list[dict[str, str]]:
    """Return a stream of these texts, character by character."""
    reasoned = [{"reasoning_content": letter} for letter in reasoning] if reasoning else []
    blank = [{"reasoning_content": ""}] if reasoning == "" else []
    return [*blank, *reasoned, *({"content": letter} for letter in content)]


@pytest.mark.parametrize(
    ("lag", "reasoning", "content"),
    [
        pytest.param(1, "Hm.", "> Less is more.", id="a quotation"),
        pytest.param(1, "> Hm.", "> Less is more.", id="quotations in both"),
        pytest.param(1, None, ">\n\nLess is more.", id="a quotation without reasoning"),
        pytest.param(1, None, ">", id="one sign"),
        pytest.param(2, "Hm.", "k>", id="the end of a tag as an answer"),
        pytest.param(7, "Hm.", "/think> ends it.", id="a tag in prose"),
        pytest.param(8, "Hm.", "</think> ends it.", id="a whole tag in prose"),
        pytest.param(10, "Hm.", "A </think> ends it.", id="a tag within prose"),
        pytest.param(3, "think first", "nk>", id="words that begin like a tag"),
        pytest.param(5, "hi", "> a", id="reasoning as short as a piece"),
        pytest.param(5, "hi", "", id="reasoning alone"),
        pytest.param(11, "", "> Less is more.", id="a blank piece of reasoning"),
        pytest.param(11, "", "> Less", id="a blank piece, and a short answer"),
        pytest.param(0, ">\nHm.", ">\n\nLess is more.", id="no stop string"),
    ],
)
def test_text_that_looks_like_a_tag_fragment_is_kept(lag: int, reasoning: str | None, content: str) -> None:
    """Text that only looks like a tag fragment is kept, in streams and complete responses."""
    assert read(say(reasoning, content), lag) == (reasoning or "", content)
    message = {"reasoning_content": reasoning, "content": content}
    assert decode(whole(message), expected=DecodingOptions(stop_lag=lag)).said[:2] == (reasoning or "", content)


def test_a_complete_response_is_not_repaired() -> None:
    """Complete responses have no such fragments, so nothing is removed."""
    message = {"reasoning_content": ">\nHm.", "content": ">\n\nLess is more."}
    assert decode(whole(message), expected=DecodingOptions(stop_lag=1)).said[:2] == (">\nHm.", ">\n\nLess is more.")


def test_only_the_position_of_a_tag_is_repaired() -> None:
    """An answer that does not start with a tag fragment is left unchanged."""
    assert read(say(">\nHm.", "\n\n> Less is more."), 1) == ("Hm.", "> Less is more.")
    assert read(say("<think>\nHm.", "\n\nA </think> ends it."), 13) == ("Hm.", "A </think> ends it.")


def test_inline_thinking_is_not_repaired() -> None:
    """A server without a reasoning parser leaves the tags intact."""
    assert read(say(None, "<think>\nHm.\n</think>\n\n> Less is more."), 1) == ("Hm.", "> Less is more.")


def test_each_choice_is_repaired() -> None:
    """With `n=2` each choice is repaired separately."""
    server = Server(["\n", "Hm.", "\n"], ["\n\n", "Yes."], "¤¤")
    chunks = [{"choices": [{"index": at, "delta": delta}]} for delta in server.deltas for at in (0, 1)]
    ends = [{"choices": [{"index": at, "delta": {}, "finish_reason": "stop"}]} for at in (0, 1)]
    choices = decode(events(*chunks, *ends, b"[DONE]"), expected=DecodingOptions(stop_lag=1)).completion.choices
    assert [(one.reasoning, one.content) for one in choices] == [("Hm.", "Yes.")] * 2


@pytest.mark.parametrize("held", ["y.", "y.\n</"], ids=["the end of the reasoning", "a piece of the tag as well"])
def test_text_held_back_is_classified_before_a_call(held: str) -> None:
    """Text held back is classified before a tool call, and the call itself is unchanged."""
    deltas = [*say("<think>\nHm", held), native('{"city": "Paris"}', first=0)]
    outcome = decode(stream(*deltas, finish_reason="tool_calls"), expected=DecodingOptions(tools=True, stop_lag=11))
    assert outcome.said == ("Hmy.", "", [("get_weather", '{"city": "Paris"}')], "tool_calls")


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "both"])
def test_reasoning_is_repaired_under_any_field_name(field: str) -> None:
    """Fragments are removed whichever name the reasoning field has."""
    names = ["reasoning", "reasoning_content"] if field == "both" else [field]
    for thinking, length in ((["\n", "Hm.", "\n"], 2), (["\n\n"], 12)):
        server = Server(thinking, ["\n\n", "Yes."], "¤" * length)
        texts = [next(iter(delta.items())) for delta in server.deltas]
        deltas = [dict.fromkeys(["content"] if name == "content" else names, text) for name, text in texts]
        assert read(deltas, server.lag) == ("".join(thinking).strip("\n"), "Yes.")


def test_text_held_back_counts_as_progress() -> None:
    """Text held back counts as progress, so no timeout mistakes it for silence."""
    decoder = ResponseDecoder(options=DecodingOptions(stop_lag=5))
    heard = []
    for delta in say("hi", "nk"):
        assert [one.content for one in decoder.feed(events({"choices": [{"index": 0, "delta": delta}]}))] == []
        heard.append(decoder.heard)
    assert heard == [1, 2, 3, 4]


@pytest.mark.parametrize(("lag", "counts"), [(0, [0, 1, 1, 2, 3]), (5, [0, 2, 2, 3, 4])])
def test_an_empty_delta_is_no_progress(lag: int, counts: list[int]) -> None:
    """A delta without text is no sign of life; text counts when it is held back and when it is passed on."""
    decoder = ResponseDecoder(options=DecodingOptions(tools=True, stop_lag=lag))
    heard = []
    for delta in ({"content": ""}, {"reasoning": "Hm."}, {}, {"content": "Da."}, native("{}", first=0)):
        list(decoder.feed(events({"choices": [{"index": 0, "delta": delta}]})))
        heard.append(decoder.heard)
    assert heard == counts


def test_text_held_back_is_passed_on_once_though_more_follows_its_end() -> None:
    """Neither a second finish reason nor a late call repeats the text that the first finish reason released."""
    call = native('{"city": "Paris"}', first=0)
    for more, calls in ((chunk({}, "length"), []), (chunk(call), [("get_weather", '{"city": "Paris"}')])):
        body = events(chunk({"reasoning": ""}), chunk({"content": "ab"}), chunk({}, "stop"), more, DONE)
        assert decode(body, expected=DecodingOptions(stop_lag=4)).said == ("", "ab", calls, "stop")


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_blank_reasoning_under_any_field_name_may_hide_a_tag(field: str) -> None:
    """After empty reasoning, the end of a tag at the start of the content is removed."""
    outcome = decode(stream({field: ""}, {"content": "ink>"}, {"content": "Da."}), expected=DecodingOptions(stop_lag=4))
    assert outcome.said == ("", "Da.", [], "stop")


def test_a_call_beside_text_held_back_is_whole() -> None:
    """A call in the same delta as text that may be the rest of a tag keeps all of its arguments."""
    both = {**native('{"city": "Paris"}', first=0), "content": "ab"}
    outcome = decode(
        stream({"reasoning": ""}, both, finish_reason="tool_calls"), expected=DecodingOptions(tools=True, stop_lag=4)
    )
    assert outcome.said == ("", "ab", [("get_weather", '{"city": "Paris"}')], "tool_calls")


def test_an_answer_without_reasoning_streams_immediately() -> None:
    """Without reasoning, nothing is held back."""
    outcome = decode(
        stream({"content": ""}, {"content": ">"}, {"content": " Yes"}), expected=DecodingOptions(stop_lag=11)
    )
    assert [delta.content for delta in outcome.deltas if delta.content] == [">", " Yes"]


def test_only_the_length_of_a_tag_is_held_back() -> None:
    """Only as much as a tag's length is held back, and all later text streams immediately."""
    server = Server(["\n", "Hm.", "\n"], ["\n\n", "Less ", "is ", "more."], "¤¤¤")
    outcome = decode(stream(*server.deltas), expected=DecodingOptions(stop_lag=server.lag))
    texts = [(delta.reasoning, delta.content) for delta in outcome.deltas if delta.reasoning or delta.content]
    assert texts == [("H", ""), ("m", ""), ("", "Les"), ("", "s i"), ("", "s mor"), ("", "e.")]
