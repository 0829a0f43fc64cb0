"""The reports of `python -m tir_qwen doctor` on failing or limited servers (recorded ones: both/test_setups.py)."""

from __future__ import annotations

import io
import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.doctor.test_fingerprint import jwt
from tests.support.server import DONE, END, STREAM_HEAD, HangUpError, Loopback, chunk, event, response
from tests.transport.test_interception import SERVER_TLS
from tir_qwen import Client
from tir_qwen._doctor.cli import main, print_report
from tir_qwen._doctor.examination import Examination
from tir_qwen.testing import Request

TOKEN, PROJECT, HEADER, KEY = "t0ken-canary", "987654", "head3r-canary", "ap1key-canary"
OBJECT = '{"answer": 391}'
Finding = tuple[str, str, str]
"""Status, finding and advice."""


def frames(*said: dict[str, Any], usage: dict[str, int] | None = None, reason: str = "stop") -> bytes:
    """Return a complete streamed response."""
    facts: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta, "logprobs": None}]} for delta in said]
    facts.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if usage:
        facts.append({"choices": [], "usage": usage})
    events = [chunk(b"data: " + json.dumps({"id": "x", "model": "qwen", **one}).encode() + b"\n\n") for one in facts]
    return STREAM_HEAD + b"".join(events) + DONE + END


def whole(content: str | None, *, tokens: int | None = 10, reason: str = "stop", **said: Any) -> bytes:
    """Return a complete response to a prompt of `tokens` tokens."""
    message = {"role": "assistant", "content": content, **said}
    usage = None if tokens is None else {"prompt_tokens": tokens, "completion_tokens": 5, "total_tokens": tokens + 5}
    return response({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": usage})


def refusal(status: str, message: str = "") -> bytes:
    """Return an error response."""
    return response({"error": {"message": message}}, status)


CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
GOOD = {
    "stream": frames(
        {"reasoning_content": "Hm."},
        {"content": "391"},
        usage={"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    ),
    "switch": whole("391"),
    "budget": whole(None, reasoning_content="Hm.", reason="length"),
    "continued": whole("391"),
    "tools": whole(None, tokens=50, tool_calls=[CALL]),
    "no tools": whole("Sunny.", tokens=20),
    "structured": whole(OBJECT),
    "described": whole(OBJECT),
    "context": refusal("400 Bad Request", "This model's maximum context length is 4096 tokens."),
}
"""The responses of a healthy server."""


def kind(body: dict[str, Any]) -> str:
    """Return which of the checks this request belongs to."""
    asked = {
        "context": body.get("max_tokens") == 10_000_000,
        "stream": body["stream"],
        "budget": body.get("max_tokens") == 16,
        "continued": body.get("continue_final_message"),
        "tools": "tools" in body,
        "structured": "response_format" in body,
        "described": "JSON schema" in str(body["messages"]),
        "switch": "chat_template_kwargs" in body or "/no_think" in str(body["messages"]),
    }
    return next((name for name, is_it in asked.items() if is_it), "no tools")


def answering(answers: dict[str, bytes]) -> Callable[[Request], list[bytes]]:
    """Answer each check with its response, and the other checks like a healthy server."""
    return lambda request: [{**GOOD, **answers}[kind(request.json())]]


@dataclass
class Seen:
    """What the user sees, and which checks the server received."""

    status: int
    out: str
    err: str
    asked: list[str] = field(default_factory=list)


@dataclass
class Terminal:
    """Runs the command and captures its output."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, server: Loopback, *arguments: str) -> Seen:
        """Run doctor against a server."""
        seen = self.run("doctor", "--base-url", server.url, *arguments)
        seen.asked = [kind(request.json()) for request in server.requests]
        return seen

    def run(self, *arguments: str) -> Seen:
        """Run a command."""
        self.capture.readouterr()
        status = main(arguments)
        return Seen(status, *self.capture.readouterr())

    def findings(self, server: Loopback) -> dict[str, Finding]:
        """Return the findings of doctor."""
        return by_name(json.loads(self(server, "--json").out))


def by_name(report: dict[str, Any]) -> dict[str, Finding]:
    """Return the findings of a report by name."""
    return {one["name"]: (one["status"], one["found"], one["advice"]) for one in report["results"]}


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal with credentials in its environment."""
    monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", TOKEN)
    monkeypatch.setenv("E2E_TIR_PROJECT_ID", PROJECT)
    return Terminal(capsys)


def test_a_healthy_endpoint_needs_no_action(terminal: Terminal) -> None:
    """A healthy endpoint passes each check once with exit status 0."""
    with Loopback(answering({})) as server:
        seen = terminal(server)
    assert (seen.status, seen.err) == (0, "")
    assert seen.asked == ["stream", "switch", "budget", "continued", "tools", "structured", "context"]
    assert "FAILED" not in seen.out
    assert "\nIt used 100 + 30 tokens (prompts + answers).\n" in seen.out


def test_json_contains_the_printed_results(terminal: Terminal) -> None:
    """`--json` prints the same findings and nothing else."""
    with Loopback(answering({})) as server:
        printed, seen = terminal(server).out, terminal(server, "--json")
    report = json.loads(seen.out)
    assert (seen.status, seen.err) == (0, "")
    assert report.keys() == {"endpoint", "results", "prompt_tokens", "completion_tokens", "usable"}
    assert (report["usable"], report["prompt_tokens"], report["completion_tokens"]) == (True, 100, 30)
    found = by_name(report)
    found.pop("speed")
    assert found == {
        "token": (
            "ok",
            "it is set, and contains no expiry date",
            "note when it was created: TIR's tokens expire after 365 days",
        ),
        "answers": ("ok", 'as qwen: "391"', ""),
        "reasoning": ("ok", "comes in the field reasoning_content", ""),
        "token counts": ("ok", "come with streams", ""),
        "server": ("ok", "answers like vLLM 0.9", ""),
        "thinking off": ("ok", "enable_thinking=False is obeyed", ""),
        "thinking budget": ("ok", "thinking_budget is kept; a second request continues the answer", ""),
        "native tools": ("ok", "a call came back, parsed", ""),
        "structured output": ("ok", "response_format is obeyed", ""),
        "context window": ("ok", "4096 tokens of prompt and answer together", ""),
    }
    for name, (_, what, advice) in found.items():
        assert f"\n{name:20}" in printed
        assert what in printed
        assert advice in printed


EMBEDDED = response({"data": [{"index": 0, "embedding": [0.1, 0.2]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}})


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (EMBEDDED, ("ok", "e5: vectors of 2 numbers", "")),
        (
            refusal("404 Not Found", "no such model"),
            (
                "limited",
                "404 Not Found: no such model. Check the project id, the model name (e5) and the base URL:"
                " {url}/project/p-***/genai/e5/v1/embeddings",
                "TIR's dashboard shows which embedding models your project can use",
            ),
        ),
        (refusal("500 Internal Server Error", "boom"), ("limited", "500 Internal Server Error: boom", "")),
    ],
    ids=["vectors", "no model", "broken"],
)
def test_embeddings_are_tried_on_request(terminal: Terminal, answer: bytes, finding: Finding) -> None:
    """`--embedding-model` adds a check; an endpoint without that model can be used all the same."""

    def respond(request: Request) -> list[bytes]:
        return [answer] if request.path.endswith("/embeddings") else answering({})(request)

    with Loopback(respond) as server:
        seen = terminal.run("doctor", "--base-url", server.url, "--json", "--embedding-model", "e5")
    assert seen.status == 0
    status, found, advice = finding
    report = json.loads(seen.out)
    assert by_name(report)["embeddings"] == (status, found.format(url=server.url), advice)
    assert report["prompt_tokens"] == 100 + 3 * (status == "ok")
    assert server.requests[-1].json()["input"] == ["Paris"]


FAILURES: dict[str, tuple[list[bytes], str]] = {
    "wrong token": (
        [refusal("401 Unauthorized", f"no user for {TOKEN}")],
        "401 Unauthorized: no user for ***",
    ),
    "another project": ([refusal("403 Forbidden", f"not in {PROJECT}")], "403 Forbidden: not in ***"),
    "no model": ([refusal("404 Not Found", "no such model")], "404 Not Found: no such model"),
    "error": ([refusal("500 Internal Server Error", "boom")], "500 Internal Server Error: boom"),
    "busy": ([refusal("429 Too Many Requests", "slow down")], "429 Too Many Requests: slow down"),
    "HTML": ([response(b"<html><title>Welcome</title></html>", content_type="text/html")], ""),
    "no chunks": ([STREAM_HEAD + chunk(b"data: nonsense\n\n") + END], ""),
    "breaks": ([STREAM_HEAD + event("39") + END], "the answer stopped before its end"),
    "reports an error": (
        [STREAM_HEAD + event("39") + chunk(b'data: {"error": {"message": "engine dead"}}\n\n') + END],
        "the server reported an error in its answer: engine dead",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_an_endpoint_that_does_not_answer_is_reported(terminal: Terminal, failure: str) -> None:
    """If the endpoint does not answer, the report gives advice, skips the other checks and exits with status 1."""
    raws, _ = FAILURES[failure]
    with Loopback(lambda _: raws) as server:
        seen = terminal(server)
        report = json.loads(terminal(server, "--json").out)
    status, found, advice = by_name(report)["answers"]
    assert (seen.status, seen.err, len(seen.asked), status, report["usable"]) == (1, "", 1, "failed", False)
    assert [one["name"] for one in report["results"]] == ["token", "answers"]
    assert f"answers             FAILED    {found}" in seen.out
    assert advice or "Check " in found


def test_checks_that_did_not_run_are_not_called_undetermined(terminal: Terminal) -> None:
    """After a failed first request, the report says that the other checks were not run, and nothing else of them."""
    with Loopback(lambda _: [refusal("401 Unauthorized")]) as server:
        seen = terminal(server)
    assert seen.out.splitlines()[-1] == "The other checks were not run: they need an endpoint that answers."
    assert "Could not determine" not in seen.out
    assert "It used" not in seen.out


def test_an_unknown_model_is_named(terminal: Terminal) -> None:
    """After a 404, the report shows the model's name in the URL and in the advice, but not the project id."""
    with Loopback(lambda _: [refusal("404 Not Found")]) as server:
        seen = terminal(server, "--model", "qwen4/32b")
    path = "/project/p-***/genai/qwen4%2F32b/v1/chat/completions"
    assert seen.out.splitlines()[0] == f"qwen4/32b at {server.url}{path}"
    assert "-> check the name of the model, qwen4/32b (--model sets another), and the address above\n" in seen.out
    assert PROJECT not in seen.out


@pytest.mark.parametrize("failure", [name for name, (_, words) in FAILURES.items() if words])
def test_a_failure_is_reported_in_the_servers_words(terminal: Terminal, failure: str) -> None:
    """A failure is reported in the server's words, with secrets masked."""
    raws, words = FAILURES[failure]
    with Loopback(lambda _: raws) as server:
        found = terminal.findings(server)["answers"][1]
    assert found[: len(words)] == words


@pytest.mark.parametrize("failure", ["error", "busy", "breaks", "reports an error"])
def test_a_reachable_server_gives_no_advice_about_the_address(terminal: Terminal, failure: str) -> None:
    """If the server is reachable, the advice does not mention the address."""
    with Loopback(lambda _: FAILURES[failure][0]) as server:
        assert "address" not in terminal.findings(server)["answers"][2]


CHECK_PROXY = (
    "check the proxy: HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names it; NO_PROXY lists the hosts to reach without it"
)


def reach(
    capsys: pytest.CaptureFixture[str], base_url: str, *arguments: str, proxy: str | None = None
) -> tuple[str, str]:
    """Return what doctor finds at an address where nothing answers, and its advice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("E2E_TIR_ACCESS_TOKEN", TOKEN)
        if proxy:
            patch.setenv("HTTPS_PROXY", proxy)
        seen = Terminal(capsys).run("doctor", "--base-url", base_url, "--json", *arguments)
    assert (seen.status, seen.err) == (1, "")
    status, found, advice = by_name(json.loads(seen.out))["answers"]
    assert status == "failed"
    return found, advice


def test_a_server_that_is_not_running(terminal: Terminal) -> None:
    """If nothing listens at the port, the advice is about host and port."""
    with Loopback(answering({})) as server:
        pass
    seen = terminal(server)
    assert (seen.status, seen.err) == (1, "")
    found = f"could not connect to 127.0.0.1:{server.server_address[1]}: Connection refused"
    assert f"answers             FAILED    {found}\n" in seen.out
    assert "-> check the host and the port in the URL: nothing listens there, or a firewall refuses\n" in seen.out


def test_a_proxy_that_is_not_running(capsys: pytest.CaptureFixture[str]) -> None:
    """If the proxy cannot be reached, the advice is about the proxy and its variables rather than the address."""
    found, advice = reach(capsys, "https://host.invalid/v1", proxy="http://someone:pass-canary@127.0.0.1:9")
    assert (found, advice) == ("could not connect to the proxy 127.0.0.1:9: Connection refused", CHECK_PROXY)


def test_a_proxy_that_hangs(capsys: pytest.CaptureFixture[str]) -> None:
    """If the proxy does not connect to the server in time, the advice is about the proxy too."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        found = reach(capsys, "https://host.invalid/v1", "--timeout", "0.2", proxy=f"http://{address}")
    problem = f"the proxy {address} did not connect to host.invalid:443 within 0.2 s (timeout: first_delta)"
    assert found == (problem, CHECK_PROXY)


def test_a_host_that_does_not_resolve(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """If the host name does not resolve, the advice is about the name."""

    def getaddrinfo(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert reach(capsys, "https://host.invalid/v1") == (
        "could not connect to host.invalid:443: Name or service not known",
        "check the host name in the URL, and whether this machine can resolve it (DNS, VPN)",
    )


def test_a_certificate_that_nobody_trusts(capsys: pytest.CaptureFixture[str]) -> None:
    """If the certificate is not trusted, the advice is about certificates."""
    with Loopback(answering({}), tls=SERVER_TLS) as server:
        found, advice = reach(capsys, server.base_url.replace("http:", "https:"))
    assert "CERTIFICATE_VERIFY_FAILED" in found
    assert advice == (
        "set SSL_CERT_FILE to the certificate (.pem) of the authority that signed this one, such as your company's"
        " proxy"
    )


def test_a_server_that_is_slow(capsys: pytest.CaptureFixture[str]) -> None:
    """If the server was reached but did not answer in time, the advice is to wait rather than to check the address."""

    def hang(_: Request) -> Iterator[bytes]:
        yield b""
        server.left_within(5)

    with Loopback(hang) as server:
        found = reach(capsys, server.base_url, "--timeout", "0.2")
    assert found == (
        "there was no answer within 0.2 s (timeout: first_delta)",
        "try again, or wait longer with --timeout; if it persists, contact the operator of the server",
    )


def test_a_server_that_hangs_up(capsys: pytest.CaptureFixture[str]) -> None:
    """If the connection breaks before the response, the advice is to check the URL."""

    def hang_up(_: Request) -> Iterator[bytes]:
        raise HangUpError
        yield b""

    with Loopback(hang_up) as server:
        found, advice = reach(capsys, server.base_url)
    assert found.startswith(
        f"the connection to 127.0.0.1:{server.server_address[1]} broke before the server's response"
    )
    assert advice == "check the URL, and whether this machine can reach it"


@pytest.mark.parametrize("model", ["", "."])
def test_an_invalid_argument_is_not_a_failure_of_the_endpoint(terminal: Terminal, model: str) -> None:
    """An invalid argument is reported as such, not as a failure of the endpoint."""
    with Loopback(answering({})) as server:
        seen = terminal(server, "--model", model)
    assert (seen.status, seen.out, seen.asked) == (2, "", [])
    assert seen.err.startswith("model must be the name of a model, such as qwen3_32b.\n")


ECHOES = {
    "refusal": {"stream": refusal("400 Bad Request", f"{TOKEN} {PROJECT} {HEADER} {KEY}")},
    "later refusal": {"tools": refusal("400 Bad Request", f"tools: {TOKEN} {PROJECT} {HEADER} {KEY}")},
    "answer": {"stream": frames({"content": f"{TOKEN} {PROJECT} {HEADER} {KEY}"})},
    "error in the answer": {
        "stream": STREAM_HEAD + chunk(b'data: {"error": "%s %s"}\n\n' % (TOKEN.encode(), PROJECT.encode())) + END
    },
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("path", ["", f"/project/p-{PROJECT}/genai/qwen3_32b/v1"], ids=["host", "complete"])
def test_no_secret_is_printed(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, echo: str, path: str
) -> None:
    """Secrets that the server repeats are not printed or logged."""
    with Loopback(answering(ECHOES[echo])) as server:
        headers = {"X-Tenant": HEADER}
        client = Client(PROJECT, TOKEN, base_url=f"{server.url}{path}?apikey={KEY}", default_headers=headers)
        doctor = Examination(client, TOKEN)
        print_report(doctor)
    shown = f"{capsys.readouterr()} {json.dumps(doctor.report.as_json())} {caplog.text}"
    assert [secret for secret in (TOKEN, PROJECT, HEADER, KEY) if secret in shown] == []


def expiring(**until: float) -> tuple[str, datetime]:
    """Return a token and its expiry."""
    date = datetime.now(UTC).replace(microsecond=0) + timedelta(**until)
    return jwt({"exp": int(date.timestamp())}), date


def test_an_expired_token_is_reported_without_a_request(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expired token is reported without any request, with exit status 1."""
    token, date = expiring(days=-1)
    monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", token)
    with Loopback(answering({})) as server:
        seen, report = terminal(server), json.loads(terminal(server, "--json").out)
    assert (seen.status, seen.err, seen.asked) == (1, "", [])
    assert by_name(report) == {
        "token": ("failed", f"expired on {date:%Y-%m-%d}", "create a new access token in TIR"),
    }


@pytest.mark.parametrize(("days", "status", "advice"), [(12, "limited", "create a new one in time"), (200, "ok", "")])
def test_a_token_that_expires_soon_is_to_be_renewed(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, days: int, status: str, advice: str
) -> None:
    """A token that expires within 30 days should be renewed, and the other checks still run."""
    token, date = expiring(days=days, hours=12)
    monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", token)
    with Loopback(answering({})) as server:
        findings = terminal.findings(server)
    assert findings["token"] == (status, f"expires on {date:%Y-%m-%d}, in {days} days", advice)
    assert findings["answers"][0] == "ok"


def test_without_a_token_there_is_no_expiry(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a token, the report does not mention its expiry."""
    with Loopback(answering({})) as server:
        seen = Terminal(capsys).run("doctor", "--base-url", server.base_url, "--json")
    assert seen.status == 0
    assert by_name(json.loads(seen.out)).get("token", ("", "", ""))[1] != "it is set, and contains no expiry date"


def test_a_model_that_calls_no_tool_is_not_called_unable(terminal: Terminal) -> None:
    """If the model read about the tool but did not call it, the result is unknown."""
    with Loopback(answering({"tools": whole("Sunny.", tokens=50)})) as server:
        assert terminal.findings(server)["native tools"] == (
            "unknown",
            "the model did not call the tool",
            'if your agent does not call tools either, set tool_calling="prompted"',
        )


@pytest.mark.parametrize("usage", [{"completion_tokens": 5}, {"prompt_tokens": None}], ids=repr)
def test_dropped_tools_cannot_be_detected_without_token_counts(terminal: Terminal, usage: dict[str, Any]) -> None:
    """Without token counts, nobody can tell whether the server drops tools."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Sunny."}, "finish_reason": "stop"}
    said = response({"id": "x", "choices": [choice], "usage": usage})
    with Loopback(answering({"tools": said, "no tools": said})) as server:
        assert terminal.findings(server)["native tools"][:2] == ("unknown", "the model did not call the tool")


def test_missing_token_counts_are_reported(terminal: Terminal) -> None:
    """If the server sends no token counts, the report says so and counts nothing."""
    answers = {name: whole("391", tokens=None) for name in ("switch", "no tools")}
    answers["tools"] = whole(None, tokens=None, tool_calls=[CALL])
    answers["structured"] = whole(OBJECT, tokens=None)
    with Loopback(answering({**answers, "stream": frames({"content": "391"})})) as server:
        report = json.loads(terminal(server, "--json").out)
    assert by_name(report)["token counts"] == (
        "limited",
        "do not come with streams",
        "do not stream where you need token counts",
    )
    assert (report["prompt_tokens"], report["completion_tokens"]) == (0, 0)


BUDGETS: dict[str, tuple[dict[str, bytes], str, str]] = {
    "short": (
        {"budget": whole("391", reasoning_content="Hm.")},
        "unknown",
        "the model thought for fewer than 16 tokens",
    ),
    "empty": ({"continued": whole("")}, "unknown", "there was no answer (finish_reason stop)"),
    "ignored": (
        {"continued": whole("391", reasoning_content="Hm again.")},
        "limited",
        "continue_final_message is ignored: the model thinks again",
    ),
    "refused": (
        {"continued": refusal("400 Bad Request", "Extra inputs are not permitted, field: 'continue_final_message'")},
        "limited",
        "does not continue a message: answers after a thinking_budget are requested without thinking",
    ),
    "down": ({"budget": refusal("409 Conflict", "gone")}, "unknown", "409 Conflict: gone"),
}


@pytest.mark.parametrize("case", BUDGETS)
def test_how_a_thinking_budget_is_kept(case: str, terminal: Terminal) -> None:
    """The report says how the endpoint takes a thinking budget."""
    answers, status, found = BUDGETS[case]
    with Loopback(answering(answers)) as server:
        finding = terminal.findings(server)["thinking budget"]
    assert finding[:2] == (status, found)


def test_without_reasoning_there_is_no_budget(terminal: Terminal) -> None:
    """The budget is not examined if the model does not reason."""
    with Loopback(answering({"stream": frames({"content": "391"})})) as server:
        assert "thinking budget" not in terminal.findings(server)


def test_an_answer_of_reasoning_alone_is_reported(terminal: Terminal) -> None:
    """An answer that consists of reasoning only is reported as such."""
    with Loopback(answering({"stream": frames({"reasoning": "Hm."}, reason="length")})) as server:
        findings = terminal.findings(server)
    assert findings["answers"][1] == "as qwen: nothing but reasoning (finish_reason length)"
    assert findings["reasoning"] == ("ok", "comes in the field reasoning", "")


def test_an_empty_answer_is_not_called_reasoning(terminal: Terminal) -> None:
    """An empty answer is not reported as reasoning."""
    with Loopback(answering({"stream": frames({"content": ""})})) as server:
        assert "reasoning" not in terminal.findings(server)["answers"][1]


def test_truncated_thinking_shows_an_ignored_switch(terminal: Terminal) -> None:
    """A server that keeps thinking until it is truncated ignores the switch."""
    answers = {"switch": whole(None, reasoning_content="Hm, 17 times", reason="length")}
    with Loopback(answering(answers)) as server:
        assert terminal.findings(server)["thinking off"][0] != "ok"


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Internal Server Error"])
def test_a_check_that_fails_for_another_reason_is_unknown(terminal: Terminal, status: str) -> None:
    """A check that fails for another reason is unknown and says why."""
    later = ("switch", "tools", "structured", "context")
    with Loopback(answering(dict.fromkeys(later, refusal(status, "come later")))) as server:
        findings = terminal.findings(server)
    for name in ("thinking off", "native tools", "structured output", "context window"):
        assert findings[name][:2] == ("unknown", f"{status}: come later")


NO_SCHEMA = {
    "a sentence": whole("It is 391."),
    "refused": refusal("400 Bad Request", "response_format is not supported"),
}


@pytest.mark.parametrize("answer", NO_SCHEMA)
def test_a_server_without_schemas_is_reported(terminal: Terminal, answer: str) -> None:
    """If the server rejects or ignores a schema, the report says what happens instead."""
    with Loopback(answering({"structured": NO_SCHEMA[answer]})) as server:
        assert terminal.findings(server)["structured output"] == (
            "limited",
            "does not enforce response_format: the schema is written into the messages",
            "",
        )


def test_an_object_of_another_schema_is_limited(terminal: Terminal) -> None:
    """A server that returns an arbitrary object does not enforce the schema."""
    with Loopback(answering({"structured": whole('{"result": "391"}')})) as server:
        assert terminal.findings(server)["structured output"][0] == "limited"


OBJECTS = {
    "fenced": (f"```json\n{OBJECT}\n```", ("ok", "response_format is obeyed", "")),
    "another object": ('{"result": 391}', ("limited", "the answer is an object that does not match the schema", "")),
}


@pytest.mark.parametrize("answer", OBJECTS)
def test_the_first_answer_is_judged(terminal: Terminal, answer: str) -> None:
    """Only the first answer shows whether a schema is enforced, so it is not corrected."""
    said, finding = OBJECTS[answer]
    with Loopback(answering({"structured": whole(said), "described": whole(OBJECT)})) as server:
        assert terminal.findings(server)["structured output"] == finding


@pytest.mark.parametrize(
    ("message", "length"),
    [
        ("'max_tokens' is too large: 10000000. This model's maximum context length is 40960 tokens.", 40960),
        ("max_tokens=10000000cannot be greater than max_model_len=32768. Please request fewer tokens.", 32768),
        ("This model's maximum context length is 32,768 tokens, you requested 10,000,005.", 32768),
        ("The input (9 tokens) is longer than the model's context length (8192 tokens).", 8192),
        ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 2 and 10000000", 4096),
        ("request (9024 tokens) exceeds the available context size (4096 tokens), try increasing it", 4096),
    ],
)
def test_the_context_window_in_the_words_of_servers(terminal: Terminal, message: str, length: int) -> None:
    """The length is found in the error, whichever other numbers it contains."""
    with Loopback(answering({"context": refusal("400 Bad Request", message)})) as server:
        found = terminal.findings(server)["context window"]
    assert found == ("ok", f"{length} tokens of prompt and answer together", "")


def test_a_limit_of_the_answer_is_not_the_context_window(terminal: Terminal) -> None:
    """Some services limit the answer to less than the model's context window."""
    with Loopback(answering({"context": refusal("400 Bad Request", "max_tokens must be <= 8192")})) as server:
        found = terminal.findings(server)["context window"]
    assert found == ("unknown", "400 Bad Request: max_tokens must be <= 8192", "")


def test_a_server_that_accepts_any_limit_is_stopped(terminal: Terminal) -> None:
    """If the server starts to generate millions of tokens, doctor hangs up at the first one."""
    hung_up: list[bool] = []

    def generate() -> Iterator[bytes]:
        yield STREAM_HEAD + event("Hello")
        hung_up.append(server.left_within(10))

    with Loopback(lambda got: generate() if kind(got.json()) == "context" else answering({})(got)) as server:
        found = terminal.findings(server)["context window"]
        assert server.noticed()
    assert (found, hung_up) == (("unknown", "the server does not say", "Qwen3-32B itself has 32,768"), [True])


def test_an_empty_answer_does_not_show_an_enforced_schema(terminal: Terminal) -> None:
    """An empty answer does not show whether the schema is enforced."""
    with Loopback(answering({"structured": whole("")})) as server:
        assert terminal.findings(server)["structured output"][0] == "unknown"


def test_a_small_context_window_says_nothing_about_tools(terminal: Terminal) -> None:
    """A question that exceeds a small context window says nothing about tools."""
    overflow = refusal("400 Bad Request", "This model's maximum context length is 512 tokens.")
    with Loopback(answering({"tools": overflow})) as server:
        assert terminal.findings(server)["native tools"][0] == "unknown"


def test_garbage_after_the_answer_is_ignored(terminal: Terminal) -> None:
    """Data after the end of an answer is ignored."""
    after = GOOD["stream"].removesuffix(END) + chunk(b'data: {"choices": [null]}\n\n') + END
    with Loopback(answering({"stream": after})) as server:
        assert terminal(server).status == 0


def test_nothing_is_logged_beside_the_report(terminal: Terminal, caplog: pytest.LogCaptureFixture) -> None:
    """The log does not repeat the findings between the lines of the report."""
    with Loopback(answering({"structured": NO_SCHEMA["a sentence"]})) as server:
        terminal(server)
    assert caplog.messages == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_with_few_characters_gets_the_whole_report(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """A terminal with a limited encoding still gets the whole report."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    with Loopback(answering({"stream": frames({"content": "१७ → ३९१"})})) as server:
        assert main(["doctor", "--base-url", server.url]) == 0
    out.seek(0)
    assert "\ncontext window " in out.read()
