"""`parse`: a type as the form of the answer, for models, agents and raw responses; and functions as tools."""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from client_calls import CALL, MESSAGES, Start
from msgspec import Struct

from gradient_async import (
    NOT_GIVEN,
    Answer,
    AsyncGradient,
    ConfigurationError,
    ContentFilterFinishReasonError,
    InvalidRequestError,
    LengthFinishReasonError,
    OutputDecodeError,
    OutputError,
    OutputValidationError,
    ParsedChatCompletion,
    RateLimitError,
    tool,
)
from gradient_async.output import answer_of
from gradient_async.testing import Handler, chunk, completion, reply_json, reply_sse


class Count(Struct):
    n: int


class Text(Struct, tag=True):
    text: str


class Number(Struct, tag=True):
    n: int


def get_weather(city: str, unit: Literal["C", "F"] = "C") -> str:
    """Tell the weather of a city."""
    return f"{city} {unit}"


def says(*texts: str | None, **extra: Any) -> Handler:
    """Reply with a choice for each text."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for index, text in enumerate(texts)
    ]
    return reply_json(completion(choices=choices) | extra)


async def parse(client: AsyncGradient, response_format: Any, **params: Any) -> ParsedChatCompletion[Any]:
    """Ask for an answer."""
    call: Any = client.chat.completions.parse
    parsed: ParsedChatCompletion[Any] = await call(**(CALL | params), response_format=response_format)
    return parsed


async def test_a_value_of_the_type(start: Start) -> None:
    """The schema is sent, and nothing else about the request changes."""
    server, client = await start(says('{"n":3}', id="c-1"))
    parsed = await parse(client, Count, temperature=0.5, n=2)
    assert (Count(3), Count(3), "c-1") == (parsed.parsed, parsed.choices[0].message.parsed, parsed.id)
    assert (ParsedChatCompletion, 1) == (type(parsed), parsed.attempts)
    assert parsed.headers and parsed.body["id"] == "c-1"
    body = server.requests[0].json
    assert {**CALL, "temperature": 0.5, "n": 2, "response_format": Answer(Count).response_format} == body


@pytest.mark.parametrize(
    ("response_format", "text", "value"),
    [
        (Count, '```json\n{"n": 2.0}\n```', Count(2)),
        (Answer(Count, name="Counted", strict=False), '{"n":2}', Count(2)),
        (list[Count], '{"value":[{"n":2}]}', [Count(2)]),
        (dict[str, int], '{"a":2}', {"a": 2}),
        (Text | Number, '{"value":{"type":"Number","n":1}}', Number(1)),
        (Count | None, '{"value":null}', None),
        (Literal["a", "b"], '{"value":"b"}', "b"),
        (Annotated[int, msgspec.Meta(ge=1)], '{"value":1}', 1),
        (Annotated[Count, "x"], '{"n":2}', Count(2)),
        (Any, '{"value":[1]}', [1]),
    ],
)
async def test_every_form_of_a_type(start: Start, response_format: Any, text: str, value: Any) -> None:
    server, client = await start(says(text))
    assert value == (await parse(client, response_format)).parsed
    answer = answer_of(response_format)
    assert answer is not None and answer.response_format == server.requests[0].json["response_format"]


@pytest.mark.parametrize("response_format", [None, NOT_GIVEN, {"type": "json_object"}])
async def test_a_schema_as_the_api_takes_it(start: Start, response_format: Any) -> None:
    """It goes as it is, and `.parsed` is None, as in openai; so it is without any."""
    server, client = await start(says("text"))
    parsed = await parse(client, response_format)
    assert (None, "text") == (parsed.parsed, parsed.choices[0].message.content)
    sent = {} if response_format is NOT_GIVEN else {"response_format": response_format}
    assert {**CALL, **sent} == server.requests[0].json
    assert (await client.chat.completions.parse(**CALL)).parsed is None


async def test_agents_and_raw_responses(start: Start) -> None:
    server, client = await start(handler=says('{"n":3}'))
    parsed = await client.agents.chat.completions.parse(messages=MESSAGES, response_format=Count)
    assert Count(3) == parsed.parsed
    raw = client.with_raw_response
    for completions in (
        client.chat.completions.with_raw_response,
        raw.chat.completions,
        raw.agents.chat.completions,
    ):
        response = await completions.parse(**CALL, response_format=Count)
        assert (200, '{"n":3}') == (
            response.status_code,
            (await response.json())["choices"][0]["message"]["content"],
        )
        found = await response.parse()
        assert (Count(3), found) == (found.parsed, await response.parse())
    formats = {json.dumps(request.json["response_format"]) for request in server.requests}
    assert {json.dumps(Answer(Count).response_format)} == formats
    assert 2 == sum("/api/v1/" in request.path for request in server.requests)


async def test_raw_responses_hold_what_is_no_value(start: Start) -> None:
    _, client = await start(says("no"))
    response = await client.chat.completions.with_raw_response.parse(**CALL, response_format=Count)
    with pytest.raises(OutputDecodeError) as raised:
        await response.parse()
    assert "no" == raised.value.text
    untyped = await client.chat.completions.with_raw_response.parse(**CALL)
    assert (await untyped.parse()).parsed is None


async def test_a_stream_in_place_of_a_completion(start: Start) -> None:
    """A server that always streams."""
    _, client = await start(reply_sse(chunk('{"n"'), chunk(":3}", finish_reason="stop")))
    assert Count(3) == (await parse(client, Count)).parsed


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (says("no"), OutputDecodeError),
        (says(None), OutputDecodeError),
        (says('{"n":"3"}'), OutputValidationError),
        (reply_json(completion('{"n":3}', finish_reason="length")), LengthFinishReasonError),
        (reply_json(completion('{"n":3}', finish_reason="content_filter")), ContentFilterFinishReasonError),
    ],
)
async def test_faults(start: Start, reply: Handler, kind: type[OutputError]) -> None:
    """The error has the completion, and nothing is asked again unless the caller wants it."""
    server, client = await start(reply, max_retries=2)
    with pytest.raises(kind) as raised:
        await parse(client, Count)
    error = raised.value
    assert error.completion.usage is not None
    assert (1, 12) == (len(server.requests), error.completion.usage.total_tokens)


async def test_refusals_and_calls(start: Start) -> None:
    """`.parsed` is None where the model refused, and where it calls tools and says nothing."""
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"b"}'}}
    _, client = await start(
        reply_json(completion(None, refusal="no")), reply_json(completion(None, tool_calls=[call]))
    )
    assert (await parse(client, Count)).parsed is None
    calls = await parse(client, Count, tools=[get_weather])
    assert calls.parsed is None and calls.choices[0].message.tool_calls is not None
    assert {"city": "b"} == calls.choices[0].message.tool_calls[0].function.parsed_arguments


class TestRefusedEarly:
    """Before anything is sent."""

    async def test_create_takes_no_type(self, start: Start) -> None:
        server, client = await start(says("x"))
        for validate in (True, False):
            other = client.with_options(validate=validate)
            for kind in (Count, Answer(Count), list[Count], Count | None, Literal["a"]):
                for calls in (
                    other.chat.completions.create,
                    other.chat.completions.with_raw_response.create,
                    other.agents.chat.completions.create,
                ):
                    create: Any = calls
                    with pytest.raises(InvalidRequestError, match=r"use parse\(\) or stream\(\)") as refused:
                        await create(**CALL, response_format=kind)
                    assert "response_format" == refused.value.param
        assert [] == server.requests

    async def test_stream_is_a_mistake(self, start: Start) -> None:
        server, client = await start(says("x"))
        for calls in (client.chat.completions.parse, client.chat.completions.with_raw_response.parse):
            call: Any = calls
            for stream in (True, False, None):
                with pytest.raises(TypeError, match=r"parse\(\) never streams"):
                    await call(**CALL, response_format=Count, stream=stream)
        assert [] == server.requests
        call = client.chat.completions.parse
        assert (await call(**CALL, stream=NOT_GIVEN)).parsed is None

    async def test_types_without_a_schema(self, start: Start) -> None:
        server, client = await start(says("x"))
        for kind in (Count(1), len, object, Answer):
            with pytest.raises(InvalidRequestError, match="response_format="):
                await parse(client, kind)
        assert [] == server.requests

    @pytest.mark.parametrize(
        "params", [{"n": 2}, {"extra_body": {"n": 2}}, {"extra_body": {"messages": MESSAGES}}]
    )
    async def test_retries_of_several_choices(self, start: Start, params: dict[str, Any]) -> None:
        server, client = await start(says("x"))
        with pytest.raises(InvalidRequestError, match="output_retries=1: ") as refused:
            await parse(client, Count, output_retries=1, **params)
        assert ("output_retries", []) == (refused.value.param, server.requests)

    async def test_retries_where_nothing_is_asked_again(self, start: Start) -> None:
        server, client = await start(says("x"))
        chat: Any = client.chat.completions
        for call in (
            chat.stream,
            functools.partial(chat.fan_out, n=2),
            functools.partial(chat.run, tools=[get_weather]),
        ):
            with pytest.raises(TypeError, match=r"only parse\(\) and map\(\) ask again"):
                call(**CALL, response_format=Count, output_retries=1)
        with pytest.raises(TypeError, match=r"only parse\(\) and map\(\) ask again"):
            await chat.with_raw_response.parse(**CALL, response_format=Count, output_retries=1)
        assert [] == server.requests

    async def test_no_number_of_retries(self, start: Start) -> None:
        _, client = await start(says("x"))
        for wrong in (-1, 1.5, "1", True):
            with pytest.raises((ConfigurationError, TypeError)):
                await parse(client, Count, output_retries=wrong)


class TestRetries:
    """`output_retries=`."""

    async def test_asks_again_with_the_answer_and_its_fault(self, start: Start) -> None:
        server, client = await start(says('{"n":"3"}'), says("three"), says('{"n":3}'))
        parsed = await parse(client, Count, output_retries=3, messages=iter(MESSAGES))
        assert (Count(3), 3) == (parsed.parsed, parsed.attempts)
        assert parsed.usage is not None and 36 == parsed.usage.total_tokens
        first, second, third = (request.json["messages"] for request in server.requests)
        assert MESSAGES == first
        assert [*MESSAGES, {"role": "assistant", "content": '{"n":"3"}'}] == second[:-1]
        assert "user" == second[-1]["role"]
        assert "Expected `int`, got `str` - at $.n" in second[-1]["content"]
        assert [*second, {"role": "assistant", "content": "three"}] == third[:-1]
        assert "The answer is not JSON" in third[-1]["content"]

    async def test_the_last_error_is_raised(self, start: Start) -> None:
        server, client = await start(says("one"), says("two"), says("three"))
        with pytest.raises(OutputDecodeError) as raised:
            await parse(client, Count, output_retries=2)
        error = raised.value
        assert error.completion.usage is not None
        assert ("three", 3, 3, 36) == (
            error.text,
            error.attempts,
            len(server.requests),
            error.completion.usage.total_tokens,
        )

    @pytest.mark.parametrize(
        "reply",
        [
            reply_json(completion("{", finish_reason="length")),
            reply_json(completion("{", finish_reason="content_filter")),
            reply_json(completion(None, refusal="no")),
        ],
    )
    async def test_never_after_length_filter_or_refusal(self, start: Start, reply: Handler) -> None:
        server, client = await start(reply)
        try:
            assert (await parse(client, Count, output_retries=2)).parsed is None
        except (LengthFinishReasonError, ContentFilterFinishReasonError):
            pass
        assert 1 == len(server.requests)

    @pytest.mark.parametrize("none", [0, NOT_GIVEN])
    async def test_nothing_is_paid_twice_unasked(self, start: Start, none: Any) -> None:
        server, client = await start(says("x"))
        with pytest.raises(OutputDecodeError):
            await parse(client, Count, output_retries=none, n=2)
        assert 1 == len(server.requests)

    async def test_usage_that_is_not_told(self, start: Start) -> None:
        _, client = await start(says("x", usage=None), says('{"n":1}', usage=None))
        parsed = await parse(client, Count, output_retries=1)
        assert (None, 2) == (parsed.usage, parsed.attempts)

    async def test_errors_of_the_server_are_raised(self, start: Start) -> None:
        _, client = await start(says("x"), reply_json({"error": {"message": "slow down"}}, status=429))
        with pytest.raises(RateLimitError):
            await parse(client, Count, output_retries=1)

    async def test_empty_answers(self, start: Start) -> None:
        """An answer without text is sent back as an empty text."""
        server, client = await start(says(None), says('{"n":1}'))
        await parse(client, Count, output_retries=1)
        assert {"role": "assistant", "content": ""} == server.requests[1].json["messages"][-2]

    async def test_headers_are_hidden_in_each_request(self, start: Start) -> None:
        server, client = await start(says("x"), says('{"n":1}'))
        await parse(client, Count, output_retries=1, extra_headers={"X-Api-Key": "secret"})
        assert ["secret", "secret"] == [request.headers["X-Api-Key"] for request in server.requests]


class TestTools:
    """Functions in `tools=` of every method."""

    async def test_functions_and_tools(self, start: Start) -> None:
        sent = [tool(get_weather).to_dict(), tool(get_weather, name="again", strict=True).to_dict()]
        for tools in (
            [get_weather, tool(get_weather, name="again", strict=True)],
            iter([get_weather, sent[1]]),
        ):
            server, client = await start(handler=says('{"n":1}'))
            params: dict[str, Any] = {**CALL, "tools": list(tools)}
            chat = client.chat.completions
            await chat.create(**params)
            await chat.parse(**params, response_format=Count)
            await chat.with_raw_response.create(**params)
            await client.agents.chat.completions.create(messages=MESSAGES, tools=params["tools"])
            async with chat.stream(**params) as stream:
                await stream.completion()
            async with chat.fan_out(n=2, **params) as fan:
                await fan.completion()
            assert [None, None] == [
                result.error async for result in chat.map([params, CALL], tools=params["tools"])
            ]
            assert [sent] * 9 == [request.json["tools"] for request in server.requests]

    async def test_two_of_one_name(self, start: Start) -> None:
        server, client = await start(says("x"))
        with pytest.raises(InvalidRequestError, match="two tools have the name get_weather"):
            await client.chat.completions.create(**CALL, tools=[get_weather, tool(get_weather)])
        assert [] == server.requests
