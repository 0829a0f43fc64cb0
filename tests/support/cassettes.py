"""Cassettes: exchanges with real servers, replayed by vcrpy, in files that are easy to read.

A file is a list of exchanges. Of a request it keeps what decides the answer: method, URI and JSON body; of a response
the status, the content type and the body as it came. Nothing else is kept, so nothing else can leak.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from inspect import cleandoc
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import yaml
from vcr import VCR
from vcr.persisters.filesystem import CassetteNotFoundError
from vcr.request import Request

HOST = "https://tir.invalid"
PROJECT = "0"
PRIVATE_QUERY = ("apikey",)


class Text(str):
    """Text to write unchanged, line by line."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Writes `Text` as a literal block."""


def _write_text(dumper: yaml.SafeDumper, text: Text) -> yaml.ScalarNode:
    literal = not re.search("[\r\x85\u2028\u2029]", text)  # YAML would take these for line ends, and change them
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if literal else '"')


_Dumper.add_representer(Text, _write_text)


def scrub_uri(uri: str) -> str:
    """Return `uri` with a placeholder host, and without project and keys."""
    parts = urlsplit(uri)
    path = re.sub(r"/project/p-[^/]+", f"/project/p-{PROJECT}", parts.path)
    query = [
        (name, PROJECT if name == "project_id" else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name not in PRIVATE_QUERY
    ]
    return HOST + urlunsplit(("", "", path, urlencode(query), ""))


def scrub_request(request: Request) -> Request:
    """Keep only what determines the answer."""
    return Request(request.method, scrub_uri(request.uri), request.body, {})


def scrub_response(*secrets: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a filter that removes `secrets` from the body, and all headers but the content type."""

    def scrub(response: dict[str, Any]) -> dict[str, Any]:
        text = response["body"]["string"].decode()
        for secret in secrets:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", PROJECT, text)
        headers = {name: value for name, value in response["headers"].items() if name.lower() == "content-type"}
        return {**response, "headers": headers, "body": {"string": text.encode()}}

    return scrub


def same_body(one: Request, other: Request) -> None:
    """Match request bodies as JSON, ignoring the indentation of docstrings, which Python 3.13 removes."""
    bodies = [json.loads(request.body, object_hook=_without_margin) for request in (one, other)]
    assert bodies[0] == bodies[1], "{} is not {}".format(*bodies)


def _without_margin(found: dict[str, Any]) -> dict[str, Any]:
    text = found.get("description")
    return {**found, "description": cleandoc(text)} if isinstance(text, str) else found


class ReadableFiles:
    """Reads and writes cassettes."""

    @staticmethod
    def load_cassette(cassette_path: str, serializer: object) -> tuple[list[Request], list[dict[str, Any]]]:
        """Read a cassette into vcrpy's form."""
        path = Path(cassette_path)
        if not path.is_file():
            raise CassetteNotFoundError
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        exchanges = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        requests = [Request(one["method"], one["uri"], json.dumps(one["request"]), {}) for one in exchanges]
        responses = [
            {
                "status": {"code": one["status"], "message": None},
                "headers": {"content-type": [one["type"]]},
                "body": {"string": one["response"].encode()},
            }
            for one in exchanges
        ]
        return requests, responses

    @staticmethod
    def save_cassette(cassette_path: str, cassette_dict: dict[str, Any], serializer: object) -> None:
        """Write a cassette."""
        exchanges = [
            {
                "method": request.method,
                "uri": request.uri,
                "request": json.loads(request.body),
                "status": response["status"]["code"],
                "type": next((value[0] for value in response["headers"].values()), ""),
                "response": Text(response["body"]["string"].decode()),
            }
            for request, response in zip(cassette_dict["requests"], cassette_dict["responses"], strict=True)
        ]
        path = Path(cassette_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        dumped = yaml.dump(
            exchanges, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
        )
        path.write_text(dumped, encoding="utf-8")


def recorder(*secrets: str) -> VCR:
    """Return a vcrpy recorder for such cassettes, which stores none of `secrets`."""
    vcr = VCR(
        before_record_request=scrub_request,
        before_record_response=scrub_response(*secrets),
        decode_compressed_response=True,
        match_on=("method", "uri", "json"),
    )
    vcr.register_matcher("json", same_body)
    vcr.register_persister(ReadableFiles)
    return vcr
