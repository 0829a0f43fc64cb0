"""Endpoint address and credentials, from arguments and environment variables, validated before anything is sent.

Sources: TIR's API reference for Qwen3-32B (address and `project_id`), its user guides (host and token), and its SDK
(`e2enetworks` on PyPI; names of the environment variables).
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import NoneType
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit, urlunsplit

from .._record import Record
from .._redaction import Secrets, collect_secrets, redact_urls
from ..errors import ConfigurationError

logger = logging.getLogger("tir_qwen")

DEFAULT_HOST = "https://infer.e2enetworks.net"
_OPERATOR = "e2enetworks.net"
_reported_hosts: set[str] = set()
_ADDRESSES = ("E2E_TIR_BASE_URL", "MODEL_API_CLIENT_HOST")
"""The environment variables with an address."""
DEFAULT_MODEL = "qwen3_32b"
CHAT_COMPLETIONS = "/chat/completions"
EMBEDDINGS = "/embeddings"
_OPERATIONS = (CHAT_COMPLETIONS, EMBEDDINGS)
_RESERVED_HEADERS = frozenset({"connection", "content-length", "host", "transfer-encoding"})
_HOST = re.compile(r"(?!.{254})[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


@dataclass(slots=True, eq=False, repr=False)
class Endpoint(Record):
    """The address of an endpoint and the credentials for it. Its repr is safe to log.

    Created and validated by `resolve_endpoint`.

    Attributes:
        base_url: The URL to append `/chat/completions` or `/embeddings` to, or only scheme and host.
        query: The query string of every request.
        project_id: Digits; None unless the address is `<host>/project/p-<id>/genai/<model>/v1`.
        headers: Headers of every request; their values are secrets.
        secrets: Strings to redact in errors, in case the server repeats them.
    """

    base_url: str
    query: str = ""
    project_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: Secrets = field(default_factory=Secrets)

    def url(self, model: str, operation: str = CHAT_COMPLETIONS) -> str:
        """Return the URL of `model` for an operation: `CHAT_COMPLETIONS` or `EMBEDDINGS`.

        Raises:
            ConfigurationError: `model` is not the name of a model.
        """
        is_name = isinstance(model, str) and model.strip()
        if not is_name or (self.project_id is not None and not model.strip(".")):  # URL libraries remove dot segments
            raise ConfigurationError(f"model must be the name of a model, such as {DEFAULT_MODEL}.")
        url = self._url_of(quote(model, safe=""), operation)
        return f"{url}?{self.query}" if self.query else url

    def redacted_url(self, model: str = "...") -> str:
        """Return the chat completions URL of a model without its query; the project id is masked."""
        return redact_urls(self._url_of(quote(model, safe=""), CHAT_COMPLETIONS))

    def __repr__(self) -> str:
        return f"<Endpoint {self.redacted_url()}>"

    def _url_of(self, quoted_model: str, operation: str) -> str:
        project_path = "" if self.project_id is None else f"/project/p-{self.project_id}/genai/{quoted_model}/v1"
        return f"{self.base_url}{project_path}{operation}"


class DefaultProject(str):
    """A project id that was not passed as an argument, so that it gives way to that of a complete URL."""

    __slots__ = ()


def resolve_endpoint(
    *,
    project_id: str | int | None = None,
    access_token: str | None = None,
    base_url: str | None = None,
    apikey: str | None = None,
    headers: Mapping[str, str] | None = None,
    allow_http: bool = False,
) -> Endpoint:
    """Resolve the endpoint from arguments and environment variables; arguments take precedence.

    Args:
        project_id: `6530` or `p-6530`; environment `E2E_TIR_PROJECT_ID`. Not needed with a complete base URL, whose
            path decides.
        access_token: The Auth Token of a TIR access token; environment `E2E_TIR_ACCESS_TOKEN`. Optional for a complete
            base URL on this machine.
        base_url: A complete base URL, including the path (a dedicated endpoint, a local vLLM: requests go to
            `<base_url>/chat/completions` or `<base_url>/embeddings`; environment `E2E_TIR_BASE_URL`), or only a host
            (requests go to `<host>/project/p-<id>/genai/<model>/v1/chat/completions?project_id=<id>`, for example;
            environment `MODEL_API_CLIENT_HOST`). Default: TIR's host.
        apikey: Sent as the query parameter `apikey`; environment `E2E_TIR_API_KEY` (hosts only).
        headers: Additional headers for every request.
        allow_http: Allow plain HTTP to other machines, which sends token and prompts unencrypted.

    Raises:
        ConfigurationError: A setting is missing or malformed; the message names the argument and the variable.
    """
    root, query, is_complete = _resolve_address(base_url, allow_http=allow_http)
    if not is_complete:
        _require_either(project_id, access_token)
    project = None if is_complete and project_id is None else _parse_project_id(project_id, required=not is_complete)
    if not isinstance(headers, (Mapping, NoneType)):
        raise _malformed("default_headers", "must be a dict")
    token = _token(access_token, required=not (is_complete and _is_loopback(urlsplit(root).hostname or "")))
    _report_foreign_host(urlsplit(root).hostname or "", token)
    key = _clean("apikey", "E2E_TIR_API_KEY", apikey, use_environment=not is_complete)
    if is_complete:  # the path decides: it may contain another project than that of the environment
        project = _project_of_path(root, None if isinstance(project_id, DefaultProject) else project)
    params = {} if is_complete or project is None else {"project_id": project}
    if key is not None:
        params["apikey"] = key
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    return Endpoint(
        base_url=root,
        query="&".join(part for part in (query, urlencode(params)) if part),
        project_id=None if is_complete else project,
        headers=_merge_headers(authorization, headers or {}),
        secrets=collect_secrets(
            [
                token,
                key,
                project and f"p-{project}",
                project,
                *(part for value in (headers or {}).values() for part in (value, *value.split())),
                *(value for _, value in parse_qsl(query)),
            ]
        ),
    )


def _resolve_address(base_url: str | None, *, allow_http: bool) -> tuple[str, str, bool]:
    """Return the URL without a trailing slash, its query, and whether it is complete (has a path)."""
    from_environment = {name: os.environ.get(name, "").strip() for name in _ADDRESSES}
    if not isinstance(base_url, (str, NoneType)):
        raise _malformed("base_url", f"must be a string, not {type(base_url).__name__}")
    candidates = {"base_url": (base_url or "").strip(), **from_environment, "the default host": DEFAULT_HOST}
    name, url = next((name, url) for name, url in candidates.items() if url)
    if name == "MODEL_API_CLIENT_HOST" and "://" not in url:
        url = f"https://{url}"
    if not url.isascii() or not url.isprintable() or " " in url:
        raise _malformed(name, "must not contain spaces, control characters or non-ASCII characters")
    parts = _split(url)
    host = parts.hostname if parts else None
    if parts is None or (host and not _is_host(host)):
        raise _malformed(name, "is not a URL")
    if parts.scheme not in ("http", "https") or not host:
        raise _malformed(name, "must be a URL that begins with https:// (or, on this machine, http://)")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _malformed(name, "must not contain credentials or a fragment")
    if parts.scheme == "http" and not (allow_http or _is_loopback(host)):
        raise _malformed(name, "must use https:// (http:// sends the token unencrypted; allow_http=True permits it)")
    path = parts.path.rstrip("/")
    path = next((path.removesuffix(one).rstrip("/") for one in _OPERATIONS if path.endswith(one)), path)
    return urlunsplit((parts.scheme, parts.netloc, path, "", "")), parts.query, bool(path)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # accessing it validates it
    except ValueError:
        return None
    return parts


def _is_host(host: str) -> bool:
    """Whether `host` is an IP address or a well-formed host name."""
    if ":" in host or host.startswith("v"):  # an address in brackets, which urlsplit removed
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return ":" not in host and _HOST.fullmatch(host) is not None and not re.match(r"v[0-9a-f]+\.", host)
        return True
    return _HOST.fullmatch(host) is not None


def _parse_project_id(value: str | int | None, *, required: bool) -> str | None:
    written = str(value) if type(value) is int and abs(value) < 10**20 else value  # str() may refuse longer ones
    text = _text("project_id", "E2E_TIR_PROJECT_ID", written)
    if text is None:
        if required:
            raise _missing("project_id", "E2E_TIR_PROJECT_ID", "project id, such as 6530")
        return None
    found = re.fullmatch(r"(?:p-)?([0-9]{1,20})", text)
    if not found:
        raise _malformed("project_id", "must be digits, such as 6530 or p-6530", "E2E_TIR_PROJECT_ID")
    return found[1]


def _project_of_path(url: str, project: str | None) -> str | None:
    """Return the project of a complete URL, if it has one; a `project` passed as an argument must be the same."""
    found = re.search(r"/project/p-([0-9]+)(?=/|$)", url)
    if found is None:
        return None
    # Copies that LangChain makes pass all settings as arguments, those of the environment among them.
    from_environment = os.environ.get("E2E_TIR_PROJECT_ID", "").strip().removeprefix("p-")
    if project not in (None, found[1], from_environment):
        raise _malformed(
            "project_id", "is another project than that in base_url (or E2E_TIR_BASE_URL): leave out one of them"
        )
    return found[1]


def _token(value: str | None, *, required: bool) -> str | None:
    token = _clean("access_token", "E2E_TIR_ACCESS_TOKEN", value)
    if token is None and required:
        raise _missing("access_token", "E2E_TIR_ACCESS_TOKEN", "Auth Token of an access token")
    return token


def _report_foreign_host(host: str, token: str | None) -> None:
    """Warn if the environment's token goes to a host that is neither the operator's nor named by the environment.

    An application that lets others choose `base_url` would give its token away.
    """
    if not token or token != os.environ.get("E2E_TIR_ACCESS_TOKEN", "").strip() or _is_loopback(host):
        return
    is_operators = host == _OPERATOR or host.endswith(f".{_OPERATOR}")
    if is_operators or any(host == _host(os.environ.get(name, "").strip()) for name in _ADDRESSES):
        return
    if host not in _reported_hosts:
        _reported_hosts.add(host)
        logger.warning("The token of E2E_TIR_ACCESS_TOKEN is sent to %s, which base_url names.", host)


def _host(address: str) -> str | None:
    """Return the host of an address, whose scheme may be missing; None if it is malformed."""
    with suppress(ValueError):
        return urlsplit(address if "://" in address else f"//{address}").hostname
    return None


def _clean(name: str, variable: str, value: str | None, *, use_environment: bool = True) -> str | None:
    """Return a credential, once checked that it can be sent in a header or a query."""
    text = _text(name, variable if use_environment else "", value)
    if text is not None and text.startswith("Bearer "):
        raise _malformed(name, "must not begin with 'Bearer': that is added to the token", variable)
    if text is not None and not re.fullmatch(r"[\x21-\x7e]+", text):
        raise _malformed(name, "must be printable ASCII without spaces or line breaks", variable)
    return text


def _text(name: str, variable: str, value: object) -> str | None:
    if value is None:
        value = os.environ.get(variable)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _malformed(name, f"must be a string, not {type(value).__name__}", variable)
    return value.strip() or None


def _merge_headers(headers: dict[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Merge headers case-insensitively; those of the user (`more`) take precedence."""
    merged = {name.lower(): value for name, value in headers.items()}
    for name, value in more.items():
        if not isinstance(name, str) or not re.fullmatch(_HEADER_NAME, name):
            raise _malformed("default_headers", "must have header names of letters, digits and hyphens")
        if not isinstance(value, str) or not re.fullmatch(r"[\x20-\x7e]*", value):
            raise _malformed("default_headers", f"must have a value of printable ASCII for {name!r}")
        if name.lower() in _RESERVED_HEADERS:
            raise _malformed("default_headers", f"must leave {name!r} to the HTTP engine")
        merged[name.lower()] = value.strip()
    return merged


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_either(project_id: str | int | None, access_token: str | None) -> None:
    """Report both settings at once if neither is there."""
    variables = ("E2E_TIR_PROJECT_ID", "E2E_TIR_ACCESS_TOKEN")
    if project_id is None and access_token is None and not any(os.environ.get(name, "").strip() for name in variables):
        raise ConfigurationError(
            "project_id and access_token are missing: pass them, or set the environment variables E2E_TIR_PROJECT_ID to"
            " the project id, such as 6530, and E2E_TIR_ACCESS_TOKEN to the Auth Token of an access token (TIR's"
            " dashboard shows both)."
        )


def _missing(name: str, variable: str, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} is missing: pass {name}=... or set the environment variable {variable} to the {what}"
        f" (TIR's dashboard shows it)."
    )


def _malformed(name: str, problem: str, variable: str = "") -> ConfigurationError:
    if name == "base_url":
        variable = "E2E_TIR_BASE_URL"
    return ConfigurationError(f"{name}{f' (or {variable})' if variable else ''} {problem}.")
