"""How many at a time: at the beginning, after a wait, and at speed."""

from __future__ import annotations

__all__ = ["Concurrency"]

# Where nothing is known of the server yet, this many go at once; then one more for each step and each reply.
_FIRST = 64
_FIRST_STEP = 0.005
# After a wait, one goes ahead, and the others follow as replies come, or more slowly if none does.
_STEP_AFTER_WAIT = 0.025
_LEAST_STEP = 1e-4
_ADAPTIVE_FIRST = 8


class Concurrency:
    """How many requests may be under way.

    Args:
        most: Most at any time.
        adaptive: Find out what the server sustains: more while replies are clean, half after trouble.
    """

    __slots__ = (
        "_adaptive",
        "_learning",
        "_most",
        "_ramp",
        "_ramp_after",
        "_ramp_from",
        "_step",
        "_trouble_at",
        "limit",
    )

    def __init__(self, most: int, *, adaptive: bool) -> None:
        self._most = most
        self._adaptive = adaptive
        self.limit = float(min(_ADAPTIVE_FIRST, most) if adaptive else most)
        self._learning = adaptive  # no trouble so far: as many again with each round of replies
        self._trouble_at = -1
        self._ramp = float(_FIRST)
        self._ramp_from: float | None = None
        self._ramp_after = 0
        self._step = _FIRST_STEP

    def allowed(self, now: float) -> int:
        """Return how many may be under way."""
        if self._ramp >= self.limit:
            return int(self.limit)
        if self._ramp_from is None:
            self._ramp_from = now
        return int(min(self.limit, self._ramp + max(0.0, now - self._ramp_from) / self._step))

    def next_step(self, now: float) -> float | None:
        """Return in how many seconds one more may go though no reply comes; None if not for that."""
        if self._ramp_from is None or self.allowed(now) >= int(self.limit):
            return None
        passed = max(0.0, now - self._ramp_from)
        left = (int(passed / self._step) + 1) * self._step - passed
        return max(left, _LEAST_STEP)  # rounding must not have it ask again at the same reading of the clock

    def waited(self, until: float, sent: int) -> None:
        """Begin with one request when a wait is over.

        Args:
            until: When it is, on the loop's clock.
            sent: How many have been sent; how these are answered says nothing of the time after.
        """
        self._ramp, self._ramp_from, self._step = 1.0, until, _STEP_AFTER_WAIT
        self._ramp_after = sent

    def clean(self, number: int) -> None:
        """Note a reply as it should be.

        Args:
            number: Which request it answers.
        """
        if self._ramp < self.limit and number > self._ramp_after:
            self._ramp += 1.0
        if self._adaptive and self.limit < self._most:
            self.limit = min(float(self._most), self.limit + (1.0 if self._learning else 1.0 / self.limit))

    def trouble(self, number: int, sent: int) -> None:
        """Note that the server has too much to do.

        Args:
            number: Which request it was, counted from 1 as they were sent.
            sent: How many have been sent. What was sent before the last cut is not held against the new limit.
        """
        if self._adaptive and number > self._trouble_at:
            self._trouble_at = sent
            self._learning = False
            self.limit = max(1.0, self.limit / 2)
