"""`Gradient` when a process forks or ends: no hang, no traceback, no warning, and the parent is not disturbed."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from sync_calls import CALL, OPEN, create, open_stream, started

from gradient_async import ConfigurationError, Gradient
from gradient_async.sync import loop as module
from gradient_async.sync.requests import _take
from gradient_async.testing import serve

BEGIN = """
import atexit, os, signal, sys, threading, time
from gradient_async import Gradient

CALL = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STALL = {**CALL, "model": "error-stall"}
client = Gradient(inference_endpoint=sys.argv[1], model_access_key="any")
create = client.chat.completions.create
"""
ENDS = {
    "a client that was never used": "print('ok')",
    "a client that was closed": "create(**CALL); client.close(); print('ok')",
    "a client that was never closed": "create(**CALL); print('ok')",
    "a client that is dropped by the last call": """
Gradient(inference_endpoint=sys.argv[1], model_access_key="any").chat.completions.create(**CALL)
os.write(1, b'ok')
Gradient(inference_endpoint=sys.argv[1], model_access_key="any").models.list()""",
    "a client of a function": """
def main():
    client = Gradient(inference_endpoint=sys.argv[1], model_access_key="any")
    client.chat.completions.create(**CALL)
    print('ok')
main()""",
    "an open stream": "stream = create(**CALL, stream=True); next(stream); print('ok')",
    "an open fan-out": "fan = client.chat.completions.fan_out(n=2, **STALL).__enter__(); print('ok')",
    "a map in the middle": "results = client.chat.completions.map(CALL for _ in range(999)); next(results); print('ok')",
    "an iterable that blocks": """
results = client.chat.completions.map((CALL, time.sleep(60 * n))[0] for n in range(2))
next(results)
print('ok')""",
    "daemon threads that wait": """
def read():
    for _ in range(9):
        list(create(**STALL, stream=True))
for _ in range(3):
    threading.Thread(target=read, daemon=True).start()
    threading.Thread(target=create, kwargs=STALL, daemon=True).start()
time.sleep(0.3)
print('ok')""",
    "daemon threads that look at every moment": """
from gradient_async.sync import loop
loop.LOOK = 0.00001
def read():
    for _ in range(9):
        list(create(**STALL, stream=True))
for _ in range(3):
    threading.Thread(target=read, daemon=True).start()
time.sleep(0.3)
print('ok')""",
    "threads that end after the main thread": """
threads = [threading.Thread(target=create, kwargs=CALL) for _ in range(3)]
for thread in threads:
    thread.start()
print('ok')""",
    "a handler that makes a call": "create(**CALL); atexit.register(lambda: print('ok' * bool(create(**CALL))))",
    "a handler that makes the first call": "atexit.register(lambda: print('ok' * bool(create(**CALL))))",
    "a finalizer": """
class Last:
    def __del__(self, client=client, create=create, write=os.write):
        client.close()
        try:
            create(**CALL)
        except Exception as error:
            write(1, b'ok' * ('shutting down' in str(error)))  # standard output may be gone
last = Last()
create(**CALL)""",
    "a finalizer of a client that was never used": """
class Last:
    def __del__(self, client=client, create=create, write=os.write):
        client.close()
        try:
            create(**CALL)
        except Exception as error:
            write(1, b'ok' * ('shutting down' in str(error)))  # standard output may be gone
last = Last()""",
    "a loop that is blocked": """
from gradient_async.sync.loop import loop_thread
create(**CALL)
loop_thread().loop.call_soon_threadsafe(time.sleep, 60)
print('ok')""",
    "an interrupt": """
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    create(**STALL)
except KeyboardInterrupt:
    print('ok')""",
}
FORKS = {
    "the child makes calls": """
create(**CALL)
stream = create(**CALL, stream=True)
next(stream)
if (child := os.fork()) == 0:
    create(**CALL)
    assert list(create(**CALL, stream=True))
    try:
        next(stream)
    except Exception as error:
        assert 'forked' in str(error)
    stream.close()
    client.close()
    sys.exit(0)
assert os.waitpid(child, 0) == (child, 0)
assert list(stream)
create(**CALL)
print('ok')""",
    "the child does nothing": """
create(**CALL)
if (child := os.fork()) == 0:
    sys.exit(0)
assert os.waitpid(child, 0) == (child, 0)
create(**CALL)
print('ok')""",
    "before the first call": """
if (child := os.fork()) == 0:
    create(**CALL)
    sys.exit(0)
assert os.waitpid(child, 0) == (child, 0)
create(**CALL)
print('ok')""",
    "while another thread makes the first call": """
thread = threading.Thread(target=create, kwargs=CALL)
thread.start()
while 'aiohttp' not in sys.modules:
    time.sleep(0.001)
if (child := os.fork()) == 0:
    signal.alarm(20)
    create(**CALL)
    Gradient(inference_endpoint=sys.argv[1], model_access_key="any").chat.completions.create(**CALL)
    os._exit(0)
assert os.waitpid(child, 0) == (child, 0)
thread.join()
print('ok')""",
    "inside a block": """
with client.chat.completions.stream(**CALL) as stream, client.chat.completions.map([CALL]) as results:
    with client.chat.completions.fan_out(n=1, **CALL) as fan:
        next(stream)
        child = os.fork()
        if not child:
            sys.exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        assert list(stream) and list(results) and list(fan)
print('ok')""",
    "a pool of processes": """
import multiprocessing
create(**CALL)
def work(_):
    return bool(create(**CALL))
with multiprocessing.get_context('fork').Pool(2) as pool:
    assert all(pool.map(work, range(4)))
print('ok')""",
}
# Python 3.12 and later warn of every fork of a process with threads.
FLAGS = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]


@pytest.mark.parametrize("program", [*ENDS, *FORKS])
def test_a_process_ends_in_silence(program: str) -> None:
    if program == "a handler that makes the first call" and (3, 12) <= sys.version_info < (3, 12, 2):
        pytest.skip("these versions of Python start no thread in a handler")
    with serve() as server:
        done = subprocess.run(
            [sys.executable, *FLAGS, "-c", BEGIN + (ENDS | FORKS)[program], server.url],
            capture_output=True,
            check=False,
            text=True,
            timeout=40,
        )
        assert (0, "ok", "") == (done.returncode, done.stdout.strip(), done.stderr)
        server.wait_closed_connections()


def call_and_close(client: Gradient) -> None:
    create(client)
    client.close()


def close_late(client: Gradient) -> None:
    with pytest.raises(ConfigurationError, match="shutting down"):
        call_and_close(client)


def hand_late(loop: module.LoopThread) -> None:
    with pytest.raises(ConfigurationError, match="shutting down"):
        loop.hand(print)


def test_the_loop_of_a_parent_is_kept_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it looks from inside the child."""
    kept: list[Any] = []
    monkeypatch.setattr(module, "keep_for_ever", kept.append)
    monkeypatch.setattr(module.Process, "loops", [])
    module._forget_parent()
    assert [] == kept
    with serve(OPEN, OPEN) as server:
        client = Gradient(base_url=f"{server.url}/v1", api_key="k")
        stream = open_stream(client)
        next(stream)
        fan = client.chat.completions.fan_out(n=1, **CALL).__enter__()
        next(fan)
        results = client.chat.completions.map([CALL])
        loop = module.loop_thread()
        module._forget_parent()
        assert 1 == len(kept)
        assert loop is kept[0][0]
        for read in (lambda: next(stream), lambda: next(fan), lambda: next(results)):
            with pytest.raises(ConfigurationError, match="belong to its parent"):
                read()
        for leave in (stream.close, fan.close, results.close):
            leave()
        assert 2 == server.open_connections
        assert module.loop_thread() is not loop
        module.loop_thread().end()
        loop.inherited = False
        loop.end()
        server.wait_closed_connections()


def test_the_end_of_a_loop_closes_streams_and_refuses_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Process, "ended", False)
    monkeypatch.setattr(module.Process, "loops", [])
    with serve(OPEN, OPEN) as server:
        client = Gradient(base_url=f"{server.url}/v1", api_key="k")
        module._end()
        with pytest.raises(ConfigurationError, match="shutting down"):
            create(client)
        client.close()
        module.Process.ended = False
        stream = open_stream(client)
        next(stream)
        loop = module.loop_thread()
        module._end()
        server.wait_closed_connections()
        assert loop.loop.is_closed()
        with pytest.raises(ConfigurationError, match="shutting down"):
            call_and_close(client)
        client.close()
        stream.close()
        # A daemon thread would wait for ever. This one waits until the test has seen it.
        monkeypatch.setattr(module, "_NEVER", threading.Event())
        late = threading.Thread(target=close_late, args=(client,), daemon=True)
        late.start()
        looks = threading.Thread(target=hand_late, args=(loop,), daemon=True)  # it waits since before the end
        looks.start()
        late.join(0.1)
        assert looks.is_alive()
        assert late.is_alive()
        module._NEVER.set()
        late.join()
        looks.join()
        with pytest.raises(ConfigurationError, match="shutting down"):
            loop.hand(print)


def test_a_thread_that_can_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module.Process, "ended", False)
    monkeypatch.setattr(module.Process, "loops", [])
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ConfigurationError, match="can't start new thread"):
        create(Gradient(api_key="k"))
    module._end()
    assert module.Process.loops[0].loop.is_closed()


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupt_while_the_thread_starts(monkeypatch: pytest.MonkeyPatch, *, begun: bool) -> None:
    """The next call uses the thread, or starts it."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        if begun:
            start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Process, "ended", False)
    monkeypatch.setattr(module.Process, "loops", [])
    before = set(threading.enumerate())
    with started() as (_, client):
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            create(client)
        assert create(client).choices
        new = [thread for thread in threading.enumerate() if thread not in before]
        assert 1 == [thread.name for thread in new].count("gradient-async")
    module._end()


@pytest.mark.parametrize("begun", [False, True])
def test_a_signal_handler_makes_a_call_while_the_thread_starts(
    monkeypatch: pytest.MonkeyPatch, *, begun: bool
) -> None:
    start = threading.Thread.start
    answers: list[Any] = []

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        if begun:
            start(thread)
        answers.append(create(client))
        if not begun:
            start(thread)

    monkeypatch.setattr(module.Process, "ended", False)
    monkeypatch.setattr(module.Process, "loops", [])
    with started() as (_, client):
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        assert create(client).choices
        assert answers
    module._end()


def test_of_two_loops_that_are_made_together_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[Any] = []
    made: list[Any] = []

    class Slow(module.LoopThread):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)
            if len(made) == 1:
                assert module.loop_thread() is made[1]  # as a signal handler does

    monkeypatch.setattr(module.Process, "ended", False)
    monkeypatch.setattr(module.Process, "loops", loops)
    monkeypatch.setattr(module, "LoopThread", Slow)
    assert module.loop_thread() is made[1]
    assert made[0].loop.is_closed()
    module._end()


def test_a_call_that_ends_with_the_loop_gives_no_result() -> None:
    """Its thread is a daemon, which would only print the error."""
    call = module.Call(lambda: 1, ())
    ending: Any = SimpleNamespace(ending=True)
    asyncio.run(call._run(ending))
    assert call.done.locked()


def test_items_that_come_after_the_end_are_dropped() -> None:
    """A thread that was blocked in the caller's iterable finds the loop closed."""
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    wanted = queue.SimpleQueue[Any]()
    wanted.put(future)
    wanted.put(None)
    loop.close()
    _take(iter([1]), wanted, loop)
    assert not future.done()
