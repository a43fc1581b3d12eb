"""Looks after everything of a loop that has a limit of time: with one timer, which rings once a second or earlier."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Protocol

import aiohttp

from ..errors import Phase
from .call import Call

_LONGEST = 1.0  # seconds from one round to the next, while there is anybody to look at


class Timed(Protocol):
    """What has a limit of time."""

    def look(self, now: float) -> float | None:
        """Look whether time is up; return when to look again, on the loop's clock, or None if that is not needed."""
        ...


class Rounds:
    """Has everybody look whether their time is up, at the moment they name or a little earlier.

    Nearly all are done long before their time is up, and the next ones have begun. So that none of them needs a timer
    set and cancelled, the one there is rings once more after the last was done; it keeps nobody alive.

    Args:
        loop: Whose clock counts.
    """

    __slots__ = ("__weakref__", "_at", "_loop", "_timed", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timed: dict[int, weakref.ref[Timed]] = {}
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Rounds:
        """Return those of a loop; they last as long as somebody holds them."""
        rounds = _of_loops.get(id(loop))
        if rounds is None:
            rounds = _of_loops[id(loop)] = cls(loop)
        return rounds

    def join(self, timed: Timed, at: float) -> None:
        """Look at somebody at this moment of the loop's clock, or a little earlier."""
        self._timed[id(timed)] = weakref.ref(timed)
        if at < self._at:
            self._set_timer(at)

    def leave(self, timed: Timed) -> None:
        """Look at somebody no more."""
        self._timed.pop(id(timed), None)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = min(at, self._loop.time() + _LONGEST)
        self._timer = self._loop.call_at(self._at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._at = math.inf
        now = self._loop.time()
        soonest = math.inf
        for key, reference in list(self._timed.items()):
            timed = reference()
            again = None if timed is None else timed.look(now)
            if again is None:
                self._timed.pop(key, None)  # those that garbage was made of meanwhile have left
            else:
                soonest = min(soonest, again)
        if self._timed:
            self._set_timer(soonest)


# By the loop's `id`, which is its own as long as they are there: to hold a loop here would keep it for good.
_of_loops: weakref.WeakValueDictionary[int, Rounds] = weakref.WeakValueDictionary()


# Turns of the loop in which a new connection's end shows, if it came along with the connection.
_TURNS_BEFORE_SENDING = 5
_SOON = 1.0  # seconds from the request sent to the loss of a connection that was dead before


class Watch:
    """What one attempt is at, and until when.

    Args:
        call: What is sent.
        deadline: When the whole call has to be over, on the loop's clock; None is never.
        rounds: Who has it look whether its time is up.

    Attributes:
        phase: What is under way.
        limit: Seconds from the request sent to its reply or first content; None is for ever.
        sent: When the request was sent, on the loop's clock.
        deadline: When the whole call has to be over, on the loop's clock; None is never.
        queued: Seconds waited for a free connection.
        reused: Whether the connection came from the pool.
        lost: Whether the connection was lost without a byte of an answer.
        scope: The timeout around the attempt.
    """

    __slots__ = (
        "__weakref__", "_call", "_due", "_loop", "_queued_at", "_rounds", "deadline", "limit", "lost", "phase", "queued",
        "reused", "scope", "sent",
    )  # fmt: skip

    scope: asyncio.Timeout

    def __init__(self, call: Call, deadline: float | None, rounds: Rounds) -> None:
        self._rounds = rounds
        self._due: float | None = None
        self._call = call
        self.deadline = deadline
        self._loop = asyncio.get_running_loop()
        self.phase: Phase = "connect"
        self.limit = call.timeout.first_token if call.stream else call.timeout.response
        self.sent = self._loop.time()
        self.queued = 0.0
        self.reused = False
        self.lost = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        # It goes through aiohttp as an argument, and mocks of aiohttp copy the arguments they see.
        return self

    def client_timeout(self) -> aiohttp.ClientTimeout:
        """What aiohttp is to watch itself: a foreign session tells us nothing of its connections."""
        return aiohttp.ClientTimeout(total=None, sock_connect=self._call.timeout.connect)

    def start(self, *, foreign: bool) -> None:
        """Begin. A foreign session sends no signals: what is lost there may have been sent already."""
        if foreign:
            self.phase = "response"
            seconds = None if self.limit is None else self.limit + (self._call.timeout.connect or 0.0)
            self._until(None if seconds is None else self._loop.time() + seconds)
        elif self.deadline is not None:
            self._until(None)

    def over(self) -> None:
        """The attempt came to something; its time is not up any more."""
        # The scope knows this task, and the response knows the watch: a task that is cancelled later, and holds the
        # stream by its traceback, would hold itself.
        del self.scope
        self._due = None
        self._rounds.leave(self)

    # aiohttp's names of what it tells a request's traces.

    async def send_connection_queued_start(self) -> None:
        """All connections are in use."""
        self._queued_at = self._loop.time()

    async def send_connection_queued_end(self) -> None:
        """One is free."""
        self.queued += self._loop.time() - self._queued_at

    async def send_connection_create_start(self) -> None:
        """A connection is being made."""
        self.phase = "connect"
        seconds = self._call.timeout.connect
        self._until(None if seconds is None else self._loop.time() + seconds)

    async def send_connection_create_end(self) -> None:
        """There is a new connection."""
        self.phase = "send"
        self.sent = self._loop.time()
        self._until(None)

    async def send_connection_reuseconn(self) -> None:
        """There is a connection from the pool."""
        self.phase = "send"
        self.reused = True

    async def send_request_headers(self) -> None:
        """The request is about to be written."""
        if not self.reused:
            # Nothing has been written yet. A server that closes what it has just accepted is found out now.
            for _ in range(_TURNS_BEFORE_SENDING):
                await asyncio.sleep(0)
        self.sending()

    async def _send_dns(self, host: str) -> None:
        """Nothing hangs on how a name is looked up."""

    send_dns_resolvehost_start = send_dns_resolvehost_end = _send_dns
    send_dns_cache_hit = send_dns_cache_miss = _send_dns

    def sending(self) -> None:
        """The request is on its way."""
        self.phase = "response"
        self.sent = now = self._loop.time()
        self._until(None if self.limit is None else now + self.limit)

    @property
    def died_idle(self) -> bool:
        """Whether a pooled connection was lost so soon that the server must have closed it before.

        Ask when an attempt has just ended without an answer.
        """
        return self.lost and self.reused and self._loop.time() - self.sent < _SOON

    def verdict(self) -> tuple[Phase, float | None]:
        """Which limit ran out."""
        if self.deadline is not None and self._loop.time() >= self.deadline:
            return "total", self._call.timeout.total
        if self.phase == "connect":
            return "connect", self._call.timeout.connect
        return "first_token" if self._call.stream else "response", self.limit

    def _until(self, when: float | None) -> None:
        if self.deadline is not None:
            when = self.deadline if when is None else min(when, self.deadline)
        self._due = when
        if when is not None:
            self._rounds.join(self, when)

    def look(self, now: float) -> float | None:
        """End the attempt if its time is up.

        Args:
            now: The loop's clock.

        Returns:
            When to look again; None if it has no limit now, or is being ended.
        """
        due = self._due
        if due is None or now < due:
            return due
        if not self.scope.expired():  # otherwise the cancellation is on its way
            self.scope.reschedule(due)
        return None


def tracing() -> aiohttp.TraceConfig:
    """Make the signals by which aiohttp tells each request's `Watch` what it is at."""
    config = aiohttp.TraceConfig()
    config.on_connection_queued_start.append(_telling(Watch.send_connection_queued_start))
    config.on_connection_queued_end.append(_telling(Watch.send_connection_queued_end))
    config.on_connection_create_start.append(_telling(Watch.send_connection_create_start))
    config.on_connection_create_end.append(_telling(Watch.send_connection_create_end))
    config.on_connection_reuseconn.append(_telling(Watch.send_connection_reuseconn))
    config.on_request_headers_sent.append(_telling(Watch.send_request_headers))
    return config


def _telling(
    event: Callable[[Watch], Awaitable[None]],
) -> Callable[[Any, SimpleNamespace, Any], Awaitable[None]]:
    async def tell(_session: Any, context: SimpleNamespace, _params: Any) -> None:
        await event(context.trace_request_ctx)

    return tell
