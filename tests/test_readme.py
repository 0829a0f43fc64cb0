"""README is true: its snippets run, its links lead somewhere, its environment variables are those that are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.captured import CAPTURES
from tests.loopback import Loopback, Received

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
WHOLE, STREAM = (
    next(capture.raw for capture in CAPTURES if capture.id == f"vllm-0.9.2/{name}")
    for name in ("plain_think", "stream_usage_think")
)


def answer(request: Received) -> list[bytes]:
    """A recorded answer, streamed or whole."""
    return [STREAM if request.json()["stream"] else WHOLE]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.splitlines()[0])
def test_snippets(snippet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each snippet runs as it stands, and prints the answer if it prints anything."""
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
    """Both frameworks, the transport alone and a server of one's own are shown."""
    shown = "\n".join(SNIPPETS)
    for name in ("ChatTIRQwen(", "TIRQwen(", "Client(", "base_url="):
        assert name in shown


def test_links() -> None:
    """Each link within the repository leads to a file."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_environment_variables() -> None:
    """README names just the variables that the source reads."""
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "tir_qwen").glob("*.py"))
    pattern = r"\b(?:E2E_TIR_[A-Z_]+|MODEL_API_CLIENT_HOST|TIR_QWEN_[A-Z_]+)\b"
    assert set(re.findall(pattern, README)) == set(re.findall(pattern, source))
