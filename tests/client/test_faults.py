"""Both clients against every row of the fault table: no call hangs, and no error is swallowed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.support.faults.callers import AsyncCaller, SyncCaller, outcome_of
from tests.support.faults.outcomes import Fault
from tests.support.faults.table_before_answer import TABLE
from tests.support.server import (
    STREAM_HEAD,
    Driver,
    HangUpError,
    Loopback,
    both_clients,
    event,
    record_waits,
)
from tir_qwen import Choice, Completion, StreamInterruptedError
from tir_qwen.testing import Request


@pytest.mark.parametrize("fault", TABLE, ids=str)
@pytest.mark.parametrize("caller", [SyncCaller, AsyncCaller], ids=["sync", "async"])
def test_each_fault_has_the_outcome_in_the_table(
    monkeypatch: pytest.MonkeyPatch, caller: type[SyncCaller | AsyncCaller], fault: Fault
) -> None:
    """A fault has the outcome given in the table: error, partial answer, number of requests, waits and duration."""
    outcome, seconds = outcome_of(fault, caller, record_waits(monkeypatch))
    assert outcome == fault.leads_to
    assert outcome.says.startswith(fault.leads_to.says)
    assert len(outcome.says) < 700
    assert seconds < fault.within


def test_every_row_has_a_name_of_its_own() -> None:
    """Every row has a unique name, so that a failure identifies it."""
    assert len({str(fault) for fault in TABLE}) == len(TABLE) > 200


PARTIAL = Completion([Choice(content="In its ")], None, {"id": "x"})


@both_clients
def test_hangup_within_the_answer(driver: Driver) -> None:
    """Deltas are yielded as they arrive; a broken stream raises an error that carries the partial answer."""
    seen = threading.Event()

    def answer(_: Request) -> Iterator[bytes]:
        yield STREAM_HEAD + event("In its ")
        seen.wait(5)
        yield event("cage.")[:30]
        raise HangUpError

    with Loopback(answer) as server:
        deltas = driver.deltas(driver.make(base_url=server.base_url))
        assert next(deltas).content == "In its "
        seen.set()
        with pytest.raises(StreamInterruptedError) as caught:
            list(deltas)
    assert caught.value.partial == PARTIAL
    assert caught.value.is_retryable
