"""Three limits on when requests may be sent, computed from clock readings.

`EvenRate` is a rate that the caller asked for. `Bucket` is the server's quota, learned from replies. `Concurrency` is the
number of requests in flight.

A constant without a source beside it is our own choice. Simulations in ``tests/policy/test_pace.py`` test these
constants against servers with buckets and servers with windows.
"""

from __future__ import annotations

from collections import deque

import msgspec

_MINUTE = 60.0
# Seconds. Two requests that are sent a minute apart may arrive less than a minute apart, because the network delays the first.
# `EvenRate` counts an amount for this much longer than a minute.
_SLACK = 1.0
# `EvenRate` records the time of an amount in parts of _PART seconds. Differences below _ROUNDING come from the rounding of
# sums of floats, and are ignored.
_PART = 0.25
_ROUNDING = 1e-6

# DigitalOcean's rule for a refused client: wait until the reset, but at least _MIN_WAIT seconds. The client then waits for
# a further random time between _MARGIN and twice _MARGIN seconds, so that clients do not all return at the same moment.
_MIN_WAIT = 1.0
_MARGIN = 0.25
# Minimum seconds between the two readings from which the refill of a bucket is computed. Replies overtake each other, so
# readings that are closer together give a wrong refill.
_SPAN = 1.0
# Weight of the newest value in the moving mean of the refill.
_REFILL_WEIGHT = 0.3
# A reading above the expected level raises the level by this part of the difference, unless a reading lowered the level
# less than _LOOK seconds ago. A reading below the expected level counts in full.
_RISE = 0.5
# Seconds after which a request is sent although the bucket should be empty, if its refill is unknown.
_LOOK = 0.25
# These constants are for servers that show their quota only by refusals. The refill is set to _CAUTION times the measured
# value, each success raises the refill by _GROWTH of it, and a full bucket holds the refill of _DEPTH seconds.
_CAUTION = 0.95
# Seconds between two bursts of refusals.
_GAP = 0.1
_GROWTH = 0.008
_DEPTH = 5.0

# The ramp for a server that is new to us: at first _START_WINDOW requests may be in flight. One more is allowed after each
# two replies, and one more every _START_STEP seconds.
_START_WINDOW = 16
_RAMP_GAIN = 0.5
_START_STEP = 0.01
# The ramp after a wait that the server asked for: at first one request is sent as a probe. One more is allowed after each
# two replies, and one more every _RESTART_STEP seconds.
_RESTART_WINDOW = 1.0
_RESTART_STEP = 0.025
# The shortest step in seconds. A step that rounds to 0 would make a timer fire at the same clock reading for ever.
_MIN_STEP = 1e-4
# The concurrency with which an adaptive limit begins, and the largest limit, which any other limit has from the start.
_ADAPTIVE_START = 8
_UNLIMITED = 100_000


class EvenRate:
    """Limits the amount that is sent in any minute, and spreads it evenly, except for bursts of one second's worth.

    There are two rules. The generic cell rate algorithm spreads the amounts: at exactly the rate, everything sent so far
    would have been sent at the time ``_due``; the next amount may be sent earlier than that, by the length of a burst. This
    rule alone would allow a burst, or one large amount, in addition to the amount of a whole minute, and it ignores
    estimates that are corrected a minute later. Therefore the second rule adds up the amounts of the last minute: their
    sum never exceeds the rate.

    Args:
        per_minute: The maximum amount in any minute.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute
        self._interval = _MINUTE / per_minute
        self._burst = max(self._interval, 1.0)  # the length of a burst in seconds, long enough for one unit
        self._due = float("-inf")
        # The amount that was sent in the last minute, and its parts. Each part has a start, and the amount that was sent in the
        # _PART seconds after it. A list of all amounts would be long; there are few parts, and their inaccuracy is smaller than
        # _SLACK.
        self._passed = 0.0
        self._parts: deque[list[float]] = deque()

    def delay(self, now: float, amount: float = 1.0) -> float:
        """Return the number of seconds until an amount may be sent.

        An amount larger than a burst may be sent when no earlier amount is due any more, and later amounts wait for it. An
        amount larger than the rate may be sent when nothing has been sent for a minute.
        """
        parts = self._parts
        while parts and parts[0][0] + _MINUTE + _SLACK <= now:
            self._passed -= parts.popleft()[1]
        until = max(now, self._due - max(0.0, self._burst - amount * self._interval))
        excess = self._passed + amount - self._rate
        for begin, passed in parts:
            if excess <= _ROUNDING:
                break
            excess -= passed
            until = max(until, begin + _MINUTE + _SLACK)
        return until - now

    def spend(self, now: float, amount: float = 1.0) -> None:
        """Note that an amount is sent."""
        self._due = max(self._due, now) + amount * self._interval
        self._passed += amount
        if self._parts and now < self._parts[-1][0] + _PART:
            self._parts[-1][1] += amount
        else:
            self._parts.append([now, amount])

    def correct(self, amount: float, at: float) -> None:
        """Correct an estimate that was spent.

        Args:
            amount: The actual amount minus the estimate.
            at: When the estimate was spent.
        """
        self._due += amount * self._interval
        for part in reversed(self._parts):
            if part[0] <= at:
                part[1] += amount
                self._passed += amount
                break


class Mark(msgspec.Struct, gc=False):
    """The time of a request, and the totals of its bucket just after it; see `Bucket.spend`."""

    at: float
    spent: float
    refunded: float


class Bucket:
    """A quota of the server, and how much of it is left, learned from replies.

    DigitalOcean's quota is a bucket that refills all the time, and ``remaining`` in a reply's headers is its level. The
    total that may be spent by the time of a reading is the sum of two amounts: the amount spent up to and including the
    reply's own request, and the level. The refill is computed from two readings at different times. If a server reports no
    levels, a refusal counts as a reading: the bucket is empty.

    A server with windows sends the same headers, and gives the end of the window as the reset. A window refills nothing
    before its end, so requests wait until the reset.

    Attributes:
        spent: The total amount that was sent and not refused.
        refill: The amount that the bucket gains in a second; 0 until it is known.
        reported: Whether replies report the level.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self.refill = 0.0
        self.reported = False
        self._refunded = 0.0
        self._bound = float("inf")  # the total that may be spent by the time `_at`
        self._at = float("-inf")
        # Time and bound of the reading from which the refill is measured, and of the latest refusal.
        self._first: tuple[float, float] | None = None
        self._last: tuple[float, float] | None = None
        self._spent_at = float("-inf")
        self._lowered_at = float("-inf")
        self._size: float | None = None
        self._reset = float("-inf")

    def spend(self, amount: float, now: float) -> Mark:
        """Note that a request is sent; return its mark, with which `read` interprets the reply."""
        self.spent += amount
        self._spent_at = now
        return Mark(now, self.spent, self._refunded)

    def rest(self) -> None:
        """Note that a pause without requests ends: the bucket may have become full, so the refill can't be measured over it."""
        self._first = self._last = None

    def refund(self, amount: float) -> None:
        """Take back an amount that was not spent: the request was refused, or its estimate was too high."""
        self.spent -= amount
        self._refunded += amount

    def read(
        self, level: float, mark: Mark, *, size: float | None = None, reset: float | None = None, now: float
    ) -> None:
        """Note the level that a reply reports.

        Args:
            level: The level after the reply's request.
            mark: The mark of the request.
            size: The amount in a full bucket, or None.
            reset: When to send again if the bucket is empty, or None.
            now: The clock.
        """
        at = mark.at
        if at < self._at - _SPAN:
            return  # newer readings are known: this reply took long
        # Nearly all refusals that arrived since the request was sent belong to earlier requests, so their refunds also lower
        # the total at the time of the request.
        bound = mark.spent - (self._refunded - mark.refunded) + level
        if at >= self._at:
            self._size = size
            # A reset in the past was rounded down to a whole second; then the shortest wait of DigitalOcean's rule applies.
            self._reset = float("-inf") if reset is None else max(reset, now + _MIN_WAIT * (reset <= now))
        self._measure(bound, at, full=size is not None and level + max(1.0, size / 32) >= size)
        refill = self.refill
        passed = at - self._at
        if self._bound == float("inf"):
            self._bound, self._at = bound, at
            return
        # Requests overtake each other on their way, so a single reading may be too high. A low reading counts at once.
        rise = bound - self._bound - refill * passed
        if rise < 0:
            self._bound += rise
            self._lowered_at = at
        elif not self.reported or now - self._lowered_at > _LOOK:
            self._bound += rise * _RISE
        if passed > 0:
            self._bound += refill * passed
            self._at = at

    def _measure(self, bound: float, at: float, *, full: bool) -> None:
        """Compute the refill from this reading and an earlier one. A full bucket gains nothing, so its reading is not used."""
        if not self.reported:
            # Refusals come in bursts. Only the last refusal of a burst gives a right reading: at the time of the others, some
            # refused requests still counted as spent.
            last = self._last or (at, bound)
            first = self._first
            if at - last[0] > _GAP and (first is None or last[0] - first[0] >= _SPAN / 2):
                first = self._first = last
            self._last = (at, bound)
            if first is not None and at - first[0] >= _SPAN / 2:
                # Both readings were taken at a refusal, when the bucket was empty, so both are exact.
                self.refill = _CAUTION * max(0.0, bound - first[1]) / (at - first[0])
            return
        since, before = self._first or (at, bound)
        if self._first is None or full:
            self._first = (at, bound)
        elif at - since >= _SPAN:
            refill = max(0.0, (bound - before) / (at - since))
            self.refill = self.refill + _REFILL_WEIGHT * (refill - self.refill) if self.refill else refill
            self._first = (at, bound)
        else:
            # Readings at nearly the same moment differ because requests overtake each other; the lowest reading is right.
            self._first = (since, min(before, bound))

    def grow(self, now: float) -> None:
        """Note a success. If the only readings are refusals, raise the refill, which may be larger than measured."""
        if self.reported or not self.refill:
            return
        passed = max(0.0, now - self._at)
        self._bound += self.refill * passed
        self._at += passed
        # A burst uses what the bucket has saved up, so the successes of a burst do not show that the refill is larger. The
        # growth is therefore limited by the time that has passed.
        self.refill *= 1 + _GROWTH * min(1.0, passed * self.refill)

    def is_enough(self, need: float) -> bool:
        """Whether the level at the last reading, without any refill since, allows a request."""
        return self._bound - self.spent >= need

    def delay(self, need: float, now: float, *, jitter: float, max_wait: float) -> float | None:
        """Return the number of seconds until the level allows a request; None if the time is unknown.

        Args:
            need: The amount that the request will spend.
            now: The clock.
            jitter: A random number from 0 to 1.
            max_wait: Longest wait for a reset, in seconds.
        """
        if self._bound == float("inf"):
            return 0.0
        refill = self.refill
        size = self._size
        if size is None and refill and not self.reported:
            size = max(1.0, refill * _DEPTH)
        level = self._bound - self.spent + refill * max(0.0, now - self._at)
        if size is not None:
            self._bound -= max(0.0, level - size)
            level, need = min(level, size), min(need, size)
        if level >= need:
            return 0.0
        waits: list[float] = []
        if refill:
            waits.append((need - level) / refill)
        left = self._reset - now
        if 0 < left <= max_wait:
            waits.append(left + _MARGIN * (1 + jitter))
        if not self.reported and self.refill:
            # If no request were sent, neither a success nor a refusal could correct a refill that was measured too low. So one
            # request is sent every _MIN_WAIT seconds.
            waits.append(max(0.0, self._spent_at + _MIN_WAIT - now))
        if waits:
            wait = min(waits)
            return wait and max(_MIN_STEP, wait)
        left = self._at + _LOOK - now
        return left if left > 0 else None

    def forget(self) -> None:
        """Forget the level. The reply to the next request reports it."""
        self._bound = float("inf")


class Concurrency:
    """How many requests may be in flight.

    Without an adaptive limit, only the ramp limits the number. An adaptive limit grows and shrinks like TCP's congestion
    window (RFC 5681): it doubles with each round of replies until the first overload, then grows by one in each round and
    halves at each overload. At the start and after a wait, a ramp below the limit holds requests back, so that they do not
    all reach the server at the same moment.

    Args:
        adaptive: Whether the limit adapts to what the server sustains.

    Attributes:
        limit: How many requests may be in flight once the ramp is over.
    """

    def __init__(self, *, adaptive: bool) -> None:
        self._adaptive = adaptive
        self.limit = float(_ADAPTIVE_START if adaptive else _UNLIMITED)
        self._doubling = adaptive
        self._overload_at = -1  # the total sent at the last overload
        self._ramp = float(_START_WINDOW)
        self._ramp_from: float | None = None
        self._ramp_after = 0
        self._step = _START_STEP

    def allowed(self, now: float) -> int:
        """Return how many requests may be in flight now."""
        if self._ramp >= self.limit:
            return int(self.limit)
        if self._ramp_from is None:
            self._ramp_from = now
        return int(min(self.limit, self._ramp + max(0.0, now - self._ramp_from) / self._step))

    def next_step(self, now: float) -> float | None:
        """Return the seconds until the ramp allows one more request without a reply; None once the ramp is over."""
        if self._ramp_from is None or self.allowed(now) >= int(self.limit):
            return None
        passed = max(0.0, now - self._ramp_from)
        left = (int(passed / self._step) + 1) * self._step - passed
        return max(left, _MIN_STEP)

    def restart(self, at: float, sent: int) -> None:
        """Begin a new ramp when a wait ends.

        Args:
            at: When the wait ends, on the loop's clock.
            sent: How many requests have been sent. Their replies do not count for the new ramp.
        """
        self._ramp, self._ramp_from, self._step = _RESTART_WINDOW, at, _RESTART_STEP
        self._ramp_after = sent

    def succeeded(self, number: int, in_flight: int) -> None:
        """Note a reply without an error.

        Args:
            number: Number of the reply's request.
            in_flight: How many requests were in flight, this one included. If they were far fewer than the limit, their
                success does not raise the limit.
        """
        if self._ramp < self.limit and number > self._ramp_after:
            self._ramp += _RAMP_GAIN
        if self._adaptive and in_flight >= self.limit / 2:
            self.limit = min(_UNLIMITED, self.limit + (1.0 if self._doubling else 1.0 / self.limit))

    def overloaded(self, number: int, sent: int, in_flight: int) -> None:
        """Note that the server is overloaded.

        Args:
            number: Number of the request that failed.
            in_flight: How many requests were in flight, this one included.
            sent: How many requests have been sent. Failures of requests that were sent before the limit was last cut do
                not cut the limit again, because they were sent under the old limit.
        """
        if self._adaptive and number > self._overload_at:
            self._overload_at = sent
            self._doubling = False
            # If far fewer requests were in flight than the limit allows, even these were too many, so their number is
            # halved instead of the limit.
            self.limit = max(1.0, (self.limit if in_flight >= self.limit / 2 else in_flight) / 2)
