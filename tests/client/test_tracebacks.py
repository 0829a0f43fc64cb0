"""Tracebacks keep the lines of this package, but none of the local variables, which may contain secrets."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

import tir_qwen
from langchain_tir_qwen import ChatTIRQwen
from tests.support.secrets import in_frames
from tests.support.server import (
    STREAM_HEAD,
    Driver,
    Loopback,
    both_clients,
    chunk,
    failure,
    response,
    whole_and_streamed,
)
from tir_qwen import Client, ConfigurationError, MalformedChunkError, TIRError

SOURCE = Path(tir_qwen.__file__).parent


def files(error: BaseException) -> list[str]:
    """Return the files of this package in a traceback, without repetitions."""
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [str(path.relative_to(SOURCE)) for path in frames if path.is_relative_to(SOURCE)]
    return list(dict.fromkeys(ours))


@both_clients
@whole_and_streamed
def test_a_refused_chunk_shows_where_it_was_refused(driver: Driver, streamed: bool) -> None:
    """The traceback of a malformed answer leads to the line of the decoder that refused it."""
    body = b'{"choices": [{"index": 0, "message": {"content": 5}, "delta": {"content": 5}}]}'
    raw = STREAM_HEAD + chunk(b"data: " + body + b"\n\n") if streamed else response(body)
    with Loopback(lambda _: [raw]) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed)
    assert type(error) is MalformedChunkError
    assert files(error)[-1] == "_response/fields.py"
    assert {"_client/loops.py", "_client/call.py", "_response/choice.py"} <= {*files(error)}
    assert in_frames(error) == []


@pytest.mark.parametrize("make", [lambda: Client(base_url="ftp://x"), lambda: ChatTIRQwen(base_url="ftp://x")])
def test_a_wrong_setting_shows_where_it_was_refused(make: type[Client]) -> None:
    """The traceback of a configuration error leads to the check that failed."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert files(caught.value)[-1] == "_request/endpoint.py"


def test_the_frames_of_an_error_are_cleared() -> None:
    """The frames below the client have no local variables left."""
    with Loopback(lambda _: [response(b"[]")]) as server, pytest.raises(TIRError) as caught:
        Client(base_url=server.base_url).complete([{"role": "user", "content": "Hi"}])
    frames = [
        frame
        for frame, _ in traceback.walk_tb(caught.value.__traceback__)
        if "_response" in Path(frame.f_code.co_filename).parts
    ]
    assert frames
    assert [frame.f_locals for frame in frames] == [{}] * len(frames)
