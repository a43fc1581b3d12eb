"""Looks after everything of a loop that has a limit of time: with one timer, which rings once a second or earlier."""

from __future__ import annotations

import asyncio
import math
import weakref
from typing import Protocol

__all__ = ["Rounds"]

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
