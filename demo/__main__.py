"""Run the demo: stream a LangChain chain, then a LlamaIndex chat, with the reasoning separate from the answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableGenerator
from llama_index.core.llms import ChatMessage

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tir_qwen import TIRError
from tir_qwen.testing import play

from .questions import COMPARISON, EXCHANGES, POEM

TOKENS_PER_SECOND = 40
CREDENTIALS = ("E2E_TIR_ACCESS_TOKEN", "E2E_TIR_PROJECT_ID", "E2E_TIR_BASE_URL")

Part = tuple[str, Any]
"""A part of a stream: ("reasoning", text), ("answer", text) or ("usage", counts)."""


def main() -> int:
    """Run the demo and return the exit status."""
    try:
        with settings() as given:
            usage = {"LangChain": langchain(given), "LlamaIndex": llama_index(given)}
        print("\nUsage")
        for name, counts in usage.items():
            print(f"  {name:<11} {counts}")
    except TIRError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped: the connection is closed, so the server stops writing.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


@contextmanager
def settings() -> Iterator[dict[str, Any]]:
    """Yield the models' settings: the environment's, or those of a server that replays recorded exchanges."""
    if any(os.environ.get(name) for name in CREDENTIALS):
        print("Live: asking the endpoint that the environment names.")
        yield {}
        return
    print(
        "Recorded: no credentials in the environment, so a local server replays answers of vLLM 0.9.2 at"
        f" {TOKENS_PER_SECOND} tokens a second.\n(Set {' and '.join(CREDENTIALS[:2])} to ask the live endpoint.)"
    )
    with play(EXCHANGES, tokens_per_second=TOKENS_PER_SECOND) as endpoint:
        yield endpoint.settings


def langchain(given: dict[str, Any]) -> str:
    """Stream a chain `prompt | model | parser` and return its token counts."""
    chain = (
        ChatPromptTemplate.from_messages([("human", "{question}")])
        | ChatTIRQwen(**given)
        | RunnableGenerator[AIMessage, Part](parse)
    )
    print(f"\nLangChain: {COMPARISON}")
    usage = show(cast("Generator[Part]", chain.stream({"question": COMPARISON})))
    return f"{usage['input_tokens']} in, {usage['output_tokens']} out" if usage else "not reported"


def parse(chunks: Iterator[AIMessage]) -> Iterator[Part]:
    """The chain's parser: separate reasoning and answer."""
    for chunk in chunks:
        if reasoning := chunk.additional_kwargs.get("reasoning_content"):
            yield "reasoning", reasoning
        if chunk.content:
            yield "answer", chunk.content
        if chunk.usage_metadata:
            yield "usage", chunk.usage_metadata


def llama_index(given: dict[str, Any]) -> str:
    """Stream a chat and return its token counts."""
    print(f"\nLlamaIndex: {POEM}")
    usage = show(chat(TIRQwen(**given)))
    return f"{usage['prompt_tokens']} in, {usage['completion_tokens']} out" if usage else "not reported"


def chat(llm: TIRQwen) -> Generator[Part]:
    """Yield the parts of a streamed chat."""
    with closing(llm.stream_chat([ChatMessage(POEM)])) as responses:
        for response in responses:
            if reasoning := response.additional_kwargs.get("thinking_delta"):
                yield "reasoning", reasoning
            if response.delta:
                yield "answer", response.delta
            if usage := (response.raw or {}).get("usage"):
                yield "usage", usage


def show(parts: Generator[Part]) -> dict[str, int] | None:
    """Print a stream as it arrives, reasoning and answer under separate headings; return its token counts."""
    usage = None
    heading = ""
    dim, plain = ("\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "")
    with closing(parts):
        for kind, value in parts:
            if kind == "usage":
                usage = value
                continue
            if kind != heading:
                print("\n" * bool(heading) + f"  [{kind}]\n  ", end="")
                heading = kind
            print((dim if kind == "reasoning" else "") + value.replace("\n", "\n  ") + plain, end="", flush=True)
    print()
    return usage


if __name__ == "__main__":
    sys.exit(main())
