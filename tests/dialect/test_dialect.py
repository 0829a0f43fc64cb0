"""How a request adapts to the server, and what rejections and answers reveal about it."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from tests.support.calls import dialect_of, read_body, sent_by
from tests.support.captures import CAPTURES, Capture
from tir_qwen import Completion, ConfigurationError
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._dialect.dialect import Dialect
from tir_qwen._dialect.json_answer import describe_schema
from tir_qwen._dialect.prompted_tools import messages_with_tools
from tir_qwen._response.server_errors import error_from_response
from tir_qwen._response.signs import Signs
from tir_qwen.types import Choice, ToolCall

ASKED = [{"role": "user", "content": "What is the weather?"}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
ANY_OBJECT = {"type": "json_object"}
LISTED = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "array"}}}
STREAM = {"include_usage": True}
THOUGHT = {"role": "assistant", "content": "Hm.", "reasoning_content": "So?", "reasoning": "So?"}
ALL: dict[str, Any] = {
    "tools": [TOOL],
    "response_format": FORMAT,
    "enable_thinking": False,
    "stream_options": STREAM,
    "temperature": 0.5,
}
ABILITIES = [field.name for field in fields(Capabilities) if field.default is True]


def without(*lost: str) -> Capabilities:
    """Return the capabilities of a server that lacks these."""
    return Capabilities(**dict.fromkeys(lost, False))


def system(text: str) -> dict[str, Any]:
    """Return a system message."""
    return {"role": "system", "content": text}


def asked(text: str) -> list[dict[str, Any]]:
    """Return the question with a different text."""
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("lost", "params", "messages", "sent"),
    [
        ((), {"tools": [TOOL]}, ASKED, {"tools": [TOOL]}),
        (("tools",), {"temperature": 0.5}, ASKED, {"temperature": 0.5}),
        (
            ("tools",),
            {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "seed": 1},
            messages_with_tools(ASKED, [TOOL], "required"),
            {"seed": 1},
        ),
        (("tools",), {"tools": [TOOL], "tool_choice": "none"}, ASKED, {}),
        (("tools",), {"tools": [TOOL], "tool_calling": "native"}, ASKED, {"tools": [TOOL]}),
        ((), {"tools": [TOOL], "tool_calling": "prompted"}, messages_with_tools(ASKED, [TOOL]), {}),
        ((), {"response_format": FORMAT}, ASKED, {"response_format": FORMAT}),
        (
            (),
            {"response_format": FORMAT, "schema_in": "both"},
            [system(describe_schema(SCHEMA)), *ASKED],
            {"response_format": FORMAT},
        ),
        ((), {"response_format": FORMAT, "schema_in": "messages"}, [system(describe_schema(SCHEMA)), *ASKED], {}),
        ((), {"response_format": ANY_OBJECT, "schema_in": "both"}, ASKED, {"response_format": ANY_OBJECT}),
        (("response_format",), {"response_format": FORMAT}, [system(describe_schema(SCHEMA)), *ASKED], {}),
        (("response_format",), {"response_format": ANY_OBJECT}, [system(describe_schema(None)), *ASKED], {}),
        (("response_format",), {"response_format": {"type": "text"}}, ASKED, {}),
        (
            ("tools", "response_format"),
            {"tools": [TOOL], "response_format": FORMAT},
            messages_with_tools([system(describe_schema(SCHEMA)), *ASKED], [TOOL]),
            {},
        ),
        ((), {"enable_thinking": False}, ASKED, {"chat_template_kwargs": {"enable_thinking": False}}),
        (("thinking_switch",), {"temperature": 0.5}, ASKED, {"temperature": 0.5}),
        (
            ("thinking_switch",),
            {"enable_thinking": False},
            asked("What is the weather? /no_think"),
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
        (("template_kwargs",), {"enable_thinking": False}, asked("What is the weather? /no_think"), {}),
        (("template_kwargs",), {"enable_thinking": True}, asked("What is the weather? /think"), {}),
        (
            ("template_kwargs", "tools"),
            {"enable_thinking": False, "tools": [TOOL]},
            messages_with_tools(asked("What is the weather? /no_think"), [TOOL]),
            {},
        ),
        ((), {"stream_options": STREAM}, ASKED, {"stream_options": STREAM}),
        (("stream_options",), {"stream_options": STREAM}, ASKED, {}),
    ],
)
def test_what_a_server_cannot_do_is_written_into_the_messages(
    lost: tuple[str, ...], params: dict[str, Any], messages: Any, sent: dict[str, Any]
) -> None:
    """Whatever the server does not support moves into the messages; everything else is sent unchanged."""
    given, kept = json.dumps(params), [*ASKED]
    assert sent_by(dialect_of(kept, dict(params), without(*lost))) == (messages, sent)
    assert (json.dumps(params), kept) == (given, ASKED)


def test_reasoning_in_the_history_is_dropped_if_unsupported() -> None:
    """Earlier reasoning is removed if the server does not accept it; the rest of the message stays."""
    messages = [*ASKED, THOUGHT]
    assert sent_by(dialect_of(messages, {}, Capabilities())) == (messages, {})
    plain = [*ASKED, {"role": "assistant", "content": "Hm."}]
    assert sent_by(dialect_of(messages, {}, without("reasoning_history"))) == (plain, {})


def test_earlier_tool_calls_become_text_without_native_tools() -> None:
    """Without native tools, earlier calls and results become text, even if no tool is offered now."""
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        *ASKED,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "20"},
    ]
    assert sent_by(dialect_of(messages, {}, without("tools"))) == (messages_with_tools(messages, []), {})
    assert sent_by(dialect_of(messages, {}, Capabilities())) == (messages, {})


@pytest.mark.parametrize(
    ("message", "written"),
    [
        (
            {
                "role": "assistant",
                "content": "Hm.",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "assistant", "content": 'Hm.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'},
        ),
        (
            {"role": "tool", "tool_call_id": "c", "content": "20"},
            {"role": "user", "content": "<tool_response>\n20\n</tool_response>"},
        ),
    ],
    ids=["a call without its result", "a result without its call"],
)
def test_either_half_of_a_call_becomes_text(message: dict[str, Any], written: dict[str, Any]) -> None:
    """With prompted tools, a call or a result becomes text even where the other is missing and no tool is offered."""
    dialect = dialect_of([*ASKED, message], {"tool_calling": "prompted"}, Capabilities())
    assert sent_by(dialect) == ([*ASKED, written], {})


@pytest.mark.parametrize(("name", "value"), [("tool_calling", "nativ"), ("schema_in", "prompt"), ("schema_in", 1)])
def test_an_unknown_value_of_an_option_is_refused(name: str, value: Any) -> None:
    """An invalid value raises an error that lists the valid ones."""
    with pytest.raises(ConfigurationError, match=rf"^{name} must be one of \w+, \w+, \w+\.$"):
        dialect_of(ASKED, {name: value}, Capabilities())


def refused(
    body: Any, status: int = 400, capabilities: Capabilities | None = None, **params: Any
) -> tuple[bool, list[str]]:
    """Return whether the call is retried after this response, and the capabilities found missing."""
    known = Capabilities() if capabilities is None else capabilities
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    dialect = dialect_of([*ASKED, THOUGHT], {**ALL, **params}, known)
    dialect.write()
    again = dialect.request_refused(error_from_response(status, {}, content))
    if again:
        dialect.write()
        dialect.request_accepted()
    return again, [name for name in ABILITIES if not getattr(known, name)]


NO_PARSER = [one for one in CAPTURES if one.status == 400 and b"tool-call-parser" in one.body]
OTHERS = [one for one in CAPTURES if one.status >= 400 and one not in NO_PARSER]


@pytest.mark.parametrize("capture", NO_PARSER, ids=lambda capture: capture.id)
def test_a_missing_tool_parser_moves_tools_into_the_messages(capture: Capture) -> None:
    """Every vLLM version's error about a missing tool parser moves the tools into the messages."""
    assert refused(capture.body, capture.status) == (True, ["tools"])


@pytest.mark.parametrize("capture", OTHERS, ids=lambda capture: capture.id)
def test_no_other_rejection_by_vllm_disables_a_field(capture: Capture) -> None:
    """No other error from vLLM is mistaken for an unknown field."""
    assert refused(capture.body, capture.status) == (False, [])


def unknown(*path: str | int) -> dict[str, Any]:
    """Return a FastAPI validation error for an unknown field."""
    return {"type": "extra_forbidden", "loc": ["body", *path], "msg": "Extra inputs are not permitted", "input": [1]}


REFUSALS: list[tuple[Any, list[str]]] = [
    (
        {"error": {"message": "Unrecognized request argument supplied: tools", "type": "invalid_request_error"}},
        ["tools"],
    ),
    ({"error": {"message": "Unrecognized request arguments supplied: tool_choice, tools"}}, ["tools"]),
    ({"error": {"message": "tools is not supported by this endpoint", "param": "tools"}}, ["tools"]),
    ({"error": "This model does not support tools"}, ["tools"]),
    ({"error": "registry/qwen3:32b does not support tools"}, ["tools"]),
    ({"message": "Parameter 'tools' is currently not available"}, ["tools"]),
    ({"detail": [unknown("tools")]}, ["tools"]),
    ({"detail": [unknown("tools"), unknown("stream_options")]}, ["tools", "stream_options"]),
    ({"detail": [unknown("messages", 1, "reasoning")]}, ["reasoning_history"]),
    ({"detail": "Unknown field: chat_template_kwargs"}, ["template_kwargs"]),
    (b"Unknown field: chat_template_kwargs", ["template_kwargs"]),
    ({"detail": "Unexpected keyword argument 'enable_thinking'"}, ["template_kwargs"]),
    (
        {"error": {"message": "Additional properties are not allowed ('response_format' was unexpected)"}},
        ["response_format"],
    ),
    (
        {"error": {"message": "'response_format' of type 'json_schema' is not supported with this model."}},
        ["response_format"],
    ),
    ({"error": {"message": "response_format is unavailable", "code": "unsupported"}}, ["response_format"]),
    ({"error": {"message": "Unsupported parameter: stream_options.include_usage"}}, ["stream_options"]),
    (
        {"error": {"message": "undocumented fields: chat_template_kwargs, response_format, stream_options, tools"}},
        ["tools", "response_format", "template_kwargs", "stream_options"],
    ),
]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(("body", "lost"), REFUSALS, ids=lambda value: str(value)[-60:])
def test_fields_that_a_gateway_rejects_are_disabled(body: Any, lost: list[str], status: int) -> None:
    """Every field that a gateway rejects by name is disabled, whatever the wording."""
    assert refused(body, status) == (True, lost)


@pytest.mark.parametrize(
    "message",
    [
        "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
        "Unsupported value: 'temperature' does not support 0.5 with this model.",
        "Unknown field: top_k",
        "The model `unknown` does not exist.",
        "tools.0.function: Field required",
        "tools.0.type: Input should be 'function'",
        "tools.0.type: unexpected value; permitted: 'function'",
        "Invalid schema for function 'find': tools[0].function.parameters has an unknown type 'nonsense'.",
        "Invalid 'tools[0].function.name': string does not match the pattern.",
        "The tool specified in `tool_choice` does not match any of the specified `tools`",
        "When using `tool_choice`, `tools` must be set.",
        "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.",
        'Failed to transform json schema into a grammar: Unsupported type "nonsense"',
        "Grammar error: Pointer '/$defs/Missing' does not exist",
        "response_format.type: Input should be 'text', 'json_object' or 'json_schema'",
        "When response_format type is 'json_schema', the 'json_schema' field must be provided.",
        "This model's maximum context length is 32768 tokens, tools are not supported beyond them.",
        "Unknown field: top_k. Known fields: model, messages, stream, tools, tool_choice, response_format.",
        "top_k is not supported. Use one of: messages, tools.",
        "",
    ],
)
def test_an_invalid_value_disables_nothing(message: str) -> None:
    """An invalid value, an invalid schema or a prompt that is too long disables nothing."""
    assert refused({"error": {"message": message, "code": 400}}) == (False, [])


@pytest.mark.parametrize("status", [401, 403, 405, 408, 413, 424, 429, 502, 503])
def test_other_statuses_disable_nothing(status: int) -> None:
    """Statuses that have other causes do not cause a request to be rewritten, whatever the message says."""
    assert refused({"error": {"message": "Unrecognized request argument supplied: tools"}}, status) == (False, [])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tools": None}, "Unknown field: tools"),
        ({"tool_calling": "native"}, "Unknown field: tools"),
        ({"tool_calling": "native"}, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'),
        ({"tool_calling": "prompted"}, "Unknown field: tools"),
        ({"schema_in": "messages"}, "Unknown field: response_format"),
        ({"enable_thinking": None}, "Unknown field: chat_template_kwargs"),
        ({"chat_template_kwargs": {"x": 1}}, "Unknown field: chat_template_kwargs"),
        ({"extra_body": {"chat_template_kwargs": {"x": 1}}}, "Unknown field: chat_template_kwargs"),
        ({"stream_options": {"continuous_usage_stats": True}}, "Unknown field: stream_options"),
    ],
)
def test_rejecting_an_explicit_or_unsent_field_disables_nothing(params: dict[str, Any], message: str) -> None:
    """A field that was not sent, or that the user insists on, is not disabled: the user gets the error."""
    assert refused({"error": {"message": message}}, **params) == (False, [])


def test_a_request_is_not_retried_twice_for_the_same_field() -> None:
    """If the server rejects a field that is no longer sent, there is no further retry."""
    known = Capabilities()
    assert refused({"error": "Unknown field: tools"}, capabilities=known) == (True, ["tools"])
    assert refused({"error": "Unknown field: tools"}, capabilities=known) == (False, ["tools"])


def test_concurrent_calls_are_both_retried() -> None:
    """Two concurrent calls rejected for the same field are both retried."""
    known = Capabilities()
    calls = [dialect_of(ASKED, {"tools": [TOOL]}, known) for _ in range(2)]
    first = [sent_by(call) for call in calls]
    assert first == [(ASKED, {"tools": [TOOL]})] * 2
    error = error_from_response(400, {}, b'{"error": "Unknown field: tools"}')
    assert [call.request_refused(error) for call in calls] == [True, True]
    assert [sent_by(call) for call in calls] == [(messages_with_tools(ASKED, [TOOL]), {})] * 2


def learned(params: dict[str, Any], *choices: Choice, known: Capabilities | None = None) -> list[str]:
    """Return the capabilities found missing after this answer."""
    known = Capabilities() if known is None else known
    dialect_of(ASKED, params, known).observe(Completion([*choices]), Signs())
    return [name for name in ABILITIES if not getattr(known, name)]


THINKS = Choice(content="Hello.", reasoning="Hm.", finish_reason="stop")
PLAIN = Choice(content="Hello.", reasoning="\n", finish_reason="stop")
OBJECT = Choice(content='{"city": "Paris"}', finish_reason="stop")
OBJECT_THOUGHT = Choice(content='{"city": "Paris"}', reasoning="Hm.", finish_reason="stop")
OF_TEMPLATE = {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.mark.parametrize(
    ("params", "choice", "lost"),
    [
        ({"enable_thinking": False}, THINKS, ["thinking_switch"]),
        ({"enable_thinking": True}, PLAIN, ["thinking_switch"]),
        ({"enable_thinking": False}, PLAIN, []),
        ({"enable_thinking": True}, THINKS, []),
        ({}, THINKS, []),
        ({}, PLAIN, []),
        ({"enable_thinking": False}, Choice(reasoning="Hm.", finish_reason="length"), ["thinking_switch"]),
        ({"enable_thinking": False}, Choice(finish_reason="length"), []),
        ({"enable_thinking": True}, Choice(finish_reason="length"), []),
        ({"enable_thinking": True}, Choice(tool_calls=[ToolCall("c", "f", "{}")], finish_reason="tool_calls"), []),
        ({"enable_thinking": True, "response_format": FORMAT}, OBJECT, []),
        ({"enable_thinking": True, "response_format": FORMAT, "schema_in": "messages"}, OBJECT, ["thinking_switch"]),
        ({"enable_thinking": False, "response_format": FORMAT}, OBJECT_THOUGHT, ["thinking_switch"]),
        ({"response_format": FORMAT}, PLAIN, ["response_format"]),
        ({"response_format": ANY_OBJECT}, PLAIN, ["response_format"]),
        ({"response_format": FORMAT}, Choice(content='{"city": "Par', finish_reason="length"), []),
        ({"response_format": FORMAT}, Choice(tool_calls=[ToolCall("c", "f", "{}")], finish_reason="stop"), []),
        ({"response_format": FORMAT, "schema_in": "messages"}, PLAIN, []),
        ({"response_format": {"type": "text"}}, PLAIN, []),
        ({"response_format": LISTED}, Choice(content='["Paris"]', finish_reason="stop"), []),
        ({"enable_thinking": True, "tools": [TOOL], "tool_choice": "required"}, PLAIN, []),
        ({"enable_thinking": True, "tools": [TOOL], "tool_choice": "auto"}, PLAIN, ["thinking_switch"]),
        ({"enable_thinking": False, "extra_body": OF_TEMPLATE}, THINKS, []),
        ({"enable_thinking": False, **OF_TEMPLATE}, THINKS, []),
    ],
)
def test_an_answer_shows_what_the_server_ignored(params: dict[str, Any], choice: Choice, lost: list[str]) -> None:
    """Two answers reveal an ignored field, unless a grammar, a truncation or the user explains it."""
    known = Capabilities()
    assert learned(params, choice, known=known) == []
    assert learned(params, choice, known=known) == lost


@pytest.mark.parametrize("lost", [{"template_kwargs": False}, {"thinking_switch": False}], ids=repr)
def test_a_switch_that_is_not_sent_is_not_doubted(lost: dict[str, Any]) -> None:
    """Where the switch is only in the message, an answer that ignores it says nothing about the field."""
    known = Capabilities(**lost)
    for _ in range(2):
        dialect = dialect_of(ASKED, {"enable_thinking": False}, known)
        dialect.write()
        dialect.observe(Completion([THINKS]), Signs())
    assert known == Capabilities(**lost)


def test_an_empty_response_teaches_nothing() -> None:
    """A response without choices teaches nothing."""
    assert learned({"enable_thinking": True}) == []


def test_a_soft_switch_in_the_message_teaches_nothing() -> None:
    """A soft switch in the user's message says nothing about the server; one that the model mentions is none."""
    mentioned = [{"role": "assistant", "content": "Write /no_think"}]
    for messages, lost in ((asked("Hello! /no_think"), []), ([*mentioned, *ASKED], ["thinking_switch"])):
        known = Capabilities()
        for _ in range(2):
            dialect_of(messages, {"enable_thinking": True}, known).observe(Completion([PLAIN]), Signs())
        assert [name for name in ABILITIES if not getattr(known, name)] == lost


def test_an_ignored_switch_adds_the_soft_switch_to_later_calls() -> None:
    """Once the server has ignored the switch, later calls include the soft switch too."""
    known = Capabilities()
    assert [learned({"enable_thinking": False}, THINKS, known=known) for _ in range(2)] == [[], ["thinking_switch"]]
    written = [sent_by(dialect_of(ASKED, {"enable_thinking": value}, known)) for value in (False, True)]
    assert written == [
        (asked("What is the weather? /no_think"), {"chat_template_kwargs": {"enable_thinking": False}}),
        (asked("What is the weather? /think"), {"chat_template_kwargs": {"enable_thinking": True}}),
    ]


def test_chat_template_kwargs_override_the_soft_switch() -> None:
    """The soft switch follows the user's own `chat_template_kwargs`."""
    params = {"enable_thinking": False, "extra_body": OF_TEMPLATE}
    messages, sent = sent_by(dialect_of(ASKED, dict(params), without("thinking_switch")))
    assert (messages, sent) == (asked("What is the weather? /think"), OF_TEMPLATE)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, (False, None, False, False)),
        ({"tools": [TOOL]}, (True, None, False, False)),
        ({"tools": [TOOL], "tool_choice": "none"}, (False, None, False, False)),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
            (True, "get_weather", False, False),
        ),
        ({"tools": [TOOL], "extra_body": {"parallel_tool_calls": False}}, (True, None, True, False)),
        ({"enable_thinking": False}, (False, None, False, True)),
        ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, (False, None, False, True)),
        ({"enable_thinking": False, "extra_body": OF_TEMPLATE}, (False, None, False, False)),
    ],
)
def test_decoding_options_follow_from_the_request(
    params: dict[str, Any], expected: tuple[bool, str | None, bool, bool]
) -> None:
    """The decoding options follow from the request, including `extra_body`."""
    found = dialect_of(ASKED, params, Capabilities()).decoding_options
    assert (found.tools, found.required_tool, found.single_call, found.thinking_off) == expected


OTHER_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
NAMELESS = {"type": "function", "function": {}}


@pytest.mark.parametrize(
    ("params", "known", "expected"),
    [
        ({}, {}, {"stop_lag": 0}),
        ({"tools": [TOOL]}, {}, {"lossy_streams": True}),
        ({"tools": [TOOL], "tool_choice": "required"}, {}, {"lossy_streams": False}),
        ({"tools": [TOOL], "n": 2}, {}, {"lossy_streams": False}),
        ({"tools": [TOOL, OTHER_TOOL]}, {}, {"tool_names": {"get_weather", "f"}, "tools_with_parameters": {"f"}}),
        ({"tools": [TOOL, NAMELESS]}, {}, {"tool_names": set(), "tools_with_parameters": set()}),
        ({"tools": [TOOL]}, {}, {"text_calls": "unparsed"}),
        ({"tools": [TOOL]}, {"tool_parser": True}, {"text_calls": "quoted"}),
        ({"tools": [TOOL]}, {"tools": False}, {"text_calls": "prompted"}),
        ({"tools": [TOOL], "tool_calling": "native"}, {"tool_parser": True}, {"text_calls": "plain"}),
        ({"tools": [TOOL], "tool_calling": "prompted"}, {"tool_parser": True}, {"text_calls": "prompted"}),
        ({"max_tokens": 7}, {}, {"max_tokens": 7}),
    ],
)
def test_decoding_options_follow_from_the_server(
    params: dict[str, Any], known: dict[str, Any], expected: dict[str, Any]
) -> None:
    """How calls are read follows from the tools, from how they are sent, and from what is known of the server."""
    found = dialect_of(ASKED, params, Capabilities(**known)).decoding_options
    assert {name: getattr(found, name) for name in expected} == expected


def test_a_stream_that_may_not_be_repeated_is_taken_as_it_is() -> None:
    """Where the request must not be sent again, no call is taken for one that has lost a part."""
    body = read_body(ASKED, {"tools": [TOOL]})
    found = [Dialect(body, Capabilities(), may_repeat=may).decoding_options.lossy_streams for may in (True, False)]
    assert found == [True, False]


@pytest.mark.parametrize(
    ("params", "lag"),
    [
        pytest.param({}, 0, id="none"),
        pytest.param({"stop": None}, 0, id="null"),
        pytest.param({"stop": []}, 0, id="an empty list"),
        pytest.param({"stop": ""}, 0, id="an empty text"),
        pytest.param({"stop": "z"}, 0, id="one character"),
        pytest.param({"stop": "zzz"}, 2, id="a text"),
        pytest.param({"stop": ["zz", "\nObservation:", "z"]}, 12, id="several"),
        pytest.param({"stop": ("🚀🚀",)}, 1, id="characters, not bytes"),
        pytest.param({"stop": ["z"], "extra_body": {"stop": ["zz"]}}, 1, id="in extra_body"),
        pytest.param({"stop": ["zz"], "include_stop_str_in_output": True}, 0, id="included"),
        pytest.param({"stop": ["zz"], "extra_body": {"include_stop_str_in_output": True}}, 0, id="included in extra"),
    ],
)
def test_the_lag_follows_from_the_longest_stop_string(params: dict[str, Any], lag: int) -> None:
    """The lag is one less than the length of the longest stop string, or 0 if stop strings are part of the answer."""
    assert dialect_of([{"role": "user", "content": "Hi"}], params, Capabilities()).decoding_options.stop_lag == lag
