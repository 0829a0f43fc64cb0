"""Further features of LangChain: errors, retries, fallbacks, caches, limits, batches and token counts."""

from __future__ import annotations

import sys
import traceback
import typing
from collections.abc import Callable
from math import ceil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from langchain_core import exceptions as core
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField
from llama_index.core.node_parser import TokenTextSplitter

import tir_qwen
from langchain_tir_qwen import ChatTIRQwen, errors
from langchain_tir_qwen._error_conversion import LANGCHAIN_CLASSES, raises_langchain_errors
from langchain_tir_qwen._token_counts import BYTES_PER_TOKEN
from llama_index_tir_qwen import TIRQwen
from tests.support.fake_vllm import PRIVATE, SECRETS, Lab
from tests.support.scripted_transport import BODY_OF_OVERFLOW, KNOWN, Reply, Scripted, model_on, model_saying
from tir_qwen._integrations.tokenizer import _load

GREETING = "Good day!"
BUSY = Reply(status=503, error={"error": {"message": "busy"}})


async def _stream(model: Any) -> str:
    return "".join(chunk.text for chunk in model.stream("Hello"))


async def _astream(model: Any) -> str:
    return "".join([chunk.text async for chunk in model.astream("Hello")])


async def _invoke(model: Any) -> str:
    return model.invoke("Hello").text


async def _ainvoke(model: Any) -> str:
    return (await model.ainvoke("Hello")).text


WAYS = {"invoke": _invoke, "ainvoke": _ainvoke, "stream": _stream, "astream": _astream}

# Errors.

TWINS: dict[type[tir_qwen.TIRError], type[Exception]] = {
    tir_qwen.ConfigurationError: core.ModelInvalidRequestError,
    tir_qwen.APIConnectionError: core.ModelConnectionError,
    tir_qwen.APITimeoutError: core.ModelTimeoutError,
    tir_qwen.APIStatusError: core.ModelError,
    tir_qwen.BadRequestError: core.ModelInvalidRequestError,
    tir_qwen.ContextOverflowError: core.ContextOverflowError,
    tir_qwen.AuthenticationError: core.ModelAuthenticationError,
    tir_qwen.PermissionDeniedError: core.ModelPermissionDeniedError,
    tir_qwen.NotFoundError: core.ModelNotFoundError,
    tir_qwen.RateLimitError: core.ModelRateLimitError,
    tir_qwen.InternalServerError: core.ModelAPIError,
    tir_qwen.StreamInterruptedError: core.ModelConnectionError,
    tir_qwen.MalformedChunkError: core.ModelError,
    tir_qwen.ServerStreamError: core.ModelAPIError,
}


def leaves(kind: type) -> set[type]:
    """Return our own error classes without subclasses, from `kind` down."""
    found = {one for below in kind.__subclasses__() for one in {below, *leaves(below)}}
    return {one for one in found if one.__module__ == "tir_qwen.errors"}


def test_every_error_has_a_twin() -> None:
    """Every error is also an instance of LangChain's exception class."""
    assert LANGCHAIN_CLASSES.keys() == TWINS.keys() == leaves(tir_qwen.TIRError) - {tir_qwen.errors.StreamError}


@pytest.mark.parametrize("error", TWINS, ids=lambda error: error.__name__)
def test_an_error_can_be_caught_as_either_class(error: type[tir_qwen.TIRError]) -> None:
    """An error can be caught as ours and as LangChain's, with the same message, attributes and traceback."""
    raised = error("no")
    raised.attempts = 3

    with pytest.raises(TWINS[error]) as caught, raises_langchain_errors():
        raise raised

    assert isinstance(caught.value, error)
    assert isinstance(caught.value, core.ModelError)
    assert (str(caught.value), vars(caught.value)) == ("no", vars(raised))
    assert caught.value.attempts == 3
    assert raised.__traceback__ is not None
    assert raised.__traceback__.tb_frame in [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)
    assert (str(raised), raised.attempts, raised.is_retryable) == ("no", 3, error.is_retryable)


STATUSES: dict[int, tuple[Any, type[Exception]]] = {
    400: ({"error": {"message": "no"}}, core.ModelInvalidRequestError),
    401: ({"error": "Unauthorized"}, core.ModelAuthenticationError),
    403: ({"error": {"message": "no"}}, core.ModelPermissionDeniedError),
    404: ({"detail": "Not Found"}, core.ModelNotFoundError),
    413: ({"error": {"message": "no"}}, core.ModelError),
    422: (BODY_OF_OVERFLOW, core.ContextOverflowError),
    429: ({"error": {"message": "no"}}, core.ModelRateLimitError),
    500: ({"error": {"message": "no"}}, core.ModelAPIError),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", STATUSES)
async def test_a_refusal_raises_the_error_for_its_status(status: int, way: str) -> None:
    """A refusal raises LangChain's error for its status, whichever method was called."""
    body, expected = STATUSES[status]
    model = model_saying(Reply(status=status, error=body), max_retries=0)

    with pytest.raises(expected) as caught:
        await WAYS[way](model)

    assert caught.value.status_code == status
    assert caught.value.attempts == 1


# Retries and fallbacks.


class Retries(BaseCallbackHandler):
    """Records each retry."""

    def __init__(self) -> None:
        self.noted: list[tuple[Any, ...]] = []

    def on_retry(self, retry_state: Any, **kwargs: Any) -> None:
        error = retry_state.outcome.exception()
        self.noted.append((retry_state.attempt_number, type(error), retry_state.next_action.sleep))


class AsyncRetries(AsyncCallbackHandler):
    """The asynchronous version of `Retries`."""

    def __init__(self) -> None:
        self.noted: list[tuple[Any, ...]] = []

    async def on_retry(self, retry_state: Any, **kwargs: Any) -> None:
        Retries.on_retry(self, retry_state)


@pytest.mark.parametrize(
    ("way", "handler"),
    [
        ("invoke", Retries),
        ("ainvoke", Retries),
        ("ainvoke", AsyncRetries),
        ("stream_events", Retries),
        ("astream_events", AsyncRetries),
    ],
)
@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_a_callback_sees_each_retry(way: str, handler: type[Retries | AsyncRetries]) -> None:
    """A callback receives each retry with the error that caused it and the delay."""
    retries = handler()
    model = model_saying(BUSY, BUSY, Reply(GREETING), max_retries=2)
    config: Any = {"callbacks": [retries]}

    if way == "invoke":
        message = model.invoke("Hello", config)
    elif way == "ainvoke":
        message = await model.ainvoke("Hello", config)
    elif way == "stream_events":
        message = model.stream_events("Hello", config, version="v3").output
    else:
        message = await (await model.astream_events("Hello", config, version="v3"))

    assert message.text == GREETING
    assert retries.noted == [(number, errors.InternalServerError, pytest.approx(0.001, rel=0.1)) for number in (1, 2)]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_with_retry_accepts_langchain_errors(way: str) -> None:
    """`with_retry` can be given LangChain's exception classes to select what is retried."""
    lab = Scripted(BUSY, Reply(GREETING))
    model = model_on(lab, max_retries=0).with_retry(
        retry_if_exception_type=(core.ModelAPIError,), wait_exponential_jitter=False, stop_after_attempt=2
    )

    assert await WAYS[way](model) == GREETING
    assert len(lab.requests) == 2


@pytest.mark.parametrize("way", WAYS)
async def test_with_fallbacks(way: str) -> None:
    """If a model fails before it answers, a fallback answers; an error that was not listed is raised."""
    other = model_saying(Reply(GREETING), Reply(GREETING))
    handled = model_saying(BUSY, max_retries=0).with_fallbacks([other], exceptions_to_handle=(core.ModelAPIError,))
    unnamed = model_saying(BUSY, max_retries=0).with_fallbacks([other], exceptions_to_handle=(core.ModelTimeoutError,))

    assert await WAYS[way](handled) == GREETING
    with pytest.raises(core.ModelAPIError):
        await WAYS[way](unnamed)


def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return f"Sunny in {city}"


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_tools_with_fallbacks(way: str) -> None:
    """`bind_tools` and `with_structured_output` of a model with fallbacks apply to each of the models."""
    fallback = Scripted(Reply(calls=(("get_weather", '{"city": "Paris"}'),)), Reply('{"city": "Paris"}'))
    model = model_saying(BUSY, BUSY, max_retries=0).with_fallbacks([model_on(fallback)])

    calling: Any = model.bind_tools([get_weather])
    structured: Any = model.with_structured_output({"title": "Capital", "type": "object", "properties": {"city": {}}})
    if way == "invoke":
        message, capital = calling.invoke("Weather?"), structured.invoke("Capital?")
    else:
        message, capital = await calling.ainvoke("Weather?"), await structured.ainvoke("Capital?")

    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("get_weather", {"city": "Paris"})]
    assert capital == {"city": "Paris"}
    sent = [[*body.keys() & {"tools", "response_format"}] for body in fallback.bodies]
    assert sent == [["tools"], ["response_format"]]


@pytest.mark.parametrize("kind", [ChatTIRQwen, TIRQwen])
def test_type_hints_can_be_read(kind: type) -> None:
    """The annotations of the classes' own methods can be evaluated at run time, as LangChain's fallbacks do."""
    methods = [getattr(kind, name) for name in dir(kind) if not name.startswith("_")]
    own = [one for one in methods if "tir_qwen" in getattr(one, "__module__", "")]
    assert len(own) >= 5
    for method in own:
        # LlamaIndex's decorators hide the module that a method's names belong to.
        hidden = vars(sys.modules[method.__module__]) if kind is TIRQwen else None
        typing.get_type_hints(method, hidden)


@pytest.mark.parametrize(
    ("name", "value", "sent"),
    [
        ("temperature", 0.9, {"temperature": 0.9}),
        ("max_tokens", 7, {"max_tokens": 7}),
        ("enable_thinking", False, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("model", "qwen3_8b", {"model": "qwen3_8b"}),
        ("extra_body", {"priority": 1}, {"priority": 1}),
    ],
)
def test_configurable_fields(name: str, value: Any, sent: dict[str, Any]) -> None:
    """A configurable parameter can be set for a single call, and affects no other."""
    lab = Scripted(Reply(GREETING), Reply(GREETING))
    model = model_on(lab).configurable_fields(**{name: ConfigurableField(id="it")})

    model.with_config(configurable={"it": value}).invoke("Hello")
    model.invoke("Hello")

    plain = {"model": "qwen3_32b", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    assert lab.bodies == [{**plain, **sent}, plain]


# Caches and limits.

SAME: list[dict[str, Any]] = [{"timeout": 3.0}, {"max_retries": 0}, {"access_token": "another"}, {"project_id": 2}]
CHANGES: list[dict[str, Any]] = [
    {"temperature": 0.1},
    {"max_tokens": 5},
    {"top_k": 3},
    {"seed": 1},
    {"enable_thinking": False},
    {"model": "qwen3_8b"},
    {"stop": ["x"]},
    {"extra_body": {"priority": 1}},
    {"base_url": "https://other.invalid"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_cached_answer_needs_the_same_parameters(change: dict[str, Any]) -> None:
    """A repeated question is answered from the cache, unless another parameter or endpoint could change the answer."""
    lab, cache = Lab(), InMemoryCache()
    first, changed = model_on(lab, cache=cache), model_on(lab, cache=cache, **change)

    answers = [model.invoke("Hello").text for model in (first, first, changed, changed, first)]

    assert answers == [GREETING] * 5
    assert len(lab.requests) == 2


@pytest.mark.parametrize("change", SAME, ids=str)
def test_cache_of_the_same(change: dict[str, Any]) -> None:
    """Settings that cannot change an answer do not cause a cache miss."""
    lab, cache = Lab(), InMemoryCache()
    model_on(lab, cache=cache).invoke("Hello")
    model_on(lab, cache=cache, **change).invoke("Hello")

    assert len(lab.requests) == 1


@pytest.mark.parametrize("given", [{"temperature": 0.1}, {"tools": []}, {"stop": ["x"]}, {"enable_thinking": True}])
def test_cache_of_a_call(given: dict[str, Any]) -> None:
    """Parameters that are bound or passed to a call are part of the cache key."""
    lab, cache = Lab(), InMemoryCache()
    model = model_on(lab, cache=cache)

    for _ in range(2):
        model.invoke("Hello")
        model.invoke("Hello", **given)

    assert len(lab.requests) == 2


def test_the_output_of_generate_holds_the_usage() -> None:
    """`generate` reports the token counts of all its prompts together, and the model."""
    model = model_on(Lab())
    counts = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    one = model.generate([[HumanMessage("Hello")]], n=2)
    two = model.generate([[HumanMessage("Hello")], [HumanMessage("Goodbye")]])
    assert one.llm_output == {"token_usage": counts, "model_name": "qwen3_32b"}
    assert len(one.generations[0]) == 2
    assert two.llm_output == {
        "token_usage": {name: 2 * count for name, count in counts.items()},
        "model_name": "qwen3_32b",
    }


def test_the_output_of_a_streamed_generate_is_empty() -> None:
    """Streams report their token counts in the message instead."""
    assert model_on(Lab(), streaming=True).generate([[HumanMessage("Hello")]]).llm_output == {}


def test_traces_show_the_address_of_the_endpoint() -> None:
    """The identifying parameters contain the endpoint's address, without secrets."""
    model = ChatTIRQwen(**{**PRIVATE, "base_url": None})
    address = "https://infer.e2enetworks.net/project/p-***/genai/qwen3_32b/v1/chat/completions"
    assert model._identifying_params["endpoint"] == address


def test_no_secret_in_a_cache() -> None:
    """The cache key, which may be written to a file, contains no secret."""
    lab, cache = Lab(), InMemoryCache()
    model_on(lab, **PRIVATE, cache=cache).invoke("Hello")

    ((prompt, key),) = cache._cache
    assert [secret for secret in SECRETS if secret in prompt + key] == []
    assert "qwen3_32b" in key


class Limiter(BaseRateLimiter):
    """Counts the calls that it lets through."""

    def __init__(self) -> None:
        self.let = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.let += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire()


@pytest.mark.parametrize("way", WAYS)
async def test_rate_limiter(way: str) -> None:
    """A rate limiter is acquired once per call."""
    limiter = Limiter()
    model = model_on(Lab(), rate_limiter=limiter)

    assert [await WAYS[way](model) for _ in range(2)] == [GREETING] * 2
    assert limiter.let == 2


async def test_a_batch_matches_answers_to_questions() -> None:
    """A batch returns answers in order, or with their index as completed; a failure only affects its own question."""
    model = model_on(Lab())
    questions = [f"Hello {number}" for number in range(5)]
    config: Any = {"max_concurrency": 2}

    assert [one.text for one in model.batch(questions, config)] == [GREETING] * 5
    assert [one.text for one in await model.abatch(questions, config)] == [GREETING] * 5
    assert sorted(number for number, _ in model.batch_as_completed(questions, config)) == [*range(5)]
    completed = [number async for number, _ in model.abatch_as_completed(questions, config)]
    assert sorted(completed) == [*range(5)]
    failing = model_saying(BUSY, Reply(GREETING), max_retries=0)
    failed, answer = failing.batch(["a", "b"], {"max_concurrency": 1}, return_exceptions=True)
    assert (type(failed), answer.text) == (errors.InternalServerError, GREETING)


# Token counts and the profile.


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("Hello", 2), ("Hello, how are you?", 6), ("नमस्ते", 6), ("\ud800", 1)], ids=ascii
)
def test_tokens_are_estimated_without_a_tokenizer(text: str, tokens: int) -> None:
    """Without a tokenizer, tokens are estimated from the bytes of a text, with no warning and no transformers."""
    assert ChatTIRQwen(**KNOWN).get_num_tokens(text) == tokens
    assert "transformers" not in sys.modules


def test_token_ids_without_a_tokenizer() -> None:
    """Token ids cannot be estimated, so the error says what is needed."""
    with pytest.raises(tir_qwen.ConfigurationError, match=r"^token ids need a tokenizer: pass tokenizer_file"):
        ChatTIRQwen(**KNOWN).get_token_ids("Hello")


def test_custom_tokenizer() -> None:
    """A custom function of the user counts the tokens."""
    model = ChatTIRQwen(**KNOWN, custom_get_token_ids=lambda text: [ord(letter) for letter in text])
    assert (model.get_token_ids("Hi"), model.get_num_tokens("Hi")) == ([72, 105], 2)


@pytest.fixture
def tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake the optional library as far as it is used: it counts words, and rejects any file but its own."""

    class Tokenizer:
        """A tokenizer that splits text into words."""

        @staticmethod
        def from_file(path: str) -> Any:
            if Path(path).read_text(encoding="utf-8") != "{}":
                raise Exception("not a tokenizer")  # noqa: TRY002 - as the library does
            return Tokenizer()

        def encode(self, text: str, *, add_special_tokens: bool) -> Any:
            assert not add_special_tokens
            return SimpleNamespace(ids=[len(word) for word in text.split()])

    library = ModuleType("tokenizers")
    library.Tokenizer = Tokenizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tokenizers", library)
    _load.cache_clear()


@pytest.mark.usefixtures("tokenizers")
def test_tokenizer_file(tmp_path: Path) -> None:
    """Texts and conversations are counted with Qwen's own tokenizer if its file is given."""
    path = tmp_path / "tokenizer.json"
    path.write_text("{}", encoding="utf-8")
    model = ChatTIRQwen(**KNOWN, tokenizer_file=str(path))

    assert (model.get_token_ids("How are you"), model.get_num_tokens("How are you")) == ([3, 3, 3], 3)
    assert model.get_num_tokens_from_messages([SystemMessage("Be kind."), HumanMessage("Hello")]) == 2 + 5 + 1 + 5
    think = len(["<think>", "Sun", "or", "rain?", "</think>"])
    assert model.get_num_tokens_from_messages(TOOL_LOOP) == 1 + 5 + think + 1 + 5 + 1 + 5
    llm = TIRQwen(project_id=1, api_key="token", tokenizer_file=str(path))
    assert llm.get_token_ids("How are you") == [3, 3, 3]
    assert len(TokenTextSplitter(chunk_size=2, chunk_overlap=0, tokenizer=llm.get_token_ids).split_text("a b c d")) == 2


@pytest.mark.usefixtures("tokenizers")
def test_broken_tokenizer_file(tmp_path: Path) -> None:
    """A file that is not a tokenizer raises a configuration error."""
    path = tmp_path / "tokenizer.json"
    path.write_text("no", encoding="utf-8")
    with pytest.raises(tir_qwen.ConfigurationError) as caught:
        ChatTIRQwen(**KNOWN, tokenizer_file=str(path)).get_num_tokens("Hello")
    assert str(caught.value) == "tokenizer_file cannot be read: not a tokenizer"


def test_tokenizer_file_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the library is not installed, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    _load.cache_clear()
    with pytest.raises(tir_qwen.ConfigurationError) as caught:
        ChatTIRQwen(**KNOWN, tokenizer_file="tokenizer.json").get_num_tokens("Hello")
    assert str(caught.value) == "tokenizer_file needs the library tokenizers: pip install tokenizers"


CALLED = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "c"}])
THOUGHT = CALLED.model_copy(update={"additional_kwargs": {"reasoning_content": "Sun or rain?"}})
TOOL_LOOP = [HumanMessage("Weather?"), THOUGHT, ToolMessage("Sun.", tool_call_id="c")]


def test_tokens_of_reasoning() -> None:
    """Reasoning counts once where it is sent back, within a tool loop, and not where the chat template drops it."""
    question, _, result = TOOL_LOOP
    count: Callable[..., int] = ChatTIRQwen(**KNOWN).get_num_tokens_from_messages
    written = len("<think>\nSun or rain?\n</think>\n\n")

    assert count(TOOL_LOOP) - count([question, CALLED, result]) == ceil(written / BYTES_PER_TOKEN)
    later = HumanMessage("And tomorrow?")
    assert count([*TOOL_LOOP, later]) == count([question, CALLED, result, later])


def multiply(a: int, b: int) -> int:
    """Multiply."""
    return a * b


def test_tokens_of_a_conversation() -> None:
    """The count for a conversation includes its calls, its tools and the overhead of the chat template."""
    model = ChatTIRQwen(**KNOWN)
    question = [HumanMessage("Hello")]
    called = AIMessage("", tool_calls=[{"name": "multiply", "args": {"a": 1, "b": 2}, "id": "c1"}])
    count: Callable[..., int] = model.get_num_tokens_from_messages

    assert count(question) == 2 + 5
    assert count(question, tools=[multiply]) > count([*question, called]) > count([*question, AIMessage("")])


def test_the_profile_describes_only_the_known_model() -> None:
    """The profile has what agents and middleware base decisions on; an unknown model has none."""
    profile = ChatTIRQwen(**KNOWN).profile
    wanted = ("max_input_tokens", "max_output_tokens", "reasoning_output", "tool_calling", "structured_output")

    assert [profile[name] for name in wanted] == [32768, 32768, True, True, True]
    assert (profile["text_inputs"], profile["image_inputs"]) == (True, False)
    assert not ChatTIRQwen(**KNOWN, model="llama").profile
    assert ChatTIRQwen(**KNOWN, profile={"max_input_tokens": 131072}).profile == {"max_input_tokens": 131072}
