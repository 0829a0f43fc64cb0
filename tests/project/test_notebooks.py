"""The notebooks run on recorded exchanges; the tools that record, replay and store them work."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest

from demo.replay import Received
from notebooks import __main__ as running
from notebooks import execute, recorded
from notebooks.record import record
from tests.support.server import Loopback, completion, response, stream
from tir_qwen import AuthenticationError, Client, NotFoundError

FOLDER = Path(execute.__file__).parent
PATHS = execute.find([])
NAMES = [path.stem for path in PATHS]
RECORDINGS = sorted(path.stem for path in recorded.EXCHANGES.glob("*.json"))
QUICKSTART = "01_langchain_quickstart"

NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
"""For kernels: where nothing listens."""

each_notebook = pytest.mark.parametrize("name", NAMES)

TIMED = re.compile(
    r"\d+(\.\d+)?(?= ?(s|ms|seconds|minutes|tokens a second|a second)\b)"  # 1.2 s
    r"|\[\d\d:\d\d<[^\]]*\]"  # tqdm's clock
    r"|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"  # ids that the frameworks draw
)


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep what kernels write within pytest's folders, and do not wait for tokens."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    shared = tmp_path_factory.getbasetemp().parent / "matplotlib"  # its list of fonts takes seconds to make
    monkeypatch.setenv("MPLCONFIGDIR", str(shared))
    monkeypatch.setenv(recorded.PACE, "100000")
    return folder


def code(notebook: Any) -> list[Any]:
    """Return the code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def told(cell: Any) -> list[Any]:
    """Return a cell's outputs without times; for pictures and cells tagged `timing`, only that there are some."""
    outputs = []
    for output in cell.outputs:
        data = {output.name: output.text} if output.output_type == "stream" else output.data
        for kind, value in sorted(data.items()):
            varies = kind.startswith("image/") or "timing" in cell.metadata.get("tags", ())
            outputs.append((output.output_type, kind, None if varies else TIMED.sub("…", value)))
    return outputs


def first_line(notebook: Any) -> str:
    """Return the first line that the first cell prints."""
    return code(notebook)[0].outputs[0].text.split("\n")[0]


@each_notebook
def test_stored_outputs(name: str, temporary: Path) -> None:
    """A notebook runs without credentials and network, prints what is stored, and leaves no files."""
    path = FOLDER / f"{name}.ipynb"
    stored = execute.read(path)

    fresh = execute.execute(path, {**os.environ, **NO_NETWORK})

    assert [(cell.source, told(cell)) for cell in code(fresh)] == [(cell.source, told(cell)) for cell in code(stored)]
    assert first_line(fresh).startswith("Recorded: no credentials in the environment")
    assert fresh.metadata == stored.metadata
    assert [*temporary.iterdir()] == []


@each_notebook
def test_notebooks_say_whom_they_ask(name: str) -> None:
    """Each notebook begins with a title and the cell that names its endpoint; it is stored offline, in order."""
    stored = execute.read(FOLDER / f"{name}.ipynb")

    assert stored.cells[0].cell_type == "markdown"
    assert stored.cells[0].source.startswith("# ")
    assert code(stored)[0].source.split("\n")[-1] == f'given = recorded.settings("{name}")'
    assert first_line(stored).startswith("Recorded: no credentials in the environment")
    assert [cell.execution_count for cell in code(stored)] == [*range(1, len(code(stored)) + 1)]


@pytest.mark.parametrize("path", [*PATHS, *sorted(recorded.EXCHANGES.iterdir())], ids=lambda path: path.name)
def test_nothing_private(path: Path) -> None:
    """Notebooks and recordings contain no tokens, local paths, addresses, or text that nobody scripted."""
    text = re.sub(r'"image/png": ".*"', "", path.read_text(encoding="utf-8"))

    assert re.findall(r"lab-token|LAB:|Bearer \w|/home/|/root/|/tmp/|/work/|127\.0\.0\.1|localhost|p-1234", text) == []


def test_notebooks_run_live_with_credentials() -> None:
    """With credentials, the notebook asks the endpoint of the environment and says so."""
    path = FOLDER / f"{QUICKSTART}.ipynb"
    _, exchanges = recorded.load(QUICKSTART)
    with Loopback(recorded.replay(QUICKSTART, exchanges, 100000, token="canary")) as server:
        live = execute.execute(path, {**os.environ, **NO_NETWORK, **credentials_for(server)})

    assert first_line(live) == "Live: asking the endpoint that the environment names."
    assert [told(cell) for cell in code(live)[1:]] == [told(cell) for cell in code(execute.read(path))[1:]]
    assert {request.target for request in server.received} == {
        "/project/p-7777/genai/qwen3_32b/v1/chat/completions?project_id=7777"
    }
    assert len(server.received) == len(exchanges)


def credentials_for(server: Loopback) -> dict[str, str]:
    """Return the environment variables of a user of this server."""
    return {
        "E2E_TIR_ACCESS_TOKEN": "canary",
        "E2E_TIR_PROJECT_ID": "7777",
        "MODEL_API_CLIENT_HOST": server.url,
        "NO_PROXY": "127.0.0.1",
    }


def notebook_of(folder: Path, *cells: str) -> Path:
    """Return a small notebook."""
    path = folder / "small.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])))
    return path


FINDS_RECORDED = {"PYTHONPATH": os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])}
ASK = """import recorded
from tir_qwen import AuthenticationError, Client

given = recorded.settings("small")
with Client(**given) as client:
    hello = [{"role": "user", "content": "Hello"}]
    print(client.complete(hello).content, *(delta.content for delta in client.stream(hello, seed=4)))
with Client(**given | {"access_token": "other"}) as client:
    try:
        client.complete(hello)
    except AuthenticationError as error:
        print(error)"""


def endpoint(request: Received) -> list[bytes]:
    """Answer like a live endpoint."""
    if request.headers["authorization"] != "Bearer canary":
        return [response({"error": "Unauthorized"}, "401 Unauthorized", retry_after="7")]
    return [stream("Hi", " there") if request.json()["stream"] else completion("Hi!")]


def test_recordings_replay_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Requests are recorded with their responses, without credentials, and replay gives the same results."""
    path = notebook_of(tmp_path, ASK)
    monkeypatch.setattr(recorded, "EXCHANGES", tmp_path)
    with Loopback(endpoint) as server, monkeypatch.context() as live:
        for name, value in {**credentials_for(server), **FINDS_RECORDED}.items():
            live.setenv(name, value)
        assert record(path, "a test") == 3

    source, exchanges = recorded.load("small")
    hello = [{"role": "user", "content": "Hello"}]
    counted = {"stream_options": {"include_usage": True}}
    assert source == "a test"
    assert [(kept["request"], kept.get("wrong_token"), kept["status"]) for kept in exchanges] == [
        ({"model": "qwen3_32b", "messages": hello, "stream": False}, None, 200),
        ({"model": "qwen3_32b", "messages": hello, "stream": True, "seed": 4, **counted}, None, 200),
        ({"model": "qwen3_32b", "messages": hello, "stream": False}, True, 401),
    ]
    assert exchanges[2]["retry_after"] == "7"
    assert "".join(event for event, _ in recorded.unfold(exchanges[1]["events"])).count("data: ") == 4
    kept = (tmp_path / "small.json").read_text()
    assert [word for word in ("canary", "7777", "127.0.0.1", "other") if word in kept] == []
    with recorded.Server(recorded.replay("small", exchanges, 100000, token="canary")) as server:
        with Client(base_url=server.url, project_id=6530, access_token="canary") as client:
            assert client.complete(hello).content == "Hi!"
            assert "".join(delta.content for delta in client.stream(hello, seed=4)) == "Hi there"
        with (
            Client(base_url=server.url, project_id=6530, access_token="x") as client,
            pytest.raises(AuthenticationError),
        ):
            client.complete(hello)


def test_secret_in_an_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A recording that would contain the user's token is not saved."""
    monkeypatch.setattr(recorded, "EXCHANGES", tmp_path)
    with Loopback(lambda _: [completion("Your token is canary.")]) as server:
        for name, value in {**credentials_for(server), **FINDS_RECORDED}.items():
            monkeypatch.setenv(name, value)

        with pytest.raises(SystemExit, match=r"^Not kept: the exchanges hold the token, the project id or the host\.$"):
            record(notebook_of(tmp_path, ASK), "a test")

    assert [*tmp_path.glob("*.json")] == []


def test_running_stores_only_the_outputs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m notebooks` stores the outputs, nothing else that varies, and prints a line per notebook."""
    path = notebook_of(tmp_path, "print('Hello')\n6 * 7")
    monkeypatch.setattr(execute, "FOLDER", tmp_path)

    assert running.main([]) == 0

    said = capsys.readouterr().out
    assert re.sub(r"[\d.]+ s", "… s", said) == f"Recorded: no credentials in the environment.\n{'small':<32}    … s\n"
    stored = json.loads(path.read_text())
    del stored["cells"][0]["id"]
    assert stored == {
        "cells": [
            {
                "cell_type": "code",
                "execution_count": 1,
                "metadata": {},
                "outputs": [
                    {"name": "stdout", "output_type": "stream", "text": ["Hello\n"]},
                    {
                        "data": {"text/plain": ["42"]},
                        "execution_count": 1,
                        "metadata": {},
                        "output_type": "execute_result",
                    },
                ],
                "source": ["print('Hello')\n", "6 * 7"],
            }
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def test_a_failed_notebook_is_left_unchanged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notebook that fails is left unchanged; the failing cell and error are printed; the exit status is 1."""
    path = notebook_of(tmp_path, "print('Hello')", "print('so far')\n1 / 0")
    before = path.read_bytes()
    monkeypatch.setattr(execute, "FOLDER", tmp_path)

    assert running.main(["small"]) == 1

    said = capsys.readouterr().out
    assert [word for word in ("small  ", "FAILED", "1 / 0", "so far", "ZeroDivisionError") if word not in said] == []
    assert "\x1b" not in said
    assert path.read_bytes() == before


def test_unknown_name() -> None:
    """An unknown notebook name is reported before anything runs."""
    with pytest.raises(SystemExit, match=r"^There is no notebook 07_missing\.$"):
        running.main(["07_missing"])


# ---------------------------------------------------------------------- replaying


def asked(content: str, **fields: Any) -> dict[str, Any]:
    """Return a request body."""
    return {"model": "qwen3_32b", "messages": [{"role": "user", "content": content}], "stream": False, **fields}


def exchange(request: dict[str, Any], content: str) -> dict[str, Any]:
    """Return a recorded exchange."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    answer = {"id": "x", "choices": [choice], "usage": {"completion_tokens": 20}}
    return {"request": request, "status": 200, "content_type": "application/json", "json": answer}


def test_equal_requests() -> None:
    """Equal requests get the recorded answers in order, and then the last one again."""
    exchanges = [exchange(asked("Throw a die."), throw) for throw in "426"]
    with recorded.Server(recorded.replay("dice", exchanges, 100000)) as server:
        client = Client(base_url=server.url, project_id=6530, access_token="recorded")
        with client:
            throws = [client.complete(asked("Throw a die.")["messages"]).content for _ in range(5)]

    assert throws == [*"42666"]


CHANGES = {
    "text": ({"content": "Throw a dice."}, {}, '-   "content": "Throw a die.",\n+   "content": "Throw a dice.",'),
    "parameter": ({}, {"seed": 4}, '+ "seed": 4,'),
    "token": ({}, {"access_token": "other"}, '- "(wrong token)": false,\n+ "(wrong token)": true,'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_request(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A request that differs from the recorded one fails, and the difference is printed."""
    message, settings, difference = CHANGES[change]
    settings = dict(settings)
    exchanges = [exchange(asked("Throw a die."), "4"), exchange(asked("Something else, and longer."), "…")]
    with recorded.Server(recorded.replay("dice", exchanges, 100000)) as server:
        token = settings.pop("access_token", recorded.TOKEN)
        with (
            Client(base_url=server.url, project_id=6530, access_token=token) as client,
            pytest.raises(NotFoundError, match=r"No answer of dice is kept for this request\. make record-notebooks"),
        ):
            client.complete([{**asked("Throw a die.")["messages"][0], **message}], **settings)

    said = capsys.readouterr().err
    assert said.startswith("dice has no recorded answer to this request.\n--- the nearest recorded request\n+++ this ")
    assert difference in said
    assert said.endswith("\nTo record anew: make record-notebooks NOTEBOOKS=dice\n")


def pieces_of(exchange: dict[str, Any], pace: float = 100000) -> list[bytes]:
    """Return what is written to the file for an exchange."""
    return [*recorded.written(exchange, pace)]


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_are_whole(name: str) -> None:
    """The compact recording replays exactly: each stream event by event, each answer with its length."""
    for kept in recorded.load(name)[1]:
        head, *pieces = pieces_of(kept)
        if "events" in kept:
            contents = [piece.split(b"\r\n", 1)[1].removesuffix(b"\r\n") for piece in pieces[:-1]]
            assert all(piece == b"%x\r\n%s\r\n" % (len(it), it) for piece, it in zip(pieces, contents, strict=False))
            assert (contents[-1], pieces[-1]) == (b"data: [DONE]\n\n", b"0\r\n\r\n")
            assert all(json.loads(content[6:])["choices"] is not None for content in contents[:-1])
            assert recorded.fold(b"".join(contents).decode()) == {"events": kept["events"]}
        else:
            content = head.partition(b"\r\n\r\n")[2]
            assert f"content-length: {len(content)}\r\n".encode() in head
            assert recorded.fold(content.decode()) == {"json": kept["json"]}


@pytest.mark.parametrize(
    "body",
    ["", "<html>", '{"a": 1}', "[]", 'data: {"delta":{"content":"a"}}\n\ndata: [DONE]'],
    ids=["empty", "page", "other JSON", "no object", "no end"],
)
def test_unexpected_body(body: str) -> None:
    """A body that the compact form could not reproduce byte for byte is stored as it is."""
    kept = recorded.fold(body)

    assert kept == {"text": body}
    assert pieces_of({"status": 502, "content_type": "text/html", **kept})[0].partition(b"\r\n\r\n")[2] == body.encode()


TEXTS = ["", "a", "é", "न", "👩", "\n", '"', "\\", "</think>", recorded.BETWEEN, recorded.HERE, "word " * 30]


def test_every_text_is_kept() -> None:
    """The events of a stream are kept byte for byte, whatever text they contain."""
    events = [f'data: {{"delta":{{"content":{json.dumps(text, ensure_ascii=False)}}}}}\n\n' for text in TEXTS * 2]
    events.append(f'data: {{"id":"{recorded.HERE}","delta":{{"content":"a"}}}}\n\n')
    body = "".join(events) + "data: [DONE]\n\n"

    kept = recorded.fold(body)["events"]

    assert "".join(f"{event}\n\n" for event, _ in recorded.unfold(kept)) == body


def test_streams_are_replayed_at_the_given_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text arrives at the given pace, other events at once, and a whole answer after the time of its tokens."""
    waits: list[float] = []
    monkeypatch.setattr(recorded, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=waits.append))
    stream = [f'data: {{"delta":{{"{key}":"{text}"}}}}' for key, text in [("reasoning_content", "a"), ("content", "b")]]
    body = "\n\n".join(['data: {"delta":{"role":"assistant"}}', *stream, "data: [DONE]", ""])

    pieces_of({"status": 200, "content_type": "text/event-stream", **recorded.fold(body)}, pace=40)
    pieces_of(exchange(asked("Hello"), "Hello!"), pace=40)
    pieces_of({**exchange(asked("Hello"), ""), "json": {"error": "Unauthorized"}}, pace=40)

    assert waits == [0.025, 0.05, 0.5, 0.0]


def test_answer_of_a_limit() -> None:
    """An error is replayed with its `Retry-After`, so that retries look as they were."""
    limit = {**exchange(asked("Hello"), ""), "status": 429, "json": {"error": "Too many"}, "retry_after": "0"}
    with recorded.Server(recorded.replay("x", [limit, exchange(asked("Hello"), "Hi!")], 100000)) as server:
        client = Client(base_url=server.url, project_id=6530, access_token=recorded.TOKEN)
        with client:
            assert client.complete(asked("Hello")["messages"]).content == "Hi!"
    assert len(server.received) == 2
    assert pieces_of(limit)[0].partition(b"\r\n\r\n")[0].split(b"\r\n") == [
        b"HTTP/1.1 429 .",
        b"content-type: application/json",
        b"retry-after: 0",
        b"content-length: 20",
    ]
