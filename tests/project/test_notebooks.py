"""The notebooks and the demo run on recorded exchanges; the tools that record and store them work."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest

from demo import __main__ as demo
from demo.questions import EXCHANGES
from notebooks import __main__ as running
from notebooks import execute
from notebooks.record import record
from tests.support.paths import ROOT
from tests.support.server import Loopback, completion, response, stream
from tir_qwen.testing import FakeEndpoint, Recording, Request
from tir_qwen.testing._folding import fold
from tir_qwen.testing._recordings import response_of

FOLDER = Path(execute.__file__).parent
PATHS = execute.find([])
NAMES = [path.stem for path in PATHS]
RECORDINGS = sorted((FOLDER / "exchanges").iterdir())

NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
"""For kernels: where nothing listens."""

RECORDED = "Recorded: no credentials in the environment, so recorded answers are replayed."
IMPORT = re.compile(r"^(?:from|import) ([\w.]+)", re.MULTILINE)
EXTRAS = {
    "": ("tir_qwen", "pydantic", "IPython", "matplotlib_inline"),  # with Jupyter
    "langchain": ("langchain_tir_qwen", "langchain_core"),
    "llama-index": ("llama_index_tir_qwen", "llama_index"),
    '"..[langchain]" langchain ': ("langchain", "langgraph"),
    "matplotlib": ("matplotlib",),
    "tqdm": ("tqdm",),
}
"""What can be imported after installing something."""

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
    monkeypatch.setattr(execute, "PACE", 100_000)
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


def installs(cell: Any) -> bool:
    """Whether this is the cell that installs packages, which is not run here."""
    return "skip-execution" in cell.metadata.get("tags", ())


@each_notebook
def test_stored_outputs(name: str, temporary: Path) -> None:
    """A notebook runs without credentials and network, prints what is stored, and leaves no files."""
    path = FOLDER / f"{name}.ipynb"
    stored = execute.read(path)

    with execute.environment_for(path) as environment:
        fresh = execute.execute(path, {**environment, **NO_NETWORK})

    assert [(cell.source, told(cell)) for cell in code(fresh)] == [(cell.source, told(cell)) for cell in code(stored)]
    assert fresh.metadata == stored.metadata
    assert [*temporary.iterdir()] == []


@each_notebook
def test_notebooks_stand_alone(name: str) -> None:
    """A notebook begins with what to install and which variables to set, and imports nothing else."""
    title, packages, variables, *cells = execute.read(FOLDER / f"{name}.ipynb").cells

    assert title.source.startswith("# ")
    assert re.fullmatch(r'%pip install --quiet "\.\.\[[a-z,-]+\]"( [a-z0-9-]+)*', packages.source)
    assert installs(packages)
    assert (packages.outputs, packages.execution_count) == ([], None)
    assert "set `E2E_TIR_ACCESS_TOKEN` and `E2E_TIR_PROJECT_ID` in the environment" in variables.source
    assert "The outputs stored here come from a recording" in variables.source
    run = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in run] == [*range(1, len(run) + 1)]
    imported = {module.partition(".")[0] for cell in run for module in re.findall(IMPORT, cell.source)}
    assert imported - sys.stdlib_module_names <= {
        need for extra in EXTRAS if extra in packages.source for need in EXTRAS[extra]
    }


@pytest.mark.parametrize("path", [*PATHS, *RECORDINGS], ids=lambda path: path.name)
def test_nothing_private(path: Path) -> None:
    """Notebooks and recordings contain no tokens, local paths, addresses, or text that nobody scripted."""
    text = re.sub(r'"image/png": ".*"', "", path.read_text(encoding="utf-8"))
    here = re.escape(f"{Path(*ROOT.parts[:2])}/")
    private = rf"lab-token|LAB:|Bearer \w|/home/|/root/|/tmp/|{here}|127\.0\.0\.1|localhost|p-1234"
    assert re.findall(private, text) == []


def credentials_for(url: str) -> dict[str, str]:
    """Return the environment variables of a user of the server at this URL."""
    return {
        "E2E_TIR_ACCESS_TOKEN": "canary",
        "E2E_TIR_PROJECT_ID": "7777",
        "MODEL_API_CLIENT_HOST": url,
        "NO_PROXY": "127.0.0.1",
    }


def notebook_of(folder: Path, *cells: str) -> Path:
    """Return a small notebook, with an empty recording."""
    path = folder / "small.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])))
    (folder / "exchanges").mkdir()
    Recording().save(execute.recording_of(path))
    return path


ASK = """from tir_qwen import AuthenticationError, Client

with Client() as client:
    hello = [{"role": "user", "content": "Hello"}]
    print(client.complete(hello).content, *(delta.content for delta in client.stream(hello, seed=4)))
with Client(access_token="other") as client:
    try:
        client.complete(hello)
    except AuthenticationError as error:
        print(error)"""


def endpoint(request: Request) -> list[bytes]:
    """Answer like a live endpoint."""
    if request.headers["authorization"] != "Bearer canary":
        return [response({"error": "Unauthorized"}, "401 Unauthorized", retry_after="7")]
    return [stream("Hi", " there") if request.json()["stream"] else completion("Hi!")]


def test_recording_a_notebook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The requests of a notebook's cells are recorded with their responses, and no credentials."""
    path = notebook_of(tmp_path, ASK)
    with Loopback(endpoint) as server, monkeypatch.context() as live:
        for name, value in credentials_for(server.url).items():
            live.setenv(name, value)
        assert record(path, "a test") == 3

    recording = Recording.load(execute.recording_of(path))
    hello = [{"role": "user", "content": "Hello"}]
    counted = {"stream_options": {"include_usage": True}}
    assert recording.source == "a test"
    assert [(kept["request"], kept.get("wrong_token"), kept["status"]) for kept in recording.exchanges] == [
        ({"model": "qwen3_32b", "messages": hello, "stream": False}, None, 200),
        ({"model": "qwen3_32b", "messages": hello, "stream": True, "seed": 4, **counted}, None, 200),
        ({"model": "qwen3_32b", "messages": hello, "stream": False}, True, 401),
    ]
    kept = execute.recording_of(path).read_text()
    assert [word for word in ("canary", "7777", "127.0.0.1", "other") if word in kept] == []


def test_running_stores_only_the_outputs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m notebooks` stores the outputs, nothing else that varies, installs nothing, and prints a line each."""
    path = notebook_of(tmp_path, "%pip install --quiet nothing", "print('Hello', end=' ')\nprint('you')\n6 * 7")
    notebook = execute.read(path)
    notebook.cells[0].metadata["tags"] = ["skip-execution"]
    execute.write(notebook, path)
    monkeypatch.setattr(execute, "FOLDER", tmp_path)

    assert running.main([]) == 0

    said = capsys.readouterr().out
    assert re.sub(r"[\d.]+ s", "… s", said) == f"{RECORDED}\n{'small':<32}    … s\n"
    stored = json.loads(path.read_text())
    assert stored["cells"][0]["outputs"] == []
    del stored["cells"][0], stored["cells"][0]["id"]
    assert stored == {
        "cells": [
            {
                "cell_type": "code",
                "execution_count": 1,
                "metadata": {},
                "outputs": [
                    {"name": "stdout", "output_type": "stream", "text": ["Hello you\n"]},
                    {
                        "data": {"text/plain": ["42"]},
                        "execution_count": 1,
                        "metadata": {},
                        "output_type": "execute_result",
                    },
                ],
                "source": ["print('Hello', end=' ')\n", "print('you')\n", "6 * 7"],
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
    """A notebook that fails is left unchanged; cell, error and request are printed; the exit status is 1."""
    path = notebook_of(tmp_path, "print('Hello')", "print('so far')\n" + ASK)
    before = path.read_bytes()
    monkeypatch.setattr(execute, "FOLDER", tmp_path)

    assert running.main(["small"]) == 1

    said = capsys.readouterr().out
    assert [
        word
        for word in ("small  ", "FAILED", "complete(hello)", "so far", "the recording is empty")
        if word not in said
    ] == []
    assert "\x1b" not in said
    assert path.read_bytes() == before


def test_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With credentials, the notebooks ask the endpoint of the environment, and the command says so."""
    path = notebook_of(
        tmp_path, "from tir_qwen import Client\nClient().complete([{'role': 'user', 'content': 'Hi'}]).content"
    )
    monkeypatch.setattr(execute, "FOLDER", tmp_path)
    with FakeEndpoint("Hello!") as live:
        for name, value in credentials_for(live.base_url).items():
            monkeypatch.setenv(name, value)
        assert running.main([]) == 0
        live.check()

    assert capsys.readouterr().out.startswith("Live, at the endpoint that the environment names.\nsmall ")
    assert code(execute.read(path))[0].outputs[0].data == {"text/plain": "'Hello!'"}
    assert live.requests[0].target == "/project/p-7777/genai/qwen3_32b/v1/chat/completions?project_id=7777"


def test_unknown_name() -> None:
    """An unknown notebook name is reported before anything runs."""
    with pytest.raises(SystemExit, match=r"^There is no notebook 07_missing\.$"):
        running.main(["07_missing"])


@pytest.mark.parametrize("path", [*RECORDINGS, EXCHANGES], ids=lambda path: path.name)
def test_recordings_are_whole(path: Path) -> None:
    """The recordings of notebooks and demo are played byte for byte: each stream by events, each answer whole."""
    for kept in Recording.load(path).exchanges:
        head, *chunks = response_of(kept)._parts(lambda _: None)
        if "events" in kept:
            contents = [chunk.split(b"\r\n", 1)[1].removesuffix(b"\r\n") for chunk in chunks[:-1]]
            assert all(chunk == b"%x\r\n%s\r\n" % (len(it), it) for chunk, it in zip(chunks, contents, strict=False))
            assert (contents[-1], chunks[-1]) == (b"data: [DONE]\n\n", b"0\r\n\r\n")
            assert all(json.loads(content[6:])["choices"] is not None for content in contents[:-1])
            assert fold(b"".join(contents).decode()) == {"events": kept["events"]}
        else:
            content = head.partition(b"\r\n\r\n")[2]
            assert f"content-length: {len(content)}\r\n".encode() in head
            assert fold(content.decode()) == {"json": kept["json"]}


def test_the_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without credentials the demo plays its recordings: both integrations stream reasoning, answer and counts."""
    monkeypatch.setattr(demo, "TOKENS_PER_SECOND", None)
    assert demo.main() == 0
    said = capsys.readouterr().out
    assert said.startswith("Recorded: no credentials in the environment")
    assert said.count("[reasoning]") == said.count("[answer]") == 2
    assert said.endswith("\nUsage\n  LangChain   24 in, 224 out\n  LlamaIndex  14 in, 82 out\n")
