"""What counts as a sign that the model is at work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from wire import event

from gradient_async.decoding import ChunkDecoder
from gradient_async.stream.timing import Content
from gradient_async.types import ChatCompletionChunk


def call(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **fields}]}


SAYS: list[dict[str, Any]] = [
    {"content": "a"},
    {"content": " "},
    {"reasoning_content": "a"},
    {"reasoning": "a"},
    {"refusal": "a"},
    call(function={"arguments": " "}),
    call(id="a", function={"name": "f", "arguments": "x"}),
    call(custom={"input": "a"}),
    {"function_call": {"arguments": "a"}},
    {"images": [{"url": "a"}]},
    {"audio": {"data": "a"}},
]
STATES: list[dict[str, Any]] = [
    {"finish_reason": "stop"},
    {"usage": {"total_tokens": 3}},
    {"usage": {}},
    call(id="a"),
    call(function={"name": "f"}),
    call(extra_content={"a": 1}),
    {"function_call": {"name": "f"}},
    {"reasoning_details": [{"type": "reasoning.encrypted", "data": "a"}]},
    {"content": [{"type": "citation"}]},
]
NEITHER: list[dict[str, Any]] = [
    {},
    {"role": "assistant"},
    {"content": ""},
    {"finish_reason": "null"},
    {"usage": None},
    call(),
    call(id="", function={"name": "", "arguments": ""}),
    {"function_call": {"name": "", "arguments": ""}},
    {"images": [], "audio": {}, "reasoning_details": []},
]


def decoded(*fields: dict[str, Any]) -> list[ChatCompletionChunk]:
    wire = b""
    for each in fields:
        of_chunk = {name: each[name] for name in ("usage",) if name in each}
        of_choice = {name: each[name] for name in ("finish_reason",) if name in each}
        rest = {name: value for name, value in each.items() if name not in {"usage", "finish_reason"}}
        wire += event({"index": 0, "delta": rest, **of_choice}, **of_chunk)
    return ChunkDecoder().feed(wire)


def found(fields: Iterable[dict[str, Any]]) -> list[bool]:
    """Say for each of several chunks, which arrive one by one, whether it is content."""
    content = Content()
    return [content.is_in([each]) for each in decoded(*fields)]


@pytest.mark.parametrize("fields", SAYS)
def test_what_the_model_says_is_content_each_time(fields: dict[str, Any]) -> None:
    """Also if it says the same again."""
    assert [True, True, True] == found([fields] * 3)


@pytest.mark.parametrize("fields", STATES)
def test_what_a_server_may_repeat_is_content_once(fields: dict[str, Any]) -> None:
    """Also if other chunks come between: a gateway repeats its last chunk to keep the connection open."""
    other = {"usage": {"total_tokens": 99}}
    pieces = [fields, fields, {"content": "a"}, fields, {}, other, other, fields]
    assert [True, False, True, False, False, True, False, True] == found(pieces)


@pytest.mark.parametrize("fields", NEITHER)
def test_all_else_is_none(fields: dict[str, Any]) -> None:
    assert [False, False] == found([fields] * 2)


def test_several_chunks_have_content_if_one_has() -> None:
    assert Content().is_in(decoded({}, {"content": "a"}, {}))
    assert Content().is_in(decoded({}, {"usage": {"total_tokens": 1}}))
    assert not Content().is_in(decoded({}, {"role": "assistant"}))
    assert not Content().is_in([])
