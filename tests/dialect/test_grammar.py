"""What is sent instead of a schema that the server's grammar does not support."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.calls import dialect_of
from tests.support.server import (
    MESSAGES,
    Driver,
    Loopback,
    Request,
    ask,
    both_clients,
    completion,
    failure,
    response,
    said,
    whole_and_streamed,
)
from tir_qwen import BadRequestError, Choice, Completion, ServerStreamError
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._dialect.grammar import KnownSchema, SchemaForm, SchemaNegotiation, reduce_schema
from tir_qwen._dialect.json_answer import describe_schema
from tir_qwen._dialect.prompted_tools import messages_with_tools
from tir_qwen._response.server_errors import error_from_frame, error_from_response
from tir_qwen._response.signs import Signs

TAGS = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"tags": TAGS, "format": {"type": "string"}}}
REDUCED: dict[str, Any] = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"type": "string"}}, "format": {"type": "string"}},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
REDUCED_FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": REDUCED, "strict": True}}
DESCRIBED = [{"role": "system", "content": describe_schema(SCHEMA)}, *MESSAGES]
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "tag", "parameters": SCHEMA}}
REDUCED_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "tag", "parameters": REDUCED}}
REFUSAL = b'{"error": {"message": "Grammar error: Unimplemented keys: [\\"uniqueItems\\"]", "code": 400}}'


def test_reduced_schemas() -> None:
    """Keywords that grammars may not support are left out; names and values that look like them are not."""
    schema = {
        "type": "object",
        "properties": {"pattern": {"type": "string", "pattern": "^(?=a)", "maxLength": 3}, "not": {"not": {}}},
        "required": ["pattern"],
        "additionalProperties": False,
        "propertyNames": {"pattern": "a"},
        "$defs": {"format": {"format": "uri", "enum": [{"format": 1}], "default": {"pattern": "x"}}},
        "anyOf": [{"contains": {}, "items": {"multipleOf": 2}, "minimum": 1}, True],
        "definitions": {"any": True, "none": False},
    }
    assert reduce_schema(schema) == {
        "type": "object",
        "properties": {"pattern": {"type": "string", "maxLength": 3}, "not": {}},
        "required": ["pattern"],
        "additionalProperties": False,
        "$defs": {"format": {"enum": [{"format": 1}], "default": {"pattern": "x"}}},
        "anyOf": [{"items": {}, "minimum": 1}, True],
        "definitions": {"any": {}, "none": False},
    }


def test_keys_of_a_pattern_stay_allowed() -> None:
    """Without `patternProperties`, `additionalProperties` would forbid the keys that it allows."""
    schema = {"type": "object", "patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": False}
    assert reduce_schema(schema) == {"type": "object"}


def refuse_all(capabilities: Capabilities, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is sent until there is no other form left."""
    dialect = dialect_of(MESSAGES, params, capabilities)
    sent = []
    while True:
        body = dialect.write()
        sent.append({"messages": list(body.messages), **body.fields()})
        if not dialect.request_refused(error_from_response(400, {}, REFUSAL)):
            return sent


def test_the_forms_of_a_schema() -> None:
    """A schema is sent whole, then without the keywords, then only in the messages."""
    assert refuse_all(Capabilities(), {"response_format": FORMAT}) == [
        {"messages": MESSAGES, "response_format": FORMAT},
        {"messages": DESCRIBED, "response_format": REDUCED_FORMAT},
        {"messages": DESCRIBED},
    ]


def test_a_schema_without_such_keywords() -> None:
    """If there is nothing to leave out, the schema is sent in the messages."""
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": REDUCED}}
    sent = refuse_all(Capabilities(), {"response_format": wanted})
    assert [body.get("response_format") for body in sent] == [wanted, None]


@pytest.mark.parametrize(
    ("params", "forms"),
    [
        ({"tools": [TOOL], "tool_choice": "required"}, [[TOOL], [REDUCED_TOOL], None]),
        ({"tools": [TOOL], "tool_choice": "required", "tool_calling": "native"}, [[TOOL], [REDUCED_TOOL]]),
        ({"tools": [TOOL]}, [[TOOL], [REDUCED_TOOL], None]),
        ({"tools": [TOOL], "tool_choice": "none"}, [[TOOL]]),
    ],
    ids=["forced", "native", "free", "forbidden"],
)
def test_the_forms_of_a_tool(params: dict[str, Any], forms: list[Any]) -> None:
    """A tool that may be called is sent in the messages at last, unless it must be native."""
    sent = refuse_all(Capabilities(), params)
    assert [body.get("tools") for body in sent] == forms
    if len(forms) > 1:
        described = "The arguments of each tool must follow its JSON schema:\n" + json.dumps(
            {"tag": SCHEMA}, separators=(",", ":")
        )
        assert sent[1]["messages"] == [{"role": "system", "content": described}, *MESSAGES]
    if None in forms:
        assert sent[-1]["messages"] == messages_with_tools(MESSAGES, [TOOL], params.get("tool_choice"))


def test_a_tool_that_must_be_called_says_nothing_of_one_that_need_not() -> None:
    """Servers that make a grammar only of tools that must be called still get the others whole."""
    capabilities = Capabilities()
    forced = dialect_of(MESSAGES, {"tools": [TOOL], "tool_choice": "required"}, capabilities)
    forced.write()
    assert forced.request_refused(error_from_response(400, {}, REFUSAL))
    forced.observe(Completion([Choice(content="Hm.")]), Signs())
    assert capabilities.schema_forms
    assert refuse_all(capabilities, {"tools": [TOOL]})[0]["tools"] == [TOOL]


def test_a_strict_tool() -> None:
    """The server makes a grammar of a strict tool, even if it need not be called."""
    strict = {"type": "function", "function": {"name": "tag", "parameters": SCHEMA, "strict": True}}
    assert len(refuse_all(Capabilities(), {"tools": [strict]})) == 3


@pytest.mark.parametrize(
    "text",
    [
        # vLLM: guidance, xgrammar, outlines, lm-format-enforcer
        'Grammar error: Unimplemented keys: ["uniqueItems"]',
        "Grammar error: Unknown format: uri",
        "Grammar error: regex parse error: ^(?=a)b$ ^^^ error: look-around, including look-ahead, is not supported",
        "The provided JSON schema contains features not supported by xgrammar.",
        "Failed to transform json schema into a grammar: unsupported keyword",
        "Failed to transform json schema into a regex: Unsupported JSON Schema structure",
        "Error serializing structured outputs jsonschema: not serializable",
        "Invalid JSON grammar specification.",
        "Regex uses unsupported feature for structured outputs: Look-Around assertion are unsupported.",
        # OpenAI, llama.cpp, SGLang, TGI
        "Invalid schema for response_format 'a': schema must be a JSON Schema of 'type: \"object\"'.",
        "JSON schema conversion failed: failed to convert schema to grammar",
        "Failed to compile json schema",
        "Grammar compilation error: unsupported keyword",
        "JSON schema contains a pattern with negative lookahead",
        "Unsupported keyword in schema: minItems",
        "The provided JSON schema contains features not supported by Outlines.",
        'Failed to transform json schema into a grammar: Unsupported type ["string", "null"]',
    ],
)
def test_refusals_of_a_schema(text: str) -> None:
    """What servers say of a schema that their grammar does not support; repeating the request would not help."""
    whole, frame = error_from_response(400, {}, text.encode()), error_from_frame({"error": {"message": text}})
    assert [whole.is_retryable, frame.is_retryable] == [False, False]
    for error in (whole, frame):
        dialect = dialect_of(MESSAGES, {"response_format": FORMAT}, Capabilities())
        dialect.write()
        assert dialect.request_refused(error)


@pytest.mark.parametrize(
    "text",
    [
        "Grammar error: Invalid type: nonsense",
        "Grammar error: Pointer '/$defs/x' does not exist",
        'Failed to transform json schema into a grammar: Unsupported type "nonsense"',
        "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        "temperature must be non-negative",
        "Failed to parse tool call arguments against schema",
        "Unknown format: audio/mp3 for input_audio",
        "Failed to convert the grammar from GBNF: backend is out of memory",
        "Error parsing request: json_schema is not a known field",
    ],
)
def test_mistakes_of_the_user_are_reported(text: str) -> None:
    """A mistake in the schema, or anything else, is the user's to see."""
    for error in (error_from_response(400, {}, text.encode()), error_from_frame({"error": {"message": text}})):
        dialect = dialect_of(MESSAGES, {"response_format": FORMAT}, Capabilities())
        dialect.write()
        assert not dialect.request_refused(error)


def refusing(request: Request) -> list[bytes]:
    """Answer as vLLM does if its grammar has no `uniqueItems`: before a whole answer, within a streamed one."""
    body = request.json()
    if "uniqueItems" not in str(body.get("response_format")):
        if body.get("stream"):
            return [response(said('{"tags": ["a"]}', "stop") + b"data: [DONE]\n\n", content_type="text/event-stream")]
        return [completion('{"tags": ["a"]}')]
    if body.get("stream"):
        return [
            response(b'data: {"error": ' + REFUSAL[10:] + b"\n\ndata: [DONE]\n\n", content_type="text/event-stream")
        ]
    return [response(REFUSAL, "400 Bad Request")]


@whole_and_streamed
@both_clients
def test_the_form_is_remembered_for_the_schema(driver: Driver, streamed: bool) -> None:
    """A form that was accepted is sent at once the next time, and another schema is not concerned."""
    other = {"type": "json_schema", "json_schema": {"name": "b", "schema": {**SCHEMA, "title": "Other"}}}
    with Loopback(refusing) as server:
        client = driver.make(base_url=server.base_url)
        answers = [ask(driver, client, streamed, response_format=wanted) for wanted in (FORMAT, FORMAT, other)]
        sent = [request.json()["response_format"] for request in server.requests]
    assert answers == ['{"tags": ["a"]}'] * 3
    assert [one["json_schema"]["name"] for one in sent] == ["a", "a", "a", "b", "b"]
    assert sent[:3] == [FORMAT, REDUCED_FORMAT, REDUCED_FORMAT]
    known = client.capabilities
    assert [schema.form for schema in known.schema_forms.values()] == [SchemaForm.REDUCED] * 2
    assert known.response_format


@both_clients
def test_the_whole_schema_is_tried_again(driver: Driver) -> None:
    """The hundredth call sends the whole schema again, and if it is refused, the two hundredth after that."""
    refuses = [True]

    def serve(request: Request) -> list[bytes]:
        return refusing(request) if refuses[0] else [completion('{"tags": ["a"]}')]

    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url)

        def forms(calls: int) -> list[int]:
            """Return the numbers of the calls that began with the whole schema."""
            sent = []
            for number in range(calls):
                before = len(server.requests)
                assert driver.complete(client, response_format=FORMAT).content == '{"tags": ["a"]}'
                if server.requests[before].json()["response_format"] == FORMAT:
                    sent.append(number)
            return sent

        assert forms(101) == [0, 100]
        assert forms(199) == []
        refuses[0] = False
        assert forms(3) == [0, 1, 2]
    assert client.capabilities == Capabilities()


def test_tools_beside_a_schema_stay_whole() -> None:
    """Where the schema of the answer is enforced, its form is found, and tools are sent as they are."""
    sent = refuse_all(Capabilities(), {"response_format": FORMAT, "tools": [TOOL]})
    assert [(body.get("response_format"), body["tools"]) for body in sent] == [
        (FORMAT, [TOOL]),
        (REDUCED_FORMAT, [TOOL]),
        (None, [TOOL]),
    ]


def test_a_limited_number_of_schemas_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the limit is reached, all forms are forgotten before the next one is remembered."""
    monkeypatch.setattr("tir_qwen._dialect.grammar._MAX_KNOWN", 2)
    known: dict[bytes, KnownSchema] = {}
    sizes = []
    for number in range(3):
        schemas = SchemaNegotiation([{**SCHEMA, "title": str(number)}], known, can_describe=True)
        assert schemas.refused() is True
        schemas.accepted()
        sizes.append(len(known))
    assert sizes == [1, 2, 1]


@pytest.mark.parametrize(
    ("params", "is_sent_again"),
    [
        ({"tool_choice": "required"}, True),
        ({"tool_choice": {"type": "function", "function": {"name": "tag"}}}, True),
        ({"tool_choice": "auto"}, True),
        ({"tool_choice": "none"}, False),
        ({}, True),
    ],
)
def test_only_tools_of_which_a_grammar_is_made_have_other_forms(params: Any, is_sent_again: bool) -> None:
    """A refusal of a schema changes the tools only if the server may make a grammar of them."""
    dialect = dialect_of(MESSAGES, {"tools": [TOOL], **params}, Capabilities())
    dialect.write()
    assert dialect.request_refused(error_from_response(400, {}, REFUSAL)) is is_sent_again


@whole_and_streamed
@both_clients
def test_a_refusal_without_another_form(driver: Driver, streamed: bool) -> None:
    """If nothing else can be sent, the error reaches the user, who cannot expect anything from another try."""
    by_tag = {"type": "structural_tag", "structures": [], "triggers": []}
    event = b'data: {"error": {"message": "Grammar error: Unimplemented keys", "code": 400}}\n\n'
    frame = response(event, content_type="text/event-stream")
    with Loopback(lambda _: [frame if streamed else response(REFUSAL, "400 Bad Request")]) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed, response_format=by_tag)
    assert isinstance(error, ServerStreamError if streamed else BadRequestError)
    assert not error.is_retryable
    assert len(server.requests) == 1
