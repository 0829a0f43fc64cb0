"""The programs of a scenario: certificates, the server, and the gateways and proxies in front of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

NEEDED = ("nginx", "haproxy", "tinyproxy", "openssl")
_SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
_CERTIFICATE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
_SERVER_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:10.213.2.2"


def find(program: str) -> str | None:
    """Return the path of a program; those for administrators may not be on a user's PATH."""
    return shutil.which(program, path=_SYSTEM_PATH)


def make_certificates(folder: Path) -> None:
    """Write `ca.pem`, and `server.pem` with a key and a certificate that the CA has signed."""
    ca, key, request, server = (str(folder / name) for name in ("ca.pem", "ca.key", "request.pem", "server"))
    about = ["-addext", "keyUsage=critical,keyCertSign", "-subj", "/CN=gateways' CA"]
    _openssl("req", "-x509", *_CERTIFICATE, *about, "-keyout", key, "-out", ca)
    _openssl("req", *_CERTIFICATE, "-subj", "/CN=localhost", "-keyout", f"{server}.key", "-out", request)
    (folder / "names").write_text(_SERVER_NAMES)
    signed = ["-CA", ca, "-CAkey", key, "-CAcreateserial", "-days", "2", "-extfile", str(folder / "names")]
    _openssl("x509", "-req", "-in", request, *signed, "-out", f"{server}.crt")
    parts = [Path(f"{server}.{kind}").read_text() for kind in ("crt", "key")]
    (folder / "server.pem").write_text("".join(parts))


def _openssl(*arguments: str) -> None:
    subprocess.run([find("openssl") or "openssl", *arguments], check=True, capture_output=True)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def wait_for(address: tuple[str, int], seconds: float = 10.0) -> None:
    """Wait until something listens at an address."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(address, 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


@dataclass
class Gateway:
    """A running gateway, proxy or server.

    Attributes:
        address: Where it listens.
        process: Its process, which is the parent of its workers.
        log: Where it writes a line for each request, which begins with the connection.
        line: Matches such a line.
    """

    address: tuple[str, int]
    process: subprocess.Popen[str]
    log: Path
    line: str = r"^(\S+) "

    @property
    def url(self) -> str:
        """The base URL over TLS."""
        return "https://{}:{}/v1".format(*self.address)

    @property
    def proxy_url(self) -> str:
        """The URL for `HTTPS_PROXY`."""
        return "http://{}:{}".format(*self.address)

    def logged(self) -> list[str]:
        """Return the connection of each request that has been logged."""
        time.sleep(0.3)  # it is logged once it has been answered
        return re.findall(self.line, self.log.read_text(errors="replace"), re.MULTILINE)

    def seen(self) -> int:
        """Return the number of calls that a server has begun to answer."""
        with urlopen("http://{}:{}".format(*self.address)) as answer:
            seen: dict[str, int] = json.load(answer)["seen"]
        return sum(number for name, number in seen.items() if name != "connections" and not name.endswith(" left"))

    def workers(self) -> list[int]:
        """Return the ids of its workers' processes."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def reload(self) -> None:
        """Read the configuration again; the old workers only finish their calls."""
        self.process.send_signal(signal.SIGUSR2 if "haproxy" in str(self.process.args) else signal.SIGHUP)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()

    def kill_workers(self) -> None:
        """Kill its workers, as a lack of memory would."""
        for worker in self.workers():
            os.kill(worker, signal.SIGKILL)


class Programs:
    """Starts programs that write to a folder.

    Args:
        folder: For configurations and logs.
        certificates: Has `ca.pem` and `server.pem`.
        namespace: The network namespace to start them in; empty for this process's.
        host: The address at which gateways listen.
    """

    def __init__(self, folder: Path, certificates: Path, namespace: str = "", host: str = "127.0.0.1") -> None:
        self.folder, self.certificates, self.host = folder, certificates, host
        self._prefix = ["ip", "netns", "exec", namespace] if namespace else []
        self._started = 0

    def _start(self, command: Sequence[str], log: Path) -> subprocess.Popen[str]:
        with log.open("a") as output:
            return subprocess.Popen(
                [*self._prefix, *command], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True
            )

    def _files(self, kind: str) -> Path:
        self._started += 1
        folder = self.folder / f"{kind}-{self._started}"
        folder.mkdir()
        return folder

    @contextmanager
    def server(self) -> Iterator[Gateway]:
        """Run `stress.server`, which answers like vLLM what the question asks for."""
        log = self._files("server") / "log"
        process = self._start([sys.executable, "-u", "-m", "stress.server"], log)
        while not (ports := log.read_text().split()) and process.poll() is None:
            time.sleep(0.02)
        with _ending(Gateway(("127.0.0.1", int(ports[0])), process, log)) as server:
            yield server

    @contextmanager
    def nginx(
        self,
        upstream: Gateway,
        *,
        tls: str = "TLSv1.3",
        keepalive: str = "65s",
        read: float = 60,
        http: str = "",
        location: str = "",
    ) -> Iterator[Gateway]:
        """Run nginx.

        Args:
            upstream: The server.
            tls: The only version to speak; empty for plain HTTP.
            keepalive: How long it keeps idle connections, and optionally what it says about that.
            read: Seconds to wait for the next bytes of the server.
            http: Further directives for all requests.
            location: Further directives for the location.
        """
        folder, address = self._files("nginx"), (self.host, free_port())
        certificate = self.certificates / "server.pem"
        secure = (
            f"ssl_protocols {tls}; ssl_certificate {certificate}; ssl_certificate_key {certificate};" if tls else ""
        )
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "conf").write_text(f"""
            daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors;
            {"user root;" if os.geteuid() == 0 else ""}
            events {{ worker_connections 512; }}
            http {{
                log_format calls '$connection $status $request';
                access_log {folder}/calls calls;
                {temporary} {http}
                server {{
                    listen {address[0]}:{address[1]} {"ssl" if tls else ""}; {secure}
                    keepalive_timeout {keepalive};
                    location / {{
                        proxy_pass http://{upstream.address[0]}:{upstream.address[1]};
                        proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
                        proxy_connect_timeout 2s; proxy_read_timeout {read}s; {location}
                    }}
                }}
            }}""")
        command = [find("nginx") or "nginx", "-c", str(folder / "conf"), "-e", str(folder / "errors")]
        process = self._start(command, folder / "log")
        with _ending(Gateway(address, process, folder / "calls", r"^(\d+) ")) as gateway:
            yield gateway

    @contextmanager
    def haproxy(
        self,
        upstream: Gateway,
        *,
        tls: str = "TLSv1.3",
        keepalive: float = 65,
        read: float = 60,
        bind: str = "",
        frontend: str = "",
    ) -> Iterator[Gateway]:
        """Run haproxy; for the arguments, see `nginx`.

        Args:
            upstream: The server.
            tls: The only version to speak.
            keepalive: Seconds for which it keeps idle connections.
            read: Seconds to wait for the next bytes of the server.
            bind: Further parameters of `bind`.
            frontend: Further lines of the frontend.
        """
        folder, address = self._files("haproxy"), (self.host, free_port())
        secure = f"ssl crt {self.certificates / 'server.pem'} ssl-min-ver {tls} ssl-max-ver {tls} {bind}"
        lines = (
            "global",
            "log stdout format raw local0",
            f"stats socket {folder}/socket expose-fd listeners",  # without it, a reload resets connections
            "defaults",
            "mode http",
            "log global",
            "option dontlognull",
            'log-format "%ci:%cp %ST %r"',
            "retries 0",
            "timeout connect 2s",
            "timeout client 60s",
            f"timeout server {read * 1000:.0f}ms",
            f"timeout http-keep-alive {keepalive * 1000:.0f}ms",
            "frontend calls",
            f"bind {address[0]}:{address[1]} {secure}",
            frontend,
            "default_backend servers",
            "backend servers",
            f"server one {upstream.address[0]}:{upstream.address[1]}",
        )
        (folder / "conf").write_text("\n".join(lines) + "\n")
        process = self._start([find("haproxy") or "haproxy", "-W", "-f", str(folder / "conf")], folder / "log")
        with _ending(Gateway(address, process, folder / "log", r"^(\d+\.\d+\.\d+\.\d+:\d+) ")) as gateway:
            yield gateway

    @contextmanager
    def tinyproxy(self, more: str = "") -> Iterator[Gateway]:
        """Run tinyproxy, which answers CONNECT; `more` are further lines of its configuration."""
        folder, address = self._files("tinyproxy"), ("127.0.0.1", free_port())
        (folder / "conf").write_text(
            f"Port {address[1]}\nListen {address[0]}\nTimeout 60\nMaxClients 100\nLogLevel Connect\n{more}\n"
        )
        command = [find("tinyproxy") or "tinyproxy", "-d", "-c", str(folder / "conf")]
        line = r"Request \(file descriptor (\d+)\): CONNECT"
        with _ending(Gateway(address, self._start(command, folder / "log"), folder / "log", line)) as gateway:
            yield gateway


@contextmanager
def _ending(gateway: Gateway) -> Iterator[Gateway]:
    """Wait until a program listens, and end it afterwards."""
    try:
        if "stress.server" not in str(gateway.process.args):  # it has said its port, and counts connections
            wait_for(gateway.address)
        yield gateway
    finally:
        gateway.process.terminate()
        try:
            gateway.process.wait(5)
        except subprocess.TimeoutExpired:
            gateway.kill_workers()
            gateway.kill()
