"""When the next request may be sent, by all that holds it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..types import CompletionUsage, RateLimits
from .concurrency import Concurrency
from .spacing import Spacing
from .window import Window

__all__ = ["Pace", "Ticket", "characters"]

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
