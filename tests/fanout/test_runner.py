"""`FanOutRunner`: errors, ``stop_when`` and ``first``, and races with ``hedge_after``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest
from client_calls import CALL, Start, assert_equal_errors
from many_servers import closed_within

from gradient_async import (
    APIConnectionError,
    AsyncGradient,
    Choice,
    FanOutError,
    GradientError,
    InternalServerError,
    QuotaExceededError,
    Retry,
    StreamInterruptedError,
    StreamLimitError,
    StreamTruncatedError,
)
from gradient_async.config import Limits
from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Handler,
    chunk,
    completion,
    head,
    http_chunk,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
    sse,
)

FAILURE = reply_json({"error": {"message": "broken"}}, 500)
REFUSAL = reply_json({"id": "too_many_requests", "message": "slow down"}, 429)
# A refusal that will not pass: it is no reason to wait.
SPENT = reply_json({"error": {"message": "no credit", "code": "insufficient_quota"}}, 429)
BEGUN = list(reply_sse(chunk("Hel"), chunk("lo"), done=False).steps[:-1])


def answer(text: str, *, after: float = 0.0) -> Handler:
    events = reply_sse(chunk(text), chunk(finish_reason="stop"))
    return reply_writes([after, *events.steps])


def whole(text: str, *, after: float = 0.0) -> Handler:
    return reply_writes([after, *reply_json(completion(text)).steps])


def streaming(text: str) -> Handler:
    """Answer with a first chunk, and never end."""
    return reply_writes([*reply_sse(chunk(text), done=False).steps[:-1], HOLD])


def texts(found: Any) -> dict[int, str | None]:
    return {choice.index: choice.message.content for choice in found.choices}


# Errors


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "awaited"])
async def test_the_first_error_cancels_the_others(start: Start, stream: bool) -> None:
    """It is raised after everything received has been read, and its partial completion has that too."""
    first = answer("zero") if stream else whole("zero")
    third = streaming("two") if stream else reply_writes([HOLD])
    failing: Handler = reply_writes([0.1, *FAILURE.steps])
    server, client = await start(first, failing, third, third)
    seen: dict[int, str] = {}
    async with client.chat.completions.fan_out(n=4, stream=stream, **CALL) as fan:
        with pytest.raises(
            FanOutError, match="1 of 4 choices failed, and the others were given up"
        ) as caught:
            async for piece in fan:
                for choice in piece.choices:
                    seen[choice.index] = seen.get(choice.index, "") + (choice.delta.content or "")
        since = time.monotonic()
    error = caught.value
    (failed,) = error.errors
    assert isinstance(error, GradientError)
    assert isinstance(error.errors[failed], InternalServerError)
    assert (error.errors[failed],) == error.exceptions
    assert error.partial is not None
    assert seen == {index: text for index, text in texts(error.partial).items() if text}
    assert ("zero" in seen.values()) is True
    assert ["completed", "failed", "stopped", "stopped"] == sorted(result.state for result in fan.results)
    assert fan.errors == error.errors
    await server.wait_closed_connections(2)
    held = [request for request in server.requests if request.closed_at is not None]
    assert 2 == len(held)
    await closed_within(held, since)
    assert not fan.completed
    with pytest.raises(FanOutError) as again:
        await fan.completion()
    assert_equal_errors(error, again.value)


async def test_errors_can_be_caught_by_their_type(start: Start) -> None:
    _, client = await start(FAILURE)
    caught: list[BaseException] = []
    try:
        await client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL).completion()
    except* InternalServerError as group:
        caught.append(group)
    (error,) = caught
    assert isinstance(error, FanOutError)
    assert [0] == list(error.errors)


async def test_errors_may_be_collected(start: Start) -> None:
    """With on_error="collect" the others go on, and partial completions have the index of their choice."""
    cut = reply_writes([*BEGUN, CLOSE])
    truncated = reply_sse(chunk("Hel"), done=False)
    _, client = await start(FAILURE, answer("one"), cut, truncated, SPENT, answer("five"))
    async with client.chat.completions.fan_out(n=6, max_concurrency=1, on_error="collect", **CALL) as fan:
        found = await fan.completion()
    assert {1: "one", 5: "five"} == texts(found)
    kinds = {index: type(error) for index, error in fan.errors.items()}
    broke = kinds.pop(2)
    assert issubclass(broke, StreamInterruptedError)
    assert {0: InternalServerError, 3: StreamTruncatedError, 4: QuotaExceededError} == kinds
    error = fan.errors[2]
    assert isinstance(error, StreamInterruptedError)
    assert error.partial is not None
    assert {2: "Hello"} == texts(error.partial)
    assert {1: "one", 2: "Hello", 3: "Hel", 5: "five"} == {
        index: text for index, text in texts(fan.snapshot).items() if text
    }
    assert ["failed", "completed", "failed", "failed", "failed", "completed"] == [
        r.state for r in fan.results
    ]
    assert fan.completed
    assert error.__traceback__ is None  # its frames would hold what was received


async def test_all_choices_fail(start: Start) -> None:
    _, client = await start(FAILURE, FAILURE)
    async with client.chat.completions.fan_out(n=2, on_error="collect", **CALL) as fan:
        assert [] == [piece async for piece in fan]
        found = await fan.completion()
    assert [] == found.choices
    assert {0, 1} == set(fan.errors)


async def test_requests_are_retried(start: Start) -> None:
    server, client = await start(FAILURE, REFUSAL, max_retries=2, retry=Retry(max_backoff=0.02))
    async with client.chat.completions.fan_out(n=3, **CALL) as fan:
        found = await fan.completion()
    assert 3 == len(found.choices)
    assert 5 == len(server.requests) == fan.attempts == found.attempts


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "awaited"])
async def test_attempts_of_requests_that_fail_count(start: Start, stream: bool) -> None:
    server, client = await start(*[FAILURE] * 3, max_retries=2, retry=Retry(max_backoff=0.02))
    async with client.chat.completions.fan_out(n=1, stream=stream, on_error="collect", **CALL) as fan:
        await fan.completion()
    assert 3 == len(server.requests) == fan.attempts


async def test_choices_that_exceed_the_limit(start: Start) -> None:
    """The limit on a completion's size holds for each choice."""
    long = reply_sse(*[chunk("x" * 50) for _ in range(10)], chunk(finish_reason="stop"))
    _, client = await start(long, long, limits=Limits(completion_bytes=300))
    with pytest.raises((FanOutError, StreamLimitError), match="completion_bytes"):
        await client.chat.completions.fan_out(n=2, **CALL).completion()
    _, client = await start(long, long, limits=Limits(completion_bytes=900))
    assert 2 == len((await client.chat.completions.fan_out(n=2, **CALL).completion()).choices)
    _, client = await start(long, long, limits=Limits(completion_bytes=None))
    assert 2 == len((await client.chat.completions.fan_out(n=2, **CALL).completion()).choices)


# Winners


def accepts(*wanted: str) -> Callable[[Choice], bool]:
    return lambda choice: choice.message.content in wanted


async def accepts_later(choice: Choice) -> bool:
    await asyncio.sleep(0.01)
    return choice.message.content == "good"


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize("stop_when", [accepts("good"), accepts_later], ids=["function", "coroutine"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "awaited"])
async def test_the_first_accepted_choice_ends_everything(
    start: Start, stop_when: Callable[[Choice], bool | Awaitable[bool]], stream: bool
) -> None:
    """The server sees the connections of the other requests closed at once."""
    make = answer if stream else whole
    slow = streaming("...") if stream else reply_writes([HOLD])
    server, client = await start(make("bad"), slow, make("good", after=0.1), slow, slow)
    call: dict[str, Any] = {"n": 5, "stop_when": stop_when, "stream": stream, **CALL}
    async with client.chat.completions.fan_out(**call) as fan:
        found = await fan.completion()
        since = time.monotonic()
        await server.wait_closed_connections(2)
        held = [request for request in server.requests if request.closed_at is not None]
    assert 3 == len(held)
    await closed_within(held, since)
    assert ["good"] == list(texts(found).values())
    assert [fan.winner] == fan.winners == list(texts(found))
    assert {"bad", "good"} <= {text for text in texts(fan.snapshot).values() if text}
    assert 3 == [result.state for result in fan.results].count("stopped")
    assert fan.completed
    assert {} == fan.errors


async def test_no_choice_is_accepted(start: Start) -> None:
    _, client = await start(answer("a"), answer("b"))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, stop_when=accepts("x"), **CALL) as fan:
        found = await fan.completion()
    assert fan.winner is None
    assert {0: "a", 1: "b"} == texts(found)


async def test_two_choices_are_asked_for(start: Start) -> None:
    """``first=2`` without and with ``stop_when``."""
    server, client = await start(answer("a"), answer("b"), answer("c"), answer("d"))
    async with client.chat.completions.fan_out(n=4, max_concurrency=1, first=2, **CALL) as fan:
        found = await fan.completion()
    assert {0: "a", 1: "b"} == texts(found)
    assert [0, 1] == fan.winners
    assert 2 == len(server.requests)
    _, client = await start(answer("a"), answer("b"), answer("c"), answer("d"))
    options: dict[str, Any] = {"max_concurrency": 1, "first": 2, "stop_when": accepts("b", "c", "d")}
    async with client.chat.completions.fan_out(n=4, **options, **CALL) as fan:
        found = await fan.completion()
    assert {1: "b", 2: "c"} == texts(found)
    assert ["completed", "completed", "completed", "stopped"] == [result.state for result in fan.results]


async def test_choices_accepted_too_late_change_nothing(start: Start) -> None:
    """All finish together, `stop_when` is asked about each, and one wins."""
    asked: list[str | None] = []

    async def slow(choice: Choice) -> bool:
        asked.append(choice.message.content)
        await asyncio.sleep(0.05)
        return True

    _, client = await start(whole("a"), whole("b"), whole("c"))
    call: dict[str, Any] = {"n": 3, "stop_when": slow, "stream": False, **CALL}
    async with client.chat.completions.fan_out(**call) as fan:
        found = await fan.completion()
    assert 3 == len(asked)
    assert 1 == len(fan.winners) == len(found.choices)


async def test_a_predicate_that_ignores_cancellation_changes_nothing(start: Start) -> None:
    async def stubborn(choice: Choice) -> bool:
        try:
            await asyncio.sleep(0.05 if choice.message.content == "a" else 10)
        except asyncio.CancelledError:
            return True
        return True

    _, client = await start(whole("a"), whole("b"))
    call: dict[str, Any] = {"n": 2, "stop_when": stubborn, "stream": False, **CALL}
    async with client.chat.completions.fan_out(**call) as fan:
        assert ["a"] == list(texts(await fan.completion()).values())
    assert 1 == len(fan.winners)


async def test_an_error_after_the_winner_is_ignored(start: Start) -> None:
    """An error before the winner ends everything, unless errors are collected."""
    _, client = await start(answer("good"), FAILURE)
    fan = client.chat.completions.fan_out(n=2, max_concurrency=1, first=1, **CALL)
    assert {0: "good"} == texts(await fan.completion())
    _, client = await start(FAILURE, answer("good"))
    fan = client.chat.completions.fan_out(n=2, max_concurrency=1, first=1, **CALL)
    with pytest.raises(FanOutError):
        await fan.completion()
    _, client = await start(FAILURE, answer("good"), answer("c"))
    fan = client.chat.completions.fan_out(n=3, max_concurrency=1, first=1, on_error="collect", **CALL)
    assert {1: "good"} == texts(await fan.completion())
    assert [0] == list(fan.errors)


async def test_an_error_while_a_winner_is_judged(start: Start) -> None:
    """The winner counts if the error came while ``stop_when`` was awaited."""

    async def slow(choice: Choice) -> bool:
        del choice
        await asyncio.sleep(0.1)
        return True

    _, client = await start(whole("good"), reply_writes([0.05, *FAILURE.steps]))
    call: dict[str, Any] = {"n": 2, "stop_when": slow, "stream": False, "on_error": "collect", **CALL}
    async with client.chat.completions.fan_out(**call) as fan:
        found = await fan.completion()
    assert ["good"] == list(texts(found).values())


@pytest.mark.parametrize("later", [False, True], ids=["function", "coroutine"])
async def test_an_error_of_the_predicate(start: Start, later: bool) -> None:
    """The error of ``stop_when`` is raised unchanged, and the other requests are cancelled."""

    def bad(choice: Choice) -> bool:
        raise LookupError(f"no test for {choice.message.content}")

    async def bad_later(choice: Choice) -> bool:
        return bad(choice)

    server, client = await start(answer("a", after=0.05), streaming("b"))
    options: dict[str, Any] = {"stop_when": bad_later if later else bad, "on_error": "collect"}
    async with client.chat.completions.fan_out(n=2, **options, **CALL) as fan:
        with pytest.raises(LookupError, match="no test for a"):
            await fan.completion()
        await server.wait_closed_connections(1)


class Alarm(BaseException):
    """A BaseException, like those that test tools raise."""


async def test_a_base_exception_of_the_predicate(start: Start) -> None:
    """An ordinary end would hide it."""

    def bad(choice: Choice) -> bool:
        raise Alarm(choice.message.content)

    server, client = await start(answer("a", after=0.05), streaming("b"))
    async with client.chat.completions.fan_out(n=2, stop_when=bad, **CALL) as fan:
        with pytest.raises(Alarm, match="a"):
            await fan.completion()
        assert not fan.completed
        await server.wait_closed_connections(1)


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize("native", [True, "auto"])
async def test_winners_of_one_request(start: Start, native: bool | Literal["auto"]) -> None:
    """An accepted choice ends the request while other choices of it still come."""
    steps = [
        chunk("bad"),
        chunk("go", index=1),
        chunk("...", index=2),
        chunk(finish_reason="stop"),
        chunk("od", index=1),
        chunk(finish_reason="stop", index=1),
        chunk("...", index=2),
    ]
    server, client = await start(reply_writes([*reply_sse(*steps, done=False).steps[:-1], HOLD]))
    call: dict[str, Any] = {"n": 3, "native": native, "stop_when": accepts("good"), **CALL}
    async with client.chat.completions.fan_out(**call) as fan:
        found = await fan.completion()
        since = time.monotonic()
        await server.wait_closed_connections(0)
    await closed_within(server.requests, since)
    assert {1: "good"} == texts(found)
    assert ["completed", "completed", "stopped"] == [result.state for result in fan.results]
    assert 1 == len(server.requests)


async def test_winners_of_one_awaited_request(start: Start) -> None:
    """Choices that finish together are judged in the order of their indices."""
    _, client = await start()
    call: dict[str, Any] = {"n": 3, "native": True, "first": 2, "stream": False, **CALL}
    fan = client.chat.completions.fan_out(**call)
    found = await fan.completion()
    assert [0, 1] == fan.winners == [choice.index for choice in found.choices]
    # A server that ignores n gives one choice. Another one is requested, and then two are enough.
    server, client = await start(whole("a"), whole("b"), whole("c"))
    call |= {"native": "auto", "max_concurrency": 1}
    fan = client.chat.completions.fan_out(**call)
    assert {0: "a", 1: "b"} == texts(await fan.completion())
    assert 2 == len(server.requests)


# Races


@pytest.mark.usefixtures("virtual_time")
async def test_a_second_request_races_one_without_content(start: Start) -> None:
    """The first request with content goes on; the other is closed at once."""
    role = http_chunk(sse(chunk("", role="assistant"), done=False))
    opened = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    silent = reply_writes([opened, role, HOLD])
    server, client = await start(silent, answer("fast"))
    began = time.monotonic()
    async with client.chat.completions.fan_out(n=1, hedge_after=0.1, **CALL) as fan:
        found = await fan.completion()
        since = time.monotonic()
    assert 0.1 < since - began < 0.12
    await closed_within([server.requests[0]], since)
    assert {0: "fast"} == texts(found)
    assert [2] == [result.requests for result in fan.results]
    assert 2 == fan.attempts == found.attempts
    assert server.requests[0].json == server.requests[1].json


@pytest.mark.usefixtures("virtual_time")
async def test_the_first_request_may_win_the_race(start: Start) -> None:
    server, client = await start(answer("first", after=0.15), reply_writes([HOLD]))
    async with client.chat.completions.fan_out(n=1, hedge_after=0.05, **CALL) as fan:
        found = await fan.completion()
        since = time.monotonic()
        await server.wait_closed_connections(1)
    await closed_within([server.requests[1]], since)
    assert {0: "first"} == texts(found)
    assert 2 == len(server.requests) == fan.attempts


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "awaited"])
async def test_a_request_with_content_in_time_is_not_raced(start: Start, stream: bool) -> None:
    server, client = await start(*[answer("a") if stream else whole("a")] * 2)
    call: dict[str, Any] = {"n": 2, "hedge_after": 5.0, "stream": stream, **CALL}
    async with client.chat.completions.fan_out(**call) as fan:
        found = await fan.completion()
    assert {0: "a", 1: "a"} == texts(found)
    assert 2 == len(server.requests)
    assert [1, 1] == [result.requests for result in fan.results]


async def test_a_long_answer_with_content_in_time_is_not_raced(start: Start) -> None:
    steps = reply_sse(chunk("a"), chunk("b"), chunk(finish_reason="stop"), gap=0.1)
    server, client = await start(steps)
    fan = client.chat.completions.fan_out(n=1, hedge_after=0.05, **CALL)
    assert {0: "ab"} == texts(await fan.completion())
    assert 1 == len(server.requests)


async def test_awaited_replies_race_too(start: Start) -> None:
    server, client = await start(reply_writes([HOLD]), whole("fast"))
    fan = client.chat.completions.fan_out(n=1, hedge_after=0.05, stream=False, **CALL)
    assert {0: "fast"} == texts(await fan.completion())
    assert 2 == fan.attempts
    await server.wait_closed_connections(1)


async def test_one_of_two_racers_fails(start: Start) -> None:
    failing = reply_writes([0.15, *FAILURE.steps])
    _, client = await start(failing, answer("second", after=0.2))
    fan = client.chat.completions.fan_out(n=1, hedge_after=0.05, **CALL)
    assert {0: "second"} == texts(await fan.completion())
    _, client = await start(answer("first", after=0.2), FAILURE)
    fan = client.chat.completions.fan_out(n=1, hedge_after=0.05, **CALL)
    assert {0: "first"} == texts(await fan.completion())


async def test_both_racers_fail(start: Start) -> None:
    """The first error is raised."""
    _, client = await start(reply_writes([0.1, *FAILURE.steps]), reply_writes([0.3, RESET]))
    with pytest.raises(FanOutError) as caught:
        await client.chat.completions.fan_out(n=1, hedge_after=0.05, **CALL).completion()
    assert isinstance(caught.value.errors[0], InternalServerError)


async def test_a_request_that_fails_in_time_is_not_raced(start: Start) -> None:
    server, client = await start(FAILURE)
    with pytest.raises(FanOutError):
        await client.chat.completions.fan_out(n=1, hedge_after=5, **CALL).completion()
    assert 1 == len(server.requests)


async def test_a_winner_that_breaks_off_is_an_error(start: Start) -> None:
    """The other request was cancelled by then, and the chunks have been handed out."""
    broken = reply_writes([0.1, *BEGUN, 0.02, CLOSE])
    _, client = await start(broken, reply_writes([HOLD]))
    with pytest.raises(FanOutError) as caught:
        await client.chat.completions.fan_out(n=1, hedge_after=0.05, **CALL).completion()
    error = caught.value.errors[0]
    assert isinstance(error, StreamInterruptedError)
    assert error.partial is not None
    assert {0: "Hello"} == texts(error.partial)


async def test_an_answer_without_content_wins_too(start: Start) -> None:
    """A stream without content wins once it has ended."""
    empty = reply_sse(chunk("", role="assistant"), chunk(finish_reason="stop"))
    _, client = await start(empty)
    fan = client.chat.completions.fan_out(n=1, hedge_after=1, **CALL)
    found = await fan.completion()
    assert ["stop"] == [choice.finish_reason for choice in found.choices]


async def test_an_answer_without_content_and_finish_reason_wins_too(start: Start) -> None:
    """Also without a finish_reason."""
    _, client = await start(reply_sse(chunk("", role="assistant")))
    fan = client.chat.completions.fan_out(n=1, hedge_after=1, **CALL)
    assert {0: ""} == texts(await fan.completion())


async def test_races_of_one_request_for_all(start: Start) -> None:
    three = reply_sse(
        *(chunk(str(i), index=i) for i in range(3)), *(chunk(finish_reason="stop", index=i) for i in range(3))
    )
    server, client = await start(reply_writes([HOLD]), three)
    fan = client.chat.completions.fan_out(n=3, native=True, hedge_after=0.05, **CALL)
    assert {0: "0", 1: "1", 2: "2"} == texts(await fan.completion())
    assert [2, 2, 2] == [result.requests for result in fan.results]
    assert [3, 3] == [request.json["n"] for request in server.requests]


@pytest.mark.usefixtures("virtual_time")
async def test_leaving_ends_both_racers(start: Start) -> None:
    server, client = await start(reply_writes([HOLD]), reply_writes([HOLD]))
    async with client.chat.completions.fan_out(n=1, hedge_after=0.02, **CALL):
        await server.wait_requests(2)
        since = time.monotonic()
    await closed_within(server.requests, since)


async def test_refused_connections_are_errors_of_choices(start: Start) -> None:
    server, client = await start()
    await server.stop()
    async with client.chat.completions.fan_out(n=2, on_error="collect", **CALL) as fan:
        await fan.completion()
    assert {0, 1} == set(fan.errors)
    assert all(isinstance(error, APIConnectionError) for error in fan.errors.values())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_raised_once(kind: type[BaseException]) -> None:
    """It leaves the event loop, and what cleans up behind it is not interrupted again."""
    clean: list[bool] = []

    def judge(_: Choice) -> bool:
        raise kind

    async def main(url: str) -> None:
        async with AsyncGradient(inference_endpoint=url, model_access_key="k-0123456789") as client:
            try:
                async with client.chat.completions.fan_out(n=2, stop_when=judge, **CALL) as fan:
                    await fan.completion()
            finally:
                await asyncio.sleep(0.01)
                clean.append(True)

    with serve() as server, pytest.raises(kind):
        asyncio.run(main(server.url))
    assert [True] == clean
