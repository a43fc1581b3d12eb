"""Replies are built in tests by the methods of pydantic, and what is wrong is told with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradient_async.decoding import decode_completion
from gradient_async.types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    Choice,
    CompletionUsage,
    ToolCall,
)

PLAIN: dict[str, Any] = {
    "id": "c",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"}}]},
            "finish_reason": "tool_calls",
        }
    ],
    "created": 5,
    "model": "m",
    "object": "chat.completion",
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    "citations": ["x"],
}  # fmt: skip


@pytest.mark.parametrize("form", [str, bytes, bytearray, dict])
def test_a_reply_is_built_from_plain_data(form: type) -> None:
    """It equals the reply of a server, and its body has the fields without names."""
    text = json.dumps(PLAIN)
    data: Any = text if form is str else form(text.encode()) if form is not dict else PLAIN
    build = ChatCompletion.model_validate if form is dict else ChatCompletion.model_validate_json
    found = build(data)
    assert type(found) is ChatCompletion
    assert found == decode_completion(text.encode())
    assert PLAIN == found.body
    assert (None, 1) == (found.request_id, found.attempts)
    assert found == ChatCompletion.model_validate(found.model_dump())
    assert found == ChatCompletion.model_validate_json(found.model_dump_json())
    assert found is ChatCompletion.model_validate(found)


def test_reasoning_by_another_name_and_empty_tool_calls() -> None:
    """As in the reply of a server, which otherwise would be lost without a word."""
    body: dict[str, Any] = {"choices": [{"message": {"reasoning": "r", "tool_calls": []}}]}
    assert decode_completion(json.dumps(body).encode()) == ChatCompletion.model_validate(body)
    message = ChatCompletionMessage.model_validate(body["choices"][0]["message"])
    assert ("r", None) == (message.reasoning_content, message.tool_calls)
    chunk = ChatCompletionChunk.model_validate(
        {"choices": [{"delta": {"reasoning": "x", "reasoning_content": "r"}}]}
    )
    assert "r" == chunk.choices[0].delta.reasoning_content


def test_data_may_contain_messages() -> None:
    choice = Choice(message=ChatCompletionMessage(content="a"))
    found = ChatCompletion.model_validate({"choices": [choice]})
    assert "a" == found.choices[0].message.content
    chunk = ChatCompletionChunk.model_validate({"choices": [{"delta": {"content": "a"}}]}, strict=True)
    assert ("a", {"choices": [{"delta": {"content": "a"}}]}) == (chunk.choices[0].delta.content, chunk.body)
    assert ToolCall(id="t") == ToolCall.model_validate({"id": "t"}, extra="ignore", context={})


WRONG: list[tuple[Any, Any, str]] = [
    (ChatCompletion, {"choises": []}, "ChatCompletion: the field choices is missing"),
    (ChatCompletionChunk, {}, "ChatCompletionChunk: the field choices is missing"),
    (ChatCompletion, 5, "ChatCompletion: expected a dict, not int"),
    (ChatCompletion, None, "ChatCompletion: expected a dict, not NoneType"),
    (ChatCompletion, "{}", "ChatCompletion: expected a dict, not str; for JSON text write model_validate_json"),
    (
        ChatCompletion,
        {"choices": [{"message": {}}, {"mesage": {"content": "x"}}]},
        "ChatCompletion at choices[1]: the field message is missing",
    ),
    (ChatCompletionChunk, {"choices": [{}]}, "ChatCompletionChunk at choices[0]: the field delta is missing"),
    (Choice, {}, "Choice: the field message is missing"),
    (
        ChatCompletion,
        {"choices": [{"message": {"content": 5}}]},
        "ChatCompletion at choices[0].message.content: expected `str | null`, got `int`",
    ),
    (CompletionUsage, {"prompt_tokens": "x"}, "CompletionUsage at prompt_tokens: expected `int`, got `str`"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "obj", "words"), WRONG)
def test_what_is_wrong_is_told_with_its_place(kind: Any, obj: Any, words: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the whole message is compared
        kind.model_validate(obj)
    assert words == str(raised.value)
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the whole message is compared
        kind.model_validate_json(json.dumps(obj))
    assert words == str(raised.value)


NO_NAME = "there is no field 'x'; leave it out, or leave extra='forbid' out"


NAMELESS: list[tuple[Any, str]] = [
    ({"choices": [], "x": 1}, "ChatCompletion"),
    ({"choices": [{"message": {}}, {"message": {}, "x": None}]}, "ChatCompletion at choices[1]"),
    ({"choices": [{"message": {"x": 1}}]}, "ChatCompletion at choices[0].message"),
    (
        {"choices": [{"message": {"tool_calls": [{"function": {"x": 1}}]}}]},
        "ChatCompletion at choices[0].message.tool_calls[0].function",
    ),
    ({"choices": [], "usage": {"prompt_tokens_details": {"x": 1}}}, "ChatCompletion at usage.prompt_tokens_details"),
]  # fmt: skip


@pytest.mark.parametrize(("obj", "place"), NAMELESS)
def test_fields_without_names_are_refused_if_asked_for(obj: Any, place: str) -> None:
    for extra in (None, "allow", "ignore"):
        assert obj == ChatCompletion.model_validate(obj, extra=extra).body
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the whole message is compared
        ChatCompletion.model_validate_json(json.dumps(obj), extra="forbid")
    assert f"{place}: {NO_NAME}" == str(raised.value)


@pytest.mark.parametrize("name", ["@request_id", "@rate_limits", "@attempts"])
def test_no_name_sets_what_only_the_session_sets(name: str) -> None:
    body: dict[str, Any] = {"choices": [], name: 5}
    found = ChatCompletion.model_validate(body)
    assert (None, None, 1, body) == (found.request_id, found.rate_limits, found.attempts, found.body)
    with pytest.raises(ValueError, match=f"there is no field '{name}'"):
        ChatCompletion.model_validate(body, extra="forbid")


def test_values_that_the_library_passes_on_may_have_any_fields() -> None:
    message = {"audio": {"id": "a"}, "annotations": [{"x": 1}, 5], "content_parts": ["x"]}
    plain = {**PLAIN, "choices": [{"message": message}]}
    del plain["citations"]
    assert "a" == ChatCompletion.model_validate(plain, extra="forbid").choices[0].message.audio["id"]


@pytest.mark.parametrize(
    ("json_data", "advice"), [(None, ""), (5, ""), ([], ""), ({}, "; for a dict write model_validate")]
)
def test_what_is_no_json_text(json_data: Any, advice: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the whole message is compared
        ChatCompletion.model_validate_json(json_data)
    assert f"ChatCompletion: expected JSON text, not {type(json_data).__name__}{advice}" == str(raised.value)


def test_numbers_in_text_are_converted_unless_strict() -> None:
    assert 5 == CompletionUsage.model_validate({"prompt_tokens": "5"}).prompt_tokens
    with pytest.raises(ValueError, match="CompletionUsage at prompt_tokens: expected `int`, got `str`"):
        CompletionUsage.model_validate({"prompt_tokens": "5"}, strict=True)


@pytest.mark.parametrize("text", ["{", b"\xff", "[" * 100])
def test_what_is_no_json(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"^ChatCompletion: not JSON: "):
        ChatCompletion.model_validate_json(text)


def test_construct_checks_nothing_but_names() -> None:
    odd: Any = ChatCompletion.model_construct({"id"}, id=5)
    assert (5, []) == (odd.id, odd.choices)
    with pytest.raises(TypeError, match="choises"):
        ChatCompletion.model_construct(choises=[])


def test_copies() -> None:
    found = ChatCompletion.model_validate(PLAIN)
    flat = found.model_copy(update={"id": "d"})
    assert ("d", "c") == (flat.id, found.id)
    assert flat.choices is found.choices
    deep = found.model_copy(deep=True)
    assert (found, PLAIN) == (deep, deep.body)
    assert deep.choices is not found.choices
    with pytest.raises(AttributeError, match="idd"):
        found.model_copy(update={"idd": "d"})
