"""A batch of 2,000 prompts that is killed twice and resumed, then on two nodes of Ray, of which a worker is killed.

python -m stress.batches [--number 2000] [--base-url http://127.0.0.1:8080/project/p-1234/genai/qwen3_32b/v1]

Asks for products, so that each answer can be checked. The chain fails on one of the answers, and after the first kill,
the file is damaged in two ways. Without a URL, a local server answers each question after one
second; with a URL (of the lab, started with `--script FILE` from `--write-script FILE`), requests are forwarded to it.
A proxy between program and server counts how often each prompt is sent. The exit status is 1 if an answer is missing or
wrong, or if prompts were sent too often.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen.batches import AnswerBatch
from tir_qwen.testing import FakeEndpoint, Request, Response

Row = dict[str, Any]

CONCURRENCY = 32
POISON = 7
"""The row on whose answer the chain fails."""
BATCH = 250
"""Number of rows in a batch for a Ray worker."""
TOKEN = "lab-token"
PROGRAM = """
import asyncio, sys
from langchain_tir_qwen.batches import AnswerFile, answer_rows
from stress.batches import CONCURRENCY, make_chain, rows_of

async def main(base_url, number, path):
    with AnswerFile(path) as file:
        missing = file.missing(rows_of(int(number)))
        async for _ in answer_rows(make_chain(base_url), missing, keep=file.add, max_concurrency=CONCURRENCY):
            pass

asyncio.run(main(*sys.argv[1:]))
"""


def rows_of(number: int) -> list[Row]:
    """Return a data set of `number` different products."""
    return [{"id": at, "prompt": f"What is {at} times {at + 7}? Answer with the number alone."} for at in range(number)]


def make_chain(base_url: str) -> Runnable[Any, Any]:
    """Return the chain, whose requests tell which process sends them."""
    headers = {"x-process": str(os.getpid())}
    model = ChatTIRQwen(base_url=base_url, access_token=TOKEN, default_headers=headers)
    return itemgetter("prompt") | model | checked


def checked(message: AIMessage) -> AIMessage:
    """Fail on one of the answers."""
    if message.text == str(POISON * (POISON + 7)):
        raise ValueError("a bug in the chain")
    return message


def right(row: Row) -> bool:
    """Whether the answer of a row is right."""
    return bool(row["response"] == str(row["id"] * (row["id"] + 7)))


@dataclass
class Counting:
    """Answers or forwards requests, and counts them by prompt.

    Args:
        upstream: The base URL to forward to; if None, it answers itself after one second.
    """

    upstream: str | None
    asked: Counter[str] = field(default_factory=Counter)
    workers: set[int] = field(default_factory=set)
    at_work: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> str | Response:
        """Return the answer to one request."""
        with self.lock:
            self.asked[request.prompt] += 1
            self.workers.add(int(request.headers["x-process"]))
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        try:
            return self._passed_on(request) if self.upstream else self._own(request)
        finally:
            with self.lock:
                self.at_work -= 1

    def _own(self, request: Request) -> str:
        time.sleep(1)
        words = request.prompt.split()
        return str(int(words[2]) * int(words[4].strip("?")))

    def _passed_on(self, request: Request) -> Response:
        connection = http.client.HTTPConnection(urlsplit(self.upstream or "").netloc)
        kept = {name: request.headers[name] for name in ("authorization", "content-type")}
        connection.request("POST", request.target, request.body, kept)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        headers = {"content-type": response.headers["content-type"]}
        return Response(status=response.status, headers=headers, content=body)


def killed_twice(base_url: str, counting: Counting, number: int) -> bool:
    """Run the program, kill it after a third and two thirds of the answers, then let it finish."""
    print(f"\nKilled twice ({number:,} prompts, {CONCURRENCY} at once)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.jsonl"
        path.touch()
        for kill_at in (number // 3, 2 * number // 3, None):
            began = time.perf_counter()
            with subprocess.Popen([sys.executable, "-c", PROGRAM, base_url, str(number), str(path)]) as program:
                while kill_at and path.read_bytes().count(b"\n") < kill_at and program.poll() is None:
                    time.sleep(0.01)
                if kill_at:
                    os.kill(program.pid, signal.SIGKILL)
            there, took = path.read_bytes().count(b"\n"), time.perf_counter() - began
            told = "killed" if kill_at else f"ended with status {program.returncode}"
            print(f"  {told} after {took:.1f} s: {there:,} lines in the file, {counting.asked.total():,} requests")
            if kill_at == number // 3:
                damage(path)
        with path.open() as lines:
            rows = [json.loads(line) for line in lines]
    return verdict(rows, counting, number, again=2 * CONCURRENCY + 1)


def damage(path: Path) -> None:
    """Flip a bit of a line, and add NULs as a loss of power does."""
    lines = path.read_bytes().splitlines(keepends=True)
    lines[20] = lines[20].replace(b":", b";", 1)
    path.write_bytes(b"".join(lines) + b"\0" * 4096)
    print("  damaged: a bit of line 21, and 4,096 NULs at the end")


def verdict(rows: list[Row], counting: Counting, number: int, again: int) -> bool:
    """Print how often prompts were sent; return whether each has its answer and none was sent too often."""
    times = Counter(counting.asked.values())
    answered = len({row["id"] for row in rows if right(row)})
    failed = [row["id"] for row in rows if row["error"]]
    print(
        f"  {answered:,} different prompts have the right answer and {len(failed)} failed, of {len(rows):,} rows; "
        + ", ".join(f"{count:,} asked {often} x" for often, count in sorted(times.items()))
        + f"; at most {counting.most} at once"
    )
    all_there = answered + 1 == len(rows) == len(counting.asked) == number
    return all_there and failed == [POISON] and counting.asked.total() <= number + again


def on_ray(base_url: str, counting: Counting, number: int, workers: int, kill: bool) -> bool:
    """Do the same with Ray Data and this number of workers, of which one may be killed half-way."""
    import ray.data  # noqa: PLC0415 - optional, and takes a second to import

    data = ray.data.from_items(rows_of(number), override_num_blocks=max(1, number // BATCH)).map_batches(
        AnswerBatch,
        fn_constructor_args=(partial(make_chain, base_url),),
        fn_constructor_kwargs={"max_concurrency": CONCURRENCY},
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0.5,
    )
    if kill:
        threading.Thread(target=kill_a_worker, args=(counting, number // 2), daemon=True).start()
    began = time.perf_counter()
    rows = data.take_all()
    took = time.perf_counter() - began
    killed = ", of which one was killed" if kill else ""
    print(f"\nRay Data, {workers} worker{'s' * (workers > 1)}{killed}: {took:.1f} s, {number / took:.0f} rows a second")
    return verdict(rows, counting, number, again=2 * BATCH if kill else 0)


def kill_a_worker(counting: Counting, number: int) -> None:
    """Kill a process that sends prompts, as soon as so many have been sent."""
    while counting.asked.total() < number:
        time.sleep(0.01)
    os.kill(min(counting.workers), signal.SIGKILL)


def main() -> int:
    """Run everything and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--base-url", help="a server that knows the answers")
    parser.add_argument("--write-script", type=Path, metavar="FILE", help="write the lab's script, and do nothing else")
    options = parser.parse_args()
    if options.write_script:
        write_script(options.write_script, options.number)
        return 0
    os.environ |= {"NO_PROXY": "127.0.0.1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    counting = Counting(options.base_url)
    with FakeEndpoint(default=counting) as endpoint, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        base_url = endpoint.base_url + (urlsplit(options.base_url).path if options.base_url else "/v1")
        fine = [killed_twice(base_url, counting, options.number)]
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": f"{folder}/token", "RAY_TMPDIR": folder}
        Path(folder, "ray").mkdir()
        import ray  # noqa: PLC0415
        from ray.cluster_utils import Cluster  # noqa: PLC0415

        node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 200_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        for workers, kill in ((1, False), (2, False), (2, True)):
            counting.asked.clear()
            counting.workers.clear()
            counting.most = 0
            fine.append(on_ray(base_url, counting, options.number, workers, kill))
        ray.shutdown()
        cluster.shutdown()
    return not all(fine)


def write_script(path: Path, number: int) -> None:
    """Write the lab's script, by which its model answers with the products."""
    exchanges = [
        {"when": {"user": row["prompt"]}, "reply": {"content": str(row["id"] * (row["id"] + 7))}}
        for row in rows_of(number)
    ]
    path.write_text(json.dumps({"exchanges": exchanges}, ensure_ascii=False))  # JSON is YAML


if __name__ == "__main__":
    sys.exit(main())
