"""The pytest plugin: its fixtures in a project of a user's, and the examples of docs/testing.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "testing.md").read_text("utf-8")
EXAMPLES = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "def test_" in code]
WARNINGS_OF_AGENTS = ("pydantic.PydanticDeprecatedSince20", "pydantic.warnings.PydanticDeprecatedSince211")
"""What the agents of llama-index-core warn about."""


def run(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a project of its own, with no plugin but that of this checkout, and without network."""
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "_tir_qwen_pytest_plugin", "-q", "-W", "error", *options],
        cwd=folder,
        env={**inherited, **nowhere, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_examples_of_the_page(tmp_path: Path) -> None:
    """Each example of the page is a file of tests that pass, with nothing else than what is shown."""
    pytest.importorskip("langchain.agents")
    for number, example in enumerate(EXAMPLES):
        (tmp_path / f"test_example_{number}.py").write_text(example)
    done = run(tmp_path, *(option for warning in WARNINGS_OF_AGENTS for option in ("-W", f"ignore::{warning}")))
    tests = "".join(EXAMPLES).count("\ndef test_")
    assert len(EXAMPLES) == 10
    assert re.search(rf"^{tests} passed in", done.stdout, re.MULTILINE), done.stdout + done.stderr


PROJECT = """
from langchain_tir_qwen import ChatTIRQwen
from tir_qwen import Client

HELLO = [{"role": "user", "content": "Hello"}]

def test_fine(tir_endpoint, chat_tir_qwen, tir_qwen_llm):
    tir_endpoint.add("1", "2", "3")
    assert chat_tir_qwen.invoke("Hello").content == "1"
    assert tir_qwen_llm.complete("Hello").text == "2"
    assert ChatTIRQwen().invoke("Hello").content == "3"

def test_too_few(tir_endpoint):
    with Client() as client:
        try:
            client.complete(HELLO)
        except Exception:
            pass

def test_too_many(tir_endpoint):
    tir_endpoint.add("never")
"""


def test_fixtures(tmp_path: Path) -> None:
    """The fixtures ask the server whatever the environment says, and fail a test whose script does not fit."""
    (tmp_path / "test_project.py").write_text(PROJECT)
    done = run(
        tmp_path, MODEL_API_CLIENT_HOST="live.invalid", E2E_TIR_API_KEY="live", E2E_TIR_BASE_URL="", COLUMNS="200"
    )
    assert re.search(r"^2 failed, 1 passed in", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert re.findall(r"^FAILED test_project\.py::(.*)$", done.stdout, re.MULTILINE) == [
        "test_too_few - Failed: Request 1 got no answer: add() one for it. Its last message is 'Hello'.",
        "test_too_many - Failed: Nobody asked for the answer 'never'.",
    ]


ENDED_EARLY = """
import pytest

@pytest.fixture
def server(request):
    return request.getfixturevalue("tir_endpoint")

@pytest.fixture(autouse=True)
def script(server):
    server.add("never")

def test_fails(server):
    assert server.requests == ["one"]

@pytest.mark.xfail(strict=True)
def test_fails_as_expected(server):
    assert server.requests == ["one"]

def test_is_skipped():
    pytest.skip("not today")
"""


def test_tests_that_end_early(tmp_path: Path) -> None:
    """A test that fails, is expected to, or is skipped midway remains that; what the check would say is only noted."""
    (tmp_path / "test_project.py").write_text(ENDED_EARLY)
    done = run(tmp_path)
    assert re.search(r"^1 failed, 1 skipped, 1 xfailed in", done.stdout, re.MULTILINE), done.stdout + done.stderr
    said = re.findall(r"^E +(?:AssertionError: (?=assert)|(?=tir_endpoint))(.*)$", done.stdout, re.MULTILINE)
    assert said == ["assert [] == ['one']", "tir_endpoint: Nobody asked for the answer 'never'."]


LOADED = """
import json, sys

def test_nothing_is_loaded():
    loaded = {name.partition(".")[0] for name in sys.modules}
    print(json.dumps(sorted(loaded & {"tir_qwen", "langchain_tir_qwen", "llama_index_tir_qwen", "langchain_core"})))
"""


def test_the_plugin_loads_nothing(tmp_path: Path) -> None:
    """In a project that does not use the fixtures, pytest loads neither this package nor a framework."""
    (tmp_path / "test_other.py").write_text(LOADED)
    done = run(tmp_path, "-s")
    assert json.loads(done.stdout.splitlines()[0].rstrip(".")) == [], done.stdout + done.stderr


def test_the_page_names_each_fault() -> None:
    """The page's table has each fault, with its name."""
    from tir_qwen.testing import faults

    table = PAGE.partition("| fault |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)\([^`]*\)`", table))
    assert named == {name for name in faults.__all__ if name[0].islower()}
