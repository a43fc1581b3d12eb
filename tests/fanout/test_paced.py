"""`map` and `fan_out` with rates, quotas and adaptive concurrency, with a server on loopback."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from client_calls import Start
from many_servers import USAGE, Echo, Windows, ask_for, prompts

from gradient_async import APITimeoutError, MapResults, RateLimitError, Retry, StreamTimeoutError, Timeout
from gradient_async.testing import (
    HOLD,
    Connection,
    Handler,
    Request,
    chunk,
    completion,
    reply_json,
    reply_sse,
    reply_writes,
)

pytestmark = pytest.mark.usefixtures("virtual_time")

SLOW_DOWN = {"id": "too_many_requests", "message": "slow down"}


async def count(results: MapResults) -> int:
    """Count the results; none may be an error."""
    done = 0
    async for result in results:
        result.unwrap()
        done += 1
    return done


class Capacity:
    """Works on a number of requests at once, and refuses others.

    Attributes:
        refused: How many it refused.
        in_flight: How many it is working on.
        history: How many it was working on when each request came.
    """

    def __init__(self, capacity: int, *, pause: float, stall: bool = False) -> None:
        self._capacity = capacity
        self._pause = pause
        self._stall = stall
        self.refused = self.in_flight = 0
        self.history: list[int] = []

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer."""
        self.history.append(self.in_flight)
        if self.in_flight >= self._capacity:
            self.refused += 1
            refusal: Handler = reply_json(SLOW_DOWN, 429)
            if self._stall:
                begun = reply_sse(chunk("Hel"), done=False).steps[:-1]
                refusal = reply_writes([*begun, HOLD])
            await refusal(request, connection)
            return
        self.in_flight += 1
        try:
            await connection.sleep(self._pause)
        finally:
            self.in_flight -= 1
        whole: Handler = reply_json(completion("hi", usage=USAGE))
        if self._stall:
            whole = reply_sse(chunk("Hello"), chunk(finish_reason="stop"))
        await whole(request, connection)


# What servers allow


@pytest.mark.parametrize(
    ("allowed", "seconds", "requests", "options"),
    [
        pytest.param(200, 5.0, 500, {"max_concurrency": 64}, id="200 in 5 s"),
        pytest.param(60, 2.0, 130, {"max_concurrency": 100, "adaptive": True}, id="60 in 2 s, adaptive"),
    ],
)
async def test_the_quota_of_a_server_is_kept(
    start: Start, allowed: int, seconds: float, requests: int, options: dict[str, Any]
) -> None:
    """All requests succeed, and at most one answer in twenty is a 429."""
    windows = Windows(allowed, seconds, pause=0.01)
    _, client = await start(handler=windows, max_retries=2)
    assert requests == await count(client.chat.completions.map(prompts(requests), **options))
    assert requests == windows.answers[200]
    assert windows.answers[429] <= 0.05 * sum(windows.answers.values())


async def test_no_request_is_sent_while_the_server_asks_to_wait(start: Start) -> None:
    """After the wait one request goes ahead, and the others follow when it is answered."""
    times: list[float] = []

    async def refuse_once(request: Request, connection: Connection) -> None:
        times.append(time.monotonic())
        refusal = reply_json(SLOW_DOWN, 429, {"retry-after": "0.4"})
        whole = reply_json(completion("hi"))
        if len(times) > 8:
            await connection.sleep(0.01)
            await whole(request, connection)
        else:
            await refusal(request, connection)

    _, client = await start(handler=refuse_once, max_retries=3)
    assert 24 == await count(client.chat.completions.map(prompts(24), max_concurrency=8))
    first, after = times[:8], times[8:]
    assert after[0] - first[-1] >= 0.4
    assert after[1] - after[0] >= 0.01


async def test_a_retry_with_one_request_at_a_time(start: Start) -> None:
    """A retry goes before requests that have not been sent."""
    echo = Echo()
    refusal = reply_json(SLOW_DOWN, 503, {"retry-after": "0.05"})
    _, client = await start(refusal, handler=echo, max_retries=1)
    found = [r async for r in client.chat.completions.map(prompts(3), max_concurrency=1, ordered=True)]
    assert [2, 1, 1] == [result.unwrap().attempts for result in found]
    assert ["0", "1", "2"] == echo.prompts


async def test_a_turn_that_does_not_come_in_time_is_an_error(start: Start) -> None:
    """It is the error of the attempt that failed, without context; its `elapsed` covers the whole call."""
    refusal = reply_json(SLOW_DOWN, 429, {"retry-after": "0.01"})
    quick: dict[str, Any] = {"max_retries": 1, "retry": Retry(max_backoff=0.02)}
    server, client = await start(refusal, handler=Echo(), timeout=Timeout(total=0.3), **quick)
    results = client.chat.completions.map(prompts(1), max_concurrency=1, requests_per_minute=20)
    clock = asyncio.get_running_loop().time  # the one of `elapsed`
    began = clock()
    result = await anext(results)
    assert isinstance(result.error, RateLimitError)
    assert 1 == result.error.attempts == len(server.requests)
    assert (None, None) == (result.error.__cause__, result.error.__context__)
    assert result.error.elapsed is not None
    assert 0.25 < result.error.elapsed <= clock() - began < 0.8


# Rates


async def test_requests_per_minute(start: Start) -> None:
    """One second's worth goes at once, the others are evenly spaced."""
    server, client = await start(handler=Echo())
    assert 20 == await count(client.chat.completions.map(prompts(20), requests_per_minute=600))
    times = [request.received_at for request in server.requests]
    at_once = sum(moment < times[0] + 0.08 for moment in times)
    assert 9 <= at_once <= 12
    assert 0.8 < times[-1] - times[0] < 1.5


async def test_tokens_per_minute(start: Start) -> None:
    """The tokens of a request are estimated, and corrected by its usage."""
    server, client = await start(handler=Echo())
    requests = [ask_for("x" * 396, max_tokens=300)] * 8  # estimated at 400 tokens, in fact 5
    began = time.monotonic()
    results = client.chat.completions.map(requests, max_concurrency=1, tokens_per_minute=60 * 100)
    assert 8 == await count(results)
    assert time.monotonic() - began < 1.0
    assert 8 == len(server.requests)
    # Estimates count until usage is known: a whole request waits for its tokens.
    slow = Echo(pause=0.3)
    other, client = await start(handler=slow)
    results = client.chat.completions.map(requests[:3], max_concurrency=3, tokens_per_minute=60 * 400)
    assert 3 == await count(results)
    times = [request.received_at for request in other.requests]
    assert times[1] - times[0] > 0.25
    assert slow.max_in_flight == 1


async def test_requests_cancelled_while_they_wait(start: Start) -> None:
    """A cancelled request does not hold up the queue behind it."""
    server, client = await start(handler=Echo())
    fan = client.chat.completions.fan_out(n=5, requests_per_minute=1, first=1, **ask_for("x"))
    async with asyncio.timeout(30), fan:
        await fan.completion()
    assert ["completed", "stopped", "stopped", "stopped", "stopped"] == [r.state for r in fan.results]
    assert 1 == len(server.requests)


# What a server sustains


async def test_adaptive_concurrency_finds_the_capacity_of_a_server(start: Start) -> None:
    """It begins with 8, doubles with each round, and halves where the server refuses."""
    capacity = Capacity(20, pause=0.1)
    _, client = await start(handler=capacity, max_retries=6, retry=Retry(max_backoff=0.05))
    async with asyncio.timeout(60):
        done = await count(client.chat.completions.map(prompts(600), max_concurrency=200, adaptive=True))
    assert 600 == done
    history = capacity.history
    assert max(history[:8]) <= 8
    assert max(history) == 20
    # It stays near the capacity. The last requests are left out: few are in flight by then.
    bursts = [max(history[start : start + 40]) for start in range(200, len(history) - 40, 40)]
    assert len(bursts) >= 9
    assert min(bursts) > 8
    adaptive = capacity.refused / len(history)
    assert adaptive < 0.15
    # A fixed concurrency of 200 is refused again and again.
    fixed = Capacity(20, pause=0.1)
    _, client = await start(handler=fixed, max_retries=30, retry=Retry(max_backoff=0.05))
    async with asyncio.timeout(60):
        async for _ in client.chat.completions.map(prompts(300), max_concurrency=200):
            pass
    assert fixed.refused / len(fixed.history) > 2 * adaptive


async def test_stalls_halve_adaptive_concurrency(start: Start) -> None:
    capacity = Capacity(4, pause=0.01, stall=True)
    _, client = await start(handler=capacity, timeout=Timeout(idle=0.15))
    kinds: dict[type[Any], int] = {}
    results = client.chat.completions.map(prompts(200), max_concurrency=100, adaptive=True, stream=True)
    async with asyncio.timeout(20):
        async for result in results:
            kinds[type(result.error)] = kinds.get(type(result.error), 0) + 1
    assert {type(None), StreamTimeoutError} == set(kinds)
    assert kinds[StreamTimeoutError] == capacity.refused
    assert max(capacity.history) <= 4
    assert sum(kinds.values()) == 200
    # At most half were refused; with 100 at once nearly all would have been.
    assert capacity.refused < 100


async def test_timeouts_halve_adaptive_concurrency(start: Start) -> None:
    """Eight requests go, none is answered; no more than four are in flight after that."""
    server, client = await start(handler=reply_writes([HOLD]), timeout=Timeout(response=0.1))
    results = client.chat.completions.map(prompts(16), max_concurrency=64, adaptive=True)
    sizes: list[int] = []
    async for result in results:
        assert isinstance(result.error, APITimeoutError)
        sizes.append(len(server.requests))
    assert 16 == len(sizes)
    times = [request.received_at for request in server.requests]
    assert times[8] - times[7] > 0.05
    together = [sum(abs(moment - other) < 0.05 for other in times) for moment in times]
    assert 8 == max(together)
    assert max(together[8:]) <= 4


async def test_high_concurrency_begins_with_a_ramp(start: Start) -> None:
    """16 requests go at once, then one more for two replies and for each step of the ramp."""
    echo = Echo(pause=0.4)
    server, client = await start(handler=echo)
    began = time.monotonic()
    results = client.chat.completions.map(prompts(300), max_concurrency=300)
    waiting = asyncio.ensure_future(anext(results))
    for _ in range(20):
        await asyncio.sleep(0.01)
        sent, elapsed = len(server.requests), time.monotonic() - began
        assert elapsed > 0.4 or sent <= 16 + 1 + elapsed / 0.01  # then replies come
    assert len(server.requests) >= 16
    await waiting
    assert 299 == await count(results)
    assert echo.max_in_flight > 100
