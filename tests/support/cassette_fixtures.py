"""Fixtures of the cassette tests, each of which runs once for every recorded server."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from vcr.cassette import Cassette

from tests.support.cassettes import HOST, PROJECT, recorder
from tests.support.paths import DATA

FOLDER = DATA / "cassettes"
LIVE = "tir"
MAIN = (LIVE, "old", "new", "old-no-parsers", "new-no-parsers")
"""The sets of which everything is recorded; of the others only what a set-up decides (`test_setups.py`)."""


EMBEDDINGS = "-embedding"
"""The end of the name of a set that is recorded from an embedding model, which only the tests of embeddings use."""


@dataclass(frozen=True)
class Source:
    """A server to record from, and the credentials for it."""

    url: str | None
    project: str
    token: str = field(repr=False)


@dataclass
class Server:
    """A recorded server, from the point of view of one test."""

    name: str
    """The set: a folder of `tests/data/cassettes`."""
    settings: dict[str, Any] = field(repr=False)
    """Arguments of `ChatTIRQwen` and `TIRQwen` alike."""
    cassette: Cassette

    @property
    def live(self) -> bool:
        """Whether a real model answered, whose words are not known in advance."""
        return self.name == LIVE

    def says(self, scripted: str) -> Any:
        """What the answer must equal: the lab's script or, for a real model, any text without tags."""
        return _AnyText() if self.live else scripted

    @property
    def reasoning_field(self) -> str:
        """The field in which the server reads the reasoning of earlier messages, as its answers show."""
        return "reasoning" if self.name.startswith("new") else "reasoning_content"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the requests, in order."""
        return [json.loads(request.body) for request in self.cassette.requests]

    def frames(self, number: int = -1) -> list[dict[str, Any]]:
        """The JSON of a response: each chunk of a stream, or the whole answer."""
        text = self.cassette.responses[number]["body"]["string"].decode()
        return [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.endswith("}")]

    @property
    def facts(self) -> dict[str, Any]:
        """The metadata of the last response (id, created, model, usage, ...), read from its bytes."""
        return {name: value for frame in self.frames() for name, value in frame.items() if value is not None}


class _AnyText(str):
    """Equal to any text of a model."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(other.strip()) and "think>" not in other


def pytest_configure(config: pytest.Config) -> None:
    """Read what to record, and its credentials, before a fixture hides the environment."""
    config.addinivalue_line("markers", "parsers(has): only for servers with (or without) reasoning and tool parsers")
    config.addinivalue_line("markers", "sets(name): only for this set, where the lab cannot speak for the others")
    config.addinivalue_line("markers", "every_setup: also for the set-ups of which little else is recorded")
    config.addinivalue_line("markers", "embeddings: of embeddings, only for embedding models")
    config.addinivalue_line("markers", "cassettes(folder): kept in this folder of a set")
    config.addinivalue_line("markers", "vcr: of LangChain's standard tests")
    config.addinivalue_line("markers", "benchmark: of LangChain's standard tests")
    config.stash[_SOURCES] = dict(map(_source, config.getoption("record", default=None) or []))
    if config.stash[_SOURCES]:  # sockets then are real, and may outlive a test's event loop
        config.addinivalue_line("filterwarnings", "ignore::pytest.PytestUnraisableExceptionWarning")


_NOT_TEXT = ("image_inputs", "pdf_inputs", "audio_inputs", "image_tool_message", "pdf_tool_message")
_SOURCES = pytest.StashKey[dict[str, Source]]()
_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect LangChain's standard tests of images and the like, which the model does not support."""
    out = [item for item in items if getattr(item, "originalname", "").removeprefix("test_") in _NOT_TEXT]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Tell the fixture whether its test has failed."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


def _source(option: str) -> tuple[str, Source]:
    name, _, url = option.partition("=")
    if name == LIVE:
        return LIVE, Source(url or None, os.environ["E2E_TIR_PROJECT_ID"], os.environ["E2E_TIR_ACCESS_TOKEN"])
    if not url:
        raise pytest.UsageError(
            f"--record {name}: give a lab server's URL, as in --record {name}=http://127.0.0.1:8080"
        )
    return name, Source(url, "1234", "lab-token")


def parses(name: str) -> bool:
    """Return whether the servers of a set have a reasoning parser and a tool parser."""
    return not name.endswith("-no-parsers")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses `server` once for each set that is recorded, or is being recorded."""
    if "server" in metafunc.fixturenames:
        sets = sorted(metafunc.config.stash[_SOURCES]) or sorted(
            path.name for path in FOLDER.iterdir() if path.is_dir()
        )
        of_embeddings = metafunc.definition.get_closest_marker("embeddings") is not None
        sets = [name for name in sets if name.endswith(EMBEDDINGS) is of_embeddings]
        wanted = metafunc.definition.get_closest_marker("parsers")
        if wanted:
            sets = [name for name in sets if parses(name) is wanted.args[0]]
        if not (of_embeddings or metafunc.definition.get_closest_marker("every_setup")):
            sets = [name for name in sets if name in MAIN]
        only = metafunc.definition.get_closest_marker("sets")
        if only:
            sets = [name for name in sets if name in only.args]
        metafunc.parametrize("server", sets, indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server on a cassette, which must be played to its end.

    The cassette is named after the test, and after its other parameters: by their attribute `cassette` if they have
    one, so that tests which ask the same share one.
    """
    params = {name: value for name, value in request.node.callspec.params.items() if name != "server"}
    parts = [request.node.originalname.removeprefix("test_"), *(_part(value) for value in params.values())]
    marker = request.node.get_closest_marker("cassettes")
    folder = FOLDER / request.param / (marker.args[0] if marker else "")
    path = folder / f"{'-'.join(part for part in parts if part)}.yaml"
    source = request.config.stash[_SOURCES].get(request.param)
    if source is None:
        assert path.is_file(), f"{path.name} is not recorded for {request.param}: see tests/data/cassettes/README.md"
        with recorder().use_cassette(path, record_mode="none", allow_playback_repeats=False) as cassette:
            settings = {"project_id": PROJECT, "access_token": "token", "base_url": HOST}
            yield Server(request.param, settings, cassette)
        if request.node.stash[_FAILED]:
            return  # that is why
        unplayed = [one.uri for number, one in enumerate(cassette.requests) if not cassette.play_counts[number]]
        assert not unplayed, f"{path.name} was only partly played"
    else:
        path.unlink(missing_ok=True)
        with recorder(source.token, source.project).use_cassette(path, record_mode="all") as cassette:
            settings = {"project_id": source.project, "access_token": source.token, "base_url": source.url}
            yield Server(request.param, settings, cassette)
        written = path.read_text(encoding="utf-8")
        for secret in (source.token, f"p-{source.project}", f"project_id={source.project}"):
            assert secret not in written, f"a secret is in {path.name}"


def _part(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "cassette", "")
