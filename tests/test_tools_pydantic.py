"""Tools with parameters and results that are models of pydantic."""

from __future__ import annotations

import pytest

pytest.importorskip("pydantic")

from typing import Any, Literal

from msgspec import Struct
from pydantic import BaseModel

from gradient_async import ToolArgumentsError, ToolContext, tool
from gradient_async.tools import result_text


class Order(BaseModel):
    number: int
    tags: list[str] = []


class Other(Struct):
    a: int


DEFAULT = Order(number=1)


def place(order: Order, copy: int | None = 3, more: Order = DEFAULT, way: Literal["air"] = "air") -> str:  # noqa: D417  # some are not described
    """Place an order.

    Args:
        order: What to buy.
    """
    return f"{order.number} {copy} {more.number} {way}"


def mixed(order: Order, other: Other) -> None: ...


def with_context(ctx: ToolContext, order: Order) -> None: ...


def test_parameters() -> None:
    """Pydantic describes them all; all schemas of tools are closed."""
    made = tool(place)
    parameters = made.parameters
    assert (["order"], False) == (parameters["required"], parameters["additionalProperties"])
    assert {"$ref": "#/$defs/Order", "description": "What to buy."} == parameters["properties"]["order"]
    assert {"number": 1, "tags": []} == parameters["properties"]["more"]["default"]
    strict = tool(place, strict=True).parameters
    assert (["order", "copy", "more", "way"], ["number", "tags"]) == (
        strict["required"],
        strict["$defs"]["Order"]["required"],
    )
    assert {"order"} == tool(with_context).parameters["properties"].keys()


def test_arguments() -> None:
    made = tool(place)
    arguments = made.arguments('{"order":{"number":2.0}}')
    assert {"order": Order(number=2), "copy": 3, "more": DEFAULT, "way": "air"} == arguments
    assert arguments["more"] is DEFAULT
    assert "2 3 1 air" == made(**arguments)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"order":{"number":"x"}}', "unable to parse string as an integer - at $.order.number"),
        ("{}", "Field required - at $.order"),
        ('{"order":{"number":1},"z":1}', "Extra inputs are not permitted - at $.z"),
        ("", "Field required - at $.order"),
    ],
)
def test_message_for_the_model(text: str, problem: str) -> None:
    with pytest.raises(ToolArgumentsError) as raised:
        tool(place).arguments(text)
    listed = 'Parameters: order (object, required), copy (integer | null), more (object), way ("air")'
    assert str(raised.value).endswith(f"{problem}. {listed}")


def test_models_and_structs_do_not_mix() -> None:
    with pytest.raises(TypeError, match=r"mixed: .*use models of pydantic throughout"):
        tool(mixed)


@pytest.mark.parametrize(
    ("result", "text"),
    [(DEFAULT, '{"number":1,"tags":[]}'), ([DEFAULT, None], '[{"number":1,"tags":[]},null]')],
)
def test_results(result: Any, text: str) -> None:
    """Models are converted by pydantic."""
    assert text == result_text(result)
