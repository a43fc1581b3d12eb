"""Cancelled at every await: the connection is given up or whole, nothing is left, and the client works on."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest
import uvloop
from shell_calls import CALL, Start, ask, streamed

from gradient_async import AsyncGradient, GradientError, Retry, Timeout
from gradient_async.testing import (
    HOLD,
    Handler,
    Server,
    chunk,
    head,
    http_chunk,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
)
from gradient_async.testing import completion as whole

PIECES = [*(chunk(f"t{number} ") for number in range(3)), chunk(finish_reason="stop")]
BODY = reply_json(whole("ok")).data
STREAM: Handler = reply_writes([*reply_sse(*PIECES, gap=0.003).steps[:-1], 0.003, http_chunk(b"")])
ANSWER: Handler = reply_writes([BODY[:20], 0.003, BODY[20:-5], 0.003, BODY[-5:]])
BUSY: Handler = reply_json({"message": "no room"}, 503)
REFUSAL: Handler = reply_writes(
    [head(400, {"content-length": "20"}), 0.003, b'{"message": ', 0.003, b'"no"   }']
)
LATE_END: Handler = reply_writes([*reply_sse(*PIECES).steps[:-1], 0.01, http_chunk(b"")])


class Walk:
    """Runs a coroutine and cancels its task at its n-th suspension.

    Attributes:
        steps: How often it has been suspended.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], stop: int) -> None:
        self._work = work
        self._stop = stop
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        work = self._work.__await__()
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited = work.send(value) if error is None else work.throw(error)
            except StopIteration as end:
                return end.value
            self.steps += 1
            task: Any = asyncio.current_task()
            if self.steps == self._stop:
                task.cancel()
            value, error = None, None
            try:
                value = yield waited
            except BaseException as thrown:  # noqa: BLE001  # handed on
                error = thrown


Work = Callable[[AsyncGradient], Awaitable[Any]]


async def _chunks(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**CALL) as stream:
        async for _ in stream:
            pass


async def _completion(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**CALL) as stream:
        await stream.completion()


async def _raw(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**CALL) as stream:
        async for _ in stream.raw:
            pass


async def _choices(client: AsyncGradient) -> None:
    async def read(pieces: AsyncIterator[Any]) -> None:
        async for _ in pieces:
            pass

    async with client.chat.completions.stream(**CALL) as stream, asyncio.TaskGroup() as group:
        for index in (0, 1):
            group.create_task(read(stream.choice(index)))


async def _bytes(client: AsyncGradient) -> None:
    completions: Any = client.chat.completions
    async with completions.with_streaming_response.create(**CALL) as response:
        async for _ in response.iter_bytes():
            pass


async def _refused(client: AsyncGradient) -> None:
    try:
        await ask(client)
    except GradientError:
        return


async def _models(client: AsyncGradient) -> None:
    await client.models.list()


WALKS: list[Any] = [
    pytest.param(ask, [ANSWER], 1, id="await"),
    pytest.param(_chunks, [STREAM], 1, id="chunks"),
    pytest.param(_completion, [STREAM], 1, id="completion"),
    pytest.param(_completion, [LATE_END], 1, id="drain"),
    pytest.param(_raw, [STREAM], 1, id="raw"),
    pytest.param(_choices, [STREAM], 1, id="choices"),
    pytest.param(_bytes, [ANSWER], 1, id="bytes"),
    pytest.param(_refused, [REFUSAL], 1, id="the body of an error"),
    pytest.param(ask, [BUSY, ANSWER], 2, id="retry"),
    pytest.param(_models, [], 1, id="models"),
]


def ours(loop: asyncio.AbstractEventLoop) -> list[Any]:
    """Timers of ours that are still to fire."""
    scheduled: list[asyncio.TimerHandle] = getattr(loop, "_scheduled", [])
    return [timer for timer in scheduled if "gradient_async" in repr(timer) and not timer.cancelled()]


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "pooled connection"])
@pytest.mark.parametrize(("work", "script", "posts"), WALKS)
async def test_cancelled_at_every_await(
    start: Start, work: Work, script: list[Handler], posts: int, *, warm: bool
) -> None:
    stop = 0
    finished = False
    loop = asyncio.get_running_loop()
    while not finished:
        stop += 1
        server, client = await start(max_retries=1, retry=Retry(max_backoff=0.01), max_connections=2)
        if warm:
            await ask(client)
        server.push(*script)
        before = asyncio.all_tasks()
        asked = len(server.requests)

        async def run(client: AsyncGradient = client) -> None:
            await work(client)

        walk = Walk(run(), stop)

        async def drive(walk: Walk = walk) -> None:
            await walk

        gc.disable()
        try:
            task = asyncio.create_task(drive())
            (result,) = await asyncio.gather(task, return_exceptions=True)
            finished = not isinstance(result, asyncio.CancelledError)
            assert finished or not isinstance(result, Exception), result
            assert finished == (walk.steps < stop)
            del result, task, walk
            # Whatever connection there was is closed, or whole and idle in the pool.
            if not finished:
                began = time.monotonic()
                await _settled(server, client)
                assert time.monotonic() - began < 0.1
        finally:
            gc.enable()
        assert [] == [repr(task) for task in asyncio.all_tasks() - before if not _serves(task)]
        assert [] == ours(loop)
        assert len(server.requests) - asked <= posts
        await _works_on(server, client)
        await client.close()
    assert stop > 1


async def _works_on(server: Server, client: AsyncGradient) -> None:
    """Make one more call, whatever the script still had in store."""
    server._service.script.clear()
    server.push(reply_json(whole("next")))
    async with asyncio.timeout(1):
        assert (await ask(client)).choices[0].message.content == "next"


def _serves(task: asyncio.Task[Any]) -> bool:
    """Whether a task is the server's, which lives in the same loop."""
    return any(word in repr(task) for word in ("_accept_connection", "gradient_async/testing"))


async def _settled(server: Server, client: AsyncGradient) -> None:
    """Wait until the server has no more connections open than the client has in its pool."""
    session = await client._shared.manager.pool.session()
    connector: Any = session.connector
    async with asyncio.timeout(0.5):
        while (  # noqa: ASYNC110  # the pool tells nobody
            server.open_connections > sum(map(len, connector._conns.values())) or connector._acquired
        ):
            await asyncio.sleep(0.001)


async def test_cancelled_twice(start: Start) -> None:
    """The second cancellation meets what is being done about the first."""
    for pause in (0.0, 0.001, 0.01):
        server, client = await start(STREAM, LATE_END)
        for _ in range(2):
            task = asyncio.create_task(_completion(client))
            await asyncio.sleep(0.004)
            task.cancel()
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await _settled(server, client)
        await _works_on(server, client)


async def test_a_storm_of_cancellations_leaves_the_pool_whole(start: Start) -> None:
    server, client = await start(max_connections=10)
    slow = reply_writes([reply_sse(PIECES[0], done=False).data[:-5], HOLD])
    server.push(*[slow] * 150)
    tasks = [asyncio.create_task(_completion(client)) for _ in range(150)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0.001 * (number % 3))
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {asyncio.CancelledError} == {type(result) for result in results}
    await _settled(server, client)
    server._service.script.clear()
    began = time.monotonic()
    assert len(await asyncio.gather(*(ask(client) for _ in range(10)))) == 10
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("work", [ask, _chunks, _completion])
async def test_a_timeout_around_it_is_a_timeout(start: Start, work: Work) -> None:
    for steps in ([HOLD], [*reply_sse(PIECES[0]).steps[:2], HOLD]):
        server, client = await start(reply_writes(steps), max_retries=2)
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await work(client)
        assert not isinstance(caught.value, GradientError)
        await server.wait_closed_connections(timeout=0.1)
        assert len(server.requests) == 1


async def test_a_task_group_cancels_its_streams(start: Start) -> None:
    server, client = await start(*[reply_writes([*reply_sse(PIECES[0]).steps[:2], HOLD])] * 5)

    async def fail() -> None:
        await server.wait_requests(5)
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(_completion(client))
            group.create_task(fail())
    assert [ZeroDivisionError] == [type(error) for error in caught.value.exceptions]
    await server.wait_closed_connections(timeout=0.1)


async def test_a_cancelled_stream_dies_with_its_last_reference(start: Start) -> None:
    """The task's exception holds it by its traceback, and is let go with the task."""
    server, client = await start(reply_writes([*reply_sse(PIECES[0]).steps[:2], HOLD]))

    async def read() -> None:
        stream = await streamed(client)
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
def test_eager_tasks() -> None:
    async def main() -> None:
        if sys.version_info >= (3, 12):
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with (
            serve() as server,
            AsyncGradient(inference_endpoint=server.url, model_access_key="k") as client,
        ):
            assert len(await asyncio.gather(*(ask(client) for _ in range(5)))) == 5
            await _choices(client)
            task = asyncio.create_task(_completion(client))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await _chunks(client)

    asyncio.run(main())


def test_cancelled_under_uvloop() -> None:
    async def main() -> None:
        async with (
            serve() as server,
            AsyncGradient(inference_endpoint=server.url, model_access_key="k") as client,
        ):
            for delay in (0.0, 0.001, 0.003, 0.01):
                server.push(STREAM)
                task = asyncio.create_task(_completion(client))
                await asyncio.sleep(delay)
                task.cancel()
                await asyncio.wait([task])
                del task
                await _settled(server, client)
                server._service.script.clear()
            assert (await ask(client, timeout=Timeout())).choices

    uvloop.run(main())


async def test_closing_the_client_may_be_cancelled(start: Start) -> None:
    server, client = await start(reply_writes([*reply_sse(PIECES[0]).steps[:2], HOLD]))
    stream = await streamed(client)
    for stop in range(1, 5):
        closing = Walk(client.close(), stop)
        (_,) = await asyncio.gather(asyncio.create_task(_drive(closing)), return_exceptions=True)
    await server.wait_closed_connections(timeout=0.1)
    assert not stream.completed
    await stream.aclose()


async def _drive(walk: Walk) -> None:
    await walk
