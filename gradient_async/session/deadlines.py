"""One timer per event loop enforces every deadline: of attempts under way, and of reads that wait.

Nearly every deadline is met long before it runs out, and then the next one begins. A timer for each would be set and
cancelled for nothing a hundred times a second. So there is one, which rings at the earliest deadline or after a
second, whichever comes first, asks everything registered whether its time is up, and sets itself again while anything
is registered. It holds what is registered weakly: it keeps nothing alive.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from typing import Protocol

import aiohttp

from ..errors import Phase
from .call import Call

_LONGEST = 1.0  # seconds from one ring to the next, while anything is registered

# A pooled connection that is lost within so many seconds of the request was dead before.
_DEAD_WITHIN = 1.0


class Timed(Protocol):
    """What has a deadline."""

    def check(self, now: float) -> float | None:
        """End what is under way if time is up; return when to check again, on the loop's clock, or None for never."""
        ...


class DeadlineTimer:
    """The timer of one event loop."""

    __slots__ = ("__weakref__", "_at", "_handle", "_loop", "_timed")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timed: dict[int, weakref.ref[Timed]] = {}
        self._at = math.inf
        self._handle: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> DeadlineTimer:
        """Return the timer of a loop; it lasts as long as somebody holds it."""
        timer = _of_loops.get(id(loop))
        if timer is None:
            timer = _of_loops[id(loop)] = cls(loop)
        return timer

    def join(self, timed: Timed, at: float) -> None:
        """Check something at this moment of the loop's clock, or a little earlier."""
        self._timed[id(timed)] = weakref.ref(timed)
        if at < self._at:
            self._set(at)

    def leave(self, timed: Timed) -> None:
        """Check something no more."""
        self._timed.pop(id(timed), None)

    def _set(self, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._at = min(at, self._loop.time() + _LONGEST)
        self._handle = self._loop.call_at(self._at, self._ring)

    def _ring(self) -> None:
        self._handle = None
        self._at = math.inf
        now = self._loop.time()
        earliest = math.inf
        for key, reference in list(self._timed.items()):
            timed = reference()
            again = None if timed is None else timed.check(now)
            if again is None:
                self._timed.pop(key, None)  # it may have left meanwhile, as garbage or by a check of another
            else:
                earliest = min(earliest, again)
        if self._timed:
            self._set(earliest)


# By the loop's `id`, which is its own as long as the timer lives: holding a loop here would keep it for good.
_of_loops: weakref.WeakValueDictionary[int, DeadlineTimer] = weakref.WeakValueDictionary()


class AttemptProgress:
    """How far one attempt is, and when its present phase has to be over.

    Attributes:
        phase: What is under way.
        limit: Seconds from the request sent to its reply or first content; None is for ever.
        sent: When the request was sent, on the loop's clock.
        deadline: When the whole call has to be over, on the loop's clock; None is never.
        queued: Seconds waited for a free connection.
        reused: Whether the connection came from the pool.
        wants_new_connection: Whether no connection of the pool will do: where one was dead, others may be too.
        begun: Whether a byte of an answer has come.
        lost: Whether the connection was lost without a byte of an answer.
        interim_left: How many interim responses may still come before the reply.
        scope: The timeout around the attempt, which ends it.
    """

    __slots__ = (
        "__weakref__", "_due", "_loop", "_stream", "_timeout", "_timer", "begun", "deadline", "interim_left", "limit", "lost",
        "phase", "queued", "reused", "scope", "sent", "wants_new_connection",
    )  # fmt: skip

    scope: asyncio.Timeout

    def __init__(self, call: Call, deadline: float | None, timer: DeadlineTimer) -> None:
        self._timer = timer
        self._due: float | None = None
        # Not the call itself, whose body may be large: a connection keeps the context of the task that opened it, and
        # this object with the context.
        self._timeout = call.timeout
        self._stream = call.stream
        self.interim_left = call.limits.interim_responses
        self.deadline = deadline
        self._loop = asyncio.get_running_loop()
        self.phase: Phase = "connect"
        self.limit = call.timeout.first_token if call.stream else call.timeout.response
        self.sent = self._loop.time()
        self.queued = 0.0
        self.reused = False
        self.wants_new_connection = False
        self.begun = False
        self.lost = False

    def client_timeout(self) -> aiohttp.ClientTimeout:
        """Return what aiohttp has to enforce itself: a foreign session does not tell when it connects."""
        return aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.connect)

    def start(self, *, foreign: bool) -> None:
        """Begin. A foreign session does not say how far a request is: what is lost may have been sent already."""
        if foreign:
            self.phase = "response"
            seconds = None if self.limit is None else self.limit + (self._timeout.connect or 0.0)
            self._until(None if seconds is None else self._loop.time() + seconds)
        elif self.deadline is not None:
            self._until(None)

    def over(self) -> None:
        """End: the attempt came to something."""
        # The scope holds this task. A connection holds this object by the context of the task that opened it, and a task
        # that fails holds this object by its traceback: the task would hold itself.
        del self.scope
        self._due = None
        self._timer.leave(self)

    def connecting(self) -> None:
        """Note that a connection is being made, or taken from the pool."""
        self.phase = "connect"
        self.reused = False
        seconds = self._timeout.connect
        self._until(None if seconds is None else self._loop.time() + seconds)

    def connected(self) -> None:
        """Note that there is a new connection."""
        self.phase = "send"
        self.sent = self._loop.time()
        self._until(None)

    def sending(self) -> None:
        """Note that the request is on its way."""
        self.phase = "response"
        self.sent = now = self._loop.time()
        self._until(None if self.limit is None else now + self.limit)

    @property
    def died_idle(self) -> bool:
        """Whether a pooled connection was lost so soon that the server must have closed it before.

        Ask when an attempt has just ended without an answer.
        """
        return self.lost and self.reused and self._loop.time() - self.sent < _DEAD_WITHIN

    def expired_limit(self) -> tuple[Phase, float | None]:
        """Return the limit that ran out, by its phase, and how many seconds it allows."""
        if self.deadline is not None and self._loop.time() >= self.deadline:
            return "total", self._timeout.total
        if self.phase == "connect":
            return "connect", self._timeout.connect
        return ("first_token" if self._stream else "response"), self.limit

    def _until(self, when: float | None) -> None:
        """Set when the present phase has to be over; the call's own deadline counts as well."""
        if self.deadline is not None:
            when = self.deadline if when is None else min(when, self.deadline)
        self._due = when
        if when is not None:
            self._timer.join(self, when)

    def check(self, now: float) -> float | None:
        """End the attempt if its time is up.

        Args:
            now: The loop's clock.

        Returns:
            When to check again; None if there is no limit now, or the attempt is being ended.
        """
        due = self._due
        if due is None or now < due:
            return due
        if not self.scope.expired():  # otherwise the cancellation is on its way
            self.scope.reschedule(due)
        return None
