"""Whole replies: completions, lists of models and errors, as documented and as servers write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import as_chunk, check_bounds, decode_completion, decode_models, is_stream
from gradient_async.errors import APIResponseValidationError
from gradient_async.types import (
    ChatCompletion,
    ChatCompletionMessage,
    Choice,
    ChoiceLogprobs,
    CompletionUsage,
    Function,
    ModelInfo,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)
from gradient_async.types.nesting import TooManyValuesError

ENTRY = {
    "token": "token",
    "bytes": [0],
    "logprob": 0,
    "top_logprobs": [{"token": "token", "bytes": [0], "logprob": 0}],
}
SAMPLE: dict[str, Any] = {
    "id": "id",
    "choices": [
        {
            "finish_reason": "stop",
            "index": 0,
            "logprobs": {"content": [ENTRY], "refusal": [ENTRY]},
            "message": {
                "content": "content",
                "refusal": "refusal",
                "role": "assistant",
                "tool_calls": [
                    {"id": "id", "function": {"arguments": "arguments", "name": "name"}, "type": "function"}
                ],
            },
        }
    ],
    "created": 0,
    "model": "model",
    "object": "chat.completion",
    "usage": {"completion_tokens": 0, "prompt_tokens": 0, "total_tokens": 0},
}


def decoded(body: Any) -> ChatCompletion:
    return decode_completion(body if isinstance(body, bytes) else json.dumps(body).encode())


class TestSample:
    def test_field_by_field(self) -> None:
        """The published reference's sample reply."""
        found = decoded(SAMPLE)
        assert ("id", 0, "model", "chat.completion") == (found.id, found.created, found.model, found.object)
        (choice,) = found.choices
        assert ("stop", 0) == (choice.finish_reason, choice.index)
        entry = TokenLogprob(
            token="token",
            bytes=[0],
            logprob=0.0,
            top_logprobs=[TopLogprob(token="token", bytes=[0], logprob=0.0)],
        )
        assert ChoiceLogprobs(content=[entry], refusal=[entry]) == choice.logprobs
        message = choice.message
        assert ("content", "refusal", "assistant") == (message.content, message.refusal, message.role)
        assert [
            ToolCall(id="id", type="function", function=Function(name="name", arguments="arguments"))
        ] == message.tool_calls
        assert CompletionUsage(completion_tokens=0, prompt_tokens=0, total_tokens=0) == found.usage

    def test_and_back(self) -> None:
        assert SAMPLE == decoded(SAMPLE).to_dict()

    def test_as_a_stream_of_one_chunk(self) -> None:
        """A server that ignores `stream=True` still gives the same completion."""
        found = decoded(SAMPLE)
        assembler = CompletionAssembler()
        chunk = as_chunk(found)
        assert "chat.completion.chunk" == chunk.object
        assembler.add(chunk)
        assert found == assembler.completion
        assert assembler.complete


def test_any_completion_is_a_chunk_of_itself() -> None:
    """Every field of every choice, in whatever order they came."""
    whole = ChatCompletion(
        id="c",
        created=4,
        model="m",
        system_fingerprint="fp",
        service_tier="t",
        retrieval={"retrieved_data": [1]},
        functions={"called_functions": []},
        guardrails={"triggered_guardrails": [{"message": "m", "rule_name": "r"}]},
        usage=CompletionUsage(total_tokens=3),
        choices=[
            Choice(
                index=0,
                message=ChatCompletionMessage(
                    content="a",
                    reasoning_content="r",
                    function_call=Function(name="f", arguments="{}"),
                    annotations=[1],
                    audio={"id": "x", "data": "y"},
                    reasoning_details=[{}],
                    extra_content={"e": 1},
                    content_parts=[{"type": "text", "text": "a"}],
                    images=[{"type": "image_url"}],
                    tool_calls=[
                        ToolCall(
                            id="same", function=Function(name="f", arguments="1"), extra_content={"s": 1}
                        ),
                        ToolCall(id="same", function=Function(name="g", arguments="2")),
                        ToolCall(function=Function(name="h")),
                        ToolCall(id="k", type="custom", custom={"name": "n", "input": "i"}),
                    ],
                ),
            ),
            Choice(index=1, message=ChatCompletionMessage(role="tool", refusal="no"), finish_reason="stop"),
        ],
    )
    assembler = CompletionAssembler(n=2)
    assembler.add(as_chunk(whole))
    assert whole == assembler.completion


def one(**message: Any) -> ChatCompletionMessage:
    return decoded({"choices": [{"message": message}]}).choices[0].message


class TestRepairs:
    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ({}, Choice()),
            ({"message": None, "index": None, "logprobs": None, "finish_reason": None}, Choice()),
            (
                {"index": "1", "message": {"content": "a"}},
                Choice(index=1, message=ChatCompletionMessage(content="a")),
            ),
            (
                {"message": {"role": None, "content": None, "reasoning": "r"}},
                Choice(message=ChatCompletionMessage(reasoning_content="r")),
            ),
            (
                {"message": {"reasoning": "r", "reasoning_content": "c", "role": None}},
                Choice(message=ChatCompletionMessage(reasoning_content="c")),
            ),
            ({"message": {"tool_calls": []}, "finish_reason": "eos"}, Choice(finish_reason="eos")),
            ({"finish_reason": "null"}, Choice()),
            ({"finish_reason": False}, Choice()),
            ({"message": {"images": [{"a": 1}]}}, Choice(message=ChatCompletionMessage(images=[{"a": 1}]))),
            ({"usage": {"total_tokens": 3}}, Choice()),
            (
                {"message": {"tool_calls": {"id": "a", "function": {"name": "f"}}}},
                Choice(
                    message=ChatCompletionMessage(tool_calls=[ToolCall(id="a", function=Function(name="f"))])
                ),
            ),
            ({"logprobs": {"tokens": 5, "content": 6}, "finish_reason": 3}, Choice(finish_reason="3")),
            (
                {"message": {"content": [{"type": "text", "text": "a"}]}},
                Choice(
                    message=ChatCompletionMessage(content="a", content_parts=[{"type": "text", "text": "a"}])
                ),
            ),
            (
                {
                    "message": {
                        "tool_calls": [
                            {"id": None, "type": None, "function": {"name": "f", "arguments": {"a": 1}}}
                        ]
                    }
                },
                Choice(
                    message=ChatCompletionMessage(
                        tool_calls=[ToolCall(function=Function(name="f", arguments='{"a":1}'))]
                    )
                ),
            ),
            (
                {
                    "message": {
                        "tool_calls": [{"id": 5, "type": "custom", "function": None, "custom": {"name": "x"}}]
                    }
                },
                Choice(
                    message=ChatCompletionMessage(
                        tool_calls=[ToolCall(id="5", type="custom", custom={"name": "x"})]
                    )
                ),
            ),
        ],
    )
    def test_of_a_choice(self, choice: dict[str, Any], expected: Choice) -> None:
        assert [expected] == decoded({"choices": [choice]}).choices

    def test_choices_are_ordered_by_index(self) -> None:
        body = {"choices": [{"index": index, "message": {"content": str(index)}} for index in (2, 0, 1)]}
        assert ["0", "1", "2"] == [choice.message.content for choice in decoded(body).choices]

    @pytest.mark.parametrize("numbers", [(None, None, None), (0, 0, 0), (0, 1, 1)])
    def test_choices_that_nobody_numbered_have_the_index_of_their_place(
        self, numbers: tuple[int | None, ...]
    ) -> None:
        """Two answers under one index would be taken for one."""
        body = {
            "choices": [
                {"message": {"content": str(place)}} | ({} if number is None else {"index": number})
                for place, number in enumerate(numbers)
            ]
        }
        assert [(0, "0"), (1, "1"), (2, "2")] == [
            (choice.index, choice.message.content) for choice in decoded(body).choices
        ]

    @pytest.mark.parametrize(
        ("body", "content"),
        [
            (b'{"id":NaN,"choices":[{"message":{"content":"a"}}]}', "a"),
            (b'{"choices":[{"message":{"content":"\xff"}}]}', "\ufffd"),
            (b'{"choices":[{"message":{"content":"\\ud83d"}}]}', "\ufffd"),
            (b'{"choices":[{"message":{"content":"\\ud83d\\ude00"}}],"created":1.5}', "😀"),
            (b'  \n{"choices":[{"message":{"content":"a"}}]}\n  ', "a"),
            (b'{"error":null,"choices":[{"message":{"content":"a"}}]}', "a"),
            (b'{"error":{},"choices":[{"message":{"content":"a"}}]}', "a"),
        ],
    )
    def test_of_text_and_numbers(self, body: bytes, content: str) -> None:
        assert content == decode_completion(body).choices[0].message.content

    @pytest.mark.parametrize(
        ("choice", "content"),
        [
            ({"text": "a"}, "a"),
            ({"delta": {"content": "a"}}, "a"),
            ({"message": {"role": "assistant", "content": None}, "text": "a"}, "a"),
            ({"message": {"content": ""}, "delta": {"role": "assistant", "content": "a"}}, "a"),
            ({"message": {"content": "a"}, "text": "b", "delta": {"content": "c"}}, "a"),
            ({"message": {"content": None}, "text": None, "delta": {}}, None),
            ({"message": {"content": None, "refusal": "no"}, "text": "a"}, None),
        ],
    )
    def test_of_text_in_another_place(self, choice: dict[str, Any], content: str | None) -> None:
        found = decoded({"choices": [{"index": 0, "finish_reason": "stop", **choice}]})
        assert (content, "assistant") == (found.choices[0].message.content, found.choices[0].message.role)

    @pytest.mark.parametrize("reason", ["null", "None", "", False, 0, None])
    def test_of_finish_reasons_that_are_none(self, reason: Any) -> None:
        body = {"choices": [{"message": {"content": "a"}, "finish_reason": reason}]}
        assert None is decoded(body).choices[0].finish_reason

    def test_of_usage_in_another_place(self) -> None:
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        choice = {"message": {"content": "a"}}
        expected = CompletionUsage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
        for body in (
            {"choices": [{**choice, "usage": usage}]},
            {"choices": [choice], "x_groq": {"usage": usage}},
            {"choices": [{**choice, "usage": {"total_tokens": 9}}], "usage": usage},
        ):
            assert expected == decoded(body).usage

    @pytest.mark.parametrize(
        ("choice", "groq", "expected"), [(2, 3, 2), (None, 3, 3), (2, None, 2), (None, None, None)]
    )
    def test_usage_of_a_choice_or_of_x_groq(
        self, choice: int | None, groq: int | None, expected: int | None
    ) -> None:
        def usage(total: int | None) -> Any:
            return total and {"total_tokens": total}

        found = decoded({"choices": [{"usage": usage(choice)}], "x_groq": {"usage": usage(groq)}})
        assert expected == (None if found.usage is None else found.usage.total_tokens)

    def test_agents_fields(self) -> None:
        body: dict[str, Any] = {
            "choices": [{}],
            "retrieval": {"retrieved_data": [{}]},
            "functions": {"called_functions": []},
            "guardrails": {"triggered_guardrails": []},
        }
        found = decoded(body)
        assert (body["retrieval"], body["functions"], body["guardrails"]) == (
            found.retrieval,
            found.functions,
            found.guardrails,
        )

    def test_of_reasoning_and_thoughts(self) -> None:
        for message in (
            {"reasoning": "r"},
            {"content": [{"type": "thinking", "thinking": ["x", {"type": "text", "text": "r"}]}]},
        ):
            assert "r" == one(**message).reasoning_content

    def test_nothing_is_invented(self) -> None:
        assert ChatCompletionMessage(content="a") == one(content="a", unknown={"x": 1})


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", "Expecting value"),
            (b"null", "Expected `object`, got `null`"),
            (b"[]", "Expected `object`, got `array`"),
            (b'"x"', "Expected `object`, got `str`"),
            (b"{}", "it has no choices"),
            (b'{"choices":null}', "it has no choices"),
            (b'{"id":"c","object":"chat.completion","choices":[]}', "it has no choices"),
            (b'{"choices":[],"usage":{"total_tokens":9}}', "it has no choices"),
            (b'{"candidates":[{"content":{}}]}', "it belongs to Gemini's API"),
            (b'{\n"candidates": [{"content": {}}]\n}', "it belongs to Gemini's API"),
            (
                b'{"model":"l","response":"a","done":false}\n{"model":"l","response":"","done":true}',
                "it belongs to Ollama's API",
            ),
            (
                b'{"model":"l","response":"a","done":false}\n{"error":{"message":"busy"}}',
                "it belongs to Ollama's API",
            ),
            (b'[{"generated_text":"a"}]', "it belongs to a text-generation server"),
            (b'{"base_resp":{"status_code":7,"status_msg":"busy"},"choices":null}', "it is an error: busy"),
            (b'{"choices":[{"message":{"content":"hal{"error":{"message":"busy"}}', "it is an error: busy"),
            (b'{"message":"starting up"}', "it has no choices, and says 'starting up'"),
            (b'{"choices":"x","id":[1]}', "$.choices"),
            (b'{"choices":[5]}', "$.choices[0]"),
            (b'{"choices":[{"message":{"content":5}}]}', "$.choices[0].message.content"),
            (b'{"choices":[{"message":{"content":"hal', "Unterminated string"),
            (b"<html>", "Expecting value: line 1 column 1 (char 0); it begins with '<html>'"),
            (b'{"error":{"message":"busy"}}', "it is an error: busy"),
            (b'{"detail":"no"}', "it is an error: no"),
            (b'{"error":{"message":"busy"},"choices":[{"message":{"content":"a"}}]}', "it is an error: busy"),
            (b"[" * 200_000, "nested too deep"),
            (b'{"choices":[{"index":1e999}]}', "an index does not fit in 64 bits"),
        ],
    )
    def test_of_what_is_no_completion(self, body: bytes, words: str) -> None:
        with pytest.raises(APIResponseValidationError) as raised:
            decode_completion(body)
        assert raised.value.message.startswith("the reply is not a chat completion: ")
        assert words in raised.value.message
        assert None is raised.value.__context__

    def test_of_what_says_nothing(self) -> None:
        for body, end in ((b"", "(char 0)"), (b"{}", "it has no choices")):
            with pytest.raises(APIResponseValidationError) as raised:
                decode_completion(body)
            assert raised.value.message.endswith(end)

    def test_of_too_many_values(self) -> None:
        body = b'{"choices":[{"message":{"content":"a"}}],"x":[' + b"{}," * 20_000 + b"0]}"
        with pytest.raises(TooManyValuesError):
            decode_completion(body)
        assert "a" == decode_completion(body, max_values=None).choices[0].message.content


@pytest.mark.parametrize(
    ("body", "stream"),
    [
        (b"data: {}\n\n", True),
        (b"\xef\xbb\xbfdata:{}", True),
        (b"\r\n: hello\n\n", True),
        (b"event: x\ndata: {}\n\n", True),
        (b"id: 1\n", True),
        (b"retry: 5\n", True),
        (b"", False),
        (b'{"data": 1}', False),
        (b"database: gone", False),
        (b"<html>", False),
        (b"error: no", False),
    ],
)
def test_an_event_stream_is_known_by_its_beginning(body: bytes, stream: bool) -> None:
    assert stream is is_stream(body)


class TestModels:
    def test_as_documented(self) -> None:
        body = {
            "object": "list",
            "data": [{"id": "a", "object": "model", "created": 5, "owned_by": "o"}, {"id": "b"}],
        }
        found = decode_models(json.dumps(body).encode())
        assert [ModelInfo(id="a", created=5, owned_by="o"), ModelInfo(id="b")] == found.data
        assert "list" == found.object

    def test_repairs(self) -> None:
        body = b'{"data":[{"id":5,"created":1.5,"owned_by":null,"x":NaN},{"id":"\\ud83d","object":{},"created":"x"}]}'
        assert [ModelInfo(id="5", created=1), ModelInfo(id="\ufffd")] == decode_models(body).data
        assert [] == decode_models(b'{"data":[]}').data

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", "Expecting value"),
            (b"[]", "no list named data"),
            (b'{"data":null}', "no list named data"),
            (b'{"data":[5]}', "Expected `object`, got `int`"),
            (b"[" * 200_000, "nested too deep"),
        ],
    )
    def test_of_what_is_no_list(self, body: bytes, words: str) -> None:
        for max_values in (100_000, None):
            with pytest.raises(
                APIResponseValidationError, match="the reply is not a list of models"
            ) as raised:
                decode_models(body, max_values=max_values)
            assert words in raised.value.message

    def test_of_too_many(self) -> None:
        body = b'{"data":[' + b",".join([b"{}"] * 20) + b"]}"
        assert 20 == len(decode_models(body).data)
        with pytest.raises(APIResponseValidationError, match="more than values=200 "):
            decode_models(body, max_values=200)


class TestBounds:
    """A completion is refused where a stream of it would be."""

    def test_within_them_nothing_is_said(self) -> None:
        body = b'{"choices":[{"index":3,"message":{"tool_calls":[{"id":"a"},{"id":"b"}]}},{"message":{}}]}'
        check_bounds(decode_completion(body), choices=4, tool_calls=2)

    @pytest.mark.parametrize(
        ("choices", "words"),
        [
            ('{"index":-1}', "a choice of index -1"),
            ('{"index":4}', "choices=4"),
            ("{},{},{},{},{}", "choices=4"),
            ('{"message":{"tool_calls":[{},{},{}]}}', "tool_calls=2"),
        ],
    )
    def test_beyond_them_the_limit_is_named(self, choices: str, words: str) -> None:
        completion = decode_completion(f'{{"choices":[{choices}]}}'.encode())
        with pytest.raises(APIResponseValidationError, match=words):
            check_bounds(completion, choices=4, tool_calls=2)
