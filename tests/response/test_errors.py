"""The exception hierarchy: its shape, and that exceptions can be copied and pickled."""

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
    """Return the exception classes in `tir_qwen.errors`."""
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }


def test_the_tree_of_exceptions_is_exactly_this() -> None:
    """The hierarchy is fixed, so existing `except` clauses keep working."""
    assert {cls: cls.__bases__ for cls in defined().values()} == TREE


def test_the_picture_shows_every_exception() -> None:
    """The tree in the docstring shows every exception below its base class."""
    bases, path = {}, []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│├└─ ]*)(\w*Error)\b", line):
            path[len(found[1]) // 4 :] = [found[2]]
            bases[found[2]] = path[-2] if len(path) > 1 else "Exception"
    assert bases == {cls.__name__: parents[0].__name__ for cls, parents in TREE.items()}


def test_all_lists_every_public_name() -> None:
    """`__all__` is sorted and lists every public name, including all exceptions."""
    public = [
        name for name, value in vars(tir_qwen).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    ]
    assert tir_qwen.__all__ == sorted(tir_qwen.__all__)
    assert sorted(public) == tir_qwen.__all__
    assert set(defined()) <= set(public)
    assert re.fullmatch(r"\d+\.\d+\.\d+", tir_qwen.__version__)


def sample(cls: type[Any]) -> TIRError:
    """Return an exception of this class with every attribute set."""
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
def test_exceptions_survive_copying_and_pickling(cls: type[Any], again: Any) -> None:
    """A copied or unpickled exception keeps all of its attributes."""
    error = sample(cls)
    back = again(error)
    assert type(back) is cls
    assert back is not error
    assert (str(back), repr(back), back.args) == ("said so", f"{cls.__name__}('said so')", ("said so",))
    assert vars(back) == vars(error)


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_exceptions_need_no_arguments(cls: type[Any]) -> None:
    """Every exception can be created without arguments, as user tests do."""
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
    """Each class says whether repeating the call may succeed."""
    assert cls().is_retryable is retryable
