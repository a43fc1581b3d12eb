"""The tools of a turn: how they run, what becomes text, what leaves the run, and that nothing is left."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from client_calls import MESSAGES, Start
from msgspec import Struct
from runs import PARIS, add, answers, begin, calls, events_of, get_weather, shown

from gradient_async import (
    AsyncGradient,
    GradientError,
    ToolCall,
    ToolContext,
    ToolFinishedEvent,
    ToolRun,
    tool,
)
from gradient_async.client.turn import TurnTools, _ThreadCall, pending_call


class Point(Struct):
    x: int


class Told(Struct):
    """What a run told the model of one call."""

    content: str
    event: ToolFinishedEvent


async def tell(start: Start, function: Any, arguments: str = "", **options: Any) -> Told:
    """Let the model call a function once."""
    name = function.name if hasattr(function, "name") else function.__name__
    server, client = await start(calls((name, arguments)), answers())
    events = await events_of(begin(client, function, **options))
    content = server.requests[1].json["messages"][2]["content"]
    [event] = [event for event in events if isinstance(event, ToolFinishedEvent)]
    assert content == event.content
    return Told(content, event)


async def leave(start: Start, function: Any, kind: type[BaseException], **options: Any) -> BaseException:
    """Let the model call a function that ends the run."""
    server, client = await start(calls((function.__name__, ""), ("hang", "")), answers())
    hanging: list[bool] = []

    async def hang() -> None:
        hanging.append(True)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            hanging.remove(True)

    run = begin(client, function, hang, **options)
    with pytest.raises(kind) as raised:
        await run.completion()
    assert ([], 1, MESSAGES, 1) == (hanging, len(server.requests), run.messages, len(run.turns))
    return raised.value


class TestRunning:
    """How the functions run."""

    async def test_at_once(self, start: Start) -> None:
        """Also those that block: in threads."""
        barrier = threading.Barrier(2)
        met = asyncio.Event()

        def block() -> bool:
            return barrier.wait(10) >= 0

        async def meet() -> bool:
            if met.is_set():
                return True
            met.set()
            return await met.wait()

        names = ["block", "meet", "block", "meet"]
        _, client = await start(calls(*((name, "") for name in names)), answers())
        run = begin(client, block, meet)
        await run.completion()
        assert [(letter, "true") for letter in "abcd"] == shown(run.messages)[1:5]

    @pytest.mark.parametrize(("limit", "most"), [(None, 6), (2, 2), (1, 1)])
    async def test_tool_concurrency(self, start: Start, limit: int | None, most: int) -> None:
        running: set[int] = set()
        seen: list[int] = []
        order: list[int] = []

        async def work(n: int) -> None:
            running.add(n)
            order.append(n)
            await asyncio.sleep(0.002)
            seen.append(len(running))
            running.remove(n)

        _, client = await start(calls(*(("work", f'{{"n":{n}}}') for n in range(6))), answers())
        await begin(client, work, tool_concurrency=limit).completion()
        assert (most, list(range(6))) == (max(seen), order)

    async def test_the_context(self, start: Start) -> None:
        """What a function may know of the run."""
        found: list[ToolContext] = []

        def look(context: ToolContext, n: int) -> None:
            found.append(context)

        _, client = await start(calls(("look", '{"n":1}')), calls(PARIS, ("look", '{"n":2}', "")), answers())
        mine = object()
        run = begin(client, look, get_weather, context=mine)
        await run.completion()
        first, second = found
        assert (0, "a", 1, "call_1_1") == (first.turn, first.call.id, second.turn, second.call.id)
        assert first.context is second.context is mine
        assert (MESSAGES, run.messages[:3]) == (first.messages, second.messages)
        first.messages.append("not sent")
        assert "not sent" not in run.messages

    async def test_functions_of_every_kind(self, start: Start) -> None:
        class Calculator:
            async def double(self, n: int) -> int:
                return 2 * n

            def __call__(self, n: int) -> int:
                return 3 * n

        def later(n: int) -> Awaitable[int]:
            return asyncio.sleep(0, 4 * n)

        calculator = Calculator()
        triple = tool(calculator, name="triple")
        names = ("double", "triple", "later")
        _, client = await start(calls(*((name, '{"n":2}') for name in names)), answers())
        run = begin(client, calculator.double, triple, later)
        await run.completion()
        assert ["4", "6", "8"] == [content for _, content in shown(run.messages)[1:4]]

    async def test_arguments_of_the_types_of_the_function(self, start: Start) -> None:
        def far(point: Point, when: dt.date = dt.date(2026, 1, 31)) -> str:
            return f"{type(point).__name__} {when.year}"

        told = await tell(start, far, '{"point":{"x":2.0}}')
        assert ("Point 2026", Point(2)) == (told.content, told.event.arguments["point"])  # type: ignore[index]  # pyright: ignore[reportArgumentType]

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are not eager before 3.12")
    async def test_eager_tasks(self, start: Start) -> None:
        """Tasks that run up to their first await as they are made."""
        if sys.version_info >= (3, 12):
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        begun: list[int] = []

        async def note(n: int) -> None:
            begun.append(n)

        server, client = await start(calls(("note", '{"n":0}'), ("note", '{"n":1}')), answers())
        run = begin(client, note, tool_concurrency=1)
        await run.completion()
        assert ([0, 1], 2) == (begun, len(server.requests))

        async def fail() -> None:
            raise ValueError("no")

        _, client = await start(calls(("fail", ""), ("note", '{"n":2}')))
        with pytest.raises(ValueError, match="no"):
            await begin(client, fail, note, on_tool_error="raise", tool_concurrency=1).completion()
        assert [0, 1] == begun


class TestText:
    """What becomes text for the model."""

    @pytest.mark.parametrize(
        ("result", "content"),
        [
            ("text", "text"),
            (None, "null"),
            (Point(1), '{"x":1}'),
            ([dt.date(2026, 1, 31), Decimal("1.5"), b"ab"], '["2026-01-31","1.5","YWI="]'),
        ],
    )
    async def test_results(self, start: Start, result: Any, content: str) -> None:
        def give() -> Any:
            return result

        told = await tell(start, give)
        assert (content, result, None) == (told.content, told.event.result, told.event.error)

    async def test_unknown_names(self, start: Start) -> None:
        """With those there are."""
        server, client = await start(calls(("wether", "{}")), answers())
        await begin(client, on_tool_error="raise").completion()
        content = server.requests[1].json["messages"][2]["content"]
        assert "There is no tool wether. Tools: get_weather, add" == content

    async def test_invalid_arguments(self, start: Start) -> None:
        """Whatever is done about errors of functions."""
        told = await tell(start, get_weather, '{"city":5}', on_tool_error="raise")
        assert told.content == (
            "Invalid arguments for get_weather: Expected 'str', got 'int' - at $.city. "
            'Parameters: city (string, required), unit ("C" | "F")'
        )
        assert '{"city":5}' == told.event.arguments

    @pytest.mark.parametrize("blocks", [False, True])
    async def test_timeouts(self, start: Start, blocks: bool) -> None:
        """Of the tool, else of the run; a function that blocks is left."""
        released = threading.Event()

        async def wait() -> None:
            await asyncio.Event().wait()

        def block() -> None:
            released.wait(10)

        function: Any = block if blocks else wait
        try:
            told = await tell(start, function, tool_timeout=0.01, on_tool_error="raise")
            assert f"{function.__name__} did not finish within 0.01 s" == told.content
            assert isinstance(told.event.error, TimeoutError)
            told = await tell(start, tool(function, timeout=0.02), tool_timeout=10)
            assert told.content.endswith(" did not finish within 0.02 s")
        finally:
            released.set()

    async def test_a_timeout_does_not_count_the_wait_for_its_turn(self, start: Start) -> None:
        async def wait() -> str:
            await asyncio.sleep(0.03)
            return "done"

        _, client = await start(calls(*[("wait", "")] * 5), answers())
        run = begin(client, tool(wait, timeout=0.12), tool_concurrency=1)
        await run.completion()
        assert {"done"} == {content for _, content in shown(run.messages)[1:6]}

    @pytest.mark.parametrize(
        ("error", "content"),
        [
            (ValueError("no such city"), "Error: ValueError: no such city"),
            (KeyError(), "Error: KeyError"),
            (TimeoutError("mine"), "Error: TimeoutError: mine"),
        ],
    )
    @pytest.mark.parametrize("blocks", [False, True])
    async def test_errors(self, start: Start, error: Exception, content: str, blocks: bool) -> None:
        async def fail() -> None:
            raise error

        def block() -> None:
            raise error

        told = await tell(start, block if blocks else fail, tool_timeout=10)
        assert (content, error, None) == (told.content, told.event.error, told.event.result)

    async def test_stop_iteration(self, start: Start) -> None:
        """It would end loops and coroutines, and no future takes it."""

        def block() -> None:
            next(iter(()))

        async def wait() -> None:
            raise StopAsyncIteration

        told = await tell(start, block)
        assert "Error: RuntimeError: coroutine raised StopIteration" == told.content
        assert "Error: StopAsyncIteration" == (await tell(start, wait)).content
        error = await leave(start, wait, RuntimeError, on_tool_error="raise")
        assert isinstance(error.__cause__, StopAsyncIteration)

    async def test_results_without_a_json_form(self, start: Start) -> None:
        """They are errors of the tool."""

        def give() -> object:
            return object()

        content = (await tell(start, give)).content
        assert "Error: TypeError: a result of type object has no JSON form" == content
        await leave(start, give, TypeError, on_tool_error="raise")

    @pytest.mark.parametrize("by", ["raising", "cancelling"])
    async def test_a_tool_that_cancels_itself_has_failed(self, start: Start, by: str) -> None:
        async def give_up() -> None:
            if by == "raising":
                raise asyncio.CancelledError
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

        told = await tell(start, give_up)
        assert "Error: GradientError: give_up was cancelled, and not by the run" == told.content
        await leave(start, give_up, GradientError, on_tool_error="raise")

    @pytest.mark.parametrize("waits", [False, True])
    async def test_a_callable_gives_the_text(self, start: Start, waits: bool) -> None:
        seen: list[tuple[ToolCall, Exception]] = []

        def explain(call: ToolCall, error: Exception) -> Any:
            seen.append((call, error))

            async def later() -> str:
                await asyncio.sleep(0)
                return "explained"

            return later() if waits else "explained"

        failure = ValueError("no")

        def fail() -> None:
            raise failure

        told = await tell(start, fail, on_tool_error=explain)
        assert ("explained", failure) == (told.content, told.event.error)
        assert [(told.event.call, failure)] == seen
        await tell(start, get_weather, "{}", on_tool_error=explain)  # nothing of a function
        assert 1 == len(seen)


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
                await asyncio.sleep(0.001 * (2 - n))
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
            await asyncio.sleep(0.001)
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

        async def slow() -> None:
            for number in range(2):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    told.append(number)
            await asyncio.sleep(0.002)
            told.append(2)

        _, client = await start(calls(("slow", "")))
        reading = asyncio.create_task(begin(client, slow).completion())
        await asyncio.sleep(0.02)
        reading.cancel()
        await asyncio.sleep(0.002)
        assert [0] == told
        reading.cancel()
        await asyncio.wait((reading,))
        assert ([0, 1, 2], True) == (told, reading.cancelled())

    async def test_tools_that_others_cancel(self, start: Start) -> None:
        """As `asyncio.run` cancels all tasks at its end: one that runs has failed, and one that waits has no result."""

        async def hang() -> None:
            await asyncio.Event().wait()

        _, client = await start(calls(("hang", ""), ("hang", "")))
        before = asyncio.all_tasks()
        reading = asyncio.create_task(begin(client, hang, tool_concurrency=1).completion())
        await asyncio.sleep(0.02)
        for task in asyncio.all_tasks() - before - {reading}:
            if "_work" in repr(task):
                task.cancel()
        with pytest.raises(GradientError, match="a tool was cancelled, and not by the reader"):
            await reading

    async def test_a_thread_is_left(self, start: Start) -> None:
        """A function that blocks cannot be stopped, and its result is ignored."""
        released, ended = threading.Event(), threading.Event()

        def block() -> None:
            released.wait(10)
            ended.set()

        _, client = await start(calls(("block", "")))
        reading = asyncio.create_task((run := begin(client, block)).completion())
        await asyncio.sleep(0.02)
        began = time.monotonic()
        reading.cancel()
        await asyncio.wait((reading,))
        assert time.monotonic() - began < 5
        released.set()
        assert await asyncio.to_thread(ended.wait, 10)
        assert MESSAGES == run.messages

    async def test_what_a_thread_raises_when_it_was_left(self, start: Start) -> None:
        """It is lost, and keeps nothing."""
        released, ended = threading.Event(), threading.Event()

        def block() -> None:
            released.wait(10)
            ended.set()
            raise ValueError("nobody hears it")

        told = await tell(start, block, tool_timeout=0.01)
        released.set()
        assert await asyncio.to_thread(ended.wait, 10)
        assert "block did not finish within 0.01 s" == told.content

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
