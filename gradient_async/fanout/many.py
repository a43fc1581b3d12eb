"""Many requests, so many at a time, pulled as they are needed: the workers, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sized,
)
from typing import Any, TypeAlias, cast

import msgspec

from ..errors import FanOutError, GradientError, InvalidRequestError
from ..session.call import Lease
from ..types import ChatCompletion
from .rate_limiter import RateLimiter, RequestLease

__all__ = ["MapResult", "Perform", "Requests", "Run"]

Request: TypeAlias = Mapping[str, Any] | tuple[Any, Mapping[str, Any]]
Requests: TypeAlias = Iterable[Request] | AsyncIterable[Request]
_END = object()
# Workers to begin with, where nobody knows how many requests there are; each that has found work takes on more.
_FIRST = 64
_MORE = 8

Perform: TypeAlias = Callable[[dict[str, Any], Lease], Awaitable[ChatCompletion]]


class MapResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one of many requests came to.

    Attributes:
        index: Which request it was, counted from 0 as they were pulled.
        key: The key that the caller gave it, or None.
        request: Its parameters, as given.
        completion: The completion, or None if it failed.
        error: Why it failed, or None.
    """

    index: int
    request: Mapping[str, Any]
    key: Any = None
    completion: ChatCompletion | None = None
    error: GradientError | None = None

    def unwrap(self) -> ChatCompletion:
        """Return the completion.

        Raises:
            GradientError: The error, if it failed.
        """
        if self.completion is None:
            raise self.error or GradientError("neither completion nor error")
        return self.completion


class Run:
    """The workers, and what they have brought.

    Args:
        requests: Parameters of each request, or pairs of a key and parameters.
        perform: Makes a request.
        rate_limiter: Makes the pacer, in the loop that runs.
        most: How many to have under way at most.
        window: How many may be under way or finished and not yet taken.
        ordered: Give results in the order of the requests.
        raising: Whether the first error ends it.
        defaults: Parameters of every request that does not give its own.
    """

    def __init__(
        self,
        requests: Requests,
        perform: Perform,
        *,
        rate_limiter: Callable[[], RateLimiter],
        most: int,
        window: int,
        ordered: bool,
        raising: bool,
        defaults: Mapping[str, Any],
    ) -> None:
        self._later: AsyncIterator[Request] | None = None
        self._now: Iterator[Request] | None = None
        if isinstance(requests, AsyncIterable):
            self._later = aiter(requests)
        else:
            self._now = iter(requests)
        self._first = len(requests) if isinstance(requests, Sized) else _FIRST
        self._perform = perform
        self._make_rate_limiter = rate_limiter
        self._most = most
        self._window = window
        self._ordered = ordered
        self._raising = raising
        self._defaults = defaults
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers: set[asyncio.Task[None]] = set()
        self._turns: dict[asyncio.Task[Any] | None, RequestLease] = {}  # of the workers that have one
        self._pulling = asyncio.Lock()
        self._pulled = 0
        self._taken = 0
        self._exhausted = False
        self._ready: deque[MapResult] = deque()
        self._early: dict[int, MapResult] = {}  # finished before one that comes first
        self._turn = 0
        self._errors: dict[int, GradientError] = {}
        self._failure: BaseException | None = None  # of the caller's iterable, or ours
        self._consumers: deque[asyncio.Future[None]] = deque()
        self._stalled: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._stopping = False  # whether workers are cancelled

    # The consumer's side

    async def next(self) -> MapResult:
        """Return the next result.

        Raises:
            FanOutError: If a request failed and that is to end it all.
            StopAsyncIteration: At the end.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._start(loop)
        while not self._ready:
            if not self._workers:
                self._end()
            await self._wait(self._consumers)
        self._taken += 1
        if self._stalled:
            _wake_one(self._stalled)
        return self._ready.popleft()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            raise GradientError("these results belong to another event loop: read them where you began")
        self._loop = loop
        self._rate_limiter = self._make_rate_limiter()
        self._hire(self._first)

    def _end(self) -> None:
        """Tell how it ended."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        errors, self._errors = self._errors, {}
        if errors and self._raising:
            first = next(iter(errors.values()))
            count = "a request" if len(errors) == 1 else f"{len(errors)} requests"
            raise FanOutError(
                f"{count} failed, and the others were given up: {first}",
                list(errors.values()),
                errors=errors,
            ) from first
        raise StopAsyncIteration

    async def _wait(self, waiters: deque[asyncio.Future[None]]) -> None:
        waiter = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        await waiter

    # The workers' side

    def _hire(self, most: int) -> None:
        """Take on more workers, if there may be work for them."""
        if self._exhausted:
            return
        for _ in range(min(most, self._most - len(self._workers))):
            worker = asyncio.ensure_future(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._gone)

    def _gone(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled():
            error = worker.exception()
        elif self._stopping:
            error = None
        else:
            error = GradientError("a request was cancelled, and not by the reader of these results")
        if error is not None:
            self._fail(error)
        if not self._workers:
            self._release_early(everything=True)
            _wake(self._consumers)

    def _fail(self, error: BaseException) -> None:
        self._exhausted = True
        if self._failure is None:
            self._failure = error
        _wake(self._stalled)

    async def _work(self) -> None:
        while (item := await self._pull()) is not _END:
            index = self._pulled
            self._pulled += 1
            if len(self._workers) < self._most:
                self._hire(_MORE)
            await self._do(index, item)

    async def _pull(self) -> Any:
        """Take the next request off the caller's iterable, whose errors end the run."""
        try:
            if self._now is not None:
                # Asked here as well: usually there is room, and nothing has to be awaited.
                if (not self._exhausted and self._pulled - self._taken < self._window) or await self._room():
                    return next(self._now)
            else:
                async with self._pulling:  # room is asked for inside: others pull while this one waits
                    if await self._room():
                        return await anext(cast("AsyncIterator[Request]", self._later))
        except (StopIteration, StopAsyncIteration):
            self._exhausted = True
        except Exception as error:  # noqa: BLE001  # the caller's own, raised to him once all is delivered
            self._fail(error)
        _wake(self._stalled)
        return _END

    async def _room(self) -> bool:
        """Wait until the window has room for one more; return whether one is wanted."""
        while not self._exhausted and self._pulled - self._taken >= self._window:
            await self._wait(self._stalled)
        return not self._exhausted

    async def _do(self, index: int, item: Any) -> None:
        key: Any = None
        request: Any = item
        if type(item) is tuple and len(pair := cast("tuple[Any, ...]", item)) == 2:  # noqa: PLR2004  # a pair
            key, request = pair
        completion: ChatCompletion | None = None
        failure: GradientError | None = None
        if not _is_mapping(request):
            failure = InvalidRequestError(
                f"request {index} is a {type(request).__name__}: "
                "expected its parameters as a dict, or a pair of a key and such a dict"
            )
        else:
            params = {**self._defaults, **request}
            turn = await self._rate_limiter.acquire(params)
            me = asyncio.current_task()
            self._turns[me] = turn
            error: BaseException | None = asyncio.CancelledError()  # unless it comes to more
            try:
                completion = await self._perform(params, turn)
                error = None
            except GradientError as problem:
                error = failure = problem
            except TypeError as problem:
                # A name that no request has, such as from a file: what failed is this one and not all.
                error = failure = InvalidRequestError(f"request {index}: {problem}")
            finally:
                del self._turns[me]
                usage = None if completion is None else completion.usage
                turn.release(error=error, usage=usage)
            if failure is not None:
                failure.with_traceback(None)  # its frames hold what came
        self._put(
            MapResult(
                index=index,
                key=key,
                request=request,
                completion=completion,
                error=failure,
            )
        )

    def _put(self, result: MapResult) -> None:
        if result.error is not None and self._raising:
            self._errors[result.index] = result.error
            self._exhausted = True
            self._cancel(but=asyncio.current_task())
            return
        if self._ordered:
            self._early[result.index] = result
            self._release_early()
        else:
            self._ready.append(result)
        if self._ready:
            _wake(self._consumers)

    def _release_early(self, *, everything: bool = False) -> None:
        """Give out what is next in order; at the end, what came after those that never will."""
        while self._turn in self._early:
            self._ready.append(self._early.pop(self._turn))
            self._turn += 1
        if everything:
            self._ready.extend(self._early.pop(index) for index in sorted(self._early))

    # The end

    def _cancel(self, *, but: asyncio.Task[Any] | None = None) -> None:
        self._stopping = True
        for worker in self._workers:
            if worker is not but:
                worker.cancel()

    def drain(self) -> None:
        """Give up what was not sent, or waits to be sent again."""
        self._exhausted = self._stopping = True
        if self._loop is None:
            return
        self._rate_limiter.draining = True
        for worker in self._workers:
            turn = self._turns.get(worker)
            if turn is None or turn.awaiting_retry:
                worker.cancel()

    def stop(self) -> None:
        """Give everything up."""
        self._closed = self._exhausted = True
        self._ready.clear()
        self._cancel()

    async def close(self) -> None:
        """Give everything up, and wait until the workers are gone."""
        self.stop()
        if self._workers:
            await asyncio.wait(self._workers)
        later, self._now, self._later = self._later, None, None
        if isinstance(later, AsyncGenerator):
            # What it holds, such as a cursor of a database, is let go now and not when memory is collected.
            await cast("AsyncGenerator[Request]", later).aclose()

    def abandon(self) -> None:
        """Give everything up from a finaliser, in whatever thread that runs."""
        if self._loop is None or self._loop.is_closed() or not self._workers:
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self.stop()
        else:
            self._loop.call_soon_threadsafe(self.stop)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, (dict, Mapping))  # a dict is told at once


def _wake(waiters: deque[asyncio.Future[None]]) -> None:
    """Let all go who wait."""
    while waiters:
        _wake_one(waiters)


def _wake_one(waiters: deque[asyncio.Future[None]]) -> None:
    """Let one go who waits."""
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return
