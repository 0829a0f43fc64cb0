"""Objects of every shape: schemas as users write them, with an answer that is valid and one that is not."""

from __future__ import annotations

import datetime
import ipaddress
import json
import pathlib
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

import pydantic.v1
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    RootModel,
    SecretStr,
    TypeAdapter,
    computed_field,
    create_model,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict


class Color(Enum):
    """A color."""

    RED = "red"
    GREEN = "green"


class Level(IntEnum):
    """A level."""

    LOW = 1
    HIGH = 2


class Point(BaseModel):
    """A point."""

    x: int
    y: int = 0


class Times(BaseModel):
    """Dates and times."""

    day: datetime.date
    at: datetime.datetime
    clock: datetime.time
    lasting: datetime.timedelta


class Strict(BaseModel):
    """Values that JSON does not have."""

    model_config = ConfigDict(strict=True)

    day: datetime.date
    color: Color
    pair: tuple[int, str]
    tags: set[str]
    key: uuid.UUID
    price: Decimal
    none: None = None


class Limits(BaseModel):
    """Numbers, texts and lists with limits."""

    share: float = Field(ge=0, le=1)
    even: int = Field(multiple_of=2, gt=0, lt=100)
    code: str = Field(pattern=r"^[A-Z]{3}$")
    name: str = Field(min_length=2, max_length=10)
    marks: list[int] = Field(min_length=1, max_length=3)


class Mappings(BaseModel):
    """Keys that the schema does not name."""

    counts: dict[str, int]
    by_color: dict[Color, int]
    anything: dict[str, Any]


class Cat(BaseModel):
    """A cat."""

    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    """A dog."""

    kind: Literal["dog"]
    tricks: list[str]


class Pets(BaseModel):
    """Pets, told apart by their kind."""

    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Node(BaseModel):
    """A node of a tree."""

    name: str
    children: list[Node] = Field(default_factory=list)


class Question(BaseModel):
    """A question with answers."""

    text: str
    answers: list[Answer] = Field(default_factory=list)


class Answer(BaseModel):
    """An answer, which may raise questions."""

    text: str
    questions: list[Question] = Field(default_factory=list)


Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """A page of items."""

    items: list[Item]
    next: str | None = None


class Aliases(BaseModel):
    """Names on the wire other than in the program."""

    full_name: str = Field(alias="fullName")
    number: int = Field(validation_alias=AliasChoices("badge-no", "badge"))


class Unicode(BaseModel):
    """Keys in other scripts."""

    नाम: str
    größe: float


class Closed(BaseModel):
    """Nothing else is allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str


class Checked(BaseModel):
    """Rules that no schema can express."""

    start: int
    end: int

    @field_validator("start")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Checked:
        if self.end < self.start:
            raise ValueError("end must not be before start")
        return self


class Area(BaseModel):
    """A computed field."""

    width: int
    height: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def size(self) -> int:
        """The area."""
        return self.width * self.height


class Place(NamedTuple):
    """A place."""

    name: str
    altitude: int


class Nested(BaseModel):
    """Other kinds of classes within a model."""

    place: Place
    address: ipaddress.IPv4Address
    path: pathlib.Path
    secret: SecretStr


@dataclass
class Address:
    """An address."""

    street: str
    built: datetime.date


@dataclass
class Company:
    """A company."""

    name: str
    addresses: list[Address] = field(default_factory=list)


class Trip(TypedDict):
    """A trip."""

    to: str
    days: int
    note: NotRequired[str]


class OldModel(pydantic.v1.BaseModel):
    """A model of pydantic 1."""

    day: datetime.date
    color: Color
    count: int = pydantic.v1.Field(ge=0)


def _deep(levels: int) -> Any:
    model: Any = create_model("Level0", end=(bool, ...))
    for level in range(1, levels):
        model = create_model(f"Level{level}", inner=(model, ...))
    return model


def _deep_value(levels: int) -> Any:
    value: Any = {"end": True}
    for _ in range(1, levels):
        value = {"inner": value}
    return value


_MANY: dict[str, Any] = {f"field_{number}": (int, ...) for number in range(200)}
_JSON_SCHEMA = {
    "title": "Part",
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^p[0-9]+$"},
        "size": {"type": "number", "exclusiveMinimum": 0, "maximum": 10},
        "unit": {"const": "mm"},
        "pair": {
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
            "minItems": 2,
            "items": False,
        },
    },
    "required": ["id", "size", "unit"],
    "additionalProperties": False,
}


class Shape(NamedTuple):
    """A schema, and what a model may answer.

    Attributes:
        schema: As users give it to the integration.
        value: A valid answer, as JSON values.
        misfit: An answer that is not valid.
        complaint: Words of the validator's error.
        expected: The user's object; None: what pydantic makes of `value`.
    """

    schema: Any
    value: Any
    misfit: Any
    complaint: str
    expected: Any = None

    @property
    def result(self) -> Any:
        """The user's object."""
        return (
            TypeAdapter(self.schema).validate_json(json.dumps(self.value)) if self.expected is None else self.expected
        )

    @property
    def is_model(self) -> bool:
        """Whether the schema is a class of pydantic, which LlamaIndex requires."""
        return isinstance(self.schema, type) and issubclass(self.schema, BaseModel)


_STRICT = {
    "day": "2026-11-29",
    "color": "red",
    "pair": [1, "a"],
    "tags": ["a", "b"],
    "key": "12345678-1234-5678-1234-567812345678",
    "price": "19.99",
    "none": None,
}
_TREE = {"name": "a", "children": [{"name": "b", "children": [{"name": "c", "children": []}]}]}
_TIMES = {"day": "2026-11-29", "at": "2026-11-29T09:01:48Z", "clock": "09:01:48", "lasting": "PT1H30M"}
_PLACES = {"place": ["Leh", 3500], "address": "10.0.0.1", "path": "/tmp/a", "secret": "s"}
_LIMITS = {"share": 0.5, "even": 4, "code": "ABC", "name": "Ada", "marks": [1, 2]}
_PART = {"id": "p1", "size": 2.5, "unit": "mm", "pair": [1, "a"]}

SHAPES: dict[str, Shape] = {
    "simple": Shape(Point, {"x": 1, "y": 2}, {"x": "one"}, "x: Input should be a valid integer"),
    "default": Shape(Point, {"x": 1}, {"y": 1}, "x: Field required"),
    "optional": Shape(
        create_model("Optional", a=(int | None, None), b=(str | None, ...)), {"a": None, "b": "x"}, {"a": 1}, "b: Field"
    ),
    "one literal": Shape(
        create_model("One", color=(Literal["red"], ...)), {"color": "red"}, {"color": "green"}, "'red'"
    ),
    "literals": Shape(
        create_model("Some", color=(Literal["red", 2, None], ...)), {"color": None}, {"color": "blue"}, "color: Input"
    ),
    "enum": Shape(create_model("Colored", color=(Color, ...)), {"color": "red"}, {"color": "blue"}, "'red' or 'green'"),
    "int enum": Shape(
        create_model("Leveled", level=(Level, ...)), {"level": 2}, {"level": 3}, "level: Input should be 1"
    ),
    "times": Shape(Times, _TIMES, {**_TIMES, "day": "tomorrow"}, "day: Input should be a valid date"),
    "uuid": Shape(
        create_model("Keyed", key=(uuid.UUID, ...)),
        {"key": _STRICT["key"]},
        {"key": "1"},
        "key: Input should be a valid UUID",
    ),
    "decimal": Shape(
        create_model("Priced", price=(Decimal, ...)), {"price": "19.99"}, {"price": "much"}, "price: Input"
    ),
    "tuple": Shape(
        create_model("Pair", pair=(tuple[int, str], ...)), {"pair": [1, "a"]}, {"pair": [1]}, "pair.1: Field required"
    ),
    "open tuple": Shape(
        create_model("Row", row=(tuple[int, ...], ...)), {"row": [1, 2]}, {"row": ["a"]}, "row.0: Input"
    ),
    "set": Shape(create_model("Tags", tags=(set[str], ...)), {"tags": ["a", "b"]}, {"tags": [1]}, "tags.0: Input"),
    "frozen set": Shape(
        create_model("Ids", ids=(frozenset[int], ...)), {"ids": [1, 2]}, {"ids": ["a"]}, "ids.0: Input"
    ),
    "url": Shape(
        create_model("Link", link=(HttpUrl, ...)), {"link": "https://e2e.example/a"}, {"link": "nowhere"}, "link: Input"
    ),
    "bytes": Shape(
        create_model("Raw", raw=(bytes, ...)), {"raw": "abc"}, {"raw": 1}, "raw: Input should be a valid bytes"
    ),
    "strict": Shape(Strict, _STRICT, {**_STRICT, "color": "blue"}, "color: Input should be"),
    "limits": Shape(Limits, _LIMITS, {**_LIMITS, "share": 1.5}, "share: Input should be less than or equal to 1"),
    "pattern": Shape(Limits, _LIMITS, {**_LIMITS, "code": "abc"}, "code: String should match pattern"),
    "lengths": Shape(Limits, _LIMITS, {**_LIMITS, "marks": []}, "marks: List should have at least 1 item"),
    "multiples": Shape(Limits, _LIMITS, {**_LIMITS, "even": 3}, "even: Input should be a multiple of 2"),
    "mappings": Shape(
        Mappings,
        {"counts": {"a": 1}, "by_color": {"red": 2}, "anything": {"x": [None, {"y": 1.5}]}},
        {"counts": {"a": "b"}, "by_color": {"red": 2}, "anything": {}},
        "counts.a: Input should be a valid integer",
    ),
    "enum keys": Shape(
        create_model("Counts", counts=(dict[Color, int], ...)),
        {"counts": {"red": 1}},
        {"counts": {"blue": 1}},
        "counts.blue",
    ),
    "union": Shape(
        create_model("Either", value=(int | str | list[int], ...)), {"value": [1]}, {"value": {}}, "value.int"
    ),
    "union of models": Shape(
        create_model("Pet", pet=(Cat | Dog, ...)),
        {"pet": {"kind": "dog", "tricks": ["sit"]}},
        {"pet": {"kind": "cow"}},
        "pet.Cat.kind: Input should be 'cat'",
    ),
    "discriminated": Shape(
        Pets,
        {"pets": [{"kind": "cat", "lives": 9}, {"kind": "dog", "tricks": []}]},
        {"pets": [{"kind": "cow"}]},
        "pets.0: Input tag 'cow'",
    ),
    "recursive": Shape(Node, _TREE, {"name": "a", "children": [{}]}, "children.0.name: Field required"),
    "mutually recursive": Shape(
        Question,
        {"text": "?", "answers": [{"text": "!", "questions": [{"text": "??", "answers": []}]}]},
        {"text": "?", "answers": [1]},
        "answers.0: Input should be",
    ),
    "generic": Shape(
        Page[Point], {"items": [{"x": 1, "y": 0}], "next": None}, {"items": [1]}, "items.0: Input should be"
    ),
    "aliases": Shape(Aliases, {"fullName": "Ada", "badge-no": 7}, {"fullName": "Ada"}, "badge-no: Field required"),
    "unicode keys": Shape(Unicode, {"नाम": "आशा", "größe": 1.5}, {"नाम": "आशा"}, "größe: Field required"),
    "no extras": Shape(Closed, {"name": "a"}, {"name": "a", "age": 1}, "age: Extra inputs are not permitted"),
    "validator": Shape(Checked, {"start": 2, "end": 4}, {"start": 1, "end": 4}, "start: must be even"),
    "model validator": Shape(Checked, {"start": 4, "end": 6}, {"start": 4, "end": 2}, "end must not be before start"),
    "computed field": Shape(Area, {"width": 2, "height": 3}, {"width": 2}, "height: Field required"),
    "other classes": Shape(Nested, _PLACES, {**_PLACES, "address": "home"}, "address: Input is not a valid IPv4"),
    "25 deep": Shape(_deep(25), _deep_value(25), {"inner": {}}, "inner.inner: Field required"),
    "200 fields": Shape(
        create_model("Many", **_MANY),
        dict.fromkeys(_MANY, 1),
        {**dict.fromkeys(_MANY, 1), "field_7": "x"},
        "field_7: Input",
    ),
    "nothing": Shape(create_model("Nothing", __doc__="Nothing is required."), {}, [1], "object"),
    "root list": Shape(RootModel[list[int]], [1, 2, 3], [1, "b"], "1: Input should be a valid integer"),
    "root list of one": Shape(RootModel[list[Point]], [{"x": 1, "y": 2}], {"x": 1}, "Input should be a valid array"),
    "root dict": Shape(RootModel[dict[str, int]], {"a": 1, "b": 2}, {"a": "b"}, "a: Input should be a valid integer"),
    "root union": Shape(
        RootModel[Cat | Dog], {"kind": "cat", "lives": 9}, {"kind": "cow"}, "Cat.kind: Input should be 'cat'"
    ),
    "root discriminated": Shape(
        RootModel[Annotated[Cat | Dog, Field(discriminator="kind")]],
        {"kind": "dog", "tricks": ["sit"]},
        {"kind": "cow"},
        "Input tag 'cow' found using 'kind'",
    ),
    "root enum": Shape(RootModel[Color], "green", "blue", "Input should be 'red' or 'green'"),
    "root number": Shape(RootModel[int], 7, "seven", "Input should be a valid integer"),
    "root limits": Shape(
        RootModel[Annotated[float, Field(ge=0, le=1)]], 0.25, 2, "Input should be less than or equal to 1"
    ),
    "list": Shape(list[int], [1, 2], ["a"], "0: Input should be a valid integer"),
    "list of models": Shape(list[Point], [{"x": 1, "y": 0}], {"x": 1}, "Input should be a valid array"),
    "dict": Shape(dict[str, int], {"a": 1}, {"a": "b"}, "a: Input should be a valid integer"),
    "enum class": Shape(Color, "red", "blue", "Input should be 'red' or 'green'"),
    "number": Shape(int, 5, "five", "Input should be a valid integer"),
    "union of types": Shape(Cat | Dog, {"kind": "cat", "lives": 1}, {"kind": "cow"}, "Cat.kind: Input should be 'cat'"),
    "dataclass": Shape(
        Company,
        {"name": "E2E", "addresses": [{"street": "A", "built": "2026-11-29"}]},
        {"name": "E2E", "addresses": [{"street": "A", "built": "new"}]},
        "addresses.0.built: Input should be a valid date",
    ),
    "typed dict": Shape(
        Trip, {"to": "Leh", "days": 3}, {"to": "Leh", "days": "3"}, "days: Input should be a valid integer"
    ),
    "old model": Shape(
        OldModel,
        {"day": "2026-11-29", "color": "red", "count": 1},
        {"day": "2026-11-29", "color": "red", "count": -1},
        "ensure this value is greater than or equal to 0",
        OldModel(day=datetime.date(2026, 11, 29), color=Color.RED, count=1),
    ),
    "json schema": Shape(_JSON_SCHEMA, _PART, {**_PART, "size": 0}, "/size is not greater than 0", _PART),
    "json schema extras": Shape(_JSON_SCHEMA, _PART, {**_PART, "x": 1}, "it must not have the key 'x'", _PART),
    "json schema pair": Shape(_JSON_SCHEMA, _PART, {**_PART, "pair": [1, 2]}, "/pair/1 is not of type string", _PART),
    "json schema list": Shape(
        {"title": "Names", "type": "array", "items": {"type": "string"}, "maxItems": 2},
        ["a"],
        ["a", "b", "c"],
        "it has more than 2 items",
        ["a"],
    ),
}
"""By name. LangChain takes all of them; LlamaIndex those with `is_model`."""
