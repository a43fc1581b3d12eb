"""`Gradient` in threads: interrupts, several readers, the caller's own code, and what is left of calls that were given up."""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import ctypes
import gc
import itertools
import os
import queue
import random
import signal
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sync_calls import CALL, HEAD, OPEN, PIECES, STREAM, TOKENS, create, open_stream, started, wait_until

from gradient_async import (
    APITimeoutError,
    CallInfo,
    ChatCompletion,
    ConfigurationError,
    FanOutError,
    Gradient,
    GradientError,
    Hook,
    Stream,
    StreamInterruptedError,
    StreamTimeoutError,
    Timeout,
)
from gradient_async.sync import loop as module
from gradient_async.sync.streams import _Waiters
from gradient_async.testing import (
    HOLD,
    Connection,
    Request,
    chunk,
    completion,
    http_chunk,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
    sse,
)

SILENT = reply_writes([HOLD])


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Run work in a thread; return a function that waits for its result."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()

    def result() -> Any:
        thread.join(20)
        return found[0]

    return result


def tasks() -> set[asyncio.Task[Any]]:
    """Return the tasks of the loop, without the one that asks."""
    loop = module.loop_thread()
    return {task for task in asyncio.all_tasks(loop.loop) if not task.done()}


@contextmanager
def interrupted(when: Callable[[], Any], how: Callable[[], Any] | None = None) -> Generator[None]:
    """Interrupt the main thread, as Ctrl-C does, once ``when`` returns; the block must raise KeyboardInterrupt."""

    def interrupt() -> None:
        when()
        time.sleep(0.05)
        (how or (lambda: os.kill(os.getpid(), signal.SIGINT)))()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    thread.join()


# Interrupts


@pytest.mark.parametrize("how", [None, _thread.interrupt_main], ids=["a signal", "unseen by the wait"])
def test_an_interrupt_cancels_a_call_and_closes_its_connection(how: Callable[[], Any] | None) -> None:
    with started(SILENT) as (server, client):
        with interrupted(server.wait_requests, how):
            create(client)
        server.wait_closed_connections()
        assert create(client).choices
        wait_until(lambda: not tasks())


def test_an_interrupt_before_the_headers_of_a_stream() -> None:
    with started(SILENT, SILENT) as (server, client):
        with interrupted(server.wait_requests):
            open_stream(client)
        server.wait_closed_connections()
        with interrupted(lambda: server.wait_requests(2)), client.chat.completions.stream(**CALL):
            pass
        server.wait_closed_connections()


@pytest.mark.parametrize("view", ["chunks", "text", "completion"])
def test_a_signal_handler_that_reads_the_stream_of_its_thread_is_refused(view: str) -> None:
    with started(OPEN) as (server, client):
        stream = open_stream(client)
        next(stream)
        views: dict[str, Callable[[], object]] = {
            "chunks": lambda: next(stream),
            "text": lambda: next(stream.text),
            "completion": stream.completion,
        }

        def read(_number: int, _frame: object) -> None:
            views[view]()

        handler = signal.signal(signal.SIGINT, read)
        thread = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        thread.start()
        try:
            with pytest.raises(ConfigurationError, match="set a flag, or close the stream"):
                next(stream)
        finally:
            thread.join()
            signal.signal(signal.SIGINT, handler)
        server.wait_closed_connections()


def test_an_interrupt_while_a_stream_is_read_closes_it() -> None:
    """Also while something still refers to the stream, such as the traceback in a notebook."""
    with started(OPEN, OPEN) as (server, client):
        for read in (next, Stream.completion):
            stream = open_stream(client)
            assert "t0 " == next(stream.text)
            with interrupted(lambda: None):
                read(stream)
            server.wait_closed_connections()
            with pytest.raises(StreamInterruptedError, match="closed before its end"):
                next(stream)


@pytest.mark.parametrize("fan_out", [False, True])
def test_an_interrupt_while_another_thread_reads_closes_the_stream(*, fan_out: bool) -> None:
    with started(*[OPEN] * 2) as (server, client):
        completions: Any = client.chat.completions
        stream = completions.fan_out(n=2, **CALL).__enter__() if fan_out else open_stream(client)
        first, second = stream.choice(0), stream.choice(1)
        reading = threading.Event()

        def read() -> str:
            reading.set()
            try:
                for _ in second:
                    pass
            except GradientError as error:
                return str(error)
            return "the end"

        wait = in_thread(read)
        reading.wait(10)
        waiters: Any = stream.source._waiters
        wait_until(lambda: waiters.reader is not None)
        with interrupted(lambda: wait_until(lambda: waiters.read._waiters)):  # a condition's own list
            for _ in first:
                pass
        server.wait_closed_connections()
        assert "closed" in wait()
        wait_until(lambda: not tasks())


def test_an_interrupt_cancels_a_fan_out_and_a_map() -> None:
    with started(*[SILENT] * 6) as (server, client):
        fan = client.chat.completions.fan_out(n=2, **CALL)
        with interrupted(lambda: server.wait_requests(2)):
            fan.completion()
        server.wait_closed_connections()
        results = client.chat.completions.map(itertools.repeat(CALL), max_concurrency=2)
        with interrupted(lambda: server.wait_requests(4)):
            next(results)
        server.wait_closed_connections()
        assert [] == list(results)
        wait_until(lambda: not tasks())


class Interrupting:
    """A lock whose wait ends with an interrupt at the moment when the result has come."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.release = lock.release

    def acquire(self, timeout: float) -> bool:
        assert self.lock.acquire(timeout=10)
        raise KeyboardInterrupt


def test_a_stream_that_came_together_with_an_interrupt_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with started(OPEN, OPEN) as (server, client):
        stream = open_stream(client)
        original = module.Call.__init__

        def init(self: Any, function: Any, arguments: Any) -> None:
            original(self, function, arguments)
            if function.__name__ in {"request", "_next"}:
                self.done = Interrupting(self.done)

        monkeypatch.setattr(module.Call, "__init__", init)
        with pytest.raises(KeyboardInterrupt):
            open_stream(client)
        server.wait_requests(2)
        server.wait_closed_connections(1)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        server.wait_closed_connections()


def test_an_interrupt_before_the_call_was_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = module.loop_thread()
    hand_over = loop.loop.call_soon_threadsafe
    once = iter([True])

    def fail(callback: Any, *arguments: Any, **options: Any) -> Any:
        if next(once, False):
            raise KeyboardInterrupt
        return hand_over(callback, *arguments, **options)

    monkeypatch.setattr(loop.loop, "call_soon_threadsafe", fail)
    with pytest.raises(KeyboardInterrupt):
        loop.call(lambda: 1)
    assert 2 == loop.call(lambda: 2)


# Chunks that come one by one


def test_a_thread_that_waits_does_not_wake_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop waits for the next bytes already. Here each chunk comes when the thread waits for it."""
    streams: list[Stream] = []
    received: list[str] = []
    handed_over: list[str] = []
    loop = module.loop_thread().loop
    hand_over = loop.call_soon_threadsafe

    def note(callback: Any, *arguments: Any, **options: Any) -> Any:
        handed_over.append(callback.__name__)
        return hand_over(callback, *arguments, **options)

    def waits(number: int) -> bool:
        return len(received) == number and streams[0].source.waited_for

    async def answer(request: Request, connection: Connection) -> None:
        await connection.write(HEAD)
        for number, token in enumerate(TOKENS, 1):
            await connection.write(http_chunk(sse(chunk(token), done=False)))
            await asyncio.to_thread(wait_until, lambda: waits(number))  # noqa: B023  # ends before the next turn
        await connection.write(http_chunk(sse(chunk(finish_reason="stop"))))
        await connection.write(http_chunk(b""))

    with started(handler=answer) as (_, client):
        stream = open_stream(client)
        streams.append(stream)
        received.append(next(stream.text))
        monkeypatch.setattr(loop, "call_soon_threadsafe", note)
        for text in stream.text:
            received.append(text)
            assert "start" not in handed_over
        assert TOKENS == received
        assert "start" in handed_over


def test_a_slow_reader_finds_what_came_in_the_meantime() -> None:
    with started(reply_sse(*PIECES, gap=0.004)) as (_, client):
        texts: list[str] = []
        for text in open_stream(client).text:
            texts.append(text)
            time.sleep(0.01)
        assert TOKENS == texts


@pytest.mark.parametrize("view", ["text", "raw"])
def test_bytes_without_content_are_read_on(view: str) -> None:
    """Keep-alives, and an event that comes in two pieces."""
    data = sse(chunk("t1 "), done=False)
    pieces = [
        sse(chunk("t0 "), done=False),
        b": alive\n\n",
        data[:9],
        data[9:],
        sse(chunk(finish_reason="stop")),
    ]
    writes = [each for piece in pieces for each in (http_chunk(piece), 0.05)]
    with started(reply_writes([HEAD, *writes, http_chunk(b"")])) as (_, client):
        stream = open_stream(client)
        assert (["t0 ", "t1 "] if view == "text" else pieces) == list(getattr(stream, view))


def test_time_limits_count_while_a_thread_waits() -> None:
    """The loop waits before it does; the time in which nobody waits does not count."""
    with started(OPEN, OPEN, timeout=Timeout(idle=0.6)) as (server, client):
        stream = open_stream(client)
        assert "t0 " == next(stream.text)
        began = time.monotonic()
        with pytest.raises(StreamTimeoutError, match="idle"):
            next(stream)
        assert 0.5 < time.monotonic() - began < 5
        server.wait_closed_connections()
        stream = open_stream(client)
        assert "t0 " == next(stream.text)
        source = stream.source
        assert source._ahead is not None
        module.loop_thread().call(
            source._count_time, source._ahead, 0.0
        )  # nobody waits: as it comes after an interrupt
        time.sleep(0.8)
        began = time.monotonic()
        with pytest.raises(StreamTimeoutError, match="idle"):
            next(stream)
        assert 0.5 < time.monotonic() - began < 5


# Threads and loops


async def test_a_call_inside_a_running_loop() -> None:
    """As in a notebook: the call blocks this loop, and runs in its own."""
    with started(STREAM) as (_, client):
        assert 6 == len(list(open_stream(client)))
        assert create(client).choices
        assert (await asyncio.to_thread(create, client)).choices


def test_one_thread_and_loop_for_all_clients() -> None:
    with serve() as server:

        def one() -> ChatCompletion:
            return create(Gradient(inference_endpoint=server.url, model_access_key="k"))

        waits = [in_thread(one) for _ in range(16)]
        assert all(wait().choices for wait in waits)
        assert 1 == sum(thread.name == "gradient-async" for thread in threading.enumerate())


def test_threads_that_begin_together_share_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Process, "loops", [])
    together = threading.Barrier(8)

    def begin() -> Any:
        together.wait()
        return module.loop_thread()

    waits = [in_thread(begin) for _ in range(8)]
    (loop,) = {wait() for wait in waits}
    assert loop.call(lambda: 7) == 7
    loop.end()
    assert loop.loop.is_closed()
    assert loop is module.Process.loops[0]


def test_several_threads_read_the_choices_of_one_stream() -> None:
    """A silent choice does not delay the thread of another."""
    go = threading.Event()

    async def answer(request: Request, connection: Connection) -> None:
        await connection.write(HEAD)
        for number in range(20):
            await connection.write(http_chunk(sse(chunk(f"a{number} ", index=0), done=False)))
        await asyncio.to_thread(go.wait, 10)
        await connection.write(http_chunk(sse(chunk("b0 ", index=1), done=False)))
        ends = [chunk(finish_reason="stop", index=index) for index in (0, 1)]
        await connection.write(http_chunk(sse(*ends)))
        await connection.write(http_chunk(b""))

    with started(handler=answer) as (_, client), client.chat.completions.stream(**CALL, n=2) as stream:
        first, second = stream.choice(0), stream.choice(1)
        other = in_thread(lambda: list(second.text))
        texts = list(itertools.islice(first.text, 20))
        go.set()
        assert [f"a{number} " for number in range(20)] == texts
        assert ["b0 "] == other()
        assert [] == list(first.text)
        assert "b0 " == stream.completion().choices[1].message.content


def test_another_thread_may_close_a_stream() -> None:
    with started(OPEN) as (server, client):
        stream = open_stream(client)
        assert "t0 " == next(stream.text)

        def read() -> type[BaseException]:
            with pytest.raises(StreamInterruptedError) as caught:
                next(stream)
            return type(caught.value)

        wait = in_thread(read)
        wait_until(lambda: stream.source.waited_for)
        stream.close()
        server.wait_closed_connections()
        assert StreamInterruptedError is wait()


def test_context_variables_reach_hooks_and_the_iterable() -> None:
    seen: list[str] = []
    variable = contextvars.ContextVar("variable", default="unset")

    class See(Hook):
        def on_request(self, call: CallInfo) -> None:
            seen.append(variable.get())

    def requests() -> Iterator[Any]:
        seen.append(variable.get())
        yield CALL

    with started(hooks=[See()]) as (_, client):
        variable.set("mine")
        assert [result.index for result in client.chat.completions.map(requests())] == [0]
        create(client)
        assert ["mine"] * 3 == seen


def test_a_hook_can_not_wait_for_its_own_loop() -> None:
    found: list[Any] = []

    class Calls(Hook):
        def on_request(self, call: CallInfo) -> None:
            if not found:
                found.append(None)
                try:
                    create(client)
                except ConfigurationError as error:
                    found.append(str(error))

    with started(hooks=[Calls()]) as (_, client):
        assert create(client).choices
        assert "make the call in another thread" in found[1]


def test_a_task_that_exits_does_not_end_the_loop() -> None:
    """The SystemExit of a task also leaves `run_forever`."""

    async def exits() -> None:
        raise SystemExit(3)

    async def starts() -> asyncio.Task[None]:
        return asyncio.create_task(exits())

    loop = module.loop_thread()
    task = loop.call(starts)
    wait_until(task.done)
    assert isinstance(task.exception(), SystemExit)
    assert 1 == loop.call(lambda: 1)
    with pytest.raises(SystemExit):
        loop.call(exits)
    assert 2 == loop.call(lambda: 2)


# Many requests


def test_map_takes_requests_as_they_are_needed() -> None:
    taken: list[int] = []

    def requests() -> Iterator[Any]:
        for number in itertools.count():
            taken.append(number)
            yield number, CALL

    with started() as (_, client):
        with client.chat.completions.map(requests(), max_concurrency=2, window=4) as results:
            for _ in range(3):
                result = next(results)
                assert result.key == result.index
            assert len(taken) <= 3 + 4
        wait_until(lambda: not tasks())
        wait_until(lambda: "gradient-async-requests" not in {thread.name for thread in threading.enumerate()})


def test_results_come_while_requests_are_taken() -> None:
    """The iterable waits for what its reader does with a result."""
    followups = queue.SimpleQueue[Any]()
    followups.put(CALL)

    with started() as (_, client):
        results = client.chat.completions.map(iter(followups.get, None))
        count = 0
        for result in results:
            assert result.completion is not None
            count += 1
            followups.put(CALL if count < 4 else None)
        assert 4 == count


def test_the_iterable_may_call_the_client() -> None:
    def requests() -> Iterator[Any]:
        for _ in range(3):
            yield {**CALL, "user": create(client).id}

    with started() as (_, client):
        assert 3 == len([result.unwrap() for result in client.chat.completions.map(requests())])


def test_map_reads_lists_files_and_asynchronous_iterables(tmp_path: Any) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield CALL

    (path := tmp_path / "prompts").write_text("a\nb\n")
    with started() as (_, client), path.open() as lines:
        many = client.chat.completions.map
        assert [0, 1] == [result.index for result in many([CALL, CALL], ordered=True)]
        assert [0, 1] == [result.index for result in many((CALL, CALL), ordered=True, stream=True)]
        assert [0] == [result.index for result in many(requests())]
        prompts = ({**CALL, "user": line.strip()} for line in lines)
        assert ["a", "b"] == [result.request["user"] for result in many(prompts, ordered=True)]


@pytest.mark.parametrize("wrong", [7, "text", CALL])
def test_map_refuses_what_is_no_iterable_of_requests(wrong: Any) -> None:
    with started() as (_, client), pytest.raises(TypeError, match="requests: expected"):
        client.chat.completions.map(wrong)


def test_errors_of_map() -> None:
    """Those of requests are results; that of the iterable, and the first error if asked for, are raised."""

    def requests() -> Iterator[Any]:
        yield CALL
        raise LookupError("mine")

    refusal = reply_json({"message": "no"}, 404)
    with started(refusal, refusal, reply_json(completion("ok"))) as (_, client):
        (result,) = client.chat.completions.map([CALL])
        with pytest.raises(GradientError, match="no"):
            result.unwrap()
        with pytest.raises(FanOutError):
            list(client.chat.completions.map([CALL], on_error="raise"))
        results = client.chat.completions.map(requests())
        assert next(results).completion is not None
        with pytest.raises(LookupError, match="mine"):
            next(results)
        assert [] == list(results)


def test_map_is_drained_and_left() -> None:
    with started() as (_, client):
        results = client.chat.completions.map(itertools.repeat(CALL), max_concurrency=2)
        next(results)
        results.drain()
        assert len(list(results)) <= 8  # the window
        for _result in client.chat.completions.map(itertools.repeat(CALL), max_concurrency=2):
            break
        wait_until(lambda: not tasks())
        wait_until(lambda: "gradient-async-requests" not in {thread.name for thread in threading.enumerate()})


def test_an_iterable_that_blocks_does_not_hold_up_the_end_of_map() -> None:
    go = threading.Event()

    def requests() -> Iterator[Any]:
        yield CALL
        go.wait(20)
        yield CALL

    with started() as (_, client):
        with client.chat.completions.map(requests()) as results:
            assert next(results).index == 0
        go.set()  # the thread ends with the item that nobody waits for
        wait_until(lambda: "gradient-async-requests" not in {thread.name for thread in threading.enumerate()})


# Very many


def interrupt_soon(seconds: float) -> None:
    """Interrupt this thread, as Ctrl-C does the main thread."""
    interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
    here = ctypes.c_ulong(threading.get_ident())
    threading.Timer(seconds, interrupt, (here, ctypes.py_object(KeyboardInterrupt))).start()


def test_calls_cancelled_at_random_leave_nothing_behind() -> None:
    """2,000 calls of every kind from 32 threads; most are left by break, a time limit, a close, or an interrupt."""
    numbers = itertools.count()
    stuck = [OPEN, SILENT]

    async def answer(request: Request, connection: Connection) -> None:
        number = next(numbers)
        streamed = request.json.get("stream")
        if request.json.get("user") == "waits":
            reply = OPEN if streamed else SILENT
        elif number % 7 == 0:
            reply = stuck[number % 2]
        else:
            reply = STREAM if streamed else reply_json(completion("ok"))
        await reply(request, connection)

    with (
        serve(handler=answer) as server,
        Gradient(inference_endpoint=server.url, model_access_key="k", max_retries=0, timeout=0.3) as client,
    ):
        create = client.chat.completions.create
        before = {thread.ident for thread in threading.enumerate()} | {module.loop_thread()._threads[0].ident}
        left = iter(range(2000))
        interrupts: list[None] = []
        failures: list[BaseException] = []

        def whole(_: random.Random) -> None:
            create(**CALL)

        def read(_: random.Random) -> None:
            with create(**CALL, stream=True) as stream:
                for _chunk in stream:
                    pass

        def leave(_: random.Random) -> None:
            with client.chat.completions.stream(**CALL) as stream:
                for _text in stream.text:
                    break

        def close(_: random.Random) -> None:
            stream = create(**CALL, stream=True)
            closer = threading.Timer(0.01, stream.close)
            closer.start()
            try:
                stream.completion()
            finally:
                closer.join()

        def impatient(_: random.Random) -> None:
            create(**CALL, timeout=0.001)

        def many(_: random.Random) -> None:
            for _result in client.chat.completions.map((CALL for _ in range(3)), max_concurrency=2):
                break

        def several(_: random.Random) -> None:
            with client.chat.completions.fan_out(n=3, **CALL) as fan:
                for _chunk in fan:
                    break

        def interrupted(dice: random.Random) -> None:
            waits: dict[str, Any] = {**CALL, "user": "waits", "timeout": 2}
            try:
                interrupt_soon(dice.uniform(0.005, 0.03))
                if dice.random() < 0.5:
                    create(**waits)
                with client.chat.completions.stream(**waits) as stream:
                    for _chunk in stream:
                        pass
            except KeyboardInterrupt:
                interrupts.append(None)

        # An interrupt that comes while a tracer runs, as that of coverage, is not raised where it belongs.
        traced = sys.gettrace() is not None
        kinds = [whole, read, leave, close, impatient, many, several, *(() if traced else (interrupted,))]

        def work(seed: int) -> None:
            dice = random.Random(seed)
            for _ in left:
                try:
                    dice.choice(kinds)(dice)
                except (APITimeoutError, StreamInterruptedError, FanOutError):
                    pass
                except BaseException as error:
                    failures.append(error)
                    raise

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
        assert not any(thread.is_alive() for thread in threads)
        assert [] == failures
        assert traced or len(interrupts) > 100
        wait_until(lambda: not tasks())
        gc.collect()
        wait_until(lambda: {thread.ident for thread in threading.enumerate()} <= before | {None})
        pool = client._client._core.connections.manager.pool
        connector: Any = module.loop_thread().call(pool.session).connector
        wait_until(lambda: not connector._acquired)
        client.close()
        server.wait_closed_connections(timeout=5)
        assert 0 == len(module.loop_thread().open)


def test_a_thread_waits_a_short_time_for_the_read_of_another() -> None:
    """It then looks again, because the other thread may have been interrupted."""
    waiters = _Waiters(threading.Condition())
    with waiters.read, pytest.raises(StopIteration):
        waiters.wait(None).send(None)


def test_a_call_that_was_answered_stays_started() -> None:
    """Its lock does not show it: the thread that waits locks it again, and later looks of the thread must do nothing."""
    call = module.Call(print, ())
    call.answer("x")
    assert call.done.acquire(timeout=1)
    assert call.started


def test_a_call_holds_nothing_once_it_has_returned() -> None:
    """The object whose method was called may be dropped at once, and what it has locked be used again."""

    class Held:
        async def work(self) -> int:
            return 1

    loop = module.loop_thread()
    for _ in range(200):
        held = Held()
        gone = weakref.ref(held)
        assert 1 == loop.call(held.work)
        del held
        assert gone() is None
