"""One timer per event loop enforces every deadline: those of attempts in progress, and those of reads that wait.

Nearly every attempt or read ends long before its deadline, and then the next one begins. With a timer for each deadline,
hundreds of timers would be set and cancelled in every second. Instead there is one timer, which fires at the earliest
deadline or after one second, whichever comes first. It then asks every registered object to check its own deadline, and
sets itself again while any object is registered. The timer holds only weak references, so it keeps no object alive.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp

from ..errors import Phase
from .call import Call

_LONGEST = 1.0  # the timer fires at least this often, in seconds, while any object is registered

# If a pooled connection is lost within this many seconds after the request, the server had closed it before the request.
_DEAD_WITHIN = 1.0


class Timed(Protocol):
    """An object with a deadline: an attempt, or a body that is being read."""

    def check(self, now: float) -> float | None:
        """End the operation if its deadline has passed; return the loop time of the next check, or None for no check."""
        ...


class DeadlineTimer:
    """The timer of one event loop."""

    __slots__ = ("__weakref__", "_at", "_handle", "_loop", "_timed")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timed: dict[int, weakref.ref[Timed]] = {}
        self._at = math.inf
        # Held weakly, because the handle holds this object. A handle that has not fired when its loop closes never fires, and
        # would form a reference cycle with this object, and, by its context, with the last attempt.
        self._handle: Callable[[], asyncio.TimerHandle | None] = _no_handle

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> DeadlineTimer:
        """Return the timer of a loop; the timer lives as long as an object holds it."""
        timer = _of_loops.get(id(loop))
        if timer is None:
            timer = _of_loops[id(loop)] = cls(loop)
        return timer

    def join(self, timed: Timed, at: float) -> None:
        """Register an object, to be checked when the loop's clock reads ``at``, or earlier."""
        self._timed[id(timed)] = weakref.ref(timed)
        if at < self._at:
            self._set(at)

    def leave(self, timed: Timed) -> None:
        """Remove an object, which is not checked any more."""
        self._timed.pop(id(timed), None)

    def _set(self, at: float) -> None:
        handle: Any = self._handle()
        if handle is not None:
            handle.cancel()
        self._at = min(at, self._loop.time() + _LONGEST)
        handle = self._loop.call_at(self._at, self._ring)
        self._handle = _no_handle if handle is None else weakref.ref(handle)

    def _ring(self) -> None:
        self._handle = _no_handle
        self._at = math.inf
        now = self._loop.time()
        earliest = math.inf
        for key, reference in list(self._timed.items()):
            timed = reference()
            again = None if timed is None else timed.check(now)
            if again is None:
                self._timed.pop(key, None)  # the check of another object may have removed the key
            else:
                earliest = min(earliest, again)
        if self._timed:
            self._set(earliest)


def _no_handle() -> None:
    """Take the place of a reference to a handle while none is set."""


# The timers, by `id` of their loops. A timer holds its loop, so the `id` is not reused while the timer lives. With the loops
# as keys, this dictionary would keep them alive.
_of_loops: weakref.WeakValueDictionary[int, DeadlineTimer] = weakref.WeakValueDictionary()


class AttemptProgress:
    """How far one attempt has come, and the deadline of its current phase.

    Attributes:
        phase: The current phase.
        limit: Seconds from sending the request to the whole reply or the first content; None is no limit.
        sent: When the request was sent, on the loop's clock.
        deadline: When the whole call has to be over, on the loop's clock; None is no deadline.
        queued: Seconds waited for a free connection.
        reused: Whether the connection came from the pool.
        wants_new_connection: Whether the attempt must not use the pool: if one pooled connection was dead, others may be.
        begun: Whether any byte of a reply has arrived.
        lost: Whether the connection was lost before any byte of a reply.
        foreign: Whether the session is the caller's own.
        lacks_files: Whether this process has too many open files to open a connection.
        proxy: The proxy of the request, as host and port, if it is known.
        interim_left: How many interim responses may still come before the reply.
        scope: The timeout around the attempt, through which the attempt is ended.
    """

    __slots__ = (
        "__weakref__", "_due", "_loop", "_no_files_since", "_stream", "_timeout", "_timer", "begun", "deadline", "foreign",
        "interim_left", "lacks_files", "limit", "lost", "phase", "proxy", "queued", "reused", "scope", "sent", "wants_new_connection",
    )  # fmt: skip

    scope: asyncio.Timeout

    def __init__(self, call: Call, deadline: float | None, timer: DeadlineTimer) -> None:
        self._timer = timer
        self._due: float | None = None
        # The call itself is not kept, because its body may be large. A connection keeps the context of the task that opened
        # it, and the context keeps this object.
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
        self.foreign = False
        self.lacks_files = False
        self._no_files_since: float | None = None
        self.proxy: str | None = None

    def client_timeout(self) -> aiohttp.ClientTimeout:
        """Return the timeout that aiohttp has to enforce: a caller's own session does not tell when it connects."""
        return aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.connect)

    def start(self, *, foreign: bool, tells: bool = False) -> None:
        """Begin the attempt.

        A session of the caller reports only that the body of a request is being written. For a request without body, the
        phase is "response" from the start, because at any loss of the connection the request may have been sent. The time
        limit of the reply includes the time to connect.

        Args:
            foreign: Whether the session is the caller's own.
            tells: Whether a session of the caller calls `writing` when it writes the request.
        """
        self.foreign = foreign
        if foreign:
            if not tells:
                self.phase = "response"
            seconds = None if self.limit is None else self.limit + (self._timeout.connect or 0.0)
            self._until(None if seconds is None else self._loop.time() + seconds)
        elif self.deadline is not None:
            self._until(None)

    def over(self) -> None:
        """Note that the attempt has ended."""
        # `scope` holds the task, and the task may hold this object: by its context, which a connection keeps, and by the
        # traceback of its exception. Deleting `scope` breaks this reference cycle.
        del self.scope
        self._due = None
        self._timer.leave(self)

    def connecting(self) -> None:
        """Note that a connection is being made, or taken from the pool."""
        self.phase = "connect"
        self.reused = False
        seconds = self._timeout.connect
        self._until(None if seconds is None else self._loop.time() + seconds)

    def wait_for_file(self, *, limited: bool) -> None:
        """Note that the attempt waits because this process has too many open files.

        Args:
            limited: Whether the wait counts against the time limit for connecting.
        """
        self.lacks_files = True
        self.phase = "connect"
        if self.foreign:
            return  # aiohttp does not report when it connects, so one limit covers all phases
        since, seconds = self._no_files_since, self._timeout.connect
        self._no_files_since = since = None if not limited else self._loop.time() if since is None else since
        self._until(None if since is None or seconds is None else since + seconds)

    def connected(self) -> None:
        """Note that there is a new connection."""
        self.phase = "send"
        self.sent = self._loop.time()
        self._until(None)

    def sending(self) -> None:
        """Note that the request is being sent."""
        self.phase = "response"
        self.sent = now = self._loop.time()
        self._until(None if self.limit is None else now + self.limit)

    def writing(self) -> None:
        """Note that a session of the caller writes the request, which may happen more than once."""
        if self.phase == "connect" and hasattr(self, "scope"):  # without a scope the attempt is over
            self.sending()

    @property
    def died_idle(self) -> bool:
        """Whether a pooled connection was lost so soon that the server must have closed it before the request.

        To be read directly after an attempt that ended without a reply.
        """
        return self.lost and self.reused and self._loop.time() - self.sent < _DEAD_WITHIN

    def expired_limit(self) -> tuple[Phase, float | None]:
        """Return the phase of the limit that ran out, and the seconds of that limit."""
        if self.deadline is not None and self._loop.time() >= self.deadline:
            return "total", self._timeout.total
        if self.phase != "response":  # the connection may have been made after the limit ran out
            # In a session of the caller, the time limit of the reply applies, and includes the time to connect.
            allowed = self._timeout.connect
            return "connect", (self.limit or 0.0) + (allowed or 0.0) if self.foreign else allowed
        return ("first_token" if self._stream else "response"), self.limit

    def _until(self, when: float | None) -> None:
        """Set the deadline of the current phase; the deadline of the whole call applies as well."""
        if self.deadline is not None:
            when = self.deadline if when is None else min(when, self.deadline)
        self._due = when
        if when is not None:
            self._timer.join(self, when)

    def check(self, now: float) -> float | None:
        """End the attempt if its deadline has passed.

        Args:
            now: The loop's clock.

        Returns:
            When to check again; None if there is no deadline now, or if the attempt is being ended.
        """
        due = self._due
        if due is None or now < due:
            return due
        if not self.scope.expired():  # otherwise the cancellation has been requested already
            self.scope.reschedule(due)
        return None
