"""The API reference builds, covers every public name, and its examples run."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pdoc.doc import Class, Doc, Module

import tir_qwen
from docs.__main__ import MODULES, build, faults, members, modules
from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.captures import CAPTURES
from tests.support.paths import ROOT
from tests.support.server import Loopback, Received, completion, response
from tir_qwen import TIRError
from tir_qwen._integrations.parameters import ModelSettings

TOKEN = "canary-of-the-token-4711"


def documented() -> Iterator[Doc[Any]]:
    """Return each module that has a page, with its public names and their members."""
    for module in modules():
        yield module
        for doc in module.members.values():
            yield doc
            if isinstance(doc, Class):
                yield from members(doc)


CLASSES = {doc.fullname: doc for doc in documented() if isinstance(doc, Class)}
EXAMPLES = {
    f"{doc.fullname}-{number}": code
    for doc in documented()
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", doc.docstring, re.DOTALL))
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Build the pages; return them with the problems that the builder reports."""
    folder = tmp_path_factory.mktemp("site")
    return folder, build(folder)


def page(folder: Path, module: str) -> str:
    """Return a module's page."""
    return (folder / f"{module.replace('.', '/')}.html").read_text("utf-8")


def test_the_reference_builds_without_warnings(built: tuple[Path, list[str]]) -> None:
    """The reference builds without warnings, broken links, or pages that load external resources."""
    folder, problems = built
    assert problems == []
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {"index.html", "search.js", *(f"{name.replace('.', '/')}.html" for name in MODULES)}


def test_faults_are_found(tmp_path: Path) -> None:
    """The builder reports broken links, unknown names and external scripts."""
    (tmp_path / "other.html").write_text('<p id="here">')
    (tmp_path / "page.html").write_text(
        '<p id="a"><a href="#a">a</a> <a href="#b">b</a> <a href="other.html#here">c</a> <a href="other.html#no">d</a>'
        '<a href="none.html">e</a> <code>tir_qwen.Client</code> <a href="#a"><code>tir_qwen.Timeout</code></a>'
        '<script src="https://cdn.example/x.js"></script>'
    )
    assert list(faults(tmp_path)) == [
        "page.html: tir_qwen.Client is not in the reference",
        "page.html: the link #b leads nowhere",
        "page.html: the link other.html#no leads nowhere",
        "page.html: the link none.html# leads nowhere",
        'page.html: fetches something: <script src="https://',
    ]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.fullname)
def test_public_names(module: Module, built: tuple[Path, list[str]]) -> None:
    """Exactly the names in `__all__` have an entry on their module's page, each with a docstring."""
    shown = re.findall(r'<section id="([^"]+)">', page(built[0], module.fullname))
    assert sorted(shown) == sorted(module.obj.__all__)
    assert [name for name, doc in module.members.items() if not doc.docstring.strip()] == []
    assert module.docstring.strip()


def attributes(cls: type) -> set[str]:
    """Return the attributes that the docstrings of a class and its bases describe."""
    found: set[str] = set()
    for base in cls.__mro__:
        section = re.search(r"^Attributes:\n((?:    .*\n?|\n)+)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE)
        if section and base.__module__.partition(".")[0] in MODULES:
            found.update(re.findall(r"^    (\w+): \S", section[1], re.MULTILINE))
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_public_members_are_documented(name: str) -> None:
    """Each public field and method is documented, by its own docstring or under Attributes of its class."""
    cls = CLASSES[name]
    listed = attributes(cls.obj)
    public = {member.name for member in members(cls)} - {"__init__"}
    said = {member.name for member in members(cls) if member.docstring.strip()}
    if issubclass(cls.obj, TIRError):
        public |= vars(cls.obj()).keys()
    assert public - said - listed == set()
    assert {one for one in listed if one not in public} == set()


def test_all_public_classes_are_checked() -> None:
    """The checked classes are those that users work with."""
    names = {name.rpartition(".")[2] for name in CLASSES}
    assert {*tir_qwen.__all__, "ChatTIRQwen", "TIRQwen"} <= names


OWN = {
    face: {
        name
        for base in face.__mro__
        if base.__module__.partition(".")[0] in MODULES
        for name in vars(base).get("__annotations__", {})
        if name in face.model_fields
    }
    for face in (ChatTIRQwen, TIRQwen)
}
"""The fields that are written in this package; taken before a test runs, as libraries write into annotations."""


@pytest.mark.parametrize("face", OWN, ids=lambda face: face.__name__)
def test_pages_show_the_fields_of_this_package(face: type[ModelSettings], built: tuple[Path, list[str]]) -> None:
    """A model's page shows this package's fields, and its search finds them; the framework's are folded."""
    module, own = face.__module__.partition(".")[0], OWN[face]
    html = page(built[0], module)
    shown = set(re.findall(rf'<div id="{face.__name__}\.(\w+)" class="classattr">', html))
    assert own >= {"temperature", "timeout", "max_retries", *ModelSettings.model_fields}
    assert own == shown & face.model_fields.keys()
    folded = set(re.findall(r"<code>(\w+)</code>", "".join(re.findall(r"<details>.*?</details>", html, re.DOTALL))))
    assert face.model_fields.keys() - own - folded == set()
    index = (built[0] / "search.js").read_text("utf-8")
    assert [name for name in own if f"{module}.{face.__name__}.{name}" not in index] == []


def test_nothing_of_this_machine(tmp_path: Path) -> None:
    """The reference contains no credentials of the environment, and no path or address of the machine."""
    variables = {"E2E_TIR_ACCESS_TOKEN": TOKEN, "E2E_TIR_API_KEY": TOKEN, "E2E_TIR_PROJECT_ID": "987654"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "docs", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    texts = {str(path): path.read_text("utf-8") for path in (tmp_path / "site").rglob("*") if path.is_file()}
    assert len(texts) == len(MODULES) + 2
    for forbidden in (TOKEN, "987654", str(ROOT), str(tmp_path), str(Path.home()) + "/", sys.prefix, " at 0x"):
        assert [name for name, text in texts.items() if forbidden in text] == []


WHOLE, STREAM = (
    next(capture.raw for capture in CAPTURES if capture.id == f"vllm-0.9.2/{name}")
    for name in ("plain_think", "stream_usage_think")
)


def answer(request: Received) -> list[bytes]:
    """Answer an example's request with a tool call, an object, or a recorded answer, streamed or whole."""
    body = request.json()
    if body.get("tools"):
        name = body["tools"][0]["function"]["name"]
        call = {"id": "c-1", "type": "function", "function": {"name": name, "arguments": '{"city": "Paris"}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return [response({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})]
    if body.get("response_format"):
        return [completion('{"city": "Paris", "country": "France"}')]
    return [STREAM if body["stream"] else WHOLE]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each example in a docstring runs unchanged, and prints the answer if it prints anything."""
    monkeypatch.chdir(tmp_path)
    with Loopback(answer) as server:
        monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "token")
        monkeypatch.setenv("E2E_TIR_PROJECT_ID", "6530")
        monkeypatch.setenv("MODEL_API_CLIENT_HOST", server.url)
        exec(compile(EXAMPLES[name], name, "exec"), {"__name__": "example"})  # the reader does the same
        asked = len(server.received)
    assert ("print(" in EXAMPLES[name]) == bool(asked)
    assert not asked or "Paris" in capsys.readouterr().out


def test_there_are_examples() -> None:
    """There are examples for the clients, both models, tools, objects and errors."""
    names = {name.partition("-")[0].rpartition("tir_qwen.")[2] for name in EXAMPLES}
    wanted = {"Client", "Client.stream", "AsyncClient", "AsyncClient.stream", "Timeout", "TIRError", "ChatTIRQwen"}
    wanted |= {"ChatTIRQwen.bind_tools", "ChatTIRQwen.with_structured_output", "TIRQwen", "TIRQwen.structured_predict"}
    assert wanted <= names
