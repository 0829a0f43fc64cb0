"""Leak detection: counts files, sockets, threads, tasks, memory and engine objects, and collects warnings."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import stat
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNCLOSED_CONNECTED = "unclosed socket, connected"
UNCLOSED_CONNECTING = "unclosed socket, not yet connected"
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Figures:
    """What this process holds at one point in time."""

    files: int
    sockets: int
    threads: int
    tasks: int
    clients: int
    connections: int
    megabytes: float


def figures() -> Figures:
    """Count after a garbage collection."""
    gc.collect()
    kinds = [kind for entry in Path("/proc/self/fd").iterdir() if (kind := _kind(int(entry.name)))]
    engine = [f"{kind.__module__}.{kind.__name__}" for kind in map(type, gc.get_objects()) if _of_engine(kind)]
    try:
        tasks = len(asyncio.all_tasks())
    except RuntimeError:  # no event loop
        tasks = 0
    return Figures(
        files=len(kinds),
        sockets=sum(map(stat.S_ISSOCK, kinds)),
        threads=threading.active_count(),
        tasks=tasks,
        clients=sum(name.endswith("Client") for name in engine),
        connections=sum(name.endswith("HTTPConnection") for name in engine),
        megabytes=round(megabytes(), 1),
    )


def megabytes() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1e6


def _kind(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_mode
    except OSError:  # the descriptor of the listing itself
        return 0


def _of_engine(kind: type) -> bool:
    return str(kind.__module__).startswith(("httpx", "httpcore"))


class Complaints(logging.Handler):
    """Collects warnings, uncatchable errors, and everything logged at WARNING or above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: self._warned(message)
        sys.unraisablehook = self._unraisable
        threading.excepthook = lambda args: self.texts.append(f"thread: {args.exc_type.__name__}: {args.exc_value}")
        logging.getLogger().addHandler(self)
        logging.getLogger("tir_qwen").setLevel(logging.ERROR)  # its warnings about retries are expected

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a record."""
        self.texts.append(f"log: {record.getMessage()}")

    def _warned(self, message: Warning | str) -> None:
        text = str(message)
        if "unclosed <socket" in text:  # the addresses differ each time
            text = UNCLOSED_CONNECTED if "raddr" in text else UNCLOSED_CONNECTING
        self.texts.append(f"{type(message).__name__}: {text}")

    def _unraisable(self, args: Any) -> None:
        self.texts.append(f"unraisable: {args.exc_type.__name__}: {args.exc_value} {args.err_msg or ''} {args.object}")
