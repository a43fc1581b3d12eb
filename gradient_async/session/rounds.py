"""Looks after the bodies that somebody waits for: one timer for all of a loop, which rings once a second mostly."""

from __future__ import annotations

import asyncio
import math
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .body import Body

__all__ = ["Rounds"]


class Rounds:
    """Has each body look whether its time is up, at the moment it names.

    The timer must not keep an abandoned body alive, nor does a body that was read to its end want to be looked at: it
    says when it is done, and with the last one the timer goes.

    Args:
        loop: Where the bodies are read.
    """

    __slots__ = ("__weakref__", "_at", "_bodies", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bodies: dict[int, weakref.ref[Body]] = {}
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Rounds:
        """Return those of a loop; they last as long as somebody holds them."""
        rounds = _of_loops.get(loop)
        if rounds is None:
            rounds = _of_loops[loop] = cls(loop)
        return rounds

    def join(self, body: Body, at: float) -> None:
        """Look at a body at this moment of the loop's clock, or a little earlier."""
        self._bodies[id(body)] = weakref.ref(body)
        if at < self._at:
            self._set_timer(at)

    def leave(self, body: Body) -> None:
        """Do not look at it any more."""
        self._bodies.pop(id(body), None)
        if not self._bodies and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._at = math.inf

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._at = math.inf
        now = self._loop.time()
        soonest = math.inf
        for key, reference in list(self._bodies.items()):
            body = reference()
            again = None if body is None else body.look(now)
            if again is None:
                del self._bodies[key]
            else:
                soonest = min(soonest, again)
        if self._bodies:
            self._set_timer(soonest)


_of_loops: weakref.WeakValueDictionary[asyncio.AbstractEventLoop, Rounds] = weakref.WeakValueDictionary()
