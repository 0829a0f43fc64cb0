"""A model whose every word is known, behind a server that limits tokens and continues answers as vLLM does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import httpx

from tests.dialect.test_prompted_tools import TEMPLATE
from tests.support.fake_vllm import CREATED, MODEL, Lab, frame
from tir_qwen import AsyncClient, Client

TOKEN = re.compile(r"</?think>|</?tool_call>|\n+|[ ]?\w+|.", re.DOTALL)
CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)
GRAMMARS = {"response_format", "guided_choice"}
"""Fields whose grammar the whole answer of each request follows, also if it continues another one."""
START = "<|im_start|>assistant\n"


def tokens_of(text: str) -> list[str]:
    """Return the tokens of a text, of which each tag is one."""
    return TOKEN.findall(text)


def render(body: dict[str, Any]) -> str:
    """Return the prompt of a request, with the last message cut off after its content, as transformers does it."""
    messages = body["messages"]
    is_continued = body.get("continue_final_message", False)
    prompt = TEMPLATE.render(
        messages=messages,
        tools=body.get("tools"),
        add_generation_prompt=body.get("add_generation_prompt", True),
        **(body.get("chat_template_kwargs") or {}),
    )
    if not is_continued:
        return prompt
    last = messages[-1]["content"]
    assert last.strip() in prompt, "the template does not keep the last message"
    end = prompt.rindex(last.strip())
    is_kept = prompt[end : end + len(last.lstrip())] == last
    return prompt[: end + len(last.lstrip() if is_kept else last.strip())]


@dataclass
class ThinkingModel(Lab):
    """Answers every request with the same text, or with what is left of it if the request continues it.

    Attributes:
        reasoning: What it thinks; it is interrupted by the end of the think block in the prompt.
        said: What it answers then: text, and tool calls between tags.
        has_parsers: Whether the server separates reasoning and parses tool calls.
        version: Of vLLM: 9 files reasoning that is cut off as content of a whole answer; 32 counts reasoning.
        refuses: A field that the server refuses.
        holds_budget: Whether it keeps to `thinking_token_budget`.
    """

    reasoning: str = "First this, then that."
    said: str = "It is 391."
    has_parsers: bool = True
    version: int = 9
    refuses: str | None = None
    holds_budget: bool = False
    counts: bool = True
    requests: list[Any] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        """The prompts of all requests."""
        return [render(body) for body in self.bodies]

    def clients(self, engine: ModuleType = httpx) -> tuple[Client, AsyncClient]:
        """Return both clients of the library."""
        settings: dict[str, Any] = {"project_id": 1, "access_token": "token"}
        return (
            Client(**settings, http_client=self.client(engine)),
            AsyncClient(**settings, http_client=self.async_client(engine)),
        )

    def answer_to(self, body: dict[str, Any]) -> tuple[str, bool, list[str]]:
        """Return how the turn begins in the prompt, whether it is cut off, and the tokens that are generated."""
        begun = render(body).rpartition(START)[2]
        is_forced = body.get("tool_choice") not in (None, "auto", "none")
        call = CALL.search(self.said)
        answer = call[0] if is_forced and call else self.said
        block = f"<think>\n{self.reasoning}\n</think>\n\n"
        if "</think>" in begun:
            written = begun.rpartition("</think>\n\n")[2]
            assert answer.startswith(written), f"{written!r} does not begin {answer!r}"
            tokens = tokens_of(answer if body.keys() & GRAMMARS else answer.removeprefix(written))
        else:
            tokens = tokens_of(f"{block}{answer}")
            budget = body.get("thinking_token_budget") if self.holds_budget else None
            if budget is not None and budget < tokens.index("</think>"):
                tokens = [*tokens[: budget + 1], *tokens[tokens.index("</think>") :]]
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or len(tokens) + 1
        text = "".join(tokens[:limit])
        if ends := [text.index(stop) for stop in body.get("stop") or () if stop in text]:
            return begun, False, tokens_of(text[: min(ends)])
        return begun, limit <= len(tokens), tokens[:limit]  # the token that ends the message counts too

    def answer_request(self, body: dict[str, Any]) -> tuple[list[dict[str, Any]], str, dict[str, Any]]:
        """Return the deltas of an answer, its finish reason and its token counts."""
        begun, is_cut, tokens = self.answer_to(body)
        is_thinking = "</think>" not in begun
        deltas: list[dict[str, Any]] = []
        counted = 0
        for token in tokens:
            if self.has_parsers and is_thinking and token in ("<think>", "</think>"):
                is_thinking = token == "<think>"
            elif self.has_parsers and is_thinking:
                deltas.append({"reasoning_content" if self.version < 20 else "reasoning": token})
                counted += 1
            else:
                deltas.append({"content": token})
        calls = self._calls(deltas, body) if self.has_parsers else []
        usage: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": len(tokens) + (not is_cut)}
        usage["total_tokens"] = 10 + usage["completion_tokens"]
        if self.version >= 20 and self.has_parsers:
            usage["completion_tokens_details"] = {"reasoning_tokens": counted}
        finish_reason = "length" if is_cut else "tool_calls" if calls else "stop"
        return [*deltas, *calls], finish_reason, usage

    def _calls(self, deltas: list[dict[str, Any]], body: dict[str, Any]) -> list[dict[str, Any]]:
        """Take parsed calls out of the deltas."""
        text = "".join(delta.get("content", "") for delta in deltas)
        found = [json.loads(each) for each in CALL.findall(text)]
        if not found or not body.get("tools"):
            return []
        kept = text.partition("<tool_call>")[0]
        deltas[:] = [delta for delta in deltas if "content" not in delta]
        deltas += [{"content": kept}] if kept.strip() else []
        return [
            {"tool_calls": [{"index": number, "id": f"c{number}", "type": "function", "function": function}]}
            for number, function in enumerate(
                {"name": call["name"], "arguments": json.dumps(call["arguments"])} for call in found
            )
        ]

    def answer(self, request: Any, engine: ModuleType = httpx) -> Any:
        """Return the response to a request."""
        self.requests.append(request)
        body = json.loads(request.content)
        if self.refuses is not None and self.refuses in body:
            message = f"Extra inputs are not permitted, field: '{self.refuses}'"
            return engine.Response(400, json={"error": {"message": message}})
        deltas, finish_reason, usage = self.answer_request(body)
        if not body["stream"]:
            begun, _, tokens = self.answer_to(body)
            is_open = "</think>" not in (*tokens, begun[-12:].strip())
            return engine.Response(200, json=self._whole(deltas, finish_reason, usage, is_open=is_open))
        content = b"".join(self._frames(deltas, finish_reason, usage))
        return engine.Response(200, content=content, headers={"content-type": "text/event-stream"})

    def _whole(
        self, deltas: Sequence[dict[str, Any]], finish_reason: str, usage: dict[str, Any], *, is_open: bool
    ) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant"}
        for name in ("reasoning_content", "reasoning", "content"):
            message[name] = "".join(delta.get(name, "") for delta in deltas) or None
        message["tool_calls"] = [call for delta in deltas for call in delta.get("tool_calls", ())]
        if self.version < 20 and is_open and message["reasoning_content"] is not None:  # its parser wants both tags
            message |= {"content": f"<think>{message['reasoning_content']}", "reasoning_content": None}
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        facts = {"id": f"c-{len(self.requests)}", "created": CREATED, "model": MODEL, "choices": [choice]}
        return {**facts, "usage": usage} if self.counts else facts

    def _frames(self, deltas: Sequence[dict[str, Any]], finish_reason: str, usage: dict[str, Any]) -> Iterator[bytes]:
        for delta in ({"role": "assistant", "content": ""}, *deltas):
            yield frame(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
        yield frame(choices=[{"index": 0, "delta": {}, "finish_reason": finish_reason}])
        if self.counts:
            yield frame(choices=[], usage=usage)
        yield b"data: [DONE]\n\n"
