"""Types of answers, with values: those of `test_answer_types.py`, and classes that several tests use."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
    TypeVar,
)

import attrs
from msgspec import Meta, Struct

T = TypeVar("T")


class Line(Struct):
    """One line of an invoice."""

    price: float
    count: int = 1


class Invoice(Struct):
    """What a customer has to pay."""

    number: str
    lines: list[Line]
    paid: bool = False


class Closed(Struct, forbid_unknown_fields=True):
    a: int


class Cat(Struct, tag=True):
    lives: Annotated[int, Meta(ge=0, le=9, description="How many are left.")]


class Dog(Struct, tag=True):
    tricks: list[str] = []


class Tree(Struct):
    value: int
    children: list[Tree] = []


class Row(Struct, array_like=True):
    a: int
    b: str


class Page(Struct, Generic[T]):
    items: list[T]
    following: int | None = None


class Renamed(Struct, rename="camel"):
    unit_price: float


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Text(Struct):
    """Every keyword that is left out."""

    code: Annotated[str, Meta(min_length=2, max_length=4, pattern="^[a-z]+$", title="Code", examples=["ab"])]
    tags: Annotated[set[str], Meta(max_length=3)]
    raw: bytes
    price: Decimal
    at: Annotated[dt.datetime, Meta(tz=True)]
    mail: Annotated[str, Meta(extra_json_schema={"format": "email"})]


@dataclass
class Point:
    x: int
    y: int = 0
    names: list[str] = field(default_factory=list)


@dataclass
class Pair(Generic[T]):
    first: T
    second: T


class Movie(TypedDict):
    title: str
    about: str
    default: int


class Partly(TypedDict, total=False):
    zed: Required[int]
    abe: NotRequired[str]


class Node(TypedDict):
    value: int
    below: list[Node]


class Place(NamedTuple):
    name: str
    rank: int = 1


@attrs.define
class Person:
    name: str
    age: int = 3


Name = NewType("Name", str)

TYPES: list[tuple[Any, Any]] = [
    (Invoice, Invoice("a", [Line(2.5), Line(1.0, 3)])),
    (Closed, Closed(1)),
    (Cat, Cat(9)),
    (Cat | Dog, Dog(["sit"])),
    (Cat | Dog | None, None),
    (Tree, Tree(1, [Tree(2), Tree(3, [Tree(4)])])),
    (Row, Row(1, "b")),
    (Page[int], Page([1, 2])),
    (Page[Invoice], Page([Invoice("a", [])], 7)),
    (Page[Page[Cat]], Page([Page([Cat(1)])])),
    (Renamed, Renamed(1.5)),
    (Text, Text("ab", {"x"}, b"raw", Decimal("1.50"), dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "a@b.test")),
    (Point, Point(1, 2, ["n"])),
    (Pair[str], Pair("a", "b")),
    (Movie, {"title": "t", "about": "a", "default": 1}),
    (Partly, {"zed": 1, "abe": "b"}),
    (Node, {"value": 1, "below": [{"value": 2, "below": []}]}),
    (Place, Place("p", 2)),
    (Person, Person("n")),
    (list[Person], [Person("n", 4)]),
    (list[Invoice], [Invoice("a", [])]),
    (list[Cat | Dog], [Cat(1), Dog()]),
    (tuple[int, str], (1, "b")),
    (tuple[Line, ...], (Line(1.0),)),
    (dict[str, Invoice], {"a": Invoice("a", [])}),
    (dict[str, int], {"a": 1}),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (Sequence[int], [1]),
    (Mapping[str, float], {"a": 1.5}),
    (Literal["a", "b"], "b"),
    (Literal["a", 1, None], None),  # noqa: PYI061  # a Literal of several kinds
    (Colour, Colour.RED),
    (Level, Level.HIGH),
    (int, 3),
    (float, 1.5),
    (str, "s"),
    (bool, True),
    (int | str | None, "x"),
    (Annotated[int, Meta(ge=1, multiple_of=2)], 4),
    (Name, "n"),
    (dt.date, dt.date(2026, 1, 2)),
    (dt.datetime, dt.datetime(2026, 1, 2)),  # noqa: DTZ001  # a time without a zone is meant
    (dt.timedelta, dt.timedelta(hours=1)),
    (uuid.UUID, uuid.UUID(int=1)),
    (Decimal, Decimal("1.5")),
    (bytes, b"raw"),
    (Any, {"a": [1, None]}),
]
"""Types, each with a value."""
