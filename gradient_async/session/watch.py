"""Follows an attempt through its phases, and moves its deadline along."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiohttp

from ..call import Call
from ..errors import Phase

__all__ = ["Watch", "tracing"]

# Turns of the loop in which a new connection's end shows, if it came along with the connection.
_TURNS_BEFORE_SENDING = 5
_SOON = 1.0  # seconds from the request sent to the loss of a connection that was dead before


class Watch:
    """What one attempt is at, and until when.

    Args:
        call: What is sent.
        deadline: When the whole call has to be over, on the loop's clock; None is never.

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
        "_call", "_loop", "_queued_at", "deadline", "limit", "lost", "phase", "queued", "reused", "scope", "sent"
    )  # fmt: skip

    scope: asyncio.Timeout

    def __init__(self, call: Call, deadline: float | None) -> None:
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
            self._until(None if self.limit is None else self.limit + (self._call.timeout.connect or 0.0))

    def queueing(self) -> None:
        """All connections are in use."""
        self._queued_at = self._loop.time()

    def unqueued(self) -> None:
        """One is free."""
        self.queued += self._loop.time() - self._queued_at

    def connecting(self) -> None:
        """A connection is being made."""
        self.phase = "connect"
        self._until(self._call.timeout.connect)

    def connected(self, *, reused: bool) -> None:
        """There is a connection, new or from the pool."""
        self.phase = "send"
        self.reused = reused
        self.sent = self._loop.time()
        self._until(None)

    def sending(self) -> None:
        """The request is on its way."""
        self.phase = "response"
        self.sent = self._loop.time()
        self._until(self.limit)

    @property
    def died_idle(self) -> bool:
        """Whether a pooled connection was lost so soon that the server must have closed it before.

        Ask when an attempt has just ended without an answer.
        """
        soon = self._loop.time() - self.sent < _SOON
        return self.reused and self.lost and soon

    def verdict(self) -> tuple[Phase, float | None]:
        """Which limit ran out."""
        if self.deadline is not None and self._loop.time() >= self.deadline:
            return "total", self._call.timeout.total
        if self.phase == "connect":
            return "connect", self._call.timeout.connect
        return "first_token" if self._call.stream else "response", self.limit

    def _until(self, seconds: float | None) -> None:
        if self.scope.expired():
            return  # the cancellation is on its way
        when = None if seconds is None else self._loop.time() + seconds
        if self.deadline is not None:
            when = self.deadline if when is None else min(when, self.deadline)
        self.scope.reschedule(when)


def tracing() -> aiohttp.TraceConfig:
    """Make the signals by which aiohttp tells each request's `Watch` what it is at."""
    config = aiohttp.TraceConfig()

    async def queueing(_session: Any, context: SimpleNamespace, _params: Any) -> None:
        context.trace_request_ctx.queueing()

    async def unqueued(_session: Any, context: SimpleNamespace, _params: Any) -> None:
        context.trace_request_ctx.unqueued()

    async def connecting(_session: Any, context: SimpleNamespace, _params: Any) -> None:
        context.trace_request_ctx.connecting()

    async def connected(_session: Any, context: SimpleNamespace, _params: Any) -> None:
        context.trace_request_ctx.connected(reused=False)

    async def reused(_session: Any, context: SimpleNamespace, _params: Any) -> None:
        context.trace_request_ctx.connected(reused=True)

    async def sending(_session: Any, context: SimpleNamespace, _params: Any) -> None:
        watch: Watch = context.trace_request_ctx
        if not watch.reused:
            # Nothing has been written yet. A server that closes what it has just accepted is found out now.
            for _ in range(_TURNS_BEFORE_SENDING):
                await asyncio.sleep(0)
        watch.sending()

    config.on_connection_queued_start.append(queueing)
    config.on_connection_queued_end.append(unqueued)
    config.on_connection_create_start.append(connecting)
    config.on_connection_create_end.append(connected)
    config.on_connection_reuseconn.append(reused)
    config.on_request_headers_sent.append(sending)
    return config
