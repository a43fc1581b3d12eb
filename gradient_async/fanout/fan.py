"""n choices of one prompt, each of a request of its own: who is begun, who is given up, and what it comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from inspect import isawaitable
from typing import Any, cast

import msgspec

from ..assembly import CompletionAssembler
from ..errors import (
    APIResponseValidationError,
    BadRequestError,
    FanOutError,
    GradientError,
    StreamError,
    StreamInterruptedError,
    StreamTruncatedError,
    UnprocessableEntityError,
)
from ..types import Choice
from .branch import Branch, Senders
from .merged import Merged
from .plan import FanOutResult, Plan
from .rate_limiter import RateLimiter

__all__ = ["Fan"]

_REFUSED = (BadRequestError, UnprocessableEntityError)  # what servers answer that do not take n
_MOST_NATIVE = 128  # documented limit of n


class Fan:
    """Runs a plan.

    Args:
        plan: What to do.
        params: Parameters of the request.
        senders: How requests are made.
        rate_limiter: Makes the pacer, in the loop that runs.
        assembler: Where the reader adds the chunks.

    Attributes:
        merged: What the requests bring.
        results: What became of each choice.
        winners: Indices of the choices that were wanted, as they finished.
    """

    def __init__(
        self,
        plan: Plan,
        params: dict[str, Any],
        senders: Senders,
        rate_limiter: Callable[[], RateLimiter],
        assembler: CompletionAssembler,
    ) -> None:
        self._plan = plan
        self._params = params
        self._senders = senders
        self._make_rate_limiter = rate_limiter
        self.merged = Merged(assembler, self._give_up)
        self.results = [FanOutResult(index=index) for index in range(plan.n)]
        self.winners: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._main: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._left = False

    # Life

    def start(self) -> None:
        """Begin, in the loop that runs.

        Raises:
            TypeError: If it was begun before.
        """
        if self._main is not None:
            raise TypeError("a fan-out can be entered once: make another for the next time")
        self._loop = asyncio.get_running_loop()
        self._rate_limiter = self._make_rate_limiter()
        self.merged.start()
        self._main = asyncio.create_task(self._run())

    @property
    def begun(self) -> bool:
        """Whether it was begun."""
        return self._main is not None

    @property
    def forgotten(self) -> bool:
        """Whether nobody has given it up, and it goes on."""
        return self.merged.open and not self._left

    async def close(self) -> None:
        """Give up what is under way, and wait until it is gone."""
        self._give_up()
        if self._main is not None and not self._main.done():
            await asyncio.wait((self._main,))

    def abandon(self) -> None:
        """Give up what is under way from a finaliser, in whatever thread that runs."""
        if self._loop is None or self._loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._give_up()
        else:
            self._loop.call_soon_threadsafe(self._give_up)

    def _give_up(self) -> None:
        self._left = True
        if self._main is not None:
            self._main.cancel()

    # The run

    async def _run(self) -> None:
        error: Exception | None
        error = StreamInterruptedError("this fan-out was closed before its end", phase="body")
        try:
            await self._make_requests()
            error = self._verdict()
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            # Not an error of a request: of the caller's predicate or parameters, raised as it is, whatever it is.
            error = cast("Exception", group.exceptions[0])
        finally:
            for result in self.results:
                if result.state in {"waiting", "running"}:
                    result.state = "stopped"
            self.merged.finish(error)

    async def _make_requests(self) -> None:
        plan = self._plan
        indices: Iterable[int] = range(plan.n)
        if plan.native and plan.n > 1:
            most = plan.n if plan.native is True else min(plan.n, _MOST_NATIVE)
            async with asyncio.TaskGroup() as group:
                self._begin(group, self._all_in_one(most))
            if self._stopping:
                return
            indices = [result.index for result in self.results if result.state == "waiting"]
        async with asyncio.TaskGroup() as group:
            for index in indices:
                self._begin(group, self._one(index))

    def _begin(self, group: asyncio.TaskGroup, work: Any) -> None:
        self._tasks.append(group.create_task(work))

    def _verdict(self) -> Exception | None:
        """Tell how it ended: an error, or None."""
        errors: dict[int, Exception] = {
            result.index: result.error for result in self.results if result.error is not None
        }
        if not self._stopping and any(result.state in {"waiting", "running"} for result in self.results):
            return GradientError("a request was cancelled, and not by its fan-out")
        if not (errors and self._plan.raising) or self.enough():
            return None
        first = next(iter(errors.values()))
        return FanOutError(
            f"{len(errors)} of {self._plan.n} choices failed, and the others were given up: {first}",
            list({id(error): error for error in errors.values()}.values()),
            errors=errors,
        )

    def enough(self) -> bool:
        """Whether as many choices came as were wanted."""
        wanted = self._plan.wanted
        return wanted is not None and len(self.winners) >= wanted

    # Requests

    async def _one(self, index: int) -> None:
        """Make the request of one choice."""
        plan, result = self._plan, self.results[index]
        branch = Branch(
            self._senders, self.merged, self._rate_limiter, self._params, streamed=plan.streamed, first=index
        )
        branch.on_begin = partial(self._mark, result)
        try:
            await branch.run(hedge_after=plan.hedge_after)
        except GradientError as error:
            if isinstance(error, StreamError) and error.partial is not None:
                for choice in error.partial.choices:
                    choice.index = index
            self._failed([result], error)
        else:
            completion = branch.completion
            choices = [] if completion is None else completion.choices
            if choices:
                await self._completed(result, msgspec.structs.replace(choices[0], index=index))
            else:
                self._failed([result], self._missing(1))
        finally:
            self._mark(result, branch)

    def _mark(self, result: FanOutResult, branch: Branch) -> None:
        """Note how far a choice is."""
        if result.state == "waiting" and branch.requests:
            result.state = "running"
        result.requests = branch.requests
        source = branch.source
        if source is not None:
            result.id, result.request_id = source.id, source.request_id

    async def _all_in_one(self, n: int) -> None:
        """Ask for all choices, or as many as may be, in one request."""
        plan = self._plan
        branch = Branch(
            self._senders,
            self.merged,
            self._rate_limiter,
            self._params,
            streamed=plan.streamed,
            n=n,
            expect=1 if plan.native == "auto" else n,
        )
        if plan.wanted is not None:
            branch.on_finish = self._finished_early
        failure: GradientError | None = None
        try:
            await branch.run(hedge_after=plan.hedge_after)
        except GradientError as error:
            failure = error
        came = await self._take(branch, whole=failure is None and not self._stopping)
        missing = [result for result in self.results if result.index not in came]
        if not missing or self._stopping:
            return
        if failure is None:
            failure = self._missing(len(came)) if plan.native != "auto" else None
        elif plan.native == "auto" and isinstance(failure, _REFUSED):
            failure = None
        if failure is not None:
            self._failed(missing, failure)

    async def _take(self, branch: Branch, *, whole: bool) -> set[int]:
        """Note the choices that have come; return their indices.

        Args:
            branch: The request.
            whole: Whether it ended well.
        """
        completion = branch.completion
        came = set[int]()
        for choice in () if completion is None else completion.choices:
            if choice.index < self._plan.n and (whole or choice.finish_reason):
                came.add(choice.index)
                await self._completed_of(branch, choice)
        return came

    async def _finished_early(self, branch: Branch, index: int) -> bool:
        """Note that a choice of several has its finish_reason; return whether that is enough."""
        completion = branch.completion
        for choice in () if completion is None else completion.choices:
            if choice.index == index < self._plan.n:
                await self._completed_of(branch, choice)
        return self.enough()

    async def _completed_of(self, branch: Branch, choice: Choice) -> None:
        result = self.results[choice.index]
        self._mark(result, branch)
        if result.state != "completed":
            await self._completed(result, choice)

    def _missing(self, came: int) -> GradientError:
        message = (
            f"the server gave {came} of {self._plan.n} choices"
            if self._plan.native
            else "the server gave no choice"
        )
        hint = "; native='auto' makes requests for the others" if self._plan.native else ""
        kind = StreamTruncatedError if self._plan.streamed else APIResponseValidationError
        return kind(message + hint)

    # What becomes of choices

    async def _completed(self, result: FanOutResult, choice: Choice) -> None:
        result.state, result.choice = "completed", choice
        plan = self._plan
        if plan.wanted is None or self.enough():
            return
        verdict: Any = True if plan.stop_when is None else plan.stop_when(choice)
        if isawaitable(verdict):
            verdict = await verdict
        if verdict:
            self._won(result.index)

    def _won(self, index: int) -> None:
        """Note a choice that was wanted; give up the others once it is enough."""
        if self.enough():
            return  # others came first, while its verdict was awaited
        self.winners.append(index)
        if self.enough():
            self._stop()

    def _failed(self, results: Iterable[FanOutResult], error: GradientError) -> None:
        error.with_traceback(None)  # its frames hold what came
        for result in results:
            result.state, result.error = "failed", error
        if self._plan.raising and not self.enough():
            self._stop()

    def _stop(self) -> None:
        """Give up those that are under way or wait for their turn."""
        self._stopping = True
        me = asyncio.current_task()
        for task in self._tasks:
            if task is not me:
                task.cancel()
