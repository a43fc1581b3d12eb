"""Waits until requests may be sent: adds a clock, random numbers and a queue to a `Schedule`."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from ..errors import APIConnectionError, APIError, APITimeoutError
from ..policy.pace import Admission, Schedule
from ..types import CompletionUsage

# Statuses that mean that the server is overloaded.
_OVERLOADED = frozenset({429, 503, 529})


class RequestLease:
    """The right of one request to be sent: the session's `Lease`.

    Args:
        limiter: The limiter that gave this lease.
        admission: The request, as the schedule knows it.

    Attributes:
        awaiting_retry: Whether the last attempt failed and no further one has been sent.
    """

    __slots__ = ("_admission", "_limiter", "awaiting_retry")

    def __init__(self, limiter: RateLimiter, admission: Admission) -> None:
        self._limiter = limiter
        self._admission = admission
        self.awaiting_retry = False

    def on_response(self, outcome: Any) -> None:
        """Note the reply or the error of an attempt."""
        if isinstance(outcome, APIError):
            self.awaiting_retry = True
            if self._limiter.draining:
                # No further attempt may be sent. The cancellation takes effect when the session waits before the next
                # attempt; a final error is raised without a wait, and so reaches the caller.
                cast("asyncio.Task[Any]", asyncio.current_task()).cancel()
        elif outcome.rate_limits is None:
            return
        self._limiter.on_response(self._admission, outcome)

    async def reacquire(self) -> None:
        """Wait until another attempt may be sent."""
        await self._limiter.reacquire(self._admission)
        self.awaiting_retry = False

    def release(self, *, error: BaseException | None, usage: CompletionUsage | None = None) -> None:
        """Note that the request is over.

        Args:
            error: The request's error, or None.
            usage: The request's token usage, if known.
        """
        self._limiter.release(self._admission, error=error, usage=usage)


class RateLimiter:
    """Gives leases to requests in the order in which they ask, as fast as a schedule allows.

    Args:
        schedule: When the next request may be sent.

    Attributes:
        draining: Whether no further request may be sent, and no further attempt of a request.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._loop = asyncio.get_running_loop()
        # The requests that wait, each with the function that admits it.
        self._waiters: deque[tuple[asyncio.Future[Admission], Callable[[float], Admission]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.draining = False

    async def acquire(self, params: Mapping[str, Any]) -> RequestLease:
        """Wait until a request may be sent. It counts as in flight until `RequestLease.release`.

        Args:
            params: Parameters of the request.
        """
        if not self._waiters:
            now = self._loop.time()
            if self._schedule.ready(now):
                return RequestLease(self, self._schedule.admit(now, params))
        waiter = self._enqueue(lambda now: self._schedule.admit(now, params))
        try:
            return RequestLease(self, await waiter)
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                # The request was admitted and cancelled in the same iteration of the loop: its place must be freed.
                self.release(waiter.result(), error=asyncio.CancelledError())
            raise

    async def reacquire(self, admission: Admission) -> None:
        """Wait until a request may be sent again; it goes before all requests that have not been sent yet.

        Args:
            admission: The request, which is not in flight while it waits.
        """
        self._schedule.suspend(admission)
        await self._enqueue(lambda now: self._schedule.readmit(admission, now), first=True)

    def on_response(self, admission: Admission, outcome: Any) -> None:
        """Note how an attempt was answered.

        Args:
            admission: The request of the attempt.
            outcome: The reply or the error.
        """
        failed = isinstance(outcome, APIError)
        refused = failed and outcome.status_code in _OVERLOADED
        self._schedule.on_response(
            admission,
            rate_limits=outcome.rate_limits,
            wait=outcome.retry_after if refused else None,
            overloaded=refused or (failed and _is_unanswered(outcome)),
            now=self._loop.time(),
            wall=time.time(),
        )

    def release(
        self, admission: Admission, *, error: BaseException | None, usage: CompletionUsage | None = None
    ) -> None:
        """Note that a request is over.

        Args:
            admission: The request.
            error: The request's error, or None.
            usage: The request's token usage, if known.
        """
        self._schedule.finish(admission, succeeded=error is None, usage=usage)
        if isinstance(error, APITimeoutError) and error.phase in {"first_token", "idle"}:
            self._schedule.overloaded(admission)  # a stream that stalls
        if self._waiters:
            self._admit_waiters()

    def _enqueue(
        self, admit: Callable[[float], Admission], *, first: bool = False
    ) -> asyncio.Future[Admission]:
        """Return a future that is done once the request is admitted.

        Args:
            admit: Admits the request, given the time.
            first: Whether the request goes before those that wait already.
        """
        waiter: asyncio.Future[Admission] = self._loop.create_future()
        if first:
            self._waiters.appendleft((waiter, admit))
        else:
            self._waiters.append((waiter, admit))
        self._admit_waiters()
        return waiter

    def _admit_waiters(self) -> None:
        """Admit the requests whose time has come, and set a timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            waiter, admit = self._waiters[0]
            if not waiter.done():
                now = self._loop.time()
                delay = self._schedule.delay(now, random.random())  # noqa: S311  # spreads load; needs no cryptography
                if delay is None:
                    return  # `release` calls this method again
                if delay > 0:
                    self._timer = self._loop.call_at(now + delay, self._admit_waiters)
                    return
                waiter.set_result(admit(now))
            self._waiters.popleft()


def _is_unanswered(error: APIError) -> bool:
    return isinstance(error, APITimeoutError) or (
        isinstance(error, APIConnectionError) and error.phase == "connect"
    )
