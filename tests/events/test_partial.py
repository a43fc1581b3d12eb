"""The beginning of a JSON text is read as far as possible."""

from __future__ import annotations

from typing import Any

import pytest

from gradient_async.events import parse_partial


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", None),
        ("{", {}),
        ('{"a', {}),
        ('{"a"', {}),
        ('{"a":', {}),
        ('{"a": tr', {}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": "x', {"a": "x"}),
        ('{"a": "x\\', {"a": "x"}),
        ('{"a": "x\\u00', {"a": "x"}),
        ('{"a": "\\"', {"a": '"'}),
        ('{"a": [1, 2', {"a": [1, 2]}),
        ('{"a": [{"b": 1}, {"c', {"a": [{"b": 1}, {}]}),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
        ('{"a": 1, b: 2, "c', {"a": 1}),
        ("]", None),
        ("nonsense", None),
    ],
)
def test_arguments_are_read_as_far_as_they_go(text: str, value: Any) -> None:
    assert value == parse_partial(text)
