"""`map` without asyncio, and the threads for code of the caller that may block.

The iterable of `map` and ``stop_when`` may block, or call this client. They run in threads of their own: in the loop's
thread, code that blocks would stop all calls, also the call that the code itself makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from inspect import isawaitable, iscoroutinefunction
from queue import SimpleQueue
from typing import Any, Generic, Self, TypeVar, cast

from ..fanout import MapResult
from ..fanout import MapResults as AsyncMapResults
from .loop import CarriedError, LoopThread
from .streams import Closing, K_co

T = TypeVar("T")


_END = object()


async def feed(iterator: Iterator[T]) -> AsyncGenerator[T]:
    """Yield the items of an iterator that may block. A thread of its own takes the items, one at a time."""
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
    """Take the next item of an iterator for each future in a queue; runs in the thread of `feed`."""
    while (future := wanted.get()) is not None:
        item, error = None, None
        try:
            item = next(iterator, _END)
        except BaseException as raised:  # noqa: BLE001  # raised to the reader
            error = raised if isinstance(raised, Exception) else CarriedError(raised)
        with contextlib.suppress(RuntimeError):  # at the end of the process, the loop is closed
            loop.call_soon_threadsafe(_settle, future, item, error)
        del future, item, error  # otherwise the thread would keep these objects alive while it waits


def _settle(future: asyncio.Future[Any], item: Any, error: BaseException | None) -> None:
    if future.done():  # the reader was cancelled
        return
    if error is None:
        future.set_result(item)
    else:
        future.set_exception(error)


async def ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the caller, in a thread if it is not a coroutine function; return its result."""
    if iscoroutinefunction(function):
        return await _carried(function(*arguments))
    # A generator is used in place of `map`, because it turns a StopIteration of the function into a RuntimeError. With `map`, the
    # StopIteration would look like the end of the items.
    answer_later = (function(*each) for each in (arguments,))
    async with contextlib.aclosing(feed(answer_later)) as answers:
        answer = await anext(answers)
    return await _carried(answer) if isawaitable(answer) else answer


async def _carried(answer: Awaitable[T]) -> T:
    """Await a result of the caller's code, whose errors must not cancel this task or end the event loop."""
    try:
        return await answer
    except (KeyboardInterrupt, SystemExit, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # this task was cancelled, not the caller's code
        raised = error
    except StopAsyncIteration as error:  # this exception would look like the end of the stream
        raise RuntimeError("a function of the caller raised StopAsyncIteration") from error
    raise CarriedError(raised)


class MapResults(Closing, Generic[K_co]):
    """Results of many requests: an iterator.

    Leaving the loop over the results, or leaving ``with``, cancels the requests in flight. Several threads may share the
    iterator.

    Args:
        results: The results for asyncio.
        loop: The loop.
    """

    def __init__(self, results: AsyncMapResults[K_co], loop: LoopThread) -> None:
        self._results = results
        self._loop = loop

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> MapResult[K_co]:
        results = self._results
        try:
            return cast(
                "MapResult[K_co]", self._loop.call(results.__anext__, undo=lambda _: results.aclose())
            )
        except Exception as error:
            self.close()  # also ends the thread that takes requests
            if not isinstance(error, StopAsyncIteration):
                raise
        raise StopIteration

    def drain(self) -> None:
        """Send no more requests. The iterator returns the results of the requests in flight, and ends."""
        self._loop.call(self._results.drain)

    def close(self) -> None:
        """Cancel the requests in flight, and wait until they have ended."""
        if self._loop.usable:
            self._loop.call(self._results.aclose)
