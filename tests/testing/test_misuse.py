"""Scripts that do not fit the requests, and arguments that are wrong, are errors that say what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tir_qwen import APIStatusError
from tir_qwen.testing import FakeEndpoint, Reply, Request, faults

from .test_endpoint import ask


def fail(_: Request) -> str:
    """Fail as a function of a script may."""
    raise KeyError("no such city")


def test_what_does_not_fit() -> None:
    """`check` says which answers nobody asked for, which request came too many, and which function failed."""
    with FakeEndpoint(fail, "never") as endpoint:
        with pytest.raises(APIStatusError, match=r"^410 Gone: Request 1 got no answer: KeyError: 'no such city'"):
            ask(endpoint)
        with pytest.raises(AssertionError) as caught:
            endpoint.check()
        assert str(caught.value).splitlines() == [
            "Request 1 got no answer: KeyError: 'no such city'",
            "Nobody asked for the answer 'never'.",
        ]
    with FakeEndpoint() as endpoint:
        with pytest.raises(APIStatusError, match=r"^410 Gone: Request 1 got no answer: add\(\) one for it\.") as error:
            ask(endpoint)
        assert not error.value.is_retryable
        with pytest.raises(AssertionError, match=r"add\(\) one for it\. Its last message is 'Hello'\.$"):
            endpoint.check()


def test_a_model_that_asks_another_server() -> None:
    """If answers are left because no request came at all, `check` says what may be wrong with the model."""
    with FakeEndpoint("never") as endpoint, pytest.raises(AssertionError) as caught:
        endpoint.check()
    assert str(caught.value).splitlines() == [
        "Nobody asked for the answer 'never'.",
        "No request arrived: was the model created with these settings, or while the environment named this server?",
    ]


def test_functions_that_fail_a_test() -> None:
    """A function of a script may end a test by pytest's own means, or return what is no answer: `check` says so."""
    functions: list[Any] = [lambda _: pytest.fail("not this city"), lambda _: None]
    with FakeEndpoint(*functions) as endpoint:
        for _ in functions:
            with pytest.raises(APIStatusError, match=r"^410 Gone: "):
                ask(endpoint, max_retries=0)
        with pytest.raises(AssertionError) as caught:
            endpoint.check()
    assert str(caught.value).splitlines() == [
        "Request 1 got no answer: Failed: not this city",
        "Request 2 got no answer: TypeError: a function of the script must return a str, Reply, fault or Response;"
        " not NoneType.",
    ]


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (5, r"^an answer must be a str, Reply, fault or Response, or a function that returns one; not int\.$"),
        (["Hi!"], r"not list\.$"),
        (ValueError("busy"), r"not ValueError\.$"),
        (faults.unavailable, r"^unavailable must be called: write unavailable\(\.\.\.\)\.$"),
        (Reply, r"^Reply must be called"),
    ],
)
def test_what_is_no_answer(script: Any, problem: str) -> None:
    """What is no answer is an error where it is given, not when it is asked for."""
    for give in (FakeEndpoint, lambda script: FakeEndpoint(default=script), FakeEndpoint().add):
        with pytest.raises(TypeError, match=problem):
            give(script)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"text": 5}, r"text\n +Input should be a valid string"),
        ({"tool_calls": ("weather", {})}, r"tool_calls\.0\n +Input should be a valid tuple"),
        ({"delay": -1}, r"delay\n +Input should be greater than or equal to 0"),
        ({"tokens_per_second": 0}, r"tokens_per_second\n +Input should be greater than 0"),
        ({"texts": "Hi!"}, r"texts\n +Unexpected keyword argument"),
    ],
)
def test_what_is_no_reply(arguments: Any, problem: str) -> None:
    """A wrong argument of a reply is an error that names it."""
    with pytest.raises(ValueError, match=problem):
        Reply(**arguments)
