"""Constructor arguments and environment variables of both integrations."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from langchain_tir_qwen import ChatTIRQwen, TIREmbeddings
from llama_index_tir_qwen import TIREmbedding, TIRQwen
from tests.support.fake_vllm import Lab
from tir_qwen import ConfigurationError
from tir_qwen._client.parameters import OptionParameters
from tir_qwen._client.validation import PARAMETER_CHECKS
from tir_qwen._integrations import migration

Face = type[ChatTIRQwen] | type[TIRQwen]
FACES = [ChatTIRQwen, TIRQwen]
KNOWN = {"project_id": 1, "api_key": "token"}
PATH = "/project/p-{0}/genai/qwen3_32b/v1/chat/completions?project_id={0}"


def asked(face: Face, **settings: Any) -> Any:
    """Return the request that a model with these settings sends."""
    lab = Lab()
    model = face(**settings, http_client=lab.client())
    if isinstance(model, ChatTIRQwen):
        model.invoke("Hello")
    else:
        model.complete("Hello")
    (request,) = lab.requests
    return request


@pytest.mark.parametrize(
    ("face", "typo", "meant"),
    [
        (ChatTIRQwen, "tempature", "temperature"),
        (ChatTIRQwen, "acces_token", "access_token"),
        (ChatTIRQwen, "top_kk", "top_k"),
        (TIRQwen, "tempature", "temperature"),
        (TIRQwen, "api_keyy", "api_key"),
        (TIRQwen, "context_windw", "context_window"),
    ],
)
def test_an_unknown_argument_is_rejected_with_a_suggestion(face: Face, typo: str, meant: str) -> None:
    """An unknown argument is rejected by name, with a suggestion of the one that was probably meant."""
    with pytest.raises(ConfigurationError) as caught:
        face(**KNOWN, **{typo: "c4n4ry"})
    assert str(caught.value) == f"{face.__name__}: there is no argument {typo!r} (did you mean {meant!r}?)."


@pytest.mark.parametrize(
    ("face", "name", "hint"),
    [
        (ChatTIRQwen, "model_name", "use model"),
        (ChatTIRQwen, "openai_api_base", "use base_url"),
        (ChatTIRQwen, "openai_api_key", "use api_key"),
        (ChatTIRQwen, "model_kwargs", "use extra_body"),
        (TIRQwen, "extra_body", "use additional_kwargs"),
        (TIRQwen, "tokenizer", "use tokenizer_file"),
        (TIRQwen, "thinking", "use enable_thinking=True, or thinking_budget=..."),
        (
            ChatTIRQwen,
            "proxies",
            "delete it: set HTTPS_PROXY, or pass an HTTP client that has a proxy as http_client",
        ),
        (
            TIRQwen,
            "verify",
            "delete it: set SSL_CERT_FILE, or pass an HTTP client with a context of its own as http_client",
        ),
        (TIRQwen, "reuse_client", "delete it: connections are always reused, safely"),
        (TIRQwen, "is_chat_model", "delete it: it is always True"),
        (ChatTIRQwen, "default_query", "delete it: add it to base_url, as in https://host/v1?key=value"),
        (
            ChatTIRQwen,
            "reasoning_effort",
            "delete it: use enable_thinking; with a model other than Qwen3, it is a further field of the request body",
        ),
        (ChatTIRQwen, "min_tokens", "use extra_body"),
        (ChatTIRQwen, "stop_token_ids", "use extra_body"),
        (ChatTIRQwen, "user", "use extra_body"),
        (ChatTIRQwen, "tool_choice", "it is an argument of a call"),
        (TIRQwen, "chat_template_kwargs", "use additional_kwargs"),
        (TIRQwen, "strict", "delete it: the server enforces schemas strictly"),
        (
            TIRQwen,
            "should_use_structured_outputs",
            "delete it: structured output is always used, if the server supports it",
        ),
    ],
)
def test_arguments_of_other_integrations_are_explained(face: Face, name: str, hint: str) -> None:
    """An argument of ChatOpenAI, OpenAILike or ChatQwen is rejected with what to do about it."""
    with pytest.raises(ConfigurationError) as caught:
        face(**KNOWN, **{name: False})
    assert str(caught.value) == f"{face.__name__}: there is no argument {name!r} ({hint})."


def test_each_hint_names_an_argument_that_exists() -> None:
    """What a hint says to use is accepted, by models of the same kind in both frameworks; what it explains is not."""
    known = {
        face: {
            name
            for field, info in face.model_fields.items()
            for name in (field, *getattr(info.validation_alias, "choices", ()))
        }
        for face in (*FACES, TIREmbeddings, TIREmbedding)
    }
    both_chat, both_embedding = known[ChatTIRQwen] & known[TIRQwen], known[TIREmbeddings] & known[TIREmbedding]
    assert {use.partition("=")[0] for use in migration._USE.values()} <= both_chat | both_embedding
    for names in known.values():
        hints = {migration.migration_hint(name, names) for name in migration._USE.keys() - names} - {None}
        assert {hint.removeprefix("use ").partition("=")[0] for hint in hints if hint} <= names
    assert not (known[ChatTIRQwen] | known[TIRQwen]) & (migration._USE.keys() | migration._DELETE.keys())


@pytest.mark.parametrize("name", [name for name, check in PARAMETER_CHECKS.items() if "number" in check[1]])
@pytest.mark.parametrize("face", FACES)
def test_true_is_not_a_number(face: Face, name: str) -> None:
    """True and False are not taken for 1 and 0, neither as arguments of the constructor nor in further fields."""
    fields = "extra_body" if face is ChatTIRQwen else "additional_kwargs"
    if name in face.model_fields:
        with pytest.raises(ConfigurationError) as caught:
            face(**KNOWN, **{name: True})
        assert str(caught.value) == f"{face.__name__}: {name}: must be a number, not True."
    if name not in OptionParameters.__annotations__:
        with pytest.raises(ConfigurationError) as caught:
            face(**KNOWN, **{fields: {name: True}})
        assert str(caught.value) == f"{face.__name__}: {fields}: {name} must be {PARAMETER_CHECKS[name][1]}."


@pytest.mark.parametrize("face", [*FACES, TIREmbeddings, TIREmbedding])
def test_arguments_of_openais_sdk_among_further_fields_are_rejected_at_once(face: Any) -> None:
    """OpenAILike's nested `extra_body`, and headers, are rejected by the constructor, not by the first call."""
    fields = "extra_body" if "extra_body" in face.model_fields else "additional_kwargs"
    problem = f"{face.__name__}: {fields}: {{}} is not a field of the request body: {{}}."
    for name, advice in (
        ("extra_body", "put its fields there directly"),
        ("extra_headers", "pass default_headers to the constructor"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            face(**KNOWN, **{fields: {name: {"top_k": 20}}})
        assert str(caught.value) == problem.format(name, advice)


def test_what_is_always_true_may_be_set_to_true() -> None:
    """A configuration for OpenAILike can be used unchanged if it says what is true anyway."""
    llm = TIRQwen(**KNOWN, is_chat_model=True, is_function_calling_model=True)
    assert (llm.metadata.is_chat_model, llm.metadata.is_function_calling_model) == (True, True)


@pytest.mark.parametrize(
    ("face", "name", "value"),
    [
        *(
            (face, name, value)
            for face in FACES
            for name, value in (
                ("temperature", "c4n4ry"),
                ("max_tokens", "c4n4ry"),
                ("stop", [1, "c4n4ry"]),
                ("tool_calling", "c4n4ry"),
                ("timeout", "c4n4ry"),
                ("max_retries", -1),
                ("default_headers", {"X-A": "c4n4ry\n"}),
                ("default_headers", {"X-A": ["c4n4ry"]}),
                ("project_id", "c4n4ry"),
                ("project_id", True),
                ("access_token", "c4n 4ry"),
                ("access_token", ["c4n4ry"]),
                ("apikey", "c4n\n4ry"),
                ("base_url", "ftp://c4n4ry"),
                ("model", None),
            )
        ),
        (ChatTIRQwen, "extra_body", "c4n4ry"),
        (TIRQwen, "additional_kwargs", "c4n4ry"),
        (TIRQwen, "context_window", 0),
    ],
)
def test_a_malformed_argument_is_rejected_without_its_value(face: Face, name: str, value: object) -> None:
    """A malformed argument is rejected by name, without repeating its value, which may be a secret."""
    token = {} if name == "access_token" else {"api_key": "token"}
    with pytest.raises(ConfigurationError) as caught:
        face(**{"project_id": 1, **token, name: value})
    words = str(caught.value)
    assert name in words or {"access_token": "api_key", "base_url": "api_base"}[name] in words
    assert "c4n" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("face", FACES)
def test_each_type_of_a_malformed_argument_is_named(face: Face) -> None:
    """Where several types are valid, the error names them all."""
    for name, value in (("stop", 5), ("project_id", True)):
        with pytest.raises(ConfigurationError) as caught:
            face(**{**KNOWN, name: value})
        kind = {"stop": "list", "project_id": "integer"}[name]
        assert {f"{name}: input should be a valid {each}" for each in ("string", kind)} <= set(
            str(caught.value).removeprefix(f"{face.__name__}: ").removesuffix(".").split("; ")
        )


@pytest.mark.parametrize("face", FACES)
def test_what_is_no_http_client(face: Face) -> None:
    """Anything but a client of the right kind is rejected by the constructor."""
    other = "http_async_client" if face is ChatTIRQwen else "async_http_client"
    for name, value in (("http_client", "x"), ("http_client", httpx.AsyncClient()), (other, httpx.Client())):
        with pytest.raises(
            ConfigurationError, match=r"synchronous calls must be an? (?:Async)?Client of httpx or httpx2"
        ):
            face(**{**KNOWN, name: value})


def test_the_schema_of_a_timeout() -> None:
    """The JSON schema of a model, which tools show, knows the types of a timeout."""
    schema = TIRQwen.model_json_schema()["properties"]["timeout"]
    assert [one["type"] for one in schema["anyOf"]] == ["number", "object", "null"]


@pytest.mark.parametrize(
    ("face", "token", "address"),
    [
        (ChatTIRQwen, "access_token", "base_url"),
        (ChatTIRQwen, "api_key", "base_url"),
        (ChatTIRQwen, "tir_access_token", "api_base"),
        (TIRQwen, "api_key", "api_base"),
        (TIRQwen, "access_token", "base_url"),
    ],
)
def test_familiar_argument_names_are_accepted(face: Face, token: str, address: str) -> None:
    """The token and the address are accepted under the names that users of either framework know."""
    request = asked(face, **{token: "t0ken", address: "https://host.invalid/v1"})
    assert str(request.url) == "https://host.invalid/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer t0ken"


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    "address", [("E2E_TIR_BASE_URL", "https://host.invalid"), ("MODEL_API_CLIENT_HOST", "host.invalid")]
)
def test_the_environment_provides_missing_settings(
    face: Face, address: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Project, token, key and address are read from the environment if they are not passed."""
    known = {"E2E_TIR_ACCESS_TOKEN": "t0ken", "E2E_TIR_PROJECT_ID": "6530", "E2E_TIR_API_KEY": "key"}
    for name, value in [*known.items(), address]:
        monkeypatch.setenv(name, value)

    request = asked(face)
    assert str(request.url) == f"https://host.invalid{PATH.format(6530)}&apikey=key"
    assert request.headers["authorization"] == "Bearer t0ken"
    request = asked(face, project_id="p-1", access_token="other", base_url="https://other.invalid", apikey="k")
    assert str(request.url) == f"https://other.invalid{PATH.format(1)}&apikey=k"
    assert request.headers["authorization"] == "Bearer other"


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(("missing", "said"), [("project_id", "project_id"), ("api_key", "access_token")])
def test_missing_credentials_are_an_error(face: Face, missing: str, said: str) -> None:
    """Without a project or a token the constructor fails, and the error says where to get it."""
    with pytest.raises(ConfigurationError, match=rf"^{said} is missing: pass {said}=.* or set the environment"):
        face(**{name: value for name, value in KNOWN.items() if name != missing})


@pytest.mark.parametrize(
    ("face", "typo", "meant"), [(ChatTIRQwen, "api_keyy", "api_key"), (TIRQwen, "acces_token", "access_token")]
)
def test_unknown_like_an_alias(face: Face, typo: str, meant: str) -> None:
    """A misspelled alias of the token is answered with that alias, and not with a different one."""
    with pytest.raises(ConfigurationError, match=f"did you mean '{meant}'"):
        face(project_id=1, **{typo: "token"})


@pytest.mark.parametrize("face", FACES)
def test_two_names_of_the_token(face: Face) -> None:
    """Two names for the token at once are rejected as a conflict, not as an unknown argument."""
    with pytest.raises(ConfigurationError) as caught:
        face(project_id=1, access_token="one", api_key="two")
    assert "there is no argument" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (ChatTIRQwen(**KNOWN, temperature=0.6), "ChatTIRQwen(model='qwen3_32b', temperature=0.6)"),
        (TIRQwen(**KNOWN, temperature=0.6), "TIRQwen(model='qwen3_32b', temperature=0.6)"),
        (TIREmbeddings(**KNOWN, model="e5"), "TIREmbeddings(model='e5')"),
        (TIREmbedding(**KNOWN), "TIREmbedding(model_name='e5-mistral-7b-instruct')"),
    ],
)
def test_repr_and_str(model: Any, words: str) -> None:
    """Both name the model and what was passed to the constructor, without credentials."""
    assert (repr(model), str(model), f"{model}") == (words, words, words)
