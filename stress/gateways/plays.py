"""What happens in each scenario: what is started, which calls are made, and what goes wrong meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tir_qwen import Timeout

from .outcomes import Ask
from .stage import Stage

PACED = {"pieces": 30, "pace": 0.1}
"""A stream of three seconds."""
_LONG = Timeout(connect=5, first_delta=100, between_deltas=100)


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
    """Ask again while the gateway closes idle connections, four calls at once: some meet the end of the connection."""

    def play(stage: Stage) -> None:
        front = stage.nginx(keepalive=f"{seconds}s") if gateway == "nginx" else stage.haproxy(keepalive=seconds)
        url = stage.far(front)
        for after in (0, *(seconds + more for more in (-0.06, -0.04, -0.02, -0.01, 0, 0.02, 0.05))):
            stage.step(*(Ask(url, streamed=number % 2 == 0, after=after) for number in range(4)))
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


def locked_proxy(stage: Stage) -> None:
    """Ask through a proxy that demands credentials."""
    front, proxy = stage.nginx(), stage.tinyproxy("BasicAuth user secret")
    stage.step(Ask(front.url))
    stage.requests = len(proxy.logged())


def forgotten(streamed: bool) -> Callable[[Stage], None]:
    """Ask for an answer that takes so long that a NAT forgets the connection; the next try is answered at once.

    Neither side hears of it, and no answer can arrive any more. Only the probes of TCP keep-alive find out: they get no
    answer, or a reset, and the client's read fails.
    """

    def play(stage: Stage) -> None:
        front = stage.nginx(read=600)
        stage.settings(_LONG, max_retries=1)
        stage.step(Ask(front.url, {"wait": 300, "once": True}, streamed))

    return play


def forgotten_stream(stage: Stage) -> None:
    """Ask for a stream that stalls for so long that a NAT forgets the connection."""
    front = stage.nginx(read=600)
    stage.settings(_LONG)
    stage.step(Ask(front.url, {"mode": "frame", "hold": 300}))


def certificate_demanded(stage: Stage) -> None:
    """Ask a gateway that demands the client's certificate; with TLS 1.3 it says so after the handshake."""
    front = stage.haproxy(bind=f"ca-file {stage.programs.certificates / 'ca.pem'} verify required")
    stage.step(Ask(front.url))
    stage.count(front)


def certificate_demanded_by_nginx(stage: Stage) -> None:
    """Ask nginx, which shakes hands without the client's certificate, and answers with a page that demands it."""
    authority = stage.programs.certificates / "ca.pem"
    front = stage.nginx(http=f"ssl_client_certificate {authority}; ssl_verify_client on;")
    stage.step(Ask(front.url))
    stage.count(front)


def plain_http(stage: Stage) -> None:
    """Speak TLS to a gateway that speaks plain HTTP."""
    front = stage.nginx(tls="")
    stage.step(Ask(front.url))
    stage.count(front)


def trusted_later(stage: Stage) -> None:
    """Ask without knowing the gateway's CA, then set `SSL_CERT_FILE`, as docs/networks.md advises, and ask again."""
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
