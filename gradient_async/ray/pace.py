"""`SharedPace`: a `Pace` whose rates are in an actor of Ray, for all processes of a cluster."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import secrets
import threading
import time
from collections.abc import Hashable
from typing import Any, NamedTuple, TypeAlias, cast

from ..errors import ConfigurationError
from ..policy.pace import Account, Admission, Schedule
from ..policy.rates import EvenRate
from ..secrets import Secret
from ..session.pace import Pace, Wait
from ..session.trace import log

try:
    # Ray is Any for type checkers, which also check this file where Ray is not installed.
    ray: Any = importlib.import_module("ray")
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("gradient_async.ray needs Ray: pip install 'gradient-async[ray]'") from error

_NAMESPACE = "gradient"
# Seconds for which a worker may use a lease. When the server tells one worker to wait, all workers wait within this time.
_LEASE_SECONDS = 0.25
# A lease has at most what the rate allows in this many seconds. So little is lost when a worker dies, and the actor is asked
# only about ten times a second, however high the rate is.
_LEASE_SHARE = 0.1
# Seconds by which a wait that the actor reports must be longer than the known wait. A shorter difference is only the time that
# the message took, and a new wait would begin the ramp anew.
_SAME_WAIT = 0.05
_MINUTE = 60.0
_WORDS = ("requests_per_minute", "tokens_per_minute", "adaptive")  # the options of every `Pace`


Rates: TypeAlias = tuple[float | None, float | None]
"""The options ``requests_per_minute`` and ``tokens_per_minute``."""


class Ask(NamedTuple):
    """A worker's request for a lease.

    Attributes:
        turns: Number of requests that wait for their turns.
        tokens: Estimated tokens of these requests.
        first: Estimated tokens of the next request. A lease has at least so many tokens.
        used_turns: Number of turns used, beyond what the last lease had; below 0 if some were left.
        used_tokens: The same of tokens, with what replies used more or less than was estimated.
        last: The mark of the last lease, or None.
    """

    turns: float
    tokens: float
    first: float
    used_turns: float
    used_tokens: float
    last: LeaseMark | None = None


class LeaseMark(NamedTuple):
    """Identifies the actor that gave a lease, and the time of the lease by the actor's clock."""

    actor: str
    at: float


class Lease(NamedTuple):
    """The actor's answer: a number of turns that a worker may use.

    Attributes:
        turns: Number of requests that may be sent.
        tokens: Number of tokens that these requests may have.
        waits: The seconds that are left to wait, for each account whose server asked for a wait.
        mark: The mark of this lease.
    """

    turns: float
    tokens: float
    waits: dict[str, float]
    mark: LeaseMark


class PaceKeeper:
    """The actor that has the rates of a `SharedPace`, and the waits that servers have asked of its workers.

    The actor begins as if a burst had just been sent. So if an actor has died, the rates hold although the new actor does not
    know the requests of the old one.

    Args:
        rates: The options ``requests_per_minute`` and ``tokens_per_minute`` of the `SharedPace`.
        made_at: When the `SharedPace` was made, as Unix time.
    """

    def __init__(self, rates: Rates, made_at: float) -> None:
        self._line = asyncio.Lock()  # answers requests for leases in the order of their arrival
        self._held_until: dict[str, float] = {}
        self._name = secrets.token_hex(8)
        self._rates, self._made_at = rates, made_at
        self._limits = _limits_of(rates)

    def _use(self, rates: Rates, made_at: float) -> None:
        """Use the rates of a `SharedPace`, if it was made later: so workers of earlier programs change nothing."""
        if made_at > self._made_at:
            if rates != self._rates:
                self._limits = _limits_of(rates)
            self._rates, self._made_at = rates, made_at

    async def lease(self, ask: Ask, rates: Rates, made_at: float) -> Lease:
        """Wait until the rates allow it, and return a lease.

        Args:
            ask: The request for a lease.
            rates: The worker's rates. They hold from now on, if its `SharedPace` was made later than any other's.
            made_at: When its `SharedPace` was made.
        """
        self._use(rates, made_at)
        if ask.last is not None and ask.last.actor == self._name:
            for limit, used in zip(self._limits, (ask.used_turns, ask.used_tokens), strict=True):
                if limit is not None:
                    limit.correct(used, ask.last.at)
        async with self._line:
            # The sleep is short, because the rates may change during the sleep, and nothing would wake this task.
            while wait := self._delay(amounts := self._amounts(ask), time.monotonic()):  # noqa: ASYNC110
                await asyncio.sleep(min(wait, _LEASE_SECONDS))
            now = time.monotonic()
            for limit, amount in zip(self._limits, amounts, strict=True):
                if limit is not None:
                    limit.spend(now, amount)
        turns, tokens = amounts
        self._held_until = {account: until for account, until in self._held_until.items() if until > now}
        waits = {account: until - now for account, until in self._held_until.items()}
        return Lease(turns, tokens, waits, LeaseMark(self._name, now))

    def _amounts(self, ask: Ask) -> list[float]:
        """Return the turns and the tokens of a lease."""
        amounts: list[float] = []
        for per_minute, wanted, least in zip(
            self._rates,
            (ask.turns, ask.tokens),
            (1.0, ask.first),
            strict=True,
        ):
            if per_minute is None:
                amounts.append(float("inf"))
            else:
                amounts.append(max(least, min(wanted, per_minute / _MINUTE * _LEASE_SHARE // 1)))
        return amounts

    def _delay(self, amounts: list[float], now: float) -> float:
        return max(
            0.0 if limit is None else limit.delay(now, amount)
            for limit, amount in zip(self._limits, amounts, strict=True)
        )

    async def hold(self, account: str, seconds: float) -> None:
        """Note that a server has asked one worker to wait."""
        until = time.monotonic() + seconds
        self._held_until[account] = max(until, self._held_until.get(account, until))


def _limits_of(rates: Rates) -> list[EvenRate | None]:
    """Make limits that behave as if a burst had just been sent."""
    limits: list[EvenRate | None] = []
    for per_minute in rates:
        limit = None if per_minute is None else EvenRate(per_minute)
        if limit is not None and per_minute is not None:
            limit.spend(time.monotonic(), max(1.0, per_minute / _MINUTE))
        limits.append(limit)
    return limits


class LeasedRate(EvenRate):
    """A rate that allows the rest of a lease.

    Attributes:
        missing: The amount that a caller asked for and did not get, or 0.
        used: The amount that was used beyond the leases, for the next `Ask`.
    """

    def __init__(self) -> None:
        self.missing = 0.0
        self.used = 0.0
        self._left = 0.0
        self._until = float("-inf")

    def delay(self, now: float, amount: float = 1.0) -> float:
        """Return 0 if the lease allows an amount, else the seconds until the next look; a lease comes earlier."""
        if now < self._until and amount <= self._left:
            return 0.0
        self.missing = max(amount, self.missing)
        return _LEASE_SECONDS

    def spend(self, now: float, amount: float = 1.0) -> None:  # noqa: ARG002  # as every rate
        """Note that an amount passes."""
        self._left -= amount

    def correct(self, amount: float, at: float) -> None:  # noqa: ARG002  # the actor knows when the lease began
        """Correct an estimate."""
        self.used += amount

    def renew(self, amount: float, until: float) -> None:
        """Begin a new lease."""
        self._left, self._until, self.missing = amount, until, 0.0

    def count_used(self) -> float:
        """End the lease; return the amount that was used beyond the leases."""
        used, self.used = self.used - self._left, 0.0
        self._left = 0.0
        return used if abs(used) < float("inf") else 0.0


class SharedPace(Pace):
    """A `Pace` that all processes of a Ray cluster share if they use the same name.

    An actor keeps the rates, and gives workers leases of a few turns, each valid for 0.25 s. Every request takes a turn, retries
    included. When a server asks one worker to wait, by a refusal with 429, 503 or 529, all workers with the same key at the same
    server wait.

    In any minute there are at most ``requests_per_minute`` requests, plus the requests of one second, plus one lease for each
    worker. If a worker dies, its turns are lost. If the actor dies, the workers make a new actor. Each worker learns the
    server's quota from its own replies.

    Args:
        name: Name of the actor, in the namespace ``gradient``. If several programs use one name with different rates, those
            of the program that was started last hold for all.
        across_jobs: Whether the actor stays when this program ends, for all programs of the cluster: until the cluster ends,
            or ``ray.kill(ray.get_actor(name, namespace="gradient"))``.
        requests_per_minute: Maximum number of requests in any minute, or None.
        tokens_per_minute: Maximum number of tokens in any minute, or None; see `Pace`.
        adaptive: Whether each worker adapts the number of its requests in flight to what the server sustains.

    Raises:
        ConfigurationError: If a rate is not a positive number, or the name is empty.
    """

    def __init__(
        self,
        name: str,
        *,
        across_jobs: bool = False,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
    ) -> None:
        super().__init__(
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, adaptive=adaptive
        )
        if not name:
            raise ConfigurationError("name='': the actor of a SharedPace needs a name")
        self._options = {"name": name, "across_jobs": across_jobs, **self._options}
        self._rates = (requests_per_minute, tokens_per_minute)
        self._made_at = time.time()

    def _make_schedule(self) -> Schedule:
        schedule = Schedule(**{name: self._options[name] for name in _WORDS})
        self._turns = schedule.request_rate = LeasedRate()
        self._tokens = LeasedRate()
        if schedule.token_rate is not None:
            schedule.token_rate = self._tokens
        self._names: dict[Account, str] = {}
        self._waiting: list[float] = []  # tokens of each request that waits for its turn
        self._asking = False
        self._last: LeaseMark | None = None
        self._actor: Any = None
        return schedule

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"_made_at": self._made_at})

    def open(self) -> Any:
        """Return the handle of the actor, and make the actor if there is none. It lives as long as the process that made it."""
        if self._actor is None:
            options: dict[str, Any] = {
                "name": self._options["name"],
                "namespace": _NAMESPACE,
                "get_if_exists": True,
                "num_cpus": 0,
                "max_restarts": -1,
            }
            if self._options["across_jobs"]:
                options["lifetime"] = "detached"
            self._actor = ray.remote(PaceKeeper).options(**options).remote(self._rates, self._made_at)
        return self._actor

    # Methods that `Turn` calls

    def account(self, name: Hashable) -> Account:
        """Return the account of a key at a server."""
        account = super().account(name)
        if account not in self._names:
            parts = cast("tuple[Any, ...]", name)
            text = "\n".join(part.reveal() if isinstance(part, Secret) else str(part) for part in parts)
            self._names[account] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return account

    def take(
        self, account: Account, tokens: float, max_wait: float, *, waiting: bool = False
    ) -> Admission | Wait:
        """Take a turn, or return when it may be tried again; see `Pace.take`."""
        turn = super().take(account, tokens, max_wait, waiting=waiting)
        with self._lock:
            if self._asking or not (self._turns.missing or self._tokens.missing):
                return turn
            self._asking = True
            ask = Ask(
                turns=len(self._waiting),
                tokens=sum(self._waiting),
                first=self._tokens.missing,
                used_turns=self._turns.count_used(),
                used_tokens=self._tokens.count_used(),
                last=self._last,
            )
            self._turns.missing = self._tokens.missing = 0.0
        # The call is made in a thread, because the first call to an actor takes long, and so does a call to an actor that has
        # died.
        threading.Thread(target=self._renew, args=(ask,), daemon=True).start()
        return turn

    async def wait(self, account: Account, tokens: float, max_wait: float, *, again: bool) -> Admission:
        """Wait for a turn; see `Pace.wait`."""
        with self._lock:
            self._waiting.append(tokens)
        try:
            return await super().wait(account, tokens, max_wait, again=again)
        finally:
            with self._lock:
                self._waiting.remove(tokens)

    def on_response(self, admission: Admission, outcome: Any, max_wait: float) -> float | None:
        """Note how an attempt was answered; see `Pace.on_response`."""
        account = admission.account
        held_until = account.held_until
        hold = super().on_response(admission, outcome, max_wait)
        actor = self._actor
        if account.held_until > held_until and actor is not None:
            actor.hold.remote(self._names[account], account.held_until - time.monotonic())
        return hold

    def _renew(self, ask: Ask) -> None:
        lease: Lease | None = None
        try:
            lease = ray.get(self.open().lease.remote(ask, self._rates, self._made_at))
        except Exception as failure:  # noqa: BLE001  # whatever it was, requests must not wait for ever
            # The next attempt, in 0.25 s, asks again, and makes a new actor.
            self._actor = None
            log.warning("%r: its actor does not answer (%s)", self, type(failure).__name__)
        with self._lock:
            self._asking = False
            if lease is not None:
                now, self._last = time.monotonic(), lease.mark
                self._turns.renew(lease.turns, now + _LEASE_SECONDS)
                self._tokens.renew(lease.tokens, now + _LEASE_SECONDS)
                for account, name in self._names.items():
                    until = now + lease.waits.get(name, 0.0)
                    if until > max(now, account.held_until + _SAME_WAIT):
                        account.hold(until)
        if lease is not None:
            self._wake_all()
