"""Many requests, a limited number at a time: `MapResults`, which users iterate over, and the workers that send them."""

from __future__ import annotations

import asyncio
import os
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
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeAlias, cast

import msgspec

from ..errors import FanOutError, GradientError, InvalidRequestError, JournalError, copy_of
from ..output import Answer, judge, take_answer
from ..session.loops import call_in, runs_here
from ..session.pace import Turns
from ..stream import AsyncForOnly, AsyncOnly
from ..tools import tool_params
from ..types import ChatCompletion, ParsedChatCompletion, given
from .journal import Journal, JournalRun
from .result_file import Row
from .tasks import later

if TYPE_CHECKING:
    # `typing.TypeVar` has defaults from Python 3.13 on. Type checkers know `typing_extensions` even where it is not installed.
    from typing_extensions import TypeVar

    C_co = TypeVar("C_co", bound=ChatCompletion, default=ChatCompletion, covariant=True)
else:
    from typing import TypeVar

    C_co = TypeVar("C_co", covariant=True)

T = TypeVar("T")
Request: TypeAlias = Mapping[str, Any] | tuple[Any, Mapping[str, Any]]
Requests: TypeAlias = Iterable[Request] | AsyncIterable[Request]
Perform: TypeAlias = Callable[[dict[str, Any], Answer[Any] | None], Awaitable[ChatCompletion]]

_END = object()
# The number of workers at first, if the number of requests is unknown. Each worker that pulls a request starts some more,
# so that a short iterable does not get a thousand tasks, and a long one soon has all the workers it may have.
_FIRST_WORKERS = 64
_MORE_WORKERS = 8


class _Result(msgspec.Struct, Generic[C_co], frozen=True, kw_only=True):
    """Base of both kinds of results."""

    index: int
    request: Mapping[str, Any]
    key: Any = None
    resumed: bool = False


class MapSuccess(_Result[C_co], Generic[C_co], frozen=True, kw_only=True):
    """The result of one of many requests: a completion.

    Attributes:
        index: The request's number, counted from 0 in the order of pulling.
        key: The key that the caller gave to the request, or None.
        request: The request's parameters, as given.
        completion: The completion; a `ParsedChatCompletion` if the request names a type.
        error: None.
        resumed: Whether the result was in the journal: this run did not send the request.
    """

    completion: C_co
    error: None = None

    @property
    def parsed(self: MapSuccess[ParsedChatCompletion[T]]) -> T | None:
        """The value of a typed answer: ``completion.parsed``."""
        return self.completion.parsed

    def unwrap(self) -> C_co:
        """Return the completion."""
        return self.completion


class MapFailure(_Result[Any], frozen=True, kw_only=True):
    """The result of one of many requests: an error. All other attributes are those of `MapSuccess`.

    Attributes:
        completion: None.
        error: The error.
    """

    error: GradientError
    completion: None = None

    @property
    def parsed(self) -> None:
        """None."""

    def unwrap(self) -> NoReturn:
        """Raise a copy of the error.

        Raises:
            GradientError: The error.
        """
        raise copy_of(self.error)


# For type checkers `MapResult` is a union and not a base class, because they narrow only a union: after `result.error is None`
# they know that `completion` is a completion. At run time it is the base class, which works with `isinstance`.
if TYPE_CHECKING:
    MapResult: TypeAlias = MapSuccess[C_co] | MapFailure
else:
    MapResult = _Result
"""The result of one of many requests: `MapSuccess` if ``error is None``, else `MapFailure`."""


class MapWorkers:
    """Tasks that pull requests, send them and queue the results.

    Args:
        requests: Parameters of each request, or pairs of a key and parameters.
        perform: Sends a request with the turns, and reads its answer in the form that is given.
        turns: The turns of all requests.
        max_concurrency: Maximum number of workers.
        window: Maximum number of requests that have been pulled and whose results have not been taken.
        ordered: Whether results are in the order of the requests.
        raise_errors: Whether the first error ends everything.
        defaults: Parameters for requests that do not give them.
        journal: Has the results of earlier runs, and gets those of this run; or the path of its file; or None.
    """

    def __init__(
        self,
        requests: Requests,
        perform: Perform,
        *,
        turns: Turns,
        max_concurrency: int,
        window: int,
        ordered: bool,
        raise_errors: bool,
        defaults: Mapping[str, Any],
        journal: Journal | str | os.PathLike[str] | None = None,
    ) -> None:
        self._async_requests: AsyncIterator[Request] | None = None
        self._requests: Iterator[Request] | None = None
        if isinstance(requests, AsyncIterable):
            self._async_requests = aiter(requests)
        else:
            self._requests = iter(requests)
        self._first_workers = len(requests) if isinstance(requests, Sized) else _FIRST_WORKERS
        self._perform = perform
        self._turns = turns
        self._max_concurrency = max_concurrency
        self._window = window
        self._ordered = ordered
        self._raise_errors = raise_errors
        self._defaults = defaults
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers: set[asyncio.Task[None]] = set()
        # Workers whose requests wait for turns, or are sent.
        self._sending: set[asyncio.Task[Any] | None] = set()
        self._pulling = asyncio.Lock()  # an async iterator must not be asked twice at once
        self._pulled = 0
        self._taken = 0
        self._exhausted = False  # whether pulling requests has ended
        self._ready: deque[MapResult[Any]] = deque()
        # If results are ordered: the results that wait for the result of an earlier request, and the index that is due next.
        self._early: dict[int, MapResult[Any]] = {}
        self._next_index = 0
        self._errors: dict[int, GradientError] = {}  # errors of requests, if they are to be raised
        self._failures: list[BaseException] = []  # at most one error, of the caller's iterable or of a worker
        self._readers: deque[asyncio.Future[None]] = deque()  # readers that wait for a result
        self._stalled: deque[asyncio.Future[None]] = deque()  # workers that wait for room in the window
        self._stopping = False  # whether workers are being cancelled on purpose
        self._complete = False  # whether the caller's iterable came to its end
        self._run: JournalRun | None = None
        # This statement must be the last: if a later one failed, nothing would close the journal.
        if journal is not None:
            opened = journal if isinstance(journal, Journal) else Journal(journal)
            self._run = opened.begin(owned=opened is not journal)

    # The reader's side

    async def next(self) -> MapResult[Any]:
        """Return the next result.

        Raises:
            FanOutError: If a request failed and errors are to be raised.
            StopAsyncIteration: At the end.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._start(loop)
        while not self._ready:
            if not self._workers:
                self._raise_end()
            await _wait(self._readers)
        self._taken += 1
        if self._stalled:
            _wake_one(self._stalled)
        return self._ready.popleft()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            raise GradientError(
                "these results belong to another event loop: read them in the loop where you began"
            )
        self._loop = loop
        self._start_workers(self._first_workers)

    def _raise_end(self) -> None:
        """Raise the error that ended the results, if there is one. Later calls raise StopAsyncIteration."""
        if self._failures:
            raise self._failures.pop()  # `pop` leaves no reference to the error here: see `copy_of`
        errors, self._errors = self._errors, {}
        if errors:
            first = next(iter(errors.values()))
            count = "a request" if len(errors) == 1 else f"{len(errors)} requests"
            raise FanOutError(
                f"{count} failed, and the others were given up: {first}",
                list(errors.values()),
                errors=errors,
            ) from first
        raise StopAsyncIteration

    # The workers' side

    def _start_workers(self, max_: int) -> None:
        """Start more workers, if there may be requests for them."""
        if self._exhausted:
            return
        for _ in range(min(max_, self._max_concurrency - len(self._workers))):
            worker = asyncio.ensure_future(later(self._work))
            self._workers.add(worker)
            worker.add_done_callback(self._worker_done)

    def _worker_done(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled():
            error = worker.exception()
        elif self._stopping:
            error = None
        else:
            # The worker's request has no result. Without an error, the missing result would not be noticed.
            error = GradientError("a request was cancelled, and not by the reader of these results")
        if error is not None:
            self._fail(error)
        if not self._workers:
            self._end_run()
            # Results that waited for the missing result of an earlier request are released.
            self._ready.extend(self._early.pop(index) for index in sorted(self._early))
            _wake_all(self._readers)

    def _fail(self, error: BaseException) -> None:
        self._exhausted = True
        if not self._failures:
            self._failures.append(error)
        _wake_all(self._stalled)

    async def _work(self) -> None:
        while (item := await self._pull()) is not _END:
            index = self._pulled
            self._pulled += 1
            if len(self._workers) < self._max_concurrency:
                self._start_workers(_MORE_WORKERS)
            await self._send(index, item)

    async def _pull(self) -> Any:
        """Return the caller's next request, or `_END`. An error of the caller's iterable ends the pulling."""
        try:
            if self._requests is not None:
                # This repeats the check of `_has_room`, because there usually is room, and then nothing is awaited.
                if (not self._exhausted and self._pulled - self._taken < self._window) or (
                    await self._has_room()
                ):
                    return next(self._requests)
            else:
                # The check for room is inside the lock, because other workers may pull a request while this worker waits for
                # the lock.
                async with self._pulling:
                    if await self._has_room():
                        return await anext(cast("AsyncIterator[Request]", self._async_requests))
        except (StopIteration, StopAsyncIteration):
            self._exhausted = self._complete = True
        except Exception as error:  # noqa: BLE001  # the caller's own error, raised to the reader after all results
            self._fail(error)
        _wake_all(self._stalled)
        return _END

    async def _has_room(self) -> bool:
        """Wait for room in the window; return False if no further request is to be pulled."""
        while not self._exhausted and self._pulled - self._taken >= self._window:
            await _wait(self._stalled)
        return not self._exhausted

    async def _send(self, index: int, item: Any) -> None:
        """Send a request and queue its result."""
        key: Any = None
        request: Any = item
        if type(item) is tuple and len(pair := cast("tuple[Any, ...]", item)) == 2:  # noqa: PLR2004  # a pair
            key, request = pair
        run = self._run  # a finaliser in another thread may end the run at any moment
        row: Row | None = None
        answer: ChatCompletion | GradientError | None = None
        try:
            if run is not None:
                row = Row.of(index, key)
            params = self._params_of(index, request)
            form = take_answer(params) if "response_format" in params else None
            if run is not None and row is not None:
                row, params = row.asking(_described(index, params))
                answer = run.take(row)
            resumed = answer is not None
            if answer is None:
                answer = await self._get_completion(index, params, form)
            elif form is not None and isinstance(answer, ChatCompletion):
                # The file has only the text, so the value is decoded again, by the type of this run.
                parsed, fault = judge(answer, form)
                answer = parsed if fault is None else fault
        except JournalError as error:
            self._fail(error.with_traceback(None))
            self.drain()
            return
        except GradientError as error:
            resumed = False
            # The frames of the traceback would hold the reply as long as the result is kept.
            answer = error.with_traceback(None)
        if resumed:
            await asyncio.sleep(0)  # lets other tasks run between results, because nothing else was awaited
        elif run is not None and row is not None:
            self._write(run, row, answer)
        self._put(index, key, request, answer, resumed=resumed)

    def _write(self, run: JournalRun, row: Row, answer: ChatCompletion | GradientError) -> None:
        """Write a result to the journal. If that fails, no further request is sent, because its result would be lost."""
        try:
            if isinstance(answer, GradientError):
                run.journal.write(row, error=answer)
            else:
                run.journal.write(row, completion=answer)
        except JournalError as error:
            self._fail(error.with_traceback(None))
            self.drain()  # the results of requests in flight are paid for, so the reader still gets them

    def _params_of(self, index: int, request: Any) -> dict[str, Any]:
        if not isinstance(request, (dict, Mapping)):  # first `dict`, because the test of Mapping is slow
            raise InvalidRequestError(
                f"request {index} is a {type(request).__name__}: "
                "expected its parameters as a dict, or a pair of a key and such a dict"
            )
        return {**self._defaults, **given(cast("Mapping[str, Any]", request))}

    async def _get_completion(
        self, index: int, params: dict[str, Any], form: Answer[Any] | None
    ) -> ChatCompletion:
        # The task is not put into a local variable: a cancelled task holds its exception, whose traceback holds this frame.
        self._sending.add(asyncio.current_task())
        try:
            return await self._perform(params, form)
        except TypeError as error:
            # An unknown parameter, such as a misspelt one in a file, is an error of this request alone.
            invalid = InvalidRequestError(f"request {index}: {error}")
        finally:
            self._sending.discard(asyncio.current_task())
        # The error is raised outside the handler. Otherwise the TypeError, which holds its frames, would be its context.
        raise copy_of(invalid)

    def _put(
        self, index: int, key: Any, request: Any, answer: ChatCompletion | GradientError, *, resumed: bool
    ) -> None:
        result: MapResult[Any]
        if isinstance(answer, GradientError):
            if self._raise_errors:
                self._errors[index] = answer
                self._exhausted = True
                self._cancel(but=asyncio.current_task())
                return
            result = MapFailure(index=index, key=key, request=request, error=answer, resumed=resumed)
        else:
            result = MapSuccess(index=index, key=key, request=request, completion=answer, resumed=resumed)
        if self._ordered:
            self._early[result.index] = result
            while self._next_index in self._early:
                self._ready.append(self._early.pop(self._next_index))
                self._next_index += 1
        else:
            self._ready.append(result)
        if self._ready:
            _wake_all(self._readers)

    # Ending

    def _cancel(self, *, but: asyncio.Task[Any] | None = None) -> None:
        self._stopping = True
        for worker in self._workers:
            if worker is not but:
                worker.cancel()

    def drain(self) -> None:
        """Send no more requests: cancel the workers whose requests wait for an attempt."""
        self._exhausted = self._stopping = True
        if self._loop is None:
            return
        self._turns.drain()
        for worker in self._workers - self._sending:
            worker.cancel()

    def stop(self) -> None:
        """Cancel all workers, and drop the queued results."""
        self._exhausted = True
        self._ready.clear()
        self._cancel()
        # The run is ended before the workers have ended, because the caller may begin the next run with the same file
        # at once. A cancelled worker writes nothing.
        self._end_run()

    def _end_run(self) -> None:
        """Close the journal, if it belongs to this run; its error ends the results."""
        run, self._run = self._run, None
        if run is None:
            return
        complete = self._complete and not (self._stopping or self._failures or self._errors)
        try:
            run.end(complete=complete)
        except JournalError as error:
            self._fail(error.with_traceback(None))

    async def close(self) -> None:
        """Cancel all workers, and wait until they have ended."""
        self.stop()
        if self._workers:
            await asyncio.wait(self._workers)
        iterator, self._requests, self._async_requests = self._async_requests, None, None
        if isinstance(iterator, AsyncGenerator):
            # The generator's resources, such as a database cursor, are released now and not at a garbage collection.
            # Any other iterator stays open: the caller may continue to read it.
            await cast("AsyncGenerator[Request]", iterator).aclose()

    def abandon(self) -> None:
        """Cancel all workers from a finaliser, which may run in any thread."""
        self._failures.clear()  # the frames of an error refer to this object
        self._end_run()
        if self._loop is None or not self._workers:
            return
        if runs_here(self._loop):
            self.stop()
        else:
            call_in(self._loop, self.stop)


class MapResults(AsyncForOnly, AsyncOnly, Generic[C_co]):
    """Results of many requests: an async iterator.

    When the last reference is dropped, for example because a loop is left by break, exception or cancellation, the requests
    in flight are cancelled. ``async with`` cancels them at the end of its block, and also waits until an async generator that
    yields the requests is closed. Several tasks may share the iterator.

    Args:
        workers: Send the requests and queue the results.
    """

    def __init__(self, workers: MapWorkers) -> None:
        # The workers' tasks must not refer to this object, because dropping it has to end them.
        self._workers = workers

    def __aiter__(self) -> MapResults[C_co]:
        return self

    async def __anext__(self) -> MapResult[C_co]:
        try:
            return await self._workers.next()
        except BaseException:
            # A task keeps the CancelledError that it raises until it waits again, and the traceback keeps this frame. The
            # loop that was left, for example by a timeout, must end before that, because the next may use the same journal.
            del self
            raise

    def drain(self) -> None:
        """Send no more requests. The iterator returns the results of the requests in flight, and ends.

        Requests that wait to be sent, for the first time or again, are cancelled and have no result.
        """
        self._workers.drain()

    async def aclose(self) -> None:
        """Cancel the requests in flight, and wait until they have ended."""
        await self._workers.close()

    async def close(self) -> None:
        """The same as `aclose`."""
        await self._workers.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._workers.close()

    def __del__(self) -> None:
        workers = getattr(self, "_workers", None)
        if workers is not None:  # the attribute is missing if `__init__` failed
            workers.abandon()


def _described(index: int, params: dict[str, Any]) -> dict[str, Any]:
    """Replace functions among ``tools`` by their descriptions, because a journal compares what is sent."""
    problem: str
    if "tools" not in params:
        return params
    try:
        return {**params, "tools": tool_params(params["tools"])}
    except TypeError as error:
        problem = str(error)
    raise InvalidRequestError(f"request {index}: {problem}")


async def _wait(waiters: deque[asyncio.Future[None]]) -> None:
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    await waiter


def _wake_all(waiters: deque[asyncio.Future[None]]) -> None:
    while waiters:
        _wake_one(waiters)


def _wake_one(waiters: deque[asyncio.Future[None]]) -> None:
    """Wake the first waiter that was not cancelled."""
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return
