"""What an endpoint can do: a few small questions, and what came of them.

Each check asks as a user's program would, so that what it finds is what that program will meet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from pydantic_core import from_json

from .client import Client
from .errors import (
    APIConnectionError,
    APIStatusError,
    BadRequestError,
    ContextOverflowError,
    InternalServerError,
    MalformedChunkError,
    RateLimitError,
    TIRError,
)
from .fold import Fold
from .misfit import misfit
from .pool import Pool, Reply
from .report import Finding, Report
from .request import Request
from .secrecy import Secrets, without_secrets
from .symptoms import deltas_of, era_of, expiry_of, frames_of
from .timeouts import Clock
from .types import JSON, Completion

COST = "It takes about seven requests and a few hundred tokens."
_QUESTION = "What is 17 * 23?"
_AGE = "note when it was made: TIR's tokens stop working after 365 days"
_COUNTS = "ask for whole answers where you need token counts"
_SWITCHED = "nothing to do: /no_think is written instead"
_WRITTEN = "nothing to do: tools are written into the messages instead"
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
_CONTEXT = re.compile(
    r"maximum context length (?:is|of) (\d+)|max_model_len[=\s]*(\d+)|maximum model length (?:is|of) (\d+)"
)


class _WatchingPool(Pool):
    """Keeps the bytes of the last answer."""

    body = b""

    def send(self, request: Request, clock: Clock) -> Reply:
        """As `Pool.send`."""
        self.body = b""
        return super().send(request, clock)

    def read(self, reply: Reply, clock: Clock) -> bytes:
        """As `Pool.read`."""
        data = super().read(reply, clock)
        self.body += data
        return data


class Doctor:
    """Examines one endpoint by a client of its own: `examine` yields the findings as they come."""

    def __init__(self, client: Client, token: str | None) -> None:
        """Take a client.

        Args:
            client: Of the endpoint; its connections are watched from now on.
            token: Whose date of expiry is to be read, if it has one.
        """
        self._client = client
        self._token = token
        self._pool = client._pool = _WatchingPool(client.given)
        self.report = Report(f"{client._model} at {repr(client._endpoint).strip('<>').removeprefix('Endpoint ')}")

    def examine(self) -> Iterator[Finding]:
        """Ask, and yield what comes of it."""
        checks: list[Callable[[], Iterator[Finding]]] = [
            self._expiry,
            self._stream,
            self._switch,
            self._tools,
            self._structured,
            self._context,
        ]
        for check in checks:
            for told in check():
                finding = replace(told, found=without_secrets(told.found, self._client._endpoint.secrets))
                self.report.findings.append(finding)
                yield finding
            if not self.report.usable:
                return

    def _expiry(self) -> Iterator[Finding]:
        if not self._token:
            yield Finding("token", "ok", "none is given")
            return
        expires = expiry_of(self._token)
        if expires is None:
            yield Finding(
                "token",
                "unknown",
                "it does not say when it expires",
                _AGE,
            )
            return
        days = (expires - datetime.now(UTC)).days
        when = f"expires on {expires:%Y-%m-%d}, in {days} days"
        if days < 0:
            yield Finding("token", "failed", f"expired on {expires:%Y-%m-%d}", "make a new access token in TIR")
        else:
            yield Finding(
                "token", "ok" if days > 30 else "limited", when, "" if days > 30 else "make a new one in time"
            )

    def _stream(self) -> Iterator[Finding]:
        """One streamed answer tells most of it."""
        began = monotonic()
        first = None
        fold = Fold()
        try:
            for delta in self._client.stream([_user(_QUESTION)], max_tokens=400, max_retries=0):
                if first is None and (delta.content or delta.reasoning):
                    first = monotonic()
                fold.add(delta)
        except TIRError as error:
            yield Finding("answers", "failed", str(error), _advice_for(error))
            return
        ended = monotonic()
        completion = fold.completion()
        self._count(completion)
        said = _quoted(completion, self._client._endpoint.secrets)
        yield Finding("answers", "ok", f"as {completion.model or 'a model without a name'}: {said}")
        yield _speed(completion, began, first or ended, ended)
        frames = frames_of(self._pool.body)
        yield _reasoning(frames, completion)
        yield _usage(completion)
        yield _era(frames)

    def _switch(self) -> Iterator[Finding]:
        name = "thinking off"
        completion = self._ask(_QUESTION, enable_thinking=False, max_tokens=400)
        if isinstance(completion, BadRequestError):
            yield Finding(name, "limited", str(completion), "leave enable_thinking unset")
        elif isinstance(completion, TIRError):
            yield Finding(name, "unknown", str(completion))
        elif not self._client.abilities.template_kwargs:
            yield Finding(name, "limited", "chat_template_kwargs is refused", _SWITCHED)
        elif not self._client.abilities.thinking_switch:
            yield Finding(name, "limited", "chat_template_kwargs is ignored", _SWITCHED)
        elif not completion.content.strip():
            advice = "give max_tokens enough, or leave enable_thinking unset"
            yield Finding(name, "unknown", f"there was no answer (finish_reason {completion.finish_reason})", advice)
        else:
            yield Finding(name, "ok", "enable_thinking=False is obeyed")

    def _tools(self) -> Iterator[Finding]:
        question = "What is the weather in Paris? Call the function."
        completion = self._ask(question, tools=[_TOOL], tool_calling="native", max_tokens=800)
        name = "native tools"
        if isinstance(completion, BadRequestError) and not isinstance(completion, ContextOverflowError):
            yield Finding(name, "limited", str(completion), _WRITTEN)
        elif isinstance(completion, TIRError):
            yield Finding(name, "unknown", str(completion))
        elif completion.tool_calls and b"<tool_call>" in self._pool.body:
            yield Finding(name, "limited", "the server does not parse the calls", "nothing to do: they are parsed here")
        elif completion.tool_calls:
            yield Finding(name, "ok", "a call came back, parsed")
        elif self._same_prompt(question, completion):
            found = "`tools` is dropped: the prompt is as long without them"
            yield Finding(name, "limited", found, 'give tool_calling="prompted"')
        else:
            advice = 'if your agent calls none either: tool_calling="prompted"'
            yield Finding(name, "unknown", "the model called none", advice)

    def _same_prompt(self, question: str, completion: Completion) -> bool:
        """Whether a prompt without tools has as many tokens as that of the completion."""
        other = self._ask(question, max_tokens=1)
        if isinstance(other, TIRError) or not completion.usage or not other.usage:
            return False
        tokens = completion.usage.get("prompt_tokens")
        return bool(tokens) and tokens == other.usage.get("prompt_tokens")

    def _structured(self) -> Iterator[Finding]:
        name = "structured output"
        completion = self._ask("Tell me in a sentence what 17 * 23 is.", response_format=_FORMAT, max_tokens=800)
        if isinstance(completion, TIRError):
            yield Finding(name, "unknown", str(completion))
        elif not self._client.abilities.response_format:
            advice = "nothing to do: the schema is written into the messages, and answers are checked"
            yield Finding(name, "limited", "response_format is refused or ignored", advice)
        elif completion.finish_reason == "length":
            yield Finding(name, "unknown", "the answer was cut")
        elif not completion.content.strip():
            yield Finding(name, "unknown", "there was no answer")
        elif misfit(from_json(completion.content), _SCHEMA):
            yield Finding(name, "limited", "the answer is an object, but not of the schema")
        else:
            yield Finding(name, "ok", "response_format is obeyed")

    def _context(self) -> Iterator[Finding]:
        completion = self._ask("Hello", max_tokens=10_000_000)
        found = _CONTEXT.search(str(completion)) if isinstance(completion, APIStatusError) else None
        if found:
            length = next(filter(None, found.groups()))
            yield Finding("context window", "ok", f"{length} tokens of prompt and answer together")
        elif isinstance(completion, TIRError):
            yield Finding("context window", "unknown", str(completion))
        else:
            yield Finding("context window", "unknown", "the server does not say", "Qwen3-32B has 32,768 by itself")

    def _ask(self, question: str, **params: Any) -> Completion | TIRError:
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


def _speed(completion: Completion, began: float, first: float, ended: float) -> Finding:
    latency = f"{first - began:.2f} s to the first words"
    tokens = (completion.usage or {}).get("completion_tokens")
    if not tokens or ended - first < 0.01:
        return Finding("speed", "ok", latency)
    return Finding("speed", "ok", f"{latency}, then {tokens / (ended - first):.0f} tokens per second")


def _reasoning(frames: list[JSON], completion: Completion) -> Finding:
    name = "reasoning"
    if not completion.reasoning:
        return Finding(name, "unknown", "there was none", "give enable_thinking=True if you want it")
    said = deltas_of(frames)
    fields = [key for key in ("reasoning_content", "reasoning") if any(delta.get(key) for delta in said)]
    if fields:
        return Finding(name, "ok", f"comes in the field {' and '.join(fields)}")
    return Finding(name, "ok", "comes within the text, between <think> tags; it is taken out here")


def _usage(completion: Completion) -> Finding:
    if completion.usage:
        return Finding("token counts", "ok", "come with streams")
    return Finding("token counts", "limited", "do not come with streams", _COUNTS)


def _era(frames: list[JSON]) -> Finding:
    era = era_of(frames)
    if era is None:
        return Finding("server", "unknown", "its answers do not tell which vLLM it is")
    return Finding("server", "ok", f"answers like vLLM {era}")


def _quoted(completion: Completion, secrets: Secrets) -> str:
    text = " ".join(without_secrets(completion.content, secrets).split())
    if not text and not completion.reasoning:
        return f"nothing (finish_reason {completion.finish_reason})"
    if not text:
        return f"nothing but reasoning (finish_reason {completion.finish_reason})"
    return f'"{text[:60]}{"..." if len(text) > 60 else ""}"'


def _advice_for(error: TIRError) -> str:
    if isinstance(error, APIConnectionError):
        return "check the address, and that this machine may reach it"
    if isinstance(error, MalformedChunkError):
        return "check the address: what answers there speaks another protocol"
    if isinstance(error, RateLimitError):
        return "try again in a while"
    if isinstance(error, APIStatusError) and not isinstance(error, InternalServerError):
        return ""  # the text of the error says what to check
    return "try again; if it stays so, tell those who run the server"
