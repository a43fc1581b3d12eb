"""`session.pace`: turns that calls share, and what is left of them after every end."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import uvloop
from client_calls import CALL, Start, create_completion, open_stream

from gradient_async import (
    APIConnectionError,
    AsyncGradient,
    ConfigurationError,
    Pace,
    RateLimitError,
    Retry,
    Timeout,
)
from gradient_async.policy.pace import Admission
from gradient_async.session import pace as pace_module
from gradient_async.session.pace import Turn, Turns
from gradient_async.testing import (
    HOLD,
    RESET,
    Connection,
    Quota,
    Request,
    Server,
    chunk,
    completion,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
)

module = cast("Any", pace_module)
SLOW_DOWN = {"id": "too_many_requests", "message": "slow down"}


def internals(pace: Pace) -> Any:
    """A `Pace` whose queues and accounts a test looks at."""
    return cast("Any", pace)


def assert_nothing_is_left(pace: Pace) -> None:
    """Expect no queue, no timer and no request in flight."""
    inner = internals(pace)
    assert {} == inner._lines
    assert [0] * len(inner._schedule._accounts) == [
        account.in_flight for account in inner._schedule._accounts.values()
    ]


def most_within(times: list[float], seconds: float) -> int:
    window: deque[float] = deque()
    most = 0
    for moment in sorted(times):
        window.append(moment)
        while window[0] < moment - seconds:
            window.popleft()
        most = max(most, len(window))
    return most


def prompts(count: int) -> list[dict[str, Any]]:
    return [CALL | {"messages": [{"role": "user", "content": str(number)}]} for number in range(count)]


async def map_all(client: AsyncGradient, count: int, **options: Any) -> int:
    """Make so many requests; return how many succeeded."""
    done = 0
    async for result in client.chat.completions.map(prompts(count), **options):
        done += result.error is None
    return done


def turn_of(pace: Pace, key: str = "key", **params: Any) -> Turn:
    return Turn(Turns(pace), key, params, Retry())


def assert_rate(server: Server, count: int, *, since: float) -> None:
    """Expect so many requests since a moment, evenly spaced after one second's worth: 30 at once, and 30 a second."""
    times = [request.received_at for request in server.requests]
    assert count == len(times)
    assert max(times) - since >= (count - 30) / 30
    assert most_within(times, 0.5) <= 30 + 15 + 3  # some arrive late, and those after them not


# Everything that shares a Pace

FAST: dict[str, Any] = {"requests_per_minute": 1800}


async def test_two_maps_at_once_and_maps_one_after_another(start: Start) -> None:
    pace = Pace(**FAST)
    began = time.monotonic()
    server, client = await start()
    await asyncio.gather(map_all(client, 25, pace=pace), map_all(client, 25, pace=pace))
    for _ in range(5):
        await map_all(client, 4, pace=pace)
    assert_rate(server, 70, since=began)
    assert_nothing_is_left(pace)


async def test_clients_copies_streams_fan_outs_and_retries(start: Start) -> None:
    """Each POST takes a turn: of two clients, of a copy, of awaited calls, streams, fan-outs and retries."""
    pace = Pace(**FAST)
    began = time.monotonic()
    failures = [reply_json({}, 500)] * 5
    server, one = await start(*failures, pace=pace, max_retries=3, retry=Retry(max_backoff=0.01))
    two = AsyncGradient(inference_endpoint=server.url, model_access_key="other", pace=pace)
    changed = one.with_options(timeout=5)

    async def read() -> None:
        async with await open_stream(two) as stream:
            await stream.completion()

    async with two, one.chat.completions.fan_out(n=20, **CALL) as fan:
        await asyncio.gather(
            map_all(changed, 20), *(create_completion(two) for _ in range(10)), *(read() for _ in range(10))
        )
        await fan.completion()
    assert_rate(server, 65, since=began)
    assert_nothing_is_left(pace)


def test_threads_and_one_loop_after_another() -> None:
    """Two threads, each with three event loops one after another, and a client for each."""
    pace = Pace(**FAST)
    began = time.monotonic()
    urls: list[str] = []
    done: list[int] = []

    async def batch() -> None:
        async with AsyncGradient(inference_endpoint=urls[0], model_access_key="k", pace=pace) as client:
            done.append(await map_all(client, 11))

    def run_batches() -> None:
        for _ in range(3):
            asyncio.run(batch())

    async def main() -> Server:
        async with serve() as server:
            urls.append(server.url)
            await asyncio.gather(asyncio.to_thread(run_batches), asyncio.to_thread(run_batches))
            return server

    server = asyncio.run(main())
    assert [11] * 6 == done
    assert_rate(server, 66, since=began)
    assert_nothing_is_left(pace)


def test_uvloop() -> None:
    pace = Pace(**FAST)
    began = time.monotonic()

    async def main() -> None:
        async with serve() as server:
            async with AsyncGradient(
                inference_endpoint=server.url, model_access_key="k", pace=pace
            ) as client:
                assert 45 == await map_all(client, 45)
            assert_rate(server, 45, since=began)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert_nothing_is_left(pace)


@pytest.mark.usefixtures("virtual_time")
async def test_a_wait_holds_everything_of_the_key_and_nothing_else(start: Start) -> None:
    """A refusal of one client holds the map of another, if both have the key; a call with another key is not held."""
    pace = Pace()
    refusal = reply_json(SLOW_DOWN, 429, {"retry-after": "0.4"})
    server, client = await start(refusal, pace=pace, max_retries=1)
    same = AsyncGradient(inference_endpoint=server.url, model_access_key="model-key-0123", pace=pace)
    other = client.with_options(api_key="other-key")
    first = asyncio.ensure_future(create_completion(client))
    await until(lambda: is_held(pace))
    began = time.monotonic()
    held = asyncio.ensure_future(map_all(same, 3))
    await create_completion(other)
    assert time.monotonic() - began < 0.01
    assert 3 == await held
    assert time.monotonic() - began > 0.3
    assert 2 == (await first).attempts
    await same.close()
    assert_nothing_is_left(pace)


def is_held(pace: Pace) -> bool:
    """Whether an account waits for a time that a refusal named."""
    return any(
        account.held_until > time.monotonic() for account in internals(pace)._schedule._accounts.values()
    )


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.001)


async def test_a_pace_of_the_client_and_rates_of_a_call(start: Start) -> None:
    _, client = await start(pace=Pace())
    with pytest.raises(ConfigurationError, match="the client has a pace"):
        client.chat.completions.map([], requests_per_minute=5)
    with pytest.raises(ConfigurationError, match="pace is given too"):
        client.chat.completions.fan_out(n=1, pace=Pace(), adaptive=True, **CALL)


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan"), "60"])
@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
def test_a_rate_is_a_positive_number(name: str, rate: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Pace(**{name: rate})


def pickled(what: Any) -> Any:
    return pickle.loads(pickle.dumps(what))  # noqa: S301  # our own


def test_copies() -> None:
    """A pickled `Pace` has the same rates; a copy of a client shares the quota."""
    pace = Pace(requests_per_minute=60, adaptive=True)
    assert "Pace(requests_per_minute=60, adaptive=True)" == repr(pace) == repr(pickled(pace))
    assert copy.deepcopy(pace) is pace
    client = AsyncGradient(model_access_key="k", pace=pace)
    assert copy.deepcopy(client).pace is pace
    assert repr(pace) == repr(pickled(client).pace)
    assert client.with_options(max_retries=5).pace is pace


# Order


async def test_first_come_first_served_and_a_retry_first() -> None:
    pace = Pace(requests_per_minute=1200)
    order: list[str] = []

    async def take(name: str, turn: Turn) -> None:
        await turn.wait()
        order.append(name)
        turn.finish()

    retried = turn_of(pace)
    await retried.wait()
    for _ in range(19):
        await take("-", turn_of(pace))  # the rest of the burst
    order.clear()
    waiting = [asyncio.ensure_future(take(str(number), turn_of(pace))) for number in range(3)]
    await asyncio.sleep(0)
    waiting.append(asyncio.ensure_future(take("retry", retried)))
    await asyncio.gather(*waiting)
    assert "retry" in order[:2]
    assert ["0", "1", "2"] == [name for name in order if name != "retry"]
    assert_nothing_is_left(pace)


async def test_two_keys_share_a_rate_fairly() -> None:
    """The second key does not wait until the first has sent everything."""
    pace = Pace(requests_per_minute=1200)
    order: list[str] = []

    async def take(key: str) -> None:
        turn = turn_of(pace, key)
        await turn.wait()
        order.append(key)
        turn.finish()

    await asyncio.gather(*(take("a") for _ in range(34)), *(take("b") for _ in range(7)))
    assert 7 == order[20:34].count("b")


async def test_a_large_request_is_not_starved_by_small_ones_of_another_key() -> None:
    """Where one key keeps the rate busy with small requests, a large one of another key gets its turn all the same."""
    pace = Pace(tokens_per_minute=60_000)
    stop = False

    async def take(key: str, tokens: int) -> None:
        turn = turn_of(pace, key, max_tokens=tokens)
        await turn.wait()
        turn.finish()

    async def keep_busy() -> None:
        while not stop:
            await take("small", 100)

    small = [asyncio.ensure_future(keep_busy()) for _ in range(3)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        await take("large", 1500)
    stop = True
    await asyncio.gather(*small)
    assert_nothing_is_left(pace)


# Ends


async def test_cancelling_what_waits_leaves_nothing() -> None:
    """At each moment: before the wait, while it waits, and in the turn of the loop in which its turn comes."""
    pace = Pace(requests_per_minute=60)
    first = turn_of(pace)
    await first.wait()
    for pauses in range(3):
        task = asyncio.ensure_future(turn_of(pace).wait())
        for _ in range(pauses):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(0)
    first.finish()
    await asyncio.sleep(0)
    assert_nothing_is_left(pace)


async def test_a_turn_that_comes_with_a_cancellation_is_given_up() -> None:
    pace = Pace(adaptive=True)
    turns = [turn_of(pace) for _ in range(8)]
    for turn in turns:
        await turn.wait()
    late, next_ = turn_of(pace), turn_of(pace)
    tasks = [asyncio.ensure_future(turn.wait()) for turn in (late, next_)]
    await asyncio.sleep(0.01)
    turns[0].finish()
    await asyncio.sleep(0)  # the turn of `late` has come, and its task has not run since
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    await tasks[1]
    for turn in (*turns, next_):
        turn.finish()
    assert_nothing_is_left(pace)


@pytest.mark.parametrize("way", ["create", "stream", "fan_out", "map"])
async def test_cancelling_calls_leaves_nothing(start: Start, way: str) -> None:
    """Some are in flight, some wait for the server's wait, some for their first turns."""
    pace = Pace(requests_per_minute=1200)
    replies = itertools.cycle([reply_writes([HOLD]), reply_json(SLOW_DOWN, 429, {"retry-after": "30"})])

    async def answer(request: Request, connection: Connection) -> None:
        await next(replies)(request, connection)

    _, client = await start(handler=answer, pace=pace, max_retries=2)

    async def fan() -> None:
        async with client.chat.completions.fan_out(n=10, **CALL) as fan:
            await fan.completion()

    async def read() -> None:
        async with await open_stream(client) as stream:
            await stream.completion()

    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "create": lambda: asyncio.gather(*(create_completion(client) for _ in range(10))),
        "stream": lambda: asyncio.gather(*(read() for _ in range(10))),
        "fan_out": fan,
        "map": lambda: map_all(client, 10),
    }
    for seconds in (0.0, 0.02, 0.2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await calls[way]()
        await asyncio.sleep(0.02)
        assert_nothing_is_left(pace)


async def test_a_stream_that_is_left_or_dropped_ends_its_turn(start: Start) -> None:
    pace = Pace()
    _, client = await start(
        *([reply_writes([*reply_sse(chunk("a"), done=False).steps[:-1], HOLD])] * 2), pace=pace
    )
    stream = await open_stream(client)
    assert 1 == sum(account.in_flight for account in internals(pace)._schedule._accounts.values())
    await stream.aclose()
    assert_nothing_is_left(pace)
    stream = await open_stream(client)
    with pytest.warns(ResourceWarning):
        del stream
    assert_nothing_is_left(pace)


def test_a_closed_loop_with_waiters_left_behind() -> None:
    """Requests whose loop was closed while they waited hold up nobody, and are forgotten."""
    pace = Pace(requests_per_minute=600)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # tasks are destroyed while pending

    async def leave() -> list[asyncio.Task[None]]:
        tasks = [asyncio.ensure_future(turn_of(pace).wait()) for _ in range(15)]
        await asyncio.sleep(0.01)
        return tasks

    left = loop.run_until_complete(leave())
    loop.close()
    assert 5 == sum(not task.done() for task in left)

    async def go_on() -> None:
        for _ in range(3):
            turn = turn_of(pace)
            async with asyncio.timeout(5):
                await turn.wait()
            turn.finish()

    asyncio.run(go_on())
    del left
    gc.collect()
    asyncio.run(go_on())
    assert {} == internals(pace)._lines
    assert [10] == [
        account.in_flight for account in internals(pace)._schedule._accounts.values()
    ]  # never finished


async def test_a_finaliser_may_end_a_turn_at_any_moment() -> None:
    """The garbage collector may drop a stream while the `Pace` computes: nothing may wait for itself."""
    pace = Pace(adaptive=True)

    class Dropped:
        def __init__(self, turn: Turn) -> None:
            self.turn = turn
            self.cycle = self

        def __del__(self) -> None:
            self.turn.finish()

    thresholds = gc.get_threshold()
    async with asyncio.timeout(20):
        try:
            for threshold in range(1, 40):
                gc.set_threshold(0)
                for _ in range(8):
                    Dropped(turn := turn_of(pace))
                    await turn.wait()
                    del turn
                others = [turn_of(pace) for _ in range(4)]
                waiting = [asyncio.ensure_future(other.wait()) for other in others]
                gc.set_threshold(threshold, 1, 1)
                await asyncio.gather(*waiting)
                gc.set_threshold(0)
                gc.collect()
                for other in others:
                    other.finish()
        finally:
            gc.set_threshold(*thresholds)
    gc.collect()
    await asyncio.sleep(0)
    assert_nothing_is_left(pace)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork() -> None:
    """The child has the rates. The parent's lock, queues and requests in flight are not its own."""
    pace = Pace(requests_per_minute=60_000, adaptive=True)

    async def in_parent() -> int:
        for _ in range(8):
            await turn_of(pace).wait()
        waiting = asyncio.ensure_future(turn_of(pace).wait())
        await asyncio.sleep(0.01)
        locked, unlock = threading.Event(), threading.Event()

        def lock() -> None:
            with internals(pace)._lock:
                locked.set()
                unlock.wait(10)

        thread = threading.Thread(target=lock)
        thread.start()
        locked.wait(10)
        child = os.fork()
        if child == 0:
            os._exit(_in_child(pace))
        unlock.set()
        thread.join()
        waiting.cancel()
        return child

    child = asyncio.run(in_parent())
    until = time.monotonic() + 20
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(child, 9)
        time.sleep(0.01)
    assert 0 == ended[1]


def _in_child(pace: Pace) -> int:
    """Take turns in a forked process; return its exit status."""

    async def take() -> None:
        async with asyncio.timeout(5):
            turn = turn_of(pace)
            await turn.wait()
            turn.finish()

    try:
        threading.Thread(target=lambda: asyncio.run(take())).start()
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(10)
        assert_nothing_is_left(pace)
    except BaseException:  # noqa: BLE001  # whatever it is, the process must end here
        return 1
    return 0


def test_what_a_forked_process_forgets() -> None:
    """The same without a fork: the rates stay, and what has been learned goes."""
    pace = Pace(requests_per_minute=60)
    assert isinstance(pace.take(pace.account("key"), 0.0, 60.0), Admission)
    module._forget_parent()
    assert isinstance(pace.take(pace.account("key"), 0.0, 60.0), Admission)
    assert not isinstance(pace.take(pace.account("key"), 0.0, 60.0), Admission)


# Time


async def test_the_total_does_not_count_the_wait_for_the_first_turn(start: Start) -> None:
    pace = Pace(requests_per_minute=120)
    _, client = await start(pace=pace, timeout=Timeout(total=0.4))
    began = time.monotonic()
    await asyncio.gather(*(create_completion(client) for _ in range(4)))
    assert time.monotonic() - began > 0.9


async def test_a_cooldown_of_the_client_does_not_bunch_what_has_its_turns(start: Start) -> None:
    """A map with a rate of its own, and a call of the client that is asked to wait: after the wait the rate holds."""
    server, client = await start(reply_json(SLOW_DOWN, 429, {"retry-after": "1"}), max_retries=2)
    call = asyncio.ensure_future(create_completion(client))
    await until(lambda: server.requests)
    await asyncio.sleep(0.02)
    assert 30 == await map_all(client, 30, requests_per_minute=600, max_concurrency=64)
    await call
    times = [request.received_at for request in server.requests[1:]]
    assert most_within(times, 0.5) <= 10 + 5 + 2  # one of them is the call's own


# What is learned


async def test_the_level_of_the_server_is_counted_down_over_all_users(start: Start) -> None:
    pace = Pace()
    async with serve(rate_limit=Quota(requests=10, per_second=40)) as server:
        async with AsyncGradient(inference_endpoint=server.url, model_access_key="k", pace=pace) as client:
            assert 1 == await map_all(client, 1)
            done = await asyncio.gather(*(map_all(client, 20) for _ in range(3)))
        assert [20, 20, 20] == done
        assert len(server.requests) <= 1.3 * 61


async def test_adaptive_pace_of_a_client(start: Start) -> None:
    """Single calls count too: a server that refuses halves the number in flight."""
    pace = Pace(adaptive=True)
    in_flight = most = 0

    async def answer(request: Request, connection: Connection) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        try:
            await connection.sleep(0.02)
            await reply_json(completion("hi"))(request, connection)
        finally:
            in_flight -= 1

    _, client = await start(handler=answer, pace=pace)
    await asyncio.gather(*(create_completion(client) for _ in range(40)))
    assert 8 <= most <= 40
    assert_nothing_is_left(pace)


def test_an_admission_without_a_loop_is_ended() -> None:
    """A stream may be dropped outside its loop."""
    pace = Pace()
    account = pace.account("key")
    admission = pace.take(account, 0.0, 60.0)
    assert isinstance(admission, Admission)
    pace.finish(admission)
    assert_nothing_is_left(pace)


async def test_a_turn_that_ends_in_another_thread(start: Start) -> None:
    """As that of a stream which is dropped there: the next request of this loop gets its turn."""
    pace = Pace(adaptive=True)
    turns = [turn_of(pace) for _ in range(8)]
    for turn in turns:
        await turn.wait()
    next_ = turn_of(pace)
    task = asyncio.ensure_future(next_.wait())
    await asyncio.sleep(0)
    await asyncio.to_thread(turns[0].finish)
    async with asyncio.timeout(5):
        await task
    for turn in (*turns, next_):
        turn.finish()
    assert_nothing_is_left(pace)


async def test_a_queue_that_is_run_after_it_was_left() -> None:
    """A timer may run a queue that was woken already; the queue that has come in its place stays."""
    pace = Pace(adaptive=True)
    turns = [turn_of(pace) for _ in range(9)]
    for turn in turns[:8]:
        await turn.wait()
    waiting = asyncio.ensure_future(turns[8].wait())
    await asyncio.sleep(0)
    (line,) = internals(pace)._lines.values()
    turns[0].finish()
    line.run()
    assert {} == internals(pace)._lines
    await waiting
    for turn in turns:
        turn.finish()
    assert_nothing_is_left(pace)


@pytest.mark.parametrize(("reply", "limit"), [(RESET, 8), (HOLD, 1)], ids=["lost", "no answer"])
async def test_an_attempt_without_an_answer(start: Start, reply: Any, limit: float) -> None:
    """A timeout shows that the server is overloaded; a lost connection shows nothing."""
    pace = Pace(adaptive=True)
    _, client = await start(reply_writes([reply]), pace=pace, timeout=Timeout(response=0.1))
    with pytest.raises(APIConnectionError):
        await create_completion(client)
    (account,) = internals(pace)._schedule._accounts.values()
    assert limit == int(account.concurrency.limit)
    assert_nothing_is_left(pace)


async def test_a_call_that_waited_too_long_for_a_retry_raises_its_refusal(start: Start) -> None:
    pace = Pace(requests_per_minute=20)
    refusal = reply_json(SLOW_DOWN, 429, {"retry-after": "0.01"})
    _, client = await start(refusal, pace=pace, timeout=Timeout(total=0.3), max_retries=1)
    with pytest.raises(RateLimitError):
        await create_completion(client)
    await asyncio.sleep(0)
    assert_nothing_is_left(pace)
