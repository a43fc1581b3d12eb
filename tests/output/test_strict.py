"""The strict form of schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from answer_types import Line, Movie, Node, Person, Place, Point, Row, Text, Tree
from msgspec import Struct, defstruct

from gradient_async import Answer, InvalidRequestError, OutputValidationError
from gradient_async.output.strict import NoSchemaError, references, strict_form


class Documented(Struct):
    """A class with words."""

    a: Tree
    b: Tree | None = None


def nested(levels: int) -> Any:
    """Make a Struct in which so many objects are inside each other."""
    made: Any = int
    for level in range(levels):
        made = defstruct(f"Level{level}", [("inner", list[made])], module=__name__)
    return made


def root(**schema: Any) -> dict[str, Any]:
    """Return a schema with one property."""
    return {"type": "object", "properties": {"a": schema}}


@pytest.mark.parametrize(
    ("schema", "form"),
    [
        ({"const": 3}, {"type": "integer", "enum": [3]}),
        ({"const": "x", "type": "string"}, {"enum": ["x"], "type": "string"}),
        ({"enum": ["x", "y"], "title": "T", "default": "x"}, {"type": "string", "enum": ["x", "y"]}),
        ({"enum": [True]}, {"type": "boolean", "enum": [True]}),
        ({"enum": ["x", None]}, {"enum": ["x", None]}),
        ({"enum": [1.5]}, {"enum": [1.5]}),
        (
            {"oneOf": [{"type": "integer"}, {"type": "null"}], "discriminator": {}},
            {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        ),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"type": "string", "format": "decimal", "contentEncoding": "base64"}, {"type": "string"}),
        (
            {"type": "string", "minLength": 1, "maxLength": 2, "pattern": "a"},
            {"type": "string", "pattern": "a"},
        ),
        ({"type": "number", "minimum": 1, "x-mine": 2}, {"type": "number", "minimum": 1}),
        ({"type": ["string", "null"], "examples": ["a"]}, {"type": ["string", "null"]}),
        (
            {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 1},
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
        ),
        (
            {
                "type": "object",
                "properties": {"title": {"type": "string"}},
                "minProperties": 1,
                "maxProperties": 3,
            },
            {
                "type": "object",
                "properties": {"title": {"type": "string"}},
                "required": ["title"],
                "additionalProperties": False,
            },
        ),
    ],
)
def test_transformation(schema: dict[str, Any], form: dict[str, Any]) -> None:
    """What servers do not enforce is left out; names of properties are no keywords."""
    made = strict_form(root(**schema))
    assert {
        "type": "object",
        "properties": {"a": form},
        "required": ["a"],
        "additionalProperties": False,
    } == made


@pytest.mark.parametrize(
    ("schema", "path", "problem"),
    [
        ({}, "$.a", "a value of any type"),
        ({"description": "x"}, "$.a", "a value of any type"),
        ({"type": "array"}, "$.a[...]", "a value of any type"),
        ({"type": "array", "items": True}, "$.a[...]", "a value of any type"),
        ({"type": "array", "items": {}}, "$.a[...]", "a value of any type"),
        ({"type": "array", "prefixItems": []}, "$.a", "an array with a type for each item"),
        ({"type": "object"}, "$.a", "an object with any keys"),
        ({"type": ["object", "null"]}, "$.a", "an object with any keys"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "$.a", "an object with any keys"),
        (
            {"type": "object", "properties": {}, "additionalProperties": True},
            "$.a",
            "an object with any keys",
        ),
        ({"anyOf": [{"type": "string"}, {"type": "object"}]}, "$.a", "an object with any keys"),
        ({"allOf": [{"type": "string"}]}, "$.a", "the keyword allOf"),
        ({"not": {"type": "string"}}, "$.a", "the keyword not"),
        ({"if": {}, "type": "string"}, "$.a", "the keyword if"),
        ({"type": "array", "items": {"type": "string", "not": {}}}, "$.a[...]", "the keyword not"),
        ({"$ref": "#/$defs/Open"}, "$.a", "an object with any keys"),
    ],
)
def test_what_cannot_be_said(schema: dict[str, Any], path: str, problem: str) -> None:
    with pytest.raises(NoSchemaError, match=problem) as refused:
        strict_form({**root(**schema), "$defs": {"Open": {"type": "object"}}})
    assert path == refused.value.path


def test_definitions() -> None:
    """The root stands for itself; siblings of a reference stay only if they are a description."""
    answer = Answer(Documented)
    schema = answer.schema
    assert ["type", "properties", "required", "additionalProperties", "description", "$defs"].sort() == list(
        schema
    ).sort()
    assert ("A class with words.", {"Tree"}) == (schema["description"], schema["$defs"].keys())
    assert {"$ref": "#/$defs/Tree"} == schema["properties"]["a"]
    sibling = root(**{"$ref": "#/$defs/A", "description": "d", "default": 3, "title": "t"})
    form = strict_form({**sibling, "$defs": {"A": {"type": "string", "title": "A"}}})
    assert {"$ref": "#/$defs/A", "description": "d"} == form["properties"]["a"]
    assert {"A": {"type": "string"}} == form["$defs"]


def test_recursion() -> None:
    """The definition of the root stays if something refers to it."""
    for strict in (True, False):
        schema = Answer(Tree, strict=strict).schema
        assert ("object", {"Tree"}) == (schema["type"], schema["$defs"].keys())
        assert "$ref" not in schema
    wrapped = Answer(list[Node]).schema
    assert {"type": "array", "items": {"$ref": "#/$defs/Node"}} == wrapped["properties"]["value"]


def test_ten_levels() -> None:
    assert (True, False) == (Answer(nested(10)).strict, Answer(nested(11)).strict)
    with pytest.raises(NoSchemaError, match="deeper than 10 levels"):
        strict_form(Answer(nested(11)).schema)
    assert Answer(list[nested(9)]).strict  # type: ignore[misc]
    assert not Answer(list[nested(10)]).strict  # type: ignore[misc]


def test_five_thousand_properties() -> None:
    """All definitions count together."""
    inner = {"type": "object", "properties": {f"a{number}": {"type": "string"} for number in range(2500)}}
    for count in (2499, 2500):
        properties = {f"b{number}": {"type": "string"} for number in range(count)}
        schema = {"type": "object", "properties": {**properties, "inner": {"$ref": "#/$defs/Inner"}}}
        if count == 2499:
            assert strict_form({**schema, "$defs": {"Inner": inner}})
        else:
            with pytest.raises(NoSchemaError, match="more than 5000 properties"):
                strict_form({**schema, "$defs": {"Inner": inner}})


def test_everything_left_out_is_checked_later() -> None:
    schema = Answer(Text).schema
    assert {"type": "string", "pattern": "^[a-z]+$"} == schema["properties"]["code"]
    assert {"type": "array", "items": {"type": "string"}, "maxItems": 3} == schema["properties"]["tags"]
    assert {"type": "string"} == schema["properties"]["raw"] == schema["properties"]["price"]
    assert {"type": "string", "format": "email"} == schema["properties"]["mail"]
    assert {"type": "string", "format": "date-time"} == schema["properties"]["at"]


def test_references() -> None:
    """A property of the name of a keyword is no reference."""
    assert {"#/$defs/A"} == references(
        [{"items": {"$ref": "#/$defs/A"}}, {"properties": {"$ref": {"type": "string"}}}]
    )


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        (dict[str, int], "an object with any keys"),
        (Mapping[str, int], "an object with any keys"),
        (dict, "an object with any keys"),
        (Any, "a value of any type"),
        (list, "a value of any type"),
        (tuple[int, str], "an array with a type for each item"),
        (Place, "an array with a type for each item"),
        (Row, "an array with a type for each item"),
    ],
)
def test_types_that_cannot_be_said(type_: Any, reason: str) -> None:
    """Open objects, values of any type, tuples, NamedTuples and Structs like arrays: not strict by default."""
    assert not Answer(type_).strict
    with pytest.raises(InvalidRequestError, match=reason):
        Answer(type_, strict=True)
    assert Answer(type_, strict=False).schema == Answer(type_).schema


@pytest.mark.parametrize("type_", [Movie, Line, Person, Point, list[Movie], Movie | None])
def test_typed_dicts_and_classes_are_closed(type_: Any) -> None:
    assert Answer(type_).strict


def test_a_field_with_a_default_is_required_of_the_model_but_not_of_the_server() -> None:
    schema = Answer(Line).schema
    assert (["price", "count"], {"type": "integer"}) == (schema["required"], schema["properties"]["count"])
    assert Line(1.5, 1) == Answer(Line).decode('{"price":1.5}')


VALID = {
    "code": "ab",
    "tags": ["x"],
    "raw": "cmF3",
    "price": "1.5",
    "at": "2026-01-02T00:00:00Z",
    "mail": "a@b.test",
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code", "a"),
        ("code", "abcde"),
        ("raw", "!"),
        ("price", "x"),
        ("at", "2026-01-02T00:00:00"),
        ("tags", ["a", "b", "c", "d"]),
    ],
)
def test_what_servers_do_not_enforce_is_checked_on_receipt(field: str, value: Any) -> None:
    """Lengths, encodings and formats are left out of the strict form, but not forgotten."""
    answer = Answer(Text)
    assert answer.strict
    assert "ab" == answer.decode(msgspec.json.encode(VALID).decode()).code
    with pytest.raises(OutputValidationError) as raised:
        answer.decode(msgspec.json.encode({**VALID, field: value}).decode())
    assert f"$.{field}" == raised.value.path
