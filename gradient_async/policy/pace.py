"""When the next of many requests may be sent: rates, quotas and concurrency, computed from clock readings.

`Schedule` combines three limits. `EvenRate` is a rate that the caller asked for. `Quota` is what the server's rate
limit headers say is left. `Concurrency` is how many requests may be in flight. Nothing here reads a clock or waits:
`gradient_async.fanout` does, and passes the readings in.

Constants without a source named beside them are our own choices. The simulation in ``tests/policy/test_pace.py``
checks them: a server that allows 200 requests in 5 seconds answers at most one request in twenty with 429.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from ..types import CompletionUsage, RateLimit, RateLimits

_MINUTE = 60.0
# Seconds' worth of a rate that may pass at once.
_BURST = 1.0

# DigitalOcean's rule for a client that was refused: wait until the reset, at least this many seconds, ...
_MIN_WAIT = 1.0
# ... and 0.25 to 0.5 seconds longer, by chance, so that clients do not come back together.
_MARGIN = 0.25
# DigitalOcean tells resets in whole seconds: readings that differ by less than this many tell the same reset.
_RESET_TOLERANCE = 0.5

# A server that nothing is known of gets this many requests at once (the default concurrency of `map`), ...
_START_WINDOW = 64
# ... then one more after each reply, and one more after each of these steps, in seconds.
_START_STEP = 0.005
# After a wait that the server asked for, one request probes. More follow after replies, and after these steps.
_RESTART_WINDOW = 1.0
_RESTART_STEP = 0.025
# A step may round to nothing. The timer must not fire again at the same reading of the clock, without end.
_MIN_STEP = 1e-4
# Concurrency that an adaptive limit begins with.
_ADAPTIVE_START = 8

# Weight of the newest reply in the moving mean of reply sizes.
_LEARNING_RATE = 0.1
# Characters of English text in a token: OpenAI's rule of thumb.
_CHARACTERS_PER_TOKEN = 4
# Tokens that a completion is expected to have before any has come.
_EXPECTED_COMPLETION = 256


class EvenRate:
    """Limits an amount in any minute, evenly spread but for a burst of one second's worth.

    This is the generic cell rate algorithm. ``_due`` is the time when everything that has passed would have passed
    at exactly the rate; the next may pass up to one burst earlier.

    Args:
        per_minute: The amount.
    """

    def __init__(self, per_minute: float) -> None:
        # Any 60 seconds see what is due in them and one burst, so the interval is longer by the burst's share:
        # (60 + 1) / interval = per_minute.
        self._interval = (_MINUTE + _BURST) / per_minute
        self._due = float("-inf")

    def delay(self, now: float) -> float:
        """Return for how many seconds nothing may pass."""
        return max(0.0, self._due - _BURST - now)

    def spend(self, now: float, amount: float = 1.0) -> None:
        """Note that an amount passes."""
        self._due = max(self._due, now) + amount * self._interval

    def correct(self, amount: float) -> None:
        """Add the error of an estimate that was spent: what the amount was more than estimated, or less than 0."""
        self._due += amount * self._interval


class Quota:
    """One quota of the server, as its rate limit headers describe it.

    DigitalOcean says that its quota is a bucket that refills all the time, not a window that ends: ``remaining`` is
    the level after the request that was answered, ``reset`` the Unix time to wait for. A reset of 0 says on a success
    that there is enough, on a 429 that the time is unknown. Servers with windows send the same headers, so this class
    uses only what holds for both: ``remaining`` further requests may be sent, and after the reset up to ``limit``.

    Replies arrive out of order, and requests are in flight when they do. Each reply therefore moves a bound on the
    total ever sent: what had been sent when its request was, plus what remained.

    Args:
        max_wait: Longest wait for a reset, in seconds.

    Attributes:
        bound: How much may have been sent in total.
    """

    def __init__(self, max_wait: float) -> None:
        self._max_wait = max_wait
        self.bound = float("inf")
        self._reset = float("-inf")
        self._response_at = float("-inf")
        self._limit: int | None = None

    def on_response(self, headers: RateLimit, *, sent: float, now: float, wall: float) -> None:
        """Note the quota in a reply's headers.

        Args:
            headers: What the headers say of this quota.
            sent: Total that had been sent when the reply's request was, its own share included.
            now: The loop's clock.
            wall: Unix time.
        """
        if headers.remaining is None or not headers.reset:
            return  # without a time there is nothing to wait for
        reset = headers.reset - wall + now
        if reset > self._reset + _RESET_TOLERANCE:
            self._reset = reset
            self._limit = headers.limit
            self.bound = sent + headers.remaining
        elif reset > self._reset - _RESET_TOLERANCE:
            self.bound = min(self.bound, sent + headers.remaining)
        self._response_at = now

    def delay(self, now: float, sent: float, jitter: float) -> float:
        """Return for how many seconds nothing may be sent.

        Args:
            now: The loop's clock.
            sent: Total that has been sent.
            jitter: A random number of 0 to 1.
        """
        if sent < self.bound:
            return 0.0
        # A reset that was past when the reply came was cut to whole seconds: the rule's shortest wait applies.
        reset = self._reset
        if self._response_at > reset:
            reset = max(reset, self._response_at + _MIN_WAIT)
        left = reset - now
        if -_MARGIN < left <= self._max_wait:
            return left + _MARGIN * (1 + jitter)
        # The reset is past; or so far away that waiting is refused, and the server may answer 429 itself.
        self.bound = float("inf") if self._limit is None else sent + self._limit
        return 0.0


class Concurrency:
    """How many requests may be in flight.

    A limit that adapts grows and shrinks as TCP's congestion window does (RFC 5681): it doubles with each round of
    replies until the first overload, then grows by one a round and halves at each overload. Below the limit a ramp
    holds requests back at the start and after a wait, so that they do not all reach the server at one moment.

    Args:
        max_: Most at any time.
        adaptive: Whether the limit adapts to what the server sustains.

    Attributes:
        limit: How many may be in flight once the ramp is over.
    """

    def __init__(self, max_: int, *, adaptive: bool) -> None:
        self._max = max_
        self._adaptive = adaptive
        self.limit = float(min(_ADAPTIVE_START, max_) if adaptive else max_)
        self._doubling = adaptive
        self._overload_at = -1  # the total sent at the last overload
        self._ramp = float(_START_WINDOW)
        self._ramp_from: float | None = None
        self._ramp_after = 0
        self._step = _START_STEP

    def allowed(self, now: float) -> int:
        """Return how many may be in flight now."""
        if self._ramp >= self.limit:
            return int(self.limit)
        if self._ramp_from is None:
            self._ramp_from = now
        return int(min(self.limit, self._ramp + max(0.0, now - self._ramp_from) / self._step))

    def next_step(self, now: float) -> float | None:
        """Return in how many seconds the ramp lets one more go without a reply; None once the ramp is over."""
        if self._ramp_from is None or self.allowed(now) >= int(self.limit):
            return None
        passed = max(0.0, now - self._ramp_from)
        left = (int(passed / self._step) + 1) * self._step - passed
        return max(left, _MIN_STEP)

    def restart(self, at: float, sent: int) -> None:
        """Begin a new ramp when a wait ends.

        Args:
            at: When it ends, on the loop's clock.
            sent: How many requests have been sent: their replies tell nothing of the time after the wait.
        """
        self._ramp, self._ramp_from, self._step = _RESTART_WINDOW, at, _RESTART_STEP
        self._ramp_after = sent

    def succeeded(self, number: int) -> None:
        """Note a reply without an error.

        Args:
            number: Number of its request.
        """
        if self._ramp < self.limit and number > self._ramp_after:
            self._ramp += 1.0
        if self._adaptive and self.limit < self._max:
            self.limit = min(float(self._max), self.limit + (1.0 if self._doubling else 1.0 / self.limit))

    def overloaded(self, number: int, sent: int) -> None:
        """Note that the server has too much to do.

        Args:
            number: Number of the request that shows it.
            sent: How many have been sent. Those sent before the last cut were sent at the old limit: their failures
                do not cut the new one again.
        """
        if self._adaptive and number > self._overload_at:
            self._overload_at = sent
            self._doubling = False
            self.limit = max(1.0, self.limit / 2)


class Admission(msgspec.Struct):
    """A request that `Schedule` has admitted.

    Attributes:
        number: Counted from 1, in the order of sending.
        tokens: Estimate of the tokens it takes.
        tokens_sent: Estimate of the tokens of all requests sent up to and with this one.
        in_flight: Whether it counts for the concurrency: not while it waits to be sent again.
    """

    number: int
    tokens: float
    tokens_sent: float
    in_flight: bool = True


class Schedule:
    """When the next of many requests may be sent.

    Args:
        max_concurrency: Most requests in flight.
        requests_per_minute: Requests in any minute, or None.
        tokens_per_minute: Tokens in any minute, of prompts and completions, or None.
        adaptive: Whether to adapt the concurrency to what the server sustains, ``max_concurrency`` at most.
        max_wait: Longest wait that a server may impose, in seconds. A request that would have to wait longer is sent,
            so that the server's own refusal tells the caller.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
        max_wait: float = 60.0,
    ) -> None:
        self._concurrency = Concurrency(max_concurrency, adaptive=adaptive)
        self._request_rate = None if requests_per_minute is None else EvenRate(requests_per_minute)
        self._token_rate = None if tokens_per_minute is None else EvenRate(tokens_per_minute)
        self._rates = [rate for rate in (self._request_rate, self._token_rate) if rate is not None]
        self._max_wait = max_wait
        self._requests = Quota(max_wait)
        self._tokens = Quota(max_wait)
        self._held_until = float("-inf")
        self._sent = 0
        self._tokens_sent = 0.0
        self.in_flight = 0
        self._mean_tokens = 0.0  # of a request with its reply; 0 before the first reply
        self._mean_completion = float(_EXPECTED_COMPLETION)

    @property
    def limit(self) -> int:
        """How many requests may be in flight once the ramp is over."""
        return int(self._concurrency.limit)

    def ready(self, now: float) -> bool:
        """Return whether a request may certainly be sent at once: a short test for callers without a rate.

        After False, `delay` decides.

        Args:
            now: The loop's clock.
        """
        return (
            not self._rates
            and now >= self._held_until
            and self._sent < self._requests.bound
            and self._tokens_sent < self._tokens.bound
            and self.in_flight < self._concurrency.allowed(now)
        )

    def delay(self, now: float, jitter: float) -> float | None:
        """Return in how many seconds to ask again; 0 if a request may be sent, None if one has to end first.

        Args:
            now: The loop's clock.
            jitter: A random number of 0 to 1.
        """
        held = self._held_until - now
        if held > 0:
            return held
        quota = max(
            self._requests.delay(now, self._sent, jitter), self._tokens.delay(now, self._tokens_sent, jitter)
        )
        if quota > 0:
            self._hold(now + quota)
            return quota
        spaced = max((rate.delay(now) for rate in self._rates), default=0.0)
        if spaced > 0:
            return spaced
        if self.in_flight < self._concurrency.allowed(now):
            return 0.0
        return self._concurrency.next_step(now)

    def admit(self, now: float, params: Mapping[str, Any]) -> Admission:
        """Note that a request is sent.

        Args:
            now: The loop's clock.
            params: Its parameters, to estimate its tokens.
        """
        tokens = 0.0
        if self._token_rate is not None:
            max_tokens = params.get("max_completion_tokens") or params.get("max_tokens")
            completion = max_tokens if isinstance(max_tokens, int) else self._mean_completion
            tokens = count_characters(params.get("messages")) / _CHARACTERS_PER_TOKEN + completion
            self._token_rate.spend(now, tokens)
        return self.readmit(Admission(0, tokens, 0.0, in_flight=False), now)

    def readmit(self, admission: Admission, now: float) -> Admission:
        """Note that a request is sent again; return it. Its tokens were spent at first: a refusal takes none."""
        if self._request_rate is not None:
            self._request_rate.spend(now)
        self._sent += 1
        self._tokens_sent += admission.tokens or self._mean_tokens
        # Two requests that race for one answer share an admission, and both may be sent again: one place is taken.
        self.in_flight += not admission.in_flight
        admission.number, admission.tokens_sent, admission.in_flight = self._sent, self._tokens_sent, True
        return admission

    def on_response(
        self,
        admission: Admission,
        *,
        rate_limits: RateLimits | None,
        wait: float | None,
        overloaded: bool,
        now: float,
        wall: float,
    ) -> None:
        """Note how one attempt of a request was answered.

        Args:
            admission: The request.
            rate_limits: What the headers say of quotas.
            wait: How long the server asks to wait, in seconds: all requests wait, not only this one.
            overloaded: Whether the server refused for overload, or did not answer in time.
            now: The loop's clock.
            wall: Unix time.
        """
        if rate_limits is not None:
            self._requests.on_response(rate_limits.requests, sent=admission.number, now=now, wall=wall)
            self._tokens.on_response(
                rate_limits.tokens_per_minute, sent=admission.tokens_sent, now=now, wall=wall
            )
        if wait is not None and 0 < wait <= self._max_wait and now + wait > self._held_until:
            self._hold(now + wait)
        if overloaded:
            self.overloaded(admission)

    def overloaded(self, admission: Admission) -> None:
        """Note that a request shows the server to have too much to do."""
        self._concurrency.overloaded(admission.number, self._sent)

    def suspend(self, admission: Admission) -> None:
        """Note that a request waits to be sent again; harmless if it waits already."""
        if admission.in_flight:
            admission.in_flight = False
            self.in_flight -= 1

    def finish(self, admission: Admission, *, succeeded: bool, usage: CompletionUsage | None) -> None:
        """Note that a request is over.

        Args:
            admission: The request.
            succeeded: Whether it brought its completion.
            usage: What it took, or None if that is unknown.
        """
        self.suspend(admission)
        if succeeded:
            self._concurrency.succeeded(admission.number)
        if usage is None:
            return
        total = usage.total_tokens
        if self._token_rate is not None:
            self._token_rate.correct(total - admission.tokens)
        if self._mean_tokens:
            self._mean_tokens += _LEARNING_RATE * (total - self._mean_tokens)
            self._mean_completion += _LEARNING_RATE * (usage.completion_tokens - self._mean_completion)
        else:
            self._mean_tokens, self._mean_completion = float(total), float(usage.completion_tokens)

    def _hold(self, until: float) -> None:
        self._held_until = until
        self._concurrency.restart(until, self._sent)


def count_characters(value: Any) -> int:
    """Count the characters of all text in a value of lists, mappings and messages, names of fields left out."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(count_characters, cast("Mapping[str, Any]", value).values()))
    if isinstance(value, (list, tuple)):
        return sum(map(count_characters, cast("list[Any]", value)))
    if isinstance(value, msgspec.Struct):
        return sum(count_characters(getattr(value, name)) for name in value.__struct_fields__)
    return 0
