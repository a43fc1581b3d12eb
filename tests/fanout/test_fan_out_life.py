"""The life of a fan-out: entered once, left at any moment, and nothing remains."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest
from many_servers import closed_within
from shell_calls import CALL, Start

from gradient_async import AsyncGradient, FanOut, FanOutError, GradientError, StreamInterruptedError
from gradient_async.assembly import CompletionAssembler
from gradient_async.fanout import FanOutRunner
from gradient_async.fanout.branch import Branch
from gradient_async.fanout.merge import MergedChunks
from gradient_async.stream import Source
from gradient_async.testing import HOLD, Handler, Server, chunk, reply_sse, reply_writes, serve


def speaking() -> Handler:
    """A model that has begun to speak and goes on without end."""
    return reply_writes([*reply_sse(chunk("Hel"), done=False).steps[:-1], HOLD])


def ours() -> set[asyncio.Task[Any]]:
    """The tasks that are not the server's."""
    return {task for task in asyncio.all_tasks() if "Server._serve" not in repr(task.get_coro())}


async def test_nothing_is_sent_before_it_is_entered(start: Start) -> None:
    server, client = await start()
    fan = client.chat.completions.fan_out(n=2, **CALL)
    await asyncio.sleep(0.02)
    assert not server.requests
    with pytest.raises(TypeError, match="nothing was sent yet: use 'async with', or await completion"):
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


@pytest.mark.parametrize("way", ["leave", "aclose", "close", "error", "cancel", "timeout"])
@pytest.mark.parametrize("options", [{}, {"hedge_after": 0.02}, {"native": True}, {"max_concurrency": 2}])
async def test_leaving_gives_up_what_is_under_way(start: Start, way: str, options: dict[str, Any]) -> None:
    """All connections are closed within 100 ms, seen by the server, and no task is left."""
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


async def test_what_came_is_still_given_out_after_leaving(start: Start) -> None:
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


async def test_a_request_that_somebody_else_cancels_is_an_error(start: Start) -> None:
    """To end as if all were well would lose a choice in silence."""
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


async def test_a_race_that_somebody_else_cancels(start: Start) -> None:
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


@pytest.mark.parametrize("options", [{}, {"hedge_after": 0.02}, {"native": True}, {"stream": False}])
async def test_cancelled_twice_it_is_closed_all_the_same(start: Start, options: dict[str, Any]) -> None:
    """And nobody warns of what was dropped, since it was left."""
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
    gc.collect()  # after that: of a large process it takes as long as that may
    await asyncio.sleep(0)
    assert ours() == before


def kept() -> list[object]:
    """What of fan-outs and their streams is in memory."""
    kinds = {Branch, CompletionAssembler, FanOutRunner, MergedChunks, Source}
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
async def test_what_came_is_not_left_to_the_collector(
    start: Start, options: dict[str, Any], at_once: bool
) -> None:
    """In a cycle it would stay in memory long after its last reader is gone, beside that of the next."""
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


async def test_dropped_it_closes_its_connections_and_warns(start: Start) -> None:
    server, client = await start(speaking(), speaking())
    before = ours()
    kept = await dropped(server, client)
    since = time.monotonic()
    with pytest.warns(ResourceWarning, match="FanOut 0 of 2 choices done> was dropped before its end"):
        kept.clear()
    await closed_within(server.requests, since)
    assert ours() == before


@pytest.mark.filterwarnings("ignore:.*dropped before its end:ResourceWarning")
async def test_dropped_in_another_thread(start: Start) -> None:
    server, client = await start(speaking(), speaking())
    before = ours()
    kept = await dropped(server, client)
    since = time.monotonic()
    thread = threading.Thread(target=kept.clear)
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110  # threads tell nobody
        await asyncio.sleep(0.001)
    await closed_within(server.requests, since)
    assert ours() == before


def test_dropped_when_its_loop_is_gone() -> None:
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


async def test_an_unused_one_is_dropped_without_a_word(start: Start) -> None:
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


async def test_waiting_for_its_turn_it_can_be_left(start: Start) -> None:
    server, client = await start(speaking())
    before = ours()
    async with client.chat.completions.fan_out(n=64, max_concurrency=1, **CALL) as fan:
        await anext(fan)
        assert 63 == [result.state for result in fan.results].count("waiting")
    assert 1 == len(server.requests)
    assert ours() == before
    assert ["stopped"] * 64 == [result.state for result in fan.results]


async def test_two_tasks_may_await_the_whole(start: Start) -> None:
    _, client = await start(delay=0.001)
    async with client.chat.completions.fan_out(n=3, **CALL) as fan:
        first, second = await asyncio.gather(fan.completion(), fan.completion())
    assert [0, 1, 2] == [choice.index for choice in first.choices]
    assert first == second


async def test_a_task_that_stops_waiting_for_the_whole_leaves_it_to_others(start: Start) -> None:
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


async def test_in_a_task_group_with_others(start: Start) -> None:
    _, client = await start()

    async def ask() -> int:
        return len((await client.chat.completions.fan_out(n=4, **CALL).completion()).choices)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask()) for _ in range(10)]
    assert [4] * 10 == [task.result() for task in tasks]


async def test_a_client_that_is_closed_says_so(start: Start) -> None:
    server, client = await start(speaking(), speaking())
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        await server.wait_requests(2)
        await client.close()
        with pytest.raises(FanOutError, match="closed"):
            while True:
                await anext(fan)
    with pytest.raises(FanOutError, match="closed"):
        await client.chat.completions.fan_out(n=2, **CALL).completion()
