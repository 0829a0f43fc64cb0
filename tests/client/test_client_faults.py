"""Both clients against servers that hang up, and with unusual headers; `test_faults.py` covers each fault."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from demo.replay import Received
from tests.support.server import STREAM_HEAD, Driver, HangUpError, Loopback, both_clients, completion, event, in_turn
from tir_qwen import Choice, Completion, StreamInterruptedError

PARTIAL = Completion([Choice(content="In its ")], None, {"id": "x"})


@both_clients
def test_hangup_within_the_answer(driver: Driver) -> None:
    """Deltas are yielded as they arrive; a broken stream raises an error that carries the partial answer."""
    seen = threading.Event()

    def answer(_: Received) -> Iterator[bytes]:
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


@pytest.mark.parametrize("name", ["X-Padded", "x-empty", "Cookie"])
@both_clients
def test_every_accepted_header_can_be_sent(driver: Driver, name: str) -> None:
    """Every header accepted by the settings reaches the server, stripped of surrounding whitespace."""
    value = {"X-Padded": "  a b  ", "x-empty": "", "Cookie": 'a=1; b="2"'}[name]
    with Loopback(in_turn(completion("Hi"))) as server:
        driver.complete(driver.make(base_url=server.base_url, default_headers={name: value}))
    assert server.received[0].headers[name.lower()] == value.strip()
