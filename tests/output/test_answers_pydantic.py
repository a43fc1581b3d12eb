"""Answers whose type is a model of pydantic, alone or inside lists, dictionaries, tuples and unions."""

from __future__ import annotations

import datetime as dt
import gc
import sys
import weakref
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar

import msgspec
import pytest

pytest.importorskip("pydantic")

from answer_types import Line
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    dataclasses,
    field_validator,
)
from test_answer_types import check

from gradient_async import Answer, InvalidRequestError, OutputDecodeError, OutputValidationError

T = TypeVar("T")


class Size(Enum):
    S = "s"
    L = "l"


class Item(BaseModel):
    """One thing to buy."""

    name: str = Field(min_length=1, description="What it is.")
    size: Size = Size.S
    kind: Literal["a"] = "a"
    at: dt.date | None = None


class Order(BaseModel):
    items: list[Item]
    note: str = ""


class Pet(BaseModel):
    pet: Literal["pet"]
    age: int


class Car(BaseModel):
    pet: Literal["car"]
    doors: int


class Owner(BaseModel):
    thing: Pet | Car = Field(discriminator="pet")


class Branch(BaseModel):
    below: list[Branch] = []


class Box(BaseModel, Generic[T]):
    content: T


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    count: int


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Positive(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def check(cls, n: int) -> int:
        if n < 0:
            raise ValueError("n is negative")
        return n


class Broken(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def check(cls, n: int) -> int:
        raise KeyError(n)


@dataclasses.dataclass
class Even:
    """A dataclass of pydantic, with a validator."""

    n: int = Field(ge=0)

    @field_validator("n")
    @classmethod
    def check(cls, n: int) -> int:
        if n % 2:
            raise ValueError("n is odd")
        return n


@dataclasses.dataclass
class Wrapper(Generic[T]):
    inner: T


class Holding(msgspec.Struct):
    """Nothing in it looks strange to msgspec."""

    below: list[Wrapper[int]]


Alias = NewType("Alias", Item)


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    unit_price: int = Field(alias="unitPrice")
    other: int = Field(0, validation_alias=AliasChoices("b", "c"), serialization_alias="b")


class Numbers(RootModel[list[int]]):
    pass


class Mixed(msgspec.Struct):
    order: Order


ITEM = Item(name="n")
TYPES: list[tuple[Any, Any]] = [
    (Item, ITEM),
    (Order, Order(items=[ITEM])),
    (Owner, Owner(thing=Car(pet="car", doors=2))),
    (Branch, Branch(below=[Branch()])),
    (Box[int], Box[int](content=1)),
    (Box[Item], Box[Item](content=ITEM)),
    (Extra, Extra(a=1)),
    (Numbers, Numbers([1])),
    (list[Item], [ITEM]),
    (Aliased, Aliased.model_validate({"unitPrice": 3})),
    (Even, Even(2)),
    (list[Even], [Even(2)]),
    (Wrapper[Item], Wrapper[Item](ITEM)),
    (Alias, Alias(ITEM)),
    (dict[str, Item], {"a": ITEM}),
    (tuple[Item, int], (ITEM, 1)),
    (Item | Order, Order(items=[])),
    (Item | None, None),
    (Annotated[Pet | Car, Field(discriminator="pet")], Pet(pet="pet", age=1)),
]


def dump(value: Any) -> Any:
    if not isinstance(value, BaseModel):
        kind: Any = value.__class__
        return TypeAdapter[Any](kind).dump_python(value, mode="json")
    return value.model_dump(mode="json", by_alias=True)


@pytest.mark.parametrize(("type_", "value"), TYPES, ids=[str(type_) for type_, _ in TYPES])
def test_schema_and_value_agree(type_: Any, value: Any) -> None:
    check(type_, value, msgspec.json.encode(value, enc_hook=dump))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no statement `type` before Python 3.12")
def test_the_statement_type() -> None:
    scope: dict[str, Any] = {"Item": Item}
    exec("type Items = list[Item]\ntype Maybe[T] = T | None\ntype Nest = list[Nest] | Item", scope)  # noqa: S102
    text = '{"value":[{"name":"n"}]}'
    assert [ITEM] == Answer(scope["Items"]).decode(text) == Answer(scope["Nest"]).decode(text)
    assert ITEM == Answer(scope["Maybe"][Item]).decode('{"value":{"name":"n"}}')


def test_the_model_describes_itself() -> None:
    """Without the strict form, the schema is that of pydantic."""
    answer = Answer(Order, strict=False)
    assert Order.model_json_schema() == answer.schema
    assert ("Order", False) == (answer.name, answer.strict)
    assert "Box_int" == Answer(Box[int]).name
    assert {"kind": {"type": "string", "enum": ["a"]}}.items() <= Answer(Item).schema["properties"].items()


@pytest.mark.parametrize(
    ("type_", "text", "path", "problem"),
    [
        (Order, '{"items":[{"name":"n"},{"name":5}]}', "$.items[1].name", "valid string"),
        (Order, '{"items":[{}]}', "$.items[0].name", "Field required"),
        (Order, "[]", "$", "should be an object"),
        (list[Item], '{"value":[{"name":"n","size":"x"}]}', "$[0].size", "'s' or 'l'"),
        (Item | Order, '{"value":{"items":[{"name":5}]}}', "$.name", "Field required"),
        (Owner, '{"thing":{"pet":"car","doors":"x"}}', "$.thing.doors", "valid integer"),
        (dict[int, Item], '{"3":{"name":5}}', "$.3.name", "valid string"),
        (Strict, '{"count":"2"}', "$.count", "valid integer"),
        (Strict, '{"count":2,"z":1}', "$.z", "not permitted"),
        (Positive, '{"n":-1}', "$.n", "n is negative"),
        (Broken, '{"n":1}', "$", "KeyError: 1"),
        (Even, '{"n":3}', "$.n", "n is odd"),
        (list[Even], '{"value":[{"n":-2}]}', "$[0].n", "greater than or equal to 0"),
        (Aliased, "{}", "$.unitPrice", "Field required"),
    ],
)
def test_path_of_a_fault(type_: Any, text: str, path: str, problem: str) -> None:
    """The location of pydantic is translated: without names of alternatives and validators."""
    with pytest.raises(OutputValidationError, match=problem) as raised:
        Answer(type_).decode(text)
    assert (path, text) == (raised.value.path, raised.value.text)


def test_models_decide_whether_a_string_is_a_number() -> None:
    assert Positive(n=3) == Answer(Positive).decode('{"n":"3"}')
    with pytest.raises(OutputValidationError):
        Answer(Strict).decode('{"count":"3"}')


def test_whole_floats_are_integers() -> None:
    assert Strict(count=2) == Answer(Strict).decode('{"count": 2.0}')


@pytest.mark.parametrize("text", ["{'name'", '{"name": NaN}', '{"name": "a",}'])
def test_no_json(text: str) -> None:
    """Neither is what pydantic takes besides."""
    with pytest.raises(OutputDecodeError):
        Answer(Item).decode(text)


def test_half_of_a_surrogate_pair() -> None:
    assert Item(name="a\ufffd") == Answer(Item).decode('{"name":"a\\ud83d"}')


def test_models_and_structs_do_not_mix() -> None:
    """A model as a field of a Struct is refused, with the path and the cure; so is a Struct beside a model."""
    for type_, place in (
        (Mixed, "$.order: Order"),
        (list[Mixed], "$[...].order: Order"),
        (Holding, "$.below[...]: Wrapper"),
    ):
        with pytest.raises(InvalidRequestError, match="one of the two throughout") as refused:
            Answer(type_)
        assert f"at {place}" in str(refused.value)
    with pytest.raises(InvalidRequestError, match="use models of pydantic throughout"):
        Answer(list[Order | Line])


def test_models_are_freed() -> None:
    """The codec of a model is freed with the model."""

    class Local(BaseModel):
        a: int

    assert Answer(list[Local]).schema is Answer(list[Local]).schema
    local = weakref.ref(Local)
    del Local
    gc.collect()
    assert local() is None


def test_without_pydantic(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not loaded is not used: a model is then a class like others."""

    class Local(BaseModel):
        a: int

    monkeypatch.delitem(sys.modules, "pydantic.main")
    with pytest.raises(InvalidRequestError, match="a class without declared fields"):
        Answer(list[Local])
