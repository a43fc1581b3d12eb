"""Functions for `test_tools.py`, whose annotations are texts."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from msgspec import Meta, Struct

from gradient_async import ToolContext, tool

if TYPE_CHECKING:
    from fractions import Fraction

F = TypeVar("F", bound=Callable[..., Any])


class Unit(Enum):
    C = "C"
    F = "F"


class Word(str, Enum):  # noqa: UP042  # its `str` is its name
    YES = "yes"


class Point(Struct):
    x: int
    y: int = 0


class Bare:
    """A class without fields."""


@tool
async def get_weather(city: str, unit: Literal["C", "F"] = "C") -> str:
    """Tell the weather of a city."""
    return f"{city}: 20 {unit}"


def described(  # noqa: D417  # some are not described
    city: Annotated[str, Meta(description="From the annotation.")],
    days: int,
    points: list[Point],
    when: dt.date | None = None,
    unit: Unit = Unit.C,
) -> None:
    """Tell the weather
    in two lines.

    More words, which the model does not see.

    Args:
        city: From the docstring.
        days (int, optional): How many days,
            at most ten: or so.
        points (list[tuple[int, int]]): Where.
        nothing: There is no such parameter.
        when:

    Returns:
        days: Nothing.
    """  # noqa: D205  # the first paragraph has two lines


def only_args(city: str) -> None:
    """
    Args:
        city: The city.
    """  # noqa: D205  # no description


def spaced() -> None:
    """One line.
    \t
    Another paragraph, behind a line of white space.
    """  # noqa: D205, D301  # the white space is the point


LIST: list[int] = [1]
SENTINEL = object()


def defaults(
    numbers: list[int] = LIST,
    empty: list[int] = [],  # noqa: B006  # the same object each time
    other: int = SENTINEL,  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
    rate: float = float("nan"),
    nothing: int | None = None,
    point: Point = Point(1),  # noqa: B008  # the same object each time
) -> tuple[Any, ...]:
    return numbers, empty, other, rate, nothing, point


def in_context(ctx: ToolContext, city: str, again: Annotated[ToolContext | Any, 1] = None) -> str:
    return f"{ctx.turn} {city} {again}"


def context_or_none(city: str, ctx: Annotated[ToolContext | None, "the run"] = None) -> tuple[Any, str]:
    return ctx and ctx.turn, city


def annotated_context(*, ctx: Annotated[ToolContext, "the run"], city: str) -> tuple[int, str]:
    return ctx.turn, city


def elsewhere(city: str) -> Fraction:  # the result has a type for checkers only
    raise NotImplementedError


def logged(function: F) -> F:
    """Wrap a function."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return f"logged {function(*args, **kwargs)}"

    return wrapper  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def plain(city: str) -> str:
    """Return the city."""
    return city


class Service:
    def __init__(self, name: str) -> None:
        self.name = name

    async def look_up(self, key: str, limit: int = 3) -> str:
        """Look up a key."""
        return f"{self.name} {key} {limit}"

    @classmethod
    def of_class(cls, a: int) -> str:
        return f"{cls.__name__} {a}"

    @staticmethod
    def static(a: int) -> int:
        return a

    def __call__(self, word: str) -> str:
        """Say a word."""
        return word


def nothing() -> None: ...
def anything(value: Any, items: list[Any], one: Literal[1]) -> None: ...
def positional(a: int, /, b: int) -> None: ...
def variadic(*values: int) -> None: ...
def keywords(**values: int) -> None: ...
def bare(a, b: int): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
def no_schema(a: int, b: list[Bare]) -> None: ...
def checkers_only(number: Fraction) -> None: ...
def wrong(a: Annotated[int, Meta(min_length=3)]) -> None: ...
def open_object(a: int, extra: dict[str, int]) -> None: ...
def generator(a: int) -> Iterator[int]:
    yield a


async def async_generator(a: int) -> AsyncIterator[int]:
    yield a
