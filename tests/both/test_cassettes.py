"""The cassettes themselves are readable, complete and free of secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from vcr.request import Request

from tests.support.cassette_fixtures import FOLDER
from tests.support.cassettes import HOST, ReadableFiles, same_body, scrub_request, scrub_response

FILES = sorted(FOLDER.glob("*/**/*.yaml"))
MODELS = {"chat/completions": ("qwen3_32b", "nope"), "embeddings": ("e5-mistral-7b-instruct", "nope")}
URIS = {
    f"{HOST}/project/p-0/genai/{model}/v1/{operation}?project_id=0"
    for operation, models in MODELS.items()
    for model in models
}


@pytest.mark.parametrize(
    "folder", sorted(path for path in FOLDER.iterdir() if path.is_dir()), ids=lambda path: path.name
)
def test_nothing_but_exchanges(folder: Path) -> None:
    """A cassette holds only the answer and what determines it: no host, no project and no request headers."""
    for path in folder.rglob("*.yaml"):
        for exchange in yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader):
            assert [*exchange] == ["method", "uri", "request", "status", "type", "response"]
            assert exchange["method"] == "POST"
            assert exchange["uri"] in URIS


def test_cassettes_stay_small() -> None:
    """Cassettes stay small enough to be read and to be kept in the repository."""
    assert 0 < sum(path.stat().st_size for path in FILES) < 10_000_000


def test_scrubbed_request() -> None:
    """Nothing private in a request's address or headers is kept, regardless of case and position."""
    uri = (
        "http://127.0.0.1:8080/project/p-1234/genai/qwen3_32b/v1/chat/completions?project_id=1234&apikey=secret&a=1234"
    )
    headers = {"Authorization": "Bearer secret", "X-Api-Key": "secret", "Cookie": "a=secret"}

    scrubbed = scrub_request(Request("POST", uri, b"{}", headers))

    assert scrubbed.uri == f"{HOST}/project/p-0/genai/qwen3_32b/v1/chat/completions?project_id=0&a=1234"
    assert (scrubbed.method, scrubbed.body, dict(scrubbed.headers)) == ("POST", b"{}", {})
    assert scrub_request(scrubbed).uri == scrubbed.uri


def test_scrubbed_response() -> None:
    """Only status, content type and body of a response are kept, the latter without token and project."""
    body = '{"error": "Bearer t0ken of p-1234: नमस्ते", "id": "chatcmpl-x1234"}'.encode()
    headers = {"Content-Type": ["application/json"], "Set-Cookie": ["a=t0ken"], "x-request-id": ["1"]}
    response = {"status": {"code": 401, "message": "No"}, "headers": headers, "body": {"string": body}}

    assert scrub_response("t0ken", "1234")(response) == {
        "status": {"code": 401, "message": "No"},
        "headers": {"Content-Type": ["application/json"]},
        "body": {"string": '{"error": "Bearer 0 of p-0: नमस्ते", "id": "chatcmpl-x1234"}'.encode()},
    }


BODIES = ["{}", "data: {}\n\ndata: [DONE]\n\n", "", "a\r\nb", "\n\n  x \n", "🎉 👩\u200d💻\u2028\x85", "'\"#: "]


@pytest.mark.parametrize("text", BODIES)
def test_files_keep_every_byte(text: str, tmp_path: Path) -> None:
    """A body is read from a file exactly as it was written."""
    path = tmp_path / "set" / "cassette.yaml"
    request = Request("POST", f"{HOST}/x", b'{"a": "\xe0\xa4\xa8", "b": null}', {})
    status, headers = {"code": 200, "message": "OK"}, {"content-type": ["a/b"]}
    response = {"status": status, "headers": headers, "body": {"string": text.encode()}}

    ReadableFiles.save_cassette(str(path), {"requests": [request], "responses": [response]}, None)
    (read,), (answer,) = ReadableFiles.load_cassette(str(path), None)

    assert (read.method, read.uri) == ("POST", f"{HOST}/x")
    same_body(read, request)
    assert answer["status"]["code"] == 200
    assert (answer["headers"], answer["body"]) == ({"content-type": ["a/b"]}, {"string": text.encode()})


@pytest.mark.parametrize(
    ("one", "other", "same"), [('{"a": 1, "b": 2}', '{"b":2,"a":1}', True), ('{"a": 1}', '{"a": 1, "b": null}', False)]
)
def test_bodies_are_compared_as_json(one: str, other: str, same: bool) -> None:
    """Bodies match regardless of the order of their fields, but not if a field is missing or added."""
    requests = [Request("POST", HOST, body.encode(), {}) for body in (one, other)]
    if same:
        same_body(*requests)
    else:
        with pytest.raises(AssertionError):
            same_body(*requests)
