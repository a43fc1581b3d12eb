"""Who may send next, by the clock of the loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from ..errors import APIConnectionError, APIError, APITimeoutError
from ..pacing import Pace, Ticket
from ..types import CompletionUsage

__all__ = ["Pacer"]

_TOO_MUCH = frozenset({429, 503, 529})


class Pacer:
    """Lets requests go at a pace, those who asked first before others.

    Args:
        pace: When the next may go.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._waiters: deque[tuple[asyncio.Future[Ticket], Mapping[str, Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, params: Mapping[str, Any]) -> Ticket:
        """Wait until a request may be sent; it is under way until `release`.

        Args:
            params: Its parameters.
        """
        now = self._loop.time()
        if not self._waiters and self._pace.delay(now, _dice()) == 0:
            return self._pace.sent(now, params)
        waiter: asyncio.Future[Ticket] = self._loop.create_future()
        self._waiters.append((waiter, params))
        self._let_go()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result(), error=asyncio.CancelledError())
            raise

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
            again=outcome.attempts > 1,
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
        self._let_go()

    def _let_go(self) -> None:
        """Let those go whose time has come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            waiter, params = self._waiters[0]
            if not waiter.done():
                now = self._loop.time()
                delay = self._pace.delay(now, _dice())
                if delay is None:
                    return
                if delay > 0:
                    self._timer = self._loop.call_at(now + delay, self._let_go)
                    return
                waiter.set_result(self._pace.sent(now, params))
            self._waiters.popleft()


def _unanswered(error: APIError) -> bool:
    return isinstance(error, APITimeoutError) or (
        isinstance(error, APIConnectionError) and error.phase == "connect"
    )


def _dice() -> float:
    return random.random()  # noqa: S311  # spreads load; nothing secret hangs on it
