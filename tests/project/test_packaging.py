"""The release: sdist and wheel, the wheel in clean environments, and its types in a program that uses it.

Nothing here asks a package registry; `make matrix` installs from one.
"""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from email.message import Message
from importlib.metadata import Distribution, distribution
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from packaging.requirements import Requirement

import noxfile
import tir_qwen
from tests.support.paths import ROOT

PACKAGES = ("langchain_tir_qwen", "llama_index_tir_qwen", "tir_qwen")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION = tir_qwen.__version__
PLUGIN = "_tir_qwen_pytest_plugin.py"
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_bytes()
    for path in (ROOT / PLUGIN, *(path for package in PACKAGES for path in (ROOT / package).rglob("*")))
    if path.is_file() and "__pycache__" not in path.parts
}


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Run a program that must succeed; return what it prints."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTHON", "TIR_QWEN_"))
    }
    done = subprocess.run(
        command, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the sdist and, from it, the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder / f"tir_qwen-{VERSION}.tar.gz", folder / f"tir_qwen-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="module")
def wheel(released: tuple[Path, Path]) -> Path:
    """Return the wheel."""
    return released[1]


def read_wheel(path: Path) -> dict[str, bytes]:
    """Return the files of a wheel."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """Return the metadata of the wheel."""
    return email.message_from_string(read_wheel(wheel)[f"tir_qwen-{VERSION}.dist-info/METADATA"].decode())


def test_the_wheel_contains_the_three_packages(wheel: Path) -> None:
    """The wheel contains the three packages with `py.typed` in each, the pytest plugin, the license, nothing else."""
    files = read_wheel(wheel)
    about = f"tir_qwen-{VERSION}.dist-info"
    written = {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    licence = {f"{about}/licenses/LICENSE": (ROOT / "LICENSE").read_bytes()}
    assert {name: data for name, data in files.items() if name not in written} == SOURCES | licence
    assert written <= files.keys()
    assert {name for name in files if name.endswith("py.typed")} == {f"{package}/py.typed" for package in PACKAGES}
    assert {PurePosixPath(name).suffix for name in SOURCES} == {".py", ".typed"}
    points = files[f"{about}/entry_points.txt"].decode().split("\n")
    assert points[1::3] == ["tir-qwen = tir_qwen._doctor.cli:main", f"tir_qwen = {PLUGIN.removesuffix('.py')}"]


def test_the_sdist_builds_the_same_wheel(released: tuple[Path, Path], tmp_path: Path) -> None:
    """The sdist contains only what the wheel needs, and builds the same wheel as the checkout."""
    sdist, of_sdist = released
    with tarfile.open(sdist) as archive:
        members = [member.name for member in archive.getmembers() if member.isfile()]
    others = {"CHANGELOG.md", "LICENSE", "README.md", "PKG-INFO", "pyproject.toml", ".gitignore"}
    assert {name.partition("/")[2] for name in members} == SOURCES.keys() | others
    assert {name.partition("/")[0] for name in members} == {f"tir_qwen-{VERSION}"}
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, ROOT)
    assert read_wheel(tmp_path / of_sdist.name) == read_wheel(of_sdist)


def test_index_accepts_it(released: tuple[Path, Path]) -> None:
    """A package index accepts both files and can render the README; each classifier is valid."""
    said = run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *released)
    assert re.findall("PASSED|FAILED|WARNING", said) == ["PASSED", "PASSED"]


def test_the_metadata_match_pyproject(metadata: Message) -> None:
    """The wheel's metadata match pyproject.toml and include the README."""
    one = ("Name", "Version", "Summary", "Requires-Python", "License-Expression", "License-File")
    assert [metadata[name] for name in one] == [
        *("tir-qwen", VERSION, PROJECT["description"], ">=3.11", "Apache-2.0", "LICENSE")
    ]
    assert metadata.get_all("Classifier") == PROJECT["classifiers"]
    assert set(metadata.get_all("Provides-Extra", [])) == PROJECT["optional-dependencies"].keys()
    assert metadata.get_payload() == (ROOT / "README.md").read_text("utf-8")
    assert metadata["Description-Content-Type"] == "text/markdown"
    # Nobody has said where the project will live: no address is made up.
    assert metadata.get_all("Project-URL") is None


def test_version_in_one_place(metadata: Message) -> None:
    """The version is defined in a single line, and everything that shows it agrees."""
    texts = [*ROOT.glob("*.toml"), *(path for package in PACKAGES for path in (ROOT / package).glob("*.py"))]
    lines = [
        (path.relative_to(ROOT).as_posix(), line)
        for path in texts
        for line in path.read_text("utf-8").splitlines()
        if VERSION in line and not re.search(rf"[\d.]{re.escape(VERSION)}|{re.escape(VERSION)}[\d.]", line)
    ]
    assert lines == [("tir_qwen/__init__.py", f'__version__ = "{VERSION}"')]
    assert metadata["Version"] == VERSION
    assert run(sys.executable, "-m", "tir_qwen", "--version", cwd=ROOT) == f"{VERSION}\n"


@pytest.fixture(scope="module")
def sessions() -> list[dict[str, Any]]:
    """Return the sessions that `make matrix` runs."""
    listed: list[dict[str, Any]] = json.loads(run(sys.executable, "-m", "nox", "--list", "--json", cwd=ROOT))
    return [session for session in listed if session["name"] != "suite_with"]


def test_the_classifiers_name_the_tested_pythons(metadata: Message, sessions: list[dict[str, Any]]) -> None:
    """The Python versions of the classifiers are those that `make matrix` tests."""
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(metadata.get_all("Classifier", [])))
    assert named == list(dict.fromkeys(session["python"] for session in sessions))


def test_compatibility(sessions: list[dict[str, Any]]) -> None:
    """The table of results has a row for each session, with the extras it installs, and each is ok."""
    lines = (ROOT / "docs" / "compatibility.md").read_text("utf-8").splitlines()
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("| 3.")]
    suites = {"suite": "test", "suite_lowest": "langchain,llama-index"}
    rows = [
        (each["python"], each["call_spec"].get("extras", suites.get(each["name"])), each["name"]) for each in sessions
    ]
    expected = [(python, extras.replace(",", ", ") or "none", name, "ok") for python, extras, name in rows]
    assert [found[:4] for found in cells] == sorted(expected)


def test_what_is_tried(sessions: list[dict[str, Any]]) -> None:
    """Each extra, and none, is tested alone on each Python with the newest and the lowest versions."""
    tried = {(each["python"], each["name"], each["call_spec"].get("extras")) for each in sessions}
    for_users = {"", *PROJECT["optional-dependencies"]} - {"docs", "notebooks", "test"}
    assert tried >= set(product(noxfile.PYTHONS, ("newest", "lowest"), for_users))


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    """The lowest tested versions are the lower bounds in pyproject.toml, including those of nested extras."""
    bounds = dict(line.split("==") for line in noxfile.lowest_versions("ray"))
    assert bounds.keys() == {"h11", "httpx", "pydantic", "langchain-core", "tenacity", "httpx2", "ray"}
    both = dict(line.split("==") for line in noxfile.lowest_versions("langchain,llama-index"))
    assert f"pydantic>={both['pydantic']},<2.14" in PROJECT["optional-dependencies"]["llama-index"]
    assert f"httpx>={both['httpx']},<1" in PROJECT["dependencies"]


Make = Callable[..., Path]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Create environments with the wheel and what it declares for some extras, and nothing else.

    A package that is wanted is not fetched: its files here are linked to. Which are wanted is read off the metadata.
    """
    made: dict[tuple[str, ...], Path] = {}

    def make(*extras: str) -> Path:
        if extras not in made:
            place = tmp_path_factory.mktemp("environment")
            run(sys.executable, "-m", "venv", "--without-pip", place)
            python = place / "bin" / "python"
            pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
            run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel)
            site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
            installed = next(iter(Distribution.discover(name="tir-qwen", path=[str(site)])))
            for wanted in declared(installed, frozenset(extras)):
                link(wanted, site)
            assert run(*pip, "check") == "No broken requirements found.\n"
            made[extras] = python
        return made[extras]

    return make


def declared(root: Distribution, extras: frozenset[str]) -> Iterator[Distribution]:
    """Yield what a package needs with these extras, recursively."""
    left = [(root, extras)]
    done: set[tuple[str, frozenset[str]]] = set()
    while left:
        one, wanted = left.pop()
        for line in one.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in (wanted or {""})):
                key = requirement.name.lower(), frozenset(requirement.extras)
                if key not in done and key[0] != "tir-qwen":
                    done.add(key)
                    found = distribution(requirement.name)
                    assert requirement.specifier.contains(found.version, prereleases=True), line  # pip skips extras'
                    left.append((found, key[1]))
                    yield found


def link(wanted: Distribution, site: Path) -> None:
    """Put a package into an environment, by a link to each of its files."""
    for file in wanted.files or ():
        target = site / file
        if ".." not in file.parts and not target.exists() and file.locate().is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path(str(file.locate())))


@pytest.mark.parametrize(
    "extras",
    [(), ("langchain",), ("llama-index",), ("langchain", "llama-index")],
    ids=lambda extras: "+".join(extras) or "none",
)
def test_each_extra_is_enough_for_its_integration(environment: Make, extras: tuple[str, ...], tmp_path: Path) -> None:
    """An extra installs all that its integration needs; the other integration says what to install."""
    run(environment(*extras), "-I", ROOT / "tests" / "support" / "wheel_smoke.py", *extras, cwd=tmp_path)


CONSUMER = Path(__file__).parent / "typing"
MISTAKES = {
    number
    for number, line in enumerate((CONSUMER / "wrong.py").read_text("utf-8").splitlines(), 1)
    if "  # wrong" in line
}


@pytest.fixture
def consumer(tmp_path: Path) -> Path:
    """Copy the consumer's program to a folder outside the checkout."""
    for name in ("program.py", "wrong.py"):
        (tmp_path / name).write_text((CONSUMER / name).read_text("utf-8"), "utf-8")
    return tmp_path


def test_types_by_mypy(environment: Make, consumer: Path) -> None:
    """Mypy --strict finds the expected types in the installed wheel, and each mistake of a consumer."""
    python = environment("langchain", "llama-index")
    strictly = ("--strict", "--config-file=", f"--python-executable={python}", f"--cache-dir={consumer / 'cache'}")
    command = (sys.executable, "-m", "mypy", *strictly, "--hide-error-context", "--no-error-summary", "--output=json")
    done = subprocess.run(
        [*command, "program.py", "wrong.py"], cwd=consumer, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    errors = [json.loads(line) for line in done.stdout.splitlines()]
    found = [(error["file"], error["line"], error["message"]) for error in errors if error["severity"] == "error"]
    assert [error for error in found if error[0] != "wrong.py"] == []
    assert {line for _, line, _ in found} == MISTAKES


def test_types_by_pyright(environment: Make, consumer: Path) -> None:
    """Strict pyright finds the expected types in the installed wheel, and each mistake of a consumer."""
    python = environment("langchain", "llama-index")
    (consumer / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    caches = {"XDG_CACHE_HOME": str(consumer / "cache"), "PYRIGHT_PYTHON_CACHE_DIR": str(consumer / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", str(python), "program.py", "wrong.py"],
        env={**os.environ, **caches, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        cwd=consumer,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in json.loads(done.stdout)["generalDiagnostics"]
    ]
    assert [error for error in found if error[0] != "wrong.py"] == []
    assert {line for _, line, _ in found} == MISTAKES
