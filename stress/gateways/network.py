"""What stands between a client and a gateway: a NAT that forgets, a long line, or somebody who never answers."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue

from .programs import find

SERVER_HOST = "10.213.2.2"
"""The server's address behind the NAT."""
FORGETS_AFTER = 5
"""Seconds after which the NAT forgets a connection over which nothing is sent."""
_LINKS = (("client", "10.213.1.2/24", "10.213.1.1/24", "inner"), ("server", "10.213.2.2/24", "10.213.2.1/24", "outer"))


@dataclass(frozen=True)
class Nat:
    """Two network namespaces with a NAT between them."""

    client: str
    server: str


def nat_lacks() -> str:
    """Return what the machine lacks for a NAT; empty if it has everything."""
    missing = [name for name in ("ip", "nft") if not find(name)]
    if missing:
        return f"no {' and '.join(missing)}: apt-get install iproute2 nftables"
    if os.geteuid():
        return "needs root, for network namespaces"
    try:
        with forgetful_nat("probe", resets=True):
            return ""
    except subprocess.CalledProcessError as error:
        return f"the kernel refuses `{' '.join(error.cmd)}`: {error.stderr.strip()}"


@contextmanager
def forgetful_nat(name: str, *, resets: bool) -> Iterator[Nat]:
    """Make a NAT of the kernel's own connection tracking, which forgets an idle connection after some seconds.

    A relay in user space would not do: its kernel would answer the probes of TCP keep-alive.

    Args:
        name: Distinguishes the namespaces from others.
        resets: Whether the NAT answers packets of a connection that it has forgotten with a reset, as some do, or drops
            them, as most do.
    """
    names = {kind: f"tir-{name}-{os.getpid()}-{kind}" for kind in ("client", "nat", "server")}
    try:
        for each in names.values():
            _run(f"ip netns add {each}")
            _run(f"ip -n {each} link set lo up")
        nat = names["nat"]
        for kind, address, gateway, link in _LINKS:
            _run(f"ip link add {kind} netns {names[kind]} type veth peer name {link} netns {nat}")
            _run(f"ip -n {names[kind]} addr add {address} dev {kind}")
            _run(f"ip -n {nat} addr add {gateway} dev {link}")
            _run(f"ip -n {names[kind]} link set {kind} up")
            _run(f"ip -n {nat} link set {link} up")
        _run(f"ip -n {names['client']} route add default via 10.213.1.1")
        unknown = "reject with tcp reset" if resets else "drop"
        rules = f"""
            table ip nat {{
                chain out {{ type nat hook postrouting priority 100; oifname "outer" masquerade; }}
            }}
            table ip filter {{
                chain through {{ type filter hook forward priority 0; ct state invalid {unknown}; }}
            }}"""
        _run(f"ip netns exec {nat} nft -f -", rules)  # this also loads the tracking, and hence its settings
        for setting in (
            "net.ipv4.ip_forward=1",
            "net.netfilter.nf_conntrack_tcp_loose=0",  # connections that it does not know stay unknown
            f"net.netfilter.nf_conntrack_tcp_timeout_established={FORGETS_AFTER}",
        ):
            path, _, value = setting.partition("=")
            _run(f"ip netns exec {nat} tee /proc/sys/{path.replace('.', '/')}", value)
        yield Nat(names["client"], names["server"])
    finally:
        for each in names.values():
            subprocess.run(["ip", "netns", "del", each], check=False, capture_output=True)


def _run(command: str, given: str = "") -> None:
    subprocess.run(command.split(), input=given, check=True, capture_output=True, text=True)


@contextmanager
def silent_listener() -> Iterator[tuple[str, int]]:
    """Listen at an address where connections are accepted (by the kernel), but nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()


@contextmanager
def distant(address: tuple[str, int], delay: float) -> Iterator[tuple[str, int]]:
    """Listen at an address that passes everything on to another one, as over a long line.

    Args:
        address: The other address.
        delay: Seconds until bytes, or the end of a connection, arrive on the other side.
    """
    ready: Queue[tuple[str, int]] = Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(*address)
        await asyncio.gather(_pass_on(reader, other_writer, delay), _pass_on(other_reader, writer, delay))

    async def serve() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        ready.put(server.sockets[0].getsockname())
        await server.serve_forever()

    threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()  # ends with this process
    yield ready.get()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(65536):
            loop.call_later(delay, writer.write, data)
        loop.call_later(delay, writer.close)
    except OSError:
        loop.call_later(delay, writer.transport.abort)
