"""Task factories that run a task's first step while they create the task."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from client_calls import CALL, Start

from gradient_async import FanOutError, InvalidRequestError
from gradient_async.fanout.tasks import later
from gradient_async.testing import HOLD, completion, reply_json, reply_writes

RESULTS = 10_000
REFUSED: dict[str, Any] = {"model": "m", "messages": []}
UNKNOWN: dict[str, Any] = CALL | {"colour": "red"}

needs_eager_tasks = pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are not eager before 3.12")


@pytest.fixture
async def eager() -> None:
    """Make the tasks of the test's loop eager."""
    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)


async def test_work_begins_after_its_task_was_created() -> None:
    """With any factory, and at once if there is none."""
    seen: list[str] = []

    async def work() -> str:
        seen.append("begun")
        await asyncio.sleep(0)
        return "done"

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        coro.send(None)  # the first step, as an eager factory takes it
        return asyncio.Task(coro, loop=loop, **options)

    assert "done" == await asyncio.ensure_future(later(work))
    seen.clear()
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    task = asyncio.ensure_future(later(work))
    loop.set_task_factory(None)
    assert [] == seen
    assert "done" == await task
    assert ["begun"] == seen


@needs_eager_tasks
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("ordered", [False, True])
async def test_map_of_ten_thousand_under_eager_tasks(start: Start, *, ordered: bool) -> None:
    """No more than ``max_concurrency`` are in flight."""
    server, client = await start(handler=reply_json(completion("x")))
    results = client.chat.completions.map([CALL] * RESULTS, max_concurrency=8, ordered=ordered)
    indices = [result.index async for result in results if result.completion is not None]
    assert list(range(RESULTS)) == (indices if ordered else sorted(indices))
    assert (RESULTS, 8) == (len(server.requests), server.connections)


@needs_eager_tasks
@pytest.mark.usefixtures("eager")
async def test_map_of_requests_that_fail_at_once_under_eager_tasks(start: Start) -> None:
    _, client = await start()

    def requests() -> Iterator[dict[str, Any]]:
        for _ in range(RESULTS):
            yield REFUSED

    results = [result.error async for result in client.chat.completions.map(requests())]
    assert [InvalidRequestError] * RESULTS == [type(error) for error in results]


@needs_eager_tasks
@pytest.mark.usefixtures("eager")
async def test_fan_outs_that_fail_at_once_under_eager_tasks(start: Start) -> None:
    """With the request's own error: no task is begun after it, or left behind."""
    server, client = await start()
    fan_out = client.chat.completions.fan_out
    with pytest.raises(FanOutError) as caught:
        await fan_out(n=4, on_error="raise", **REFUSED).completion()
    assert {InvalidRequestError} == {type(error) for error in caught.value.exceptions}
    with pytest.raises(TypeError, match="colour"):
        await fan_out(n=4, **UNKNOWN).completion()
    assert [] == server.requests


@needs_eager_tasks
@pytest.mark.usefixtures("eager")
async def test_the_first_answer_of_a_fan_out_under_eager_tasks(start: Start) -> None:
    server, client = await start(reply_json(completion("x")), *[reply_writes([HOLD])] * 3)
    async with client.chat.completions.fan_out(n=4, first=1, stream=False, **CALL) as fan:
        assert ["x"] == [choice.message.content for choice in (await fan.completion()).choices]
    await server.wait_closed_connections(1)  # the one that was answered
