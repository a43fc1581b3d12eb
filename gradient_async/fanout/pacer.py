"""Who may send next, by the clock of the loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from ..errors import APIConnectionError, APIError, APITimeoutError
from ..policy.pace import Pace, Ticket
from ..types import CompletionUsage

__all__ = ["Pacer", "Turn"]

_TOO_MUCH = frozenset({429, 503, 529})


class Turn:
    """The turn of one request.

    Args:
        pacer: Who gave it.
        ticket: Which request.

    Attributes:
        sent: Whether an attempt is under way, or was answered well; not while it waits to be sent again.
    """

    __slots__ = ("_pacer", "_ticket", "sent")

    def __init__(self, pacer: Pacer, ticket: Ticket) -> None:
        self._pacer = pacer
        self._ticket = ticket
        self.sent = True

    def told(self, outcome: Any) -> None:
        """Note how an attempt was answered: by a reply or an error."""
        if not isinstance(outcome, APIError):
            if outcome.rate_limits is not None:
                self._pacer.told(self._ticket, outcome)
            return
        self.sent = False
        if self._pacer.drained:
            # It would wait to be sent again, which it will not be; an error that is final comes out all the same.
            cast("asyncio.Task[Any]", asyncio.current_task()).cancel()
        self._pacer.told(self._ticket, outcome)

    async def again(self) -> None:
        """Wait until another attempt may be made."""
        await self._pacer.again(self._ticket)
        self.sent = True

    def release(self, *, error: BaseException | None, usage: CompletionUsage | None = None) -> None:
        """Note that the request is over.

        Args:
            error: What it failed with, if it did.
            usage: What it took, if that is known.
        """
        self._pacer.release(self._ticket, error=error, usage=usage)


class Pacer:
    """Lets requests go at a pace, those who asked first before others.

    Args:
        pace: When the next may go.

    Attributes:
        drained: Whether nothing more is to be sent, not even again.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._waiters: deque[tuple[asyncio.Future[Ticket], Callable[[float], Ticket]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.drained = False

    async def acquire(self, params: Mapping[str, Any]) -> Turn:
        """Wait until a request may be sent; it is under way until `Turn.release`.

        Args:
            params: Its parameters.
        """
        if not self._waiters:
            now = self._loop.time()
            if self._pace.ready(now):
                return Turn(self, self._pace.sent(now, params))
        waiter = self._queue(lambda now: self._pace.sent(now, params))
        try:
            return Turn(self, await waiter)
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result(), error=asyncio.CancelledError())
            raise

    async def again(self, ticket: Ticket) -> None:
        """Wait until a request may be sent once more; those that were sent before go first.

        Args:
            ticket: Which request. It is not under way while it waits.
        """
        self._pace.parked(ticket)
        await self._queue(lambda now: self._pace.sent_again(ticket, now), first=True)

    def told(self, ticket: Ticket, outcome: Any) -> None:
        """Note how an attempt was answered.

        Args:
            ticket: Of which request.
            outcome: A reply or an error.
        """
        failed = isinstance(outcome, APIError)
        status = outcome.status_code if failed else None
        self._pace.answered(
            ticket,
            rate_limits=outcome.rate_limits,
            wait=outcome.retry_after if failed and status in _TOO_MUCH else None,
            overloaded=failed and (status in _TOO_MUCH or _unanswered(outcome)),
            now=self._loop.time(),
            wall=time.time(),
        )

    def release(
        self, ticket: Ticket, *, error: BaseException | None, usage: CompletionUsage | None = None
    ) -> None:
        """Note that a request is over.

        Args:
            ticket: Which.
            error: What it failed with, if it did.
            usage: What it took, if that is known.
        """
        self._pace.ended(ticket, clean=error is None, usage=usage)
        if isinstance(error, APITimeoutError) and error.phase in {"first_token", "idle"}:
            self._pace.stalled(ticket)
        if self._waiters:
            self._let_go()

    def _queue(self, send: Callable[[float], Ticket], *, first: bool = False) -> asyncio.Future[Ticket]:
        """Let a request go when its turn comes.

        Args:
            send: Notes that it is sent.
            first: Whether it goes before those that wait already.
        """
        waiter: asyncio.Future[Ticket] = self._loop.create_future()
        if first:
            self._waiters.appendleft((waiter, send))
        else:
            self._waiters.append((waiter, send))
        self._let_go()
        return waiter

    def _let_go(self) -> None:
        """Let those go whose turn has come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            waiter, send = self._waiters[0]
            if not waiter.done():
                now = self._loop.time()
                delay = self._pace.delay(now, _dice())
                if delay is None:
                    return
                if delay > 0:
                    self._timer = self._loop.call_at(now + delay, self._let_go)
                    return
                waiter.set_result(send(now))
            self._waiters.popleft()


def _unanswered(error: APIError) -> bool:
    return isinstance(error, APITimeoutError) or (
        isinstance(error, APIConnectionError) and error.phase == "connect"
    )


def _dice() -> float:
    return random.random()  # noqa: S311  # spreads load; nothing secret hangs on it
