"""What users of other clients do with their messages is an error that says what to write."""

from __future__ import annotations

from typing import Any

import pytest

from gradient_async import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage, ModelList
from gradient_async.types import Hint, Model

EVERY: list[type[Model]] = [ChatCompletion, ChatCompletionChunk, ChatCompletionMessage, ModelList]


@pytest.mark.parametrize("kind", EVERY)
def test_messages_are_no_dictionaries(kind: type[Model]) -> None:
    message: Any = kind()
    says = r"^\w+ is not subscriptable: read its attributes; to_dict\(\) gives a dictionary$"
    with pytest.raises(TypeError, match=says):
        message["choices"]
    with pytest.raises(AttributeError, match=f"^{kind.__name__} has no 'get': read its attributes; "):
        _ = message.get


@pytest.mark.parametrize(
    ("message", "name"),
    [
        *((kind(), name) for kind in EVERY for name in ("get", "model_extra", "model_fields_set")),
        (ChatCompletionChunk(), "type"),
        (ModelList(), "models"),
    ],
)
def test_attributes_of_other_messages(message: Any, name: str) -> None:
    """They say what to write, and tools that look for them find nothing."""
    assert not hasattr(message, name)
    with pytest.raises(AttributeError, match=f"^{type(message).__name__} has no '{name}': ."):
        getattr(message, name)
    with pytest.raises(AttributeError):
        setattr(message, name, 1)
    assert name not in message.to_dict()


def test_hints_have_their_name() -> None:
    class Owner:
        thing = Hint("write other")

    with pytest.raises(AttributeError, match=r"^Owner has no 'thing': write other$"):
        _ = Owner().thing


def test_the_id_of_a_request_has_its_other_name() -> None:
    completion = ChatCompletion(request_id="req-1")
    assert "req-1" == completion._request_id
    assert ChatCompletion()._request_id is None
