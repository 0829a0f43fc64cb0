"""What follows from each error that servers, gateways and services send, collected in refusals.yaml."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
import yaml

from tests.client.test_dialect import answer
from tests.support.calls import dialect_of, sent_by
from tests.support.paths import DATA
from tests.support.server import MESSAGES, Driver, Loopback, both_clients, response
from tir_qwen import InternalServerError
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._dialect.refusals import is_about_this_call
from tir_qwen._response.server_errors import error_from_response
from tir_qwen.testing import Request

REFUSALS: list[dict[str, Any]] = yaml.safe_load((DATA / "refusals.yaml").read_text(encoding="utf-8"))

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PARAMS: dict[str, Any] = {
    "tools": [TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
    "enable_thinking": False,
    "stream_options": {"include_usage": True},
}
HISTORY = [
    *MESSAGES,
    {"role": "assistant", "content": "Hm.", "reasoning": "So?", "reasoning_content": "So?"},
    *MESSAGES,
]
FIELDS = {
    "tools": {"tools", "tool_choice", "parallel_tool_calls"},
    "parallel_switch": {"parallel_tool_calls"},
    "response_format": {"response_format"},
    "template_kwargs": {"chat_template_kwargs"},
    "stream_options": {"stream_options"},
    "reasoning_history": {"reasoning", "reasoning_content"},
}
"""The fields that a request no longer has without each capability."""
ERRORS = {400: "BadRequestError", 404: "NotFoundError", 413: "APIStatusError", 422: "BadRequestError"}
ERRORS |= {424: "APIStatusError", 500: "InternalServerError", 501: "InternalServerError"}
Outcome = tuple[str, set[str], list[str]]


def outcome(status: int, body: Any) -> Outcome:
    """Return the name of the error, the fields that the call is sent without after it, and what is remembered."""
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = error_from_response(status, {}, content)
    assert error.status_code == status
    known = Capabilities()
    dialect = dialect_of(HISTORY, dict(PARAMS), known)
    before = sent_fields(sent_by(dialect))
    after = before
    if dialect.request_refused(error):
        after = sent_fields(sent_by(dialect))
        dialect.request_accepted()
    lost = [field.name for field in fields(known) if field.default is True and not getattr(known, field.name)]
    return type(error).__name__, before - after, lost


def sent_fields(sent: tuple[Any, dict[str, Any]]) -> set[str]:
    """Return the names of the fields of a request, and of those with the reasoning of its messages."""
    messages, body = sent
    return {*body, *(name for message in messages for name in message if name.startswith("reasoning"))}


def expected(refusal: dict[str, Any]) -> Outcome:
    """Return what must follow from a refusal."""
    kind, _, names = refusal["follows"].partition(": ")
    error = ERRORS[refusal["status"]]
    if kind == "unsupported":
        lost = names.removesuffix(" (this call)").split(", ")
        return error, set().union(*(FIELDS[name] for name in lost)), [] if names.endswith(")") else lost
    if kind == "grammar":
        return error, FIELDS["response_format"], []
    return {"user": error, "overflow": "ContextOverflowError"}[kind], set(), []


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal['server']}: {str(refusal['body'])[-50:]}")
def test_what_follows_from_a_refusal(refusal: dict[str, Any]) -> None:
    """Each error gives up exactly what the server does not support, or tells the user what is wrong."""
    assert outcome(refusal["status"], refusal["body"]) == expected(refusal)


@pytest.mark.parametrize(
    "message",
    [
        "Unrecognized request argument supplied: include_usage",
        "stream_options.include_usage: Extra inputs are not permitted",
        "include_usage is not supported",
    ],
)
def test_a_refused_option_of_a_stream_gives_up_its_options(message: str) -> None:
    """A refusal that names `include_usage` itself gives up `stream_options`."""
    assert outcome(400, {"error": {"message": message}}) == (
        "BadRequestError",
        {"stream_options"},
        ["stream_options"],
    )


@pytest.mark.parametrize(
    ("message", "is_of_this_call"),
    [
        ("response_format is not supported in combination with tools", True),
        ("Tools are not supported together with JSON mode", True),
        ("stream_options cannot be combined with n", True),
        ("parallel_tool_calls is not supported with streaming", True),
        ("response_format is not supported for n > 1", True),
        ("logprobs are not supported when tools are used", True),
        ("This tool_choice is not supported", True),
        ("tool_choice='required' is not supported", True),
        ("tool_choice requires --enable-auto-tool-choice", False),
        ("tool_choice is not supported", False),
        ("Unknown field: tools", False),
    ],
)
def test_a_refused_combination_is_about_its_own_call(message: str, is_of_this_call: bool) -> None:
    """A field that is refused only beside others, or with its value, is not given up for other calls."""
    assert is_about_this_call(message) is is_of_this_call


@pytest.mark.parametrize(
    ("status", "message"),
    [(500, "tools param requires --jinja flag"), (404, "No endpoints found that support tool use."), (501, "no tools")],
)
@both_clients
def test_a_refusal_with_another_status_costs_no_retry(driver: Driver, status: int, message: str) -> None:
    """A call that can do without the field is sent again at once, even if it may not be retried."""
    error = {"error": {"message": message.replace("no tools", "tools are not supported")}}

    def serve(request: Request) -> list[bytes]:
        body = request.json()
        return [response(error, f"{status} No")] if "tools" in body else answer(body, "Hello.")

    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        assert driver.complete(client, tools=[TOOL]).content == "Hello."
    assert client.capabilities == Capabilities(tools=False)


@both_clients
def test_a_failure_that_goes_on_without_the_field(driver: Driver) -> None:
    """If the server fails without the field too, the error has its class, and nothing is remembered."""
    error = {"error": {"message": "tools param requires --jinja flag"}}
    with Loopback(lambda _: [response(error, "500 Internal Server Error")]) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        with pytest.raises(InternalServerError) as caught:
            driver.complete(client, tools=[TOOL])
    assert (caught.value.attempts, client.capabilities) == (2, Capabilities())
