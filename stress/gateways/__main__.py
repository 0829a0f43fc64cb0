"""Stress test with real gateways: nginx, haproxy, a CONNECT proxy, TLS, and a NAT that forgets.

    apt-get install nginx haproxy tinyproxy openssl iproute2 nftables
    make gateways
    python -m stress.gateways [--only WORDS] [--engine httpx2|httpx] [--client sync|async] [--list]

Each scenario is played by both clients on both engines, each in a process of its own with its own gateways, on free
ports of 127.0.0.1 and with certificates made on the spot. Everything is written to a temporary folder. It takes about
four minutes, most of them of waiting; `--only nginx` plays the scenarios whose names contain the word. The NAT needs
root, for network namespaces; otherwise its scenarios are left out.

Prints a table of what a user sees and what the gateways counted. The expected outcomes are in `scenarios`: the verdict
is `ok`, or what differs from them. The exit status is 1 unless all are ok. CI does not run this.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path

from .callers import CALLERS
from .network import SERVER_HOST, forgetful_nat, nat_lacks
from .outcomes import Outcome
from .programs import NEEDED, Programs, find, make_certificates
from .scenarios import SCENARIOS
from .stage import Scenario, Stage

ENGINES = ("httpx2", "httpx")
AT_ONCE = 4
LIMIT = 400.0
"""Maximum seconds for a scenario."""
_MESSAGE = 150


def play(scenario: Scenario, client: str, certificates: Path, namespace: str) -> Outcome:
    """Play a scenario in this process."""
    logging.disable()
    host = SERVER_HOST if namespace else "127.0.0.1"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
        stage = Stage(CALLERS[client], Programs(Path(folder), certificates, namespace, host), ends)
        scenario.play(stage)
        return stage.outcome()


def child(scenario: Scenario, engine: str, client: str, certificates: Path) -> Outcome:
    """Play a scenario in a subprocess."""
    hidden = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
    environment = {key: value for key, value in os.environ.items() if "PROXY" not in key.upper() and key not in hidden}
    environment |= {"TIR_QWEN_HTTP_ENGINE": engine, "SSL_CERT_FILE": str(certificates / "ca.pem")}
    number = SCENARIOS.index(scenario)
    network = forgetful_nat(f"{number}-{engine}-{client}", resets=scenario.nat == "resets") if scenario.nat else None
    with network or nullcontext() as nat:
        prefix = ["ip", "netns", "exec", nat.client] if nat else []
        arguments = [str(number), client, str(certificates), nat.server if nat else ""]
        command = [*prefix, sys.executable, "-m", "stress.gateways", "--play", *arguments]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
            return Outcome(**json.loads(done.stdout))
        except subprocess.TimeoutExpired:
            return Outcome("HANGS", seconds=LIMIT)
        except ValueError:
            return Outcome("THE TEST FAILED", message=done.stderr[-400:])


def rows(scenario: Scenario, found: dict[str, Outcome]) -> Iterator[list[str]]:
    """Yield the rows of a scenario: clients to which the same happened share one."""
    shared: dict[tuple[str, ...], list[tuple[str, float]]] = {}
    for who, outcome in found.items():
        verdict = "; ".join(scenario.expected.differences(outcome)) or "ok"
        seen = ["-" if value is None else str(value) for value in (outcome.requests, outcome.connections)]
        told = re.sub(r"(?<=\d):\d{4,5}\b", "", outcome.message)  # each has ports of its own
        told = told if len(told) <= _MESSAGE else f"{told[: _MESSAGE - 1]}…"
        key = (outcome.results, *seen, str(outcome.retries), verdict, told)
        shared.setdefault(key, []).append((who, outcome.seconds))
    for (results, requests, connections, retries, verdict, told), clients in shared.items():
        who = "all" if len(clients) == len(found) > 1 else ", ".join(who for who, _ in clients)
        seconds = f"{max(seconds for _, seconds in clients):.1f}"
        yield [scenario.name, who, results, requests, connections, retries, seconds, verdict, told]


def print_row(cells: list[str]) -> None:
    """Print a row of a Markdown table."""
    print("|", " | ".join(" ".join(cell.split()).replace("|", "/") for cell in cells), "|", flush=True)


def check_programs() -> None:
    """End this process if a program is missing."""
    if missing := [name for name in NEEDED if not find(name)]:
        sys.exit(f"{', '.join(missing)} not found: apt-get install {' '.join(missing)}")


def chosen(only: list[str] | None) -> list[Scenario]:
    """Return the scenarios to play."""
    scenarios = [each for each in SCENARIOS if not only or any(word.lower() in each.name.lower() for word in only)]
    lack = nat_lacks() if any(each.nat for each in scenarios) else ""
    for each in scenarios:
        if lack and each.nat:
            print(f"Left out: {each.name} ({lack})", file=sys.stderr)
    return [each for each in scenarios if not (lack and each.nat)]


def main() -> int:
    """Play the scenarios and print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m stress.gateways", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="WORDS", help="scenarios whose names contain this")
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--client", choices=[*CALLERS], action="append")
    parser.add_argument("--list", action="store_true", help="print the names of the scenarios")
    parser.add_argument("--play", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        number, client, certificates, namespace = options.play
        print(json.dumps(asdict(play(SCENARIOS[int(number)], client, Path(certificates), namespace))))
        return 0
    if options.list:
        print("\n".join(each.name for each in SCENARIOS))
        return 0
    check_programs()
    pairs = [(engine, client) for engine in options.engine or ENGINES for client in options.client or CALLERS]
    scenarios, right = chosen(options.only), True
    if not scenarios:
        sys.exit("There is no such scenario: see --list")
    print_row(["scenario", "client", "outcome", "requests", "connections", "retries", "s", "verdict", "last error"])
    print_row(["---"] * 9)
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(AT_ONCE) as busy,
        ThreadPoolExecutor(len(scenarios) * len(pairs)) as idle,  # those with the NAT only wait, for minutes
    ):
        make_certificates(Path(folder))
        played = {
            scenario: {
                pair: (idle if scenario.nat else busy).submit(child, scenario, *pair, Path(folder)) for pair in pairs
            }
            for scenario in scenarios
        }
        for scenario in scenarios:
            found = {" ".join(pair): future.result() for pair, future in played[scenario].items()}
            right = right and not any(any(scenario.expected.differences(each)) for each in found.values())
            for row in rows(scenario, found):
                print_row(row)
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
