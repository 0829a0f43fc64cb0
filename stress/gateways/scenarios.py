"""The scenarios: what is started, which calls are made, and what should come of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tir_qwen import Timeout

from .callers import TIMEOUT, AsyncCaller, Caller, SyncCaller
from .network import silent_listener
from .outcomes import Ask, Call, Expected, Outcome, outcome_of
from .programs import Gateway, Programs

PACED = {"pieces": 30, "pace": 0.1}
"""A stream of three seconds."""


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


def answers(gateway: str, tls: str) -> Callable[[Stage], None]:
    """Ask for eight whole and eight streamed answers: two at once, then again over the same connections."""

    def play(stage: Stage) -> None:
        front = getattr(stage, gateway)(tls=tls)
        for _ in range(4):
            stage.step(*(Ask(front.url, streamed=streamed) for streamed in (True, False)))
        stage.count(front)

    return play


def through_tinyproxy(stage: Stage) -> None:
    """Ask for answers through a CONNECT proxy."""
    front, proxy = stage.nginx(), stage.tinyproxy()
    for _ in range(4):
        stage.step(*(Ask(front.url, streamed=streamed) for streamed in (True, False)))
    stage.count(front)
    stage.connections = len(proxy.logged())


def reloads(gateway: str) -> Callable[[Stage], None]:
    """Reload a gateway four times while streams run and short calls come and go."""

    def play(stage: Stage) -> None:
        front = getattr(stage, gateway)()
        streams = [Ask(front.url, PACED) for _ in range(8)]
        short = [Ask(front.url, after=0.1 * number, streamed=number % 2 == 0) for number in range(5, 30)]
        short += [Ask(front.url, after=0.1 * number, on_first=front.reload) for number in (5, 10, 15, 20)]
        stage.step(*streams, *short)
        stage.step(Ask(front.url))
        stage.requests = stage.server.seen()

    return play


def worker_killed(stage: Stage) -> None:
    """Kill the only worker of nginx while streams run; nginx starts another."""
    front = stage.nginx()
    streams = [Ask(front.url, PACED) for _ in range(4)]
    stage.step(*streams, Ask(front.url, PACED, after=1, on_first=front.kill_workers))
    stage.step(Ask(front.url))


def server_killed(gateway: str) -> Callable[[Stage], None]:
    """Kill the server in the middle of a stream."""

    def play(stage: Stage) -> None:
        front = getattr(stage, gateway)()
        stage.step(Ask(front.url, PACED, on_first=stage.server.kill))
        stage.count(front)

    return play


def server_down(gateway: str) -> Callable[[Stage], None]:
    """Ask while there is no server."""

    def play(stage: Stage) -> None:
        front = getattr(stage, gateway)()
        stage.server.kill()
        stage.step(Ask(front.url))
        stage.count(front)

    return play


def server_late(gateway: str, mode: str) -> Callable[[Stage], None]:
    """Ask a server that takes longer, before or within its answer, than its gateway waits."""

    def play(stage: Stage) -> None:
        front = getattr(stage, gateway)(read=1)
        facts = {"wait": 30} if mode == "answer" else {"mode": mode, "hold": 30}
        stage.step(Ask(front.url, facts))
        stage.count(front)

    return play


def rate_limited(gateway: str) -> Callable[[Stage], None]:
    """Ask twice where one request per second is allowed: the second is refused, and told when to come again."""

    def play(stage: Stage) -> None:
        if gateway == "nginx":
            zone = "limit_req_zone $server_port zone=calls:1m rate=1r/s;"
            front = stage.nginx(
                http=zone, location="limit_req zone=calls; limit_req_status 429; add_header Retry-After 2 always;"
            )
        else:
            rate = "stick-table type ip size 10 expire 10s store http_req_rate(1s)\nhttp-request track-sc0 src\n"
            deny = "http-request deny deny_status 429 hdr Retry-After 2 if { sc_http_req_rate(0) gt 1 }"
            front = stage.haproxy(frontend=rate + deny)
        stage.step(Ask(front.url))
        stage.step(Ask(front.url))
        stage.count(front)

    return play


def keeps_alive(gateway: str, seconds: int) -> Callable[[Stage], None]:
    """Ask again around the moment at which the gateway closes idle connections, four calls at once."""

    def play(stage: Stage) -> None:
        front = stage.nginx(keepalive=f"{seconds}s") if gateway == "nginx" else stage.haproxy(keepalive=seconds)
        for after in (0, *(seconds + more for more in (-0.05, -0.01, -0.002, 0, 0.002, 0.01, 0.05))):
            stage.step(*(Ask(front.url, streamed=number % 2 == 0, after=after) for number in range(4)))
        stage.requests = stage.server.seen()

    return play


def pauses(keepalive: str, pause: float) -> Callable[[Stage], None]:
    """Ask twice, with a pause, where idle connections are kept (and said to be kept) for some time."""

    def play(stage: Stage) -> None:
        front = stage.nginx(keepalive=keepalive)
        stage.step(Ask(front.url))
        stage.step(Ask(front.url, after=pause))
        stage.count(front)

    return play


def silent_proxy(stage: Stage) -> None:
    """Ask through a proxy that never answers CONNECT."""
    front = stage.nginx()
    os.environ["HTTPS_PROXY"] = "http://{}:{}".format(*stage.silent())
    stage.settings(Timeout(connect=1, first_delta=6), max_retries=0)
    stage.step(Ask(front.url))
    stage.count(front)


def locked_proxy(stage: Stage) -> None:
    """Ask through a proxy that demands credentials."""
    front, proxy = stage.nginx(), stage.tinyproxy("BasicAuth user secret")
    stage.step(Ask(front.url))
    stage.requests = len(proxy.logged())


def forgotten(streamed: bool) -> Callable[[Stage], None]:
    """Ask for an answer that takes so long that a NAT forgets the connection; the next try is answered at once."""

    def play(stage: Stage) -> None:
        front = stage.nginx(read=600)
        stage.settings(Timeout(connect=5, first_delta=100, between_deltas=100), max_retries=1)
        stage.step(Ask(front.url, {"wait": 300, "once": True}, streamed))

    return play


def certificate_demanded(stage: Stage) -> None:
    """Ask a gateway that demands the client's certificate; with TLS 1.3 it says so after the handshake."""
    front = stage.haproxy(bind=f"ca-file {stage.programs.certificates / 'ca.pem'} verify required")
    stage.step(Ask(front.url))
    stage.count(front)


def plain_http(stage: Stage) -> None:
    """Speak TLS to a gateway that speaks plain HTTP."""
    front = stage.nginx(tls="")
    stage.step(Ask(front.url))
    stage.count(front)


def trusted_later(stage: Stage) -> None:
    """Ask without knowing the gateway's CA, then set `SSL_CERT_FILE`, as the README advises, and ask again."""
    front, ca = stage.nginx(), os.environ.pop("SSL_CERT_FILE")
    stage.step(Ask(front.url))
    os.environ["SSL_CERT_FILE"] = ca
    stage.step(Ask(front.url))


def trusted_file(content: str | None) -> Callable[[Stage], None]:
    """Ask with an `SSL_CERT_FILE` that is missing or broken."""

    def play(stage: Stage) -> None:
        front, path = stage.nginx(), Path(stage.programs.folder / "own.pem")
        if content is not None:
            path.write_text(content)
        os.environ["SSL_CERT_FILE"] = str(path)
        stage.step(Ask(front.url))
        stage.count(front)

    return play


def never_shakes_hands(stage: Stage) -> None:
    """Ask a host that never shakes hands, three times, and meanwhile one that is well: its calls do not wait."""
    front, silent = stage.nginx(), "https://{}:{}/v1".format(*stage.silent())
    stage.settings(Timeout(connect=4, first_delta=20), max_retries=0)
    stage.step(*(Ask(silent) for _ in range(3)), *(Ask(front.url, after=0.5) for _ in range(8)))


_INTERRUPTED = "StreamInterruptedError"
_REFUSED = "InternalServerError"
_UNREACHED = "APIConnectionError"

SCENARIOS = (
    *(
        Scenario(f"{gateway}, {tls}", answers(gateway, tls), Expected(requests=8, connections=2, retries=0))
        for gateway in ("nginx", "haproxy")
        for tls in ("TLSv1.2", "TLSv1.3")
    ),
    Scenario("tinyproxy", through_tinyproxy, Expected(requests=8, connections=2)),
    Scenario("nginx reloads", reloads("nginx"), Expected("right, then right", requests=38)),
    Scenario("haproxy reloads", reloads("haproxy"), Expected("right, then right", requests=38)),
    Scenario(
        "nginx: worker killed",
        worker_killed,
        Expected(f"{_INTERRUPTED}, then right"),
    ),
    Scenario("nginx: server killed", server_killed("nginx"), Expected(_INTERRUPTED, requests=1)),
    Scenario("haproxy: server killed", server_killed("haproxy"), Expected(_INTERRUPTED, requests=1)),
    Scenario(
        "nginx: server down", server_down("nginx"), Expected(_REFUSED, requests=3, retries=2, says=("502 Bad Gateway",))
    ),
    Scenario("haproxy: server down", server_down("haproxy"), Expected(_REFUSED, requests=3, retries=2, says=("503",))),
    Scenario(
        "nginx: server late", server_late("nginx", "answer"), Expected(_REFUSED, requests=3, retries=2, says=("504",))
    ),
    Scenario(
        "haproxy: server late",
        server_late("haproxy", "answer"),
        Expected(_REFUSED, requests=3, retries=2, says=("504 Gateway Time-out",)),
    ),
    Scenario("nginx: stream stalls", server_late("nginx", "frame"), Expected(_INTERRUPTED, requests=1, seconds=4)),
    Scenario("haproxy: stream stalls", server_late("haproxy", "frame"), Expected(_INTERRUPTED, requests=1, seconds=4)),
    *(
        Scenario(
            f"{gateway}: 429",
            rate_limited(gateway),
            Expected("right, then right", requests=3, retries=1, at_least=2, seconds=5),
        )
        for gateway in ("nginx", "haproxy")
    ),
    *(
        Scenario(f"{gateway} keeps {seconds} s", keeps_alive(gateway, seconds), Expected(requests=32, seconds=3))
        for gateway in ("nginx", "haproxy")
        for seconds in (1, 5)
    ),
    Scenario(
        "nginx keeps 65 s, pause of 8 s", pauses("65s", 8), Expected("right, then right", requests=2, connections=1)
    ),
    Scenario(
        "nginx says timeout=2, pause of 3 s",
        pauses("65s 2s", 3),
        Expected("right, then right", requests=2, connections=2),
    ),
    Scenario(
        "proxy never answers CONNECT",
        silent_proxy,
        Expected("APITimeoutError", requests=0, seconds=2.5, says=("proxy", "connect")),
    ),
    Scenario("proxy answers 407", locked_proxy, Expected(_UNREACHED, requests=1, says=("proxy", "407"))),
    Scenario(
        "NAT forgets, drops packets", forgotten(streamed=True), Expected(retries=1, seconds=90, at_least=20), "drops"
    ),
    Scenario(
        "NAT forgets, answers with a reset",
        forgotten(streamed=False),
        Expected(retries=1, seconds=90, at_least=20),
        "resets",
    ),
    Scenario(
        "client certificate demanded", certificate_demanded, Expected(_UNREACHED, requests=1, says=("certificate",))
    ),
    Scenario("plain HTTP behind https://", plain_http, Expected(_UNREACHED, requests=1)),
    Scenario("SSL_CERT_FILE set later", trusted_later, Expected(f"{_UNREACHED}, then right", says=("certificate",))),
    Scenario(
        "SSL_CERT_FILE missing",
        trusted_file(None),
        Expected("ConfigurationError", requests=0, says=("SSL_CERT_FILE",)),
    ),
    Scenario(
        "SSL_CERT_FILE broken",
        trusted_file("no certificate"),
        Expected("ConfigurationError", requests=0, says=("SSL_CERT_FILE",)),
    ),
    Scenario("a host never shakes hands", never_shakes_hands, Expected("3 APITimeoutError, 8 right", seconds=2)),
)
