"""The tools of a turn: how they run, what becomes text, what leaves the run, and that nothing is left."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import threading
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, cast

import pytest
from client_calls import MESSAGES, Start
from msgspec import Struct
from runs import PARIS, add, answers, begin, calls, get_weather, leave, shown, tell

from gradient_async import (
    GradientError,
    Hook,
    ToolCall,
    ToolContext,
    ToolInfo,
    tool,
)


class Point(Struct):
    x: int


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

        # That of asyncio does not take the arguments of uvloop in Python 3.13.0.
        def make_eager(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
            return cast("Any", asyncio.Task)(work, loop=loop, **(options | {"eager_start": True}))

        asyncio.get_running_loop().set_task_factory(make_eager)
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
            await asyncio.sleep(0.1)
            return "done"

        _, client = await start(calls(*[("wait", "")] * 5), answers())
        run = begin(client, tool(wait, timeout=0.4), tool_concurrency=1)
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


class Watch(Hook):
    """Notes what hooks see of functions."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_tool_start(self, tool: ToolInfo) -> None:
        tool.state["task"] = asyncio.current_task()
        self.seen.append((tool.call.function.name, tool.turn, tool.description, tool.seconds))
        if tool.call.function.name == "add":
            raise ValueError("of the hook")

    def on_tool_end(self, tool: ToolInfo) -> None:
        assert tool.state["task"] is asyncio.current_task()
        self.seen.append((tool.call.function.name, tool.error_type, tool.seconds > 0))


class TestHooks:
    """Hooks are told of every function, in the task that calls it."""

    async def test_of_each_call(self, start: Start, caplog: pytest.LogCaptureFixture) -> None:
        watch = Watch()

        async def slow() -> None:
            await asyncio.sleep(60)

        def fail() -> None:
            raise ValueError("no")

        replies = calls(PARIS), calls(("add", '{"a":1}')), calls(("slow", "")), calls(("fail", "")), answers()
        _, client = await start(*replies, hooks=[watch])
        await begin(client, get_weather, add, slow, fail, tool_timeout=0.05).completion()
        assert watch.seen == [
            ("get_weather", 0, "Tell the weather of a city.", 0.0),
            ("get_weather", None, True),
            ("add", 1, "Add two numbers.", 0.0),
            ("add", None, True),
            ("slow", 2, None, 0.0),
            ("slow", "TimeoutError", True),
            ("fail", 3, None, 0.0),
            ("fail", "ValueError", True),
        ]
        assert "a hook failed: Watch.on_tool_start raised ValueError" in caplog.text

    async def test_not_of_calls_that_do_not_reach_a_function(self, start: Start) -> None:
        watch = Watch()
        _, client = await start(calls(("nothing", ""), ("add", "{")), answers(), hooks=[watch])
        await begin(client).completion()
        assert [] == watch.seen

    async def test_of_a_run_that_is_left(self, start: Start) -> None:
        watch, begun = Watch(), asyncio.Event()

        async def hang() -> None:
            begun.set()
            await asyncio.Event().wait()

        _, client = await start(calls(("hang", "")), hooks=[watch])
        run = begin(client, hang)
        waiting = asyncio.ensure_future(run.completion())
        await begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert ("hang", "CancelledError", True) == watch.seen[-1]

    @pytest.mark.parametrize(("own", "shown"), [({}, "mod…123"), ({"X-Api-Key": "own-key-0123"}, "own…123")])
    async def test_keys_are_removed(self, start: Start, own: dict[str, Any], shown: str) -> None:
        """From what hooks ask for, and from the notes of errors; also a key that only this call has."""
        key = own.get("X-Api-Key", "model-key-0123")
        seen: list[str] = []

        class Show(Hook):
            def on_tool_start(self, tool: ToolInfo) -> None:
                seen.append(tool.redact(f"the key is {key}"))

        async def fail() -> None:
            raise OSError

        _, client = await start(calls(("fail", "{}", f"\x1b{key}")), answers(), hooks=[Show()])
        with pytest.raises(OSError) as raised:  # noqa: PT011  # it has no text
            await begin(client, fail, extra_headers=own, on_tool_error="raise").completion()
        assert [f"the key is {shown}"] == seen
        assert f"tool fail, call \\x1b{shown}" == raised.value.__notes__[0]
