"""`Schedule` computes from clock readings when the next of many requests may be sent.

A `Schedule` has the rates that the caller asked for, and an `Account` for each key at each server. The account has the
quota, learned from replies. Nothing in this file reads a clock or waits: `gradient_async.session.pace` waits, and passes
the clock readings.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

import msgspec

from ..types import CompletionUsage, RateLimits
from .rates import Bucket, Concurrency, EvenRate, Mark

# DigitalOcean's rule for a refusal without a time: wait 0.5 s, twice as long after each further refusal, at most 60 s.
_FIRST_BACKOFF = 0.5
_MAX_BACKOFF = 60.0

# Seconds. After a longer time without a request, the bucket may be full, so `Bucket.rest` is called. The time is longer than
# a second, because one request is sent each second while requests wait for a bucket whose server reports no levels.
_REST = 2.0

# For servers that show their quota only by refusals. A refusal means that the quota is used up only if more than _SHARE of
# the latest replies are refusals; otherwise the server refuses single requests for other reasons. _SHARE_WEIGHT is the
# weight of each reply in this share.
_SHARE = 0.25
_SHARE_WEIGHT = 0.07

# Weight of the newest reply in the moving mean of reply sizes.
_LEARNING_RATE = 0.1
# Characters of English text in a token: OpenAI's rule of thumb.
_CHARACTERS_PER_TOKEN = 4
# Estimated tokens of a completion, until the first reply reports its usage.
_EXPECTED_COMPLETION = 256


class Admission(msgspec.Struct):
    """A request that `Schedule` has admitted.

    Attributes:
        account: The account of the request's key.
        number: Number of the request in its account, counted from 1 in the order of sending.
        tokens: Estimated tokens of the request and its reply.
        requests_mark: The mark of the request in the quota of requests.
        tokens_mark: The mark of the request in the quota of tokens.
        in_flight: Whether the request counts towards the concurrency; False once it has ended or was refused.
    """

    account: Account
    number: int
    tokens: float
    requests_mark: Mark
    tokens_mark: Mark
    in_flight: bool = True


class Account:
    """The quota and the requests of one key at one server.

    Args:
        adaptive: Whether to adapt the concurrency to what the server sustains.
    """

    def __init__(self, *, adaptive: bool) -> None:
        self.requests = Bucket()
        self.tokens = Bucket()
        self.concurrency = Concurrency(adaptive=adaptive)
        self.sent = 0
        self.in_flight = 0
        self.held_until = float("-inf")
        self._sent_at = float("-inf")
        self._share = 0.0  # the share of refusals among the latest replies
        # For refusals without a time: when the first refusal since the last success came, and the number of back-offs since
        # then. A refusal of a request that was sent before the last back-off does not lengthen the back-off.
        self._unknown_since: float | None = None
        self._round = 0
        self._round_began_after = 0

    def ready(self, tokens: float, now: float) -> bool:
        """Whether a short test allows a request at once. If it does not, `delay` may still allow it."""
        return (
            now >= self.held_until
            and self.requests.is_enough(1.0)
            and self.tokens.is_enough(tokens)
            and self.in_flight < self.concurrency.allowed(now)
        )

    def delay(self, tokens: float, now: float, *, jitter: float, max_wait: float) -> float | None:
        """Return 0 if a request may be sent now.

        Otherwise return after how many seconds to call this method again, or None if a request in flight has to end first.
        """
        held = self.held_until - now
        if held > 0:
            return held
        wait = 0.0
        for bucket, need in ((self.requests, 1.0), (self.tokens, tokens)):
            left = bucket.delay(need, now, jitter=jitter, max_wait=max_wait)
            if left is None:
                bucket.forget()
                self.concurrency.restart(now, self.sent)
            else:
                wait = max(wait, left)
        if wait > 0:
            return wait
        if self.in_flight < self.concurrency.allowed(now):
            return 0.0
        return self.concurrency.next_step(now)

    def admit(self, tokens: float, now: float) -> Admission:
        """Note that a request is sent."""
        if now > max(self.held_until, self._sent_at) + _REST:
            self.requests.rest()
            self.tokens.rest()
        self._sent_at = now
        self.sent += 1
        self.in_flight += 1
        requests_mark, tokens_mark = self.requests.spend(1.0, now), self.tokens.spend(tokens, now)
        return Admission(self, self.sent, tokens, requests_mark, tokens_mark)

    def read(self, admission: Admission, limits: RateLimits, *, now: float, wall: float) -> bool:
        """Note the quota in a reply's headers; return whether the headers report a level."""
        reported = False
        for bucket, mark, limit in (
            (self.requests, admission.requests_mark, limits.requests),
            (self.tokens, admission.tokens_mark, limits.tokens_per_minute),
        ):
            if limit.remaining is not None:
                reported = bucket.reported = True
                reset = limit.reset - wall + now if limit.reset else None
                size = None if limit.limit is None else float(limit.limit)
                bucket.read(float(limit.remaining), mark, size=size, reset=reset, now=now)
        return reported

    def succeed(self, now: float) -> None:
        """Note a reply that is not a refusal."""
        self._round = 0
        self._share *= 1 - _SHARE_WEIGHT
        self._unknown_since = None
        self.requests.grow(now)

    def refuse(
        self,
        admission: Admission,
        *,
        limits: RateLimits | None,
        wait: float | None,
        now: float,
        wall: float,
        jitter: float,
        max_wait: float,
    ) -> float | None:
        """Note a refusal; if it has no time, return the seconds for which all requests wait."""
        self.requests.refund(1.0)
        self.tokens.refund(admission.tokens)
        self._share += _SHARE_WEIGHT * (1 - self._share)
        reported = limits is not None and self.read(admission, limits, now=now, wall=wall)
        if not reported and (self._share > _SHARE or self.requests.refill):
            self.requests.read(0.0, admission.requests_mark, now=now)
        if wait:
            if wait <= max_wait:
                self.hold(now + wait)
            return None
        if self._unknown_since is None:
            self._unknown_since = now
        backoff = min(_FIRST_BACKOFF * 2.0 ** min(self._round, 16), _MAX_BACKOFF) * (1 + jitter) / 2
        # A quota allows a request again within `max_wait`. If all requests have been refused for longer, waiting does not help.
        if backoff > max_wait or now - self._unknown_since > max_wait:
            return None
        if admission.number > self._round_began_after:
            self._round_began_after = self.sent
            self._round += 1
            self.hold(now + backoff)
        return max(0.0, self.held_until - now)

    def hold(self, until: float) -> None:
        """Let all requests wait until a time."""
        if until > self.held_until:
            self.held_until = until
            self.concurrency.restart(until, self.sent)


class Schedule:
    """Decides when the next of many requests may be sent.

    Args:
        requests_per_minute: Maximum number of requests in any minute, or None.
        tokens_per_minute: Maximum number of tokens of prompts and completions in any minute, or None.
        adaptive: Whether to adapt the concurrency to what the server sustains.

    Attributes:
        request_rate: The rate of requests, or None. You can replace it before the first request.
        token_rate: The rate of tokens, or None. You can replace it before the first request.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
    ) -> None:
        self.request_rate = None if requests_per_minute is None else EvenRate(requests_per_minute)
        self.token_rate = None if tokens_per_minute is None else EvenRate(tokens_per_minute)
        self._adaptive = adaptive
        self._accounts: dict[Hashable, Account] = {}
        self._mean_tokens = 0.0  # mean tokens of a request and its reply; 0 before the first reply
        self._mean_completion = float(_EXPECTED_COMPLETION)

    def account(self, name: Hashable) -> Account:
        """Return the account of a key at a server."""
        account = self._accounts.get(name)
        # If several threads make an account for the same key at the same time, `setdefault` gives all of them the same account.
        return account or self._accounts.setdefault(name, Account(adaptive=self._adaptive))

    def estimate(self, params: Mapping[str, Any]) -> float:
        """Return the estimated tokens of a request and its reply; 0 before the first reply, if there is no rate of tokens."""
        if self.token_rate is None:
            return self._mean_tokens
        max_tokens = params.get("max_completion_tokens") or params.get("max_tokens")
        completion = max_tokens if isinstance(max_tokens, int) else self._mean_completion
        return count_characters(params.get("messages")) / _CHARACTERS_PER_TOKEN + completion

    def delay(
        self, account: Account, tokens: float, now: float, *, jitter: float, max_wait: float
    ) -> float | None:
        """Return 0 if the account allows a request now.

        Otherwise return after how many seconds to call this method again, or None if a request in flight has to end first.

        Args:
            account: The account of the request's key.
            tokens: Estimated tokens of the request and its reply.
            now: The clock.
            jitter: A random number from 0 to 1.
            max_wait: Longest wait that a server may impose, in seconds. A request that would have to wait longer is
                sent, so that the caller gets the server's own refusal.
        """
        if account.ready(tokens, now):
            return 0.0
        return account.delay(tokens, now, jitter=jitter, max_wait=max_wait)

    def rate_delay(self, tokens: float, now: float) -> float:
        """Return the seconds until the rates, which all accounts share, allow a request."""
        wait = 0.0
        if self.request_rate is not None:
            wait = self.request_rate.delay(now)
        if self.token_rate is not None:
            wait = max(wait, self.token_rate.delay(now, tokens))
        return wait

    def admit(self, account: Account, tokens: float, now: float) -> Admission:
        """Note that a request is sent."""
        if self.request_rate is not None:
            self.request_rate.spend(now)
        if self.token_rate is not None:
            self.token_rate.spend(now, tokens)
        return account.admit(tokens, now)

    def on_response(
        self,
        admission: Admission,
        *,
        limits: RateLimits | None,
        refused: bool,
        wait: float | None,
        overloaded: bool,
        now: float,
        wall: float,
        jitter: float,
        max_wait: float,
    ) -> float | None:
        """Note how a request was answered.

        Args:
            admission: The request.
            limits: The quotas in the headers, or None.
            refused: Whether the server refused the request and did no work.
            wait: Seconds to wait, as stated by the refusal, for all requests of the key; None or 0 if it states no time.
            overloaded: Whether the server refused because of overload, or did not answer in time.
            now: The clock.
            wall: Unix time.
            jitter: A random number from 0 to 1.
            max_wait: Longest wait that the server may impose, in seconds.

        Returns:
            The seconds for which all requests of the key wait, if the refusal states no time; None otherwise.
        """
        account = admission.account
        hold: float | None = None
        if refused:
            if self.token_rate is not None:
                self.token_rate.correct(-admission.tokens, admission.tokens_mark.at)
            hold = account.refuse(
                admission,
                limits=limits,
                wait=wait,
                now=now,
                wall=wall,
                jitter=jitter,
                max_wait=max_wait,
            )
        else:
            account.succeed(now)
            if limits is not None:
                account.read(admission, limits, now=now, wall=wall)
        if overloaded:
            self.overloaded(admission)
        return hold

    def withdraw(self, admission: Admission) -> None:
        """Note that a request was not sent after all, and give its share of rates and quotas to other requests."""
        if self.request_rate is not None:
            self.request_rate.correct(-1.0, admission.requests_mark.at)
        if self.token_rate is not None:
            self.token_rate.correct(-admission.tokens, admission.tokens_mark.at)
        admission.account.requests.refund(1.0)
        admission.account.tokens.refund(admission.tokens)
        self.finish(admission)

    def overloaded(self, admission: Admission) -> None:
        """Note that a request shows that the server is overloaded."""
        account = admission.account
        account.concurrency.overloaded(admission.number, account.sent, account.in_flight)

    def finish(
        self, admission: Admission, *, succeeded: bool = False, usage: CompletionUsage | None = None
    ) -> None:
        """Note that a request has ended; a second call for the same request does nothing.

        Args:
            admission: The request.
            succeeded: Whether the request returned its completion.
            usage: The usage in the reply, or None if it is unknown.
        """
        if not admission.in_flight:
            return
        admission.in_flight = False
        account = admission.account
        if succeeded:
            account.concurrency.succeeded(admission.number, account.in_flight)
        account.in_flight -= 1
        if usage is None:
            return
        total = usage.total_tokens
        account.tokens.refund(admission.tokens - total)
        if self.token_rate is not None:
            self.token_rate.correct(total - admission.tokens, admission.tokens_mark.at)
        if self._mean_tokens:
            self._mean_tokens += _LEARNING_RATE * (total - self._mean_tokens)
            self._mean_completion += _LEARNING_RATE * (usage.completion_tokens - self._mean_completion)
        else:
            self._mean_tokens, self._mean_completion = float(total), float(usage.completion_tokens)


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
