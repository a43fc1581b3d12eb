"""A limit that the server told."""

from __future__ import annotations

from ..types import RateLimit

__all__ = ["Window"]

_LEAST_WAIT = 1.0  # seconds, by DigitalOcean's rule
_MARGIN = 0.25  # seconds to wait longer than told, by the same; up to twice as much, by the dice


class Window:
    """What a server says is left of a limit until it starts anew.

    Each reply tells how much is left once its own request is counted; so it tells up to where, counted over
    all that was ever sent, sending may go on.

    Args:
        most_wait: Longest wait to hold for, in seconds.

    Attributes:
        bound: How much may have been sent in all, as far as known.
    """

    __slots__ = ("_limit", "_most_wait", "_reset", "_told_at", "bound")

    def __init__(self, most_wait: float) -> None:
        self._most_wait = most_wait
        self.bound = float("inf")
        self._reset = float("-inf")
        self._told_at = float("-inf")
        self._limit: int | None = None

    def told(self, said: RateLimit, *, sent: float, now: float, wall: float) -> None:
        """Note what a reply said.

        Args:
            said: What its headers told of this limit.
            sent: How much had been sent in all when its request was, that included.
            now: The loop's clock.
            wall: Unix time.
        """
        if said.remaining is None or not said.reset:
            return  # a reset of 0 tells no time
        reset = said.reset - wall + now
        # Resets in whole seconds tell the same window a little differently each time.
        if reset > self._reset + 0.5:
            self._reset = reset
            self._limit = said.limit
            self.bound = sent + said.remaining
        elif reset > self._reset - 0.5:
            self.bound = min(self.bound, sent + said.remaining)
        self._told_at = now

    def delay(self, now: float, sent: float, jitter: float) -> float:
        """Return for how many seconds nothing may be sent.

        Args:
            now: The loop's clock.
            sent: How much has been sent in all.
            jitter: A random number of 0 to 1.
        """
        if sent < self.bound:
            return 0.0
        # A server that tells the same reset when that is past cuts it to whole seconds.
        left = max(self._reset, self._told_at + _LEAST_WAIT if self._told_at > self._reset else 0.0) - now
        if -_MARGIN < left <= self._most_wait:
            return left + _MARGIN * (1 + jitter)
        # It has started anew, or that is so far off that the server may say so itself.
        self.bound = float("inf") if self._limit is None else sent + self._limit
        return 0.0
