"""Messages are checked one by one, and a reply is a valid message of the next request."""

from __future__ import annotations

import copy
import enum
import json
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from gradient_async.decoding import check_params, decode_completion, encode_request, message_to_dict
from gradient_async.errors import InvalidRequestError
from gradient_async.types import NOT_GIVEN, ChatCompletion, ChatCompletionMessage, Choice, Function, ToolCall

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
BASE: dict[str, Any] = {"messages": MESSAGES, "model": "m"}


class Word(enum.Enum):
    """Values that are no text, but convertible to it."""

    USER = "user"
    MISSPELT = "usr"
    MODEL = "m"


def checked(
    *, stream: bool = False, agent: bool = False, validate: bool = True, **params: Any
) -> dict[str, Any]:
    return check_params({**BASE, **params}, stream=stream, agent=agent, validate=validate)


PART = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "5m"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}


class TestMessages:
    @pytest.mark.parametrize(
        "message",
        [
            {"role": "system", "content": "x"},
            {"role": "developer", "content": PART},
            {"role": "user", "content": ["x", PART, IMAGE]},
            {"role": "user", "content": ("x", PART)},
            {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "u"}}], "name": "n"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}],
            },
            {"role": "assistant", "reasoning_content": "r"},
            {"role": "system", "content": "x", "name": "n"},
            {"role": "developer", "content": "x", "name": "n"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "name": "n"},
            {"role": "assistant", "audio": {"id": "a"}},
            {
                "role": "user",
                "content": {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
            },
            {"role": "user", "content": ["x", {"type": "file", "file": {"file_id": "f"}}]},
            {"role": "tool", "content": "x", "tool_call_id": "c"},
            {"role": "function", "content": None, "name": "f"},
            {"role": "user", "content": "x", "unknown": 1},
            ChatCompletionMessage(content="x"),
        ],
    )
    def test_what_is_allowed(self, message: Any) -> None:
        found = checked(messages=[message])
        assert [message] == found["messages"]
        if not isinstance(message, ChatCompletionMessage):
            assert [json.loads(json.dumps(message))] == json.loads(encode_request(found, stream=None))[
                "messages"
            ]

    @pytest.mark.parametrize(
        ("messages", "param"),
        [
            ([], "messages"),
            ("hi", "messages"),
            ({"role": "user", "content": "x"}, "messages"),
            (None, "messages"),
            (5, "messages"),
            ([5], "messages[0]"),
            (["hi"], "messages[0]"),
            ([*MESSAGES, None], "messages[1]"),
            ([{"content": "x"}], "messages[0].role"),
            ([*MESSAGES, {"role": "usr", "content": "x"}], "messages[1].role"),
            ([{"role": "Asistant", "content": "x"}], "messages[0].role"),
            ([{"role": ["user"], "content": "x"}], "messages[0].role"),
            ([{"role": "user"}], "messages[0].content"),
            ([{"role": "user", "content": None}], "messages[0].content"),
            ([{"role": "user", "content": 5}], "messages[0].content"),
            ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
            ([{"role": "tool", "content": "x", "tool_call_id": 5}], "messages[0].tool_call_id"),
        ],
    )
    def test_what_is_not(self, messages: Any, param: str) -> None:
        with pytest.raises(InvalidRequestError) as raised:
            checked(messages=messages)
        assert param == raised.value.param
        assert raised.value.message.startswith(f"{param}=")
        assert messages == checked(messages=messages, validate=False)["messages"]

    def test_a_reply_in_place_of_its_message(self) -> None:
        """The error says which part of the reply is the message; the reply, which may be long, is not shown."""
        reply = ChatCompletion.model_validate({"choices": [{"message": {"content": "x"}}]})
        for value, says in (
            (reply, "not a ChatCompletion; pass its .choices[0].message"),
            (reply.choices[0], "not a Choice; pass its .message"),
        ):
            for model in ("m", Word.MODEL):
                with pytest.raises(InvalidRequestError) as raised:
                    checked(messages=[*MESSAGES, value], model=model)
                assert f"messages[1]: expected a message, {says}" == raised.value.message
                assert "messages[1]" == raised.value.param

    def test_a_role_may_be_a_member_of_an_enumeration(self) -> None:
        found = checked(messages=[{"role": Word.USER, "content": "hi"}])
        assert MESSAGES == json.loads(encode_request(found, stream=None))["messages"]
        with pytest.raises(InvalidRequestError, match=r"messages\[0\]\.role='usr'"):
            checked(messages=[{"role": Word.MISSPELT, "content": "hi"}])

    def test_messages_that_are_not_given_are_left_out(self) -> None:
        absent = checked(messages=[*MESSAGES, NOT_GIVEN])
        assert MESSAGES == json.loads(encode_request(absent, stream=None))["messages"]
        with pytest.raises(InvalidRequestError, match="expected at least 1 message"):
            checked(messages=[NOT_GIVEN])
        checked(messages=[{"role": "assistant", "content": NOT_GIVEN}])
        with pytest.raises(InvalidRequestError, match="needs content"):
            checked(messages=[{"role": "user", "content": NOT_GIVEN}])

    def test_structs_of_the_caller(self) -> None:
        class Message(msgspec.Struct):
            role: str
            content: str

        params = checked(messages=[Message("user", "hi")])
        assert MESSAGES == json.loads(encode_request(params, stream=None))["messages"]

    def test_messages_of_other_libraries(self) -> None:
        """Whatever dumps itself is taken at its word."""

        class Pydantic:
            def model_dump(self, *, exclude_none: bool = False) -> dict[str, Any]:
                return {"role": "assistant", "content": "p", "none": exclude_none}

        class Other:
            def to_dict(self) -> dict[str, Any]:
                return {"role": "assistant", "content": "o"}

        found = checked(messages=[Pydantic(), Other()])
        assert [
            {"role": "assistant", "content": "p", "none": True},
            {"role": "assistant", "content": "o"},
        ] == json.loads(encode_request(found, stream=None))["messages"]


def sent(message: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encode_request(checked(messages=[message]), stream=None))
    found: dict[str, Any] = body["messages"][0]
    return found


CALL = ToolCall(id="c", function=Function(name="f", arguments="{}"))
CALL_SENT = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


REPLIES: list[tuple[ChatCompletionMessage, dict[str, Any]]] = [
    (ChatCompletionMessage(), {"role": "assistant"}),
    (ChatCompletionMessage(content="x"), {"role": "assistant", "content": "x"}),
    (ChatCompletionMessage(refusal="no"), {"role": "assistant", "refusal": "no"}),
    (
        ChatCompletionMessage(tool_calls=[CALL]),
        {"role": "assistant", "tool_calls": [CALL_SENT], "content": None},
    ),
    (
        ChatCompletionMessage(content="", tool_calls=[CALL]),
        {"role": "assistant", "tool_calls": [CALL_SENT], "content": ""},
    ),
    (
        ChatCompletionMessage(function_call=Function(name="f", arguments="{}")),
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}, "content": None},
    ),
    (
        ChatCompletionMessage(
            content="x",
            reasoning_content="r",
            reasoning_details=[{"a": None}],
            annotations=[1],
            extra_content={"g": 1},
        ),
        {
            "role": "assistant",
            "content": "x",
            "reasoning_content": "r",
            "reasoning_details": [{"a": None}],
            "annotations": [1],
            "extra_content": {"g": 1},
        },
    ),
    (
        ChatCompletionMessage(audio={"id": "a", "data": "AAAA"}),
        {"role": "assistant", "audio": {"id": "a"}},
    ),
    (ChatCompletionMessage(audio={"data": "AAAA"}), {"role": "assistant", "audio": {"data": "AAAA"}}),
    (
        ChatCompletionMessage(
            tool_calls=[ToolCall(id="c", type="custom", custom={"name": "g", "input": "x"})]
        ),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "g", "input": "x"}}],
        },
    ),
    (
        ChatCompletionMessage(
            tool_calls=[ToolCall(id="c", function=Function(name="f"), extra_content={"s": 1})]
        ),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c",
                    "type": "function",
                    "function": {"name": "f", "arguments": ""},
                    "extra_content": {"s": 1},
                }
            ],
        },
    ),
]


class TestReplies:
    """A reply is a valid message of the next request."""

    @pytest.mark.parametrize(("message", "expected"), REPLIES)
    def test_message(self, message: ChatCompletionMessage, expected: dict[str, Any]) -> None:
        """The role stays, what is None goes, content stays null beside calls."""
        assert expected == sent(message)

    @pytest.mark.parametrize(("message", "expected"), REPLIES)
    def test_a_stored_message_is_sent_as_the_message_itself(
        self, message: ChatCompletionMessage, expected: dict[str, Any]
    ) -> None:
        """In every form in which it may have been stored; and the stored form is not changed."""
        completion = ChatCompletion(choices=[Choice(message=message)])
        forms: list[dict[str, Any]] = [
            message.to_dict(),
            message.to_dict(exclude_unset=False),
            message.model_dump(),
            message.model_dump(exclude_none=True),
            json.loads(message.to_json()),
            json.loads(message.model_dump_json()),
            completion.to_dict()["choices"][0]["message"],
            message_to_dict(message),
        ]
        for form in forms:
            before = copy.deepcopy(form)
            assert expected == sent(form) == sent(message_to_dict(form)) == sent(MappingProxyType(form))
            assert before == form

    @pytest.mark.parametrize("role", ["model", "Assistant", "ai", ""])
    @pytest.mark.parametrize("fields", [{"content": "x"}, {"tool_calls": [CALL]}, {"refusal": "no"}])
    def test_a_reply_with_a_role_of_its_own_goes_back_with_it(self, role: str, fields: Any) -> None:
        message = ChatCompletionMessage(role=role, **fields)
        expected = sent(message)
        assert role == expected["role"]
        for form in (message, message.to_dict(), message.model_dump()):
            params = checked(messages=[form])
            assert [expected] == json.loads(encode_request(params, stream=None))["messages"]

    @pytest.mark.parametrize("validate", [True, False])
    def test_messages_of_pydantic_keep_null_content_beside_tool_calls(self, *, validate: bool) -> None:
        """Though a dump without None, which leaves out what a server refuses, leaves it out as well."""

        class Message:
            def model_dump(self, *, exclude_none: bool) -> dict[str, Any]:
                assert exclude_none
                return {"role": "assistant", "tool_calls": [CALL_SENT]}

        params = checked(messages=[Message()], validate=validate)
        found = json.loads(encode_request(params, stream=None))["messages"]
        assert [{"role": "assistant", "tool_calls": [CALL_SENT], "content": None}] == found

    @pytest.mark.parametrize("role", ["user", "system", "developer", "tool", "function"])
    def test_fields_of_other_messages_that_are_none_are_left_out(self, role: str) -> None:
        message = {"role": role, "content": "x", "name": None, "tool_call_id": "c", "unknown": None}
        assert {"role": role, "content": "x", "tool_call_id": "c"} == sent(message)
        assert {"role": "function", "content": None, "name": "f"} == sent(
            {"role": "function", "content": None, "name": "f"}
        )

    @pytest.mark.parametrize(
        "message",
        [
            {"role": "user", "content": None},
            {"role": None, "content": "x"},
            {"role": ["user"], "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": ["x"]},
            {"role": "assistant", "content": None, "tool_calls": {"id": "c"}},
            5,
        ],
    )
    def test_what_is_not_checked_is_sent_unchanged(self, message: Any) -> None:
        params = checked(messages=[message], validate=False)
        assert [message] == json.loads(encode_request(params, stream=None))["messages"]
        stored = ChatCompletionMessage(tool_calls=[CALL]).model_dump()
        extra = {"messages": [message, stored]}
        assert extra == json.loads(encode_request({}, stream=None, extra_body=extra))

    def test_a_reply_is_converted_wherever_it_is(self) -> None:
        reply = ChatCompletionMessage(tool_calls=[CALL])
        expected = {"role": "assistant", "content": None, "tool_calls": [CALL_SENT]}
        for extra in ({"x": 1}, {"messages": [reply]}, {"x": reply}):
            params = checked(messages=[reply.to_dict()])
            found = json.loads(encode_request(params, stream=None, extra_body=extra))
            assert expected == (found["x"] if "x" in extra and extra["x"] != 1 else found["messages"][0])

    def test_fields_of_a_reply_in_another_message_are_left_alone(self) -> None:
        message = {"role": "user", "content": "x", "content_parts": ["y"], "tool_calls": [{"id": None}]}
        assert message == sent(message)

    THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}
    TEXT = {"type": "text", "text": "x"}

    @pytest.mark.parametrize(
        ("parts", "content", "reasoning", "expected"),
        [
            ([THOUGHT, TEXT], "x", "t", {"content": [THOUGHT, TEXT]}),
            ([THOUGHT], "x", "t", {"content": [THOUGHT, TEXT]}),
            (
                [THOUGHT, {"type": "text", "text": "half"}],
                "half and half",
                "t",
                {"content": [THOUGHT, {"type": "text", "text": "half and half"}]},
            ),
            ([THOUGHT], None, "t", {"content": [THOUGHT]}),
            ([TEXT], "x", "r", {"content": [TEXT], "reasoning_content": "r"}),
            (["thinking"], "thinking", "r", {"content": ["thinking"], "reasoning_content": "r"}),
            (["x"], "x", None, {"content": ["x"]}),
            ([], "x", None, {"content": "x"}),
        ],
    )
    def test_parts_go_back_as_parts(
        self, parts: list[Any], content: str | None, reasoning: str | None, expected: dict[str, Any]
    ) -> None:
        """With all of the text and the thoughts, each once, also where a server mixed parts and plain strings."""
        message = ChatCompletionMessage(content=content, content_parts=parts, reasoning_content=reasoning)
        for form in (message, message.to_dict(), message.model_dump()):
            assert {"role": "assistant", **expected} == sent(form)

    def test_pieces_of_a_reply_in_a_dictionary(self) -> None:
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [CALL],
            "function_call": CALL.function,
            "name": NOT_GIVEN,
        }
        assert {
            "role": "assistant",
            "content": None,
            "tool_calls": [CALL_SENT],
            "function_call": {"name": "f", "arguments": "{}"},
        } == sent(message)

    def test_a_decoded_reply(self) -> None:
        body = b'{"choices":[{"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}],"refusal":null}}]}'
        assert {"role": "assistant", "content": None, "tool_calls": [CALL_SENT]} == sent(
            decode_completion(body).choices[0].message
        )
