"""What `make docs` would complain about, found without building the site: navigation, links and the reference."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import griffe
import pytest
import yaml

from langchain_tir_qwen import ChatTIRQwen, TIREmbeddings
from llama_index_tir_qwen import TIREmbedding, TIRQwen
from notebooks.pages import write_pages
from tests.support.paths import ROOT
from tests.support.public import MODULES, PACKAGES
from tests.support.server import Loopback, completion
from tir_qwen import ConfigurationError, TIRError
from tir_qwen.testing import FakeEndpoint

DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
FENCES = re.compile(r"^( *)(```+).*?^\1\2$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder from which the site is built."""
    folder = tmp_path_factory.mktemp("site") / "pages"
    write_pages(folder)
    return folder


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, str]:
    """The site's pages, by their names within the folder."""
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in sorted(folder.rglob("*.md"))}


def navigated(entries: Any) -> Iterator[str]:
    """Return the pages of the navigation."""
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from navigated(below)


def test_every_page_is_in_the_navigation(pages: dict[str, str]) -> None:
    """The navigation lists each page exactly once, the notebooks included."""
    assert sorted(navigated(CONFIG["nav"])) == sorted(pages)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as Python-Markdown and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", FENCES.sub("", text), re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", heading) for heading in words}


def links(text: str) -> list[tuple[str, str]]:
    """Return the relative links and images of a page, as targets and anchors."""
    prose = re.sub(r"`[^`\n]*`", "", FENCES.sub("", text))
    found = re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)#?([^)\s]*)\)", prose)
    return [*found]


def test_links_of_the_site_work(folder: Path, pages: dict[str, str]) -> None:
    """Each link of a page leads to a page, an anchor or a file of the site."""
    broken = []
    for name, text in pages.items():
        for target, anchor in links(text):
            to = str((folder / name).parent.joinpath(target).resolve().relative_to(folder)) if target else name
            if not (folder / to).is_file() or (anchor and anchor not in anchors(pages.get(to, ""))):
                broken.append(f"{name}: {target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
        *(str(path.relative_to(ROOT)) for path in sorted(DOCS.rglob("*.md"))),
    ],
)
def test_links_of_the_repository_work(name: str) -> None:
    """Each relative link leads to a file, and to a heading in it, for those who read the pages in the repository."""
    text = (ROOT / name).read_text("utf-8")
    broken = []
    for target, anchor in links(text):
        path = (ROOT / name).parent / target if target else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path.read_text("utf-8"))):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def test_named_files_exist(pages: dict[str, str]) -> None:
    """Each test, benchmark and result that a page names by its path is there."""
    named = re.findall(r"`((?:tests|benchmarks|stress)/[\w/.-]+\.\w+)`", "\n".join(pages.values()))
    assert len(named) > 50
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_nothing_is_fetched(pages: dict[str, str]) -> None:
    """The site loads no fonts, scripts or images from other hosts."""
    assert CONFIG["theme"]["font"] is False
    plugins = {one if isinstance(one, str) else next(iter(one)) for one in CONFIG["plugins"]}
    assert plugins == {"search", "mkdocstrings"}  # `offline` would load a script from a CDN
    assert [url for url in (*CONFIG["extra_css"], *CONFIG.get("extra_javascript", ())) if "//" in url] == []
    assert [name for name, text in pages.items() if re.search(r"!\[[^]]*\]\(http|<script|<iframe|<img", text)] == []


def test_the_readme_fits_three_screens() -> None:
    """The README has at most 150 lines, and its first screen has the two commands."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150
    assert {"make demo", "make test"} <= {line.partition(" #")[0].strip() for line in lines[:24]}


def test_environment_variables(pages: dict[str, str]) -> None:
    """The page on configuration names exactly the environment variables that the source reads."""
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "tir_qwen").rglob("*.py"))
    pattern = r"\b(?:E2E_TIR_[A-Z_]+|MODEL_API_CLIENT_HOST|TIR_QWEN_[A-Z_]+)\b"
    assert set(re.findall(pattern, pages["configuration.md"])) == set(re.findall(pattern, source))


MIGRATION = (DOCS / "migration.md").read_text("utf-8") + (ROOT / "README.md").read_text("utf-8")
REPLACEMENTS = sorted({*re.findall(r"\| `((?:ChatTIRQwen|TIRQwen)\([^`.]*\))` \|", MIGRATION)})


@pytest.mark.parametrize("code", REPLACEMENTS)
def test_what_to_write_instead(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replacement for another integration's line requests the same URL with the named arguments."""
    made = {"ChatTIRQwen": ChatTIRQwen, "TIRQwen": TIRQwen, "token": "token"}
    (path,) = {*re.findall(r'base_url="https://infer\.e2enetworks\.net(/[^"]*)"', MIGRATION)}
    with Loopback(lambda _: [completion()]) as server:
        monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "token")
        monkeypatch.setenv("E2E_TIR_PROJECT_ID", "6530")
        monkeypatch.setenv("MODEL_API_CLIENT_HOST", server.url)
        model = eval(code, made)
        model.invoke("Hi") if isinstance(model, ChatTIRQwen) else model.complete("Hi")
        (request,) = server.requests
    assert request.target.partition("?")[0] == f"{path}/chat/completions"
    body = request.json()
    sent = {name: body[name] for name in ("max_tokens", "top_k", "chat_template_kwargs") if name in body}
    expected = {"max_tokens": 500, "top_k": 20, "chat_template_kwargs": {"enable_thinking": False}}
    words = {"max_tokens": "max_tokens", "top_k": "top_k", "chat_template_kwargs": "enable_thinking"}
    assert sent == {name: value for name, value in expected.items() if words[name] in code}


EMBEDDINGS = sorted({*re.findall(r"\| `((?:TIREmbeddings|TIREmbedding)\([^`.]*\))`", MIGRATION)})


@pytest.mark.parametrize("code", EMBEDDINGS)
def test_which_embeddings_to_write_instead(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replacement for another embedding model sends the same request."""
    with FakeEndpoint() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        model = eval(code, {"TIREmbeddings": TIREmbeddings, "TIREmbedding": TIREmbedding, "token": "token"})
        texts = [f"text {number}" for number in range(100)]
        ask = model.embed_documents if isinstance(model, TIREmbeddings) else model.get_text_embedding_batch
        assert len(ask(texts)) == 100
    assert {request.path for request in server.requests} == {
        "/project/p-6530/genai/e5-mistral-7b-instruct/v1/embeddings"
    }
    bodies = [request.json() for request in server.requests]
    assert {body.get("dimensions") for body in bodies} == {256 if "dimensions" in code else None}
    assert max(len(body["input"]) for body in bodies) == (64 if "64" in code else 32)


def test_there_are_replacements() -> None:
    """The pages show how to replace both integrations."""
    assert {code.partition("(")[0] for code in REPLACEMENTS} == {"ChatTIRQwen", "TIRQwen"}
    assert len(REPLACEMENTS) >= 4
    assert {code.partition("(")[0] for code in EMBEDDINGS} == {"TIREmbeddings", "TIREmbedding"}


@pytest.mark.parametrize("name", ["max_completion_tokens", "request_timeout"])
def test_another_ones_names(name: str) -> None:
    """An argument known only to another integration raises an error that suggests the right one."""
    assert name in MIGRATION
    right = {"max_completion_tokens": "max_tokens", "request_timeout": "timeout"}[name]
    with pytest.raises(ConfigurationError, match=f"there is no argument '{name}' .use {right}"):
        ChatTIRQwen(project_id=6530, access_token="token", **{name: 1})


LOADER = griffe.GriffeLoader(search_paths=[ROOT], docstring_parser="google")
for package in PACKAGES:
    LOADER.load(package)


def loaded(module: str) -> Any:
    """Return a module as the reference reads it: without importing it."""
    return LOADER.modules_collection[module]


def test_every_public_name_is_in_the_reference(pages: dict[str, str]) -> None:
    """Each public name has an entry, either of its own or on the page of its module."""
    reference = "\n".join(text for name, text in pages.items() if name.startswith("reference/"))
    entries = re.findall(r"^::: (\S+)$", reference, re.MULTILINE)
    public = {f"{module}.{name}": module for module in MODULES for name in import_module(module).__all__}
    assert [name for name, module in public.items() if name not in entries and module not in entries] == []
    assert [entry for entry in entries if entry not in {*public, *MODULES, "tir_qwen.errors"}] == []
    assert len(entries) == len({*entries})


CLASSES = {
    f"{module}.{name}": loaded(module)[name]
    for module in MODULES
    for name in import_module(module).__all__
    if isinstance(getattr(import_module(module), name), type)
}


def listed(cls: Any) -> set[str]:
    """Return the attributes that the docstrings of a class and its bases describe."""
    sections = [section for one in (cls, *cls.mro()) if one.docstring for section in one.docstring.parsed]
    return {item.name for section in sections if section.kind.value == "attributes" for item in section.value}


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module: str) -> None:
    """Each public module, and each of its public names, has a docstring."""
    assert loaded(module).docstring
    names = import_module(module).__all__
    assert [name for name in names if not loaded(module)[name].has_docstring and name != "BatchOptions"] == []


@pytest.mark.parametrize("name", CLASSES)
def test_public_members_are_documented(name: str) -> None:
    """Each public field and method is documented, by its own docstring or under Attributes of its class."""
    cls = CLASSES[name]
    described = listed(cls)
    members = {member: thing for member, thing in cls.all_members.items() if not member.startswith("_")}
    for_frameworks = {"model_config", "class_name", "lc_secrets"}
    silent = {member for member, thing in members.items() if not thing.has_docstring} - described - for_frameworks
    assert silent == set()
    if cls.path.startswith("tir_qwen.errors"):
        made = vars(getattr(import_module("tir_qwen"), cls.name)())
        assert made.keys() - described == set()


def test_llamahub_lists_the_public_classes() -> None:
    """The metadata for LlamaHub name the package and each of its public classes."""
    hub = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["llamahub"]
    assert sorted(hub["class_authors"]) == import_module(hub["import_path"]).__all__


def test_all_public_classes_are_checked() -> None:
    """The checked classes are those that users work with."""
    names = {name.rpartition(".")[2] for name in CLASSES}
    errors = {one.__name__ for one in _subclasses(TIRError) if one.__module__ == "tir_qwen.errors"}
    assert {*import_module("tir_qwen").__all__, "ChatTIRQwen", "TIRQwen", *errors} <= names


def _subclasses(cls: type) -> set[type]:
    return {cls}.union(*map(_subclasses, cls.__subclasses__()))


def test_notebook_pages_show_inputs_and_outputs(folder: Path, pages: dict[str, str]) -> None:
    """A notebook's page has its code, its printed outputs and its pictures, and links to other pages."""
    text = pages["notebooks/01_langchain_quickstart.md"]
    assert text.startswith("# LangChain quickstart\n")
    assert "````python\n" in text
    assert "````text\n" in text
    assert "](02_agent_with_tools.md)" in text
    pictures = [folder / "notebooks" / name for name in re.findall(r"!\[Output of the cell above\]\((.+?)\)", text)]
    assert pictures
    assert [picture.read_bytes()[:4] for picture in pictures] == [b"\x89PNG"] * len(pictures)


def test_what_only_readers_of_the_repository_see(pages: dict[str, str]) -> None:
    """The site does not say how to build it, and links to the pages of the notebooks."""
    assert "make docs" not in "".join(text for name, text in pages.items() if name.startswith("reference/"))
    assert "](notebooks/04_reasoning.md)" in pages["reasoning.md"]
