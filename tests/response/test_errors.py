"""The tree of errors: its shape, and that errors are plain values which travel."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from types import ModuleType
from typing import Any

import pytest

import tir_qwen
from tir_qwen import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    Choice,
    Completion,
    ConfigurationError,
    ContextOverflowError,
    InternalServerError,
    MalformedChunkError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerStreamError,
    StreamError,
    StreamInterruptedError,
    TIRError,
    ToolCall,
    errors,
)

TREE: dict[type[Exception], tuple[type[Exception], ...]] = {
    TIRError: (Exception,),
    ConfigurationError: (TIRError, ValueError),
    APIConnectionError: (TIRError,),
    APITimeoutError: (APIConnectionError,),
    APIStatusError: (TIRError,),
    BadRequestError: (APIStatusError,),
    ContextOverflowError: (BadRequestError,),
    AuthenticationError: (APIStatusError,),
    PermissionDeniedError: (APIStatusError,),
    NotFoundError: (APIStatusError,),
    RateLimitError: (APIStatusError,),
    InternalServerError: (APIStatusError,),
    StreamError: (TIRError,),
    StreamInterruptedError: (StreamError,),
    MalformedChunkError: (StreamError,),
    ServerStreamError: (StreamError,),
}


def defined() -> dict[str, type[Exception]]:
    """The classes of `tir_qwen.errors`."""
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }


def test_the_tree_of_exceptions_is_exactly_this() -> None:
    """The tree is exactly this, so that `except` clauses written today catch the same tomorrow."""
    assert {cls: cls.__bases__ for cls in defined().values()} == TREE


def test_the_picture_shows_every_exception() -> None:
    """The picture in the docstring shows every class, under its base, in the right place."""
    bases, path = {}, []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│├└─ ]*)(\w*Error)\b", line):
            path[len(found[1]) // 4 :] = [found[2]]
            bases[found[2]] = path[-2] if len(path) > 1 else "Exception"
    assert bases == {cls.__name__: parents[0].__name__ for cls, parents in TREE.items()}


def test_public_names() -> None:
    """What can be imported from `tir_qwen` is what `__all__` says, in order, every error included."""
    public = [
        name for name, value in vars(tir_qwen).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    ]
    assert tir_qwen.__all__ == sorted(tir_qwen.__all__)
    assert sorted(public) == tir_qwen.__all__
    assert set(defined()) <= set(public)
    assert re.fullmatch(r"\d+\.\d+\.\d+", tir_qwen.__version__)


def sample(cls: type[Any]) -> TIRError:
    """An error of this class with every attribute set to something unusual."""
    if issubclass(cls, APIStatusError):
        body = {"message": "so it is", "code": 400}
        error = cls("said so", status_code=503, body=body, request_id="r-1", retry_after=1.5)
    elif issubclass(cls, ServerStreamError):
        error = cls("said so", body={"message": "so it is"})
    else:
        error = cls("said so")
    error.attempts = 3
    error.is_retryable = not cls.is_retryable
    error.partial = Completion(
        [Choice(0, "half an ans", "because", [ToolCall("c-1", "f", "{}")], logprobs={"content": []})],
        {"completion_tokens": 4},
        {"id": "x"},
    )
    error.add_note("seen at noon")
    return error


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy, copy.copy])
def test_errors_travel(cls: type[Any], again: Any) -> None:
    """An error comes whole out of a pickle or a copy: process pools and task queues lose nothing of it."""
    error = sample(cls)
    back = again(error)
    assert type(back) is cls
    assert back is not error
    assert (str(back), repr(back), back.args) == ("said so", f"{cls.__name__}('said so')", ("said so",))
    assert vars(back) == vars(error)


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_errors_need_no_arguments(cls: type[Any]) -> None:
    """Every error can be raised by itself, as tests of user code do, and then says that nothing was sent."""
    error = cls()
    assert str(error) == ""
    assert error.attempts == 0
    assert error.partial is None


@pytest.mark.parametrize(
    ("cls", "retryable"),
    [
        (TIRError, False),
        (ConfigurationError, False),
        (APIConnectionError, True),
        (APITimeoutError, True),
        (StreamError, False),
        (StreamInterruptedError, True),
        (MalformedChunkError, False),
        (ServerStreamError, True),
    ],
)
def test_is_retryable_by_class(cls: type[TIRError], retryable: bool) -> None:
    """An error says whether the same call may well succeed if it is made again."""
    assert cls().is_retryable is retryable
