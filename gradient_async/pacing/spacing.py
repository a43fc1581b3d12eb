"""A rate that the caller asked for."""

from __future__ import annotations

__all__ = ["Spacing"]

_MINUTE = 60.0
_SLACK = 1.0  # seconds' worth that may go at once


class Spacing:
    """Lets so much pass in a minute, evenly: no minute sees more, and no second much more than its share.

    Args:
        per_minute: How much.
    """

    __slots__ = ("_due", "_interval")

    def __init__(self, per_minute: float) -> None:
        # Slightly slower than asked for, by what may go at once.
        self._interval = (_MINUTE + _SLACK) / per_minute
        self._due = float("-inf")

    def delay(self, now: float) -> float:
        """Return for how many seconds nothing may pass."""
        return max(0.0, self._due - _SLACK - now)

    def spend(self, now: float, amount: float = 1.0) -> None:
        """Let an amount pass."""
        self._due = max(self._due, now) + amount * self._interval

    def correct(self, amount: float) -> None:
        """Add what an amount turned out to be more than was thought; less than 0 if it was less."""
        self._due += amount * self._interval
