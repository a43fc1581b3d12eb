"""Tools of a turn that end the run, and those of a run that is left: nothing of them is left."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from client_calls import MESSAGES, Start
from runs import PARIS, add, begin, calls, get_weather, leave, tell

from gradient_async import (
    AsyncGradient,
    GradientError,
    ToolCall,
    ToolRun,
)
from gradient_async.client.turn import TurnTools, _ThreadCall, pending_call


class TestLeaving:
    """What ends the run."""

    @pytest.mark.parametrize("blocks", [False, True])
    @pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
    async def test_raise(self, start: Start, kind: type[BaseException], blocks: bool) -> None:
        """The exception leaves as it is, with notes; the other tools are cancelled and awaited."""
        failure = kind("no")

        async def fail() -> None:
            await asyncio.sleep(0.001)
            raise failure

        def block() -> None:
            raise failure

        function: Any = block if blocks else fail
        rule = "raise" if kind is ValueError else "tell"  # exceptions that are no Exception always leave
        error = await leave(start, function, kind, on_tool_error=rule)
        assert error is failure
        turn = ["turn 0 of the run"] if kind is ValueError else []
        assert [f"tool {function.__name__}, call a", *turn] == error.__notes__

    async def test_the_first_by_the_clock(self, start: Start) -> None:
        async def fail(n: int) -> None:
            try:
                await asyncio.sleep(0.05 * (2 - n))
            finally:
                raise ValueError(n)  # also when it is cancelled

        _, client = await start(calls(("fail", '{"n":0}'), ("fail", '{"n":1}')))
        with pytest.raises(ValueError, match="1"):
            await begin(client, fail, on_tool_error="raise").completion()

    async def test_results_that_came_before(self, start: Start) -> None:
        """Their events come first."""

        async def fail() -> None:
            await asyncio.sleep(0.01)
            raise ValueError("no")

        _, client = await start(calls(PARIS, ("fail", "")))
        run = begin(client, get_weather, fail, on_tool_error="raise")
        seen: list[str] = []
        with pytest.raises(ValueError, match="no"):
            async for event in run:
                if event.type == "tool.finished":
                    seen.append(event.name)
                    await asyncio.sleep(0.02)  # the consumer is not cancelled
        assert ["get_weather"] == seen

    async def test_a_callable_raises(self, start: Start) -> None:
        def explain(call: ToolCall, error: Exception) -> str:
            raise LookupError(call.function.name) from error

        def fail() -> None:
            raise ValueError("no")

        error = await leave(start, fail, LookupError, on_tool_error=explain)
        assert isinstance(error.__cause__, ValueError)
        assert ["tool fail, call a", "turn 0 of the run"] == error.__notes__

    async def test_a_callable_that_is_cancelled(self, start: Start) -> None:
        def explain(call: ToolCall, error: Exception) -> str:
            raise asyncio.CancelledError

        def fail() -> None:
            raise ValueError("no")

        error = await leave(start, fail, GradientError, on_tool_error=explain)
        assert "a tool was cancelled, and not by the reader of the run" == str(error)

    async def test_no_further_tool_begins(self, start: Start) -> None:
        """Of those that wait for their turn, when one fails or the run is left."""
        begun: list[int] = []

        first = asyncio.Event()

        async def work(n: int) -> None:
            begun.append(n)
            first.set()
            await asyncio.sleep(0.05)
            if n == 1:
                raise ValueError(n)

        many = calls(*(("work", f'{{"n":{n}}}') for n in range(5)))
        _, client = await start(many, many, many)
        with pytest.raises(ValueError, match="1"):
            await begin(client, work, on_tool_error="raise", tool_concurrency=1).completion()
        assert [0, 1] == begun
        begun.clear()
        async with begin(client, work, tool_concurrency=1) as run:
            async for event in run:
                if event.type == "tool.finished":
                    break
        await asyncio.sleep(0.01)
        assert begun in ([0], [0, 1])
        begun.clear()
        first.clear()
        reading = asyncio.create_task(begin(client, work, tool_concurrency=1).completion())
        await asyncio.wait_for(first.wait(), 10)
        reading.cancel()
        await asyncio.wait((reading,))
        await asyncio.sleep(0.01)
        assert [0] == begun

    async def test_a_tool_that_was_woken_as_the_run_was_left(self) -> None:
        """Between the cancellation and its effect no tool begins."""
        begun: list[int] = []

        async def note(n: int) -> None:
            begun.append(n)

        tools = _tools(note, 3, concurrency=1)
        await tools.stop()  # before they begin
        tools._begin()
        await tools.stop()  # before the first step of its tasks
        assert [] == begun
        tools = _tools(note, 3, concurrency=1)
        tools._begin()
        await tools._slots.acquire()
        await asyncio.sleep(0.001)
        tools._slots.release()  # one is to be woken
        tools.cancel()
        await tools.stop()
        assert [] == begun
        tools = _tools(note, 1)
        tools._begin()
        tools._stopping = True  # even if the cancellation comes too late
        await asyncio.sleep(0.001)
        assert [] == begun

    @pytest.mark.parametrize("fails", [False, True])
    async def test_a_tool_that_does_not_heed_its_cancellation(self, start: Start, fails: bool) -> None:
        """It is awaited, and nothing of it counts."""
        ended: list[str] = []

        async def stubborn() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.002)
                ended.append("stubborn")
                if fails:
                    raise ValueError("no") from None
            return "in spite of all"

        explained: list[Any] = []

        def explain(call: ToolCall, error: Exception) -> str:
            explained.append((call, error))
            return ""

        _, client = await start(calls(("add", '{"a":1}'), ("stubborn", ""), ("stubborn", "")))
        run = begin(client, add, stubborn, on_tool_error=explain)
        async with run:
            async for event in run:
                if event.type == "tool.finished":
                    break
        assert (["stubborn"] * 2, MESSAGES, []) == (ended, run.messages, explained)

    async def test_cancelled_again_while_tools_end(self, start: Start) -> None:
        """The tools are awaited all the same, and learn of it."""
        told: list[int] = []
        begun, heeded = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            begun.set()
            for number in range(2):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    told.append(number)
                    heeded.set()
            await asyncio.sleep(0.002)
            told.append(2)

        _, client = await start(calls(("slow", "")))
        reading = asyncio.create_task(begin(client, slow).completion())
        await begun.wait()
        reading.cancel()
        await heeded.wait()
        assert [0] == told
        reading.cancel()
        await asyncio.wait((reading,))
        assert ([0, 1, 2], True) == (told, reading.cancelled())

    async def test_tools_that_others_cancel(self, start: Start) -> None:
        """As `asyncio.run` cancels all tasks at its end: one that runs has failed, and one that waits has no result."""
        begun = asyncio.Event()

        async def hang() -> None:
            begun.set()
            await asyncio.Event().wait()

        _, client = await start(calls(("hang", ""), ("hang", "")))
        before = asyncio.all_tasks()
        reading = asyncio.create_task(begin(client, hang, tool_concurrency=1).completion())
        await begun.wait()
        for task in asyncio.all_tasks() - before - {reading}:
            if "_work" in repr(task):
                task.cancel()
        with pytest.raises(GradientError, match="a tool was cancelled, and not by the reader"):
            await reading

    async def test_a_thread_is_left(self, start: Start) -> None:
        """A function that blocks cannot be stopped, and its result is ignored."""
        begun, released, ended = threading.Event(), threading.Event(), threading.Event()

        def block() -> None:
            begun.set()
            released.wait(10)
            ended.set()

        _, client = await start(calls(("block", "")))
        reading = asyncio.create_task((run := begin(client, block)).completion())
        assert await asyncio.to_thread(begun.wait, 10)
        began = time.monotonic()
        reading.cancel()
        await asyncio.wait((reading,))
        assert time.monotonic() - began < 5
        released.set()
        assert await asyncio.to_thread(ended.wait, 10)
        assert MESSAGES == run.messages

    async def test_what_a_thread_raises_when_it_was_left(self, start: Start) -> None:
        """It is lost, and keeps nothing."""
        begun, released, ended = threading.Event(), threading.Event(), threading.Event()

        def block() -> None:
            begun.set()
            released.wait(10)
            ended.set()
            raise ValueError("nobody hears it")

        # The time is long enough for a thread to begin.
        told = await tell(start, block, tool_timeout=0.5)
        released.set()
        assert not begun.is_set() or await asyncio.to_thread(ended.wait, 10)
        assert "block did not finish within 0.5 s" == told.content

    async def test_no_function_begins_in_a_thread_that_was_left(self, start: Start) -> None:
        """One that waits for a thread when the run is left, or when its time is over."""
        loop, begun, release = asyncio.get_running_loop(), list[str](), threading.Event()
        with ThreadPoolExecutor(1) as executor:
            loop.set_default_executor(executor)
            occupied = executor.submit(release.wait, 10)

            def late() -> None:
                begun.append("late")

            assert (await tell(start, late, tool_timeout=0.01)).content.startswith("late did not finish")
            _, client = await start(calls(("late", "")))
            reading = asyncio.create_task(begin(client, late).completion())
            await asyncio.sleep(0.05)
            reading.cancel()
            await asyncio.wait((reading,))
            release.set()
            occupied.result()
            await asyncio.to_thread(int)
        call = _ThreadCall(late, {})
        call.left = True  # before the thread comes to it
        call.perform()
        assert [] == begun

    async def test_cancelled_a_thousand_times_while_a_tool_ends(self, start: Start) -> None:
        ended: list[int] = []
        begun = asyncio.Event()

        async def stubborn() -> None:
            begun.set()
            heeded = 0
            while heeded < 1500:
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    heeded += 1
            ended.append(heeded)

        _, client = await start(calls(("stubborn", "")))
        reading = asyncio.create_task(begin(client, stubborn).completion())
        await begun.wait()
        while not reading.done():
            reading.cancel()
            await asyncio.sleep(0)
        assert ([1500], True) == (ended, reading.cancelled())

    async def test_a_task_group_of_the_consumer(self, start: Start) -> None:
        """A failing tool does not cancel the consumer at an await of his."""

        async def fail() -> None:
            raise ValueError("no")

        _, client = await start(calls(PARIS, ("fail", "")))
        run = begin(client, get_weather, fail, on_tool_error="raise")
        async with asyncio.TaskGroup() as group, run:
            waiting = group.create_task(asyncio.sleep(0.01, "waited"))
            with pytest.raises(ValueError, match="no"):
                async for event in run:
                    if event.type == "tool.finished":
                        assert "waited" == await waiting


def _tools(function: Callable[..., Any], count: int, concurrency: int | None = None) -> TurnTools:
    """Make the tools of a turn by hand."""
    client = AsyncGradient(model_access_key="k")
    run: ToolRun[Any] = begin(client, function, tool_concurrency=concurrency)
    turns = run.state
    given = [
        ToolCall.model_validate(
            {"id": str(n), "function": {"name": function.__name__, "arguments": f'{{"n":{n}}}'}}
        )
        for n in range(count)
    ]
    pending = [pending_call(turns._rules, index, call) for index, call in enumerate(given)]
    return TurnTools(0, pending, turns._rules, messages=[], on_results=lambda _: None)
