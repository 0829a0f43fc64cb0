"""Displays answers in notebooks: the reasoning collapsed, the answer as Markdown.

Outside of Jupyter, both are printed.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Awaitable, Iterator, Mapping
from html import escape
from inspect import iscoroutine
from time import monotonic
from typing import Any

__all__ = ["ashow", "show"]

_SECONDS_BETWEEN_UPDATES = 0.1


def show(answer: Any, *, reasoning: bool = True) -> None:
    """Show an answer, or a stream as it arrives: the reasoning collapsed, then the answer as Markdown.

    ```python
    from langchain_tir_qwen import ChatTIRQwen
    from tir_qwen.notebook import show

    model = ChatTIRQwen()
    show(model.invoke("What is the capital of France?"))
    show(model.stream("What is the capital of France?"))
    ```

    Outside of Jupyter, both are printed.

    Args:
        answer: A message, response or completion of LangChain, LlamaIndex or `tir_qwen.Client`, the result of an agent,
            a list of these, or a stream of chunks, responses, an agent's events or messages, or strings. Parts of a
            stream that are not from the model, such as the results of tools, are not shown.
        reasoning: Whether to show the reasoning.

    Raises:
        TypeError: The answer is asynchronous: `await` it first, or use `ashow` for a stream.
    """
    if isinstance(answer, (Awaitable, AsyncIterable)):
        advice = "await ashow(...)" if isinstance(answer, AsyncIterable) else "show(await ...)"
        if iscoroutine(answer):
            answer.close()  # otherwise, Python warns that it was never awaited
        raise TypeError(f"show cannot wait for an asynchronous answer: use {advice}.")
    if isinstance(answer, list):
        for each in answer:
            show(each, reasoning=reasoning)
        return
    view = _View(reasoning)
    if isinstance(answer, Iterator) or hasattr(answer, "response_gen"):
        for piece in getattr(answer, "response_gen", answer):
            view.add_part(piece)
    else:
        view.add(answer)
    view.end()


async def ashow(stream: AsyncIterable[Any], *, reasoning: bool = True) -> None:
    """Show an asynchronous stream as it arrives; see `show`."""
    view = _View(reasoning)
    async for piece in stream:
        view.add_part(piece)
    view.end()


class _View:
    """The display of one answer, updated as it grows."""

    def __init__(self, shows_reasoning: bool) -> None:
        self._shows_reasoning = shows_reasoning
        self._reasoning = self._content = ""
        self._display = _start_display()
        self._printed = ""  # the part that was printed last
        self._updated_at = 0.0

    def add_part(self, piece: Any) -> None:
        """Add a piece of a stream, if it is from the model."""
        if isinstance(piece, tuple):  # of LangGraph: a chunk and its metadata
            piece = piece[0]
        is_message = getattr(piece, "type", None) in ("ai", "AIMessageChunk")
        if isinstance(piece, str) or hasattr(piece, "reasoning") or hasattr(piece, "delta") or is_message:
            self.add(piece)

    def add(self, piece: Any) -> None:
        reasoning, content, is_replaced = _read(piece)
        reasoning = reasoning if self._shows_reasoning else ""
        self._reasoning += reasoning
        self._content = content if is_replaced else self._content + content
        if self._display is None:
            self._print("Reasoning:", reasoning)
            self._print("Answer:", content)
        elif monotonic() - self._updated_at > _SECONDS_BETWEEN_UPDATES:
            self._update()

    def end(self) -> None:
        if self._display is None:
            sys.stdout.write("\n")
        else:
            self._update()

    def _print(self, title: str, text: str) -> None:
        if text and title != self._printed:
            sys.stdout.write(f"\n\n{title}\n" if self._printed else f"{title}\n")
            self._printed = title
        sys.stdout.write(text)
        sys.stdout.flush()

    def _update(self) -> None:
        self._display.update({"text/markdown": self._markdown(), "text/plain": self._text()}, raw=True)
        self._updated_at = monotonic()

    def _markdown(self) -> str:
        if not self._reasoning:
            return self._content
        state = "" if self._content else " open"
        text = escape(self._reasoning).replace("\n", "&#10;")  # after an empty line, Markdown would resume
        thought = f'<div style="white-space: pre-wrap">{text}</div>'
        return f"<details{state}><summary>Reasoning</summary>{thought}</details>\n\n{self._content}"

    def _text(self) -> str:
        return f"Reasoning:\n{self._reasoning}\n\nAnswer:\n{self._content}" if self._reasoning else self._content


def _start_display() -> Any:
    """Return the handle of a new output of the running notebook; None if there is no notebook."""
    ipython: Any = sys.modules.get("IPython")  # a notebook has imported it
    shell = ipython and ipython.get_ipython()
    if not hasattr(shell, "kernel"):
        return None
    return ipython.display.display({"text/plain": ""}, raw=True, display_id=True)


def _read(piece: Any) -> tuple[str, str, bool]:
    """Return the reasoning and the text of a piece, and whether the text replaces that of the pieces before."""
    if isinstance(piece, Mapping) and piece.get("messages"):  # the result of an agent
        piece = piece["messages"][-1]
    if isinstance(piece, str):
        return "", piece, False
    if hasattr(piece, "reasoning"):  # a completion or a delta
        return piece.reasoning, piece.content, bool(getattr(piece, "replaces", 0))
    additional = getattr(piece, "additional_kwargs", {})
    if getattr(piece, "delta", None) is not None:  # a response of a stream of LlamaIndex
        return additional.get("thinking_delta") or getattr(piece, "thinking_delta", None) or "", piece.delta, False
    if hasattr(piece, "text") and not hasattr(piece, "type"):  # a completion of LlamaIndex
        return additional.get("thinking", ""), piece.text, False
    message = getattr(piece, "message", None) or getattr(piece, "response", piece)  # the latter of an agent
    thoughts = [block.content for block in getattr(message, "blocks", ()) if block.block_type == "thinking"]
    reasoning = additional.get("reasoning_content") or "".join(filter(None, thoughts))
    text = message.content if hasattr(message, "blocks") else getattr(message, "text", str(message))
    return reasoning, str(text or ""), False
