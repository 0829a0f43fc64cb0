"""Schemas that a server's grammar does not support, on real servers."""

from __future__ import annotations

import json
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, HttpUrl

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.cassette_fixtures import Server

pytestmark = [pytest.mark.cassettes("grammar"), pytest.mark.parsers(True)]


class Color(Enum):
    """A color."""

    RED = "red"
    GREEN = "green"


class Ticket(BaseModel):
    """A ticket."""

    tags: set[str]


class Docs(BaseModel):
    """Documentation."""

    link: HttpUrl


class Cars(BaseModel):
    """Cars by their color."""

    counts: dict[Color, int]


class Book(BaseModel):
    """A book."""

    price: Decimal


CASES: dict[str, tuple[str, Any]] = {
    "uniqueItems": ("Tag this ticket: nobody can log in.", Ticket(tags={"login", "outage"})),
    "format": ("Where are the docs?", Docs(link=HttpUrl("https://docs.example.com/tir"))),
    "propertyNames": ("How many cars of each color are there?", Cars(counts={Color.RED: 2})),
    "pattern": ("What does the book cost?", Book(price=Decimal("19.99"))),
}
FORMS = ["whole", "stream"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("case", CASES)
def test_langchain_gets_the_object(server: Server, case: str, method: str, form: str) -> None:
    """Whatever the grammar refuses, before or within the answer, there is an object, and the next call needs no try."""
    question, expected = CASES[case]
    model = ChatTIRQwen(**server.settings)
    chain = model.with_structured_output(type(expected), method=method)

    def ask() -> Any:
        return chain.invoke(question) if form == "whole" else [*chain.stream(question)][-1]

    assert [ask(), ask()] == [expected, expected]
    *refused, accepted, again = server.bodies
    assert accepted == again
    if server.name == "old":
        assert len(refused) == 1
        assert case in json.dumps(refused)
        enforced = accepted["tools"] if method == "function_calling" else accepted["response_format"]
        assert case not in json.dumps(enforced)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["default", "function"])
@pytest.mark.parametrize("case", CASES)
def test_llama_index_gets_the_object(server: Server, case: str, mode: str, form: str) -> None:
    """The same holds for LlamaIndex's programs."""
    question, expected = CASES[case]
    llm = TIRQwen(**server.settings, pydantic_program_mode=mode)

    if form == "whole":
        result = llm.structured_predict(type(expected), PromptTemplate(question))
    else:
        *_, result = llm.stream_structured_predict(type(expected), PromptTemplate(question))

    assert result == expected
