"""Coverage-guided fuzzing: `python -m stress.fuzz [--seconds N] [--target NAME]`; requires atheris.

Whatever the input, nothing but a TIRError may be raised, within limits of memory and time. A finding is printed with
the bytes that caused it; `--target NAME --replay BYTES` runs only those, without atheris.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
from langchain_core import messages as langchain
from llama_index.core.base.llms import types as llama
from pydantic import ValidationError

from langchain_tir_qwen._messages import messages_to_wire as langchain_to_wire
from llama_index_tir_qwen._messages import messages_to_wire as llama_index_to_wire
from tests.support.captures import CAPTURES
from tir_qwen import Client, ConfigurationError, TIRError
from tir_qwen._request.body import Body
from tir_qwen._request.build import build_request
from tir_qwen._request.endpoint import resolve_endpoint
from tir_qwen._response.choice import DecodingOptions
from tir_qwen._response.response import ResponseDecoder
from tir_qwen._response.server_errors import error_from_frame, error_from_response
from tir_qwen._response.text.newlines import NewlineTrimmer
from tir_qwen._response.text.think_tags import ThinkSplitter
from tir_qwen._response.text.tool_calls import ToolCallParser

PACKAGES = ["tir_qwen", "langchain_tir_qwen", "llama_index_tir_qwen"]
MAX_LENGTH = 4096
MAX_GROWTH_MB = 64
"""Maximum growth of the process's peak memory by one execution."""
MAX_SECONDS = 10
"""Maximum duration of one execution."""
MAX_WORDS = 2000
"""Maximum length of any error, in characters."""
CANARY = "c4n4ry"
_LOCAL = "http://127.0.0.1:1/v1"
_MADE_ID = re.compile(r"[0-9a-f]{32}(?=(-\d+)?-call-)")
WORDS = [
    *("role", "content", "name", "type", "text", "id", "function", "arguments", "parameters", "tool_calls", "tools"),
    *("tool_call_id", "reasoning", "reasoning_content", "tool_choice", "response_format", "json_schema", "schema"),
    *("json_object", "object", "properties", "required", "anyOf", "enum", "$ref", "tool_calling", "prompted", "both"),
    *("schema_in", "messages", "enable_thinking", "chat_template_kwargs", "extra_body", "stop", "n", "model", "system"),
    *("user", "assistant", "tool", "auto", "none", "parallel_tool_calls", "stream_options", "timeout", "max_retries"),
    *("tool_use", "json", "image", "function_call", "title", "source", "temperature", "max_tokens", "block_type"),
]

BLOCK = ("type", "text", "reasoning", "json", "index", "content")


class Draw:
    """Derives values from the fuzzer's bytes; when these run out, values are empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """Return a number below 256."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one_of(self, *choices: Any) -> Any:
        """Return one of the choices."""
        return choices[self.byte() % len(choices)]

    def text(self) -> str:
        """Return a word of the API, or any short text, perhaps with lone surrogates."""
        number = self.byte()
        if number < 128:
            return WORDS[number % len(WORDS)]
        raw = bytes(self.byte() for _ in range(number % 16))
        return raw.decode("utf-8", self.one_of("replace", "surrogateescape", "backslashreplace"))

    def items(self) -> range:
        """Return a range of the length of a short list."""
        return range(self.byte() % 5)

    def value(self, depth: int = 4) -> Any:
        """Return any value, valid in JSON or not."""
        kind = self.byte() % 16
        if depth and kind < 5:
            return {self.text(): self.value(depth - 1) for _ in self.items()}
        if depth and kind < 8:
            return [self.value(depth - 1) for _ in self.items()]
        if kind < 12:
            return self.text()
        number = self.byte()
        odd = (None, True, False, b"\xff", {1}, float("nan"), 1e999, 10**400, object(), (1,), {1: 2}, {None: 0}, -1)
        return odd[number % 32] if number % 32 < len(odd) else number

    def content(self) -> Any:
        """Return a text, or a list of texts and blocks."""
        if self.byte() % 4 == 0:
            return self.text()
        return [self.one_of(self.text(), self.some(*BLOCK), self.some(*BLOCK)) for _ in self.items()]

    def some(self, *names: str) -> dict[str, Any]:
        """Return some of these fields, with any values."""
        return {name: self.value() for name in names if self.byte() % 3 == 0}


def pieces(body: Any, cuts: bytes) -> Iterator[Any]:
    """Split a text or bytes at these positions."""
    places = sorted({0, len(body), *(at * len(body) // 256 for at in cuts)})
    return (body[start:end] for start, end in zip(places, places[1:] or places, strict=False))


def decoded(body: Any, expected: DecodingOptions) -> tuple[str, ...]:
    """Return everything decoded from an answer as text, without generated ids."""
    decoder = ResponseDecoder((), expected)
    deltas, error = [], ""
    try:
        for piece in body:
            deltas.extend(decoder.feed(piece))
        deltas.extend(decoder.close())
    except TIRError as caught:
        error = f"{type(caught).__name__}: {caught}"
        assert len(error) < MAX_WORDS
    assert decoder.done == (not error)
    return _MADE_ID.sub("", repr(deltas)), _MADE_ID.sub("", repr(decoder.completion())), error


def fuzz_decoder(data: bytes) -> None:
    """An answer is decoded equally however its bytes are split, with any options."""
    body, cuts, flags = data[:-5], data[-5:-1], data[-1] if data else 0
    named = "get_weather" if flags & 2 else None
    expected = DecodingOptions(bool(flags & 1), named, bool(flags & 4), bool(flags & 8), bool(flags & 16))
    whole = decoded([body], expected)
    assert decoded(pieces(body, cuts), expected) == whole
    assert decoded((body[at : at + 1] for at in range(min(len(body), 400))), expected) == decoded(
        [body[:400]], expected
    )


def thought(texts: Iterator[str]) -> tuple[str, str]:
    """Return the reasoning and the answer in the texts."""
    splitter = ThinkSplitter()
    said = [*(splitter.feed(text) for text in texts), splitter.close()]
    return "".join(reasoning or "" for reasoning, _ in said), "".join(answer for _, answer in said)


def trimmed(texts: Iterator[str], leading: bool) -> tuple[str, str]:
    """Return the trimmed text, and what is held back at the end."""
    trimmer = NewlineTrimmer(leading=leading)
    return "".join([trimmer.feed(text) for text in texts]), trimmer.release()


def called(texts: Iterator[str]) -> list[list[str]]:
    """Return the texts, and the calls as index, id, name and arguments."""
    splitter = ToolCallParser()
    found: list[list[str]] = []
    for text in texts:
        for each in splitter.feed(text):
            add(found, each)
    for each in splitter.close():
        add(found, each)
    return found


def add(found: list[list[str]], each: Any) -> None:
    """Append a part, merged with the text or call that it continues."""
    parts = ["", each] if isinstance(each, str) else [str(each.index), each.id or "", each.name or "", each.arguments]
    if found and found[-1][0] == parts[0] and len(found[-1]) == len(parts):
        found[-1][1:] = [one + more for one, more in zip(found[-1][1:], parts[1:], strict=True)]
    else:
        found.append(parts)


def fuzz_splitters(data: bytes) -> None:
    """A text is parsed equally however it is split, and nothing is lost."""
    text, cuts = data[:-4].decode("utf-8", "replace"), data[-4:]
    reasoning, answer = thought(pieces(text, cuts))
    assert (reasoning, answer) == thought(iter([text]))
    assert (reasoning, answer) == ("", text) or text.lstrip() in (
        f"<think>{reasoning}</think>{answer}",
        f"<think>{reasoning}",
    )
    for leading in (False, True):
        kept, held = trimmed(pieces(text, cuts), leading)
        assert (kept, held) == trimmed(iter([text]), leading)
        assert kept + held == (text.lstrip("\n") if leading else text)
    found = called(pieces(text, cuts))
    assert found == called(iter([text])) == called(iter(text))
    if "<tool_call>" not in text:
        assert "".join(each[1] for each in found) == text


def fuzz_settings(data: bytes) -> None:
    """Settings are rejected or lead to a request without control characters; no error contains a secret."""
    draw = Draw(data)
    secret = f"{CANARY}{draw.text()}"
    arguments: dict[str, Any] = {
        "project_id": draw.one_of(6530, "p-1", secret, draw.text(), draw.value()),
        "access_token": draw.one_of("token", secret, draw.value()),
        "base_url": draw.one_of(
            None, f"https://{draw.text()}.invalid/v1?key={secret}", secret, draw.text(), draw.value()
        ),
        "apikey": draw.one_of(None, secret, draw.value()),
        "headers": draw.one_of(None, {draw.text(): secret}, {"X-A": draw.text()}, draw.value()),
    }
    try:
        endpoint = resolve_endpoint(**arguments, allow_http=bool(draw.byte() % 2))
        model, messages = draw.one_of("m", draw.text(), draw.value()), [{"role": "user", "content": "x"}]
        request = build_request(endpoint, model, Body(messages=messages), stream=bool(draw.byte() % 2))
    except ConfigurationError as error:
        assert CANARY not in repr(error)  # noqa: PT017 - no test
        return
    assert CANARY not in repr(endpoint)
    for text in (request.url, *request.headers.keys(), *request.headers.values()):
        assert text.isascii()
        assert text.isprintable()


def langchain_message(draw: Draw) -> Any:
    """Return a message that LangChain accepts."""
    kinds = [getattr(langchain, f"{name}Message") for name in ("Human", "AI", "System", "Tool", "Function", "Chat")]
    kind = draw.one_of(*kinds)
    fields: dict[str, Any] = {"additional_kwargs": draw.some("reasoning_content", "function_call", "tool_calls")}
    if draw.byte() % 2:
        fields["name"] = draw.text()
    if kind is langchain.AIMessage and draw.byte() % 2:
        fields["tool_calls"] = [{"name": draw.text(), "args": {"x": draw.value()}, "id": draw.text()}]
    if kind is langchain.ToolMessage:
        fields["tool_call_id"] = draw.text()
    elif kind is langchain.ChatMessage:
        fields["role"] = draw.text()
    return kind(content=draw.content(), **fields)


def llama_index_message(draw: Draw) -> Any:
    """Return a message that LlamaIndex accepts."""
    blocks: list[Any] = []
    for _ in draw.items():
        kind = draw.byte() % 4
        if kind == 0:
            blocks.append(llama.TextBlock(text=draw.text()))
        elif kind == 1:
            blocks.append(llama.ThinkingBlock(content=draw.text(), additional_information=draw.some("title")))
        elif kind == 2:
            blocks.append(llama.ToolCallBlock(tool_name=draw.text(), tool_kwargs=draw.one_of({"x": draw.value()}, "{")))
        else:
            inner = [llama.TextBlock(text=draw.text()) for _ in draw.items()]
            blocks.append(llama.CitableBlock(title=draw.text(), source=draw.text(), content=inner))
    kwargs = draw.some("tool_calls", "name", "tool_call_id")
    return llama.ChatMessage(role=draw.one_of(*llama.MessageRole), blocks=blocks, additional_kwargs=kwargs)


def fuzz_face(data: bytes, make: Callable[[Draw], Any], to_wire: Callable[[Any], Any]) -> None:
    """Messages that a framework accepts are either sent or rejected."""
    draw = Draw(data)
    try:
        messages = [make(draw) for _ in range(1 + draw.byte() % 3)]
    except (ValidationError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return  # rejected by the framework itself
    try:
        build_request(resolve_endpoint(base_url=_LOCAL), "m", Body(messages=to_wire(messages)), stream=False)
    except ConfigurationError as error:
        assert len(str(error)) < MAX_WORDS  # noqa: PT017 - no test


def fuzz_calls(data: bytes) -> None:
    """Messages and parameters of any kind that are passed to a client are either sent or rejected."""
    draw = Draw(data)
    roles = ("user", "assistant", "system", "tool", draw.value())
    names = ("tool_calls", "name", "tool_call_id", "reasoning_content", "reasoning")
    messages = [{"role": draw.one_of(*roles), "content": draw.value(), **draw.some(*names)} for _ in draw.items()]
    params: dict[str, Any] = {draw.text(): draw.value()} if draw.byte() % 2 else {}
    params.pop("messages", None)  # passed by position
    names = (
        "tools",
        "tool_choice",
        "response_format",
        "tool_calling",
        "schema_in",
        "n",
        "enable_thinking",
        "extra_body",
    )
    params |= draw.some(*names)
    client = Client(base_url=_LOCAL, max_retries=0, http_client=HTTP)
    try:
        for _ in client.stream(draw.one_of(messages, messages, draw.value()), **params):
            pass
    except TIRError as error:
        assert len(str(error)) < MAX_WORDS  # noqa: PT017 - no test


ANSWER = b'{"choices":[{"message":{"content":"{}","reasoning":"Hm."},"finish_reason":"stop"}]}'
HTTP = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=ANSWER)))


def fuzz_failure(data: bytes) -> None:
    """Any error response becomes an exception of this package with a short message and a reasonable delay."""
    body, draw = data[:-20], Draw(data[-20:])
    status = draw.one_of(400, 401, 404, 413, 422, 429, 500, 503, 302, 999)
    after = bytes(draw.byte() for _ in range(18)).decode("latin-1")
    headers = {"retry-after": after, "retry-after-ms": after[:4], "x-request-id": after}
    for headers_too in (headers, {"retry-after": body[:60].decode("latin-1")}):
        error = error_from_response(status, headers_too, body, (CANARY, "a"))
        assert error.retry_after is None or 0 <= error.retry_after < float("inf")
        assert len(str(error)) < MAX_WORDS
    for frame in (body.decode("utf-8", "replace"), {"error": body.decode("latin-1")}, [{"msg": after}]):
        assert len(str(error_from_frame(frame, (CANARY,)))) < MAX_WORDS


TARGETS: dict[str, Callable[[bytes], None]] = {
    "decoder": fuzz_decoder,
    "splitters": fuzz_splitters,
    "settings": fuzz_settings,
    "langchain": lambda data: fuzz_face(data, langchain_message, langchain_to_wire),
    "llama_index": lambda data: fuzz_face(data, llama_index_message, llama_index_to_wire),
    "calls": fuzz_calls,
    "failure": fuzz_failure,
}
WRITTEN = '<think>\nHm.\n</think>\n\nI look.\n<tool_call>\n{"name": "f", "arguments": {"x": [1, "}"]}}\n</tool_call>'


def seeds(target: str) -> list[bytes]:
    """Return the initial corpus of a target."""
    if target == "splitters":
        return [WRITTEN.encode() + bytes(4)]
    if target == "decoder":
        bodies = {capture.body[: MAX_LENGTH - 5] for capture in CAPTURES if capture.status == 200}
        return [body + bytes(5) for body in sorted(bodies)]
    if target == "failure":
        return [capture.body[:2000] + bytes(20) for capture in CAPTURES if capture.status != 200]
    return [bytes(range(number, 256, 7)) * 3 for number in range(20)]


def place_of(error: BaseException) -> str:
    """Describe where an error was raised: its type, its line, and our innermost line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if PACKAGES[0] in frame.filename]
    within = f" in {ours[-1]}" if ours else ""
    return f"{type(error).__name__} at line {frames[-1].lineno} of {Path(frames[-1].filename).name}{within}"


def run(target: str, *options: str) -> None:
    """Fuzz in this process, with instrumented imports; never returns."""
    seen: set[str] = set()

    def one(data: bytes) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        place = ""
        try:
            TARGETS[target](data)
        except Exception as error:  # noqa: BLE001 - these are the findings
            place = place_of(error)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        place = place or (f"{grown} MB of memory" if grown > MAX_GROWTH_MB else "")
        if place and place not in seen:
            seen.add(place)
            print(f"FINDING {place}: {data!r}", flush=True)

    atheris = import_module("atheris")
    atheris.Setup(["fuzz", *options], one)
    atheris.Fuzz()


def start(target: str, seconds: int) -> list[str]:
    """Fuzz one target in a subprocess, print its figures and return its findings."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for number, seed in enumerate(seeds(target)):
            (corpus / str(number)).write_bytes(seed)
        options = [str(corpus), f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", f"-timeout={MAX_SECONDS}"]
        options += ["-rss_limit_mb=1500", "-print_final_stats=1", f"-artifact_prefix={folder}/crash-", "-seed=1"]
        code = f"import atheris\nwith atheris.instrument_imports(include={PACKAGES}):\n import stress.fuzz as f\n"
        command = [sys.executable, "-c", f"{code}f.run({target!r}, *{options})"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        findings = re.findall(r"^FINDING (.*)$", done.stdout, re.MULTILINE)
        findings += [f"{one.name.split('-')[1]}: {one.read_bytes()!r}" for one in Path(folder).glob("crash-*")]
    count, rate = (_last(rf"stat::{name}:\s+(\d+)", done.stderr) for name in _STATS)
    edges, features = _last(r"cov: (\d+)", done.stderr), _last(r"ft: (\d+)", done.stderr)
    print(f"{target:12}{count:>12}{rate:>9}{edges:>8}{features:>10}{len(findings):>10}", flush=True)
    if not count:
        findings.append(f"the run itself failed: {done.stderr[-2000:]}")
    return findings


_STATS = ("number_of_executed_units", "average_exec_per_sec")


def _last(pattern: str, text: str) -> str:
    return (re.findall(pattern, text) or [""])[-1]


def main() -> None:
    """Fuzz the targets in turn."""
    parser = argparse.ArgumentParser(prog="python -m stress.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="seconds per target (default: 60)")
    parser.add_argument("--target", choices=TARGETS, help="fuzz only this target")
    parser.add_argument("--replay", metavar="BYTES", help="run only these bytes, copied from a finding")
    options = parser.parse_args()
    if options.replay:
        TARGETS[options.target or parser.error("--replay needs --target")](ast.literal_eval(options.replay))
        return
    if importlib.util.find_spec("atheris") is None:
        sys.exit("This needs atheris, which is not a dependency: pip install atheris")
    print(f"{'target':12}{'executions':>12}{'per s':>9}{'edges':>8}{'features':>10}{'findings':>10}")
    findings = {name: start(name, options.seconds) for name in ([options.target] if options.target else TARGETS)}
    for name, found in findings.items():
        for finding in found:
            print(f"\n{name}: {finding}")
    sys.exit(any(findings.values()))


if __name__ == "__main__":
    main()
