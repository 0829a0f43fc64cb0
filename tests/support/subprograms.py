"""Separate processes in which a client is created and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_BEGIN = """
import asyncio, atexit, gc, logging, os, signal, sys, threading, time
logging.getLogger("asyncio").setLevel(logging.ERROR)  # it says below that when a slow machine is slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells take from what runs in the background
base_url = sys.argv[1]
messages = [{"role": "user", "content": "Where is the canary?"}]
"""


def run(program: str, base_url: str, *, strict: bool = True) -> tuple[int, str, str]:
    """Run a program with all warnings as errors; return its exit status, stdout and stderr."""
    command = _command(program, base_url, strict=strict)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout, done.stderr


def run_and_interrupt(
    program: str, base_url: str, asked: threading.Event, *, strict: bool = True, presses: int = 1
) -> tuple[int, str, str]:
    """Like `run`, but send Ctrl-C once the server has received a request, up to `presses` times."""
    command = _command(program, base_url, strict=strict)
    env = untraced_environment()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        asked.wait(20)
        time.sleep(0.05)  # within the answer
        try:
            for left in reversed(range(presses)):
                os.kill(process.pid, signal.SIGINT)
                try:
                    out, err = process.communicate(timeout=5 if left else 30)
                    break
                except subprocess.TimeoutExpired:
                    if not left:
                        raise
        finally:
            process.kill()  # leaving the block would wait for a program that goes on
    return process.returncode, out, err


def untraced_environment() -> dict[str, str]:
    """Return the environment for a process that is interrupted or killed, without what measures its coverage.

    Ctrl-C at the wrong moment leaves a lock of coverage locked, for ever; a kill leaves a damaged file of data.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def in_child(work: Callable[[], Any]) -> int:
    """Run a function in a forked child; return its exit status."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _command(program: str, base_url: str, *, strict: bool) -> list[str]:
    """Frameworks emit warnings when imported; with them, only unclosed resources are errors."""
    strictly = ["-X", "dev", "-W", "error"] if strict else ["-W", "error::ResourceWarning"]
    return [sys.executable, *strictly, "-c", _BEGIN + program, base_url]
