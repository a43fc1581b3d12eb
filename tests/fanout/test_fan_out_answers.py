"""`fan_out(response_format=T)`: the first answer that is a value of the type wins, and one that is none has failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from client_calls import CALL, MESSAGES, Start
from msgspec import Struct

from gradient_async import (
    Answer,
    AsyncGradient,
    BadRequestError,
    ChatCompletion,
    ContentFilterFinishReasonError,
    FanOut,
    FanOutError,
    InvalidRequestError,
    LengthFinishReasonError,
    OutputDecodeError,
    OutputError,
    OutputValidationError,
    ParsedChatCompletion,
    ParsedChoice,
)
from gradient_async.testing import HOLD, Handler, chunk, completion, reply_json, reply_sse, reply_writes


class Count(Struct):
    n: int


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def says(text: str, *, after: float = 0.0, finish_reason: str = "stop", **delta: Any) -> Handler:
    """Stream this text in two pieces."""
    half = len(text) // 2
    pieces = [
        chunk(text[:half], **delta),
        chunk(text[half:]),
        chunk(finish_reason=finish_reason, usage=USAGE),
    ]
    return reply_writes([after, *reply_sse(*pieces).steps])


def valid(n: int, *, after: float = 0.0) -> Handler:
    return says(f'{{"n":{n}}}', after=after)


HANGS = reply_writes([*reply_sse(chunk('{"n":'), done=False).steps[:-1], HOLD])
INVALID = says('{"n":"x"}')
REFUSAL = says("", refusal="I won't")
BROKEN = reply_json({"error": {"message": "no"}}, 400)


def fan_out(client: AsyncGradient, **options: Any) -> FanOut[ParsedChatCompletion[Count]]:
    call: Any = client.chat.completions.fan_out
    fan: FanOut[ParsedChatCompletion[Count]] = call(**(CALL | {"response_format": Count} | options))
    return fan


def values(parsed: ParsedChatCompletion[Count]) -> dict[int, Any]:
    return {choice.index: choice.message.parsed for choice in parsed.choices}


def always(choice: ParsedChoice[Count]) -> bool:
    return choice.message.parsed is not None


async def test_each_choice_has_its_value(start: Start) -> None:
    """The schema is sent with each request; the completion is parsed, with the usage of all."""
    server, client = await start(valid(0), valid(1))
    async with fan_out(client, n=2, max_concurrency=1) as fan:
        found = await fan.completion()
        assert ParsedChatCompletion is type(found) is type(fan.snapshot)
        assert {0: Count(0), 1: Count(1)} == values(found) == values(fan.snapshot)
        assert found.usage is not None
        assert 10 == found.usage.total_tokens
        kinds = [type(result.choice) for result in fan.results]
        assert [ParsedChoice] * 2 == kinds
    assert [Answer(Count).response_format] * 2 == [each.json["response_format"] for each in server.requests]


async def test_agents_answers_that_say_more_and_awaited_replies(start: Start) -> None:
    _, client = await start(handler=reply_json(completion('{"n":3}')))
    call = client.agents.chat.completions.fan_out
    fan = call(n=2, messages=MESSAGES, response_format=Answer(Count, name="counted"), stream=False)
    assert {0: Count(3), 1: Count(3)} == values(await fan.completion())


async def test_a_schema_as_the_api_takes_it_gives_plain_choices(start: Start) -> None:
    _, client = await start(handler=valid(1))
    fan = fan_out(client, n=1, response_format={"type": "json_object"})
    assert ChatCompletion is type(await fan.completion())


async def test_a_type_without_a_schema_is_refused_at_the_call(start: Start) -> None:
    server, client = await start()
    with pytest.raises(InvalidRequestError):
        fan_out(client, n=2, response_format=object())
    assert not server.requests


@pytest.mark.parametrize("on_error", ["raise", "collect"])
@pytest.mark.parametrize("way", [{"first": 1}, {"stop_when": always}])
@pytest.mark.parametrize(
    ("faulty", "kind"),
    [
        (INVALID, OutputValidationError),
        (says("no"), OutputDecodeError),
        (says('{"n":1}', finish_reason="length"), LengthFinishReasonError),
        (says('{"n":', finish_reason="content_filter"), ContentFilterFinishReasonError),
    ],
)
async def test_an_answer_that_is_no_value_wins_nothing(
    start: Start, faulty: Handler, kind: type[OutputError], way: Any, on_error: str
) -> None:
    """The others go on, whatever `on_error` says; the first valid one wins, and then the rest is not needed."""
    _, client = await start(faulty, valid(7), HANGS)
    async with fan_out(client, n=3, max_concurrency=1, on_error=on_error, **way) as fan:
        found = await fan.completion()
        assert (1, [1]) == (fan.winner, fan.winners)
        assert {1: Count(7)} == values(found)
        assert found.parsed == Count(7)
        assert ["failed", "completed", "stopped"] == [result.state for result in fan.results]
        assert [None, Count(7), None] == [result.parsed for result in fan.results]
        (error,) = fan.errors.values()
        assert kind is type(error)
        assert fan.results[0].choice is None


@pytest.mark.parametrize("on_error", ["raise", "collect"])
@pytest.mark.parametrize("way", [{"first": 1}, {"first": 2}, {"stop_when": always}])
async def test_no_choice_is_left(start: Start, way: Any, on_error: str) -> None:
    """A FanOutError of all, whatever `on_error` says."""
    _, client = await start(INVALID, says("no"), says('{"n":1}', finish_reason="length"))
    async with fan_out(client, n=3, max_concurrency=1, on_error=on_error, **way) as fan:
        with pytest.raises(FanOutError) as raised:
            await fan.completion()
    assert [OutputValidationError, OutputDecodeError, LengthFinishReasonError] == [
        type(raised.value.errors[index]) for index in range(3)
    ]
    assert raised.value.message.startswith("3 of 3 choices failed: the answer is not a valid Count")
    partial = raised.value.partial
    assert partial is not None
    assert (ChatCompletion, 3) == (type(partial), len(partial.choices))


async def test_some_choices_are_left_but_not_enough(start: Start) -> None:
    """By ``on_error="raise"`` the failed ones are raised, else what there is is returned."""
    for on_error in ("raise", "collect"):
        _, client = await start(valid(1), INVALID)
        async with fan_out(client, n=2, first=2, on_error=on_error) as fan:
            if on_error == "raise":
                with pytest.raises(FanOutError, match="1 of 2 choices failed: "):
                    await fan.completion()
            else:
                assert 1 == len((await fan.completion()).choices)
                assert 1 == len(fan.errors)


async def test_without_first_on_error_decides(start: Start) -> None:
    """By default the first fault cancels the others; ``"collect"`` keeps the valid choices."""
    _, client = await start(INVALID, HANGS)
    async with fan_out(client, n=2, max_concurrency=2) as fan:
        with pytest.raises(FanOutError, match="1 of 2 choices failed, and the others were given up"):
            await fan.completion()
    _, client = await start(INVALID, valid(1), says("no"))
    async with fan_out(client, n=3, max_concurrency=1, on_error="collect") as fan:
        assert {1: Count(1)} == values(await fan.completion())
        assert [0, 2] == list(fan.errors)
    _, client = await start(handler=INVALID)
    async with fan_out(client, n=2, on_error="collect") as fan:
        assert [] == (await fan.completion()).choices


async def test_other_errors_end_it_as_ever(start: Start) -> None:
    """With ``first=1`` too, because a request that fails costs an answer that was asked for."""
    _, client = await start(BROKEN, HANGS)
    async with fan_out(client, n=2, first=1) as fan:
        with pytest.raises(FanOutError) as raised:
            await fan.completion()
    assert isinstance(raised.value.errors[0], BadRequestError)
    _, client = await start(handler=BROKEN)
    async with fan_out(client, n=2, on_error="collect") as fan:
        assert [] == (await fan.completion()).choices


@pytest.mark.parametrize("replies", [[BROKEN, BROKEN], [BROKEN, INVALID]])
async def test_no_choice_is_left_for_whatever_reasons(start: Start, replies: list[Handler]) -> None:
    """Who waits for a valid answer is told that there is none, also if no answer came at all."""
    _, client = await start(*replies)
    async with fan_out(client, n=2, first=1, max_concurrency=1, on_error="collect") as fan:
        with pytest.raises(FanOutError, match="2 of 2 choices failed") as raised:
            await fan.completion()
    assert {0, 1} == raised.value.errors.keys() == fan.errors.keys()


async def test_the_error_of_a_choice(start: Start) -> None:
    """It has the completion of the choice's reply, and the index of the choice."""
    faulty = reply_sse(
        chunk('{"n":"x"}'), chunk(finish_reason="stop", usage=USAGE), headers={"x-request-id": "r-2"}
    )
    _, client = await start(valid(0), faulty)
    async with fan_out(client, n=2, max_concurrency=1, on_error="collect") as fan:
        await fan.completion()
        error = fan.errors[1]
    assert isinstance(error, OutputValidationError)
    assert (1, "$.n", '{"n":"x"}', "r-2") == (error.choice, error.path, error.text, error.request_id)
    assert ParsedChatCompletion is type(error.completion)
    assert {1: None} == values(error.completion)
    assert error.completion.usage is not None
    assert error.completion.headers["x-request-id"] == "r-2"


async def test_stop_when_sees_parsed_choices_and_valid_answers_only(start: Start) -> None:
    """Also if it is asynchronous."""
    seen: list[Any] = []

    async def wanted(choice: ParsedChoice[Count]) -> bool:
        await asyncio.sleep(0)
        seen.append(choice)
        return choice.message.parsed == Count(2)

    _, client = await start(INVALID, REFUSAL, valid(1), valid(2), HANGS)
    async with fan_out(client, n=5, max_concurrency=1, stop_when=wanted) as fan:
        assert {3: Count(2)} == values(await fan.completion())
    assert [(ParsedChoice, 2), (ParsedChoice, 3)] == [(type(choice), choice.index) for choice in seen]


CALLS = says(
    "",
    finish_reason="tool_calls",
    tool_calls=[{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
)


@pytest.mark.parametrize("silent", [REFUSAL, CALLS], ids=["refusal", "call"])
async def test_a_refusal_is_a_choice_and_does_not_win(start: Start, silent: Handler) -> None:
    """No fault either; nor does a choice win that calls tools and says nothing."""
    _, client = await start(silent, valid(1))
    async with fan_out(client, n=2, first=1, max_concurrency=1) as fan:
        assert {1: Count(1)} == values(await fan.completion())
        assert ([1], {}) == (fan.winners, fan.errors)
        assert "completed" == fan.results[0].state
    _, client = await start(handler=silent)
    async with fan_out(client, n=2, first=1) as fan:
        assert {0: None, 1: None} == values(await fan.completion())
        assert ([], {}) == (fan.winners, fan.errors)
    _, client = await start(silent, INVALID)
    async with fan_out(client, n=2, first=1, max_concurrency=1, on_error="collect") as fan:
        assert {0: None} == values(await fan.completion()), "a choice is left"


async def test_none_is_a_value(start: Start) -> None:
    """Of a type that has it: it wins, other than a refusal."""
    _, client = await start(says('{"value":null}'), HANGS)
    async with fan_out(client, n=2, first=1, response_format=Count | None) as fan:
        found = await fan.completion()
        assert {fan.winner: None} == values(found)
        assert ["completed", "stopped"] == sorted(result.state for result in fan.results)


@pytest.mark.parametrize("native", [True, "auto"])
async def test_one_request_for_all_choices(start: Start, native: Any) -> None:
    """A choice of it that is no value has failed, and the first valid one ends it; none is asked for again."""
    texts = ['{"n":"x"}', '{"n":1}', '{"n":2}']
    wire = [chunk(text, index=index) for index, text in enumerate(texts)]
    ends = [chunk(index=index, finish_reason="stop") for index in range(3)]
    server, client = await start(handler=reply_sse(*wire, *ends))
    async with fan_out(client, n=3, native=native, first=1) as fan:
        assert {1: Count(1)} == values(await fan.completion())
        assert [0] == list(fan.errors)
    async with fan_out(client, n=3, native=native, on_error="collect") as fan:
        assert {1: Count(1), 2: Count(2)} == values(await fan.completion())
    async with fan_out(client, n=3, native=native, first=3, on_error="collect") as fan:
        assert {1: Count(1), 2: Count(2)} == values(await fan.completion())
    assert [3, 3, 3] == [request.json["n"] for request in server.requests]


async def test_events_have_values(start: Start) -> None:
    """Those of each choice; a choice that is no value raises where it is read."""
    _, client = await start(valid(1), INVALID)
    async with fan_out(client, n=2, max_concurrency=1, on_error="collect") as fan:
        events: list[Any] = [event async for event in fan.events()]
    grown = [event.parsed for event in events if event.type == "content.delta" and event.choice == 0]
    assert [{"n": 1}] * 2 == grown
    done = {event.choice: event for event in events if event.type == "content.done"}
    assert Count(1) == done[0].parsed
    with pytest.raises(OutputValidationError) as raised:
        _ = done[1].parsed
    assert 1 == raised.value.choice


async def test_snapshots_of_choices_that_go_on(start: Start) -> None:
    _, client = await start(HANGS)
    async with fan_out(client, n=1) as fan:
        async for _ in fan:
            break
        assert {0: None} == values(fan.snapshot)
