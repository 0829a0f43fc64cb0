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
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen.batches import AnswerBatch, AnswerFile
from tests.langchain.test_batches import REFUSED, Row, question, read, rows_of
from tests.support.server import Loopback, completion, response
from tir_qwen.testing import Request

# Ray itself causes them.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Loopback]:
    """Run a server that answers when two workers have asked, refuses a question, and knows a wrong token."""
    workers: set[str] = set()
    both = threading.Event()

    def answer(request: Request) -> Iterator[bytes]:
        prompt, _, worker = question(request).partition(" by ")
        if request.headers["authorization"] == "Bearer canary-token":
            yield response({"error": "Unauthorized"}, "401 Unauthorized")
            return
        workers.add(worker)
        if len(workers) == 2:
            both.set()
        both.wait(30)
        yield REFUSED if prompt == "Question 7" else completion(prompt)

    with Loopback(answer) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def ray(endpoint: Loopback) -> Iterator[Any]:
    """Run Ray on this machine, without usage reports and with clean-up."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_AUTH_TOKEN_PATH": f"{folder}/token",
            "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "E2E_TIR_ACCESS_TOKEN": "of-the-worker",
            "E2E_TIR_BASE_URL": endpoint.base_url,
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


def make_chain() -> Runnable[Any, Any]:
    """Return a chain that tells its prompt and the process that sends it; the token is in the environment."""
    return RunnableLambda(lambda row: f"{row['prompt']} by {os.getpid()}") | ChatTIRQwen(max_retries=0) | checked


def checked(message: AIMessage) -> AIMessage:
    """Fail on one of the answers."""
    if message.text == "Question 9":
        raise ValueError("a bug in the chain")
    return message


def answered_by(ray: Any, chain: Any, rows: list[Row], workers: int = 1) -> Any:
    """Return the answers to a data set."""
    return ray.data.from_items(rows, override_num_blocks=4).map_batches(
        AnswerBatch,
        fn_constructor_args=(chain,),
        batch_size=5,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0.5,
    )


def test_two_workers_share_the_rows(ray: Any, endpoint: Loopback, tmp_path: Path) -> None:
    """Two workers ask each row once, with the token of their environment; rows that fail do not fail the job.

    Rows are found again although Ray gives each column one type and each row all columns.
    """
    rows: list[Row] = [{**row, **({"n": 5} if row["id"] else {"note": "a"})} for row in rows_of(40)]
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as file:
        for row in answered_by(ray, make_chain, list(file.missing(rows)), 2).iter_rows():
            file.add(row)
    with AnswerFile(path) as file:
        assert list(file.missing(rows)) == []
        assert list(file.missing(rows, max_attempts=None)) == [rows[7], rows[9]]
    got = read(path)
    assert [row["response"] for row in got] == [None if at == 7 else f"Question {at}" for at in range(40)]
    errors = {row["id"]: row["error"] for row in got if row["error"]}
    assert errors == {7: "BadRequestError: 400 Bad Request: no", 9: "ValueError: a bug in the chain"}
    asked = Counter(question(request).partition(" by ")[0] for request in endpoint.requests)
    assert asked == dict.fromkeys((row["prompt"] for row in rows), 1)
    workers = {question(request).partition(" by ")[2] for request in endpoint.requests}
    assert len(workers) == 2
    assert str(os.getpid()) not in workers
    assert {request.headers["authorization"] for request in endpoint.requests} == {"Bearer of-the-worker"}


def test_a_wrong_token(ray: Any, endpoint: Loopback) -> None:
    """A chain brings its own token; if it is wrong, the job ends, and the error gives the cause without the token."""
    endpoint.requests.clear()
    chain = itemgetter("prompt") | ChatTIRQwen(base_url=endpoint.base_url, access_token="canary-token")
    with pytest.raises(Exception, match="AuthenticationError") as caught:
        answered_by(ray, chain, rows_of(40)).take_all()
    assert "canary-token" not in "".join(traceback.format_exception(caught.value))
    assert endpoint.requests[0].headers["authorization"] == "Bearer canary-token"
