"""`FanOut`: n choices by n requests or by one, read in every way that a stream can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from client_calls import CALL, Start
from many_servers import Echo

from gradient_async import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    FanOut,
    FanOutError,
    InternalServerError,
    StreamInterruptedError,
    StreamTruncatedError,
    UnprocessableEntityError,
)
from gradient_async.testing import (
    CLOSE,
    HOLD,
    Handler,
    chunk,
    completion,
    reply_json,
    reply_sse,
    reply_writes,
)
from gradient_async.types import CompletionUsage

WAYS = [pytest.param(True, id="streamed"), pytest.param(False, id="awaited")]


def usage(prompt: int, generated: int, **details: Any) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        **details,
    }


def answer(text: str, **extra: Any) -> Handler:
    """Stream one choice in three pieces."""
    middle = len(text) // 2
    fields: dict[str, Any] = {"id": f"id-{text}", **extra}
    last: dict[str, Any] = {"usage": usage(3, 2), **fields, "choices": []}
    fields.pop("usage", None)
    return reply_sse(
        chunk("", role="assistant", **fields),
        chunk(text[:middle], **fields),
        chunk(text[middle:], **fields),
        chunk(finish_reason="stop", **fields),
        chunk(**last),
        headers={"x-request-id": f"r-{text}"},
    )


def whole(text: str, **extra: Any) -> Handler:
    fields: dict[str, Any] = {"id": f"id-{text}", "usage": usage(3, 2), **extra}
    return reply_json(completion(text, **fields), headers={"x-request-id": f"r-{text}"})


def choices(*texts: str) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "logprobs": None,
        }
        for index, text in enumerate(texts)
    ]


def both(*texts: str, stream: bool) -> list[Handler]:
    return [answer(text) if stream else whole(text) for text in texts]


def texts_of(fan: FanOut) -> dict[int, str | None]:
    return {choice.index: choice.message.content for choice in fan.snapshot.choices}


# The surface


@pytest.mark.parametrize("stream", WAYS)
async def test_chunks_have_the_index_of_their_choice(start: Start, stream: bool) -> None:
    server, client = await start(*both("zero", "one", "two", stream=stream))
    seen: dict[int, str] = {0: "", 1: "", 2: ""}
    ids: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}
    async with client.chat.completions.fan_out(n=3, max_concurrency=1, stream=stream, **CALL) as fan:
        assert "<FanOut 0 of 3 choices done>" == repr(fan)
        assert (3, None, None, [], {}, None, None) == (
            fan.n,
            fan.request_id,
            fan.rate_limits,
            fan.winners,
            fan.errors,
            fan.winner,
            fan.usage,
        )
        async for piece in fan:
            for choice in piece.choices:
                seen[choice.index] += choice.delta.content or ""
                ids[choice.index].add(piece.id)
        completion = await fan.completion()
    assert {0: "zero", 1: "one", 2: "two"} == seen == texts_of(fan)
    assert {0: {"id-zero"}, 1: {"id-one"}, 2: {"id-two"}} == ids
    assert ["zero", "one", "two"] == [choice.message.content for choice in completion.choices]
    assert ["stop"] * 3 == [choice.finish_reason for choice in completion.choices]
    assert ["assistant"] * 3 == [choice.message.role for choice in completion.choices]
    assert completion.usage is not None
    assert (9, 6, 15) == (
        completion.usage.prompt_tokens,
        completion.usage.completion_tokens,
        completion.usage.total_tokens,
    )
    assert fan.usage == completion.usage
    assert ["r-zero", "r-one", "r-two"] == fan.request_ids
    assert "r-zero" == fan.request_id == completion.request_id
    assert 3 == fan.attempts == completion.attempts == len(server.requests)
    assert [("completed", 1, "id-zero"), ("completed", 1, "id-one"), ("completed", 1, "id-two")] == [
        (result.state, result.requests, result.id) for result in fan.results
    ]
    assert [0, 1, 2] == [result.choice.index for result in fan.results if result.choice is not None]
    assert "<FanOut 3 of 3 choices done>" == repr(fan)
    assert fan.completed
    bodies = [request.json for request in server.requests]
    asked = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    assert [{**CALL, **asked}] * 3 == bodies


@pytest.mark.parametrize("stream", WAYS)
async def test_the_completion_can_be_awaited_without_entering(start: Start, stream: bool) -> None:
    _, client = await start(*both("zero", "one", stream=stream))
    fan = client.chat.completions.fan_out(n=2, max_concurrency=1, stream=stream, **CALL)
    found = await fan.completion()
    assert ["zero", "one"] == [choice.message.content for choice in found.choices]
    assert found == await fan.completion() == await fan.get_final_completion()


async def test_agents_have_fan_out_too(start: Start) -> None:
    server, client = await start(*both("zero", "one", stream=True))
    fan = client.agents.chat.completions.fan_out(n=2, messages=CALL["messages"])
    assert 2 == len((await fan.completion()).choices)
    assert server.requests[1].headers["authorization"] == "Bearer agent-key-0123"


async def test_text_of_choice_0_and_of_single_choices(start: Start) -> None:
    _, client = await start(*both("zero", "one", "two", stream=True))
    async with client.chat.completions.fan_out(n=3, max_concurrency=1, **CALL) as fan:
        assert "zero" == "".join([text async for text in fan.text])
    _, client = await start(*both("zero", "one", "two", stream=True))
    async with client.chat.completions.fan_out(n=3, max_concurrency=1, **CALL) as fan:

        async def follow(index: int) -> str:
            return "".join([text async for text in fan.choice(index).text])

        assert ["zero", "one", "two", ""] == await asyncio.gather(*map(follow, range(4)))
        assert 3 == len((await fan.completion()).choices)


async def test_readers_of_choices_go_on_while_the_completion_is_awaited(start: Start) -> None:
    _, client = await start(*both("zero", "one", stream=True))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:

        async def follow(index: int) -> str:
            return "".join([text async for text in fan.choice(index).text])

        readers = [asyncio.create_task(follow(index)) for index in range(2)]
        await asyncio.sleep(0)
        found = await fan.completion()
        assert ["zero", "one"] == await asyncio.gather(*readers)
    assert ["zero", "one"] == [choice.message.content for choice in found.choices]


async def test_events_of_all_choices(start: Start) -> None:
    _, client = await start(*both("zero", "one", stream=True))
    done: dict[int, str | None] = {}
    kinds: list[str] = []
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        async for event in fan.events():
            kinds.append(event.type)
            if event.type == "content.done":
                done[event.choice] = event.content
    assert {0: "zero", 1: "one"} == done
    assert "usage" == kinds[-1]


async def test_usage_at_the_end_of_a_request_takes_nothing_away(start: Start) -> None:
    """Of one request each count is the largest; zeros behind the real usage do not count."""
    first = reply_sse(
        chunk("a", usage=usage(3, 1)),
        chunk(finish_reason="stop", usage=usage(3, 4)),
        chunk(usage=usage(0, 0)),
    )
    _, client = await start(first, answer("two", usage=usage(5, 7)))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        usages = [piece.usage async for piece in fan]
    told = [(usage.prompt_tokens, usage.completion_tokens) for usage in usages if usage is not None]
    assert [(3, 1), (3, 4), (3, 4), (8, 11)] == told


async def test_usage_grows_with_each_request(start: Start) -> None:
    """A chunk's usage is the sum over all requests so far, also where a request tells its usage several times."""
    details: dict[str, Any] = {"completion_tokens_details": {"reasoning_tokens": 1}}
    first = reply_sse(
        chunk("a", usage=usage(3, 1)),
        chunk("b", usage=usage(3, 2, **details)),
        chunk(finish_reason="stop", usage=usage(3, 3, **details)),
    )
    server, client = await start(first, answer("two", usage=usage(5, 7, **details)))
    async with client.chat.completions.fan_out(
        n=2, max_concurrency=1, stream_options={"include_usage": False}, **CALL
    ) as fan:
        usages = [piece.usage async for piece in fan]
    reported = [(usage.prompt_tokens, usage.completion_tokens) for usage in usages if usage is not None]
    assert [(3, 1), (3, 2), (3, 3), (8, 10)] == reported
    assert isinstance(fan.usage, CompletionUsage)
    assert fan.usage.completion_tokens_details is not None
    assert 2 == fan.usage.completion_tokens_details.reasoning_tokens
    assert {"include_usage": False} == server.requests[0].json["stream_options"]


async def test_rate_limits_are_those_of_the_latest_reply(start: Start) -> None:
    def limited(left: int) -> Handler:
        return reply_sse(
            chunk("x"), chunk(finish_reason="stop"), headers={"x-ratelimit-remaining-requests": str(left)}
        )

    _, client = await start(limited(9), limited(8))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        found = await fan.completion()
    assert fan.rate_limits is not None
    assert 8 == fan.rate_limits.requests.remaining
    assert found.rate_limits == fan.rate_limits


async def test_anomalies_are_counted_over_all_replies(start: Start) -> None:
    """The count covers finished replies, a reply in progress, and that reply after it was cancelled."""
    odd = reply_sse("no JSON", chunk("x"), "nor this", chunk(finish_reason="stop"))
    begun = reply_writes([*reply_sse("no JSON", chunk("y"), done=False).steps[:-1], HOLD])
    server, client = await start(odd, begun, odd, whole("z"), on_bad_event="skip")
    fan = client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL)
    assert 0 == fan.anomalies
    async with fan:
        async for piece in fan:
            if any(choice.delta.content == "y" for choice in piece.choices):
                break
        assert (3, "running") == (fan.anomalies, fan.results[1].state)
    assert (3, "stopped") == (fan.anomalies, fan.results[1].state)
    in_one = client.chat.completions.fan_out(n=2, native="auto", **CALL)
    await in_one.completion()
    assert 2 == in_one.anomalies
    assert 4 == len(server.requests)


async def test_timing(start: Start) -> None:
    """The second request begins after the end of the first, and the time to the first token does not have it."""
    _, client = await start(handler=Echo(pause=0.05))
    fan = client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL)
    assert fan.timing.first_token is None
    async with fan:
        await fan.completion()
    timing = fan.timing
    assert timing.first_token is not None
    assert 0.04 < timing.first_token < timing.total - 0.04
    assert timing == fan.timing


async def test_max_concurrency(start: Start) -> None:
    echo = Echo(pause=0.02)
    _, client = await start(handler=echo)
    assert 9 == len(
        (await client.chat.completions.fan_out(n=9, max_concurrency=4, **CALL).completion()).choices
    )
    assert 4 == echo.max_in_flight
    echo.max_in_flight = 0
    assert 9 == len((await client.chat.completions.fan_out(n=9, **CALL).completion()).choices)
    assert 9 == echo.max_in_flight


async def test_a_slow_reader_slows_the_server(start: Start) -> None:
    """Chunks do not pile up: requests wait for the reader, and nothing is lost."""
    many = [chunk(str(number % 10), id="x") for number in range(5000)]
    long = reply_sse(*many, chunk(finish_reason="stop"), per_write=100)
    _, client = await start(long, long)
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        await anext(fan)
        await asyncio.sleep(0.1)
        assert 0 < fan._runner.merged._waiting_count < 1024 + 2 * 1000
        found = await fan.completion()
    assert [5000, 5000] == [len(choice.message.content or "") for choice in found.choices]


# One request for all


@pytest.mark.parametrize("native", [True, "auto"])
@pytest.mark.parametrize("stream", WAYS)
async def test_native_gets_all_choices_by_one_request(
    start: Start, native: bool | Literal["auto"], stream: bool
) -> None:
    server, client = await start()
    call: dict[str, Any] = {**CALL, "temperature": 1.0}
    async with client.chat.completions.fan_out(n=3, native=native, stream=stream, **call) as fan:
        seen = {choice.index async for piece in fan for choice in piece.choices}
        found = await fan.completion()
    assert {0, 1, 2} == seen
    assert [0, 1, 2] == [choice.index for choice in found.choices]
    assert 1 == len(server.requests) == fan.attempts
    assert 3 == server.requests[0].json["n"]
    assert 1 == len({result.id for result in fan.results})
    assert 1 == len({*fan.request_ids})
    assert ["completed"] * 3 == [result.state for result in fan.results]


async def test_native_auto_beyond_the_limit_of_n(start: Start) -> None:
    """The documented limit of n is 128. Each choice beyond it has a request."""
    server, client = await start()
    fan = client.chat.completions.fan_out(n=130, native="auto", stream=False, **CALL)
    found = await fan.completion()
    assert [*range(130)] == [choice.index for choice in found.choices]
    assert [128, None, None] == [request.json.get("n") for request in server.requests]


@pytest.mark.parametrize("native", [True, "auto"])
async def test_choices_without_indices_of_their_own(start: Start, native: bool | Literal["auto"]) -> None:
    """Each choice gets the index of its place in the reply."""
    unnumbered = [{**choice, "index": 0} for choice in choices("zero", "one", "two")]
    server, client = await start(reply_json(completion(choices=unnumbered)))
    fan = client.chat.completions.fan_out(n=3, native=native, stream=False, **CALL)
    found = await fan.completion()
    assert ["zero", "one", "two"] == [choice.message.content for choice in found.choices]
    assert {0: "zero", 1: "one", 2: "two"} == texts_of(fan)
    assert 1 == len(server.requests)


async def test_n_is_not_sent_for_one_choice(start: Start) -> None:
    server, client = await start()
    await client.chat.completions.fan_out(n=1, native=True, **CALL).completion()
    assert "n" not in server.requests[0].json


@pytest.mark.parametrize("stream", WAYS)
async def test_native_auto_with_a_server_that_ignores_n(start: Start, stream: bool) -> None:
    server, client = await start(*both("zero", "one", "two", stream=stream))
    fan = client.chat.completions.fan_out(n=3, native="auto", max_concurrency=1, stream=stream, **CALL)
    found = await fan.completion()
    assert ["zero", "one", "two"] == [choice.message.content for choice in found.choices]
    assert [3, None, None] == [request.json.get("n") for request in server.requests]
    assert ["id-zero", "id-one", "id-two"] == [result.id for result in fan.results]
    assert found.usage is not None
    assert 15 == found.usage.total_tokens


@pytest.mark.parametrize("stream", WAYS)
@pytest.mark.parametrize("status", [400, 422])
async def test_native_auto_with_a_server_that_refuses_n(start: Start, stream: bool, status: int) -> None:
    refusal = reply_json({"error": {"message": "n must be 1"}}, status)
    server, client = await start(refusal, *both("zero", "one", stream=stream))
    fan = client.chat.completions.fan_out(n=2, native="auto", max_concurrency=1, stream=stream, **CALL)
    found = await fan.completion()
    assert ["zero", "one"] == [choice.message.content for choice in found.choices]
    assert [2, None, None] == [request.json.get("n") for request in server.requests]
    assert {} == fan.errors


@pytest.mark.parametrize(
    ("native", "status", "kind"),
    [
        (True, 400, BadRequestError),
        (True, 422, UnprocessableEntityError),
        ("auto", 401, AuthenticationError),
        ("auto", 500, InternalServerError),
    ],
)
async def test_other_errors_of_one_request_are_errors_of_all_choices(
    start: Start, native: bool | Literal["auto"], status: int, kind: type[Exception]
) -> None:
    server, client = await start(reply_json({"error": {"message": "no"}}, status))
    with pytest.raises(FanOutError, match="2 of 2 choices failed") as caught:
        await client.chat.completions.fan_out(n=2, native=native, **CALL).completion()
    assert {0: kind, 1: kind} == {index: type(error) for index, error in caught.value.errors.items()}
    assert 1 == len(caught.value.exceptions) == len(server.requests)


@pytest.mark.parametrize("stream", WAYS)
async def test_missing_choices_are_errors_with_native_and_requested_with_auto(
    start: Start, stream: bool
) -> None:
    one = reply_json(completion(choices=choices("zero", "one")))
    two = reply_sse(
        chunk("zero"), chunk("one", index=1), *(chunk(finish_reason="stop", index=i) for i in (0, 1))
    )
    _, client = await start(two if stream else one)
    fan = client.chat.completions.fan_out(n=3, native=True, on_error="collect", stream=stream, **CALL)
    found = await fan.completion()
    assert ["zero", "one"] == [choice.message.content for choice in found.choices]
    assert [2] == list(fan.errors)
    # Streamed and awaited replies have different errors for it.
    assert stream == isinstance(fan.errors[2], StreamTruncatedError)
    server, client = await start(two if stream else one, *both("two", stream=stream))
    fan = client.chat.completions.fan_out(n=3, native="auto", stream=stream, **CALL)
    found = await fan.completion()
    assert ["zero", "one", "two"] == [choice.message.content for choice in found.choices]
    assert 2 == len(server.requests)


async def test_finished_choices_of_a_broken_reply_are_kept(start: Start) -> None:
    """The other choices have the error of the request. No choice is requested again: it was paid for."""
    broken = reply_sse(chunk("zero"), chunk("on", index=1), chunk(finish_reason="stop"), done=False).steps[
        :-1
    ]
    ways: tuple[bool | Literal["auto"], ...] = (True, "auto")
    for native in ways:
        server, client = await start(reply_writes([*broken, CLOSE]))
        fan = client.chat.completions.fan_out(n=3, native=native, on_error="collect", **CALL)
        found = await fan.completion()
        assert ["zero"] == [choice.message.content for choice in found.choices]
        assert ["completed", "failed", "failed"] == [result.state for result in fan.results]
        assert {StreamInterruptedError} == {type(error) for error in fan.errors.values()}
        assert {0: "zero", 1: "on"} == texts_of(fan)
        assert 1 == len(server.requests)


async def test_a_choice_of_a_broken_reply_that_went_on_is_not_finished(start: Start) -> None:
    """Content after a finish_reason takes it back."""
    broken = reply_sse(
        chunk("zero", finish_reason="stop"),
        chunk("one", index=1, finish_reason="stop"),
        chunk("..."),
        done=False,
    ).steps[:-1]
    _, client = await start(reply_writes([*broken, CLOSE]))
    fan = client.chat.completions.fan_out(n=2, native=True, on_error="collect", **CALL)
    found = await fan.completion()
    assert ["one"] == [choice.message.content for choice in found.choices]
    assert ["failed", "completed"] == [result.state for result in fan.results]


@pytest.mark.parametrize("stream", WAYS)
async def test_surplus_choices_are_left_out(start: Start, stream: bool) -> None:
    """A surplus choice must not get into another request's choice."""
    extra = reply_sse(
        chunk("zero"),
        chunk("surplus", index=1),
        {**chunk(), "choices": [*chunk("!")["choices"], *chunk("surplus", index=1)["choices"]]},
        chunk(finish_reason="stop"),
        chunk(finish_reason="stop", index=1),
    )
    three = reply_json(completion(choices=choices("zero!", "surplus", "surplus")))
    _, client = await start(extra if stream else three, *both("one", stream=stream))
    fan = client.chat.completions.fan_out(n=2, max_concurrency=1, stream=stream, **CALL)
    found = await fan.completion()
    assert ["zero!", "one"] == [choice.message.content for choice in found.choices]
    # The same for the third choice where one request asked for two.
    three_streamed = reply_sse(
        *(chunk(text, index=i) for i, text in enumerate(["zero!", "one", "surplus"])),
        *(chunk(finish_reason="stop", index=i) for i in range(3)),
    )
    _, client = await start(three_streamed if stream else three)
    fan = client.chat.completions.fan_out(n=2, native=True, stream=stream, **CALL)
    found = await fan.completion()
    assert [0, 1] == [choice.index for choice in found.choices]


async def test_a_reply_without_any_choice_is_an_error(start: Start) -> None:
    none = reply_json(completion(choices=[]))
    _, client = await start(none, none)
    fan = client.chat.completions.fan_out(n=2, stream=False, on_error="collect", **CALL)
    found = await fan.completion()
    assert [] == found.choices
    assert {0, 1} == set(fan.errors)
    assert all("no choice" in str(error) or "choices" in str(error) for error in fan.errors.values())


# How it is asked for


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 0}, "n=0"),
        ({"n": "3"}, "n='3'"),
        ({"n": 2, "max_concurrency": 0}, "max_concurrency=0"),
        ({"n": 2, "native": "always"}, "expected True, False or"),
        ({"n": 2, "on_error": "ignore"}, "on_error='ignore'"),
        ({"n": 2, "first": 3}, "no more than n=2"),
        ({"n": 2, "first": 0}, "first=0"),
        ({"n": 2, "hedge_after": 0}, "hedge_after=0 is not a positive number"),
        ({"n": 2, "requests_per_minute": -1}, "requests_per_minute=-1"),
    ],
)
async def test_invalid_options_of_fan_out(start: Start, options: Mapping[str, Any], says: str) -> None:
    _, client = await start()
    with pytest.raises(ConfigurationError, match=says):
        client.chat.completions.fan_out(**{**options, **CALL})


async def test_calls_that_do_not_fit(start: Start) -> None:
    """Nothing is sent, and the error names the method as the caller did."""
    server, client = await start()
    completions: Any = client.chat.completions
    with pytest.raises(TypeError, match=r"^fan_out\(\) missing 1 required keyword-only argument: 'n'$"):
        completions.fan_out(**CALL)
    with pytest.raises(TypeError, match=r"^run\(\) missing 1 required keyword-only argument: 'tools'$"):
        completions.run(**CALL)
    with pytest.raises(TypeError, match=r"^stop_when: expected a function, not str$"):
        completions.fan_out(n=2, stop_when="stop", **CALL)
    assert [] == server.requests


async def test_invalid_parameters(start: Start) -> None:
    """The error is raised once, and nothing is sent."""
    server, client = await start()
    call: Any = {**CALL, "temperature": 9}
    with pytest.raises(FanOutError, match="temperature"):
        await client.chat.completions.fan_out(n=3, **call).completion()
    call = {**CALL, "promt": "x"}
    with pytest.raises(TypeError, match="promt"):
        await client.chat.completions.fan_out(n=3, **call).completion()
    assert not server.requests


@pytest.mark.parametrize("stream", [True, False])
async def test_messages_that_can_be_read_only_once(start: Start, stream: bool) -> None:
    """Each request has all of them."""
    server, client = await start()
    stop: Any = iter(["END"])
    messages: Any = ({"role": "user", "content": text} for text in ("a", "b"))
    async with client.chat.completions.fan_out(
        n=3, stream=stream, model="m", messages=messages, stop=stop
    ) as fan:
        assert 3 == len((await fan.completion()).choices)
    assert [["a", "b"]] * 3 == [[each["content"] for each in r.json["messages"]] for r in server.requests]
    assert [["END"]] * 3 == [request.json["stop"] for request in server.requests]
