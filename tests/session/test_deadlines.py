"""One timer looks after all bodies of a loop that are waited for."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from client_calls import Start, open_stream

from gradient_async import StreamInterruptedError, StreamTimeoutError, Timeout
from gradient_async.session import body as body_module
from gradient_async.session.deadlines import DeadlineTimer
from gradient_async.testing import HOLD, chunk, head, http_chunk, reply_sse, reply_writes, sse


class Looker:
    """Stands in for a body: notes when it is looked at, and says so many times to look again."""

    def __init__(self, again: int, every: float) -> None:
        self.again, self.every = again, every
        self.at: list[float] = []

    def check(self, now: float) -> float | None:
        self.at.append(now)
        return None if len(self.at) > self.again else now + self.every


def timers() -> list[Any]:
    """Return the timers of the running loop that are set for timer."""
    scheduled: list[Any] | None = getattr(asyncio.get_running_loop(), "_scheduled", None)
    if scheduled is None:
        pytest.skip("uvloop does not tell its timers")
    return [timer for timer in scheduled if not timer.cancelled() and "DeadlineTimer" in repr(timer)]


async def test_everybody_is_looked_at_in_time_with_one_timer() -> None:
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    began = loop.time()
    lookers: list[Any] = [Looker(3, 0.02), Looker(1, 0.05), Looker(0, 1.0)]
    for looker, after in zip(lookers, (0.06, 0.02, 0.04), strict=True):
        timer.join(looker, began + after)
    assert 1 == len(timers())
    await asyncio.sleep(0.3)
    assert [] == timers()
    # Together at the first moment that one of them named; then when somebody wants it, and not once he is done.
    first, second, third = (looker.at for looker in lookers)
    assert first[0] == second[0] == third[0] >= began + 0.02
    assert [4, 2, 1] == [len(first), len(second), len(third)]
    assert all(later - earlier >= 0.015 for earlier, later in itertools.pairwise(first))
    assert second[1] in first


async def test_who_leaves_is_not_looked_at_and_the_timer_rings_once_more() -> None:
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    stays, leaves = (Looker(0, 1.0) for _ in range(2))
    bodies: list[Any] = [stays, leaves]
    for body in bodies:
        timer.join(body, loop.time() + 0.02)
    timer.leave(bodies[1])
    assert 1 == len(timers())
    await asyncio.sleep(0.05)
    assert [1, 0] == [len(stays.at), len(leaves.at)]
    assert [] == timers()
    timer.join(bodies[0], loop.time() + 0.02)
    timer.leave(bodies[0])
    timer.leave(bodies[0])
    # Who comes next finds the timer that is set already; and it does not go on for nobody.
    before = timers()
    assert 1 == len(before)
    timer.join(bodies[1], loop.time() + 0.05)
    assert before == timers()
    await asyncio.sleep(0.1)
    assert [1, 1] == [len(stays.at), len(leaves.at)]
    assert [] == timers()


async def test_a_round_is_made_once_a_second_at_least() -> None:
    """However long they all have: a timer that nobody needs any more does not stay for as long."""
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    patient: Any = Looker(0, 1.0)
    began = loop.time()
    timer.join(patient, began + 600.0)
    (timer,) = timers()
    assert began + 0.9 < timer.when() <= loop.time() + 1.0


async def test_the_next_round_is_when_the_first_of_all_wants_it() -> None:
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    lookers: list[Any] = [Looker(9, every) for every in (0.7, 0.5, 0.6)]
    for looker in lookers:
        timer.join(looker, loop.time() + 0.01)
    await asyncio.sleep(0.03)
    assert timer._at == lookers[1].at[-1] + 0.5
    for looker in lookers:
        timer.leave(looker)


async def test_rounds_that_nobody_wants_any_more_are_no_garbage() -> None:
    """Nothing that is left of the last one refers to them."""
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    looker: Any = Looker(0, 1.0)
    timer.join(looker, loop.time())
    await asyncio.sleep(0.01)
    assert 1 == len(looker.at)
    reference = weakref.ref(timer)
    del timer
    assert reference() is None


async def test_the_dead_are_forgotten() -> None:
    """A timer keeps no body alive, and what is left of one does no harm."""
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    gone: Any = Looker(0, 1.0)
    reference = weakref.ref(gone)
    timer.join(gone, loop.time() + 0.01)
    del gone
    assert reference() is None
    await asyncio.sleep(0.03)
    assert [] == timers()
    assert {} == timer._timed


async def test_who_leaves_while_others_are_looked_at_does_no_harm() -> None:
    """As where garbage is collected just then."""
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    stays = Looker(3, 0.01)
    bodies: list[Any] = [stays, Looker(3, 0.01)]

    class Leaver(Looker):
        def check(self, now: float) -> float | None:
            timer.leave(bodies.pop())
            return super().check(now)

    leaver: Any = Leaver(0, 1.0)
    timer.join(leaver, loop.time())
    timer.join(bodies[0], loop.time())
    timer.join(bodies[1], loop.time())
    await asyncio.sleep(0.1)
    assert [1, 4] == [len(leaver.at), len(stays.at)]
    assert {} == timer._timed


async def test_a_connection_that_is_just_closing_is_given_the_time_to_tell(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often others are looked at; and is found out if it never tells."""
    monkeypatch.setattr(body_module, "_WATCH_INTERVAL", 0.4)
    _, client = await start(reply_writes([*reply_sse(chunk("Hel"), done=False).steps[:-1], HOLD]))
    stream = await open_stream(client)
    await anext(stream)
    connection = stream._reply.body._response.connection
    assert connection is not None
    protocol: Any = connection.protocol
    protocol.transport = SimpleNamespace(is_closing=lambda: True, close=protocol.transport.close)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    often: Any = Looker(1000, 0.01)
    timer = stream._reply.body._timer
    assert timer is not None
    loop = asyncio.get_running_loop()
    timer.join(often, loop.time())
    await asyncio.sleep(0.1)
    assert len(often.at) > 1
    assert not reading.done() or often.at[-1] - often.at[0] >= 0.2
    with pytest.raises(StreamInterruptedError):
        await reading
    assert often.at[-1] - often.at[0] >= 0.2
    timer.leave(often)


class Loop:
    """Stands in for a loop: holds what is to be called, and nothing calls it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def time(self) -> float:
        return 0.0

    def call_at(self, _at: float, callback: Any) -> None:
        self.calls.append(callback)


def test_a_loop_that_is_dropped_is_not_kept() -> None:
    """Though somebody was waited for in it, and it was never closed."""
    loop: Any = Loop()
    body: Any = Looker(0, 1.0)
    DeadlineTimer.of(loop).join(body, 1.0)
    assert 1 == len(loop.calls)
    assert DeadlineTimer.of(loop) is loop.calls[0].__self__
    other: Any = Loop()
    assert DeadlineTimer.of(loop) is not DeadlineTimer.of(other)
    reference = weakref.ref(loop)
    del loop
    gc.collect()
    assert reference() is None


async def test_a_loop_has_one_and_keeps_none() -> None:
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer.of(loop)
    assert timer is DeadlineTimer.of(loop)
    reference = weakref.ref(timer)
    del timer
    gc.collect()
    assert reference() is None


async def test_many_streams_that_wait_have_one_timer_and_each_its_own_limit(start: Start) -> None:
    """Whoever falls silent is found out in time, whatever the others do."""
    begun = [*reply_sse(chunk("Hel"), done=False).steps[:-1], HOLD]
    _, client = await start(*[reply_writes(begun)] * 12)
    limits = [0.1 if turn % 3 == 0 else 30.0 for turn in range(12)]
    streams = [await open_stream(client, timeout=Timeout(idle=limit)) for limit in limits]
    for stream in streams:
        await anext(stream)
    reading = [asyncio.create_task(anext(stream)) for stream in streams]
    await asyncio.sleep(0.01)
    assert 1 == len(timers())
    done, waiting = await asyncio.wait(reading, timeout=0.5)
    assert {task for task, limit in zip(reading, limits, strict=True) if limit < 1} == done
    for task in done:
        with pytest.raises(StreamTimeoutError, match="idle"):
            await task
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    for stream in streams:
        await stream.aclose()
    assert {} == DeadlineTimer.of(asyncio.get_running_loop())._timed


async def test_time_is_counted_from_when_a_reader_began_to_wait(start: Start) -> None:
    """A read may be begun earlier than its reader waits; see `sync/streams.py`."""
    data = http_chunk(sse(chunk("t0 "), done=False))
    kind = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
    _, client = await start(reply_writes([head(200, kind), data, HOLD]), timeout=Timeout(idle=30))
    async with client.chat.completions.stream(
        model="m", messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        await anext(stream)
        body = stream._reader.body
        waiter = body.start_read()
        assert waiter is not None
        body.cancel_read()
        body.wait_since(asyncio.get_running_loop().time() - 60)
        body.wait_since(0.0)  # it is counted already
        async with asyncio.timeout(5):
            await waiter
        assert "response" == body.expired
