"""Cancelled at every await: the connection is given up or whole, nothing is left, and the client works on."""

from __future__ import annotations

import asyncio
import gc
import sys
import time

import pytest
import uvloop
from cancellation import (
    CANCEL_MOMENTS,
    CASES,
    LATE_END,
    PIECES,
    STREAM,
    CancelledAwait,
    CancelMoment,
    ClientWork,
    all_chunks,
    cancel_at_each_await,
    expect_settled,
    expect_usable,
    run_cancelled,
    to_completion,
)
from client_calls import Start, create_completion, open_stream

from gradient_async import GradientError
from gradient_async.testing import HOLD, Handler, reply_sse, reply_writes


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "pooled connection"])
@pytest.mark.parametrize("how", CANCEL_MOMENTS)
@pytest.mark.parametrize(("work", "script", "posts"), CASES)
async def test_cancelled_at_every_await(
    work: ClientWork, script: list[Handler], posts: int, how: CancelMoment, *, warm: bool
) -> None:
    """The cancellation comes out as it went in, and frees everything by counting references alone."""
    assert await cancel_at_each_await(work, script, posts, how=how, warm=warm) > 0


@pytest.mark.usefixtures("virtual_time")
async def test_cancelled_twice(start: Start) -> None:
    """The second cancellation meets what is being done about the first."""
    for pause in (0.0, 0.001, 0.01):
        server, client = await start(STREAM, LATE_END)
        for _ in range(2):
            task = asyncio.create_task(to_completion(client))
            await asyncio.sleep(0.004)
            task.cancel()
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await expect_settled(server, client)
        await expect_usable(server, client)


@pytest.mark.usefixtures("virtual_time")
async def test_a_storm_of_cancellations_leaves_the_pool_whole(start: Start) -> None:
    server, client = await start(max_connections=10)
    slow = reply_writes([reply_sse(PIECES[0], done=False).data[:-5], HOLD])
    server.push(*[slow] * 150)
    tasks = [asyncio.create_task(to_completion(client)) for _ in range(150)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0.001 * (number % 3))
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {asyncio.CancelledError} == {type(result) for result in results}
    await expect_settled(server, client)
    server._service.script.clear()
    began = time.monotonic()
    assert len(await asyncio.gather(*(create_completion(client) for _ in range(10)))) == 10
    assert time.monotonic() - began < 0.01


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize("work", [create_completion, all_chunks, to_completion])
async def test_a_timeout_around_it_is_a_timeout(start: Start, work: ClientWork) -> None:
    for steps in ([HOLD], [*reply_sse(PIECES[0]).steps[:2], HOLD]):
        server, client = await start(reply_writes(steps), max_retries=2)
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await work(client)
        assert not isinstance(caught.value, GradientError)
        await server.wait_closed_connections(timeout=0.1)
        assert len(server.requests) == 1


@pytest.mark.usefixtures("virtual_time")
async def test_a_task_group_cancels_its_streams(start: Start) -> None:
    server, client = await start(*[reply_writes([*reply_sse(PIECES[0]).steps[:2], HOLD])] * 5)

    async def fail() -> None:
        await server.wait_requests(5)
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(to_completion(client))
            group.create_task(fail())
    assert [ZeroDivisionError] == [type(error) for error in caught.value.exceptions]
    await server.wait_closed_connections(timeout=0.1)


@pytest.mark.usefixtures("virtual_time")
async def test_a_cancelled_stream_dies_with_its_last_reference(start: Start) -> None:
    """The task's exception holds it by its traceback, and is let go with the task."""
    server, client = await start(reply_writes([*reply_sse(PIECES[0]).steps[:2], HOLD]))

    async def read() -> None:
        stream = await open_stream(client)
        async for _ in stream:
            pass

    gc.disable()
    try:
        task = asyncio.create_task(read())
        await server.wait_requests()
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        with pytest.warns(ResourceWarning, match="dropped before its end"):
            del task
        await server.wait_closed_connections(timeout=0.1)
    finally:
        gc.enable()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are not eager before 3.12")
@pytest.mark.parametrize(("work", "script", "posts"), CASES)
def test_eager_tasks(work: ClientWork, script: list[Handler], posts: int) -> None:
    """Tasks that run up to their first await as they are made."""

    async def main() -> None:
        if sys.version_info >= (3, 12):
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        assert await cancel_at_each_await(work, script, posts) > 0

    asyncio.run(main())


@pytest.mark.parametrize(("work", "script", "posts"), CASES)
@pytest.mark.parametrize("how", CANCEL_MOMENTS[:2])
def test_cancelled_at_every_await_of_uvloop(
    work: ClientWork, script: list[Handler], posts: int, how: CancelMoment
) -> None:
    async def main() -> None:
        assert await cancel_at_each_await(work, script, posts, how=how) > 0

    uvloop.run(main())


@pytest.mark.usefixtures("virtual_time")
async def test_closing_the_client_may_be_cancelled(start: Start) -> None:
    server, client = await start(reply_writes([*reply_sse(PIECES[0]).steps[:2], HOLD]))
    stream = await open_stream(client)
    for stop in range(1, 5):
        closing = CancelledAwait(client.close(), stop)
        (_,) = await asyncio.gather(asyncio.create_task(run_cancelled(closing)), return_exceptions=True)
    await server.wait_closed_connections(timeout=0.1)
    assert not stream.completed
    await stream.aclose()
