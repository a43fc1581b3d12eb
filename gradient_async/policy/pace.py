"""A rate that the caller asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..types import CompletionUsage, RateLimit, RateLimits

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


_LEARNING = 0.1  # weight of the newest reply in the mean size of replies
_CHARACTERS = 4  # of a token, about, in English
_COMPLETION = 256  # tokens of a completion, as long as none has come


class Ticket(msgspec.Struct):
    """One request under way.

    Attributes:
        number: Counted from 1, as they were sent.
        tokens: How many tokens it was thought to take.
        tokens_sent: How many tokens had been sent in all, these included, as far as thought.
        under_way: Whether it counts as under way: not while it waits to be sent again.
    """

    number: int
    tokens: float
    tokens_sent: float
    under_way: bool = True


class Pace:
    """When the next of many requests may be sent.

    Args:
        max_concurrency: Requests under way at a time.
        requests_per_minute: Requests in any minute, or None.
        tokens_per_minute: Tokens in a minute, of prompts and completions, or None.
        adaptive: Find out how many at a time the server sustains; ``max_concurrency`` is the most.
        most_wait: Longest wait that a server may impose, in seconds; what is longer is left to fail.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
        most_wait: float = 60.0,
    ) -> None:
        self._concurrency = Concurrency(max_concurrency, adaptive=adaptive)
        self._spacings = [Spacing(rate) for rate in (requests_per_minute,) if rate is not None]
        self._token_spacing = None if tokens_per_minute is None else Spacing(tokens_per_minute)
        self._spaced = [*self._spacings, *filter(None, (self._token_spacing,))]
        self._most_wait = most_wait
        self._requests = Window(most_wait)
        self._tokens = Window(most_wait)
        self._held_until = float("-inf")
        self._sent = 0
        self._tokens_sent = 0.0
        self.under_way = 0
        self._mean_tokens = 0.0
        self._mean_completion = float(_COMPLETION)

    @property
    def limit(self) -> int:
        """How many requests may be under way once it is at speed."""
        return int(self._concurrency.limit)

    def ready(self, now: float) -> bool:
        """Return whether a request may be sent at once: the quick answer, where no rate was asked for.

        If not, `delay` tells more.

        Args:
            now: The loop's clock.
        """
        return (
            not self._spaced
            and now >= self._held_until
            and self._sent < self._requests.bound
            and self._tokens_sent < self._tokens.bound
            and self.under_way < self._concurrency.allowed(now)
        )

    def delay(self, now: float, jitter: float) -> float | None:
        """Return in how many seconds to ask again; 0 if a request may be sent, None if not before one ends.

        Args:
            now: The loop's clock.
            jitter: A random number of 0 to 1.
        """
        held = self._held_until - now
        if held > 0:
            return held
        window = max(
            self._requests.delay(now, self._sent, jitter), self._tokens.delay(now, self._tokens_sent, jitter)
        )
        if window > 0:
            self._hold(now + window)
            return window
        delay = 0.0
        for spacing in self._spaced:
            delay = max(delay, spacing.delay(now))
        if delay > 0:
            return delay
        if self.under_way < self._concurrency.allowed(now):
            return 0.0
        return self._concurrency.next_step(now)

    def sent(self, now: float, params: Mapping[str, Any]) -> Ticket:
        """Note that a request is sent.

        Args:
            now: The loop's clock.
            params: Its parameters, to guess how many tokens it will take.
        """
        for spacing in self._spacings:
            spacing.spend(now)
        tokens = 0.0
        if self._token_spacing is not None:
            most = params.get("max_completion_tokens") or params.get("max_tokens")
            completion = most if isinstance(most, int) else self._mean_completion
            tokens = characters(params.get("messages")) / _CHARACTERS + completion
            self._token_spacing.spend(now, tokens)
        self._sent += 1
        self._tokens_sent += tokens or self._mean_tokens
        self.under_way += 1
        return Ticket(self._sent, tokens, self._tokens_sent)

    def answered(
        self,
        ticket: Ticket,
        *,
        rate_limits: RateLimits | None,
        wait: float | None,
        overloaded: bool,
        now: float,
        wall: float,
    ) -> None:
        """Note how a request, or one of its attempts, was answered.

        Args:
            ticket: Which request.
            rate_limits: What the headers told.
            wait: How long the server asks all to wait, in seconds.
            overloaded: Whether it said that it has too much to do, or did not answer in time.
            now: The loop's clock.
            wall: Unix time.
        """
        if rate_limits is not None:
            self._requests.told(rate_limits.requests, sent=ticket.number, now=now, wall=wall)
            self._tokens.told(rate_limits.tokens_per_minute, sent=ticket.tokens_sent, now=now, wall=wall)
        if wait is not None and 0 < wait <= self._most_wait and now + wait > self._held_until:
            self._hold(now + wait)
        if overloaded:
            self._concurrency.trouble(ticket.number, self._sent)

    def parked(self, ticket: Ticket) -> None:
        """Note that a request waits to be sent again."""
        if ticket.under_way:
            ticket.under_way = False
            self.under_way -= 1

    def sent_again(self, ticket: Ticket, now: float) -> Ticket:
        """Note that it is sent again; return it."""
        for spacing in self._spacings:
            spacing.spend(now)
        self._sent += 1
        self._tokens_sent += ticket.tokens or self._mean_tokens
        self.under_way += not ticket.under_way  # two that race for one answer share a ticket
        ticket.number, ticket.tokens_sent, ticket.under_way = self._sent, self._tokens_sent, True
        return ticket

    def stalled(self, ticket: Ticket) -> None:
        """Note that a reply began and then stopped coming."""
        self._concurrency.trouble(ticket.number, self._sent)

    def _hold(self, until: float) -> None:
        self._held_until = until
        self._concurrency.waited(until, self._sent)

    def ended(self, ticket: Ticket, *, clean: bool, usage: CompletionUsage | None) -> None:
        """Note that a request is over.

        Args:
            ticket: Which request.
            clean: Whether it brought what it should.
            usage: What it took, or None if nobody knows.
        """
        self.parked(ticket)
        if clean:
            self._concurrency.clean(ticket.number)
        if usage is None:
            return
        total = usage.total_tokens
        if self._token_spacing is not None:
            self._token_spacing.correct(total - ticket.tokens)
        if self._mean_tokens:
            self._mean_tokens += _LEARNING * (total - self._mean_tokens)
            self._mean_completion += _LEARNING * (usage.completion_tokens - self._mean_completion)
        else:
            self._mean_tokens, self._mean_completion = float(total), float(usage.completion_tokens)


def characters(value: Any) -> int:
    """Count the characters of all text in a value of lists and mappings, names of fields left out."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(characters(part) for part in value.values())  # pyright: ignore[reportUnknownVariableType]  # of any type
    if isinstance(value, (list, tuple)):
        return sum(characters(part) for part in value)  # pyright: ignore[reportUnknownVariableType]  # of any type
    if isinstance(value, msgspec.Struct):
        return sum(characters(getattr(value, name)) for name in value.__struct_fields__)
    return 0
