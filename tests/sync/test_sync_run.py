"""`run` without asyncio: an iterator of events, with tools of either kind."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from runs import PARIS, USAGE, add, answers, calls, get_weather, shown
from sync_calls import CALL, TOKENS, create, started, wait_until

from gradient_async import (
    Answer,
    Gradient,
    GradientError,
    InvalidRequestError,
    MaxTurnsError,
    ParsedChatCompletion,
    ToolCall,
    ToolContext,
)
from gradient_async.sync import ToolRun
from gradient_async.sync.loop import LoopThread, Process
from gradient_async.testing import Connection, Request, chunk, reply_json, reply_sse


class Count(Struct):
    n: int


def begin(client: Gradient, *tools: Any, **options: Any) -> ToolRun[Any]:
    """Begin a run."""
    run: Any = client.chat.completions.run
    made: ToolRun[Any] = run(**(CALL | {"tools": list(tools) or [get_weather, add]} | options))
    return made


@pytest.mark.parametrize("stream", [True, False])
def test_a_run(stream: bool) -> None:
    """With functions of either kind: those that block run in threads, the others in the loop."""
    threads: set[int] = set()

    def block(n: int) -> int:
        threads.add(threading.get_ident())
        return n

    async def wait(n: int) -> int:
        threads.add(threading.get_ident())
        return n

    replies = calls(("block", '{"n":1}'), ("wait", '{"n":2}'), stream=stream), answers(stream=stream)
    with started(*replies) as (server, client), begin(client, block, wait, stream=stream) as run:
        assert ([], [], None) == (server.requests, run.turns, run.usage)
        kinds = [(event.turn, event.type) for event in run]
        assert "Done." == run.completion().choices[0].message.content
        assert (2, [["a", "b"], ("a", "1"), ("b", "2"), "Done."]) == (len(run.turns), shown(run.messages))
        assert run.usage is not None and 2 * USAGE["total_tokens"] == run.usage.total_tokens
        assert [(0, "tool.started")] * 2 + [(0, "tool.finished")] * 2 == [
            kind for kind in kinds if kind[1].startswith("tool.")
        ]
        assert (1, "content.delta") in kinds
        assert 2 == len(threads) and threading.get_ident() not in threads
        assert "<ToolRun completed turns=2>" == repr(run)
        with pytest.raises(StopIteration):
            next(run)


def test_agents_and_types() -> None:
    with started(answers('{"n":3}'), answers('{"n":"x"}')) as (server, client):
        run = client.agents.chat.completions.run(
            messages=CALL["messages"], tools=[get_weather], response_format=Count
        )
        done = run.completion()
        assert (ParsedChatCompletion, Count(3)) == (type(done), done.parsed)
        assert "/api/v1/chat/completions" == server.requests[0].path
        assert Answer(Count).response_format == server.requests[0].json["response_format"]
        with pytest.raises(GradientError, match="Expected `int`") as raised:
            begin(client, response_format=Count).completion()
        assert ["turn 0 of the run"] == raised.value.__notes__


def test_refused_and_failed() -> None:
    with started(calls(PARIS), reply_json({"message": "no"}, 400)) as (server, client):
        with pytest.raises(InvalidRequestError, match="tools"):
            begin(client, tools=[])
        assert [] == server.requests
        run = begin(client, max_turns=1)
        with pytest.raises(MaxTurnsError):
            list(run)
        with pytest.raises(GradientError, match="no answer: MaxTurnsError"):
            run.completion()


def test_tools_use_the_client() -> None:
    """A function that blocks may make calls."""
    with started(calls(("look_up", "")), answers("inner", stream=False), answers()) as (_, client):

        def look_up() -> str | None:
            return create(client).choices[0].message.content

        run = begin(client, look_up)
        run.completion()
        assert [["a"], ("a", "inner"), "Done."] == shown(run.messages)


@pytest.mark.parametrize("waits", [False, True])
def test_functions_that_are_asked(waits: bool) -> None:
    """`stop_when` and `on_tool_error`: they may block, call the client, or be coroutine functions."""

    def fail() -> None:
        raise ValueError("no")

    with started(calls(("fail", "")), answers("inner", stream=False)) as (_, client):
        seen: list[Any] = []

        def explain(call: ToolCall, error: Exception) -> str:
            seen.append((call.id, str(error)))
            return create(client).choices[0].message.content or ""

        async def explain_later(call: ToolCall, error: Exception) -> str:
            seen.append((call.id, str(error)))
            await asyncio.sleep(0)
            return "inner"

        def enough(run: ToolRun[Any]) -> bool:
            seen.append((type(run), shown(run.messages)))
            return True

        async def enough_later(run: ToolRun[Any]) -> bool:
            return enough(run)

        on_tool_error: Any = explain_later if waits else explain
        run = begin(client, fail, on_tool_error=on_tool_error, stop_when=enough_later if waits else enough)
        assert 1 == len(run.completion().choices[0].message.tool_calls or ())
        assert [("a", "no"), (ToolRun, [["a"], ("a", "inner")])] == seen


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("blocks", [False, True])
def test_what_leaves_a_run(kind: type[BaseException], blocks: bool) -> None:
    """In the thread of the caller; the loop goes on."""

    async def wait() -> None:
        raise kind("no")

    def block() -> None:
        raise kind("no")

    function: Any = block if blocks else wait
    with started(calls((function.__name__, "")), answers()) as (_, client):
        with pytest.raises(kind) as raised:
            begin(client, function, on_tool_error="raise").completion()
        assert f"tool {function.__name__}, call a" == raised.value.__notes__[0]
        assert "Done." == begin(client).completion().choices[0].message.content


def test_leaving_closes_at_once() -> None:
    """Leaving `with` cancels the tools, awaits them, and closes the connection."""
    ended: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("hang")

    with started(calls(("hang", ""), ("add", '{"a":1}'))) as (server, client):
        with begin(client, hang, add) as run:
            for event in run:
                if event.type == "tool.finished":
                    break
        assert (["hang"], 1) == (ended, len(run.messages))
        run.close()
        with begin(client, hang) as run:
            pass
        assert 1 == len(server.requests)


def test_a_run_that_is_dropped() -> None:
    with started(calls(PARIS)) as (_, client):
        run = begin(client)
        next(run)
        with pytest.warns(ResourceWarning, match=r"dropped before its end; use 'with', or call close\(\)"):
            del run
        loop = Process.loops[0].loop
        wait_until(lambda: not any("aclose" in repr(task) for task in asyncio.all_tasks(loop)))


def test_a_run_that_the_collector_drops_in_the_loop() -> None:
    """The tools are cancelled; the loop cannot wait for itself."""
    ended: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("hang")

    with started(calls(("hang", ""), ("add", '{"a":1}'))) as (_, client):
        run = begin(client, hang, add)
        loop = Process.loops[0]
        assert "tool.finished" in (event.type for event in run)
        cycle: list[Any] = [run]
        cycle.append(cycle)
        gc.disable()
        try:
            del run, cycle
            with pytest.warns(ResourceWarning, match="dropped before its end"):
                loop.call(gc.collect)
        finally:
            gc.enable()
        wait_until(lambda: ended == ["hang"])


def test_a_run_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing it leaves its tools alone."""
    ended: list[str] = []

    async def wait() -> None:
        await asyncio.sleep(0.05)
        ended.append("wait")

    with started(calls(("wait", ""), ("add", '{"a":1}'))) as (_, client):
        run = begin(client, wait, add)
        assert "tool.finished" in (event.type for event in run)
        with monkeypatch.context() as forked:
            forked.setattr(Process.loops[0], "inherited", True)
            run.close()
        wait_until(lambda: ended == ["wait"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_run_of_the_parent() -> None:
    """The child of a fork ends it without a word: its tools and its stream belong to the parent, whose run goes on."""

    async def wait() -> int:
        await asyncio.sleep(0.2)
        return 1

    with started(calls(("wait", ""), ("add", '{"a":1}')), answers()) as (_, client):
        run = begin(client, wait, add)
        assert "tool.finished" in (event.type for event in run)
        child = os.fork()
        if child == 0:
            try:
                run.close()
                os._exit(len(run.turns))
            finally:
                os._exit(100)
        assert 1 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert "Done." == run.completion().choices[0].message.content


def test_events_are_taken_as_those_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of them at each handing over, and none ahead of the reader."""
    handed: list[Any] = []
    call: Any = LoopThread.call

    def count(self: LoopThread, *arguments: Any, **options: Any) -> Any:
        handed.append(arguments)
        return call(self, *arguments, **options)

    many = reply_sse(*map(chunk, TOKENS * 200), chunk(finish_reason="stop"))
    with started(many) as (_, client):
        monkeypatch.setattr(LoopThread, "call", count)
        with begin(client) as run:
            text = ""
            for event in run:
                if event.type == "content.delta":
                    text += event.delta
                elif event.type == "chunk":
                    so_far = event.snapshot.choices[0].message.content or ""
                    assert so_far == text + (event.chunk.choices[0].delta.content or "")
        assert "".join(TOKENS * 200) == text
        assert len(handed) < 200


def test_content_of_a_typed_run_grows() -> None:
    last = reply_sse(*map(chunk, ('{"n"', ": 1", "2}")), chunk(finish_reason="stop"))
    with started(calls(PARIS), last) as (_, client):
        run = begin(client, response_format=Count)
        seen: list[Any] = []
        for event in run:
            if event.type == "content.delta" or event.type == "content.done":  # noqa: PLR1714  # for checkers
                parsed: Any = event.parsed
                seen.append(copy.copy(parsed))
        assert [{}, {}, {"n": 12}, Count(12)] == seen
        assert Count(12) == run.completion().parsed


def test_context_and_its_variables() -> None:
    """Those of the thread that reads, in functions of both kinds; and the object of `run(context=)`."""
    variable = contextvars.ContextVar("variable", default="")

    async def in_loop(context: ToolContext) -> str:
        return f"{variable.get()} {context.context} {context.turn}"

    def in_thread(context: ToolContext) -> str:
        return f"{variable.get()} {context.context} {context.turn}"

    with started(calls(("in_loop", ""), ("in_thread", "")), answers()) as (_, client):
        variable.set("set")
        run = begin(client, in_loop, in_thread, context="mine")
        run.completion()
        assert [("a", "set mine 0"), ("b", "set mine 0")] == shown(run.messages)[1:3]


@pytest.mark.parametrize("blocks", [False, True])
def test_time_limits(blocks: bool) -> None:
    release = threading.Event()

    async def wait() -> None:
        await asyncio.Event().wait()

    def block() -> None:
        release.wait(10)

    function: Any = block if blocks else wait
    with started(calls((function.__name__, "")), answers()) as (_, client):
        run = begin(client, function, tool_timeout=0.01)
        run.completion()
        release.set()
        assert ("a", f"{function.__name__} did not finish within 0.01 s") == shown(run.messages)[1]


def test_two_threads_at_once() -> None:
    begun, release = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        release.wait(10)

    with started(calls(("block", "")), answers()) as (_, client):
        run = begin(client, block)
        reader = threading.Thread(target=run.completion)
        reader.start()
        assert begun.wait(10)
        for other in (run.completion, run.close, lambda: next(run)):
            with pytest.raises(RuntimeError, match="another thread is reading this run"):
                other()
        release.set()
        reader.join()
        assert "Done." == run.completion().choices[0].message.content


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer signals")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_random_moments() -> None:
    """No tool is left running, and the client is usable. Python reports an interrupt of a finalizer, and goes on."""
    running: set[int] = set()

    async def wait(n: int) -> None:
        running.add(n)
        try:
            await asyncio.sleep(0.002)
        finally:
            running.discard(n)

    first, last = (
        calls(("wait", '{"n":1}'), ("wait", '{"n":2}'), ("add", '{"a":1}'), gap=0.001),
        answers(gap=0.001),
    )

    async def handler(request: Request, connection: Connection) -> None:
        called = any(message["role"] == "tool" for message in request.json["messages"])
        await (last if called else first)(request, connection)

    seeded = random.Random(5)
    interrupted = 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with started(handler=handler) as (_, client):
            begin(client, wait, add).completion()
            for _ in range(60):
                try:
                    # Inside the block: the signal may come at any moment.
                    signal.setitimer(signal.ITIMER_REAL, seeded.uniform(0.001, 0.02))
                    with begin(client, wait, add) as run:
                        for _event in run:
                            pass
                    time.sleep(0.03)
                except KeyboardInterrupt:
                    interrupted += 1
                wait_until(lambda: not running)
            assert "Done." == begin(client, wait, add).completion().choices[0].message.content
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted


def test_an_interrupt_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C does: the tools are cancelled before control returns."""
    ended: list[str] = []
    begun = threading.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("hang")

    with started(calls(("hang", ""))) as (_, client):
        run = begin(client, hang)
        monkeypatch.setattr("gradient_async.sync.loop.LOOK", 0.05)

        def interrupt() -> None:
            if begun.is_set():
                raise KeyboardInterrupt

        loop = Process.loops[0]
        wait: Any = loop.wait

        def wait_and_look(call: Any, undo: Any, first: Any, *_look: Any) -> Any:
            return wait(call, undo, first, interrupt)

        monkeypatch.setattr(loop, "wait", wait_and_look)
        with pytest.raises(KeyboardInterrupt):
            run.completion()
        assert ["hang"] == ended
        monkeypatch.undo()
        with pytest.raises(StopIteration):
            next(run)


def test_the_end_of_a_process_is_silent() -> None:
    """Although functions ran in threads, and a run was not closed."""
    source = """
from runs import PARIS, add, answers, calls
from sync_calls import CALL, started
with started(calls(("add", '{"a":1}')), answers(), calls(("add", '{"a":1}'))) as (_, client):
    client.chat.completions.run(**CALL, tools=[add]).completion()
    run = client.chat.completions.run(**CALL, tools=[add])
    next(run)
    print("done")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    ended = subprocess.run(
        [sys.executable, "-c", source],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ("done\n", "", 0) == (ended.stdout, ended.stderr, ended.returncode)
