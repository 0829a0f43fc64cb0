"""What a scenario is, and what it plays with."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tir_qwen import Timeout

from .callers import TIMEOUT, AsyncCaller, Caller, SyncCaller
from .network import distant, silent_listener
from .outcomes import Ask, Call, Expected, Outcome, outcome_of
from .programs import Gateway, Programs


class Stage:
    """What a scenario plays with; everything that it starts ends with it.

    Attributes:
        programs: Starts programs.
        server: The server behind the gateways, already running.
        requests: Set by a scenario: how many requests arrived.
        connections: Likewise: how many connections were opened.
    """

    def __init__(self, caller: type[SyncCaller] | type[AsyncCaller], programs: Programs, ends: ExitStack) -> None:
        self.programs = programs
        self.requests: int | None = None
        self.connections: int | None = None
        self._new_caller, self._ends = caller, ends
        self._caller: Caller | None = None
        self._steps: list[list[Call]] = []
        self.server = ends.enter_context(programs.server())

    def nginx(self, **options: Any) -> Gateway:
        """Start nginx in front of the server, see `Programs.nginx`."""
        return self._ends.enter_context(self.programs.nginx(self.server, **options))

    def haproxy(self, **options: Any) -> Gateway:
        """Start haproxy in front of the server, see `Programs.haproxy`."""
        return self._ends.enter_context(self.programs.haproxy(self.server, **options))

    def tinyproxy(self, more: str = "") -> Gateway:
        """Start tinyproxy, and let the environment name it as the proxy."""
        proxy = self._ends.enter_context(self.programs.tinyproxy(more))
        os.environ["HTTPS_PROXY"] = proxy.proxy_url
        return proxy

    def silent(self) -> tuple[str, int]:
        """Start a listener that never answers; return its address."""
        return self._ends.enter_context(silent_listener())

    def far(self, gateway: Gateway) -> str:
        """Return the base URL of a gateway at the end of a line with 40 ms from request to answer."""
        return "https://{}:{}/v1".format(*self._ends.enter_context(distant(gateway.address, 0.02)))

    def settings(self, timeout: Timeout = TIMEOUT, max_retries: int = 2) -> None:
        """Set what the client is made with, before the first call."""
        self._caller = self._new_caller(timeout, max_retries)

    def step(self, *asks: Ask) -> list[Call]:
        """Make calls at once, with the same client as in earlier steps."""
        if self._caller is None:
            self.settings()
            assert self._caller is not None
        self._steps.append(self._caller.make(list(asks)))
        return self._steps[-1]

    def count(self, gateway: Gateway) -> None:
        """Count the requests and connections that a gateway has logged."""
        logged = gateway.logged()
        self.requests, self.connections = len(logged), len(set(logged))

    def outcome(self) -> Outcome:
        """Return what came of the calls."""
        if self._caller is not None:
            self._caller.close()
        if len(self._steps) > 3:  # a scenario of many equal rounds
            self._steps = [[call for step in self._steps for call in step]]
        return outcome_of(self._steps, self.requests, self.connections)


@dataclass(frozen=True)
class Scenario:
    """A scenario.

    Attributes:
        name: Its name.
        play: Plays it.
        expected: What should come of it.
        nat: `drops` or `resets` if a NAT that forgets idle connections stands before the gateways.
    """

    name: str
    play: Callable[[Stage], None]
    expected: Expected
    nat: str = ""
