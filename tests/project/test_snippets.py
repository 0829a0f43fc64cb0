"""The snippets of README, guides, upstream pages and docstrings run, with what their page says to install."""

from __future__ import annotations

import ast
import gc
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from llama_index.core import Settings

from tests.support.captures import CAPTURES
from tests.support.embedding_server import embeds
from tests.support.paths import ROOT
from tests.support.public import MODULES
from tests.support.server import END, STREAM_HEAD, HangUpError, Loopback, Request, completion, event, response

pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20"),  # raised by core's agents
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the databases and event loops of core's agents
]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
UPSTREAM = ROOT / "docs" / "upstream"
FENCE = re.compile(r"^( *)```python[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def of_page(path: Path) -> list[str]:
    """Return the Python snippets of a page."""
    return [textwrap.dedent(code) for _, code in FENCE.findall(path.read_text("utf-8"))]


def of_docstrings() -> Iterator[tuple[str, str]]:
    """Return the examples in the docstrings of the public names and their members, by name."""
    for module in map(import_module, MODULES):
        documented: dict[str, Any] = {module.__name__: module}
        for name in module.__all__:
            thing = documented[f"{module.__name__}.{name}"] = getattr(module, name)
            if inspect.isclass(thing):
                documented |= {f"{module.__name__}.{name}.{one}": member for one, member in vars(thing).items()}
        for name, thing in documented.items():
            for number, code in enumerate(FENCE.findall(inspect.getdoc(thing) or "")):
                yield f"{name}-{number}", code[1]


def of_notebook(path: Path) -> list[str]:
    """Return the code cells of a notebook without magic commands, those that await as coroutines that are run."""
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    sources = [re.sub("(?m)^%.*", "", "".join(cell["source"])) for cell in cells]
    coroutine = "import asyncio\nasync def cell():\n{}\nasyncio.run(cell())"
    return [coroutine.format(textwrap.indent(code, "    ")) if "await " in code else code for code in sources]


SNIPPETS = {f"{path.relative_to(ROOT)}-{number}": code for path in PAGES for number, code in enumerate(of_page(path))}
EXAMPLES = dict(of_docstrings())
WHOLE, STREAM = (
    next(capture.raw for capture in CAPTURES if capture.id == f"vllm-0.9.2/{name}")
    for name in ("plain_think", "stream_usage_think")
)


def answer(request: Request) -> list[bytes]:
    """Answer with vectors, with a tool call about the weather, with an object if asked for, else recorded."""
    body = request.json()
    if "input" in body:
        return embeds(request)
    if body.get("tools") and "weather" in str(body["messages"][-1]["content"]):
        name = body["tools"][0]["function"]["name"]
        call = {"id": "c-1", "type": "function", "function": {"name": name, "arguments": '{"city": "Paris"}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return [response({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})]
    if body.get("response_format"):
        return [completion('{"city": "Paris", "country": "France", "temperature": 22}')]
    return [STREAM if body["stream"] else WHOLE]


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Collect what core leaves open, before another file's tests do and fail by its warnings."""
    yield
    gc.collect()


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """An endpoint that the environment names, and a folder to write to."""
    monkeypatch.chdir(tmp_path)
    for setting in ("_llm", "_embed_model", "_callback_manager"):
        monkeypatch.setattr(Settings, setting, None)
    with Loopback(answer) as server:
        monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "token")
        monkeypatch.setenv("E2E_TIR_PROJECT_ID", "6530")
        monkeypatch.setenv("MODEL_API_CLIENT_HOST", server.url)
        yield server


def run(code: str, name: str) -> dict[str, Any]:
    """Run a snippet as a reader would, and return what it has defined."""
    defined: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, name, "exec"), defined)
    return defined


@pytest.mark.parametrize("name", [*SNIPPETS, *EXAMPLES])
def test_snippets_run(name: str, endpoint: Loopback, capsys: pytest.CaptureFixture[str]) -> None:
    """Each snippet runs unchanged, and prints the answer if it prints anything."""
    code = SNIPPETS.get(name) or EXAMPLES[name]
    run(code, name)
    has_own_server = "FakeEndpoint(" in code or name.startswith("tir_qwen.testing")
    answered = bool(endpoint.requests) or has_own_server
    assert bool(re.search(r"\b(print|a?show)\(", code)) == answered
    assert not answered or "Paris" in capsys.readouterr().out


TOO_LONG = response({"message": "This model's maximum context length is 32768 tokens."}, "400 Bad Request")


def test_upstream_pages_run(endpoint: Loopback, capsys: pytest.CaptureFixture[str]) -> None:
    """The code of the pages for the frameworks' documentation runs from top to bottom."""
    for snippets in (of_page(UPSTREAM / "langchain.mdx"), of_notebook(UPSTREAM / "llama_index.ipynb")):
        endpoint.requests.clear()
        run("\n".join(snippets), "upstream")
        assert endpoint.requests
        assert "Paris" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answered", "status", "text", "logged", "retry_after"),
    [
        ([STREAM], 200, "The capital of France is Paris.", False, None),
        ([STREAM_HEAD + event("The capital") + END], 200, "The capital\n[The answer was interrupted.]", True, None),
        ([response({}, "403 Forbidden")], 503, '{"detail":"The model is not available."}', True, None),
        ([response({}, "503 Busy")], 503, '{"detail":"The model is not available."}', True, "30"),
        ([TOO_LONG], 413, '{"detail":"The question is too long."}', False, None),
    ],
    ids=["whole", "interrupted", "refused", "overloaded", "too long"],
)
async def test_the_web_service(
    answered: list[bytes],
    status: int,
    text: str,
    logged: bool,
    retry_after: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The FastAPI service of the guide streams the answer, and reports an interruption or a refusal to user and log."""
    (code,) = (code for code in of_page(ROOT / "docs" / "deploying.md") if "fastapi" in code)

    def once(_: Request) -> Iterator[bytes]:
        yield from answered
        if b"DONE" not in answered[0]:
            raise HangUpError

    with Loopback(once) as server:
        monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "token")
        monkeypatch.setenv("E2E_TIR_PROJECT_ID", "6530")
        monkeypatch.setenv("MODEL_API_CLIENT_HOST", server.url)
        app = run(code, "deploying.md")["app"]
        assert isinstance(app, FastAPI)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            reply = await client.post("/ask", json={"question": "What is the capital of France?"})
    assert (reply.status_code, reply.text) == (status, text)
    assert [record.name for record in caplog.records if record.exc_info] == ["__main__"] * logged
    assert reply.headers.get("retry-after") == retry_after


COMES_WITH = {
    "fastapi": "fastapi",
    "langchain": "langchain",
    "langgraph": "langchain",
    "llama_index.retrievers.bm25": "llama-index-retrievers-bm25",
    "openinference": "openinference-instrumentation-llama-index",
    "opentelemetry": "opentelemetry-sdk",
    "pytest": "pytest",
}
"""What has to be installed beside tir-qwen to import a module."""
ALWAYS = ("httpx2", "langchain_core", "langchain_tir_qwen", "llama_index", "llama_index_tir_qwen", "pydantic")
"""What tir-qwen and its extras install."""
STANDARD = (
    *("__future__", "asyncio", "collections", "contextlib", "getpass", "logging"),
    *("os", "pathlib", "ssl", "typing"),
)


def imported(code: str) -> set[str]:
    """Return the modules that a snippet imports."""
    nodes = list(ast.walk(ast.parse(code)))
    froms = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return froms | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_say_what_to_install(path: Path) -> None:
    """Each module that a page's snippets import comes with tir-qwen or a package that the page says to install."""
    installed = " ".join(re.findall(r"pip install ([^`\n]*)", path.read_text("utf-8"))).replace('"', "").split()
    for module in sorted(set().union(*map(imported, of_page(path)))):
        extra = next((need for name, need in COMES_WITH.items() if f"{module}.".startswith(f"{name}.")), None)
        if extra is None:
            assert module.partition(".")[0] in ("tir_qwen", *ALWAYS, *STANDARD)
        else:
            assert extra in installed


def test_there_are_snippets() -> None:
    """Each guide for programmers has snippets, and so have the clients, both models, tools, objects and errors."""
    pages = {name.rpartition("-")[0] for name in SNIPPETS}
    guides = ("langchain", "llama-index", "reasoning", "structured-output", "agents", "bulk", "errors", "networks")
    assert {f"docs/{name}.md" for name in guides} | {"README.md", "docs/index.md"} <= pages
    names = {name.rpartition("-")[0].partition("tir_qwen.")[2] for name in EXAMPLES}
    assert {"Client", "Client.stream", "AsyncClient", "AsyncClient.stream", "Timeout", "TIRError"} <= names
    assert {"ChatTIRQwen", "ChatTIRQwen.bind_tools", "ChatTIRQwen.with_structured_output", "TIRQwen"} <= names
