"""One client in the event loops of several threads: where it is closed, and what its calls share."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from client_calls import CALL, Start, create_completion, open_stream

from gradient_async import (
    AsyncGradient,
    ConfigurationError,
    OverloadedError,
    Retry,
    StreamInterruptedError,
)
from gradient_async.errors import RateLimitError, RequestInfo, ResponseInfo
from gradient_async.session import manager as manager_module
from gradient_async.session import pool as pool_module
from gradient_async.session.loops import call_in
from gradient_async.session.manager import Cooldown, SessionManager
from gradient_async.testing import HOLD, Handler, chunk, completion, reply_json, reply_sse, reply_writes
from gradient_async.types import Headers

STREAM = reply_writes([*reply_sse(chunk("Hel")).steps[:2], HOLD])
LIMIT = 30.0  # seconds that nothing here takes


class OtherThread:
    """A thread with an event loop in debug mode, which refuses calls from other threads."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_debug(True)
        self.thread = threading.Thread(target=self.loop.run_forever)

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in this thread."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    async def stop(self) -> None:
        """Stop the loop, and wait until the thread has ended."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.to_thread(self.thread.join)


@pytest.fixture
async def other() -> AsyncIterator[OtherThread]:
    thread = OtherThread()
    thread.thread.start()
    yield thread
    if thread.thread.is_alive():
        await thread.stop()

    def close() -> None:
        thread.loop.run_until_complete(thread.loop.shutdown_asyncgens())
        thread.loop.close()

    await asyncio.to_thread(close)


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Collect the threads in which replies and sessions are closed."""
    threads: set[int] = set()
    close_response, close_session = aiohttp.ClientResponse.close, aiohttp.ClientSession.close

    def response(self: aiohttp.ClientResponse) -> None:
        threads.add(threading.get_ident())
        close_response(self)

    async def session(self: aiohttp.ClientSession) -> None:
        threads.add(threading.get_ident())
        await close_session(self)

    monkeypatch.setattr(aiohttp.ClientResponse, "close", response)
    monkeypatch.setattr(aiohttp.ClientSession, "close", session)
    return threads


async def read(client: AsyncGradient) -> None:
    """Open a stream that does not end, and read it until it is closed."""
    async with await open_stream(client) as stream:
        async for _ in stream:
            pass


async def test_streams_and_sessions_are_closed_by_their_own_loops(
    start: Start, other: OtherThread, closings: set[int]
) -> None:
    """And are closed when `close` returns."""
    server, client = await start(STREAM, STREAM)
    readers = [asyncio.create_task(other.run(read(client))) for _ in range(2)]
    await server.wait_requests(2)
    await asyncio.sleep(0.05)
    session = await other.run(client._core.connections.manager.pool.session())
    await client.close()
    assert session.closed
    for outcome in await asyncio.gather(*readers, return_exceptions=True):
        assert isinstance(outcome, StreamInterruptedError)
    await server.wait_closed_connections()
    assert {other.thread.ident} == closings


async def test_loops_that_close_a_client_together(start: Start, other: OtherThread) -> None:
    _, client = await start()
    await create_completion(client)
    await other.run(create_completion(client))
    await asyncio.wait_for(asyncio.gather(client.close(), other.run(client.close())), LIMIT)


async def test_a_blocked_loop_is_not_waited_for(
    start: Start, other: OtherThread, closings: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes its streams and its session later."""
    monkeypatch.setattr(pool_module, "_PATIENCE", 0.05)
    server, client = await start(STREAM)
    reader = asyncio.create_task(other.run(read(client)))
    await server.wait_requests()
    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(LIMIT)

    other.loop.call_soon_threadsafe(block)
    await asyncio.to_thread(blocked.wait, LIMIT)
    await asyncio.wait_for(client.close(), LIMIT)
    assert (set(), 1) == (closings, server.open_connections)
    release.set()
    await server.wait_closed_connections()
    with pytest.raises(StreamInterruptedError):
        await reader
    assert {other.thread.ident} == closings


async def test_a_stopped_loop_is_not_waited_for(
    start: Start, other: OtherThread, closings: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes its session if it runs again."""
    monkeypatch.setattr(pool_module, "_PATIENCE", LIMIT)
    server, client = await start()
    await other.run(create_completion(client))
    await other.stop()
    began = time.monotonic()
    await client.close()
    assert time.monotonic() - began < LIMIT / 2
    assert (set(), 1) == (closings, server.open_connections)
    await asyncio.to_thread(other.loop.run_until_complete, asyncio.sleep(0.01))
    await server.wait_closed_connections()
    assert threading.get_ident() not in closings


def test_nothing_is_called_in_a_closed_loop() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    call_in(loop, pytest.fail, "called")


async def test_a_loop_that_shuts_down_may_be_closing_the_session_already() -> None:
    released = asyncio.Event()

    async def keep() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await released.wait()

    keeper: Any = keep()
    await anext(keeper)
    shutdown = asyncio.create_task(keeper.aclose())
    await asyncio.sleep(0)
    await pool_module._close(keeper)
    released.set()
    await shutdown


async def test_a_session_opened_while_another_thread_closes_the_client(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is closed at once, and not used."""
    server, client = await start()
    pool = client._core.connections.manager.pool
    open_session = pool_module._open_session
    opened: list[aiohttp.ClientSession] = []

    def open_late(**options: Any) -> aiohttp.ClientSession:
        opened.append(open_session(**options))
        pool.closed = True
        return opened[0]

    monkeypatch.setattr(pool_module, "_open_session", open_late)
    with pytest.raises(ConfigurationError, match="has been closed"):
        await create_completion(client)
    assert [True] == [session.closed for session in opened]
    assert [] == server.requests


# The session manager


async def test_threads_that_call_together_get_one_manager(
    start: Start, other: OtherThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of two is made first."""
    together = threading.Barrier(2)

    class Slow(SessionManager):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            try:
                together.wait(0.5)
            except threading.BrokenBarrierError:
                pass  # Python 3.11 lets the second thread wait for the first

    monkeypatch.setattr(manager_module, "SessionManager", Slow)
    _, client = await start()

    async def manager() -> SessionManager:
        return client._core.connections.manager

    here, there = await asyncio.gather(
        asyncio.to_thread(asyncio.run, manager()), asyncio.create_task(other.run(manager()))
    )
    assert here is there is client._core.connections.manager


async def test_a_manager_made_while_another_thread_closes_the_client(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = await start()

    class Late(SessionManager):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            client._core.connections.closed = True

    monkeypatch.setattr(manager_module, "SessionManager", Late)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="has been closed"):
            await create_completion(client)
    assert [] == server.requests


# Cooldowns and token buckets


def slow_down(seconds: float, status: int = 429) -> Handler:
    return reply_json({"message": "slow down"}, status, {"retry-after": str(seconds)})


@pytest.mark.parametrize("again", [0.0, 0.2])
async def test_another_thread_ends_a_cooldown_first(
    start: Start, monkeypatch: pytest.MonkeyPatch, again: float
) -> None:
    """A cooldown that has passed is removed by another thread, which may even have begun the next one."""
    _, client = await start(slow_down(0.01))
    with pytest.raises(RateLimitError) as caught:
        await create_completion(client)
    cooldowns = client._core.connections.manager._cooldowns
    await asyncio.sleep(0.02)
    ((name, _),) = cooldowns.items()

    def monotonic() -> float:
        """Act as the other thread, between two steps of this one."""
        monkeypatch.setattr(manager_module, "time", time)
        del cooldowns[name]
        if again:
            cooldowns[name] = Cooldown(time.monotonic() + again, caught.value)
        return time.monotonic()

    monkeypatch.setattr(manager_module, "time", SimpleNamespace(monotonic=monotonic))
    began = time.monotonic()
    await create_completion(client)
    assert time.monotonic() - began >= again
    assert {} == cooldowns


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Let Python switch between threads all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("many_switches")
def test_the_longest_cooldown_of_all_threads_holds() -> None:
    manager = SessionManager()
    request = RequestInfo(method="POST", url="http://127.0.0.1:9/v1/x")
    response = ResponseInfo(status_code=429, headers=Headers(), request=request)
    call: Any = SimpleNamespace(key=None, retry=Retry(budget=1000))
    together = threading.Barrier(8)

    def refuse(first: int) -> None:
        together.wait()
        for wait in range(first, 800, 8):
            error = RateLimitError("slow down", response=response, retry_after=wait + 1.0)
            manager._start_cooldown(call, "origin", error)

    threads = [threading.Thread(target=refuse, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (cooldown,) = manager._cooldowns.values()
    assert 800.0 == cooldown.cause.retry_after


@pytest.mark.usefixtures("many_switches")
async def test_retries_of_all_threads_cost_the_same_tokens(start: Start) -> None:
    """A hundred tokens pay for 20 retries, however many threads retry."""
    server, client = await start(handler=slow_down(0, 503), max_retries=9, retry=Retry(max_backoff=0.001))

    async def fail() -> None:
        for _ in range(4):
            with pytest.raises(OverloadedError):
                await client.chat.completions.create(**CALL)

    await asyncio.gather(*(asyncio.to_thread(asyncio.run, fail()) for _ in range(8)))
    assert 8 * 4 + 20 == len(server.requests)


@pytest.mark.usefixtures("many_switches")
async def test_many_threads_share_a_client(start: Start) -> None:
    """Some calls are told to wait, streams are opened, and at last one thread closes the client."""
    handlers = [slow_down(0.001), reply_json(completion("x")), reply_sse(chunk("x", finish_reason="stop"))]
    _, client = await start(*handlers * 60, max_retries=20)

    async def work() -> int:
        done = 0
        while done < 5:
            stream = await open_stream(client)
            done += bool((await stream.completion()).choices)
        return done

    assert [5] * 8 == await asyncio.gather(*(asyncio.to_thread(asyncio.run, work()) for _ in range(8)))
    await client.close()
