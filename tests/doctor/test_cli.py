"""The command line of `python -m tir_qwen doctor`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

from tests.doctor.test_doctor import Terminal
from tests.support.paths import ROOT
from tests.support.server import Loopback, echo
from tests.support.subprograms import untraced_environment
from tir_qwen._doctor.cli import main
from tir_qwen.testing import Request

VARIABLES = ("E2E_TIR_ACCESS_TOKEN", "E2E_TIR_PROJECT_ID", "E2E_TIR_BASE_URL")


@pytest.mark.parametrize("known", [(), ("E2E_TIR_ACCESS_TOKEN",), ("E2E_TIR_PROJECT_ID",)], ids=repr)
def test_missing_credentials_are_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, known: tuple[str, ...]
) -> None:
    """Without credentials, stderr explains on one screen what to set and where to find it; the exit status is 2."""
    for name in known:
        monkeypatch.setenv(name, "987654")
    seen = Terminal(capsys).run("doctor")
    lines = seen.err.splitlines()
    missing = next(name for name in ("E2E_TIR_PROJECT_ID", "E2E_TIR_ACCESS_TOKEN") if name not in known)
    assert (seen.status, seen.out) == (2, "")
    assert missing in lines[0]
    assert len(lines) <= 24
    assert max(map(len, lines[1:])) <= 120
    described = dict(line.split(maxsplit=1) for line in lines if line.startswith("  E2E_TIR"))
    assert tuple(described) == VARIABLES
    assert "987654" not in seen.err


@pytest.mark.parametrize(
    ("started_as", "name"),
    [("/usr/local/bin/tir-qwen", "tir-qwen"), ("/site-packages/tir_qwen/__main__.py", "python -m tir_qwen")],
)
def test_the_command_calls_itself_as_it_was_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, started_as: str, name: str
) -> None:
    """The usage and the example show the command as the user typed it."""
    monkeypatch.setattr(sys, "argv", [started_as])
    seen = Terminal(capsys).run("doctor")
    assert seen.err.rstrip().endswith(f"\n  {name} doctor")
    with pytest.raises(SystemExit, match="0"):
        main(["doctor", "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {name} doctor ")


# A shell that runs the tests in the background may make them ignore the signal.
INTERRUPTIBLE = """
import signal
from tir_qwen._doctor.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
raise SystemExit(main())
"""


def test_ctrl_c_ends_without_a_traceback() -> None:
    """Ctrl-C ends the command without a traceback, with exit status 130."""

    def interrupt(_: Request) -> Iterator[bytes]:
        process.send_signal(signal.SIGINT)
        process.wait(10)
        yield b""

    with Loopback(interrupt) as server:
        command = [sys.executable, "-c", INTERRUPTIBLE, "doctor", "--base-url", server.base_url]
        env = untraced_environment()
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        err = process.communicate(timeout=60)[1].decode()
    assert (process.returncode, "Traceback" in err) == (130, False)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["lines", "json"])
def test_a_reader_that_leaves(options: list[str]) -> None:
    """If whoever reads the report leaves, such as `head`, the command ends without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with Loopback(echo) as server:
        command = [sys.executable, "-m", "tir_qwen", "doctor", "--base-url", server.base_url, *options]
        env = {**os.environ, "PYTHONUNBUFFERED": ""}  # otherwise, nothing is left to write at the end
        done = subprocess.run(command, env=env, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_without_stdout() -> None:
    """Without anywhere to write to, as in a service, only the exit status tells the result."""
    with Loopback(echo) as server:
        command = f'"{sys.executable}" -m tir_qwen doctor --base-url {server.base_url} >&-'
        done = subprocess.run(command, shell=True, env={**os.environ}, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


OPTIONS = {"-h", "--help", "--project-id", "--base-url", "--model", "--embedding-model", "--timeout", "--json"}


def test_help_names_options_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` lists the options, the cost and the source of the token, which is not an option."""
    with pytest.raises(SystemExit, match="0"):
        main(["doctor", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert {*re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text)} - {"-m"} == OPTIONS
    assert "This takes about nine requests and a few hundred tokens." in text
    assert "The token is read from E2E_TIR_ACCESS_TOKEN." in text


def test_a_missing_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command, stdout stays empty and the exit status is 2."""
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capsys.readouterr().out == ""


def test_the_script_runs_the_same_command() -> None:
    """The script `tir-qwen` runs the same function."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"tir-qwen": f"{main.__module__}:{main.__name__}"}
