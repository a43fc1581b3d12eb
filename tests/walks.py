"""What is cancelled, at which await, and how to see that nothing of it is left."""

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
from shell_calls import CALL, ask, streamed

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
    "HOWS",
    "LATE_END",
    "PIECES",
    "STREAM",
    "TEXT",
    "WALKS",
    "How",
    "Walk",
    "Work",
    "all_choices",
    "all_chunks",
    "drive",
    "left_alive",
    "settled",
    "timers",
    "to_completion",
    "walk_through",
    "without_collector",
    "works_on",
]

Work: TypeAlias = Callable[[AsyncGradient], Awaitable[Any]]
How: TypeAlias = Literal["as it waits", "as it wakes", "again and again"]
HOWS: list[How] = ["as it waits", "as it wakes", "again and again"]

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


class Walk:
    """Runs a coroutine and cancels its task at its n-th suspension.

    Args:
        work: The coroutine.
        stop: At which suspension.
        how: While it waits; or just as what it waits for has come, so that it is told to stop in place of
            what came; or while it waits, and at every suspension after that too.

    Attributes:
        steps: How often it has been suspended.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], stop: int, how: How = "as it waits") -> None:
        self._work = work
        self._stop = stop
        self._how: How = how
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
            # Called before what wakes the task, which asks for that after this.
            waited.add_done_callback(lambda _: task.cancel("stop"))
        else:
            task.cancel("stop")


async def drive(walk: Walk) -> Any:
    """Await a walk, as the coroutine of a task."""
    return await walk


async def all_chunks(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**CALL) as stream:
        async for _ in stream:
            pass


async def _abandoned(client: AsyncGradient) -> None:
    stream = await streamed(client)
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
        await ask(client)
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
            await ask(client)
        finally:
            leaving.cancel()


WALKS: list[Any] = [
    pytest.param(ask, [ANSWER], 1, id="await"),
    pytest.param(all_chunks, [STREAM], 1, id="chunks"),
    pytest.param(_abandoned, [STREAM], 1, id="chunks, abandoned"),
    pytest.param(to_completion, [STREAM], 1, id="completion"),
    pytest.param(to_completion, [LATE_END], 1, id="drain"),
    pytest.param(to_completion, [ANSWER], 1, id="a whole reply in place of a stream"),
    pytest.param(_events, [STREAM], 1, id="events"),
    pytest.param(_raw, [STREAM], 1, id="raw"),
    pytest.param(all_choices, [STREAM], 1, id="choices"),
    pytest.param(_bytes, [ANSWER], 1, id="bytes"),
    pytest.param(_refused, [REFUSAL], 1, id="the body of an error"),
    pytest.param(ask, [BUSY, ANSWER], 2, id="retry"),
    pytest.param(_models, [], 1, id="models"),
    pytest.param(_queued, [STREAM, ANSWER], 2, id="queue"),
]


@contextmanager
def without_collector() -> Generator[None, None, None]:
    """Free objects by counting alone: what is part of a cycle stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left_alive() -> dict[str, int]:
    """How many objects there are that hold a connection or a part of a reply."""
    kinds = (Body, Reply, StreamReader, ChatCompletionStream, aiohttp.ClientResponse)
    return dict(Counter(type(found).__name__ for found in gc.get_objects() if type(found) in kinds))


def timers(server: Server) -> list[str]:
    """Timers that are still to fire, of all but the server, the pool's sweeper, and timer with nobody to look at.

    On asyncio's own loop; others don't show theirs.
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


async def settled(server: Server, client: AsyncGradient) -> None:
    """See that the server soon has no more connections open than the client has in its pool."""
    connector: Any = (await client._core.connections.manager.pool.session()).connector
    # The server is in this loop: fifty turns of it are enough, however slow the machine.
    for _ in range(50):
        if server.open_connections <= _idle(connector) and not connector._acquired:
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"{server!r}, {_idle(connector)} idle, in use: {connector._acquired}")


async def works_on(server: Server, client: AsyncGradient) -> None:
    """Make one more call, whatever the script still had in store; over the idle connection, if there is one."""
    idle = _idle((await client._core.connections.manager.pool.session()).connector)
    opened = server.connections
    server._service.script.clear()
    server.push(reply_json(whole("next")))
    async with asyncio.timeout(1):
        assert (await ask(client)).choices[0].message.content == "next"
    assert opened + (not idle) == server.connections


async def walk_through(
    work: Work, script: list[Handler], posts: int, *, how: How = "as it waits", warm: bool = False
) -> int:
    """Cancel some work at each of its awaits in turn, until it ends by itself; look around after each.

    Args:
        work: What is done.
        script: What the server answers.
        posts: Most requests that may come of it.
        how: See `Walk`.
        warm: Whether there is a connection in the pool before.

    Returns:
        At how many awaits it was cancelled.
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
                    await ask(client)
                server.push(*script)
                asked = len(server.requests)
                finished = await _walk_once(server, client, work, stop=stop, how=how)
                assert len(server.requests) - asked <= posts
                await works_on(server, client)
        assert {} == left_alive()
    return stop - 1


async def _walk_once(server: Server, client: AsyncGradient, work: Work, *, stop: int, how: How) -> bool:
    tasks = asyncio.all_tasks() - set(server._service.tasks)

    async def run() -> None:
        await work(client)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        walk = Walk(run(), stop, how)
        task = asyncio.create_task(drive(walk))
        await asyncio.wait([task])
        told: Any = None
        try:
            await task
        except asyncio.CancelledError as error:
            told = (error.args, error.__cause__)
        finished = walk.steps < stop
        assert told == (None if finished else (("stop",), None))
        del task, walk
        await settled(server, client)
        # Two turns, in which tasks that were cancelled along with it end.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    # Who leaves a stream without closing it is told so; nobody else is.
    messages = {str(warning.message).partition("> ")[2].partition(";")[0] for warning in warned}
    assert messages <= ({"was dropped before its end"} if work is _abandoned else set())
    assert tasks == asyncio.all_tasks() - set(server._service.tasks)
    assert [] == timers(server)
    return finished
