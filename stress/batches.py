"""A batch of 2,000 prompts that is killed twice and resumed, then on Ray with one worker and with two.

python -m stress.batches [--number 2000] [--base-url http://127.0.0.1:8080/project/p-1234/genai/qwen3_32b/v1]

Asks for products, so that each answer can be checked. Without a URL, a local server answers each question after one
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
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from urllib.parse import urlsplit

from demo.replay import Received, ReplayServer
from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen._answer_file import Row
from langchain_tir_qwen.batches import AnswerBatch

from .server import whole

CONCURRENCY = 32
BATCH = 250
"""Number of rows in a batch for a Ray worker."""
TOKEN = "lab-token"
PROGRAM = """
import asyncio, sys
from operator import itemgetter
from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen.batches import AnswerFile, answer_rows
from stress.batches import CONCURRENCY, TOKEN, rows_of

async def main(base_url, number, path):
    chain = itemgetter("prompt") | ChatTIRQwen(base_url=base_url, access_token=TOKEN)
    with AnswerFile(path) as file:
        missing = file.missing(rows_of(int(number)))
        async for _ in answer_rows(chain, missing, keep=file.add, max_concurrency=CONCURRENCY):
            pass

asyncio.run(main(*sys.argv[1:]))
"""


def rows_of(number: int) -> list[Row]:
    """Return a data set of `number` different products."""
    return [{"id": at, "prompt": f"What is {at} times {at + 7}? Answer with the number alone."} for at in range(number)]


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
    at_work: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Received) -> Iterable[bytes]:
        """Answer one request."""
        with self.lock:
            self.asked[request.json()["messages"][-1]["content"]] += 1
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        try:
            return [self._passed_on(request) if self.upstream else self._own(request)]
        finally:
            with self.lock:
                self.at_work -= 1

    def _own(self, request: Received) -> bytes:
        time.sleep(1)
        words = request.json()["messages"][-1]["content"].split()
        return whole(str(int(words[2]) * int(words[4].strip("?"))))

    def _passed_on(self, request: Received) -> bytes:
        connection = http.client.HTTPConnection(urlsplit(self.upstream or "").netloc)
        kept = {name: request.headers[name] for name in ("authorization", "content-type")}
        connection.request("POST", request.target, request.body, kept)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        kind = response.headers["content-type"]
        head = f"HTTP/1.1 {response.status} {response.reason}\r\ncontent-type: {kind}\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


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
            print(f"  {told} after {took:.1f} s: {there:,} answers in the file, {counting.asked.total():,} requests")
        with path.open() as lines:
            rows = [json.loads(line) for line in lines]
    return verdict(rows, counting, number, again=2 * CONCURRENCY)


def verdict(rows: list[Row], counting: Counting, number: int, again: int = 0) -> bool:
    """Print how often prompts were sent; return whether each has its answer and none was sent too often."""
    times = Counter(counting.asked.values())
    answered = len({row["id"] for row in rows if right(row)})
    print(
        f"  {answered:,} different prompts have the right answer, of {len(rows):,} lines; "
        + ", ".join(f"{count:,} asked {often} x" for often, count in sorted(times.items()))
        + f"; at most {counting.most} at once"
    )
    return answered == len(rows) == len(counting.asked) == number and counting.asked.total() <= number + again


def on_ray(base_url: str, counting: Counting, number: int, workers: int) -> bool:
    """Do the same with Ray Data and this number of workers."""
    import ray.data  # noqa: PLC0415 - optional, and takes a second to import

    chain = itemgetter("prompt") | ChatTIRQwen(base_url=base_url, access_token=TOKEN)
    data = ray.data.from_items(rows_of(number), override_num_blocks=max(1, number // BATCH)).map_batches(
        AnswerBatch,
        fn_constructor_args=(chain,),
        fn_constructor_kwargs={"max_concurrency": CONCURRENCY},
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0.5,
    )
    began = time.perf_counter()
    rows = data.take_all()
    took = time.perf_counter() - began
    print(f"\nRay Data, {workers} worker{'s' * (workers > 1)}: {took:.1f} s, {number / took:.0f} answers a second")
    return verdict(rows, counting, number)


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
    with ReplayServer(counting) as server, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        base_url = server.url + (urlsplit(options.base_url).path if options.base_url else "/v1")
        fine = [killed_twice(base_url, counting, options.number)]
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": f"{folder}/token"}
        import ray  # noqa: PLC0415

        ray.init(num_cpus=2, include_dashboard=False, _temp_dir=folder, log_to_driver=False, logging_level="ERROR")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        for workers in (1, 2):
            counting.asked.clear()
            counting.most = 0
            fine.append(on_ray(base_url, counting, options.number, workers))
        ray.shutdown()
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
