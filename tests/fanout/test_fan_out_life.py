"""The life of a `FanOut`: entered once, left at any moment, and no task, connection or memory remains."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest
from client_calls import CALL, Start
from many_servers import closed_within

from gradient_async import AsyncGradient, FanOut, FanOutError, GradientError, StreamInterruptedError
from gradient_async.assembly import CompletionAssembler
from gradient_async.fanout import FanOutRunner
from gradient_async.fanout.branch import Branch
from gradient_async.fanout.merge import MergedChunks
from gradient_async.stream import StreamReader
from gradient_async.testing import HOLD, Handler, Server, chunk, reply_sse, reply_writes, serve


def speaking() -> Handler:
    """Answer with a first chunk, and never end."""
    return reply_writes([*reply_sse(chunk("Hel"), done=False).steps[:-1], HOLD])


def ours() -> set[asyncio.Task[Any]]:
    """Return the tasks that are not the server's."""
    return {task for task in asyncio.all_tasks() if "Service._serve" not in repr(task.get_coro())}


async def test_nothing_is_sent_before_it_is_entered(start: Start) -> None:
    server, client = await start()
    fan = client.chat.completions.fan_out(n=2, **CALL)
    await asyncio.sleep(0.02)
    assert not server.requests
    with pytest.raises(TypeError, match="nothing was sent yet: use 'async with'"):
        await anext(fan)
    await fan.aclose()  # nothing to close
    assert ["waiting", "waiting"] == [result.state for result in fan.results]


async def test_it_is_entered_once(start: Start) -> None:
    _, client = await start()
    fan = client.chat.completions.fan_out(n=1, **CALL)
    async with fan:
        await fan.completion()
    with pytest.raises(TypeError, match="can be entered once"):
        async with fan:
            pass


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize("way", ["leave", "aclose", "close", "error", "cancel", "timeout"])
@pytest.mark.parametrize("options", [{}, {"hedge_after": 0.02}, {"native": True}, {"max_concurrency": 2}])
async def test_leaving_cancels_requests_in_flight(start: Start, way: str, options: dict[str, Any]) -> None:
    """The server sees all connections closed within 100 ms, and no task is left."""
    server, client = await start(*[speaking()] * 8)
    before = ours()
    expected = {"hedge_after": 4, "native": 1, "max_concurrency": 2}.get(next(iter(options), ""), 4)
    ready = asyncio.Event()

    async def read() -> None:
        async with client.chat.completions.fan_out(n=4, **options, **CALL) as fan:
            await anext(fan)
            await server.wait_requests(expected)
            await asyncio.sleep(0.02)
            ready.set()
            match way:
                case "aclose" | "close":
                    await getattr(fan, way)()
                    assert ours() == before | {task}
                    with pytest.raises(StreamInterruptedError, match="closed before its end"):
                        while True:
                            await anext(fan)
                case "error":
                    raise ZeroDivisionError
                case "timeout":
                    async with asyncio.timeout(0.01):
                        await fan.completion()
                case "cancel":
                    await fan.completion()
                case _:
                    pass

    task = asyncio.create_task(read())
    await ready.wait()
    since = time.monotonic()
    if way == "cancel":
        await asyncio.sleep(0)
        task.cancel()
    expect: Any = {"cancel": asyncio.CancelledError, "error": ZeroDivisionError, "timeout": TimeoutError}
    if way in expect:
        with pytest.raises(expect[way]):
            await task
    else:
        await task
    await closed_within(server.requests[:expected], since)
    assert ours() == before


async def test_what_was_received_can_be_read_after_leaving(start: Start) -> None:
    _, client = await start(speaking(), speaking())
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        await asyncio.sleep(0.1)
    seen = 0
    with pytest.raises(StreamInterruptedError) as caught:
        async for piece in fan:
            seen += len(piece.choices)
    assert 2 == seen
    partial: Any = caught.value.partial
    assert ["Hel", "Hel"] == [choice.message.content for choice in partial.choices]
    assert ["stopped", "stopped"] == [result.state for result in fan.results]


async def test_a_request_that_other_code_cancels_is_an_error(start: Start) -> None:
    """An ordinary end would hide that a choice is lost."""
    server, client = await start(speaking(), speaking())
    before = ours()
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        await server.wait_requests(2)
        one = next(task for task in ours() - before if "_request_one" in repr(task.get_coro()))
        one.cancel()
        await asyncio.sleep(0.01)
        rest = [task for task in ours() - before if "_request_one" in repr(task.get_coro())]
        for task in rest:
            task.cancel()
        with pytest.raises(GradientError, match="cancelled, and not by its fan-out"):
            while True:
                await anext(fan)


async def test_a_race_that_other_code_cancels(start: Start) -> None:
    server, client = await start(speaking())
    before = ours()
    async with client.chat.completions.fan_out(n=1, hedge_after=5, **CALL) as fan:
        await server.wait_requests(1)
        for task in ours() - before:
            if "_attempt" in repr(task.get_coro()):
                task.cancel()
        with pytest.raises(GradientError, match="cancelled, and not by its fan-out"):
            while True:
                await anext(fan)


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize("options", [{}, {"hedge_after": 0.02}, {"native": True}, {"stream": False}])
async def test_cancelled_twice_it_is_closed(start: Start, options: dict[str, Any]) -> None:
    """Without a ResourceWarning: it was closed, not dropped."""
    held = speaking() if options.get("stream", True) else reply_writes([HOLD])
    server, client = await start(*[held] * 6)
    before = ours()
    task = asyncio.create_task(client.chat.completions.fan_out(n=2, **options, **CALL).completion())
    await server.wait_requests(1 if "native" in options else 2)
    await asyncio.sleep(0.05)
    since = time.monotonic()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await closed_within(server.requests, since)
    gc.collect()  # after the timed part: in a large process it takes long
    await asyncio.sleep(0)
    assert ours() == before


def kept() -> list[object]:
    """Return the parts of fan-outs that are in memory."""
    kinds = {Branch, CompletionAssembler, FanOutRunner, MergedChunks, StreamReader}
    return [thing for thing in gc.get_objects() if type(thing) in kinds]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stream": False},
        {"native": "auto"},
        {"first": 3},
        {"hedge_after": 60},
        {"model": "error-cut", "on_error": "collect"},
    ],
    ids=str,
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_nothing_is_left_to_the_garbage_collector(
    start: Start, options: dict[str, Any], at_once: bool
) -> None:
    """A reference cycle would keep everything received in memory until a garbage collection."""
    _, client = await start()
    params: dict[str, Any] = {**CALL, "n": 3, **options}

    async def ask() -> None:
        fan = client.chat.completions.fan_out(**params)
        if at_once:
            await fan.completion()
            return
        async with fan:
            async for _ in fan:
                pass

    await ask()
    gc.collect()
    gc.disable()
    try:
        before = kept()
        await ask()
        await asyncio.sleep(0.01)  # the tasks of the requests have ended
        assert before == kept()
    finally:
        gc.enable()


async def dropped(server: Server, client: AsyncGradient) -> list[FanOut]:
    fan = client.chat.completions.fan_out(n=2, **CALL)
    await fan.__aenter__()
    await server.wait_requests(2)
    await asyncio.sleep(0.02)
    return [fan]


@pytest.mark.usefixtures("virtual_time")
async def test_dropping_a_fan_out_closes_its_connections_and_warns(start: Start) -> None:
    server, client = await start(speaking(), speaking())
    before = ours()
    kept = await dropped(server, client)
    since = time.monotonic()
    with pytest.warns(ResourceWarning, match="FanOut 0 of 2 choices done> was dropped before its end"):
        kept.clear()
    await closed_within(server.requests, since)
    assert ours() == before


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.filterwarnings("ignore:.*dropped before its end:ResourceWarning")
async def test_a_fan_out_dropped_in_another_thread(start: Start) -> None:
    server, client = await start(speaking(), speaking())
    before = ours()
    kept = await dropped(server, client)
    since = time.monotonic()
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    await closed_within(server.requests, since)
    assert ours() == before


def test_a_fan_out_dropped_after_its_loop_has_closed() -> None:
    kept: list[FanOut] = []

    async def begin() -> None:
        async with (
            serve(speaking(), speaking()) as server,
            AsyncGradient(inference_endpoint=server.url, model_access_key="k") as client,
        ):
            kept.extend(await dropped(server, client))

    asyncio.run(begin())
    kept.clear()
    gc.collect()


async def test_an_unused_fan_out_is_dropped_without_warning(start: Start) -> None:
    _, client = await start()
    fan = client.chat.completions.fan_out(n=2, **CALL)
    del fan
    gc.collect()
    fan = client.chat.completions.fan_out(n=2, **CALL)
    await fan.completion()
    del fan
    gc.collect()
    broken = object.__new__(FanOut)
    del broken
    gc.collect()


async def test_leaving_while_requests_wait_to_be_sent(start: Start) -> None:
    server, client = await start(speaking())
    before = ours()
    async with client.chat.completions.fan_out(n=64, max_concurrency=1, **CALL) as fan:
        await anext(fan)
        assert 63 == [result.state for result in fan.results].count("waiting")
    assert 1 == len(server.requests)
    assert ours() == before
    assert ["stopped"] * 64 == [result.state for result in fan.results]


async def test_two_tasks_may_await_the_completion(start: Start) -> None:
    _, client = await start(delay=0.001)
    async with client.chat.completions.fan_out(n=3, **CALL) as fan:
        first, second = await asyncio.gather(fan.completion(), fan.completion())
    assert [0, 1, 2] == [choice.index for choice in first.choices]
    assert first == second


async def test_one_of_two_tasks_that_await_the_completion_is_cancelled(start: Start) -> None:
    _, client = await start(delay=0.005)
    async with client.chat.completions.fan_out(n=3, **CALL) as fan:
        first = asyncio.create_task(fan.completion())
        await asyncio.sleep(0.02)
        second = asyncio.create_task(fan.completion())
        await asyncio.sleep(0.005)
        first.cancel()
        found = await second
    assert 3 == len(found.choices)
    assert all(choice.finish_reason == "stop" for choice in found.choices)


async def test_fan_outs_in_a_task_group(start: Start) -> None:
    _, client = await start()

    async def ask() -> int:
        return len((await client.chat.completions.fan_out(n=4, **CALL).completion()).choices)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask()) for _ in range(10)]
    assert [4] * 10 == [task.result() for task in tasks]


async def test_fan_outs_of_a_closed_client(start: Start) -> None:
    server, client = await start(speaking(), speaking())
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        await server.wait_requests(2)
        await client.close()
        with pytest.raises(FanOutError, match=r"closed|connection was lost"):
            while True:
                await anext(fan)
    with pytest.raises(FanOutError, match="closed"):
        await client.chat.completions.fan_out(n=2, **CALL).completion()
