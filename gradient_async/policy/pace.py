"""When the next of many requests may be sent: rates, quotas and concurrency, computed from clock readings.

`Schedule` combines three limits. `EvenRate` is a rate that the caller asked for. `Quota` is what the server's rate
limit headers say is left. `Concurrency` is how many requests may be in flight. Nothing in this file reads a clock or
waits: `gradient_async.fanout` waits, and passes clock readings in.

Constants without a source named beside them are our own choices. A simulation in ``tests/policy/test_pace.py`` tests
them: a server that allows 200 requests in 5 seconds answers at most one request in twenty with 429.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from ..types import CompletionUsage, RateLimit, RateLimits

_MINUTE = 60.0
# The largest burst: as much as the rate allows in this many seconds may pass at once.
_BURST = 1.0

# DigitalOcean's rule for a client that was refused: wait until the reset, but at least _MIN_WAIT seconds. Then wait a
# random time between _MARGIN and twice _MARGIN seconds longer, so that clients do not all return at the same moment.
_MIN_WAIT = 1.0
_MARGIN = 0.25
# DigitalOcean reports resets in whole seconds, so two readings that differ by fewer seconds than this are the same reset.
_RESET_TOLERANCE = 0.5

# The ramp of a new server: this many requests may be in flight at first (the default concurrency of `map`), one more
# after each reply, and one more whenever _START_STEP seconds have passed.
_START_WINDOW = 64
_START_STEP = 0.005
# The ramp after a wait that the server asked for: one request is sent as a probe, one more after each reply, and one more
# whenever _RESTART_STEP seconds have passed.
_RESTART_WINDOW = 1.0
_RESTART_STEP = 0.025
# The shortest step in seconds. A step that rounds to 0 would make a timer fire at the same clock reading for ever.
_MIN_STEP = 1e-4
# The concurrency that an adaptive limit begins with.
_ADAPTIVE_START = 8

# Weight of the newest reply in the moving mean of reply sizes.
_LEARNING_RATE = 0.1
# Characters of English text in a token: OpenAI's rule of thumb.
_CHARACTERS_PER_TOKEN = 4
# Estimated tokens of a completion, until the first reply reports its usage.
_EXPECTED_COMPLETION = 256


class EvenRate:
    """Limits the amount that passes in any minute: spread evenly, except for bursts of one second's worth.

    This is the generic cell rate algorithm. ``_due`` is the time at which everything that has passed would have passed
    at exactly the rate; the next amount may pass up to one burst earlier.

    Args:
        per_minute: The maximum amount in any minute.
    """

    def __init__(self, per_minute: float) -> None:
        # In any 60 seconds, the amount that is due in them and one burst may pass. A longer interval between two units
        # makes up for the burst: (60 + 1) / interval = per_minute.
        self._interval = (_MINUTE + _BURST) / per_minute
        self._due = float("-inf")

    def delay(self, now: float) -> float:
        """Return the number of seconds for which nothing may pass."""
        return max(0.0, self._due - _BURST - now)

    def spend(self, now: float, amount: float = 1.0) -> None:
        """Note that an amount passes."""
        self._due = max(self._due, now) + amount * self._interval

    def correct(self, amount: float) -> None:
        """Correct an estimate that was spent; ``amount`` is the actual amount minus the estimate."""
        self._due += amount * self._interval


class Quota:
    """One quota of the server, as its rate limit headers describe it.

    DigitalOcean says that its quota is a bucket that refills all the time, not a window that ends: ``remaining`` is
    the level after the request that was answered, ``reset`` the Unix time to wait for. In a success, a reset of 0 means
    that enough is left; in a 429, it means that the time is unknown. Servers with windows send the same headers, so this
    class uses only what holds for both: ``remaining`` further requests may be sent, and after the reset up to ``limit``.

    Replies arrive out of order, while other requests are in flight. Each reply therefore sets a bound on the total that
    is ever sent: the total up to and including the reply's own request, plus ``remaining``.

    Args:
        max_wait: Longest wait for a reset, in seconds.

    Attributes:
        bound: The total that may be sent.
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
            headers: What the headers say about this quota.
            sent: The total that had been sent up to and including the reply's own request.
            now: The loop's clock.
            wall: Unix time.
        """
        if headers.remaining is None or not headers.reset:
            return  # without a reset there is no time to wait for
        reset = headers.reset - wall + now
        if reset > self._reset + _RESET_TOLERANCE:
            self._reset = reset
            self._limit = headers.limit
            self.bound = sent + headers.remaining
        elif reset > self._reset - _RESET_TOLERANCE:
            self.bound = min(self.bound, sent + headers.remaining)
        self._response_at = now

    def delay(self, now: float, sent: float, jitter: float) -> float:
        """Return the number of seconds for which nothing may be sent.

        Args:
            now: The loop's clock.
            sent: The total that has been sent.
            jitter: A random number from 0 to 1.
        """
        if sent < self.bound:
            return 0.0
        # A reset that was in the past when its reply arrived had been rounded down to a whole second: the shortest wait of
        # DigitalOcean's rule applies.
        reset = self._reset
        if self._response_at > reset:
            reset = max(reset, self._response_at + _MIN_WAIT)
        left = reset - now
        if -_MARGIN < left <= self._max_wait:
            return left + _MARGIN * (1 + jitter)
        # The reset has passed; or it is further away than the longest wait, and the server may answer 429 itself.
        self.bound = float("inf") if self._limit is None else sent + self._limit
        return 0.0


class Concurrency:
    """How many requests may be in flight.

    An adaptive limit grows and shrinks as TCP's congestion window does (RFC 5681): it doubles with each round of
    replies until the first overload, then grows by one in each round and halves at each overload. At the start and after
    a wait, a ramp below the limit holds requests back, so that they do not all reach the server at the same moment.

    Args:
        max_: Maximum number of requests in flight.
        adaptive: Whether the limit adapts to what the server sustains.

    Attributes:
        limit: How many requests may be in flight once the ramp is over.
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

    def succeeded(self, number: int) -> None:
        """Note a reply without an error.

        Args:
            number: Number of the reply's request.
        """
        if self._ramp < self.limit and number > self._ramp_after:
            self._ramp += 1.0
        if self._adaptive and self.limit < self._max:
            self.limit = min(float(self._max), self.limit + (1.0 if self._doubling else 1.0 / self.limit))

    def overloaded(self, number: int, sent: int) -> None:
        """Note that the server is overloaded.

        Args:
            number: Number of the request that failed.
            sent: How many requests have been sent. Failures of requests that were sent before the limit was last cut do
                not cut the limit again, because they were sent under the old limit.
        """
        if self._adaptive and number > self._overload_at:
            self._overload_at = sent
            self._doubling = False
            self.limit = max(1.0, self.limit / 2)


class Admission(msgspec.Struct):
    """A request that `Schedule` has admitted.

    Attributes:
        number: Number of the request, counted from 1 in the order of sending.
        tokens: Estimated tokens of the request and its reply.
        tokens_sent: Estimated tokens of all requests sent up to and including this one.
        in_flight: Whether the request counts towards the concurrency; False while it waits to be sent again.
    """

    number: int
    tokens: float
    tokens_sent: float
    in_flight: bool = True


class Schedule:
    """When the next of many requests may be sent.

    Args:
        max_concurrency: Maximum number of requests in flight.
        requests_per_minute: Maximum number of requests in any minute, or None.
        tokens_per_minute: Maximum number of tokens of prompts and completions in any minute, or None.
        adaptive: Whether to adapt the concurrency to what the server sustains, up to ``max_concurrency``.
        max_wait: Longest wait that a server may impose, in seconds. A request that would have to wait longer is sent,
            so that the caller gets the server's own refusal.
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
        self._mean_tokens = 0.0  # mean tokens of a request and its reply; 0 before the first reply
        self._mean_completion = float(_EXPECTED_COMPLETION)

    @property
    def limit(self) -> int:
        """How many requests may be in flight once the ramp is over."""
        return int(self._concurrency.limit)

    def ready(self, now: float) -> bool:
        """Return whether a request may be sent at once, by a short test; if it returns False, call `delay`.

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
        """Return 0 if a request may be sent now, else the seconds until the next call; None if a request must end first.

        Args:
            now: The loop's clock.
            jitter: A random number from 0 to 1.
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
            params: Parameters of the request, from which its tokens are estimated.
        """
        tokens = 0.0
        if self._token_rate is not None:
            max_tokens = params.get("max_completion_tokens") or params.get("max_tokens")
            completion = max_tokens if isinstance(max_tokens, int) else self._mean_completion
            tokens = count_characters(params.get("messages")) / _CHARACTERS_PER_TOKEN + completion
            self._token_rate.spend(now, tokens)
        return self.readmit(Admission(0, tokens, 0.0, in_flight=False), now)

    def readmit(self, admission: Admission, now: float) -> Admission:
        """Note that a request is sent again; return it. Its tokens were counted at first, and a refusal uses none."""
        if self._request_rate is not None:
            self._request_rate.spend(now)
        self._sent += 1
        self._tokens_sent += admission.tokens or self._mean_tokens
        # Two requests that race for one answer share an admission. Both may be sent again, but they count as one in flight.
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
            rate_limits: What the headers say about quotas.
            wait: The wait that the server asks for, in seconds. All requests wait, not only this one.
            overloaded: Whether the server refused because of overload, or did not answer in time.
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
        """Note that a request shows that the server is overloaded."""
        self._concurrency.overloaded(admission.number, self._sent)

    def suspend(self, admission: Admission) -> None:
        """Note that a request waits to be sent again; a second call does nothing."""
        if admission.in_flight:
            admission.in_flight = False
            self.in_flight -= 1

    def finish(self, admission: Admission, *, succeeded: bool, usage: CompletionUsage | None) -> None:
        """Note that a request is over.

        Args:
            admission: The request.
            succeeded: Whether the request returned its completion.
            usage: Its token usage, or None if unknown.
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
    """Count the characters of all text in lists, mappings and messages, except the names of fields."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(count_characters, cast("Mapping[str, Any]", value).values()))
    if isinstance(value, (list, tuple)):
        return sum(map(count_characters, cast("list[Any]", value)))
    if isinstance(value, msgspec.Struct):
        return sum(count_characters(getattr(value, name)) for name in value.__struct_fields__)
    return 0
