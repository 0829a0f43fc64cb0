"""The cost of a process's first two answers: `python -m benchmarks.first_answers NAME BASE_URL sync`, or `async`.

Prints the CPU milliseconds since the process started and, if asynchronous, those of the event loop's thread in the
first call. Do not import anything here that a subject would otherwise have to import itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .subjects import CLIENT, LANGCHAIN, LLAMA_INDEX, OPENAI, RAW, make_chat_tir_qwen, make_openai, make_tir_qwen
from .work import Work

_MODELS = {LANGCHAIN: make_chat_tir_qwen, OPENAI: make_openai, LLAMA_INDEX: make_tir_qwen}
_METHODS = {LANGCHAIN: ("invoke", "ainvoke"), OPENAI: ("invoke", "ainvoke"), LLAMA_INDEX: ("complete", "acomplete")}


def asking(name: str, base_url: str, *, asynchronous: bool) -> Callable[[], Any]:
    """Return a function that asks a question and returns the answer, or an awaitable of it."""
    work, kind = Work(), "AsyncClient" if asynchronous else "Client"
    if name == RAW:
        body = {"model": "qwen3_32b", "messages": work.wire}
        post = getattr(import_module("httpx2"), kind)().post
        return lambda: post(f"{base_url}/chat/completions", json=body)
    if name == CLIENT:
        complete = getattr(import_module("tir_qwen"), kind)(base_url=base_url).complete
        return lambda: complete(work.wire)
    ask = getattr(_MODELS[name](base_url), _METHODS[name][asynchronous])
    return lambda: ask(work.question)


def answer_twice(ask: Callable[[], Any]) -> dict[str, float]:
    """Return the CPU time of the process so far, after two answers."""
    ask()
    ask()
    return {"cpu": time.process_time() * 1e3}


async def aanswer_twice(ask: Callable[[], Any]) -> dict[str, float]:
    """Like `answer_twice`, asynchronously, with the CPU time of this thread in the first call."""
    before = time.thread_time()
    await ask()
    loop = time.thread_time() - before
    await ask()
    return {"cpu": time.process_time() * 1e3, "loop": loop * 1e3}


if __name__ == "__main__":
    asked = asking(*sys.argv[1:3], asynchronous=sys.argv[3] == "async")
    print(json.dumps(asyncio.run(aanswer_twice(asked)) if sys.argv[3] == "async" else answer_twice(asked)))
