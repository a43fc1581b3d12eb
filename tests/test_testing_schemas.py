"""Values fit their schemas, and tokens their text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradient_async.testing.schemas import fitting, subject
from gradient_async.testing.tokens import text_pieces, tokenize

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
def test_fitting(schema: object, expected: object) -> None:
    """Each kind of schema gets a value that fits, from the words of the prompt where it can."""
    assert expected == fitting(schema, "Is it hot for 3 people, 12 dogs and 2.5 cats in New Delhi today?")


def test_recursive_schema() -> None:
    """A schema that contains itself comes to an end."""
    value: Any = fitting(TREE, "x")
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


@given(st.text())
def test_tokens(text: str) -> None:
    """Tokens are the bytes of the text, cut, and pieces its characters, never half of one."""
    whole = text.encode("utf-8", "replace")
    assert whole == b"".join(tokenize(text))
    pieces = text_pieces(text, "content", top=1)
    assert whole.decode() == "".join(piece.delta["content"] for piece in pieces)
    assert len(tokenize(text)) == sum(piece.tokens for piece in pieces)
    assert all(piece.tokens == len(piece.logprobs or ()) for piece in pieces)


def test_long_words_are_cut() -> None:
    """Long words are several tokens, and an emoji is two."""
    assert [b"incomprehe", b"nsible", b" \xf0\x9f", b"\x91\x8b"] == tokenize("incomprehensible 👋")
