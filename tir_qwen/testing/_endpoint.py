"""`FakeEndpoint`: a local server that answers like TIR's, from a script."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from ._embeddings import Embed, embeddings
from ._no_proxy import no_proxy_variables, without_proxy
from ._replies import Reply
from ._response import Interrupted, Response, json_response
from ._server import HangUpError, LoopbackServer, Request
from ._shapes import SHAPES
from .faults import Interruption, Refusal

Answer = str | Reply | Refusal | Interruption | Response
"""The answer to a request. A string is the text of a `Reply`."""
Script = Answer | Callable[[Request], Answer]
"""An answer, or a function that returns the answer to a request."""

Paced = TypeVar("Paced", Reply, Response)

TOKEN = "testing"  # noqa: S105 - opens nothing
PROJECT_ID = "6530"

_UNASKED = "No request arrived: was the model created with these settings, or while the environment named this server?"
_ANSWERS = "a str, Reply, fault or Response"


class _OverError(Exception):
    """Raised for a request for which no answer is left."""


class FakeEndpoint:
    """A local server that answers like TIR's endpoint, while it is used as a context manager.

    Clients and models need no change: they send real requests, whole or streamed, from any thread or event loop. They
    bypass proxies: while an endpoint runs, the environment's `NO_PROXY` includes 127.0.0.1.

    ```python
    from langchain_tir_qwen import ChatTIRQwen
    from tir_qwen.testing import FakeEndpoint

    with FakeEndpoint("It is Paris.") as endpoint:
        model = ChatTIRQwen(**endpoint.settings)
        print(model.invoke("What is the capital of France?").content)
        assert endpoint.requests[0].prompt == "What is the capital of France?"
        endpoint.check()
    ```

    `POST .../chat/completions`, with any path, model, token and project, is answered from the script.
    `POST .../embeddings` is answered with vectors that are similar if texts share words.

    Args:
        script: The answers, in order: strings, `Reply`s, `faults`, or functions of the `Request` that return one. Each
            request gets the next answer, and so does each retry.
        default: The answer to all further requests. None: they get an error with status 410.
        vllm: The version of vLLM to imitate: `0.32`, or `0.9`, which TIR's endpoint resembles.
        tokens_per_second: The speed of the model; None: no delay.
        embed: Returns the vector of a text; replaces the built-in function.

    Raises:
        TypeError: A part of the script is not an answer.
        ValueError: `vllm` is none of these versions.

    Attributes:
        requests: The requests so far, oldest first. They remain after the context has ended.
    """

    def __init__(
        self,
        *script: Script,
        default: Script | None = None,
        vllm: Literal["0.9", "0.32"] = "0.32",
        tokens_per_second: float | None = None,
        embed: Embed | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self._script = [_checked(each) for each in script]
        self._default = None if default is None else _checked(default)
        if vllm not in SHAPES:
            raise ValueError(f"vllm must be one of {', '.join(SHAPES)}.")
        self._shape = SHAPES[vllm]
        self._pace = tokens_per_second
        self._embed = embed
        self._lock = threading.Lock()
        self._answered = 0
        self._problems: list[str] = []
        self._server: LoopbackServer | None = None
        self._end = ExitStack()

    def __repr__(self) -> str:
        return f"<FakeEndpoint, {len(self.requests)} requests, {len(self._script)} answers left>"

    def __enter__(self) -> Self:
        self._server = LoopbackServer(self._respond)
        self._server.requests = self.requests
        self._end.enter_context(without_proxy())
        self._end.enter_context(self._server)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.close()

    def add(self, *script: Script) -> None:
        """Add answers to the end of the script.

        Raises:
            TypeError: One of them is not an answer.
        """
        with self._lock:
            self._script += [_checked(each) for each in script]

    def check(self) -> None:
        """Check that each request got an answer, and that no answers are left.

        Raises:
            AssertionError: Answers are left, a request got no answer, or a function of the script failed.
        """
        with self._lock:
            problems = [*self._problems, *(f"Nobody asked for the answer {script!r}." for script in self._script)]
            if self._script and not self.requests:
                problems.append(_UNASKED)
        if problems:
            raise AssertionError("\n".join(problems))

    @property
    def base_url(self) -> str:
        """The address: scheme, host and port. Add `/v1` for programs that need a complete base URL."""
        return self._running.url

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments for `Client`, `ChatTIRQwen` and `TIRQwen` alike."""
        return {"base_url": self.base_url, "project_id": PROJECT_ID, "access_token": TOKEN}

    @property
    def environment(self) -> dict[str, str]:
        """The settings as environment variables, including `NO_PROXY`, for programs that read them."""
        return {
            "E2E_TIR_BASE_URL": self.base_url,
            "E2E_TIR_PROJECT_ID": PROJECT_ID,
            "E2E_TIR_ACCESS_TOKEN": TOKEN,
            **no_proxy_variables(),
        }

    @property
    def _running(self) -> LoopbackServer:
        if self._server is None:
            raise RuntimeError("The endpoint is not running: use it as a context manager.")
        return self._server

    def _respond(self, request: Request) -> Iterator[bytes]:
        begun = time.monotonic()

        def at(seconds: float) -> None:
            if self._running.left_within(None if seconds == float("inf") else begun + seconds - time.monotonic()):
                raise HangUpError

        return self._response(request)._parts(at)

    def _response(self, request: Request) -> Response | Interrupted:
        if request.method != "POST" or not request.path.endswith(("/chat/completions", "/embeddings")):
            return json_response({"detail": "Not Found"}, 404)
        try:
            body = request.json()
        except ValueError:
            return json_response(self._shape.error(400, "The body is not JSON."), 400)
        with self._lock:
            self._answered = number = self._answered + 1
        try:
            if request.path.endswith("/embeddings"):
                return self._vectors(request, body)
            return self._written(self._next(request), body, number)
        except BaseException as error:  # noqa: BLE001 - whatever a function of the user's raises, as pytest.fail does
            cause = error if type(error) is _OverError else f"{type(error).__name__}: {error}"
            problem = f"Request {number} got no answer: {cause}"
            with self._lock:
                self._problems.append(problem)
            return json_response(self._shape.error(410, problem), 410)  # which no client retries

    def _vectors(self, _: Request, body: dict[str, Any]) -> Response | Interrupted:
        return json_response(embeddings(body, self._embed))

    def _next(self, request: Request) -> Answer:
        with self._lock:
            script = self._script.pop(0) if self._script else self._default
        if script is None:
            raise _OverError(f"add() one for it. Its last message is {request.prompt!r}.")
        if not callable(script):
            return script
        answer = script(request)
        if not isinstance(answer, Answer):
            raise TypeError(f"a function of the script must return {_ANSWERS}; not {type(answer).__name__}.")
        return answer

    def _written(self, answer: Answer, body: dict[str, Any], number: int) -> Response | Interrupted:
        if isinstance(answer, Refusal):
            return answer._respond(self._shape)
        if isinstance(answer, Interruption):
            return replace(answer, reply=self._paced(answer.reply))._respond(self._shape, body, number)
        if isinstance(answer, Response):
            return self._paced(answer)
        reply = Reply(answer) if isinstance(answer, str) else answer
        return self._shape.respond(self._paced(reply), body, number)

    def _paced(self, answer: Paced) -> Paced:
        return replace(answer, tokens_per_second=answer.tokens_per_second or self._pace)


def _checked(script: Script) -> Script:
    is_uncalled = isinstance(script, type) or getattr(script, "__module__", "") == Refusal.__module__
    if isinstance(script, Answer) or (callable(script) and not is_uncalled):
        return script
    if callable(script):
        raise TypeError(f"{script.__name__} must be called: write {script.__name__}(...).")
    raise TypeError(f"an answer must be {_ANSWERS}, or a function that returns one; not {type(script).__name__}.")
