"""What a server's error message repeats of the request is hidden in the exception's text, however it is written."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tir_qwen import APIStatusError, ContextOverflowError
from tir_qwen._response.echo import hide_echo
from tir_qwen._response.server_errors import MAX_TEXT, error_from_frame, error_from_response, server_text

PROMPT = 'Why did the "Zürich" branch\nlose 12 million,\tand who knows?'


def request(*contents: Any, **fields: Any) -> bytes:
    """Return the content of a request with these messages."""
    messages = [content if isinstance(content, dict) else {"role": "user", "content": content} for content in contents]
    return json.dumps({"model": "qwen3_32b", "messages": messages, "stream": False, **fields}).encode()


def hidden(text: str, *contents: Any, **fields: Any) -> str:
    """Return what remains of a server's text after a request with these messages."""
    return hide_echo(" ".join(text.split()), request(*contents, **fields), MAX_TEXT)


WRITINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in JSON": lambda text: json.dumps(text)[1:-1],
    "in JSON, not only ASCII": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "in JSON within JSON": lambda text: json.dumps(json.dumps(text))[3:-3],
    "in Python": lambda text: repr(text)[1:-1],
    "in Python, ASCII": lambda text: ascii(text)[1:-1],
    "in HTML": html.escape,
    "in other white space": lambda text: "\n  ".join(text.split()),
}
ends = pytest.mark.parametrize(
    "part", [slice(None), slice(30), slice(30, None), slice(5, -5)], ids=["whole", "beginning", "end", "middle"]
)


@pytest.mark.parametrize("writing", WRITINGS)
@ends
def test_a_repeated_prompt_is_hidden(writing: str, part: slice) -> None:
    """A prompt, or a part of it, is replaced with an ellipsis in every way in which servers quote it."""
    said = WRITINGS[writing](PROMPT[part])
    assert hidden(f"Invalid input: {said}; allowed is text.", PROMPT) == "Invalid input: …; allowed is text."


@pytest.mark.parametrize(
    ("contents", "fields", "text", "rest"),
    [
        ([[{"type": "text", "text": PROMPT}]], {}, PROMPT, "…"),
        ([{"role": "tool", "tool_call_id": "x", "content": PROMPT}], {}, PROMPT, "…"),
        (
            [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": json.dumps({"q": PROMPT})}}],
                }
            ],
            {},
            f"bad arguments {json.dumps({'q': PROMPT})}",
            "bad arguments …",
        ),
        (["Hi"], {"tools": [{"function": {"description": PROMPT}}]}, f"tools: {PROMPT}", "tools: …"),
        (["Hi"], {"response_format": {"json_schema": {"description": PROMPT}}}, f"schema: {PROMPT}", "schema: …"),
        (["今日の東京の天気はどうですか"], {}, "入力「今日の東京の天気は」です", "入力「…」です"),
        (["hello you"], {}, "no answer to hello you here", "no answer to … here"),
        (["hello you"], {}, "no answer to othello youth", "no answer to othello youth"),
        (["hello"], {}, "hello is 'hello' or \"hello\" or `hello`", "hello is '…' or \"…\" or `…`"),
        ([PROMPT, "And then what happened?"], {}, f"[{PROMPT!r}, 'And then what happened?']", "['…']"),
    ],
)
def test_all_that_was_sent_is_hidden(contents: Any, fields: dict[str, Any], text: str, rest: str) -> None:
    """Messages, tool calls, tools and schemas are hidden; short messages are if repeated as a whole."""
    assert hidden(text, *contents, **fields) == rest


KEPT = [
    "This model's maximum context length is 32768 tokens. However, you requested 40000 tokens in the messages.",
    "The model `qwen3_32b` does not exist.",
    "['body', 'messages', 0, 'content']: Input should be a valid string",
    "Extra inputs are not permitted: chat_template_kwargs",
    "max_tokens=40000 cannot be greater than max_model_len=32768.",
]


@pytest.mark.parametrize("text", KEPT)
def test_the_servers_own_words_are_kept(text: str) -> None:
    """Limits, field names and model names are kept: that they occur in a request's structure does not hide them."""
    said = {"chat_template_kwargs": {"enable_thinking": True}, "max_tokens": 40000}
    assert hidden(text, PROMPT, "How long is a message?", **said) == text


def test_a_prompt_at_the_truncation_leaves_no_fragment() -> None:
    """A prompt that is cut off where a long message is truncated is hidden too."""
    prompt = "the secret plan of the northern branch " * 100
    for length in range(MAX_TEXT - 60, MAX_TEXT + 20):
        text = "x" * length + " " + prompt
        assert "secret plan" not in hidden(text, prompt)
        assert len(hidden(text, prompt)) <= MAX_TEXT
        assert "plan" not in hidden(f"{prompt} {'y' * length} {prompt}", prompt)


words = st.text(st.characters(categories=["L", "N"], max_codepoint=0x24F), min_size=1, max_size=12)
prompts = st.lists(words, min_size=8, max_size=40).map(" ".join).filter(lambda prompt: len(prompt) >= 50)
sentences = st.lists(
    st.sampled_from(
        ["invalid", "tokens", "limit", "field", "`max_tokens`", "32768", '"type"', "['body',", "error:", "{};"]
    ),
    max_size=30,
).map(" ".join)


@given(prompts, sentences, sentences, st.sampled_from(sorted(WRITINGS)), st.sampled_from(["all", "first", "last"]))
def test_no_fragment_of_a_prompt_remains(prompt: str, before: str, after: str, writing: str, which: str) -> None:
    """Of a prompt, or of half of it, within any sentence, in any writing, no meaningful fragment remains."""
    middle = len(prompt) // 2
    part = {"all": prompt, "first": prompt[:middle], "last": prompt[middle:]}[which]
    rest = hidden(f"{before} {WRITINGS[writing](part)} {after}", prompt)
    assert not [start for start in range(len(part) - 19) if part[start : start + 20] in rest]
    assert "…" in rest


@given(prompts, sentences)
def test_sentences_without_a_prompt_are_unchanged(prompt: str, sentence: str) -> None:
    """A sentence that repeats no part of the prompt is unchanged."""
    assert hidden(sentence, prompt.upper().replace("E", "Ω")) == " ".join(sentence.split())[:MAX_TEXT]


@given(st.text(), st.text())
def test_any_text_can_be_searched(text: str, prompt: str) -> None:
    """No text and no prompt makes the search fail, and the text never grows."""
    content = request(prompt.encode("utf-8", "replace").decode())
    assert len(hide_echo(text, content, MAX_TEXT)) <= min(len(text), MAX_TEXT)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("word of many " * 80_000, "This model's maximum context length is 32768 tokens. " * 20),
        ("a" * 1_000_000, ("a" * 50 + "b") * 20),
        ("ab" * 500_000, "ab" * 400 + "c"),
        ("\\" * 1_000_000, "\\" * 1000),
        ("\\ud83d" * 160_000, "\\ud83d" * 150),
        ("&amp;" * 200_000, "&amp" * 200),
        ("\n\u200b" * 500_000, "\n\u200b" * 500),
    ],
    ids=["words", "letters", "pairs", "backslashes", "surrogates", "entities", "unprintable"],
)
def test_a_long_prompt_is_searched_in_little_time(prompt: str, text: str) -> None:
    """A prompt of a megabyte is searched in linear time, even if it was made to take long."""
    content = request(prompt)
    began = process_time()
    hide_echo(text, content, MAX_TEXT)
    assert process_time() - began < 5  # it takes tenths


def test_the_body_keeps_what_the_message_hides() -> None:
    """The message, arguments and repr of an error have no part of the prompt; its `body` has the server's words."""
    body = {"error": {"message": f"cannot read {PROMPT}", "code": 400}}
    said = f"cannot read {' '.join(PROMPT.split())}"
    for error in (
        error_from_response(400, {}, json.dumps(body).encode(), (), request(PROMPT)),
        error_from_frame(body, (), request(PROMPT)),
    ):
        assert str(error).endswith(": cannot read …")
        assert error.args == (str(error),)
        assert "Zürich" not in repr(error)
        assert error.body == {"message": said, "code": 400}


def test_conclusions_are_drawn_from_the_servers_own_words() -> None:
    """A context overflow is recognized even if the prompt contains the same sentence."""
    text = "This model's maximum context length is 32768 tokens."
    error = error_from_response(400, {}, json.dumps({"message": text}).encode(), (), request(f"Explain: {text}"))
    assert isinstance(error, ContextOverflowError)
    assert (str(error), server_text(error)) == ("400 Bad Request: …", text)


@pytest.mark.parametrize(
    ("body", "text"),
    [({"message": "no"}, "no"), ({}, ""), ("no", "no"), (None, "")],
    ids=["object", "empty", "text", "none"],
)
def test_the_servers_text_of_any_error(body: Any, text: str) -> None:
    """The server's text is found in every kind of body."""
    assert server_text(APIStatusError("x", body=body)) == text


def test_only_the_hidden_part_changes() -> None:
    """What is around a repeated prompt stays as it was, backslashes and all."""
    text = r"a\nb \"" + PROMPT.replace("\n", " ").replace("\t", " ") + r"\" c\d"
    assert re.fullmatch(r'a\\nb \\"…\\" c\\d', hide_echo(text, request(PROMPT), MAX_TEXT))


@pytest.mark.parametrize(
    ("prompt", "text", "rest"),
    [
        pytest.param("say an old red cat sat on it", "no: an old red cat!", "no: …!", id="four words"),
        pytest.param("say an old red cat sat on it", "no: old red cat!", "no: old red cat!", id="three words"),
        pytest.param("say ab cd ef gh now", "no: ab cd ef gh", "no: …", id="eight letters at the end"),
        pytest.param("say a bc de fg now", "no: a bc de fg!", "no: a bc de fg!", id="seven letters"),
        pytest.param("an\nold\nred\ncat sat", r"no: an\nold\nred\ncat!", "no: …!", id="words in lines"),
        pytest.param('It\'s an "old" plan', "no: Its an old plan!", "no: …!", id="without its quotation marks"),
        pytest.param("say an old red cat", "no: Xsay an old red cat!", "no: X…!", id="within a word"),
        pytest.param("an old red cat, an old red cat", "no: an old red cat!", "no: …!", id="said twice"),
        pytest.param("x", 'no "x"', 'no "x"', id="a single character"),
        pytest.param("hi", 'hi" is wrong', 'hi" is wrong', id="quoted only behind"),
        pytest.param("hi", 'wrong is "hi', 'wrong is "hi', id="quoted only before"),
        pytest.param(f"no{' ' * 25}way", "no: 'no way'!", "no: '…'!", id="long only by its white space"),
        pytest.param("😀😀", r'no: "\ud83d\ude00\ud83d\ude00"', 'no: "…"', id="halves of characters"),
    ],
)
def test_a_short_repetition_is_hidden_if_it_has_enough_words(prompt: str, text: str, rest: str) -> None:
    """A short part of a prompt is hidden if it has four words, and a short prompt if it is quoted."""
    assert hidden(text, prompt) == rest


def test_repetitions_that_overlap_are_hidden_as_one() -> None:
    """Where the end of one message is the beginning of another, both are hidden."""
    text = "no: alpha bravo charlie delta echo foxtrot!"
    assert hidden(text, "alpha bravo charlie delta", "charlie delta echo foxtrot") == "no: …!"


def test_what_is_cut_off_after_a_repetition_is_hidden() -> None:
    """The end of the searched text is hidden if anything is: it may begin another repetition, too short to tell."""
    prompt = "the secret plan of the northern branch " * 40
    text = f"{prompt[: 2 * MAX_TEXT - 8]} my code is 4711 since Monday"
    assert hidden(text, prompt, "my code is 4711 since Monday") == "…"


def test_the_end_of_a_long_message_is_kept_up_to_the_limit() -> None:
    """A long message is truncated at the limit, and what was not repeated before it is kept."""
    assert hidden(f"{PROMPT} {'z' * 2 * MAX_TEXT}", PROMPT) == f"… {'z' * (MAX_TEXT - 2)}"
    long = "the secret plan of the northern branch " * 10
    assert hidden(f"{long}{'z' * MAX_TEXT}"[: MAX_TEXT + 100], long) == f"… {'z' * (MAX_TEXT + 100 - len(long))}"
