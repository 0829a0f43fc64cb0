"""Exchanges are recorded without secrets, stored byte for byte, and played to requests with the same body."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from langchain_tir_qwen import ChatTIRQwen
from tests.support.server import END, STREAM_HEAD, Loopback, chunk, completion, response, stream
from tir_qwen import APIStatusError, AuthenticationError, Client, ConfigurationError
from tir_qwen.testing import FakeEndpoint, Recording, Request, play, record
from tir_qwen.testing._folding import BETWEEN, HERE, fold, unfold
from tir_qwen.testing._recordings import response_of

HELLO = [{"role": "user", "content": "Hello"}]
LIVE = {
    "access_token": "canary-token",
    "project_id": 77771,
    "apikey": "canary-key",
    "headers": {"x-team": "canary-header"},
}


def live(request: Request) -> list[bytes]:
    """Answer like a live endpoint."""
    if request.headers["authorization"] != "Bearer canary-token":
        return [response({"error": "Unauthorized"}, "401 Unauthorized", retry_after="7")]
    return [stream("Hi", " there") if request.json()["stream"] else completion("Hi!")]


def test_a_recording_is_played_without_the_endpoint(tmp_path: Path) -> None:
    """Requests are forwarded with the live credentials, stored without them, and get the same answers when played."""

    def ask(endpoint: FakeEndpoint) -> list[str]:
        with Client(**endpoint.settings) as client, Client(**endpoint.settings | {"access_token": "x"}) as other:
            answers = [client.complete(HELLO).content, "".join(delta.content for delta in client.stream(HELLO, seed=4))]
            with pytest.raises(AuthenticationError):
                other.complete(HELLO)
        return answers

    path = tmp_path / "hello.json"
    with Loopback(live) as server:
        with record(path, source="a test", base_url=server.url, **LIVE) as endpoint:
            asked = ask(endpoint)
        sent = server.requests

    recording = Recording.load(path)
    assert asked == ["Hi!", "Hi there"]
    assert {request.target for request in sent} == {
        "/project/p-77771/genai/qwen3_32b/v1/chat/completions?project_id=77771&apikey=canary-key"
    }
    assert [request.headers["authorization"] for request in sent][:2] == ["Bearer canary-token"] * 2
    assert sent[0].headers["x-team"] == "canary-header"
    assert recording.source == "a test"
    usage = {"stream_options": {"include_usage": True}}
    assert [(kept["request"], kept.get("wrong_token"), kept["status"]) for kept in recording.exchanges] == [
        ({"model": "qwen3_32b", "messages": HELLO, "stream": False}, None, 200),
        ({"model": "qwen3_32b", "messages": HELLO, "stream": True, "seed": 4, **usage}, None, 200),
        ({"model": "qwen3_32b", "messages": HELLO, "stream": False}, True, 401),
    ]
    assert recording.exchanges[2]["retry_after"] == "7"
    kept = path.read_text()
    assert [word for word in ("canary", "77771", "127.0.0.1", "wrong-token") if word in kept] == []
    with play(path) as endpoint:
        assert ask(endpoint) == asked


def test_recording_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests take the proxy that the environment names; a redirection is recorded, and not followed."""
    path = tmp_path / "new" / "moved.json"
    moved = (
        b"HTTP/1.1 307 Moved\r\ncontent-type: text/plain\r\nlocation: http://b.invalid/\r\ncontent-length: 0\r\n\r\n"
    )
    with Loopback(lambda _: [moved]) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with (
            record(path, base_url="http://live.invalid", allow_http=True, **LIVE) as endpoint,
            Client(**endpoint.settings) as client,
            pytest.raises(APIStatusError, match=r"^307 "),
        ):
            client.complete(HELLO, max_retries=0)
    assert [request.target.partition("?")[0] for request in proxy.requests] == [
        "http://live.invalid/project/p-77771/genai/qwen3_32b/v1/chat/completions"
    ]
    assert [kept["status"] for kept in Recording.load(path).exchanges] == [307]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_secrets_that_are_repeated(tmp_path: Path, streamed: bool) -> None:
    """Secrets that a request or a response repeats are replaced; numbers stay, so that the JSON is valid."""
    text = "canary-token of p-77771, canary-key, canary-header at 127.0.0.1"
    choice = {"index": 0, "delta": {"content": text}, "message": {"content": text}, "finish_reason": "stop"}
    body = {"id": "x", "choices": [choice], "usage": {"completion_tokens": 77771}}
    frame = b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
    raw = STREAM_HEAD + chunk(frame) + chunk(b"data: [DONE]\n\n") + END if streamed else response(body)
    with (
        Loopback(lambda _: [raw]) as server,
        record(tmp_path / "kept.json", base_url=server.url, **LIVE) as endpoint,
        Client(**endpoint.settings) as client,
    ):
        messages = [{"role": "user", "content": "I am canary-token."}]
        list(client.stream(messages)) if streamed else client.complete(messages)
    kept = (tmp_path / "kept.json").read_text()
    assert [word for word in ("canary", "p-77771", "127.0.0.1") if word in kept] == []
    assert "*** of ***, ***, *** at ***" in kept
    assert "I am ***." in kept
    with play(tmp_path / "kept.json") as endpoint, Client(**endpoint.settings) as client:
        deltas = list(client.stream([{"role": "user", "content": "I am ***."}])) if streamed else []
        whole = None if streamed else client.complete([{"role": "user", "content": "I am ***."}])
    usage = whole.usage if whole else deltas[-1].usage
    assert usage == {"completion_tokens": 77771}


def test_a_secret_in_pieces(tmp_path: Path) -> None:
    """A secret that is spread over the events of a stream is an error, and nothing is stored."""
    with (
        Loopback(lambda _: [stream("I am canary", "-token.")]) as server,
        pytest.raises(AssertionError, match=r"ValueError: A secret is spread over several events of a stream"),
        record(tmp_path / "kept.json", base_url=server.url, **LIVE) as endpoint,
        Client(**endpoint.settings) as client,
        pytest.raises(APIStatusError, match="410 Gone: Request 1 got no answer: ValueError: A secret is spread over"),
    ):
        list(client.stream(HELLO))
    assert not (tmp_path / "kept.json").exists()


def test_recording_without_settings(tmp_path: Path) -> None:
    """Without the settings of a live endpoint, recording fails at once and says what is missing."""
    with pytest.raises(ConfigurationError, match="project_id and access_token are missing"), record(tmp_path / "x"):
        pass


def asked(content: str, **fields: Any) -> dict[str, Any]:
    """Return a request body."""
    return {"model": "qwen3_32b", "messages": [{"role": "user", "content": content}], "stream": False, **fields}


def exchange(request: dict[str, Any], content: str) -> dict[str, Any]:
    """Return a recorded exchange."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    answer = {"id": "x", "choices": [choice], "usage": {"completion_tokens": 20}}
    return {"request": request, "status": 200, "content_type": "application/json", "json": answer}


@pytest.fixture
def dice(tmp_path: Path) -> Path:
    """Return a recording of three throws, and something else."""
    exchanges = [exchange(asked("Throw a die."), throw) for throw in "426"]
    Recording("a die", [*exchanges, exchange(asked("Something else, and longer."), "…")]).save(tmp_path / "dice.json")
    return tmp_path / "dice.json"


def test_equal_requests(dice: Path) -> None:
    """Equal requests get the recorded answers in order, and then the last one again."""
    with play(dice) as endpoint, Client(**endpoint.settings) as client:
        throws = [client.complete(asked("Throw a die.")["messages"]).content for _ in range(5)]
    assert throws == [*"42666"]


CHANGES = {
    "text": ("Throw a dice.", {}, {}, 'messages[0].content: "Throw a die."', 'messages[0].content: "Throw a dice."'),
    "parameter": ("Throw a die.", {"seed": 4}, {}, "", "seed: 4"),
    "token": ("Throw a die.", {}, {"access_token": "other"}, "(wrong token): false", "(wrong token): true"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_that_is_not_recorded(change: str, dice: Path) -> None:
    """It fails with the fields that differ from the nearest one; at the end, their values are shown."""
    content, params, settings, old, new = CHANGES[change]
    with (
        pytest.raises(AssertionError) as shown,
        play(dice) as endpoint,
        Client(**endpoint.settings | settings) as client,
        pytest.raises(APIStatusError) as caught,
    ):
        client.complete(asked(content)["messages"], **params)
    said = "410 Gone: Request 1 got no answer: LookupError: it is not recorded. The nearest of 2 differs in "
    assert str(caught.value).startswith(f"{said}{new.partition(': ')[0]}.")
    lines = [line for line in (old and f"- {old}", f"+ {new}") if line]
    assert str(shown.value).splitlines()[1:] == lines


def test_the_differences_are_a_note_of_what_fails(dice: Path) -> None:
    """If a test fails because of a request that is not recorded, the differences are a note of its exception."""
    with pytest.raises(APIStatusError) as caught, play(dice) as endpoint:
        ChatTIRQwen(**endpoint.settings).invoke("Throw a dice.")
    (note,) = caught.value.__notes__
    assert note.endswith('- messages[0].content: "Throw a die."\n+ messages[0].content: "Throw a dice."')
    with pytest.raises(ZeroDivisionError) as other, play(dice):
        _ = 1 / 0
    assert not hasattr(other.value, "__notes__")


def test_the_nearest_has_similar_text(tmp_path: Path) -> None:
    """Where as many fields differ from each recorded request, the nearest is the one whose text is the most alike."""
    asked = [{"messages": [{"role": "user", "content": text}]} for text in ("x" * 100, "Capital of France?", "Hi")]
    Recording(exchanges=[{"request": request} for request in asked]).save(tmp_path / "asked.json")
    body = json.dumps({"messages": [{"role": "user", "content": "Capital of Spain?"}]}).encode()
    said = r'- messages\[0\]\.content: "Capital of France\?"'
    with pytest.raises(AssertionError, match=said), play(tmp_path / "asked.json") as endpoint:
        endpoint._response(Request("POST", "/v1/chat/completions", {}, body))


def test_an_empty_recording(tmp_path: Path) -> None:
    """Of an empty recording no request is near."""
    Recording().save(tmp_path / "empty.json")
    with (
        pytest.raises(APIStatusError, match="LookupError: the recording is empty"),
        play(tmp_path / "empty.json") as end,
    ):
        ChatTIRQwen(**end.settings).invoke("Hello")


def parts_of(kept: dict[str, Any]) -> list[bytes]:
    """Return what is written to the socket for an exchange."""
    return [*response_of(kept)._parts(lambda _: None)]


@pytest.mark.parametrize(
    "body",
    ["", "<html>", '{"a": 1}', "[]", 'data: {"delta":{"content":"a"}}\n\ndata: [DONE]'],
    ids=["empty", "page", "other JSON", "no object", "no end"],
)
def test_unexpected_body(body: str) -> None:
    """A body that the compact form could not reproduce byte for byte is stored as it is."""
    kept = fold(body)
    assert kept == {"text": body}
    page = {"request": {}, "status": 502, "content_type": "text/html", **kept}
    assert parts_of(page)[0].partition(b"\r\n\r\n")[2] == body.encode()


TEXTS = ["", "a", "é", "न", "👩", "\n", '"', "\\", "</think>", BETWEEN, HERE, "word " * 30]


def test_every_text_is_kept() -> None:
    """The events of a stream are kept byte for byte, whatever text they contain."""
    events = [f'data: {{"delta":{{"content":{json.dumps(text, ensure_ascii=False)}}}}}\n\n' for text in TEXTS * 2]
    events.append(f'data: {{"id":"{HERE}","delta":{{"content":"a"}}}}\n\n')
    body = "".join(events) + "data: [DONE]\n\n"
    assert "".join(f"{event}\n\n" for event, _ in unfold(fold(body)["events"])) == body


def test_pace(dice: Path) -> None:
    """Text arrives at the given pace, other events at once, and a whole answer after the time of its tokens."""
    events = ['data: {"delta":{"role":"assistant"}}', *(f'data: {{"delta":{{"content":"{text}"}}}}' for text in "ab")]
    streamed = {"status": 200, "content_type": "text/event-stream", **fold("\n\n".join([*events, "data: [DONE]", ""]))}
    waits: list[float] = []
    with play(dice, tokens_per_second=40) as endpoint:
        for kept in (streamed, exchange({}, "Hello!"), {**exchange({}, ""), "json": {"error": "Unauthorized"}}):
            list(endpoint._written(response_of(kept), {}, 1)._parts(waits.append))
    assert waits == [0.025, 0.05, 0.5]


def test_a_refusal() -> None:
    """An error is played with its `Retry-After`, so that retries look as they were."""
    limit = {**exchange({}, ""), "status": 429, "json": {"error": "Too many"}, "retry_after": "0"}
    assert parts_of(limit) == [
        b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: 0\r\n"
        b'content-length: 20\r\n\r\n{"error":"Too many"}'
    ]
