"""Runs that are cancelled: at each of their awaits, and at random moments under load."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from typing import Any

import pytest
import uvloop
from cancellation import (
    CANCEL_MOMENTS,
    CancelledAwait,
    CancelMoment,
    cancel_at_each_await,
    expect_settled,
    expect_usable,
    run_cancelled,
)
from client_calls import Start
from runs import answers, begin, calls, events_of, sent

from gradient_async import AsyncGradient, ToolRun
from gradient_async.decoding import check_params
from gradient_async.testing import Connection, Handler, Request, serve

MANY = [("wait", '{"n":0}'), ("wait", '{"n":1}'), ("add", '{"a":1}'), ("wait", "no JSON")]


class Tools:
    """Functions that know how many of them run, and how many began after the run was left."""

    def __init__(self) -> None:
        self.running = 0
        self.begun = 0

    async def wait(self, n: int) -> int:
        self.running += 1
        self.begun += 1
        try:
            for _ in range(n + 1):
                await asyncio.sleep(0)
        finally:
            self.running -= 1
        return n

    def add(self, a: int) -> int:
        self.begun += 1
        return a


def expect_sendable(run: ToolRun[Any]) -> None:
    """Expect messages that can be sent: each call has its result, right behind its message and in its order."""
    messages = sent(run.messages)
    check_params({"model": "m", "messages": run.messages}, stream=False)
    place = 0
    while place < len(messages):
        ids = [call["id"] for call in messages[place].get("tool_calls") or ()]
        results = messages[place + 1 : place + 1 + len(ids)]
        assert [("tool", id_) for id_ in ids] == [
            (result["role"], result.get("tool_call_id")) for result in results
        ]
        place += 1 + len(ids)


class Work:
    """A run, as the work of `cancel_at_each_await`."""

    def __init__(self, *, by_events: bool, **options: Any) -> None:
        self._by_events = by_events
        self._options = options

    async def __call__(self, client: AsyncGradient) -> None:
        tools = Tools()
        run = begin(client, tools.wait, tools.add, **self._options)
        try:
            async with run:
                if self._by_events:
                    async for _ in run:
                        pass
                else:
                    await run.completion()
        finally:
            assert 0 == tools.running
            expect_sendable(run)
            assert run.usage is None or run.turns
            assert len(run.turns) < 2 or len(run.messages) >= 6


def scripted(*, stream: bool) -> list[Handler]:
    return [calls(*MANY, stream=stream, gap=0.0), answers(stream=stream)]


CASES = [
    pytest.param(Work(by_events=True), scripted(stream=True), id="events"),
    pytest.param(Work(by_events=False, tool_concurrency=1), scripted(stream=True), id="completion"),
    pytest.param(Work(by_events=True, stream=False), scripted(stream=False), id="awaited"),
    pytest.param(Work(by_events=False, tool_timeout=5), scripted(stream=True), id="with a time limit"),
]


@pytest.mark.parametrize("how", CANCEL_MOMENTS)
@pytest.mark.parametrize(("work", "script"), CASES)
async def test_runs_cancelled_at_every_await(work: Any, script: list[Handler], how: CancelMoment) -> None:
    """No task, connection or timer is left, and the messages can be sent."""
    assert await cancel_at_each_await(work, script, 2, how=how) > 5


@pytest.mark.parametrize("how", CANCEL_MOMENTS)
@pytest.mark.parametrize(("work", "script"), CASES[:3])
def test_runs_cancelled_at_every_await_of_uvloop(work: Any, script: list[Handler], how: CancelMoment) -> None:
    async def main() -> None:
        assert await cancel_at_each_await(work, script, 2, how=how) > 5

    uvloop.run(main())


async def test_closing_cancelled_at_every_await(start: Start) -> None:
    """The tools are awaited all the same."""
    stop, finished = 0, False
    while not finished:
        stop += 1
        server, client = await start(*scripted(stream=True))
        tools = Tools()
        run = begin(client, tools.wait, tools.add)
        async for event in run:
            if event.type == "tool.finished":
                break
        walk = CancelledAwait(run.aclose(), stop)
        task = asyncio.create_task(run_cancelled(walk))
        await asyncio.wait((task,))
        finished = walk.steps < stop
        assert (not finished, 0) == (task.cancelled(), tools.running)
        expect_sendable(run)
        await expect_settled(server, client)
        await run.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(run)


async def test_2000_random_moments_under_load() -> None:
    """Sixty runs at once, each cancelled at any moment: nothing is left, no tool begins later, the messages can be sent."""
    seeded = random.Random(16)
    replies = {
        (stream, called): (answers if called else partial(calls, *MANY[:3]))(stream=stream, gap=0.001)
        for stream in (True, False)
        for called in (True, False)
    }

    async def handler(request: Request, connection: Connection) -> None:
        called = any(message["role"] == "tool" for message in request.json["messages"])
        await replies[bool(request.json.get("stream")), called](request, connection)

    whole = 0
    async with (
        serve(handler=handler) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="k", max_retries=0) as client,
    ):
        tasks = asyncio.all_tasks()

        async def one(moment: float) -> None:
            nonlocal whole
            tools = Tools()
            stream, concurrency = seeded.random() < 0.7, seeded.choice((None, 1, 2))
            run = begin(client, tools.wait, tools.add, tool_concurrency=concurrency, stream=stream)
            reading = asyncio.create_task(seeded.choice((run.completion, partial(events_of, run)))())
            await asyncio.sleep(moment)
            reading.cancel()
            await asyncio.wait((reading,))
            begun = tools.begun
            assert 0 == tools.running
            expect_sendable(run)
            whole += not reading.cancelled()
            await asyncio.sleep(0)
            # A thread may have begun the call of a function just as the run was left.
            assert tools.begun - begun <= 1
            await run.aclose()

        left, longest = 2000, 0.12
        began = time.monotonic()
        # A slow machine makes fewer.
        while left > 0 and time.monotonic() - began < 20:
            moments = [seeded.uniform(0, longest) for _ in range(min(60, left))]
            await asyncio.gather(*map(one, moments))
            left -= len(moments)
            longest *= 1 if whole else 1.5
        await expect_settled(server, client)
        await asyncio.sleep(0.01)
        mine = asyncio.all_tasks() - tasks - set(server._service.tasks)
        assert set() == mine
        assert (await begin(client, Tools().add).completion()).choices[0].message.content
    assert 0 < whole < 2000
    # No thread has anything left to do.
    assert 1 == await asyncio.wait_for(asyncio.to_thread(int, 1), 10)


async def test_a_time_limit_around_a_run(start: Start) -> None:
    """A TimeoutError of the consumer's own, while a tool runs."""
    limit = asyncio.timeout(None)

    async def hang(n: int) -> None:
        limit.reschedule(asyncio.get_running_loop().time())
        await asyncio.Event().wait()

    server, client = await start(calls(("hang", '{"n":1}')))
    run = begin(client, hang)
    with pytest.raises(TimeoutError):
        async with limit:
            await run.completion()
    assert not asyncio.all_tasks() - {asyncio.current_task()} - set(server._service.tasks)
    await expect_settled(server, client)
    await expect_usable(server, client)
