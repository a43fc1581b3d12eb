"""The stream, the fan-out and their views, for threads.

**Streams.** Only the *source* of chunks (`_Source`), which uses the connection, runs in the loop. Cursor, views and assembly
of `stream/` run in the caller's thread. Their coroutines never wait there, because a read blocks the thread, so `_drive` runs
each coroutine to its end without an event loop. The caller takes all chunks of a read from the cursor, so they cost one call
of the loop together. A lock guards the cursor. A thread releases the lock while it waits for a read, so that several threads
can read several choices, each at its own pace. After a read, the loop at once waits for the next bytes, but takes them only
when a thread asks. If a thread asks before the bytes arrive, it waits for this prepared read and need not wake the loop,
which halves the cost of a chunk that arrives alone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from ..errors import ConfigurationError, GradientError
from ..events import ChatCompletionStreamEvent
from ..fanout import FanOut as AsyncFanOut
from ..fanout import FanOutResult
from ..stream import (
    ChatCompletionStream,
    ChunkSource,
    ChunkStream,
    EnterFirst,
    NoMethod,
    ParsedChatCompletionStream,
    StreamReader,
    SyncOnly,
    Timing,
)
from ..stream import ChoiceStream as AsyncChoiceStream
from ..stream.queues import ChunkQueue, Waiters
from ..stream.stream import C_co, T_co
from ..stream.stream import StreamResponse as AsyncStreamResponse
from ..types import (
    ChatCompletion,
    ChatCompletionChunk,
    CompletionUsage,
    Headers,
    Hint,
    ParsedChatCompletion,
    RateLimits,
)
from .loop import LOOK, Call, LoopThread, loop_thread

if TYPE_CHECKING:
    # `typing.TypeVar` has defaults from Python 3.13 on. Type checkers know `typing_extensions` even where it is not installed.
    from typing_extensions import TypeVar as TypeVarWithDefault

    K_co = TypeVarWithDefault("K_co", bound=ChatCompletion, default=ChatCompletion, covariant=True)
    S_co = TypeVarWithDefault("S_co", bound="Stream", default="Stream", covariant=True)
else:
    K_co = TypeVar("K_co", covariant=True)
    S_co = TypeVar("S_co", covariant=True)

T = TypeVar("T")

# The result of a prepared read whose bytes arrived before a thread asked for them. The thread must then start a new read.
LATE = object()


class Closing(SyncOnly, ABC):
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

    if not TYPE_CHECKING:
        aclose = Hint("write close()")


class _Source:
    """The source of a stream, for a cursor outside of the loop's thread.

    Attributes:
        inner: The source, which belongs to the loop.
        loop: The loop.
        waited_for: Whether a thread waits for the prepared read.
    """

    def __init__(self, inner: ChunkSource, waiters: _Waiters, loop: LoopThread) -> None:
        self.inner = inner
        self._waiters = waiters
        waiters.give_up = partial(loop.call, inner.close)
        self._read = waiters.read
        self.loop = loop
        self._ahead: Call | None = None  # the prepared read
        self.waited_for = False

    @property
    def ended(self) -> bool:
        """Whether the source ended without an error and was read to its end."""
        return self.inner.ended

    async def next_chunks(self) -> Sequence[ChatCompletionChunk] | None:
        """Return the next chunks; None at the end. Other threads may move the cursor during the call."""
        try:
            self._waiters.reader = threading.get_ident()
            self._read.release()  # released inside `try`, so that the lock is acquired again after any interrupt
            ahead, self._ahead = self._ahead, None
            chunks: Any = LATE
            if ahead is not None and self.loop.usable:
                look = partial(self._look, ahead, time.monotonic())
                chunks = self.loop.wait(ahead, self._give_up, self._wait, look)
            if chunks is LATE:
                chunks = self.loop.call(self._next, undo=self._give_up)
            return cast("Sequence[ChatCompletionChunk] | None", chunks)
        finally:
            self._read.acquire()
            self._waiters.reader = None
            self._read.notify_all()  # other threads continue when this thread has stored the chunks and released the lock

    def _wait(self) -> None:
        self.waited_for = True

    def _look(self, ahead: Call, began: float) -> None:
        self.loop.hand(self._count_time, ahead, began)

    # In the loop's thread

    async def _next(self) -> Sequence[ChatCompletionChunk] | None:
        chunks = await self.inner.next_chunks()
        self._look_ahead()
        return chunks

    def _look_ahead(self) -> None:
        """Prepare the next read: wait for its bytes, so that a thread that asks for them need not wake the loop."""
        reader = self.inner
        if not isinstance(reader, StreamReader) or not reader.steady:
            return
        waiter = reader.body.start_read()
        if waiter is not None:
            reader.body.cancel_read()  # the time limits count only while a thread waits, see `_count_time`
            self.waited_for = False
            ahead = self._ahead = Call(self._next, ())
            waiter.add_done_callback(lambda _: self._on_bytes(reader, ahead))

    def _on_bytes(self, reader: StreamReader, ahead: Call) -> None:
        if not self.waited_for:
            self._ahead = None  # the bytes stay in the connection until a thread asks for them
            ahead.answer(LATE)  # answers a thread that has just begun to wait
            return
        chunks = reader.finish_read()
        if chunks or reader.received:
            self._look_ahead()
            ahead.answer(chunks)
        else:
            ahead.start(self.loop)

    def _count_time(self, ahead: Call, began: float) -> None:
        """Count the time since the thread began to wait towards the time limits."""
        if self.waited_for and not ahead.started:
            # The clock of the loop is read only in the loop's thread: uvloop's clock stands still while the loop waits.
            waited = time.monotonic() - began
            cast("StreamReader", self.inner).body.wait_since(self.loop.loop.time() - waited)

    def _give_up(self, _result: object) -> None:
        self.waited_for = False
        self.inner.close()

    # In the caller's thread

    def fail(self, error: Exception) -> Exception:
        """End the source with an error."""
        return cast("Exception", self._run(self.inner.fail, error))

    def completion(self) -> ChatCompletion:
        """Return the completion as far as it has been assembled."""
        return self.inner.completion()

    def close(self) -> None:
        """Close the source; do nothing at the end of the process, or if the source belongs to its parent."""
        if self.loop.usable or self.loop.runs_here:
            self._run(self.inner.close)

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments) if self.loop.runs_here else self.loop.call(function, *arguments)


class _Waiters(Waiters):
    """The threads that wait while another thread reads; `_Source` wakes them after each read.

    Attributes:
        read: The condition that is notified after each read; its lock guards the cursor.
        reader: Identifies the thread that reads; None while no thread does.
        give_up: Closes the source.
    """

    give_up: Callable[[], object]

    def __init__(self, read: threading.Condition) -> None:
        super().__init__()
        self.read = read
        self.reader: int | None = None

    async def wait(self, queue: ChunkQueue | None) -> None:  # noqa: ARG002  # a read may have chunks for any thread
        """Wait until another thread has made a read. An interrupt closes the stream, like an interrupt of a read.

        Raises:
            ConfigurationError: If a signal handler calls this while it interrupts a read of the same thread.
        """
        if self.reader == threading.get_ident():
            raise ConfigurationError(
                "this thread is reading the stream already, and a signal handler that reads it too would wait for itself: "
                "let the handler set a flag, or close the stream"
            )
        try:
            self.read.wait(LOOK)
        except BaseException:
            with contextlib.suppress(ConfigurationError):  # the end of the process closes the stream as well
                self.give_up()
            raise


def _drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, without an event loop; the coroutine must never wait."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)


class View(NoMethod, Generic[T]):
    """An iterator over one view of a stream, such as its chunks, its text, its events, or one of its choices.

    Args:
        lock: Guards the cursor of the stream.
        next_item: Returns a coroutine for the next item of the view.
    """

    _loop = "for"

    def __init__(self, lock: threading.RLock, next_item: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._lock = lock
        self._next_item = next_item

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._lock:
            try:
                return _drive(self._next_item())
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


class _Stream(View[ChatCompletionChunk], Closing, Generic[A, K_co]):
    """Base of `Stream` and `FanOut`.

    Args:
        stream: The asynchronous stream, of which nothing has been read.
        loop: The loop.
    """

    def __init__(self, stream: A, loop: LoopThread) -> None:
        # Reentrant, because a signal handler may close the stream that its thread reads.
        lock = threading.RLock()
        waiters = _Waiters(threading.Condition(lock))
        super().__init__(lock, stream.__anext__)
        self._stream = stream
        self.source = stream.read_from_thread(lambda inner: _Source(inner, waiters, loop), waiters)
        stream.advice = "use 'with', or call close()"

    id: str = _fact("id")
    usage: CompletionUsage | None = _fact("usage")
    completed: bool = _fact("completed")
    request_id: str | None = _fact("request_id")
    rate_limits: RateLimits | None = _fact("rate_limits")
    attempts: int = _fact("attempts")
    anomalies: int = _fact("anomalies")
    timing: Timing = _fact("timing")

    @property
    def snapshot(self) -> K_co:
        """The completion as far as it has been read; a new object each time."""
        with self._lock:
            return cast("K_co", self._stream.snapshot)

    @property
    def current_completion_snapshot(self) -> K_co:
        """The same as `snapshot`."""
        return self.snapshot

    @property
    def text(self) -> View[str]:
        """The text of choice 0, piece by piece; shares the cursor."""
        return View(self._lock, self._stream.text.__anext__)

    def events(self) -> View[ChatCompletionStreamEvent[Any]]:
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

    def completion(self) -> K_co:
        """Read to the end; return the whole completion.

        Raises:
            StreamError: If the stream is not whole; ``.partial`` has everything received.
            OutputError: If the answer is not a value of the type in the request.
        """
        with self._lock:
            return cast("K_co", _drive(ChunkStream.completion(self._stream)))

    def get_final_completion(self) -> K_co:
        """The same as `completion`."""
        return self.completion()

    def until_done(self) -> Self:
        """Read to the end; return the stream itself.

        Raises:
            StreamError: If the stream is not whole.
            OutputError: If the answer is not a value of the type in the request.
        """
        self.completion()
        return self

    def close(self) -> None:
        """Close the stream; if it was not read to its end, the connection is closed at once."""
        with self._lock:
            self._stream.leave()

    def __repr__(self) -> str:
        return repr(self._stream)


class Stream(_Stream[ChatCompletionStream, ChatCompletion], Generic[C_co]):
    """A completion as it is generated: an iterator of chunks, as `ChatCompletionStream` is for asyncio."""

    status_code: int = _fact("status_code")
    headers: Headers = _fact("headers")
    is_closed: bool = _fact("is_closed")
    saw_done: bool = _fact("saw_done")
    was_buffered: bool = _fact("was_buffered")

    @property
    def response(self) -> StreamResponse:
        """Status, headers and request; ``stream.response.close()`` closes the stream."""
        info = self._stream.response
        return StreamResponse(
            status_code=info.status_code,
            headers=info.headers,
            request=info.request,
            _stream=self._stream,
            _closing=self,
        )

    @property
    def raw(self) -> View[bytes]:
        """The bytes as received, including ``[DONE]``, to relay; everything is assembled as well.

        Raises:
            TypeError: If the stream has been read in another way before.
        """
        with self._lock:
            return View(self._lock, self._stream.raw.__anext__)


class ParsedStream(Stream, Generic[T_co]):
    """A `Stream` of typed answers, as `ParsedChatCompletionStream` is for asyncio."""

    if TYPE_CHECKING:

        @property
        def snapshot(self) -> ParsedChatCompletion[T_co]:
            """The completion as far as it has been read."""
            ...

        @property
        def current_completion_snapshot(self) -> ParsedChatCompletion[T_co]:
            """The same as `snapshot`."""
            ...

        def events(self) -> View[ChatCompletionStreamEvent[T_co]]:
            """The stream as typed events; shares the cursor."""
            ...

        def completion(self) -> ParsedChatCompletion[T_co]:
            """Read to the end; return the whole completion."""
            ...

        def get_final_completion(self) -> ParsedChatCompletion[T_co]:
            """The same as `completion`."""
            ...


class StreamResponse(AsyncStreamResponse, frozen=True, kw_only=True):
    """The reply of a stream, whose content the stream reads."""

    _closing: Closing

    if not TYPE_CHECKING:
        aclose = Hint("write close()")

    def close(self) -> None:
        """Close the stream."""
        self._closing.close()


class StreamManager(SyncOnly, EnterFirst, Generic[S_co]):
    """A context manager that sends the request when it is entered, and closes the stream when it is left.

    Args:
        start: Sends the request, in the loop.
    """

    _opens = Stream
    _keyword = "with"
    _stream: S_co

    def __init__(self, start: Callable[[], Awaitable[ChatCompletionStream]]) -> None:
        self._start = start

    def __enter__(self) -> S_co:
        loop = loop_thread()
        self._stream = loop.call(request, loop, self._start, undo=close_here)
        return self._stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


async def request(
    loop: LoopThread, send: Callable[[], Awaitable[ChatCompletion | ChatCompletionStream]]
) -> ChatCompletion | Stream:
    """Send a request, in the loop."""
    reply = await send()
    if not isinstance(reply, ChatCompletionStream):
        return reply
    typed = isinstance(cast("object", reply), ParsedChatCompletionStream)
    stream = ParsedStream[Any](reply, loop) if typed else Stream(reply, loop)
    loop.open.add(reply)
    return stream


def close_here(reply: Any) -> None:
    """Close the stream of a call that was interrupted, in the loop."""
    if isinstance(reply, Stream):
        reply.source.inner.close()


class FanOut(_Stream[AsyncFanOut[Any], K_co], Generic[K_co]):
    """n choices of one prompt as one stream, as `gradient_async.FanOut` is for asyncio; used by ``with``."""

    n: int = _fact("n")
    results: list[FanOutResult[K_co]] = _fact("results")
    errors: dict[int, GradientError] = _fact("errors")
    winners: list[int] = _fact("winners")
    winner: int | None = _fact("winner")
    request_ids: list[str | None] = _fact("request_ids")

    def completion(self) -> K_co:
        """Read to the end; return one completion with the choices that are whole, under their own indices.

        With ``stop_when`` or ``first``, it has the accepted choices if there are enough of them. If the fan-out was
        not entered, this method sends the requests.

        Raises:
            FanOutError: If choices failed, unless errors are collected.
        """
        if not self._stream.started:
            with self:
                return self.completion()
        return super().completion()

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
