"""The checks of `tir-qwen doctor`: a few small requests, and what their answers show.

Each check sends its request as a user's program would, so that it runs into the same limitations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from .._client.client import Client
from .._dialect.capabilities import describe_limit
from .._dialect.json_answer import extract_json
from .._dialect.json_schema import find_mismatch
from .._dialect.thinking_budget import LAST_SENTENCE, REACHED
from .._json import parse_object
from .._response.accumulator import Accumulator
from ..errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    ContextOverflowError,
    InternalServerError,
    MalformedChunkError,
    NotFoundError,
    RateLimitError,
    TIRError,
)
from ..types import JSON, Completion
from .fingerprint import extract_deltas, guess_vllm_version, parse_frames, token_expiry
from .report import CheckResult, Report

COST = "This takes about nine requests and a few hundred tokens."
_QUESTION = "What is 17 * 23?"
_BUDGET = 16
"""Tokens of reasoning that are not enough for the question."""
_NOTE_AGE = "note when it was created: TIR's tokens expire after 365 days"
_USE_WHOLE_ANSWERS = "do not stream where you need token counts"
_OTHER_EMBEDDINGS = "TIR's dashboard shows which embedding models your project can use"
_PROMPT_TOOLS = 'set tool_calling="prompted"'
_CONNECTION_ADVICE = {
    "proxy": "check the proxy: HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names it; NO_PROXY lists the hosts to reach without"
    " it",
    "name": "check the host name in the URL, and whether this machine can resolve it (DNS, VPN)",
    "refused": "check the host and the port in the URL: nothing listens there, or a firewall refuses",
    "unreachable": "check the host and the port in the URL, and whether a firewall or a VPN is in the way",
    "certificate": "set SSL_CERT_FILE to the certificate (.pem) of the authority that signed this one, such as your"
    " company's proxy",
    "tls": "check whether the URL should begin with http: instead, or have another port",
    "open_files": "raise the limit of open files (ulimit -n)",
}
_BROKEN_CONNECTION = "check the URL, and whether this machine can reach it"
_SLOW_SERVER = "try again, or wait longer with --timeout; if it persists, contact the operator of the server"
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}}
_CONTEXT_WINDOW = re.compile(
    r"(?i)(?:max(?:imum)?|model's|available) (?:model |context )?(?:length|size|window)\D{1,12}?(\d[\d,]*)"
    r"|max_(?:model|seq)_len\D{1,4}?(\d+)|tokens \+ \S+ must be <= (\d+)"
)


class Examination:
    """Examines one endpoint: `run` yields each result as soon as it is known."""

    def __init__(self, client: Client, token: str | None, embedding_model: str | None = None) -> None:
        """Prepare the examination.

        Args:
            client: Client of the endpoint. Its answers are recorded from now on.
            token: The access token, from which the expiry date is read if it contains one.
            embedding_model: Name of an embedding model, if one is to be tried.
        """
        self._client = client
        self._token = token
        self._embedding_model = embedding_model
        self._answer_bytes = bytearray()  # of the last answer
        self._has_reasoning = False  # if enable_thinking is unset
        client.tap = self._answer_bytes.extend
        self.report = Report(f"{client.model} at {client.endpoint}")

    def run(self) -> Iterator[CheckResult]:
        """Send the requests and yield the results."""
        checks: list[Callable[[], Iterator[CheckResult]]] = [
            self._token_expiry,
            self._stream,
            self._thinking_switch,
            self._thinking_budget,
            self._tools,
            self._structured_output,
            self._context_window,
            self._embeddings,
        ]
        for check in checks:
            for found in check():
                result = replace(found, found=self._client.redact(found.found))
                self.report.results.append(result)
                yield result
            if not self.report.usable:
                return

    def _token_expiry(self) -> Iterator[CheckResult]:
        if not self._token:
            yield CheckResult("token", "ok", "none is set, so none is sent")
            return
        expires = token_expiry(self._token)
        if expires is None:
            yield CheckResult("token", "ok", "it is set, and contains no expiry date", _NOTE_AGE)
            return
        days = (expires - datetime.now(UTC)).days
        when = f"expires on {expires:%Y-%m-%d}, in {days} days"
        if days < 0:
            yield CheckResult("token", "failed", f"expired on {expires:%Y-%m-%d}", "create a new access token in TIR")
        else:
            yield CheckResult(
                "token", "ok" if days > 30 else "limited", when, "" if days > 30 else "create a new one in time"
            )

    def _stream(self) -> Iterator[CheckResult]:
        """Check everything that a single streamed answer shows."""
        began = monotonic()
        first = None
        accumulator = Accumulator()
        try:
            for delta in self._client.stream([_user(_QUESTION)], max_tokens=400, max_retries=0):
                if first is None and (delta.content or delta.reasoning):
                    first = monotonic()
                accumulator.add(delta)
        except TIRError as error:
            yield CheckResult("answers", "failed", str(error), _advice_for(error, self._client.model))
            return
        ended = monotonic()
        completion = accumulator.completion()
        self._count(completion)
        quote = _quote(self._client.redact(completion.content), completion)
        yield CheckResult("answers", "ok", f"as {completion.model or 'a model without a name'}: {quote}")
        yield _speed(completion, began, first or ended, ended)
        frames = parse_frames(bytes(self._answer_bytes))
        self._has_reasoning = bool(completion.reasoning)
        yield _reasoning(frames, completion)
        yield _usage(completion)
        yield _server(frames)

    def _thinking_switch(self) -> Iterator[CheckResult]:
        name = "thinking off"
        completion = self._ask(_QUESTION, enable_thinking=False, max_tokens=400)
        if isinstance(completion, BadRequestError):
            yield CheckResult(name, "limited", str(completion), "leave enable_thinking unset")
        elif isinstance(completion, TIRError):
            yield CheckResult(name, "unknown", str(completion))
        elif not self._client.capabilities.template_kwargs:
            yield CheckResult(name, "limited", describe_limit("template_kwargs"))
        elif completion.reasoning.strip():
            yield CheckResult(name, "limited", describe_limit("thinking_switch"))
        elif not completion.content.strip():
            advice = "raise max_tokens, or leave enable_thinking unset"
            yield CheckResult(
                name, "unknown", f"there was no answer (finish_reason {completion.finish_reason})", advice
            )
        elif not self._has_reasoning:
            yield CheckResult(name, "unknown", "the model does not reason by default either")
        else:
            yield CheckResult(name, "ok", "enable_thinking=False is obeyed")

    def _thinking_budget(self) -> Iterator[CheckResult]:
        if not self._has_reasoning:
            return
        name = "thinking budget"
        completion = self._ask(_QUESTION, thinking_budget=_BUDGET, max_tokens=800)
        if isinstance(completion, TIRError):
            yield CheckResult(name, "unknown", str(completion))
        elif not completion.content.strip():
            yield CheckResult(name, "unknown", f"there was no answer (finish_reason {completion.finish_reason})")
        elif REACHED not in completion.response:
            yield CheckResult(name, "unknown", f"the model thought for fewer than {_BUDGET} tokens")
        elif not self._client.capabilities.continuation:
            yield CheckResult(name, "limited", describe_limit("continuation"))
        elif not completion.reasoning.endswith(LAST_SENTENCE):
            yield CheckResult(name, "limited", "continue_final_message is ignored: the model thinks again")
        else:
            yield CheckResult(name, "ok", "thinking_budget is kept; a second request continues the answer")

    def _tools(self) -> Iterator[CheckResult]:
        question = "What is the weather in Paris? Call the function."
        completion = self._ask(question, tools=[_TOOL], max_tokens=800)
        name = "native tools"
        if isinstance(completion, BadRequestError) and not isinstance(completion, ContextOverflowError):
            yield CheckResult(name, "limited", str(completion), _PROMPT_TOOLS)
        elif isinstance(completion, TIRError):
            yield CheckResult(name, "unknown", str(completion))
        elif not self._client.capabilities.tools:
            yield CheckResult(name, "limited", describe_limit("tools"))
        elif completion.tool_calls and b"<tool_call>" in bytes(self._answer_bytes):
            yield CheckResult(
                name, "limited", "the server does not parse calls", "no action needed: they are parsed here"
            )
        elif completion.tool_calls:
            yield CheckResult(name, "ok", "a call came back, parsed")
        elif self._ignores_tools(question, completion):
            found = "`tools` is ignored: the prompt is as long without them"
            yield CheckResult(name, "limited", found, _PROMPT_TOOLS)
        else:
            advice = f"if your agent does not call tools either, {_PROMPT_TOOLS}"
            yield CheckResult(name, "unknown", "the model did not call the tool", advice)

    def _ignores_tools(self, question: str, completion: Completion) -> bool:
        """Whether the prompt has the same number of tokens without the tools."""
        other = self._ask(question, max_tokens=1)
        if isinstance(other, TIRError) or not completion.usage or not other.usage:
            return False
        tokens = completion.usage.get("prompt_tokens")
        return bool(tokens) and tokens == other.usage.get("prompt_tokens")

    def _structured_output(self) -> Iterator[CheckResult]:
        name = "structured output"
        question = "Tell me in a sentence what 17 * 23 is."
        # The first answer shows whether the schema is enforced. With a validator that accepts it, it is the only one.
        completion = self._ask(question, response_format=_FORMAT, validate=lambda _: None, max_tokens=800)
        if isinstance(completion, TIRError):
            yield CheckResult(name, "unknown", str(completion))
        elif not self._client.capabilities.response_format:
            yield CheckResult(name, "limited", describe_limit("response_format"))
        elif completion.finish_reason == "length":
            yield CheckResult(name, "unknown", "the answer was truncated")
        elif not completion.content.strip():
            yield CheckResult(name, "unknown", "there was no answer")
        elif (answer := parse_object(extract_json(completion.content, is_object=True))) is None:
            yield CheckResult(name, "limited", describe_limit("response_format"))
        elif find_mismatch(answer, _SCHEMA):
            yield CheckResult(name, "limited", "the answer is an object that does not match the schema")
        else:
            yield CheckResult(name, "ok", "response_format is obeyed")

    def _context_window(self) -> Iterator[CheckResult]:
        name = "context window"
        try:
            # A server that accepts any limit would generate up to it. Closing the stream stops it.
            with closing(self._client.stream([_user("Hello")], max_tokens=10_000_000)) as deltas:
                next(deltas, None)
        except TIRError as error:
            found = _CONTEXT_WINDOW.search(str(error)) if isinstance(error, APIStatusError) else None
            if found is None:
                yield CheckResult(name, "unknown", str(error))
                return
            length = next(filter(None, found.groups())).replace(",", "")
            yield CheckResult(name, "ok", f"{length} tokens of prompt and answer together")
        else:
            yield CheckResult(name, "unknown", "the server does not say", "Qwen3-32B itself has 32,768")

    def _embeddings(self) -> Iterator[CheckResult]:
        if self._embedding_model is None:
            return
        name = "embeddings"
        try:
            answer = self._client.embed(["Paris"], model=self._embedding_model, max_retries=0)
        except TIRError as error:
            yield CheckResult(
                name, "limited", str(error), _OTHER_EMBEDDINGS if isinstance(error, NotFoundError) else ""
            )
        else:
            self.report.prompt_tokens += (answer.usage or {}).get("prompt_tokens") or 0
            yield CheckResult(name, "ok", f"{self._embedding_model}: vectors of {len(answer.vectors[0]):,} numbers")

    def _ask(self, question: str, **params: Any) -> Completion | TIRError:
        self._answer_bytes.clear()
        try:
            completion = self._client.complete([_user(question)], **params)
        except TIRError as error:
            return error
        self._count(completion)
        return completion

    def _count(self, completion: Completion) -> None:
        usage = completion.usage or {}
        self.report.prompt_tokens += usage.get("prompt_tokens") or 0
        self.report.completion_tokens += usage.get("completion_tokens") or 0


def _user(text: str) -> JSON:
    return {"role": "user", "content": text}


def _speed(completion: Completion, began: float, first: float, ended: float) -> CheckResult:
    latency = f"{first - began:.2f} s to the first words"
    tokens = (completion.usage or {}).get("completion_tokens")
    if not tokens or ended - first < 0.01:
        return CheckResult("speed", "ok", latency)
    return CheckResult("speed", "ok", f"{latency}, then {tokens / (ended - first):.0f} tokens per second")


def _reasoning(frames: list[JSON], completion: Completion) -> CheckResult:
    name = "reasoning"
    if not completion.reasoning:
        return CheckResult(name, "unknown", "there was none", "set enable_thinking=True if you want it")
    deltas = extract_deltas(frames)
    fields = [key for key in ("reasoning_content", "reasoning") if any(delta.get(key) for delta in deltas)]
    if fields:
        return CheckResult(name, "ok", f"comes in the field {' and '.join(fields)}")
    return CheckResult(name, "ok", "comes in the text, between <think> tags, and is extracted here")


def _usage(completion: Completion) -> CheckResult:
    if completion.usage:
        return CheckResult("token counts", "ok", "come with streams")
    return CheckResult("token counts", "limited", "do not come with streams", _USE_WHOLE_ANSWERS)


def _server(frames: list[JSON]) -> CheckResult:
    version = guess_vllm_version(frames)
    if version is None:
        return CheckResult("server", "unknown", "its answers do not show which version of vLLM it is")
    return CheckResult("server", "ok", f"answers like vLLM {version}")


def _quote(content: str, completion: Completion) -> str:
    text = " ".join(content.split())
    if not text and not completion.reasoning:
        return f"nothing (finish_reason {completion.finish_reason})"
    if not text:
        return f"nothing but reasoning (finish_reason {completion.finish_reason})"
    return f'"{text[:60]}{"..." if len(text) > 60 else ""}"'


def _advice_for(error: TIRError, model: str) -> str:
    if isinstance(error, APIConnectionError):
        otherwise = _SLOW_SERVER if isinstance(error, APITimeoutError) else _BROKEN_CONNECTION
        return _CONNECTION_ADVICE.get(error.reason, otherwise)
    if isinstance(error, MalformedChunkError):
        return "check the URL: the server there does not speak this protocol"
    if isinstance(error, NotFoundError):
        return f"check the name of the model, {model} (--model sets another), and the address above"
    if isinstance(error, RateLimitError):
        return "try again later"
    if isinstance(error, APIStatusError) and not isinstance(error, InternalServerError):
        return ""  # the error itself says what to check
    return "try again; if it persists, contact the operator of the server"
