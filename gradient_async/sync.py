"""`Gradient`: the client without asyncio, for scripts, notebooks and threads.

Theory of operation.

**The thread.** The first call of a process starts one daemon thread with one event loop, for all clients (`_Loop`). A
loop for each call could not keep connections. A loop in the caller's thread would not work where a loop runs already, as
in a notebook, and nothing would watch over time limits between two calls.

**Handing over.** `_Loop.call` hands a function to the loop and waits on a lock until the loop has run it. The function is
called in the loop's thread, so that a call which is interrupted early leaves no coroutine that was never awaited. The
handing thread's context variables go along. An error comes back as itself, with its traceback, and nothing of the call
refers to it any more.

**Streams.** Only what touches the connection is handed over: the *source* of chunks (`_Source`). Cursor, views and
assembly of `stream/` run in the caller's thread. Their coroutines never wait there, because a read blocks the thread, so
one step runs each of them to its end (`_drive`). All chunks of a read therefore cost one handing over, and the cursor is
exactly as far as the caller has read. A lock guards the cursor. A thread gives it up while it waits for a read, so that
several threads can read several choices, each in its own time. After a read, the loop at once waits for the next bytes, but
does not take them before a thread asks. A thread that asks first only waits, and does not wake the loop: where chunks come
one by one, that saves half of what each costs.

**Interrupts.** Whatever ends the wait, KeyboardInterrupt above all, cancels the function in the loop; if its result has
come all the same, the result is undone. A stream whose read is interrupted is closed. Control returns once that is done, or
after two seconds. The wait itself wakes four times a second, because some exceptions do not wake it: Ctrl-C on Windows, and
those that a debugger sets for a thread.

**The caller's own code.** The iterable of `map` and ``stop_when`` may block, or call this client. They run in threads of
their own: in the loop's thread they would block everything, themselves included.

**Fork.** The child has the parent's loop without its thread. It keeps this loop and its streams untouched, because the two
processes share its sockets, and starts its own loop with its first call. Streams of the parent can't be read in the child.

**Exit.** An atexit handler closes open streams and ends the loop and its thread. It is registered when this module is
imported, so it runs after handlers that programs register later, which may still make calls. Daemon threads that wait for
a call at that moment wait for ever: an error would only print a traceback.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from contextlib import AbstractContextManager
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, Unpack, cast, overload

from .client.client import AsyncGradient, _conceal
from .client.completions import AgentCompletions as AsyncAgentCompletions
from .client.completions import Completions as AsyncCompletions
from .client.completions import _AgentFanOut, _ChatFanOut, _Completions, check_requests
from .client.core import check_options
from .client.models import Models as AsyncModels
from .config import Limits, Retry, Timeout
from .errors import ConfigurationError, GradientError, ResponseInfo
from .events import ChatCompletionStreamEvent
from .fanout import FanOut as AsyncFanOut
from .fanout import FanOutResult, MapResult, Requests, StopWhen
from .fanout import MapResults as AsyncMapResults
from .hooks import Hook
from .session.forks import keep_for_ever
from .stream import ChatCompletionStream, ChunkSource, ChunkStream, StreamReader, Timing
from .stream import ChoiceStream as AsyncChoiceStream
from .stream.queues import ChunkQueue, Waiters
from .types import (
    AgentCompletionCreate,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionCreate,
    Choice,
    CompletionUsage,
    Headers,
    ModelList,
    RateLimits,
)

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

# Seconds after which a waiting thread looks for exceptions.
_LOOK = 0.25
# Seconds to wait for what was cancelled: a call that was interrupted, or the loop at the end of the process.
_PATIENCE = 2.0
_ENDED = "the interpreter is shutting down"
_LATE = object()  # the result of a call that the thread did not wait for in time
# An event that nobody sets.
_NEVER = threading.Event()


# The loop


class _Call:
    """A function that the loop runs for a thread.

    Attributes:
        done: Locked until the function has ended.
        result: What the function returned, or None.
        error: What the function raised, or None.
    """

    __slots__ = ("_arguments", "_function", "_task", "done", "error", "result")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self._task: asyncio.Task[None] | None = None
        self.done = threading.Lock()
        self.done.acquire()
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def started(self) -> bool:
        """Whether the function was called, or the call has its result without it."""
        return self._task is not None or not self.done.locked()

    def answer(self, result: Any) -> None:
        """Give a result to the waiting thread, without calling the function."""
        self.result = result
        self.done.release()

    def start(self, loop: _Loop) -> None:
        """Begin, in the loop's thread."""
        self._task = loop.loop.create_task(self._run(loop))

    async def _run(self, loop: _Loop) -> None:
        try:
            result = self._function(*self._arguments)
            self.result = await result if isawaitable(result) else result
        except BaseException as error:  # noqa: BLE001  # the waiting thread raises it
            self.error = error
        if not loop.ending:
            self.done.release()

    async def give_up(self, undo: Callable[[Any], object]) -> None:
        """End the call, whose thread was interrupted; undo its result if there is one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        undone = undo(self.result)
        if isawaitable(undone):
            await undone
        self.error = None  # its traceback refers to this object


def _nothing(*_arguments: object) -> None:
    pass


class _Loop:
    """The event loop of this process, and its thread.

    Attributes:
        loop: The event loop.
        ending: Whether the process ends.
        inherited: Whether the loop belongs to the parent of this process.
        open: The streams, to be closed at the end of the process; changed in the loop's thread only.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ending = False
        self.inherited = False
        self.open = weakref.WeakSet[ChunkStream]()
        self._thread = threading.Thread(target=self._run, name="gradient-async", daemon=True)
        self._thread.start()

    @property
    def usable(self) -> bool:
        """Whether the loop runs in this process."""
        return not (self.ending or self.inherited)

    @property
    def runs_here(self) -> bool:
        """Whether this thread is the loop's."""
        return threading.get_ident() == self._thread.ident

    def _run(self) -> None:
        # The runner cancels tasks, closes sessions and closes the loop.
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop()
            while not self.ending:
                # asyncio lets these exceptions of any task, such as a hook that calls `sys.exit`, end `run_forever`.
                with contextlib.suppress(KeyboardInterrupt, SystemExit):
                    self.loop.run_forever()

    def call(
        self, function: Callable[..., Any], *arguments: Any, undo: Callable[[Any], object] = _nothing
    ) -> Any:
        """Run a function in the loop, and wait for its result.

        Args:
            function: A function, or a coroutine function.
            *arguments: Its arguments.
            undo: Called in the loop with the result, or with None if there is none, if this thread is interrupted.

        Raises:
            ConfigurationError: If the loop can't be used here.
        """
        if not self.usable or self.runs_here:
            if self.ending and threading.current_thread().daemon:
                _NEVER.wait()  # see the docstring of this file
            raise ConfigurationError(self._problem())
        call = _Call(function, arguments)
        return self.wait(call, undo, lambda: self.loop.call_soon_threadsafe(call.start, self))

    def wait(
        self,
        call: _Call,
        undo: Callable[[Any], object],
        begin: Callable[[], object],
        on_look: Callable[[], object] = _nothing,
    ) -> Any:
        """Wait for the result of a call.

        Args:
            call: The call.
            undo: The same as for `call`.
            begin: Called at first; an interrupt before its end is an interrupt of the call, too.
            on_look: Called whenever this thread has looked for exceptions.
        """
        try:
            begin()
            while not call.done.acquire(timeout=_LOOK):
                on_look()
        except BaseException:
            ending = _Call(call.give_up, (undo,))
            self.loop.call_soon_threadsafe(ending.start, self)
            ending.done.acquire(timeout=_PATIENCE)
            raise
        if call.error is None:
            return call.result
        error, call.error = call.error, None
        try:
            raise error
        finally:
            del error, call  # otherwise the error and this frame would refer to each other

    def _problem(self) -> str:
        if self.inherited:
            return (
                "this process was forked, and the stream or results belong to its parent: make new ones here"
            )
        if self.ending:
            return _ENDED
        return (
            "a hook of this client runs in its event loop, where a call would wait for itself: "
            "make the call in another thread"
        )

    def end(self) -> None:
        """Close what is open, and end the thread; wait a short time for that."""
        self.loop.call_soon_threadsafe(self._stop)
        self._thread.join(_PATIENCE)

    def _stop(self) -> None:
        self.ending = True
        try:
            for stream in list(self.open):
                stream.leave()
        finally:
            self.loop.stop()


class _Process:
    """The loop of this process, if there is one."""

    loop: _Loop | None = None
    ended = False
    lock = threading.Lock()


def _loop() -> _Loop:
    """Return the loop of this process, and start it if it does not run."""
    loop = _Process.loop
    if loop is None:
        if _Process.ended:  # a finalizer calls; a thread could not start any more
            raise ConfigurationError(_ENDED)
        with _Process.lock:
            loop = _Process.loop = _Process.loop or _Loop()
    return loop


def _end() -> None:
    _Process.ended = True
    if _Process.loop is not None:
        _Process.loop.end()


def _forget_parent() -> None:
    if _Process.loop is not None:
        _Process.loop.inherited = True
        keep_for_ever((_Process.loop, list(_Process.loop.open)))
    _Process.loop = None
    _Process.lock = threading.Lock()  # a thread of the parent may have held the old one


atexit.register(_end)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_parent)


class _Closing(ABC):
    """A context manager that closes itself on leaving."""

    @abstractmethod
    def close(self) -> None:
        """Close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# Streams


class _Source:
    """The source of a stream, for a cursor that another thread than the loop's moves.

    Attributes:
        inner: The source, which belongs to the loop.
        loop: The loop.
        waited_for: Whether a thread waits for the call that the loop has prepared.
    """

    def __init__(self, inner: ChunkSource, read: threading.Condition, loop: _Loop) -> None:
        self.inner = inner
        self._read = read
        self.loop = loop
        self._ahead: _Call | None = None  # the next call, if the loop waits for its bytes already
        self.waited_for = False

    @property
    def ended(self) -> bool:
        """Whether the source ended without an error and was read to its end."""
        return self.inner.ended

    async def next_chunks(self) -> Sequence[ChatCompletionChunk] | None:
        """Return the next chunks; None at the end. Meanwhile other threads may move the cursor."""
        try:
            self._read.release()  # inside the block: no interrupt comes between its beginning and the release
            ahead, self._ahead = self._ahead, None
            chunks: Any = _LATE
            if ahead is not None and self.loop.usable:
                look = partial(self._look, ahead, self.loop.loop.time())
                chunks = self.loop.wait(ahead, self._give_up, self._wait, look)
            if chunks is _LATE:
                chunks = self.loop.call(self._next, undo=self._give_up)
            return cast("Sequence[ChatCompletionChunk] | None", chunks)
        finally:
            self._read.acquire()
            self._read.notify_all()  # other threads go on when this one has placed the chunks, and releases the lock

    def _wait(self) -> None:
        self.waited_for = True

    def _look(self, ahead: _Call, began: float) -> None:
        self.loop.loop.call_soon_threadsafe(self._count_time, ahead, began)

    # In the loop's thread

    async def _next(self) -> Sequence[ChatCompletionChunk] | None:
        chunks = await self.inner.next_chunks()
        self._look_ahead()
        return chunks

    def _look_ahead(self) -> None:
        """Wait for the bytes of the next read, so that a thread that waits for them need not wake the loop."""
        reader = self.inner
        if not isinstance(reader, StreamReader) or not reader.steady:
            return
        waiter = reader.body.start_read()
        if waiter is not None:
            reader.body.cancel_read()  # time counts only while the thread waits, see `_count_time`
            self.waited_for = False
            ahead = self._ahead = _Call(self._next, ())
            waiter.add_done_callback(lambda _: self._on_bytes(reader, ahead))

    def _on_bytes(self, reader: StreamReader, ahead: _Call) -> None:
        if not self.waited_for:
            self._ahead = None  # the bytes wait until a thread asks for them
            ahead.answer(_LATE)  # a thread may have begun to wait just now
            return
        chunks = reader.finish_read()
        if chunks or reader.received:
            self._look_ahead()
            ahead.answer(chunks)
        else:
            ahead.start(self.loop)

    def _count_time(self, ahead: _Call, began: float) -> None:
        """Count the time since the thread began to wait, against the time limits."""
        if self.waited_for and not ahead.started:
            cast("StreamReader", self.inner).body.wait_since(began)

    def _give_up(self, _result: object) -> None:
        self.waited_for = False
        self.inner.close()

    # In the caller's thread

    def decode_slice(self) -> Sequence[ChatCompletionChunk]:
        """Decode the next slice of a read; see `StreamReader.decode_slice`."""
        return cast("Sequence[ChatCompletionChunk]", self._run(cast("Any", self.inner).decode_slice))

    def fail(self, error: Exception) -> Exception:
        """End the source with an error."""
        return cast("Exception", self._run(self.inner.fail, error))

    def completion(self) -> ChatCompletion:
        """Return the completion as far as it was assembled."""
        return self.inner.completion()

    def close(self) -> None:
        """Close the source; do nothing at the end of the process, or if the source belongs to its parent."""
        if self.loop.usable or self.loop.runs_here:
            self._run(self.inner.close)

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments) if self.loop.runs_here else self.loop.call(function, *arguments)


class _Waiters(Waiters):
    """The threads that wait while another thread reads; `_Source` wakes them after each read."""

    def __init__(self, read: threading.Condition) -> None:
        super().__init__()
        self._read = read

    async def wait(self, queue: ChunkQueue | None) -> None:  # noqa: ARG002  # a read may have chunks for any thread
        """Wait until another thread has made a read."""
        self._read.wait(_LOOK)


def _drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits to its end."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)


class View(Generic[T]):
    """An iterator over one view of a stream: its chunks, its text, its events, its bytes, one of its choices.

    Args:
        lock: Guards the cursor of the stream.
        advance: Makes the next step of the view.
    """

    def __init__(self, lock: threading.RLock, advance: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._lock = lock
        self._advance = advance

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._lock:
            try:
                return _drive(self._advance())
            except StopAsyncIteration:
                pass
        raise StopIteration


class ChoiceView(View[ChatCompletionChunk]):
    """The chunks of one choice; several threads may read several choices.

    Attributes:
        index: Index of the choice.
    """

    def __init__(self, lock: threading.RLock, choice: AsyncChoiceStream) -> None:
        super().__init__(lock, choice.__anext__)
        self._choice = choice
        self.index = choice.index

    @property
    def text(self) -> View[str]:
        """The text of this choice, piece by piece; shares the cursor of this reader."""
        return View(self._lock, self._choice.text.__anext__)


def _fact(name: str) -> Any:
    """Return a property that has the value of the asynchronous stream."""

    def read(self: _Stream[Any]) -> Any:
        with self._lock:
            return getattr(self._stream, name)

    return property(read)


A = TypeVar("A", bound=ChunkStream)


class _Stream(View[ChatCompletionChunk], _Closing, Generic[A]):
    """What `Stream` and `FanOut` have in common.

    Args:
        stream: The asynchronous stream, of which nothing has been read.
        loop: The loop.
    """

    def __init__(self, stream: A, loop: _Loop) -> None:
        lock = threading.RLock()  # a signal handler may close the stream that its thread reads
        read = threading.Condition(lock)
        super().__init__(lock, stream.__anext__)
        self._stream = stream
        self.source = stream.read_from_thread(lambda inner: _Source(inner, read, loop), _Waiters(read))
        stream.advice = "use 'with', or call close()"

    id: str = _fact("id")
    usage: CompletionUsage | None = _fact("usage")
    snapshot: ChatCompletion = _fact("snapshot")
    completed: bool = _fact("completed")
    request_id: str | None = _fact("request_id")
    rate_limits: RateLimits | None = _fact("rate_limits")
    attempts: int = _fact("attempts")
    anomalies: int = _fact("anomalies")
    timing: Timing = _fact("timing")

    @property
    def text(self) -> View[str]:
        """The text of choice 0, piece by piece; shares the cursor."""
        return View(self._lock, self._stream.text.__anext__)

    def events(self) -> View[ChatCompletionStreamEvent]:
        """The stream as typed events; shares the cursor."""
        with self._lock:
            return View(self._lock, self._stream.events().__anext__)

    def choice(self, index: int) -> ChoiceView:
        """The chunks of one choice; several threads may read several choices.

        Args:
            index: Index of the choice, from 0. The stream of a choice that never arrives is empty.
        """
        with self._lock:
            return ChoiceView(self._lock, self._stream.choice(index))

    def completion(self) -> ChatCompletion:
        """Read to the end; return the whole completion.

        Raises:
            StreamError: If the stream is not whole; ``.partial`` has everything received.
        """
        with self._lock:
            return _drive(ChunkStream.completion(self._stream))

    def get_final_completion(self) -> ChatCompletion:
        """The same as `completion`."""
        return self.completion()

    def until_done(self) -> Self:
        """Read to the end; return the stream itself.

        Raises:
            StreamError: If the stream is not whole.
        """
        self.completion()
        return self

    def close(self) -> None:
        """Close the stream; if it was not read to its end, the connection is closed at once."""
        with self._lock:
            self._stream.leave()

    def __repr__(self) -> str:
        return repr(self._stream)


class Stream(_Stream[ChatCompletionStream]):
    """A completion as it is generated: an iterator of chunks, as `ChatCompletionStream` is for asyncio."""

    status_code: int = _fact("status_code")
    headers: Headers = _fact("headers")
    response: ResponseInfo = _fact("response")
    saw_done: bool = _fact("saw_done")
    was_buffered: bool = _fact("was_buffered")

    @property
    def raw(self) -> View[bytes]:
        """The bytes as received, including ``[DONE]``, to relay; everything is assembled as well.

        Raises:
            TypeError: If the stream has been read in another way before.
        """
        with self._lock:
            return View(self._lock, self._stream.raw.__anext__)


@contextlib.contextmanager
def _opened(start: Callable[[], Awaitable[ChatCompletionStream]]) -> Generator[Stream]:
    """Send the request of a stream on entering ``with``, and close the stream on leaving."""
    loop = _loop()
    with cast("Stream", loop.call(_open, loop, start, undo=_close_here)) as stream:
        yield stream


async def _open(
    loop: _Loop, send: Callable[[], Awaitable[ChatCompletion | ChatCompletionStream]]
) -> ChatCompletion | Stream:
    """Send a request, in the loop."""
    reply = await send()
    if not isinstance(reply, ChatCompletionStream):
        return reply
    stream = Stream(reply, loop)
    loop.open.add(reply)
    return stream


def _close_here(reply: Any) -> None:
    """Close the stream of a call that was interrupted, in the loop."""
    if isinstance(reply, Stream):
        reply.source.inner.close()


class FanOut(_Stream[AsyncFanOut]):
    """n choices of one prompt as one stream, as `gradient_async.FanOut` is for asyncio; used by ``with``."""

    n: int = _fact("n")
    results: list[FanOutResult] = _fact("results")
    errors: dict[int, GradientError] = _fact("errors")
    winners: list[int] = _fact("winners")
    winner: int | None = _fact("winner")
    request_ids: list[str | None] = _fact("request_ids")

    def completion(self) -> ChatCompletion:
        """Read to the end; return one completion with the choices that are whole, under their own indices.

        With ``stop_when`` or ``first``, it has the accepted choices if there are enough of them. If the fan-out was
        not entered, this method sends the requests.

        Raises:
            FanOutError: If choices failed, unless errors are collected.
        """
        if not self._stream.started:
            with self:
                return self.completion()
        return self._stream.keep_whole(super().completion())

    def close(self) -> None:
        """Cancel the requests in flight; their connections are closed at once."""
        if self.source.loop.usable:
            self.source.loop.call(self._stream.aclose)

    def __enter__(self) -> Self:
        self.source.loop.call(self._start, undo=lambda _: self.source.inner.close())
        return self

    def _start(self) -> None:
        self._stream.start()
        self.source.loop.open.add(self._stream)


# Many requests

_END = object()


async def _feed(iterator: Iterator[T]) -> AsyncGenerator[T]:
    """Yield the items of an iterator that may block: a thread takes them, one at a time."""
    loop = asyncio.get_running_loop()
    wanted = SimpleQueue[asyncio.Future[Any] | None]()
    run = contextvars.copy_context().run
    threading.Thread(
        target=run, args=(_take, iterator, wanted, loop), name="gradient-async-requests", daemon=True
    ).start()
    try:
        while True:
            future = loop.create_future()
            wanted.put(future)
            item = await future
            if item is _END:
                return
            yield item
    finally:
        wanted.put(None)


def _take(
    iterator: Iterator[Any],
    wanted: SimpleQueue[asyncio.Future[Any] | None],
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Take items from an iterator as they are wanted, in a thread."""
    while (future := wanted.get()) is not None:
        item, error = None, None
        try:
            item = next(iterator, _END)
        except BaseException as raised:  # noqa: BLE001  # raised to the reader
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has been closed at the end of the process
            loop.call_soon_threadsafe(_settle, future, item, error)
        del future, item, error  # a thread that waits for the next request holds nothing


def _settle(future: asyncio.Future[Any], item: Any, error: BaseException | None) -> None:
    if future.done():  # nobody waits any longer
        return
    if error is None:
        future.set_result(item)
    else:
        future.set_exception(error)


async def _in_thread(function: StopWhen, choice: Choice) -> bool:
    """Ask a function that may block."""
    async with contextlib.aclosing(_feed(map(function, (choice,)))) as answers:
        answer = await anext(answers)
        return await answer if isawaitable(answer) else answer


class MapResults(_Closing):
    """Results of many requests: an iterator.

    Leaving the loop over it, or leaving ``with``, cancels the requests in flight. Several threads may share it.

    Args:
        results: The results for asyncio.
        loop: The loop.
    """

    def __init__(self, results: AsyncMapResults, loop: _Loop) -> None:
        self._results = results
        self._loop = loop

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> MapResult:
        results = self._results
        try:
            return cast("MapResult", self._loop.call(results.__anext__, undo=lambda _: results.aclose()))
        except Exception as error:
            self.close()  # also ends the thread that takes requests
            if not isinstance(error, StopAsyncIteration):
                raise
        raise StopIteration

    def drain(self) -> None:
        """Send no more requests. The iteration yields the results of the requests in flight, and ends."""
        self._loop.call(self._results.drain)

    def close(self) -> None:
        """Cancel the requests in flight and wait until they are gone."""
        if self._loop.usable:
            self._loop.call(self._results.aclose)


# The client


def _like(
    function: Callable[Concatenate[Any, P], Any],
) -> Callable[[Callable[Concatenate[S, ...], T]], Callable[Concatenate[S, P], T]]:
    """Give a method the parameters of a method for asyncio, for type checkers and for `help`."""

    def decorate(method: Callable[Concatenate[S, ...], T]) -> Callable[Concatenate[S, P], T]:
        method.__wrapped__ = function  # type: ignore[attr-defined]
        return method

    return decorate


class _SyncCompletions:
    """The methods that completions of models and agents share."""

    def __init__(self, completions: AsyncCompletions | AsyncAgentCompletions) -> None:
        self._completions: Any = completions  # the subclasses know the types of parameters

    def _create(self, params: dict[str, Any], stream: Any) -> Any:
        check_options(
            params
        )  # hides keys in the dictionary, because a traceback may show the locals of this frame
        loop = _loop()
        return loop.call(
            _open, loop, partial(self._completions.create, stream=stream, **params), undo=_close_here
        )

    def _stream(self, params: dict[str, Any]) -> AbstractContextManager[Stream]:
        check_options(params)
        return _opened(self._completions.stream(**params).__aenter__)

    def _fan_out(self, options: dict[str, Any]) -> FanOut:
        stop_when = options.get("stop_when")
        if stop_when is not None and not iscoroutinefunction(stop_when):
            options["stop_when"] = partial(_in_thread, stop_when)
        return FanOut(self._completions.fan_out(**options), _loop())

    @_like(_Completions.map)
    def map(self, requests: Requests, **options: Any) -> MapResults:
        """Make many requests, a limited number at a time; iterate over the results as they finish.

        The arguments are those of ``map`` for asyncio. The iterable may block: a thread of its own takes the requests
        from it, as they are needed, while results are returned. Only a list or a tuple needs no thread.
        """
        check_requests(requests)
        if not isinstance(requests, AsyncIterable) and type(requests) not in {list, tuple}:
            requests = _feed(iter(requests))
        return MapResults(self._completions.map(requests, **options), _loop())


class Completions(_SyncCompletions):
    """Chat completions of models; see `client.completions.Completions` for the arguments."""

    @overload
    def create(
        self, *, stream: Literal[False] | None = ..., **params: Unpack[ChatCompletionCreate]
    ) -> ChatCompletion: ...
    @overload
    def create(self, *, stream: Literal[True], **params: Unpack[ChatCompletionCreate]) -> Stream: ...
    @overload
    def create(self, *, stream: bool, **params: Unpack[ChatCompletionCreate]) -> ChatCompletion | Stream: ...
    def create(self, *, stream: Any = None, **params: Any) -> ChatCompletion | Stream:
        """Request a completion; the arguments, results and errors are those of ``create`` for asyncio."""
        return cast("ChatCompletion | Stream", self._create(params, stream))

    def stream(self, **params: Unpack[ChatCompletionCreate]) -> AbstractContextManager[Stream]:
        """Stream a completion: ``with client.chat.completions.stream(...) as stream``."""
        return self._stream(cast("dict[str, Any]", params))

    def fan_out(self, **options: Unpack[_ChatFanOut]) -> FanOut:
        """Generate n choices for one prompt: ``with client.chat.completions.fan_out(n=8, ...) as fan``."""
        return self._fan_out(cast("dict[str, Any]", options))


class AgentCompletions(_SyncCompletions):
    """Chat completions of an agent; see `client.completions.AgentCompletions` for the arguments."""

    @overload
    def create(
        self, *, stream: Literal[False] | None = ..., **params: Unpack[AgentCompletionCreate]
    ) -> ChatCompletion: ...
    @overload
    def create(self, *, stream: Literal[True], **params: Unpack[AgentCompletionCreate]) -> Stream: ...
    @overload
    def create(self, *, stream: bool, **params: Unpack[AgentCompletionCreate]) -> ChatCompletion | Stream: ...
    def create(self, *, stream: Any = None, **params: Any) -> ChatCompletion | Stream:
        """Request a completion from the agent; the arguments are those of ``create`` for asyncio."""
        return cast("ChatCompletion | Stream", self._create(params, stream))

    def stream(self, **params: Unpack[AgentCompletionCreate]) -> AbstractContextManager[Stream]:
        """Stream the agent's completion."""
        return self._stream(cast("dict[str, Any]", params))

    def fan_out(self, **options: Unpack[_AgentFanOut]) -> FanOut:
        """Generate n choices by the agent."""
        return self._fan_out(cast("dict[str, Any]", options))


C = TypeVar("C", bound=_SyncCompletions)


class Chat(Generic[C]):
    """`client.chat` and `client.agents.chat`."""

    def __init__(self, completions: C) -> None:
        self.completions = completions


class Agents:
    """`client.agents`."""

    def __init__(self, completions: AsyncAgentCompletions) -> None:
        self.chat = Chat(AgentCompletions(completions))


class Models:
    """`client.models`."""

    def __init__(self, models: AsyncModels) -> None:
        self._models = models

    @_like(AsyncModels.list)
    def list(self, **options: Any) -> ModelList:
        """List the models that the key may use; the list can be iterated over."""
        check_options(options)  # hides keys, see `_create`
        return cast("ModelList", _loop().call(partial(self._models.list, **options)))


def _passed_on(name: str) -> Any:
    """Return a property that is that of the client for asyncio."""

    def read(self: Gradient) -> Any:
        return getattr(self._client, name)

    def change(self: Gradient, value: Any) -> None:
        setattr(self._client, name, value)

    return property(read, change)


class Gradient(_Closing):
    """`AsyncGradient` without asyncio: the same options, attributes, methods and errors, and calls that block.

    A client can be used in several threads, in notebooks, inside coroutines (where it blocks the event loop), and after
    a fork. Ctrl-C cancels a call. Hooks run in the client's own thread, and must not make calls with a `Gradient`.

    Raises:
        ConfigurationError: If an option can't be used. If the key is missing, the first call raises.
        TypeError: If ``session`` is given: an aiohttp session belongs to one event loop, and this client runs its own.
    """

    timeout: Timeout = _passed_on("timeout")
    max_retries: int = _passed_on("max_retries")
    retry: Retry = _passed_on("retry")
    limits: Limits = _passed_on("limits")
    strict: bool = _passed_on("strict")
    validate: bool = _passed_on("validate")
    on_bad_event: Literal["raise", "skip"] = _passed_on("on_bad_event")
    default_headers: dict[str, Any] = _passed_on("default_headers")
    default_query: dict[str, object] = _passed_on("default_query")
    hooks: tuple[Hook, ...] = _passed_on("hooks")
    model_access_key: str | None = _passed_on("model_access_key")
    agent_access_key: str | None = _passed_on("agent_access_key")
    base_url: str = _passed_on("base_url")
    inference_endpoint: str = _passed_on("inference_endpoint")
    agent_endpoint: str = _passed_on("agent_endpoint")

    @_like(AsyncGradient.__init__)
    @_conceal
    def __init__(self, **options: Any) -> None:
        if options.get("session") is not None:
            raise TypeError(
                "session: an aiohttp session belongs to one event loop, and Gradient runs its own; leave it out"
            )
        self._use(AsyncGradient(**options))

    def _use(self, client: AsyncGradient) -> None:
        self._client = client
        self.chat = Chat(Completions(client.chat.completions))
        self.agents = Agents(client.agents.chat.completions)
        self.models = Models(client.models)

    @_like(AsyncGradient.with_options)
    @_conceal
    def with_options(self, **options: Any) -> Gradient:
        """Return a copy of the client that has some options changed and shares the connections.

        Closing the copy closes nothing. The arguments are those of ``with_options`` for asyncio.

        Raises:
            ConfigurationError: If an option can't be used.
        """
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))  # a subclass may have attributes of its own
        copy._use(self._client.with_options(**options))
        return copy

    copy = with_options

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in {"chat", "agents", "models"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._use(self._client)

    def close(self) -> None:
        """Close the connections and every open stream; on a copy, do nothing."""
        if not _Process.ended:
            _loop().call(self._client.close)

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._client.is_closed()

    def __repr__(self) -> str:
        # A traceback may show this repr while `__init__` runs and has not set the client.
        client = vars(self).get("_client")
        return f"<Gradient {'unfinished' if client is None else client.base_url}>"
