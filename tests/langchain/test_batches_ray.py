"""Batches on Ray Data: several workers, each with its own unpickled model."""

from __future__ import annotations

import os
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from demo.replay import Received
from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen._answer_file import Row
from langchain_tir_qwen.batches import AnswerBatch, AnswerFile
from tests.langchain.test_batches import ANSWERED, NO_MESSAGE, REFUSED, question, read, rows_of
from tests.support.server import Loopback, completion, response

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),  # caused by Ray itself
]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Run Ray on this machine, without usage reports and with clean-up."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_AUTH_TOKEN_PATH": f"{folder}/token",
            "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }.items():
            patch.setenv(name, value)
        import ray
        import ray.data

        ray.init(
            num_cpus=2,
            include_dashboard=False,
            _temp_dir=folder,
            object_store_memory=100_000_000,
            log_to_driver=False,
        )
        try:
            yield ray
        finally:
            ray.shutdown()


def by_whom(row: Row) -> str:
    """Return the prompt, and the id of the process that sends it."""
    return f"{row['prompt']} by {os.getpid()}"


def answered_by(ray: Any, server: Loopback, rows: list[Row], workers: int = 1, **settings: Any) -> Any:
    """Return the answers to a data set that two workers process."""
    chain = RunnableLambda(by_whom) | ChatTIRQwen(base_url=server.base_url, **settings)
    return ray.data.from_items(rows, override_num_blocks=4).map_batches(
        AnswerBatch,
        fn_constructor_args=(chain,),
        batch_size=5,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0.5,
    )


def test_two_workers_share_the_rows(ray: Any, tmp_path: Path) -> None:
    """Two concurrent workers request each row once with the model's settings and token, and mark refused rows."""
    rows = rows_of(40)
    workers: set[str] = set()
    both = threading.Event()

    def answer(request: Received) -> Iterator[bytes]:
        prompt, _, worker = question(request).partition(" by ")
        workers.add(worker)
        if len(workers) == 2:
            both.set()
        both.wait(30)  # neither is answered until both have asked
        yield REFUSED if prompt == "Question 7" else completion(prompt)

    path = tmp_path / "answers.jsonl"
    with Loopback(answer) as server, AnswerFile(path) as file:
        data = answered_by(ray, server, file.missing(rows), 2, access_token="the-token", seed=7, max_retries=0)
        got = sorted(data.iter_rows(), key=itemgetter("id"))
        for row in got:
            file.add(row)
        requests = list(server.received)
        assert file.missing(rows) == [rows[7]]
    refused = {**rows[7], "response": None, **NO_MESSAGE, "error": "BadRequestError: 400 Bad Request: no"}
    assert got == [refused if row["id"] == 7 else {**row, "response": row["prompt"], **ANSWERED} for row in rows]
    assert read(path) == [row for row in got if row["id"] != 7]
    asked = Counter(question(request).partition(" by ")[0] for request in requests)
    assert asked == dict.fromkeys((row["prompt"] for row in rows), 1)
    assert len(workers) == 2
    assert str(os.getpid()) not in workers
    assert {request.headers["authorization"] for request in requests} == {"Bearer the-token"}
    assert {request.json()["seed"] for request in requests} == {7}


def test_rows_that_ray_changes(ray: Any, tmp_path: Path) -> None:
    """Rows whose numbers and columns Ray has unified are not requested again by the next run."""
    rows: list[Row] = [{"id": 1, "prompt": "a", "n": 5}, {"id": 2, "prompt": "b", "note": None, "n": None}]
    path = tmp_path / "answers.jsonl"
    with Loopback(lambda request: [completion(question(request)[0])]) as server, AnswerFile(path) as file:
        for row in answered_by(ray, server, file.missing(rows)).iter_rows():
            file.add(row)
    with AnswerFile(path) as file:
        assert file.missing(rows) == []
    assert read(path) == [{**row, "response": row["prompt"], **ANSWERED} for row in rows]


def test_a_wrong_token(ray: Any) -> None:
    """An error that affects all rows ends the run, and its message gives the cause without the token."""
    with Loopback(lambda _: [response({"error": "Unauthorized"}, "401 Unauthorized")]) as server:
        data = answered_by(ray, server, rows_of(40), access_token="canary-token")
        with pytest.raises(Exception, match="AuthenticationError") as caught:
            data.take_all()
    assert "canary-token" not in "".join(traceback.format_exception(caught.value))
