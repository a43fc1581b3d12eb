"""`Pace`: the rates and quotas that calls share, in any number of tasks, event loops and threads.

A `Pace` adds a clock, random numbers, a lock and queues to a `Schedule`. Its users hold `Turns`: a client, one `map` and
one fan-out have `Turns` each, which may share a `Pace`. Each call makes a `Turn` from them, and waits for it before
every attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, cast

import msgspec

from ..config import Retry
from ..errors import APIConnectionError, APIError, APITimeoutError, ConfigurationError
from ..policy.pace import Account, Admission, Schedule
from ..policy.retry import is_refusal
from ..types import CompletionUsage
from .forks import keep_for_ever
from .loops import runs_here


class Pace:
    """The rates and quotas that calls share: the calls of clients, of `map` and of fan-outs.

    Every request takes a turn, retries included. Waiting requests are sent in the order in which they began to wait, but
    retries before all other requests. You may use one `Pace` in several clients, threads and event loops, at the same time or
    one after another. A pickled `Pace` has the same rates, but nothing that it has learned.

    No minute has more requests than ``requests_per_minute``, whenever the minute begins. The requests of one second may be
    sent at once, and the others are evenly spaced. The same rule applies to tokens. If a single request has more tokens than
    the rate allows in a second, it is sent when no other request is due and the minute has room, and later requests wait longer.

    A `Pace` also learns from replies, for each key at each server. It counts down the requests and tokens that are left
    according to the headers, measures how fast the quota refills, and lets all requests wait when the server asks one of them
    to wait. Waits for turns do not count towards `Timeout.total` before the first attempt of a call.

    Args:
        requests_per_minute: Maximum number of requests in any minute, or None.
        tokens_per_minute: Maximum number of tokens of prompts and completions in any minute, or None. The tokens of a
            request are estimated before it is sent, by its text and its maximum, and corrected by the usage in its
            reply.
        adaptive: Whether to adapt the number of requests in flight to what the server sustains: more while replies
            succeed, half as many when the server refuses or stalls.

    Raises:
        ConfigurationError: If a rate is not a positive number.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
    ) -> None:
        self._options: dict[str, Any] = {
            "requests_per_minute": _check_rate("requests_per_minute", requests_per_minute),
            "tokens_per_minute": _check_rate("tokens_per_minute", tokens_per_minute),
            "adaptive": adaptive,
        }
        self._schedule = self._make_schedule()
        # Guards all attributes below. It is held only for some arithmetic, and never during a wait. The garbage
        # collector may run meanwhile and drop a stream, whose turn then ends in the same thread: hence an RLock.
        self._lock = threading.RLock()
        self._lines: dict[asyncio.AbstractEventLoop, Line] = {}
        _paces.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_pace, (type(self), self._options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pace:
        return self  # a copy of a client has the same quota

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options.items() if value)
        return f"{type(self).__name__}({options})"

    def _make_schedule(self) -> Schedule:
        return Schedule(**self._options)

    def forget_parent(self) -> None:
        """Reset the state in a forked process: waiting requests, requests in flight and the lock belong to the parent."""
        keep_for_ever(self._lines)
        self._lock = threading.RLock()
        self._lines = {}
        self._schedule = self._make_schedule()

    # Methods that `Turn` calls

    def account(self, name: Hashable) -> Account:
        """Return the account of a key at a server."""
        return self._schedule.account(name)

    def estimate(self, params: Mapping[str, Any]) -> float:
        """Return the estimated tokens of a request and its reply."""
        return self._schedule.estimate(params)

    def take(
        self, account: Account, tokens: float, max_wait: float, *, waiting: bool = False
    ) -> Admission | Wait:
        """Take a turn, or return when to try again.

        Args:
            account: The account of the request's key.
            tokens: Estimated tokens of the request.
            max_wait: Longest wait that a server may impose, in seconds.
            waiting: Whether the request is the first waiting request. New requests may not overtake waiting requests.
        """
        with self._lock:
            if (
                self._lines
                and not waiting
                and any(line.goes_before(account) for line in self._lines.values())
            ):
                return Wait(0.0, for_rates=False)
            now = time.monotonic()
            wait = self._schedule.delay(account, tokens, now, jitter=_dice(), max_wait=max_wait)
            if wait != 0:
                return Wait(wait, for_rates=False)
            wait = self._schedule.rate_delay(tokens, now)
            return Wait(wait, for_rates=True) if wait else self._schedule.admit(account, tokens, now)

    async def wait(self, account: Account, tokens: float, max_wait: float, *, again: bool) -> Admission:
        """Wait for a turn.

        Args:
            account: The account of the request's key.
            tokens: Estimated tokens of the request.
            max_wait: Longest wait that a server may impose, in seconds.
            again: Whether the request was sent before. Such a request goes before all others.
        """
        if not again:
            admission = self.take(account, tokens, max_wait)
            if isinstance(admission, Admission):
                return admission
        loop = asyncio.get_running_loop()
        waiter = Waiter(account, tokens, max_wait, loop.create_future())
        with self._lock:
            line = self._lines.setdefault(loop, Line(self, loop))
        line.add(waiter, again=again)
        try:
            return await waiter.turn
        except BaseException:
            # The call was cancelled, or its loop was closed and the task was dropped.
            waiter.gone = True
            if waiter.turn.done() and not waiter.turn.cancelled():
                # The turn was given in the same iteration of the loop as the cancellation, so it goes to another request.
                self.withdraw(waiter.turn.result())
            self._wake(line)
            raise

    def withdraw(self, admission: Admission) -> None:
        """Note that a request was not sent after all."""
        with self._lock:
            self._schedule.withdraw(admission)
        self._wake_all()

    def on_response(self, admission: Admission, outcome: Any, max_wait: float) -> float | None:
        """Note how an attempt was answered.

        Args:
            admission: The request of the attempt.
            outcome: The reply or the error.
            max_wait: Longest wait that a server may impose, in seconds.

        Returns:
            The seconds for which all requests of the key wait, if the server refused this request and named no time.
        """
        failed = isinstance(outcome, APIError)
        if not failed and outcome.rate_limits is None:  # nearly always true if the server reports no quota
            with self._lock:
                admission.account.succeed(time.monotonic())
            return None
        refused = failed and is_refusal(outcome)
        if failed and outcome.status_code is None:  # without a reply, nothing new is known about quotas
            if _is_unanswered(outcome):
                with self._lock:
                    self._schedule.overloaded(admission)
            return None
        with self._lock:
            hold = self._schedule.on_response(
                admission,
                limits=outcome.rate_limits,
                refused=refused,
                wait=outcome.retry_after if refused else None,
                overloaded=refused,
                now=time.monotonic(),
                wall=time.time(),
                jitter=_dice(),
                max_wait=max_wait,
            )
        self._wake_all()
        return hold

    def finish(
        self,
        admission: Admission,
        *,
        error: BaseException | None = None,
        succeeded: bool = False,
        usage: CompletionUsage | None = None,
    ) -> None:
        """Note that an attempt has ended; a second call does nothing."""
        with self._lock:
            if isinstance(error, APITimeoutError) and error.phase in {"first_token", "idle"}:
                self._schedule.overloaded(admission)  # the stream stalled
            self._schedule.finish(admission, succeeded=succeeded, usage=usage)
        self._wake_all()

    # Queues

    def leave(self, line: Line) -> None:
        """Forget the queue of an event loop, which has become empty."""
        with self._lock:
            if self._lines.get(line.loop) is line:
                del self._lines[line.loop]

    def _wake_all(self) -> None:
        """Let each queue check whether its first request may be sent now."""
        if self._lines:
            with self._lock:
                lines = list(self._lines.values())
            for line in lines:
                self._wake(line)

    def _wake(self, line: Line) -> None:
        """Run a queue soon, in its own loop.

        The queue never runs inside this call, because a finaliser may call this method while the queue is running.
        """
        if line.woken:
            return
        line.woken = True
        try:
            (line.loop.call_soon if runs_here(line.loop) else line.loop.call_soon_threadsafe)(line.run)
        except RuntimeError:
            # The loop is closed, so its waiting requests are never sent.
            with self._lock:
                self._lines.pop(line.loop, None)


class Wait(NamedTuple):
    """The reason why a request did not get a turn.

    Attributes:
        seconds: Seconds until the next try; None if a request in flight must end first.
        for_rates: Whether the only reason are the rates, which all accounts share.
    """

    seconds: float | None
    for_rates: bool


class Waiter(msgspec.Struct, eq=False):
    """A request that waits for its turn.

    Attributes:
        gone: Whether the task of the request no longer waits.
    """

    account: Account
    tokens: float
    max_wait: float
    turn: asyncio.Future[Admission]
    gone: bool = False


class Line:
    """The requests of one event loop that wait for their turns in a `Pace`.

    Args:
        pace: The `Pace`.
        loop: The event loop.

    Attributes:
        loop: The event loop.
        woken: Whether the loop will call `run` soon.
    """

    def __init__(self, pace: Pace, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.woken = False
        self._pace = pace
        # For each account, a queue of requests that were sent before, and a queue of new requests. An account whose request gets a turn
        # goes to the end, so that no key waits for another for ever.
        self._queues: dict[Account, tuple[deque[Waiter], deque[Waiter]]] = {}
        self._waits_for_rates = False
        self._timer: asyncio.TimerHandle | None = None

    def goes_before(self, account: Account) -> bool:
        """Whether a waiting request goes before a new request of this account."""
        return self._waits_for_rates or account in self._queues

    def add(self, waiter: Waiter, *, again: bool) -> None:
        """Add a request to its queue; `run` gives the request its turn."""
        retries, others = self._queues.setdefault(waiter.account, (deque(), deque()))
        (retries if again else others).append(waiter)
        self.run()

    def run(self) -> None:
        """Give turns to the requests whose time has come, and set a timer for the next."""
        self.woken = self._waits_for_rates = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        soonest: float | None = None
        accounts = deque(self._queues)
        while accounts and not self._waits_for_rates:
            account = accounts.popleft()
            queue = self._first_queue(account)
            if queue is None:
                del self._queues[account]
                continue
            waiter = queue[0]
            turn = self._pace.take(account, waiter.tokens, waiter.max_wait, waiting=True)
            if isinstance(turn, Admission):
                queue.popleft()
                waiter.turn.set_result(turn)
                self._queues[account] = self._queues.pop(account)
                accounts.append(account)
                continue
            # If this request waits for rates, requests of other keys wait as well. Otherwise smaller requests of other keys
            # could take the tokens for which it waits, again and again.
            self._waits_for_rates = turn.for_rates
            if turn.seconds is not None:
                soonest = turn.seconds if soonest is None else min(turn.seconds, soonest)
        if soonest is not None:
            self._timer = self.loop.call_later(soonest, self.run)
        if not self._queues:
            self._pace.leave(self)

    def _first_queue(self, account: Account) -> deque[Waiter] | None:
        """Return the queue whose first request is next; remove requests whose tasks no longer wait."""
        for queue in self._queues[account]:
            while queue and (queue[0].gone or queue[0].turn.done()):
                queue.popleft()
            if queue:
                return queue
        return None


class Turns:
    """The turns that the calls of one client, one `map` or one fan-out take in a `Pace`.

    Args:
        pace: The `Pace`.
        patient: Whether a refusal by quota costs a call no attempt, but only time.

    Attributes:
        patient: The same.
        waiting: The tasks that wait for a turn, the first of their call or a further one.
    """

    def __init__(self, pace: Pace, *, patient: bool = False) -> None:
        self.pace = pace
        self.patient = patient
        self.waiting: set[asyncio.Task[Any]] = set()
        self._draining = False

    def drain(self) -> None:
        """Give no more turns: cancel the waiting tasks, and all tasks that would wait later."""
        self._draining = True
        for task in self.waiting:
            task.cancel()

    async def enter(self) -> None:
        """Cancel the current task if no more turns are given; otherwise note that it waits."""
        task = _current_task()
        self.waiting.add(task)
        if self._draining:
            task.cancel()
            await asyncio.sleep(0)

    def leave(self) -> None:
        """Note that the current task no longer waits."""
        with contextlib.suppress(RuntimeError):  # the task is dropped after its loop was closed
            self.waiting.discard(_current_task())


class Turn:
    """The turns of one call: one for each attempt.

    Args:
        turns: The turns that the call shares.
        name: The key and the server of the call.
        params: Parameters of the request.
        retry: The call's settings.
    """

    __slots__ = ("_account", "_admission", "_max_wait", "_pace", "_tokens", "_turns", "patient")

    def __init__(self, turns: Turns, name: Hashable, params: Mapping[str, Any], retry: Retry) -> None:
        self._turns = turns
        self._pace = turns.pace
        self._account = self._pace.account(name)
        self._tokens = self._pace.estimate(params)
        self._max_wait = retry.budget
        self._admission: Admission | None = None
        self.patient = turns.patient

    def take(self) -> bool:
        """Take the first turn, if it is available without waiting; return whether it was taken."""
        turn = self._pace.take(self._account, self._tokens, self._max_wait)
        self._admission = turn if isinstance(turn, Admission) else None
        return self._admission is not None

    async def wait(self, seconds: float = 0.0) -> None:
        """Wait until an attempt may be sent.

        Args:
            seconds: Seconds to wait at least.
        """
        turns = self._turns
        again = self._admission is not None
        self.finish()
        try:
            await turns.enter()
            if seconds:
                await asyncio.sleep(seconds)
            self._admission = await self._pace.wait(self._account, self._tokens, self._max_wait, again=again)
        finally:
            turns.leave()

    def withdraw(self) -> None:
        """Note that the attempt is not sent, so that it needs another turn."""
        self._pace.withdraw(cast("Admission", self._admission))

    def on_response(self, outcome: Any) -> float | None:
        """Note the reply or the error of an attempt; see `Pace.on_response`."""
        return self._pace.on_response(cast("Admission", self._admission), outcome, self._max_wait)

    def finish(
        self,
        error: BaseException | None = None,
        *,
        succeeded: bool = False,
        usage: CompletionUsage | None = None,
    ) -> None:
        """Note that the attempt is over; a second call does nothing.

        Args:
            error: The error of the call, or None.
            succeeded: Whether the call returned its completion.
            usage: Token usage of the call, if known.
        """
        if self._admission is not None:
            self._pace.finish(self._admission, error=error, succeeded=succeeded, usage=usage)


_paces = weakref.WeakSet[Pace]()


def _forget_parent() -> None:
    for pace in list(_paces):
        pace.forget_parent()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_parent)


def _current_task() -> asyncio.Task[Any]:
    return cast("asyncio.Task[Any]", asyncio.current_task())  # only tasks make calls


def _make_pace(kind: type[Pace], options: dict[str, Any]) -> Pace:
    return kind(**options)


def _check_rate(name: str, value: Any) -> float | None:
    if value is None or (isinstance(value, (int, float)) and 0 < value < float("inf")):
        return value
    raise ConfigurationError(f"{name}={value!r} is not a positive number or None")


def _is_unanswered(error: APIError) -> bool:
    return isinstance(error, APITimeoutError) or (
        isinstance(error, APIConnectionError) and error.phase == "connect"
    )


def _dice() -> float:
    return random.random()  # noqa: S311  # spreads load; needs no cryptography
