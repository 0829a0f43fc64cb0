"""Clean environments: which Pythons there are, what is installed into them, and what became of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACE = ROOT / ".matrix"
SHOWN = ("langchain-core", "llama-index-core", "pydantic", "httpx", "httpx2", "tenacity", "ray")
FOR_TESTS = ("hypothesis", "jinja2", "pytest>=9", "pytest-asyncio", "pytest-xdist", "pyyaml", "socksio", "vcrpy>=8,<10")
"""What the tests themselves need; libraries of the frameworks' own, which want higher versions, are not among it."""

NOT_FOR_LOWEST = (
    *("langchain", "langchain_tests", "langgraph", r"llama_index\.retrievers", "openinference", "opentelemetry", "ray"),
    *("build", "docs", "matplotlib", "nbclient", "nbformat", "notebooks", "packaging", "pdoc", r"tests\.faces\.agents"),
)
"""What tests import that is not installed with the lowest versions; such tests are left out there."""
KEPT = "--deselect=tests/test_packaging.py::test_matrix_kept"  # of the rows that this run is about to write


class FailedError(Exception):
    """A step failed; says why in one line."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what is installed, and what is run in it."""

    python: str
    extras: tuple[str, ...]
    versions: str
    """`newest`, `lowest`, or requirements that somebody asks for."""
    check: str
    """`smoke` or `tests`."""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The columns that tell rows apart."""
        return self.python, ", ".join(self.extras) or "none", self.versions, self.check


@dataclass
class Outcome:
    """What became of a row."""

    result: str
    seconds: float
    versions: str = ""


def python_of(wanted: str) -> str | None:
    """The interpreter of a version (`3.12`), or at a path; None if there is none."""
    if re.fullmatch(r"\d+\.\d+", wanted):
        # pyenv has all of its versions on the path, but runs the chosen ones only.
        tries = [{}, {"PYENV_VERSION": wanted}]
        command = f"python{wanted}"
    else:
        tries, command = [{}], wanted
    for environment in tries:
        try:
            done = subprocess.run(
                [command, "-c", "import sys, venv, ensurepip; print(sys.executable)"],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:
            return None
        if not done.returncode:
            return done.stdout.strip()
    return None


def lowest(extras: Sequence[str]) -> list[str]:
    """The lowest versions that pyproject.toml allows with these extras, as constraints."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"]]
    names = list(extras)
    for extra in names:
        for line in project["optional-dependencies"][extra]:
            own = re.match(r"tir-qwen\[([\w,-]+)\]", line)
            names.extend(own[1].split(",") if own else ())
            lines.append(line)
    bounds: dict[str, str] = {}
    for line in lines:
        if found := re.match(r"([\w-]+)(?:\[[\w,]+\])?[^#]*?>=([\d.]+)", line):
            name, bound = found.groups()
            bounds[name] = max(bounds.get(name, "0"), bound, key=_numbers)
    return [f"{name}=={bound}" for name, bound in bounds.items()]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


class Environment:
    """A virtual environment of its own, removed again if all was well in it."""

    def __init__(self, row: Row, python: str) -> None:
        self.row = row
        self.place = PLACE / re.sub(r"[^\w.=-]+", "_", "-".join(row.cells))
        self.bin = self.place / ("Scripts" if os.name == "nt" else "bin")
        self._python = python

    def outcome(self, wheel: Path) -> Outcome:
        """Make it, run its check, and say what became of it."""
        began = time.monotonic()
        try:
            self._make(wheel)
            self._check()
        except FailedError as error:
            place = self.place.relative_to(ROOT)
            return Outcome(f"FAILED: {error} (see {place})", time.monotonic() - began, self._versions())
        outcome = Outcome("ok", time.monotonic() - began, self._versions())
        shutil.rmtree(self.place)
        return outcome

    def _make(self, wheel: Path) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        run(self._python, "-m", "venv", str(self.place))
        extras = f"[{','.join(self.row.extras)}]" if self.row.extras else ""
        wanted = [f"{wheel}{extras}"]
        if self.row.versions == "lowest":
            constraints = self.place / "lowest.txt"
            constraints.write_text("\n".join(lowest(self.row.extras)))
            wanted += ["--constraint", str(constraints)]
            if self.row.check == "tests":
                wanted += FOR_TESTS
        elif self.row.versions != "newest":
            wanted += self.row.versions.split()
        self._run("-m", "pip", "install", "--quiet", *wanted)
        self._run("-m", "pip", "check")

    def _check(self) -> None:
        if self.row.check == "smoke":
            self._run("-I", str(ROOT / "matrix" / "smoke.py"), *self.row.extras)
            return
        left_out = [f"--ignore={path.relative_to(ROOT)}" for path in self._not_for_lowest()]
        for engine in ("httpx2", "httpx") if self.row.versions == "lowest" else ("httpx2",):
            pytest = ("-m", "pytest", "--quiet", "--tb=short", "--numprocesses=auto", "-p", "no:cacheprovider", KEPT)
            self._run(*pytest, *left_out, environment={"TIR_QWEN_HTTP_ENGINE": engine})

    def _not_for_lowest(self) -> list[Path]:
        """Tests that need more than the package and pytest: what they need wants higher versions."""
        if self.row.versions != "lowest":
            return []
        pattern = re.compile(rf"(?m)^\s*(?:from|import) (?:{'|'.join(NOT_FOR_LOWEST)})\b")
        return sorted(path for path in (ROOT / "tests").rglob("test_*.py") if pattern.search(path.read_text("utf-8")))

    def _run(self, *arguments: str, environment: dict[str, str] | None = None) -> str:
        log = self.place / "log.txt"
        return run(str(self.bin / "python"), *arguments, environment=environment, log=log)

    def _versions(self) -> str:
        try:
            listed = json.loads(run(str(self.bin / "python"), "-m", "pip", "list", "--format=json"))
        except (FailedError, OSError):
            return ""
        found = {package["name"].lower(): package["version"] for package in listed}
        return ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found)


def run(*command: str, environment: dict[str, str] | None = None, log: Path | None = None) -> str:
    """Run a command in the checkout; return what it prints.

    Raises:
        FailedError: It did not end well; quotes the line that most likely says why.
    """
    others = ("PYTHON", "E2E_TIR_", "MODEL_API_", "TIR_QWEN_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    done = subprocess.run(
        command, cwd=ROOT, env={**inherited, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        raise FailedError(_reason(done.stdout, done.stderr) or f"exit status {done.returncode}")
    return done.stdout


def _reason(out: str, err: str) -> str:
    """The line of a program's output that says why it failed: pip's errors, pytest's summary, or an exception."""
    lines = [line.strip() for line in (out + "\n" + err).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("ERROR: ", "FAILED "))]
    summary = [line for line in lines if re.match(r"=*\s*\d+ (failed|passed|error)", line)]
    chosen = [*summary[-1:], *telling[:3]] or lines[-1:]
    said = re.sub(r" \(from versions: .*?\)", "", "; ".join(chosen))
    return said.replace("|", "/").replace(str(ROOT), ".")[:400]


def build_wheel() -> Path:
    """The wheel of this checkout."""
    folder = PLACE / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    return next(folder.glob("*.whl"))
