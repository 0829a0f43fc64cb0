"""The scenarios, and what should come of them."""

from __future__ import annotations

from . import plays
from .outcomes import Expected
from .stage import Scenario

_INTERRUPTED = "StreamInterruptedError"
_REFUSED = "InternalServerError"
_UNREACHED = "APIConnectionError"
_PAGE = "an HTML page"

SCENARIOS = (
    *(
        Scenario(f"{gateway}, {tls}", plays.answers(gateway, tls), Expected(requests=8, connections=2, retries=0))
        for gateway in ("nginx", "haproxy")
        for tls in ("TLSv1.2", "TLSv1.3")
    ),
    Scenario("tinyproxy", plays.through_tinyproxy, Expected(requests=8, connections=2)),
    Scenario("nginx reloads", plays.reloads("nginx"), Expected("right, then right", requests=38)),
    Scenario("haproxy reloads", plays.reloads("haproxy"), Expected("right, then right", requests=38)),
    Scenario(
        "nginx: worker killed",
        plays.worker_killed,
        Expected(f"{_INTERRUPTED}, then right"),
    ),
    Scenario("nginx: server killed", plays.server_killed("nginx"), Expected(_INTERRUPTED, requests=1)),
    Scenario("haproxy: server killed", plays.server_killed("haproxy"), Expected(_INTERRUPTED, requests=1)),
    Scenario(
        "nginx: server down",
        plays.server_down("nginx"),
        Expected(_REFUSED, requests=3, retries=2, says=("502 Bad Gateway",)),
    ),
    Scenario(
        "haproxy: server down",
        plays.server_down("haproxy"),
        Expected(_REFUSED, requests=3, retries=2, says=("503",), hides=_PAGE),
    ),
    Scenario(
        "nginx: server late",
        plays.server_late("nginx", "answer"),
        Expected(_REFUSED, requests=3, retries=2, says=("504",)),
    ),
    Scenario(
        "haproxy: server late",
        plays.server_late("haproxy", "answer"),
        Expected(_REFUSED, requests=3, retries=2, says=("504",), hides=_PAGE),
    ),
    Scenario(
        "nginx: stream stalls", plays.server_late("nginx", "frame"), Expected(_INTERRUPTED, requests=1, seconds=4)
    ),
    Scenario(
        "haproxy: stream stalls", plays.server_late("haproxy", "frame"), Expected(_INTERRUPTED, requests=1, seconds=4)
    ),
    *(
        Scenario(
            f"{gateway}: 429",
            plays.rate_limited(gateway),
            Expected("right, then right", requests=3, retries=1, at_least=2, seconds=5),
        )
        for gateway in ("nginx", "haproxy")
    ),
    *(
        Scenario(f"{gateway} keeps {seconds} s", plays.keeps_alive(gateway, seconds), Expected(requests=32, seconds=3))
        for gateway in ("nginx", "haproxy")
        for seconds in (1, 5)
    ),
    Scenario(
        "nginx keeps 65 s, pause of 8 s",
        plays.pauses("65s", 8),
        Expected("right, then right", requests=2, connections=1),
    ),
    Scenario(
        "nginx says timeout=2, pause of 3 s",
        plays.pauses("65s 2s", 3),
        Expected("right, then right", requests=2, connections=2),
    ),
    Scenario(
        "proxy never answers CONNECT",
        plays.silent_proxy,
        Expected("APITimeoutError", seconds=2.5, says=("proxy", "connect")),
    ),
    Scenario("proxy answers 407", plays.locked_proxy, Expected(_UNREACHED, requests=1, says=("proxy", "407"))),
    Scenario(
        "NAT forgets, drops packets",
        plays.forgotten(streamed=True),
        Expected(retries=1, seconds=90, at_least=20),
        "drops",
    ),
    Scenario(
        "NAT forgets, answers with a reset",
        plays.forgotten(streamed=False),
        Expected(retries=1, seconds=90, at_least=20),
        "resets",
    ),
    Scenario("NAT forgets a stream", plays.forgotten_stream, Expected(_INTERRUPTED, seconds=90, at_least=20), "drops"),
    Scenario(
        "client certificate demanded",
        plays.certificate_demanded,
        Expected(_UNREACHED, requests=1, says=("certificate",)),
    ),
    Scenario(
        "client certificate demanded by a page",
        plays.certificate_demanded_by_nginx,
        Expected("BadRequestError", requests=1, says=("No required SSL certificate",)),
    ),
    Scenario("plain HTTP behind https://", plays.plain_http, Expected(_UNREACHED, requests=1)),
    Scenario(
        "SSL_CERT_FILE set later", plays.trusted_later, Expected(f"{_UNREACHED}, then right", says=("certificate",))
    ),
    Scenario(
        "SSL_CERT_FILE missing",
        plays.trusted_file(None),
        Expected("ConfigurationError", requests=0, says=("SSL_CERT_FILE",)),
    ),
    Scenario(
        "SSL_CERT_FILE broken",
        plays.trusted_file("no certificate"),
        Expected("ConfigurationError", requests=0, says=("SSL_CERT_FILE",)),
    ),
    Scenario("a host never shakes hands", plays.never_shakes_hands, Expected("3 APITimeoutError, 8 right", seconds=2)),
)
