"""Three limits on when requests may be sent, computed from clock readings.

`EvenRate` is a rate that the caller asked for, `Bucket` the server's quota as replies show it, and `Concurrency` the
number of requests in flight.

Constants without a source named beside them are our own choices. Simulations in ``tests/policy/test_pace.py`` test
them, with servers that have buckets and servers that have windows.
"""

from __future__ import annotations

from collections import deque

import msgspec

_MINUTE = 60.0
# Seconds. Requests that are sent a minute apart may arrive a little less than a minute apart: so much less does no harm.
_SLACK = 1.0
# Seconds: how exactly `EvenRate` knows when an amount passed. An amount that differs from the rate by less than _ROUNDING
# differs only because sums of floats are rounded.
_PART = 0.25
_ROUNDING = 1e-6

# DigitalOcean's rule for a client that was refused: wait until the reset, but at least _MIN_WAIT seconds. Then wait a
# random time between _MARGIN and twice _MARGIN seconds longer, so that clients do not all return at the same moment.
_MIN_WAIT = 1.0
_MARGIN = 0.25
# Seconds between the two readings of a bucket from which its refill is computed. Replies overtake each other, so the
# readings of a shorter time say little.
_SPAN = 1.0
# Weight of the newest value in the moving mean of the refill.
_REFILL_WEIGHT = 0.3
# A reading above the expected level raises the level by this part of the difference, but not if all happens within _LOOK
# seconds; a lower one counts in full.
_RISE = 0.5
# Seconds after which a bucket that should be empty is tried again, if nothing is known of its refill.
_LOOK = 0.25
# If refusals are all that a server tells of its bucket: the refill is taken as a little less than measured, each success
# raises it by a part of it, and a full bucket lasts _DEPTH seconds.
_CAUTION = 0.95
# Seconds between two bursts of refusals.
_GAP = 0.1
_GROWTH = 0.008
_DEPTH = 5.0

# The ramp of a new server: this many requests may be in flight at first, one more after two replies, and one more
# whenever _START_STEP seconds have passed.
_START_WINDOW = 16
_RAMP_GAIN = 0.5
_START_STEP = 0.01
# The ramp after a wait that the server asked for: one request is sent as a probe, one more after two replies, and one more
# whenever _RESTART_STEP seconds have passed.
_RESTART_WINDOW = 1.0
_RESTART_STEP = 0.025
# The shortest step in seconds. A step that rounds to 0 would make a timer fire at the same clock reading for ever.
_MIN_STEP = 1e-4
# The concurrency that an adaptive limit begins with, and the one at which any ramp ends.
_ADAPTIVE_START = 8
_UNLIMITED = 100_000


class EvenRate:
    """Limits the amount that passes in any minute: spread evenly, except for bursts of one second's worth.

    Two rules. The generic cell rate algorithm spreads what passes: ``_due`` is the time at which everything that has
    passed would have passed at exactly the rate, and the next amount may pass earlier, by as much as a burst lasts. That
    alone lets a burst, or an amount that is larger, pass beside a whole minute's worth, and it knows nothing of estimates
    that were corrected a minute later. So what has passed in the last minute is also counted, and never exceeds the rate.

    Args:
        per_minute: The maximum amount in any minute.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute
        self._interval = _MINUTE / per_minute
        self._burst = max(self._interval, 1.0)  # seconds; at least one unit may pass at once
        self._due = float("-inf")
        # What has passed in the last minute, and its parts: the beginning of a part, and the amount of the _PART seconds
        # after it. Parts keep the work small, and are short enough for _SLACK.
        self._passed = 0.0
        self._parts: deque[list[float]] = deque()

    def delay(self, now: float, amount: float = 1.0) -> float:
        """Return the number of seconds for which an amount may not pass.

        An amount that is larger than a burst passes once nothing else is due, and all that follows waits for it. One that
        is larger than the rate passes once nothing has passed for a minute.
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
        """Note that an amount passes."""
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
            at: When it was spent.
        """
        self._due += amount * self._interval
        for part in reversed(self._parts):
            if part[0] <= at:
                part[1] += amount
                self._passed += amount
                break


class Mark(msgspec.Struct, gc=False):
    """When and where a request stands in what was spent of a bucket; see `Bucket.spend`."""

    at: float
    spent: float
    refunded: float


class Bucket:
    """A quota of the server: how much of it is left now, learned from replies.

    DigitalOcean's quota is a bucket that refills all the time, and ``remaining`` in a reply's headers is its level. What
    may be spent in all, at the time of a reading, is what had been spent up to and including the reply's own request,
    plus that level. Two such readings, some time apart, give the refill. A refusal of a server that tells no levels is
    a reading too: the bucket is empty.

    A server with windows sends the same headers, and names the end of the window as the reset. Within a window nothing
    is refilled, so the wait is until the reset.

    Attributes:
        spent: The total that was sent and not refused.
        refill: What the bucket gains in a second; 0 until it is known.
        told: Whether replies tell the level.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self.refill = 0.0
        self.told = False
        self._refunded = 0.0
        self._bound = float("inf")  # what may be spent in all at the time `_at`
        self._at = float("-inf")
        # Time and bound of the reading from which the refill is measured, and of the latest refusal.
        self._first: tuple[float, float] | None = None
        self._last: tuple[float, float] | None = None
        self._spent_at = float("-inf")
        self._lowered_at = float("-inf")
        self._size: float | None = None
        self._reset = float("-inf")

    def spend(self, amount: float, now: float) -> Mark:
        """Note that a request is sent; return its place, for the reading that its reply brings."""
        self.spent += amount
        self._spent_at = now
        return Mark(now, self.spent, self._refunded)

    def rest(self) -> None:
        """Note that a time without requests ends: the bucket may have become full, so the time says nothing of the refill."""
        self._first = self._last = None

    def refund(self, amount: float) -> None:
        """Note that an amount was not spent after all: the request was refused, or its estimate was too high."""
        self.spent -= amount
        self._refunded += amount

    def read(
        self, level: float, mark: Mark, *, size: float | None = None, reset: float | None = None, now: float
    ) -> None:
        """Note the level that a reply shows.

        Args:
            level: The level after the reply's request.
            mark: The place of the request.
            size: What a full bucket holds, or None.
            reset: When to send again if nothing is left, or None.
            now: The clock.
        """
        at = mark.at
        if at < self._at - _SPAN:
            return  # the reply took long, and newer readings say more
        # Refusals that have come since the request was sent were of requests sent before it, nearly always.
        bound = mark.spent - (self._refunded - mark.refunded) + level
        if at >= self._at:
            self._size = size
            # A reset in the past was rounded down to a whole second: the shortest wait of DigitalOcean's rule applies.
            self._reset = float("-inf") if reset is None else max(reset, now + _MIN_WAIT * (reset <= now))
        self._measure(bound, at, full=size is not None and level + max(1.0, size / 32) >= size)
        refill = self.refill
        passed = at - self._at
        if self._bound == float("inf"):
            self._bound, self._at = bound, at
            return
        # Requests overtake each other on their way, so a single reading may be too high. A low one is believed at once.
        rise = bound - self._bound - refill * passed
        if rise < 0:
            self._bound += rise
            self._lowered_at = at
        elif not self.told or now - self._lowered_at > _LOOK:
            self._bound += rise * _RISE
        if passed > 0:
            self._bound += refill * passed
            self._at = at

    def _measure(self, bound: float, at: float, *, full: bool) -> None:
        """Compute the refill from this reading and an earlier one; a full bucket gains nothing, and so says nothing."""
        if not self.told:
            # Refusals come in bursts, and the last of a burst is right: others were counted when some were not back.
            last = self._last or (at, bound)
            first = self._first
            if at - last[0] > _GAP and (first is None or last[0] - first[0] >= _SPAN / 2):
                first = self._first = last
            self._last = (at, bound)
            if first is not None and at - first[0] >= _SPAN / 2:
                # It is exact, because nothing was left at both times.
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
            # Readings of nearly the same moment differ because requests overtake each other: the lowest is right.
            self._first = (since, min(before, bound))

    def grow(self, now: float) -> None:
        """Note a success. Where refusals are the only readings, the refill may be more than is known."""
        if self.told or not self.refill:
            return
        passed = max(0.0, now - self._at)
        self._bound += self.refill * passed
        self._at += passed
        # What was saved up is used up in a burst, which says nothing of the refill.
        self.refill *= 1 + _GROWTH * min(1.0, passed * self.refill)

    def is_enough(self, need: float) -> bool:
        """Whether the level allows a request, without what was refilled since the last reading."""
        return self._bound - self.spent >= need

    def delay(self, need: float, now: float, *, jitter: float, max_wait: float) -> float | None:
        """Return the number of seconds until the level allows a request; None if nothing is known of that time.

        Args:
            need: What the request will spend.
            now: The clock.
            jitter: A random number from 0 to 1.
            max_wait: Longest wait for a reset, in seconds.
        """
        if self._bound == float("inf"):
            return 0.0
        refill = self.refill
        size = self._size
        if size is None and refill and not self.told:
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
        if not self.told and self.refill:
            # Nothing but another refusal would show that the refill is more than was measured.
            waits.append(max(0.0, self._spent_at + _MIN_WAIT - now))
        if waits:
            wait = min(waits)
            return wait and max(_MIN_STEP, wait)
        left = self._at + _LOOK - now
        return left if left > 0 else None

    def forget(self) -> None:
        """Forget the level: the next request shows it."""
        self._bound = float("inf")


class Concurrency:
    """How many requests may be in flight.

    Without an adaptive limit there is none after the ramp. An adaptive limit grows and shrinks as TCP's congestion window does (RFC 5681): it doubles with each round of
    replies until the first overload, then grows by one in each round and halves at each overload. At the start and after
    a wait, a ramp below the limit holds requests back, so that they do not all reach the server at the same moment.

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
            sent: How many requests have been sent. Their replies say nothing about the server after the wait.
        """
        self._ramp, self._ramp_from, self._step = _RESTART_WINDOW, at, _RESTART_STEP
        self._ramp_after = sent

    def succeeded(self, number: int, in_flight: int) -> None:
        """Note a reply without an error.

        Args:
            number: Number of the reply's request.
            in_flight: How many requests were in flight, this one included. If they were far fewer than the limit, their
                success says nothing about the limit.
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
            # If they were far fewer than the limit, they were the limit.
            self.limit = max(1.0, (self.limit if in_flight >= self.limit / 2 else in_flight) / 2)
