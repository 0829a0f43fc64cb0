"""Which modules import which, what an import loads, and its error if something is missing."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import langchain_tir_qwen
import llama_index_tir_qwen
import tir_qwen
from tests.support.server import Loopback, echo

PACKAGES = (tir_qwen, langchain_tir_qwen, llama_index_tir_qwen)
ENGINES = {"httpx", "httpx2", "httpcore", "httpcore2"}

RUN = """
import json, sys
{code}
print(json.dumps(sorted({{name.partition(".")[0] for name, module in sys.modules.items() if module}})))
"""


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def loaded(code: str, *arguments: str, **environment: str) -> set[str]:
    """Return the packages that are loaded after running this code in a new process."""
    done = python(RUN.format(code=code), *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def raised(code: str, **environment: str) -> str:
    """Return the last line of the traceback that this code causes."""
    done = python(code, **environment)
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


def test_transport_alone() -> None:
    """The transport loads no framework, and no HTTP library before its first call."""
    made = "import tir_qwen; tir_qwen.Client(1, 'token'); tir_qwen.AsyncClient(1, 'token')"
    packages = loaded(made)
    assert not packages & {"langchain_core", "llama_index", "openai", "langchain_tir_qwen", "llama_index_tir_qwen"}
    assert not packages & (ENGINES | {"h11", "anyio"})


@pytest.mark.parametrize("package", ["tir_qwen", "langchain_tir_qwen", "llama_index_tir_qwen"])
def test_the_test_kit_is_loaded_on_request(package: str) -> None:
    """`tir_qwen.testing` is loaded by whoever imports it; with it come no framework and no HTTP library."""
    loads = "print([name for name in sys.modules if name.startswith('tir_qwen.testing')])"
    assert python(f"import sys, {package}; {loads}").stdout == "[]\n"
    assert not loaded("import tir_qwen.testing") & {"langchain_core", "llama_index", "pytest", *ENGINES}


def test_face_of_langchain() -> None:
    """The LangChain integration loads neither LlamaIndex nor openai, and no HTTP client before its first call."""
    code = (
        "import langchain_tir_qwen, tir_qwen._transport.engine\n"
        "langchain_tir_qwen.ChatTIRQwen(project_id=1, access_token='token')\n"
        "assert tir_qwen._transport.engine._engine.cache_info().currsize == 0"
    )
    assert not loaded(code) & {"llama_index", "openai", "llama_index_tir_qwen"}


def test_face_of_llama_index() -> None:
    """The LlamaIndex integration loads neither LangChain nor openai, and no HTTP client before its first call."""
    code = (
        "import llama_index_tir_qwen, tir_qwen._transport.engine\n"
        "llama_index_tir_qwen.TIRQwen(project_id=1, api_key='token')\n"
        "assert tir_qwen._transport.engine._engine.cache_info().currsize == 0"
    )
    assert not loaded(code) & {"langchain", "langchain_core", "openai", "langchain_tir_qwen"}


@pytest.mark.parametrize(
    ("face", "before"),
    [
        (
            "langchain_tir_qwen",
            "import langchain_core.language_models.chat_models",
        ),
        ("llama_index_tir_qwen", "import llama_index.core"),
    ],
)
def test_face_loads_nothing_else(face: str, before: str) -> None:
    """If the framework is already loaded, importing the integration loads only this project's files."""
    packages = 'lambda: {name.partition(".")[0] for name in sys.modules}'
    code = f"import sys, json; {before}; packages = {packages}; known = packages(); import {face}"
    done = python(f"{code}; print(json.dumps(sorted(packages() - known)))")
    assert set(json.loads(done.stdout)) - sys.stdlib_module_names == {face, "tir_qwen"}


@pytest.mark.parametrize(
    ("face", "missing", "words"),
    [
        (
            "langchain_tir_qwen",
            "langchain_core",
            "langchain_tir_qwen needs langchain-core: pip install langchain-core",
        ),
        (
            "llama_index_tir_qwen",
            "llama_index",
            "llama_index_tir_qwen needs llama-index-core: pip install llama-index-core",
        ),
        (
            "llama_index_tir_qwen",
            "llama_index.core",
            "llama_index_tir_qwen needs llama-index-core: pip install llama-index-core",
        ),
    ],
)
def test_face_without_its_framework(face: str, missing: str, words: str) -> None:
    """Without its framework, an integration says what to install."""
    done = python(f"import sys; sys.modules[{missing!r}] = None; import {face}")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == f"ModuleNotFoundError: {words}"
    assert done.stderr.count("Traceback") == 1


@pytest.mark.parametrize(
    ("face", "missing"),
    [("langchain_tir_qwen", "langchain_core.messages"), ("llama_index_tir_qwen", "llama_index.core.llms")],
)
def test_broken_framework(face: str, missing: str) -> None:
    """If the framework is installed but one of its dependencies is missing, the error names that dependency."""
    said = raised(f"import sys; sys.modules[{missing!r}] = None; import {face}")
    assert f"import of {missing} halted; None in sys.modules" in said
    assert "pip install" not in said


CALL = """
from tir_qwen import Client
print(Client(base_url=sys.argv[1]).complete([{"role": "user", "content": "Hi"}]).content)
"""


@pytest.mark.parametrize(
    ("before", "wanted", "engine"),
    [
        ("", "", "httpx2"),
        ("", "httpx2", "httpx2"),
        ("", "httpx", "httpx"),
        ("sys.modules['httpx2'] = None", "", "httpx"),
        ("sys.modules['httpx'] = None", "", "httpx2"),
    ],
)
def test_a_call_loads_one_http_library(before: str, wanted: str, engine: str) -> None:
    """A call loads one HTTP library: the selected one, otherwise httpx2 if it is installed, otherwise httpx."""
    with Loopback(echo) as server:
        packages = loaded(f"{before}\n{CALL}", server.base_url, TIR_QWEN_HTTP_ENGINE=wanted)
    assert packages & ENGINES == {engine, engine.replace("httpx", "httpcore")}
    assert len(server.requests) == 1


def test_unknown_engine() -> None:
    """Selecting an unknown engine raises a ConfigurationError at the first call."""
    call = "import sys; sys.argv.append('http://127.0.0.1:9/v1')" + CALL
    assert raised(call, TIR_QWEN_HTTP_ENGINE="nonsense") == (
        "tir_qwen.errors.ConfigurationError: TIR_QWEN_HTTP_ENGINE must be one of httpx2, httpx."
    )


SOURCES = [path for package in PACKAGES for path in sorted(Path(package.__file__ or "").parent.rglob("*.py"))]
ROOT = Path(tir_qwen.__file__ or "").parent.parent
ENGINE_FILE = "tir_qwen/_transport/engine.py"

ROOMS: dict[str, set[str]] = {
    "_record": set(),
    "types": {"_record"},
    "errors": {"types"},
    "timeouts": {"errors"},
    "batches": {"errors", "types"},
    "_asyncgen": set(),
    "_json": {"errors", "types"},
    "_redaction": set(),
    "_request": {"_json", "_record", "_redaction", "errors", "types"},
    "testing": {"_redaction", "_request"},
    "_response": {"_json", "_redaction", "errors", "types"},
    "_transport": {"_asyncgen", "_redaction", "_request", "errors", "timeouts"},
    "_dialect": {"_json", "_record", "_request", "_response", "errors", "types"},
    "_client": {
        "_asyncgen",
        "_dialect",
        "_redaction",
        "_request",
        "_response",
        "_transport",
        "errors",
        "timeouts",
        "types",
    },
    "__init__": {"_client", "errors", "timeouts", "types"},
    "_doctor": {"__init__", "_client", "_dialect", "_json", "_response", "errors", "types"},
    "_integrations": {
        "_asyncgen",
        "_client",
        "_dialect",
        "_json",
        "_request",
        "_response",
        "errors",
        "timeouts",
        "types",
    },
    "__main__": {"_doctor"},
    "notebook": set(),
    "langchain_tir_qwen": {"__init__", "_integrations", "batches"},
    "llama_index_tir_qwen": {"__init__", "_integrations", "batches"},
}
"""What each room of the house may import, from the ground floor up: never anything that stands below it here."""


def module_of(path: Path) -> str:
    """Return the dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module: str) -> str:
    """Return the folder that a module belongs to."""
    package, *rest = module.split(".")
    if package != "tir_qwen":
        return package
    return rest[0] if rest else "__init__"


def imports(path: Path) -> Iterator[str]:
    """Return the absolute names of the modules that a file imports, at any place in it."""
    package = module_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            names = [*above, *(node.module.split(".") if node.module else [])]
            modules = [".".join([*names, alias.name]) for alias in node.names]
            yield from (
                name if (ROOT / name.replace(".", "/")).with_suffix(".py").is_file() else ".".join(names)
                for name in modules
            )


def of_ours(path: Path) -> Iterator[str]:
    """Return the modules of this project that a file imports."""
    return (
        name
        for name in imports(path)
        if name.partition(".")[0] in ("tir_qwen", "langchain_tir_qwen", "llama_index_tir_qwen")
    )


def test_the_rooms_stand_above_each_other() -> None:
    """Each folder only imports folders below it, so there is no circle."""
    floors = [*ROOMS]
    for room, below in ROOMS.items():
        assert all(floors.index(other) < floors.index(room) for other in below), room


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_between_rooms(path: Path) -> None:
    """A file imports only its own folder and those that the table allows."""
    room = room_of(module_of(path))
    assert {room_of(name) for name in of_ours(path)} - {room} <= ROOMS[room]


def test_each_allowed_import_is_used() -> None:
    """Each import that the table allows is used."""
    used: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in SOURCES:
        room = room_of(module_of(path))
        used[room] |= {room_of(name) for name in of_ours(path)} - {room}
    assert used == ROOMS


def test_no_circle_between_files() -> None:
    """Files do not import each other in a circle, not even within a folder."""
    graph = {module_of(path).removesuffix(".__init__"): {*of_ours(path)} for path in SOURCES}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_transport_knows_no_framework(path: Path) -> None:
    """The transport imports no framework, the integrations not each other, and a single file the HTTP library."""
    name = str(path.relative_to(ROOT))
    strangers = {
        "tir_qwen": {"langchain_tir_qwen", "llama_index_tir_qwen", "langchain_core", "langchain", "llama_index"},
        "langchain_tir_qwen": {"llama_index_tir_qwen", "llama_index"},
        "llama_index_tir_qwen": {"langchain_tir_qwen", "langchain_core", "langchain"},
    }[name.partition("/")[0]] | {"openai", "requests", "aiohttp", "urllib3"}
    text = path.read_text(encoding="utf-8")
    if name != ENGINE_FILE:
        strangers |= ENGINES
        assert "import_module" not in text
        assert "__import__" not in text
    assert not {name.partition(".")[0] for name in imports(path)} & strangers


def test_all_files_are_looked_at() -> None:
    """The checks above find the files and their imports."""
    assert {ENGINE_FILE, "langchain_tir_qwen/chat_models.py", "llama_index_tir_qwen/base.py"} <= {
        str(path.relative_to(ROOT)) for path in SOURCES
    }
    assert {room_of(module_of(path)) for path in SOURCES} == ROOMS.keys()
    assert {*imports(ROOT / "tir_qwen" / "_client" / "retry.py")} >= {"tir_qwen.errors", "random"}


def test_types_are_shipped() -> None:
    """Each package contains `py.typed`."""
    assert all((Path(package.__file__ or "").parent / "py.typed").is_file() for package in PACKAGES)


@pytest.mark.parametrize("engine", ["httpx", "httpx2"])
def test_engine_that_is_not_installed(engine: str) -> None:
    """Selecting an engine that is not installed raises a ConfigurationError that says so."""
    call = f"import sys; sys.argv.append('http://127.0.0.1:9/v1'); sys.modules[{engine!r}] = None{CALL}"
    assert raised(call, TIR_QWEN_HTTP_ENGINE=engine).startswith(
        "tir_qwen.errors.ConfigurationError: TIR_QWEN_HTTP_ENGINE"
    )
