"""`embed` of both clients: what is sent, in how many requests at once, and what comes back."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.support.embedding_server import MODEL, answer_for, embeds, vector_of
from tests.support.faults.callers import outcome_of
from tests.support.faults.outcomes import REUSED, Fault
from tests.support.faults.table_before_answer import TABLE
from tests.support.secrets import SERVERS, hunted, leaked, logged
from tests.support.secrets import SETTINGS as SECRETS
from tests.support.server import Async, Driver, HangUpError, Loopback, both_clients, record_waits, response
from tir_qwen import (
    APITimeoutError,
    AsyncClient,
    AuthenticationError,
    Client,
    ConfigurationError,
    ContextOverflowError,
    Embeddings,
    InternalServerError,
    MalformedChunkError,
    StreamInterruptedError,
    Timeout,
    TIRError,
)

TEXTS = [f"text number {number}" for number in range(100)]
VECTORS = [vector_of(text) for text in TEXTS]
TOO_LONG = {
    "message": "This model's maximum context length is 512 tokens. However, your prompt contains at least 513 input"
    " tokens, which exceeds this limit even without any output tokens.",
    "type": "BadRequestError",
    "code": 400,
}


def embed(driver: Driver, client: Any, texts: Any, **params: Any) -> Embeddings:
    """Call `embed` of either client."""
    result = client.embed(texts, **{"model": MODEL, **params})
    return asyncio.run(result) if isinstance(driver, Async) else result


def failure(driver: Driver, client: Any, texts: Any, **params: Any) -> TIRError:
    """Return the error that `embed` raises."""
    with pytest.raises(TIRError) as caught:
        embed(driver, client, texts, **params)
    return caught.value


@both_clients
def test_vectors_come_in_the_order_of_the_texts(driver: Driver) -> None:
    """Texts are divided into requests of 32; their vectors come in the order of the texts, and usage is summed."""
    with Loopback(embeds) as server:
        found = embed(driver, driver.make(base_url=server.base_url), TEXTS)
    assert found == Embeddings(VECTORS, {"prompt_tokens": 300, "total_tokens": 300}, MODEL)
    inputs = sorted(request.json()["input"] for request in server.requests)
    assert sorted(inputs) == sorted([TEXTS[:32], TEXTS[32:64], TEXTS[64:96], TEXTS[96:]])


@both_clients
def test_what_is_sent(driver: Driver) -> None:
    """A request holds the model, the texts and what the caller set, at the model's own address on TIR."""
    params = {
        "dimensions": 4,
        "truncate_prompt_tokens": -1,
        "extra_body": {"user": "u"},
        "timeout": 9,
        "max_retries": 0,
    }
    with Loopback(embeds) as server:
        embed(driver, driver.make(6530, "token", base_url=server.url), ["a", ""], **params)
        embed(driver, driver.make(base_url=f"{server.base_url}/embeddings"), ["a"], dimensions=None)
    first, second = server.requests
    assert first.target == f"/project/p-6530/genai/{MODEL}/v1/embeddings?project_id=6530"
    assert first.headers["authorization"] == "Bearer token"
    assert first.json() == {
        "model": MODEL,
        "input": ["a", " "],
        "encoding_format": "base64",
        "dimensions": 4,
        "truncate_prompt_tokens": -1,
        "user": "u",
    }
    assert second.target == "/v1/embeddings"
    assert second.json() == {"model": MODEL, "input": ["a"], "encoding_format": "base64"}


def test_repr_is_short() -> None:
    """The repr of a result has no vectors: there may be millions of numbers in them."""
    words = "<Embeddings: 2 vectors of 3 numbers, usage={'total_tokens': 2}, model='m'>"
    assert repr(Embeddings([[1.0, 2.0, 3.0]] * 2, {"total_tokens": 2}, "m")) == words
    assert repr(Embeddings()) == "<Embeddings: 0 vectors of 0 numbers, usage=None, model=None>"


@both_clients
def test_no_texts(driver: Driver) -> None:
    """Without texts there is no request."""
    assert embed(driver, driver.make(1, "token", base_url="http://127.0.0.1:9"), []) == Embeddings([], None, None)


@both_clients
@pytest.mark.parametrize(
    ("texts", "params", "words"),
    [
        ("text", {}, "texts must be a list of strings."),
        (["a", 1], {}, "texts[1] must be a string, not int."),
        ([[1, 2]], {}, "texts[0] must be a string, not list."),
        (
            [*TEXTS, "canary \ud800"],
            {},
            "texts[100] contains lone surrogates, which cannot be sent: text.encode(errors='replace').decode() replaces"
            " them.",
        ),
        (["a"], {"model": ""}, "model must be the name of a model, such as qwen3_32b."),
        (["a"], {"model": ["m"]}, "model must be the name of a model, such as qwen3_32b."),
        (
            ["a"],
            {"extra_body": {"embed_dtype": "float16"}},
            "embed_dtype cannot be set: vectors are read as little-endian 32-bit floats.",
        ),
        (
            ["a"],
            {"extra_body": {"endianness": "big"}},
            "endianness cannot be set: vectors are read as little-endian 32-bit floats.",
        ),
        (
            ["a"],
            {"extra_body": {"extra_headers": {}}},
            "extra_headers is not a field of the request body: pass default_headers to the constructor.",
        ),
        (["a"], {"dimensions": 0}, "dimensions must be 1 or more."),
        (["a"], {"batch_size": "3"}, "batch_size must be a whole number, not a string."),
        (["a"], {"max_concurrency": 0}, "max_concurrency must be 1 or more."),
        (["a"], {"dimension": 3}, "a call takes no argument 'dimension' (did you mean 'dimensions'?)."),
        (["a"], {"extra_body": {"user": "\ud800"}}, "the request cannot be written as JSON"),
    ],
)
def test_malformed_arguments(driver: Driver, texts: Any, params: dict[str, Any], words: str) -> None:
    """A malformed argument is named, without its value, and nothing is sent."""
    error = failure(driver, driver.make(1, "token", base_url="http://127.0.0.1:9"), texts, **params)
    assert (type(error), error.attempts) == (ConfigurationError, 0)
    assert str(error).startswith(words)


@both_clients
def test_requests_at_once(driver: Driver) -> None:
    """Exactly `max_concurrency` requests run at once while there are enough."""
    most, running, together = 0, 0, threading.Barrier(3)
    lock = threading.Lock()

    def answer(request: Any) -> list[bytes]:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        together.wait(5)
        with lock:
            running -= 1
        return embeds(request)

    with Loopback(answer) as server:
        found = embed(driver, driver.make(base_url=server.base_url), TEXTS[:90], batch_size=10, max_concurrency=3)
    assert (found.vectors, most, len(server.requests)) == (VECTORS[:90], 3, 9)


def test_threads_have_the_context_of_the_call() -> None:
    """Context variables, which tracing uses, are those of the caller in every request's thread."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []
    refused = [response({"error": "later"}, "503 Service Unavailable", retry_after="0.001")] * 4

    def answer(request: Any) -> list[bytes]:
        return [refused.pop()] if refused else embeds(request)

    variable.set("set")
    with Loopback(answer) as server:
        client = Client(base_url=server.base_url, adaptive_limit=False)
        client.embed(TEXTS, model=MODEL, on_retry=lambda *_: seen.append(variable.get()), max_retries=9)
    assert seen == ["set"] * 4


def killed(request: Any, asked: list[str]) -> Iterator[bytes]:
    """Answer, but hang up before, within, or in place of, the first answers to some requests."""
    first = request.json()["input"][0]
    asked.append(first)
    whole = response(answer_for(request.json()))
    match int(first.split()[1]) // 10 % 5, asked.count(first):
        case 1, 1 | 2:
            raise HangUpError
        case 3, 1:
            yield whole[: len(whole) // 2]
            raise HangUpError
        case _:
            yield whole


@both_clients
def test_killed_connections(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """If connections break, within answers too, each text still has its own vector, once."""
    record_waits(monkeypatch)
    texts = [f"text {number}" for number in range(1000)]
    asked: list[str] = []
    with Loopback(lambda request: killed(request, asked)) as server:
        client = driver.make(base_url=server.base_url)
        found = embed(driver, client, texts, batch_size=10)
    assert found.vectors == [vector_of(text) for text in texts]
    assert found.usage == {"prompt_tokens": 2000, "total_tokens": 2000}
    assert len(server.requests) == 160


@both_clients
def test_a_broken_answer_is_requested_again(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken answer is retried like a request, reported to `on_retry`, and in the end raised."""
    waits, told = record_waits(monkeypatch), []
    whole = response(answer_for({"input": ["a"], "model": MODEL}))

    def cut(_: Any) -> Iterator[bytes]:
        yield whole[:-9]
        raise HangUpError

    async def anote(error: TIRError, delay: float) -> None:
        told.append((type(error), delay))

    def note(error: TIRError, delay: float) -> None:
        told.append((type(error), delay))

    with Loopback(cut) as server:
        client = driver.make(base_url=server.base_url)
        error = failure(driver, client, ["a"], on_retry=anote if isinstance(driver, Async) else note)
    assert (type(error), error.attempts, error.partial) == (StreamInterruptedError, 3, None)
    assert told == [(StreamInterruptedError, 0.4375), (StreamInterruptedError, 0.875)]
    assert [wait for wait in waits if wait] == [0.4375, 0.875]
    assert len(server.requests) == 3


@both_clients
def test_the_first_failure_ends_all(driver: Driver) -> None:
    """If a request fails, those that have not begun are not sent."""
    refusal = response({"error": "no"}, "401 Unauthorized")
    with Loopback(lambda _: [refusal]) as server:
        error = failure(driver, driver.make(base_url=server.base_url), TEXTS, batch_size=1, max_concurrency=2)
    assert type(error) is AuthenticationError
    assert len(server.requests) <= 4


def test_a_cancelled_call_cancels_its_requests() -> None:
    """A cancelled task closes the connections of its requests."""
    began = threading.Semaphore(0)

    def stall(_: Any) -> Iterator[bytes]:
        began.release()
        yield b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"
        server.left_within(5)
        raise HangUpError

    async def main() -> None:
        async with AsyncClient(base_url=server.base_url) as client:
            task = asyncio.create_task(client.embed(TEXTS, model=MODEL, batch_size=25))
            for _ in range(4):
                await asyncio.to_thread(began.acquire, timeout=5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with Loopback(stall) as server:
        asyncio.run(main())
        assert server.noticed(4)


def accepts(count: int, length: int, refusal: bytes, request: Any) -> list[bytes]:
    """Refuse requests with too many texts, or with a text that is too long."""
    texts = request.json()["input"]
    return [refusal] if len(texts) > count or any(len(text) > length for text in texts) else embeds(request)


@both_clients
@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (response(TOO_LONG, "400 Bad Request"), ContextOverflowError),
        (response(b"<html><title>413 Request Entity Too Large", "413 Payload Too Large"), None),
    ],
    ids=["vLLM", "gateway"],
)
def test_a_text_that_is_too_long(driver: Driver, refusal: bytes, kind: type[TIRError] | None) -> None:
    """The error says which text is too long, and does not quote it."""
    texts = [*TEXTS[:41], "canary " * 99, *TEXTS[41:]]
    with Loopback(lambda request: accepts(99, 500, refusal, request)) as server:
        error = failure(driver, driver.make(base_url=server.base_url), texts)
    assert kind in (type(error), None)
    assert str(error).startswith(
        "texts[41] is too long, with 693 characters (shorten it, or have the server cut it with"
        " truncate_prompt_tokens=-1): 4"
    )
    assert "canary" not in str(error)
    assert len(server.requests) < 12


@both_clients
@pytest.mark.parametrize(
    "refusal",
    [
        response({"error": "batch size 32 > maximum allowed batch size 10"}, "422 Unprocessable Entity"),
        response({"error": {"message": "Too many inputs. The max number of inputs is 10."}}, "400 Bad Request"),
        response(b"", "413 Payload Too Large"),
    ],
    ids=["text-embeddings-inference", "azure", "gateway"],
)
def test_too_many_texts_for_the_server(driver: Driver, refusal: bytes) -> None:
    """A request with too many texts for the server is sent again in halves."""
    with Loopback(lambda request: accepts(10, 500, refusal, request)) as server:
        assert embed(driver, driver.make(base_url=server.base_url), TEXTS).vectors == VECTORS


REFUSED_TRUNCATION = (
    "truncate_prompt_tokens value is greater than max_model_len. Please request a smaller truncation size."
)


@both_clients
@pytest.mark.parametrize(
    ("refusal", "attempts"),
    [
        (response({"error": {"message": REFUSED_TRUNCATION}}, "400 Bad Request"), 1),
        (response({"error": {"message": "out of memory: batch size"}}, "500 Internal Server Error"), 3),
    ],
    ids=["truncation", "memory"],
)
def test_what_is_not_about_size(driver: Driver, monkeypatch: pytest.MonkeyPatch, refusal: bytes, attempts: int) -> None:
    """Other errors that mention sizes are raised as they are."""
    record_waits(monkeypatch)
    with Loopback(lambda _: [refusal]) as server:
        error = failure(driver, driver.make(base_url=server.base_url), TEXTS[:9])
    assert (error.attempts, len(server.requests)) == (attempts, attempts)
    assert "texts[" not in str(error)


@both_clients
def test_base64_is_given_up_where_it_is_refused(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """A server that refuses base64 is asked for numbers from then on."""

    def answer(request: Any) -> list[bytes]:
        if "encoding_format" in request.json():
            return [response({"error": {"message": "encoding_format base64 is not supported"}}, "400 Bad Request")]
        return embeds(request)

    with Loopback(answer) as server, caplog.at_level(logging.INFO, "tir_qwen"):
        client = driver.make(base_url=server.base_url)
        found = [embed(driver, client, ["a"]), embed(driver, client, ["b"])]
    assert [each.vectors for each in found] == [[vector_of("a")], [vector_of("b")]]
    assert ["encoding_format" in request.json() for request in server.requests] == [True, False, False]
    words = "The server does not accept vectors in base64: they come as lists of numbers from now on."
    assert [record.getMessage() for record in caplog.records] == [words]
    assert client._capabilities_of(MODEL).base64_vectors is False


@both_clients
def test_a_format_of_the_caller(driver: Driver) -> None:
    """An `encoding_format` in `extra_body` is sent as it is."""
    with Loopback(embeds) as server:
        client = driver.make(base_url=server.base_url)
        assert embed(driver, client, ["a"], extra_body={"encoding_format": "float"}).vectors == [vector_of("a")]
    assert server.requests[0].json()["encoding_format"] == "float"


@both_clients
def test_vectors_of_different_lengths(driver: Driver) -> None:
    """Vectors whose length differs between requests are an error."""
    with Loopback(lambda request: [response(answer_for(request.json(), len(request.json()["input"])))]) as server:
        error = failure(driver, driver.make(base_url=server.base_url), ["a", "b", "c"], batch_size=2)
    assert (type(error), str(error)) == (MalformedChunkError, "the vectors of different requests differ in length")


@both_clients
def test_refusals_of_a_busy_server(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that a busy server refuses are sent later, without using up retries while it accepts others."""
    record_waits(monkeypatch)
    numbers = iter(range(10**6))
    busy = response({"error": "busy"}, "429 Too Many Requests")
    with Loopback(lambda request: [busy] if next(numbers) % 3 else embeds(request)) as server:
        found = embed(driver, driver.make(base_url=server.base_url, max_retries=1), TEXTS, batch_size=5)
    assert found.vectors == VECTORS


@both_clients
def test_the_total_timeout_is_for_all_requests(driver: Driver) -> None:
    """`Timeout.total` limits all requests together."""

    def stall(request: Any) -> Iterator[bytes]:
        server.left_within(5)
        yield from embeds(request)

    with Loopback(stall) as server:
        client = driver.make(base_url=server.base_url, timeout=Timeout(total=0.2))
        error = failure(driver, client, TEXTS, batch_size=1, max_concurrency=2)
    assert (type(error), str(error)) == (APITimeoutError, "the call was not over within 0.2 s (timeout: total)")


@both_clients
def test_what_fails_while_others_are_under_way(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure, requests that are under way are not retried: their vectors are not needed."""
    waits = record_waits(monkeypatch)
    failed = threading.Event()

    def answer(request: Any) -> Iterator[bytes]:
        if request.json()["input"] == ["a"]:
            yield response({"error": "no"}, "401 Unauthorized")
        else:
            failed.wait(5)
            yield response({"error": "broken"}, "500 Internal Server Error")
        raise HangUpError

    with Loopback(answer) as server:
        error = failure(driver, driver.make(base_url=server.base_url), ["a", "b"], batch_size=1)
        failed.set()
        assert server.noticed(2)
    assert type(error) is AuthenticationError
    assert [wait for wait in waits if wait] == []


@both_clients
def test_an_error_of_the_server_is_retried(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that fails is asked again, and its last error is raised."""
    waits = record_waits(monkeypatch)
    with Loopback(lambda _: [response({"error": "broken"}, "500 Internal Server Error")]) as server:
        error = failure(driver, driver.make(base_url=server.base_url), ["a"])
    assert (type(error), error.attempts, waits) == (InternalServerError, 3, [0.4375, 0.875])


@both_clients
def test_text_is_not_quoted(driver: Driver) -> None:
    """An error does not repeat the text, even if the server's does."""
    text = "the canary sings at noon in its cage"
    with Loopback(lambda _: [response({"message": f"cannot embed '{text}'"}, "400 Bad Request")]) as server:
        error = failure(driver, driver.make(base_url=server.base_url), [text])
    assert str(error) == "400 Bad Request: cannot embed '…'"


def test_answers_are_read_by_their_shape() -> None:
    """A server that ignores `encoding_format` and sends numbers is understood."""

    def numbers(request: Any) -> list[bytes]:
        body = {name: value for name, value in request.json().items() if name != "encoding_format"}
        return [response(json.dumps(answer_for(body)).encode())]

    with Loopback(numbers) as server:
        client = Client(base_url=server.base_url)
        assert client.embed(["a"], model=MODEL).vectors == [vector_of("a")]
        assert client._capabilities_of(MODEL).base64_vectors


class Embedding:
    """A client of the fault table that embeds a text instead of asking a question."""

    def __init__(self, driver: Driver, base_url: str, timeout: Any, retries: int) -> None:
        self._driver = driver
        self._client = driver.make(1, "token", base_url=base_url, timeout=timeout, max_retries=retries)

    def texts(self, *, streamed: bool) -> Iterator[str]:
        """Embed a text."""
        yield str(embed(self._driver, self._client, ["a"]))

    def close(self) -> None:
        """Close the client."""
        self._driver.close(self._client)


FAULTS = [
    fault
    for fault in TABLE
    if not fault.streamed and fault.phase != REUSED and fault.leads_to.error and fault.leads_to.kept is None
]
"""The faults before an answer: what answers contain is another matter."""


@both_clients
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults_before_the_answer(monkeypatch: pytest.MonkeyPatch, driver: Driver, fault: Fault) -> None:
    """A fault before the answer has the same outcome as for a chat completion."""
    outcome, seconds = outcome_of(fault, partial(Embedding, driver), record_waits(monkeypatch))
    assert outcome == fault.leads_to
    assert outcome.says.startswith(fault.leads_to.says)
    assert seconds < fault.within


@both_clients
@pytest.mark.parametrize("does", [name for name in SERVERS if name != "answers"])
def test_errors_hold_no_secrets(
    driver: Driver, does: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither errors, nor the locals of their frames, nor logs hold credentials, whatever the server repeats."""
    record_waits(monkeypatch)

    def answer(request: Any) -> Any:
        content = json.dumps({**request.json(), "stream": False, "messages": []}).encode()
        return SERVERS[does](replace(request, body=content))

    with Loopback(answer) as server, caplog.at_level(logging.DEBUG):
        client = driver.make(**{**SECRETS, "base_url": server.url})
        error = failure(driver, client, TEXTS, batch_size=25)
    assert hunted(error) == []
    assert leaked(logged(caplog)) == []
