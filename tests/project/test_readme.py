"""The README is correct: its snippets and those of the guide to batches run, its links work, its variables exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.captures import CAPTURES
from tests.support.paths import ROOT
from tests.support.server import Loopback, Received
from tir_qwen import ConfigurationError

README = (ROOT / "README.md").read_text("utf-8")
GUIDE = (ROOT / "docs" / "bulk.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README + GUIDE, re.DOTALL)
WHOLE, STREAM = (
    next(capture.raw for capture in CAPTURES if capture.id == f"vllm-0.9.2/{name}")
    for name in ("plain_think", "stream_usage_think")
)


def answer(request: Received) -> list[bytes]:
    """Answer with a recording, streamed or whole."""
    return [STREAM if request.json()["stream"] else WHOLE]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.splitlines()[0])
def test_snippets_run(
    snippet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each snippet runs unchanged, and prints the answer if it prints anything."""
    monkeypatch.chdir(tmp_path)  # where it may write
    with Loopback(answer) as server:
        monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "token")
        monkeypatch.setenv("E2E_TIR_PROJECT_ID", "6530")
        monkeypatch.setenv("MODEL_API_CLIENT_HOST", server.url)
        exec(compile(snippet, "README.md", "exec"), {})  # the reader does the same
        asked = len(server.received)
    printed = capsys.readouterr().out
    assert ("print(" in snippet) == bool(asked)
    assert not asked or "The capital of France is Paris." in printed


def test_there_are_snippets() -> None:
    """There are snippets for both frameworks, the transport alone, and a self-hosted server."""
    shown = "\n".join(SNIPPETS)
    for name in ("ChatTIRQwen(", "TIRQwen(", "Client(", "base_url="):
        assert name in shown


MIGRATION = README.partition("## Coming from")[2].partition("\n## ")[0]


@pytest.mark.parametrize("code", re.findall(r"`((?:ChatTIRQwen|TIRQwen)\([^`]*\))`", MIGRATION))
def test_what_to_write_instead(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replacement for another integration's line requests the same URL with the named arguments."""
    made = {"ChatTIRQwen": ChatTIRQwen, "TIRQwen": TIRQwen, "token": "token"}
    there = re.findall(r'base_url="https://infer\.e2enetworks\.net(/[^"]*)"', MIGRATION)
    with Loopback(answer) as server:
        monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "token")
        monkeypatch.setenv("E2E_TIR_PROJECT_ID", "6530")
        monkeypatch.setenv("MODEL_API_CLIENT_HOST", server.url)
        model = eval(code, made)
        model.invoke("Hi") if isinstance(model, ChatTIRQwen) else model.complete("Hi")
        (request,) = server.received
    assert [f"{path}/chat/completions" for path in there] == [request.target.partition("?")[0]]
    body = request.json()
    named = {name: body[name] for name in ("max_tokens", "top_k", "chat_template_kwargs") if name in body}
    assert named in ({}, {"max_tokens": 500}, {"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}})
    assert len(named) == sum(name in code for name in ("max_tokens", "top_k", "enable_thinking"))


@pytest.mark.parametrize("name", ["max_completion_tokens", "request_timeout"])
def test_another_ones_names(name: str) -> None:
    """An argument known only to another integration raises an error that suggests the right one."""
    assert name in MIGRATION
    right = {"max_completion_tokens": "max_tokens", "request_timeout": "timeout"}[name]
    with pytest.raises(ConfigurationError, match=f"there is no argument '{name}' .use {right}"):
        ChatTIRQwen(project_id=6530, access_token="token", **{name: 1})


def test_links_of_the_readme_lead_to_files() -> None:
    """Each relative link leads to a file."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_environment_variables() -> None:
    """The README names exactly the environment variables that the source reads."""
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "tir_qwen").rglob("*.py"))
    pattern = r"\b(?:E2E_TIR_[A-Z_]+|MODEL_API_CLIENT_HOST|TIR_QWEN_[A-Z_]+)\b"
    assert set(re.findall(pattern, README)) == set(re.findall(pattern, source))
