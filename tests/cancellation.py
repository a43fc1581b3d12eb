"""Cancels work at each of its awaits in turn, and checks that nothing of the work is left."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import aiohttp
import pytest
from client_calls import CALL, create_completion, open_stream

from gradient_async import AsyncGradient, ChatCompletionStream, GradientError, Retry
from gradient_async.session.body import Body
from gradient_async.session.deadlines import DeadlineTimer
from gradient_async.session.reply import Reply
from gradient_async.stream import StreamReader
from gradient_async.testing import (
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

__all__ = [
    "ANSWER",
    "CANCEL_MOMENTS",
    "CASES",
    "LATE_END",
    "PIECES",
    "STREAM",
    "TEXT",
    "CancelMoment",
    "CancelledAwait",
    "ClientWork",
    "all_choices",
    "all_chunks",
    "cancel_at_each_await",
    "expect_settled",
    "expect_usable",
    "leaked_objects",
    "overlook_objects",
    "pending_timers",
    "run_cancelled",
    "to_completion",
    "without_collector",
]

ClientWork: TypeAlias = Callable[[AsyncGradient], Awaitable[Any]]
CancelMoment: TypeAlias = Literal["as it waits", "as it wakes", "again and again"]
CANCEL_MOMENTS: list[CancelMoment] = ["as it waits", "as it wakes", "again and again"]

TEXT = "t0 t1 t2 "
PIECES = [*(chunk(f"t{number} ") for number in range(3)), chunk(finish_reason="stop")]
BODY = reply_json(whole("ok")).data
STREAM: Handler = reply_writes([*reply_sse(*PIECES, gap=0.003).steps[:-1], 0.003, http_chunk(b"")])
ANSWER: Handler = reply_writes([BODY[:20], 0.003, BODY[20:-5], 0.003, BODY[-5:]])
BUSY: Handler = reply_json({"message": "no room"}, 503)
REFUSAL: Handler = reply_writes(
    [head(400, {"content-length": "20"}), 0.003, b'{"message": ', 0.003, b'"no"   }']
)
LATE_END: Handler = reply_writes([*reply_sse(*PIECES).steps[:-1], 0.01, http_chunk(b"")])


class CancelledAwait:
    """Runs a coroutine and cancels its task at its n-th suspension.

    Args:
        work: The coroutine.
        stop: Number of the suspension, from 1.
        how: When the task is cancelled: while it waits; or just when the awaited future is done, so that the
            cancellation replaces the result; or while it waits, and at every later suspension as well.

    Attributes:
        steps: Number of suspensions so far.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], stop: int, how: CancelMoment = "as it waits") -> None:
        self._work = work
        self._stop = stop
        self._how: CancelMoment = how
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
            finally:
                error = None  # its traceback holds this frame
            self.steps += 1
            if self.steps == self._stop or (self.steps > self._stop and self._how == "again and again"):
                self._cancel(waited)
            value = None
            try:
                value = yield waited
            except BaseException as thrown:  # noqa: BLE001  # handed on
                error = thrown

    def _cancel(self, waited: asyncio.Future[Any] | None) -> None:
        task: Any = asyncio.current_task()
        if waited is not None and self._how == "as it wakes":
            # This callback runs before the callback that wakes the task, which is added later.
            waited.add_done_callback(lambda _: task.cancel("stop"))
        else:
            task.cancel("stop")


async def run_cancelled(walk: CancelledAwait) -> Any:
    """Await cancelled work, as the coroutine of a task."""
    return await walk


async def all_chunks(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**CALL) as stream:
        async for _ in stream:
            pass


async def _dropped(client: AsyncGradient) -> None:
    stream = await open_stream(client)
    async for _ in stream:
        pass


async def to_completion(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**CALL) as stream:
        await stream.completion()


async def _events(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**CALL) as stream:
        async for _ in stream.events():
            pass


async def _raw(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**CALL) as stream:
        async for _ in stream.raw:
            pass


async def all_choices(client: AsyncGradient) -> None:
    async def read(pieces: AsyncIterator[Any]) -> None:
        async for _ in pieces:
            pass

    async with client.chat.completions.stream(**CALL) as stream:
        # Neither a TaskGroup nor gather: they hold the error whose frames hold them.
        readers = [asyncio.create_task(read(stream.choice(index))) for index in (0, 1)]
        try:
            await asyncio.wait(readers)
        finally:
            for reader in readers:
                reader.cancel()
        for reader in readers:
            await reader


async def _bytes(client: AsyncGradient) -> None:
    completions: Any = client.chat.completions
    async with completions.with_streaming_response.create(**CALL) as response:
        async for _ in response.iter_bytes():
            pass


async def _refused(client: AsyncGradient) -> None:
    try:
        await create_completion(client)
    except GradientError:
        return


async def _models(client: AsyncGradient) -> None:
    await client.models.list()


async def _queued(client: AsyncGradient) -> None:
    """Wait for the only connection, which a stream has."""

    async def leave(stream: ChatCompletionStream) -> None:
        await asyncio.sleep(0.005)
        await stream.aclose()

    async with client.chat.completions.stream(**CALL) as stream:
        leaving = asyncio.create_task(leave(stream))
        try:
            await create_completion(client)
        finally:
            leaving.cancel()


CASES: list[Any] = [
    pytest.param(create_completion, [ANSWER], 1, id="await"),
    pytest.param(all_chunks, [STREAM], 1, id="chunks"),
    pytest.param(_dropped, [STREAM], 1, id="chunks, abandoned"),
    pytest.param(to_completion, [STREAM], 1, id="completion"),
    pytest.param(to_completion, [LATE_END], 1, id="drain"),
    pytest.param(to_completion, [ANSWER], 1, id="a whole reply in place of a stream"),
    pytest.param(_events, [STREAM], 1, id="events"),
    pytest.param(_raw, [STREAM], 1, id="raw"),
    pytest.param(all_choices, [STREAM], 1, id="choices"),
    pytest.param(_bytes, [ANSWER], 1, id="bytes"),
    pytest.param(_refused, [REFUSAL], 1, id="the body of an error"),
    pytest.param(create_completion, [BUSY, ANSWER], 2, id="retry"),
    pytest.param(_models, [], 1, id="models"),
    pytest.param(_queued, [STREAM, ANSWER], 2, id="queue"),
]


@contextmanager
def without_collector() -> Generator[None, None, None]:
    """Turn the garbage collector off, so that objects in reference cycles stay alive and are found."""
    overlook_objects()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_overlooked: set[int] = set()


def overlook_objects() -> None:
    """Let `leaked_objects` leave out what is there: earlier tests may have left it in the caches of frameworks."""
    gc.collect()
    _overlooked.clear()
    _overlooked.update(map(id, _objects()))


def leaked_objects() -> dict[str, int]:
    """Count the objects that hold a connection or a part of a reply, and are new since `overlook_objects`."""
    return dict(Counter(type(found).__name__ for found in _objects() if id(found) not in _overlooked))


def _objects() -> list[Any]:
    kinds = (Body, Reply, StreamReader, ChatCompletionStream, aiohttp.ClientResponse)
    return [found for found in gc.get_objects() if type(found) in kinds]


def pending_timers(server: Server) -> list[str]:
    """Return the timers that have not fired, except those of the server, of aiohttp's pool, and of an idle `DeadlineTimer`.

    Only asyncio's own event loop shows its timers.
    """
    found: list[str] = []
    scheduled: list[Any] = getattr(asyncio.get_running_loop(), "_scheduled", [])
    for timer in scheduled:
        owner: Any = getattr(timer._callback, "__self__", None)
        serves = isinstance(owner, asyncio.Timeout) and getattr(owner, "_task", None) in server._service.tasks
        sweeps = "weakref_handle" in repr(timer)
        idles = isinstance(owner, DeadlineTimer) and not owner._timed
        if not (timer.cancelled() or serves or sweeps or idles):
            found.append(repr(timer))
    return found


def _idle(connector: Any) -> int:
    return sum(map(len, connector._conns.values()))


async def expect_settled(server: Server, client: AsyncGradient) -> None:
    """Expect the server to have, soon, no more connections open than the client has in its pool."""
    connector: Any = (await client._core.connections.manager.pool.session()).connector
    # The server is in this loop: fifty turns of it are enough, however slow the machine.
    for _ in range(50):
        # The task of a connection ends a turn after the connection is lost, and keeps its request until then.
        left = max(server.open_connections, len(server._service.tasks))
        if left <= _idle(connector) and not connector._acquired:
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"{server!r}, {_idle(connector)} idle, in use: {connector._acquired}")


async def expect_usable(server: Server, client: AsyncGradient) -> None:
    """Drop the rest of the script and make one more call, which must use the idle connection, if there is one."""
    idle = _idle((await client._core.connections.manager.pool.session()).connector)
    opened = server.connections
    server._service.script.clear()
    server.push(reply_json(whole("next")))
    async with asyncio.timeout(1):
        assert (await create_completion(client)).choices[0].message.content == "next"
    assert opened + (not idle) == server.connections


async def cancel_at_each_await(
    work: ClientWork,
    script: list[Handler],
    posts: int,
    *,
    how: CancelMoment = "as it waits",
    warm: bool = False,
) -> int:
    """Cancel work at each of its awaits in turn, until it ends by itself; check after each that nothing is left.

    Args:
        work: The work to cancel.
        script: The replies of the server.
        posts: Maximum number of requests that the work may send.
        how: See `CancelledAwait`.
        warm: Whether the pool has a connection before the work begins.

    Returns:
        The number of awaits at which the work was cancelled.
    """
    stop, finished = 0, False
    with without_collector():
        while not finished:
            stop += 1
            async with (
                serve() as server,
                AsyncGradient(
                    inference_endpoint=server.url,
                    model_access_key="model-key-0123",
                    max_retries=1,
                    retry=Retry(max_backoff=0.01),
                    max_connections=1,
                ) as client,
            ):
                if warm:
                    await create_completion(client)
                server.push(*script)
                asked = len(server.requests)
                finished = await _cancel_once(server, client, work, stop=stop, how=how)
                assert len(server.requests) - asked <= posts
                await expect_usable(server, client)
        assert {} == leaked_objects()
    return stop - 1


async def _cancel_once(
    server: Server, client: AsyncGradient, work: ClientWork, *, stop: int, how: CancelMoment
) -> bool:
    tasks = asyncio.all_tasks() - set(server._service.tasks)

    async def run() -> None:
        await work(client)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        walk = CancelledAwait(run(), stop, how)
        task = asyncio.create_task(run_cancelled(walk))
        await asyncio.wait([task])
        reported: Any = None
        try:
            await task
        except asyncio.CancelledError as error:
            reported = (error.args, error.__cause__)
        finished = walk.steps < stop
        assert reported == (None if finished else (("stop",), None))
        del task, walk
        await expect_settled(server, client)
        # Two turns, in which tasks that were cancelled along with it end.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    # Only work that drops a stream without closing it gets a warning.
    messages = {str(warning.message).partition("> ")[2].partition(";")[0] for warning in warned}
    assert messages <= ({"was dropped before its end"} if work is _dropped else set())
    assert tasks == asyncio.all_tasks() - set(server._service.tasks)
    assert [] == pending_timers(server)
    return finished
