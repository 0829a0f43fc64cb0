"""The bodies that vLLM 0.9 and 0.32 write. Our tests compare them with captured ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic_core import to_json

from ._replies import Message, Reply, message_to
from ._response import Response, json_response, phrase

JSON = dict[str, Any]
_CREATED = 1_767_225_600  # the same in each run, like the ids
_TOKEN = re.compile(r"\n+|[^\S\n]*(?:\w+|[^\w\s])|[^\S\n]+")
_ERROR_TYPES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
_NO_ARGUMENTS = "{}"


def tokens(text: str) -> list[str]:
    """Cut text as a model writes it: into words with the space before them, and punctuation."""
    return _TOKEN.findall(text)


class Vllm09:
    """vLLM 0.9, which TIR's endpoint resembles. Its streams lose the arguments of a call that has none."""

    overflow = (
        "This model's maximum context length is 32768 tokens. However, you requested 56409 tokens (56009 in the"
        " messages, 400 in the completion). Please reduce the length of the messages or completion. None"
    )
    _id_length = 32
    _fingerprint: ClassVar[JSON] = {}
    _first_chunk: ClassVar[JSON] = {}
    _chunk_choice: ClassVar[JSON] = {}
    _last_delta: ClassVar[JSON] = {"content": ""}

    def respond(self, reply: Reply, body: Mapping[str, Any], number: int) -> Response:
        """Return the response to a request with this body, the `number`-th of the endpoint."""
        message = message_to(body, reply)
        facts = {"id": self._id("chatcmpl", number), "object": "", "created": _CREATED, "model": body.get("model")}
        written = [message.reasoning, message.content, *(text for call in message.tool_calls for text in call)]
        counts = [len(tokens(text)) for text in written]
        choices, prompt = body.get("n") or 1, len(tokens(json.dumps(body.get("messages"))))
        completion = sum(counts) * choices
        usage: JSON = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
        pace: JSON = {"delay": reply.delay, "tokens_per_second": reply.tokens_per_second}
        if body.get("stream"):
            wanted = (body.get("stream_options") or {}).get("include_usage")
            usage = {**usage, **self._details(counts[0]), **(reply.usage or {})}
            facts["object"] = "chat.completion.chunk"
            events = self._events(facts, message, number, choices, usage if wanted else None)
            headers = {"server": "uvicorn", "content-type": "text/event-stream; charset=utf-8"}
            return Response(headers=headers, events=[*events], **pace)
        usage = {**usage, "prompt_tokens_details": None, **self._details(counts[0]), **(reply.usage or {})}
        facts["object"] = "chat.completion"
        facts["choices"] = [self._choice(index, message, number) for index in range(choices)]
        return json_response(self._whole(facts, usage), tokens=sum(counts), **pace)

    def error(self, status: int, message: str) -> JSON:
        """Return the body of an error."""
        kind = _ERROR_TYPES.get(status, phrase(status))
        return {"object": "error", "message": message, "type": kind, "param": None, "code": status}

    def error_event(self, message: str) -> str:
        """Return the event by which a stream fails."""
        return f"data: {json.dumps({'error': self.error(400, message)})}"  # with 400, whatever went wrong

    def _whole(self, facts: JSON, usage: JSON) -> JSON:
        return {**facts, "usage": usage, "prompt_logprobs": None, "kv_transfer_params": None}

    def _details(self, reasoning_tokens: int) -> JSON:
        return {}

    def _choice(self, index: int, message: Message, number: int) -> JSON:
        whole = {"index": index, "message": self._message(message, self._calls(message, number)), "logprobs": None}
        return {**whole, "finish_reason": message.finish_reason, "stop_reason": None}

    def _message(self, message: Message, calls: list[JSON]) -> JSON:
        content = message.content or (None if calls else "")
        reasoning = message.reasoning or None
        return {"role": "assistant", "reasoning_content": reasoning, "content": content, "tool_calls": calls}

    def _calls(self, message: Message, number: int) -> list[JSON]:
        return [
            {
                "id": self._id("chatcmpl-tool", number * 1000 + index),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for index, (name, arguments) in enumerate(message.tool_calls)
        ]

    def _id(self, prefix: str, number: int) -> str:
        return f"{prefix}-{number:0{self._id_length}x}"

    def _events(
        self, facts: JSON, message: Message, number: int, choices: int, usage: JSON | None
    ) -> Iterator[tuple[str, bool]]:
        def event(choices: list[JSON], **more: Any) -> str:
            return f"data: {to_json({**facts, 'choices': choices, **more}).decode()}"

        deltas = [*self._deltas(message, self._calls(message, number))]
        if message.finish_reason != "length" or not deltas:
            deltas.append((self._last_delta, False))
        for index in range(choices):
            first = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
            yield event([{**first, "finish_reason": None}], **self._first_chunk), False
        for index in range(choices):
            for at, (delta, is_token) in enumerate(deltas, 1):
                is_last = at == len(deltas)
                end = {"finish_reason": message.finish_reason, "stop_reason": None} if is_last else {}
                choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **end}
                more = self._fingerprint if is_last and index == choices - 1 and usage is None else {}
                yield event([{**choice, **self._chunk_choice}], **more), is_token
        if usage is not None:
            yield event([], usage=usage, **self._fingerprint), False
        yield "data: [DONE]", False

    def _deltas(self, message: Message, calls: list[JSON]) -> Iterator[tuple[JSON, bool]]:
        """Yield the deltas of a stream, each with whether it is a token."""
        yield from (({"reasoning_content": token}, True) for token in tokens(message.reasoning))
        if calls and not message.reasoning:
            yield {"content": None}, False
        yield from (({"content": token}, True) for token in tokens(message.content))
        for index, call in enumerate(calls):
            if index:
                yield {"content": "\n"}, False
            yield from (({"tool_calls": [part]}, True) for part in _parts(index, call))


class Vllm032(Vllm09):
    """vLLM 0.32."""

    overflow = (
        "This model's maximum context length is 32768 tokens. However, your prompt contains at least 32769 input"
        " tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input"
        " prompt. (parameter=input_tokens, value=32769)"
    )
    _id_length = 16
    _fingerprint: ClassVar[JSON] = {"system_fingerprint": "vllm-0.32.0-testing"}
    _first_chunk: ClassVar[JSON] = {"prompt_token_ids": None, "prompt_text": None}
    _chunk_choice: ClassVar[JSON] = {"token_ids": None}
    _last_delta: ClassVar[JSON] = {}

    def error(self, status: int, message: str) -> JSON:
        """Return the body of an error."""
        return {"error": {name: value for name, value in super().error(status, message).items() if name != "object"}}

    def error_event(self, message: str) -> str:
        """Return the event by which a stream fails."""
        return f"data: {json.dumps(self.error(500, message))}"

    def _whole(self, facts: JSON, usage: JSON) -> JSON:
        unset = ("prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params", "ec_transfer_params")
        end = dict.fromkeys((*unset, "metrics"))
        return {**facts, "service_tier": None, **self._fingerprint, "usage": usage, **end}

    def _details(self, reasoning_tokens: int) -> JSON:
        return {"completion_tokens_details": {"reasoning_tokens": reasoning_tokens}}

    def _choice(self, index: int, message: Message, number: int) -> JSON:
        return {**super()._choice(index, message, number), "token_ids": None, "routed_experts": None}

    def _message(self, message: Message, calls: list[JSON]) -> JSON:
        content = None if calls and not message.content.strip() else message.content
        unset = dict.fromkeys(("refusal", "annotations", "audio", "function_call"))
        with_calls = {"tool_calls": calls} if calls else {}
        return {"role": "assistant", "content": content, **unset, **with_calls, "reasoning": message.reasoning or None}

    def _deltas(self, message: Message, calls: list[JSON]) -> Iterator[tuple[JSON, bool]]:
        yield from (({"reasoning": token}, True) for token in tokens(message.reasoning))
        yield from (({"content": token}, True) for token in tokens(message.content))
        for index, call in enumerate(calls):
            parts = _parts(index, call)
            if call["function"]["arguments"] == _NO_ARGUMENTS:
                parts.append({"index": index, "function": {"arguments": _NO_ARGUMENTS}})
            yield from (({"content": None, "tool_calls": [part]}, True) for part in parts)


def _parts(index: int, call: JSON) -> list[JSON]:
    """Return the parts of a call in a stream: the name, and the arguments unless there are none."""
    function = call["function"]
    texts = tokens(function["arguments"]) if function["arguments"] != _NO_ARGUMENTS else []
    begin = {"id": call["id"], "type": "function", "index": index, "function": {"name": function["name"]}}
    return [begin, *({"index": index, "function": {"arguments": text}} for text in texts)]


SHAPES = {"0.9": Vllm09(), "0.32": Vllm032()}
