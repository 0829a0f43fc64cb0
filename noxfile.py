"""Tests the wheel in clean environments. `make matrix` runs all sessions; docs/compatibility.md has the results."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nox
from filelock import FileLock  # a dependency of nox
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent
PAGE = ROOT / "docs" / "compatibility.md"
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)  # the classifiers
EXTRAS = ("", "langchain", "llama-index", "ray")
BOTH = "langchain,llama-index"
SHOWN = ("langchain-core", "llama-index-core", "pydantic", "httpx", "httpx2", "tenacity", "ray")
FOREIGN_VARIABLES = ("PYTHON", "E2E_TIR_", "MODEL_API_", "TIR_QWEN_")

# Some packages of the extra `test` require more than the lowest versions. suite_lowest installs only these tools, and
# leaves out the test files that import anything else.
TOOLS = (
    *("hypothesis", "jinja2", "jsonschema", "pandas", "pyarrow", "pytest>=9", "pytest-asyncio", "pytest-xdist"),
    *("pyyaml", "socksio", "vcrpy>=8,<10"),
)
NOT_INSTALLED = (
    *("langchain", "langchain_tests", "langgraph", r"llama_index\.retrievers", "openinference", "opentelemetry", "ray"),
    *("build", "fastapi", "griffe", "matplotlib", "nbclient", "nbformat", "notebooks", "nox", "noxfile", "packaging"),
    r"tests\.support\.llama_index_agents",
)

nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"

if "PYENV_ROOT" in os.environ:  # pyenv only runs active versions: activate all that are to be tested
    installed = [path.name for path in Path(os.environ["PYENV_ROOT"], "versions").glob("3.*")]
    wanted = sorted(name for name in installed if name.startswith(tuple(f"{python}." for python in PYTHONS)))
    os.environ.setdefault("PYENV_VERSION", ":".join(wanted))


@nox.session(python=PYTHONS, allow_parallel=True)
@nox.parametrize("extras", [*EXTRAS, BOTH], ids=["none", *EXTRAS[1:], BOTH])
def newest(session: nox.Session, extras: str) -> None:
    """Smoke-test the wheel with each extra and the newest versions of its dependencies."""
    with recorded(session, extras):
        install(session, extras)
        smoke_test(session, extras)


@nox.session(python=PYTHONS, allow_parallel=True)
@nox.parametrize("extras", EXTRAS, ids=["none", *EXTRAS[1:]])
def lowest(session: nox.Session, extras: str) -> None:
    """Smoke-test the wheel with each extra and the lowest versions that pyproject.toml allows."""
    with recorded(session, extras):
        install(session, extras, *lowest_versions(extras))
        smoke_test(session, extras)


@nox.session(python=PYTHONS[0])
def suite_lowest(session: nox.Session) -> None:
    """Run the test suite with the lowest versions of both frameworks, on httpx2 and on httpx."""
    imports = re.compile(rf"(?m)^\s*(?:from|import) (?:{'|'.join(NOT_INSTALLED)})\b")
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    left_out = [f"--ignore={path.relative_to(ROOT)}" for path in tests if imports.search(path.read_text("utf-8"))]
    with recorded(session, BOTH):
        install(session, BOTH, *lowest_versions(BOTH), *TOOLS)
        run_suite(session, *left_out)
        run_suite(session, *left_out, engine="httpx")


@nox.session(python=PYTHONS)
def suite(session: nox.Session) -> None:
    """Run the whole test suite with the newest versions."""
    with recorded(session, "test"):
        install(session, "test")
        run_suite(session)


@nox.session(default=False)
def suite_with(session: nox.Session) -> None:
    """Run the whole test suite with versions of your choice: nox -s suite_with -- langchain-core==1.8.0."""
    if not session.posargs:
        session.error("Give one or more requirements after --.")
    install(session, "test", *session.posargs)
    session.log(f"Testing with {versions(session)}")
    run_suite(session)


def install(session: nox.Session, extras: str, *requirements: str) -> None:
    """Build and install the wheel, and unset this shell's variables for Python and endpoints."""
    session.env.update(dict.fromkeys(name for name in os.environ if name.startswith(FOREIGN_VARIABLES)))
    folder = session.env_dir.resolve() / "wheel"
    # Not by pip, which may take an older wheel from its cache if the name of the checkout's directory has a hyphen.
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    session.run(*build, external=True, silent=True)
    (wheel,) = folder.glob("*.whl")
    session.install(f"tir-qwen[{extras}] @ {wheel.as_uri()}", *requirements)
    session.run("python", "-m", "pip", "check")


def lowest_versions(extras: str) -> list[str]:
    """Return `name==version` for each lower bound in pyproject.toml that applies with these extras."""
    project = PYPROJECT["project"]
    pending = [*project["dependencies"], f"tir-qwen[{extras}]"]
    bounds: dict[str, Version] = {}
    for line in pending:  # grows by each extra's requirements
        requirement = Requirement(line)
        if requirement.name == "tir-qwen":
            pending += [each for extra in requirement.extras for each in project["optional-dependencies"][extra]]
        for bound in (Version(each.version) for each in requirement.specifier if each.operator == ">="):
            bounds[requirement.name] = max(bound, bounds.get(requirement.name, bound))
    return [f"{name}=={bound}" for name, bound in bounds.items()]


def smoke_test(session: nox.Session, extras: str) -> None:
    """Run the smoke test, which imports the installed wheel and not the checkout."""
    session.run("python", "-I", "tests/support/wheel_smoke.py", *filter(None, extras.split(",")))


def run_suite(session: nox.Session, *arguments: str, engine: str = "httpx2") -> None:
    """Run the tests, except for the test of the table that is being written."""
    options = ("--quiet", "--tb=short", "--numprocesses=auto", "-p", "no:cacheprovider", "-k", "not test_compatibility")
    session.run("python", "-m", "pytest", *options, *arguments, env={"TIR_QWEN_HTTP_ENGINE": engine})


def versions(session: nox.Session) -> str:
    """Return the installed versions of the most important packages."""
    listed = session.run("python", "-m", "pip", "freeze", silent=True, log=False) or ""
    found = dict(re.findall(r"(?m)^([\w-]+)==(\S+)", listed))
    return ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found)


@contextmanager
def recorded(session: nox.Session, extras: str) -> Iterator[None]:
    """Record whether the session succeeds. Its environment is removed after success and kept after a failure."""
    try:
        yield
    except nox.command.CommandFailed:
        record(session, extras, "FAILED")
        raise
    record(session, extras, "ok")
    shutil.rmtree(session.env_dir)


def record(session: nox.Session, extras: str, result: str) -> None:
    """Write the session's row of the table, replacing that of its last run."""
    key = f"| {session.python} | {extras.replace(',', ', ') or 'none'} | {session.name.partition('-')[0]} | "
    ran = (result, time.strftime("%Y-%m-%d"), f"{platform.system()} {platform.machine()}", versions(session))
    row = f"{key}{' | '.join(ran)} |"
    session.log(row)
    with FileLock(session.cache_dir / "table.lock"):  # sessions may run in parallel
        lines = [line for line in PAGE.read_text("utf-8").splitlines() if not line.startswith(key)]
        rows = [line for line in lines if line.startswith("| 3.")]
        text = [line for line in lines if line not in rows]
        PAGE.write_text("\n".join([*text, *sorted([*rows, row]), ""]), "utf-8")
