"""Values fit their schemas."""

from __future__ import annotations

from typing import Any

import pytest

from gradient_async.testing.schemas import fill_schema, subject

TREE = {"$defs": {"t": {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}}}, "$ref": "#/$defs/t"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": 5}, 5),
        ({"type": "string", "default": "x"}, "x"),
        ({"enum": ["mild", "HOT", "cold"]}, "HOT"),
        ({"enum": ["a1", "b1"]}, "a1"),
        ({"type": "string"}, "New Delhi"),
        ({}, "New Delhi"),
        ({"type": "string", "minLength": 12}, "New Delhi..."),
        ({"type": "string", "maxLength": 3}, "New"),
        ({"type": "string", "format": "date"}, "2026-01-31"),
        ({"type": "integer"}, 3),
        ({"type": "integer", "minimum": 4}, 12),
        ({"type": "integer", "exclusiveMinimum": 50}, 51),
        ({"type": "integer", "maximum": 0}, 0),
        ({"type": "integer", "minimum": 20}, 20),
        ({"type": "number", "maximum": 2.9}, 2.5),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": ["null", "boolean"]}, True),
        ({"type": ["null"]}, None),
        ({"type": "array", "items": {"type": "boolean"}}, [True]),
        ({"items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "object"}, {}),
        ({"properties": {"a": {"type": "boolean"}, "b": {"const": 1}}}, {"a": True, "b": 1}),
        ({"properties": {"a": {}, "b": {"const": 1}}, "required": ["b"]}, {"b": 1}),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"oneOf": [{"type": "null"}]}, None),
        ({"allOf": [{"const": 1}]}, 1),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}, 1),
        ({"$ref": "#"}, None),
        ({"anyOf": []}, "New Delhi"),
        (None, "New Delhi"),
    ],
)
def test_fill_schema(schema: object, expected: object) -> None:
    """Each kind of schema gets a value that fits, from the words of the prompt where it can."""
    assert expected == fill_schema(schema, "Is it hot for 3 people, 12 dogs and 2.5 cats in New Delhi today?")


def test_recursive_schema() -> None:
    """A schema that contains itself gives a value of limited depth."""
    value: Any = fill_schema(TREE, "x")
    depth = 0
    while value is not None:
        value = value["t"]
        depth += 1
    assert 5 < depth < 20


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("What is the weather in Paris?", "Paris"),
        ("From San Francisco to New York", "New York"),
        ("Please compare apples", "apples"),
        ("London?", "London"),
        ("?!", "nothing"),
    ],
)
def test_subject(prompt: str, expected: str) -> None:
    """A prompt is about the last name in it, else about its last word."""
    assert expected == subject(prompt)
